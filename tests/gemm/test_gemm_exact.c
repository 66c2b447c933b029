/*
 * test_gemm_exact: on small integers every provider, type, layout and cut gives the exact product,
 * and writes nothing beside it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "gemm_case.h"

enum { MAX_M = 40, GAP = 3 };

static const float untouched = -12345.0f;

static double expected(const gemm_weight *w, const gemm_rows *a, const int64_t at[3])
{
    const int64_t k = w->problem.k;
    const double *b = w->b + (at[2] * w->problem.n + at[1]) * k;
    double sum = 0;
    for (int64_t i = 0; i < k; i++) {
        sum += a->value[at[0] * k + i] * b[i];
    }
    return sum;
}

static void check_panel(const gemm_weight *w, const gemm_rows *a, epf_gemm_tile_args args)
{
    const int32_t columns = epf_gemm_weight_panel_n(w->weight, args.n_tile);
    const int64_t ldc = columns + GAP;
    float *c = epf_test_alloc((size_t)(args.m * ldc), sizeof *c);
    for (int64_t i = 0; i < args.m * ldc; i++) {
        c[i] = untouched;
    }
    args.a = a->data;
    args.lda = a->stride;
    args.c = c;
    args.ldc = ldc;
    gemm_run(w, &args);
    for (int64_t row = 0; row < args.m; row++) {
        for (int64_t column = 0; column < ldc; column++) {
            const int64_t at[3] = {row, gemm_first_column(w, args.segment, args.n_tile) + column,
                                   args.expert};
            const double want = column < columns ? expected(w, a, at) : (double)untouched;
            CHECK((double)c[row * ldc + column] == want,
                  "%s: m %d (%lld, %lld) of e%d s%d t%d: %g, not %g", gemm_case_name(&w->problem),
                  args.m, (long long)row, (long long)column, args.expert, args.segment, args.n_tile,
                  (double)c[row * ldc + column], want);
        }
    }
    free(c);
}

static void check_case(const gemm_case *problem, uint64_t seed)
{
    static const int32_t ms[] = {1, 2, 5, 15, 16, 17, 33, MAX_M};
    const int64_t size[3] = {MAX_M, problem->k, problem->k + 2 * GAP};
    gemm_rows a = gemm_rows_make(problem->dtype, size, false, seed);
    gemm_weight w = gemm_weight_make(problem, seed);
    uint64_t next = seed;
    for (int32_t expert = 0; expert < problem->num_experts; expert++) {
        for (int32_t segment = 0; segment < problem->num_segments; segment++) {
            for (int32_t n_tile = 0; n_tile < w.info.num_n_tiles; n_tile++) {
                const epf_gemm_tile_args args = {
                    .expert = expert, .segment = segment, .n_tile = n_tile, .m = ms[next++ % 8]};
                check_panel(&w, &a, args);
            }
        }
    }
    gemm_weight_free(&w);
    gemm_rows_free(&a);
}

int main(void)
{
    static const gemm_case cases[] = {
        /* L, N, K, segments, nk, block_n, block_k, gap, matrices */
        {.num_experts = 1, .n = 8, .k = 8, .num_segments = 1, .reduce_last_dim = true},
        {.num_experts = 2, .n = 264, .k = 72, .num_segments = 1, .reduce_last_dim = true},
        {.num_experts = 2, .n = 264, .k = 72, .num_segments = 1},
        {.num_experts = 3,
         .n = 144,
         .k = 40,
         .num_segments = 2,
         .reduce_last_dim = true,
         .block_n = 32},
        {.num_experts = 3, .n = 144, .k = 40, .num_segments = 2, .block_n = 32, .row_gap = 5},
        {.num_experts = 2, .n = 96, .k = 200, .num_segments = 2, .block_n = 24, .matrices = true},
        {.num_experts = 2,
         .n = 96,
         .k = 200,
         .num_segments = 2,
         .reduce_last_dim = true,
         .block_n = 24,
         .row_gap = 7,
         .matrices = true},
        {.num_experts = 1,
         .n = 64,
         .k = 328,
         .num_segments = 1,
         .reduce_last_dim = true,
         .block_k = 64},
        {.num_experts = 1, .n = 56, .k = 1032, .num_segments = 1, .block_k = 512},
        {.num_experts = 1, .n = 512, .k = 2048, .num_segments = 1, .reduce_last_dim = true},
    };
    int checked = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int kind = 0; kind < 3; kind++) {
            for (int dtype = 0; dtype < 3; dtype++) {
                gemm_case problem = cases[i];
                problem.kind = gemm_kinds[kind];
                problem.dtype = gemm_dtypes[dtype];
                if (gemm_kind_usable(problem.kind, problem.dtype)) {
                    check_case(&problem, i + 1);
                    checked++;
                }
            }
        }
    }
    (void)printf("%d cases exact\n", checked);
    return 0;
}
