/*
 * bench_ceiling.c: what this machine can do at most, with all threads at once: a large dense product with
 * the library that multiplies the tiles, and memcpy of more than the caches hold.  Sampled in turns with
 * what it is compared to, since shared machines drift.
 */
#include <pthread.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "bench.h"
#include "core/epf_dtype.h"
#include "cpu/gemm/epf_convert.h"
#include "cpu/gemm/epf_gemm.h"

/* A panel of weights meets all rows before the next one: cut so, the products reach more than one call of
 * the library for the whole does (bench_gemm shows both). */
enum {
    DENSE_M = 1024,
    DENSE_N = 2048,
    DENSE_K = 4096,
    TILE_M = 128,
    TILE_N = 256,
    COPY_BYTES = 128 << 20
};

typedef struct ceiling_thread {
    pthread_t thread;
    epf_gemm_weight *weight;
    epf_gemm_scratch *scratch;
    void *a;
    float *c;
    uint8_t *from, *to;
    int64_t bytes; /* per element */
    bool is_copy;  /* what the next sample is of */
    epf_status status;
} ceiling_thread;

struct bench_ceilings {
    int32_t count;
    ceiling_thread *threads; /* [count] */
    char library[64];
};

static void *random_matrix(int32_t dtype, int64_t count)
{
    const int64_t bytes = epf_dtype_bytes(dtype);
    uint8_t *const data = epf_alloc_aligned((size_t)count, (size_t)bytes, 64);
    uint64_t state = 1;
    for (int64_t i = 0; data != NULL && i < count; i++) {
        float value;
        state = state * 6364136223846793005u + 1442695040888963407u;
        value = (float)(int32_t)(state >> 32) * (1.0f / 2147483648.0f);
        epf_convert_from_f32(data + i * bytes, &value, (epf_dtype)dtype, 1);
    }
    return data;
}

static epf_status prepare(ceiling_thread *t, int32_t dtype)
{
    epf_gemm_weight_desc desc;
    epf_status st;
    void *const b = random_matrix(dtype, (int64_t)DENSE_N * DENSE_K);
    t->a = random_matrix(dtype, (int64_t)DENSE_M * DENSE_K);
    t->c = epf_alloc_aligned((size_t)DENSE_M * DENSE_N, sizeof *t->c, 64);
    t->from = epf_alloc_aligned(COPY_BYTES, 1, 4096);
    t->to = epf_alloc_aligned(COPY_BYTES, 1, 4096);
    if (b == NULL || t->a == NULL || t->c == NULL || t->from == NULL || t->to == NULL) {
        epf_free(b);
        return EPF_FAIL(EPF_E_NO_MEMORY, "bench: operands of the ceilings");
    }
    t->bytes = epf_dtype_bytes(dtype);
    memset(t->from, 1, COPY_BYTES);
    memset(t->to, 2, COPY_BYTES);
    memset(&desc, 0, sizeof desc);
    desc.dtype = (epf_dtype)dtype;
    desc.num_experts = 1;
    desc.n = DENSE_N;
    desc.k = DENSE_K;
    desc.reduce_last_dim = true;
    desc.data = b;
    desc.block_n = TILE_N;
    st = epf_gemm_weight_create(&desc, &t->weight);
    epf_free(b);
    return st == EPF_OK ? epf_gemm_scratch_create(&t->scratch) : st;
}

static void *sample_main(void *argument)
{
    ceiling_thread *const t = argument;
    epf_gemm_tile_args args;
    if (t->is_copy) {
        memcpy(t->to, t->from, COPY_BYTES);
        return NULL;
    }
    memset(&args, 0, sizeof args);
    args.m = TILE_M;
    args.lda = DENSE_K;
    args.ldc = TILE_N; /* the fastest layout of C that the libraries have */
    args.c = t->c;
    for (args.n_tile = 0; args.n_tile < DENSE_N / TILE_N && t->status == EPF_OK; args.n_tile++) {
        for (int32_t m = 0; m < DENSE_M && t->status == EPF_OK; m += TILE_M) {
            args.a = (uint8_t *)t->a + (int64_t)m * DENSE_K * t->bytes;
            t->status = epf_gemm_tile(t->weight, &args, t->scratch);
        }
    }
    return NULL;
}

/* Seconds until the last thread is done; thread 0 is the calling one. */
static epf_status sample(bench_ceilings *c, bool is_copy, double *seconds)
{
    const uint64_t begin = epf_now_ns();
    epf_status st = EPF_OK;
    int32_t started = 1;
    for (int32_t t = 0; t < c->count; t++) {
        c->threads[t].is_copy = is_copy;
        c->threads[t].status = EPF_OK;
    }
    while (started < c->count && pthread_create(&c->threads[started].thread, NULL, sample_main,
                                                &c->threads[started]) == 0) {
        started++;
    }
    (void)sample_main(&c->threads[0]);
    for (int32_t t = 1; t < started; t++) {
        (void)pthread_join(c->threads[t].thread, NULL);
    }
    *seconds = (double)(epf_now_ns() - begin) * 1e-9;
    for (int32_t t = 0; t < started && st == EPF_OK; t++) {
        st = c->threads[t].status;
    }
    return st == EPF_OK && started < c->count
               ? EPF_FAIL(EPF_E_DEVICE, "bench: thread %d of %d does not start", started, c->count)
               : st;
}

epf_status bench_ceilings_sample(bench_ceilings *c, double *dense_gflops, double *copy_gbs)
{
    double seconds;
    EPF_TRY(sample(c, false, &seconds));
    *dense_gflops = 2.0 * DENSE_M * DENSE_N * DENSE_K * c->count / seconds * 1e-9;
    EPF_TRY(sample(c, true, &seconds));
    *copy_gbs = (double)COPY_BYTES * c->count / seconds * 1e-9;
    return EPF_OK;
}

const char *bench_ceilings_library(const bench_ceilings *c)
{
    return c->library;
}

epf_status bench_ceilings_create(const bench_problem *problem, bench_ceilings **out)
{
    epf_gemm_provider_info info;
    epf_status st;
    bench_ceilings *const c = epf_alloc(1, sizeof *c);
    if (c == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "bench: ceilings");
    }
    c->count = problem->num_ranks * problem->num_workers;
    c->threads = epf_alloc((size_t)c->count, sizeof *c->threads);
    st = c->threads == NULL
             ? EPF_FAIL(EPF_E_NO_MEMORY, "bench: %d threads", c->count)
             : epf_gemm_provider_query(EPF_GEMM_AUTO, (epf_dtype)problem->dtype, &info);
    if (st == EPF_OK) {
        strncpy(c->library, epf_gemm_kind_name(info.kind), sizeof c->library - 1);
    }
    for (int32_t t = 0; t < c->count && st == EPF_OK; t++) {
        st = prepare(&c->threads[t], problem->dtype);
    }
    if (st != EPF_OK) {
        bench_ceilings_destroy(c);
        return st;
    }
    *out = c;
    return EPF_OK;
}

void bench_ceilings_destroy(bench_ceilings *c)
{
    if (c == NULL) {
        return;
    }
    for (int32_t t = 0; c->threads != NULL && t < c->count; t++) {
        epf_gemm_weight_destroy(c->threads[t].weight);
        epf_gemm_scratch_destroy(c->threads[t].scratch);
        epf_free(c->threads[t].a);
        epf_free(c->threads[t].c);
        epf_free(c->threads[t].from);
        epf_free(c->threads[t].to);
    }
    epf_free(c->threads);
    epf_free(c);
}
