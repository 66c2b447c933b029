/*
 * test_gemm_rows: the bits of a row of C do not depend on how many rows there are, on its place
 * among them, or on what the other rows hold, NaN and infinity included; a NaN in one column of B
 * stays in that column.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gemm_case.h"

enum { MAX_M = 130, LONG_K = 7168, LONG_M = 300 };

static epf_gemm_tile_args tile_of(const gemm_rows *a, int32_t m, float *c, int64_t n)
{
    const epf_gemm_tile_args args = {.m = m, .a = a->data, .lda = a->stride, .c = c, .ldc = n};
    return args;
}

static void same_rows(const gemm_weight *w, const float *got, const float *want, int32_t m,
                      int32_t row0)
{
    const int64_t n = w->problem.n;
    for (int64_t row = 0; row < m; row++) {
        CHECK(memcmp(got + row * n, want + (row + row0) * n, (size_t)n * sizeof *got) == 0,
              "%s: m %d: row %lld differs from the same row among %d", gemm_case_name(&w->problem),
              m, (long long)(row + row0), MAX_M);
    }
}

/* Every m, from the first row on and from a later one on. */
static void check_counts(const gemm_weight *w, const gemm_rows *a, const float *all, float *some)
{
    const int64_t element = epf_dtype_bytes((int32_t)w->problem.dtype);
    for (int32_t m = 1; m <= MAX_M; m++) {
        const int32_t row0 = (m * 7) % (MAX_M - m + 1);
        epf_gemm_tile_args args = tile_of(a, m, some, w->problem.n);
        memset(some, 0xff,
               (size_t)(MAX_M * w->problem.n) * sizeof *some); /* NaN, must be overwritten */
        gemm_run(w, &args);
        same_rows(w, some, all, m, 0);
        args.a = (const char *)a->data + row0 * a->stride * element;
        gemm_run(w, &args);
        same_rows(w, some, all, m, row0);
    }
}

/* Odd rows become NaN, infinity or huge; even rows keep their bits. */
static void check_neighbours(const gemm_weight *w, gemm_rows *a, const float *all, float *some)
{
    static const double bad[] = {(double)NAN, (double)INFINITY, -(double)INFINITY, 65504.0};
    const int64_t n = w->problem.n;
    for (int32_t row = 1; row < MAX_M; row += 2) {
        for (int64_t k = row % 5; k < w->problem.k; k += 5) {
            (void)gemm_store(a->data, w->problem.dtype, row * a->stride + k, bad[(row + k) % 4]);
        }
    }
    for (int32_t m = 3; m <= MAX_M; m += 31) {
        const epf_gemm_tile_args args = tile_of(a, m, some, n);
        gemm_run(w, &args);
        for (int64_t row = 0; row < m; row += 2) {
            CHECK(memcmp(some + row * n, all + row * n, (size_t)n * sizeof *all) == 0,
                  "%s: m %d: row %lld changed with its neighbours", gemm_case_name(&w->problem), m,
                  (long long)row);
        }
        CHECK(!isfinite(some[n]), "%s: NaN of row 1 got lost", gemm_case_name(&w->problem));
    }
}

static void check_case(const gemm_case *problem)
{
    const int64_t size[3] = {MAX_M, problem->k, problem->k};
    gemm_weight w = gemm_weight_make(problem, 5);
    gemm_rows a = gemm_rows_make(problem->dtype, size, true, 6);
    float *all = epf_test_alloc((size_t)(MAX_M * problem->n), sizeof *all);
    float *some = epf_test_alloc((size_t)(MAX_M * problem->n), sizeof *some);
    const epf_gemm_tile_args args = tile_of(&a, MAX_M, all, problem->n);
    gemm_run(&w, &args);
    check_counts(&w, &a, all, some);
    check_neighbours(&w, &a, all, some);
    free(all);
    free(some);
    gemm_weight_free(&w);
    gemm_rows_free(&a);
}

/* A long K and more rows: libraries cut both. */
static void check_long(epf_gemm_kind kind, epf_dtype dtype)
{
    static const int32_t ms[] = {1, 5, 16, 33, 64, 100, 128, 129, 200, 256};
    const gemm_case problem = {.kind = kind,
                               .dtype = dtype,
                               .num_experts = 1,
                               .n = 64,
                               .k = LONG_K,
                               .num_segments = 1,
                               .reduce_last_dim = true,
                               .normal = true};
    const int64_t size[3] = {LONG_M, LONG_K, LONG_K};
    gemm_weight w = gemm_weight_make(&problem, 11);
    gemm_rows a = gemm_rows_make(dtype, size, true, 12);
    float *all = epf_test_alloc((size_t)(LONG_M * problem.n), sizeof *all);
    float *some = epf_test_alloc((size_t)(LONG_M * problem.n), sizeof *some);
    epf_gemm_tile_args args = tile_of(&a, LONG_M, all, problem.n);
    gemm_run(&w, &args);
    for (size_t i = 0; i < sizeof ms / sizeof ms[0]; i++) {
        args = tile_of(&a, ms[i], some, problem.n);
        gemm_run(&w, &args);
        same_rows(&w, some, all, ms[i], 0);
    }
    free(all);
    free(some);
    gemm_weight_free(&w);
    gemm_rows_free(&a);
}

/* Column 3 of B is NaN, column 11 infinite: all others keep their bits. */
static void check_columns(epf_gemm_kind kind, epf_dtype dtype)
{
    enum { N = 48, K = 64, M = 19 };
    const int64_t size[3] = {M, K, K};
    const gemm_case problem = {.kind = kind,
                               .dtype = dtype,
                               .num_experts = 1,
                               .n = N,
                               .k = K,
                               .num_segments = 1,
                               .reduce_last_dim = true,
                               .normal = true};
    gemm_weight w = gemm_weight_make(&problem, 8);
    gemm_rows a = gemm_rows_make(dtype, size, true, 9);
    float clean[M * N];
    float spoiled[M * N];
    epf_gemm_tile_args args = tile_of(&a, M, clean, N);
    gemm_run(&w, &args);
    (void)gemm_store(w.data, dtype, 3 * K + 5, (double)NAN);
    (void)gemm_store(w.data, dtype, 11 * K + 7, (double)INFINITY);
    CHECK_OK(epf_gemm_weight_pack_expert(w.weight, 0, w.scratch));
    args.c = spoiled;
    gemm_run(&w, &args);
    for (int i = 0; i < M * N; i++) {
        const bool bad = i % N == 3 || i % N == 11;
        CHECK(bad ? !isfinite(spoiled[i]) : memcmp(&spoiled[i], &clean[i], sizeof clean[i]) == 0,
              "%s: (%d, %d) is %g", gemm_case_name(&problem), i / N, i % N, (double)spoiled[i]);
    }
    gemm_weight_free(&w);
    gemm_rows_free(&a);
}

int main(void)
{
    static const int64_t shapes[][3] = {/* N, K, block_k */
                                        {256, 512, 0},
                                        {40, 72, 0},
                                        {8, 1024, 0},
                                        {136, 456, 128}};
    for (int kind = 0; kind < 3; kind++) {
        for (int dtype = 0; dtype < 3; dtype++) {
            if (!gemm_kind_usable(gemm_kinds[kind], gemm_dtypes[dtype])) {
                continue;
            }
            for (int i = 0; i < 4; i++) {
                const gemm_case problem = {.kind = gemm_kinds[kind],
                                           .dtype = gemm_dtypes[dtype],
                                           .num_experts = 1,
                                           .n = shapes[i][0],
                                           .k = shapes[i][1],
                                           .num_segments = 1,
                                           .reduce_last_dim = true,
                                           .block_k = (int32_t)shapes[i][2],
                                           .normal = true};
                check_case(&problem);
            }
            check_long(gemm_kinds[kind], gemm_dtypes[dtype]);
            check_columns(gemm_kinds[kind], gemm_dtypes[dtype]);
        }
    }
    return 0;
}
