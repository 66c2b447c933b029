/*
 * test_gemm_threads: threads that share a weight, pack it together and multiply at once get the
 * bits of one thread; the library's calls start no threads of their own and leave the caller's
 * settings alone.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gemm_case.h"

enum { NUM_THREADS = 4, N = 256, K = 320, EXPERTS = 6, MAX_M = 70, ROUNDS = 20 };

typedef struct shared {
    epf_gemm_weight *weight;
    const gemm_rows *a;
    const float *want; /* [EXPERTS, MAX_M, N] */
    atomic_int next_expert;
    pthread_barrier_t packed;
    atomic_int failures;
} shared;

/* Packs what others have not taken, waits for all, multiplies everything. */
static void *work(void *argument)
{
    shared *s = argument;
    epf_gemm_scratch *scratch = NULL;
    float *c = epf_test_alloc(MAX_M * N, sizeof *c);
    CHECK_OK(epf_gemm_scratch_create(&scratch));
    for (int expert = atomic_fetch_add(&s->next_expert, 1); expert < EXPERTS;
         expert = atomic_fetch_add(&s->next_expert, 1)) {
        CHECK_OK(epf_gemm_weight_pack_expert(s->weight, expert, scratch));
    }
    (void)pthread_barrier_wait(&s->packed);
    for (int i = 0; i < ROUNDS * EXPERTS; i++) {
        const epf_gemm_tile_args args = {.expert = i % EXPERTS,
                                         .m = 1 + (i * 13) % MAX_M,
                                         .a = s->a->data,
                                         .lda = K,
                                         .c = c,
                                         .ldc = N};
        CHECK_OK(epf_gemm_tile(s->weight, &args, scratch));
        if (memcmp(c, s->want + args.expert * MAX_M * N, (size_t)(args.m * N) * sizeof *c) != 0) {
            atomic_fetch_add(&s->failures, 1);
        }
    }
    free(c);
    epf_gemm_scratch_destroy(scratch);
    return NULL;
}

static int count_threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    CHECK(tasks != NULL, "/proc/self/task");
    for (const struct dirent *entry = readdir(tasks); entry != NULL; entry = readdir(tasks)) {
        count += entry->d_name[0] != '.';
    }
    (void)closedir(tasks);
    return count;
}

/* The team size that OpenMP would give this thread; -1 without OpenMP. */
static int openmp_threads(void)
{
    void *symbol = dlsym(RTLD_DEFAULT, "omp_get_max_threads");
    int (*get)(void) = NULL;
    memcpy(&get, &symbol, sizeof symbol);
    return get != NULL ? get() : -1;
}

static void compute_wanted(const gemm_weight *w, const gemm_rows *a, float *want)
{
    for (int expert = 0; expert < EXPERTS; expert++) {
        const epf_gemm_tile_args args = {.expert = expert,
                                         .m = MAX_M,
                                         .a = a->data,
                                         .lda = K,
                                         .c = want + expert * MAX_M * N,
                                         .ldc = N};
        gemm_run(w, &args);
    }
}

static void check_kind(epf_gemm_kind kind, epf_dtype dtype)
{
    const gemm_case problem = {.kind = kind,
                               .dtype = dtype,
                               .num_experts = EXPERTS,
                               .n = N,
                               .k = K,
                               .num_segments = 1,
                               .reduce_last_dim = true,
                               .normal = true};
    const int64_t size[3] = {MAX_M, K, K};
    gemm_rows a = gemm_rows_make(dtype, size, true, 42);
    const epf_gemm_weight_desc desc = {.kind = kind,
                                       .dtype = dtype,
                                       .num_experts = EXPERTS,
                                       .n = N,
                                       .k = K,
                                       .reduce_last_dim = true,
                                       .defer_pack = true};
    gemm_weight w = gemm_weight_make(&problem, 41);
    epf_gemm_weight_desc deferred = desc;
    float *want = epf_test_alloc(EXPERTS * MAX_M * N, sizeof *want);
    shared s = {.a = &a, .want = want};
    pthread_t threads[NUM_THREADS];
    deferred.data = w.data;
    compute_wanted(&w, &a, want);
    CHECK_OK(epf_gemm_weight_create(&deferred, &s.weight));
    CHECK(pthread_barrier_init(&s.packed, NULL, NUM_THREADS) == 0, "barrier");
    for (int i = 0; i < NUM_THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, &s) == 0, "thread %d", i);
    }
    for (int i = 0; i < NUM_THREADS; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    CHECK(s.failures == 0, "%s: %d products differ", gemm_case_name(&problem), s.failures);
    (void)pthread_barrier_destroy(&s.packed);
    epf_gemm_weight_destroy(s.weight);
    free(want);
    gemm_rows_free(&a);
    gemm_weight_free(&w);
}

static void *nothing(void *argument)
{
    return argument;
}

/* A sanitizer starts a thread of its own with a program's first. */
static void start_first_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, nothing, NULL) == 0, "thread");
    (void)pthread_join(thread, NULL);
}

int main(void)
{
    const int team_before = openmp_threads();
    int threads_before;
    start_first_thread();
    threads_before = count_threads();
    for (int kind = 0; kind < 3; kind++) {
        for (int dtype = 0; dtype < 3; dtype++) {
            if (gemm_kind_usable(gemm_kinds[kind], gemm_dtypes[dtype])) {
                check_kind(gemm_kinds[kind], gemm_dtypes[dtype]);
            }
        }
    }
    CHECK(count_threads() == threads_before, "%d threads are left over",
          count_threads() - threads_before);
    CHECK(openmp_threads() == team_before, "OpenMP teams of this thread were %d, are %d",
          team_before, openmp_threads());
    return 0;
}
