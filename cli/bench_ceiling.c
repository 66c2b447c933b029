/*
 * bench_ceiling.c: what this machine can do at most, measured with all threads at once: a large dense
 * product with the library that multiplies the tiles, and memcpy of more than the caches hold.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "bench.h"
#include "core/epf_dtype.h"
#include "cpu/gemm/epf_convert.h"
#include "cpu/gemm/epf_gemm.h"

enum { DENSE_M = 1024, DENSE_N = 2048, DENSE_K = 4096, COPY_BYTES = 256 << 20, ROUNDS = 5 };

typedef struct ceiling_thread {
    pthread_t thread;
    pthread_barrier_t *gate;
    int32_t dtype;
    epf_status status;
    double gemm_s[ROUNDS];
    double copy_s[ROUNDS];
} ceiling_thread;

static void *random_matrix(int32_t dtype, int64_t count)
{
    void *const data = epf_alloc_aligned((size_t)count, (size_t)epf_dtype_bytes(dtype), 64);
    uint64_t state = 1;
    for (int64_t i = 0; data != NULL && i < count; i++) {
        float value;
        state = state * 6364136223846793005u + 1442695040888963407u;
        value = (float)(int32_t)(state >> 32) * (1.0f / 2147483648.0f);
        epf_convert_from_f32((uint8_t *)data + i * epf_dtype_bytes(dtype), &value, (epf_dtype)dtype,
                             1);
    }
    return data;
}

static void time_gemm(ceiling_thread *t)
{
    epf_gemm_weight_desc desc;
    epf_gemm_weight *weight = NULL;
    epf_gemm_scratch *scratch = NULL;
    epf_gemm_tile_args args;
    void *const a = random_matrix(t->dtype, (int64_t)DENSE_M * DENSE_K);
    void *const b = random_matrix(t->dtype, (int64_t)DENSE_N * DENSE_K);
    float *const c = epf_alloc((size_t)DENSE_M * DENSE_N, sizeof *c);
    memset(&desc, 0, sizeof desc);
    desc.dtype = (epf_dtype)t->dtype;
    desc.num_experts = 1;
    desc.n = DENSE_N;
    desc.k = DENSE_K;
    desc.reduce_last_dim = true;
    desc.data = b;
    desc.block_n = DENSE_N;
    t->status =
        a == NULL || b == NULL || c == NULL ? EPF_FAIL(EPF_E_NO_MEMORY, "bench: matrices") : EPF_OK;
    t->status = t->status == EPF_OK ? epf_gemm_weight_create(&desc, &weight) : t->status;
    t->status = t->status == EPF_OK ? epf_gemm_scratch_create(&scratch) : t->status;
    memset(&args, 0, sizeof args);
    args.m = DENSE_M;
    args.a = a;
    args.lda = DENSE_K;
    args.c = c;
    args.ldc = DENSE_N;
    for (int i = -1; i < ROUNDS; i++) {
        uint64_t begin;
        (void)pthread_barrier_wait(t->gate);
        begin = epf_now_ns();
        if (t->status == EPF_OK) {
            t->status = epf_gemm_tile(weight, &args, scratch);
        }
        if (i >= 0) {
            t->gemm_s[i] = (double)(epf_now_ns() - begin) * 1e-9;
        }
    }
    epf_gemm_weight_destroy(weight);
    epf_gemm_scratch_destroy(scratch);
    epf_free(a);
    epf_free(b);
    epf_free(c);
}

static void time_copy(ceiling_thread *t)
{
    uint8_t *const from = epf_alloc_aligned(COPY_BYTES, 1, 4096);
    uint8_t *const to = epf_alloc_aligned(COPY_BYTES, 1, 4096);
    if (from == NULL || to == NULL) {
        t->status = EPF_FAIL(EPF_E_NO_MEMORY, "bench: %d bytes", COPY_BYTES);
    } else {
        memset(from, 1, COPY_BYTES);
        memset(to, 2, COPY_BYTES);
    }
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t begin;
        (void)pthread_barrier_wait(t->gate);
        begin = epf_now_ns();
        if (t->status == EPF_OK) {
            memcpy(to, from, COPY_BYTES);
        }
        t->copy_s[i] = (double)(epf_now_ns() - begin) * 1e-9;
    }
    epf_free(from);
    epf_free(to);
}

static void *ceiling_main(void *argument)
{
    ceiling_thread *const t = argument;
    time_gemm(t);
    time_copy(t);
    return NULL;
}

static double median_of_slowest(const ceiling_thread *threads, int32_t count, bool is_copy)
{
    double slowest[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        slowest[i] = 0.0;
        for (int32_t t = 0; t < count; t++) {
            const double s = is_copy ? threads[t].copy_s[i] : threads[t].gemm_s[i];
            slowest[i] = s > slowest[i] ? s : slowest[i];
        }
    }
    return bench_quantile(slowest, ROUNDS, 0.5);
}

epf_status bench_measure_ceiling(const bench_problem *problem, bench_ceiling *ceiling)
{
    const int32_t count = problem->num_ranks * problem->num_workers;
    pthread_barrier_t gate;
    epf_gemm_provider_info info;
    epf_status st = EPF_OK;
    ceiling_thread *const threads = epf_alloc((size_t)count, sizeof *threads);
    if (threads == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "bench: %d threads", count);
    }
    EPF_TRY(epf_gemm_provider_query(EPF_GEMM_AUTO, (epf_dtype)problem->dtype, &info));
    (void)pthread_barrier_init(&gate, NULL, (unsigned)count);
    for (int32_t t = 0; t < count; t++) {
        threads[t].gate = &gate;
        threads[t].dtype = problem->dtype;
        if (pthread_create(&threads[t].thread, NULL, ceiling_main, &threads[t]) != 0) {
            /* the others would wait for ever at the gate: nothing sensible is left to measure */
            abort();
        }
    }
    for (int32_t t = 0; t < count; t++) {
        (void)pthread_join(threads[t].thread, NULL);
        st = st == EPF_OK ? threads[t].status : st;
    }
    ceiling->dense_gflops =
        2.0 * DENSE_M * DENSE_N * DENSE_K * count / median_of_slowest(threads, count, false) * 1e-9;
    ceiling->copy_gbs = (double)COPY_BYTES * count / median_of_slowest(threads, count, true) * 1e-9;
    memset(ceiling->library, 0, sizeof ceiling->library);
    strncpy(ceiling->library, epf_gemm_kind_name(info.kind), sizeof ceiling->library - 1);
    (void)pthread_barrier_destroy(&gate);
    epf_free(threads);
    return st;
}
