/*
 * test_gemm_bound: on normal numbers every provider is as near to the product in double as fp32
 * summation must be.
 *
 * With u = 2^-24 and K products, any order of fp32 additions, each product exact or rounded once
 * (exact for bf16; fused with the addition for the others where the machine can), gives
 *     |c - exact| <= (K + 1) u / (1 - (K + 1) u) * sum |a| |b|;
 * the reference's own error, K 2^-53 sum |a| |b|, is below what the denominator hides.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "gemm_case.h"

enum { M = 37 };

/* The largest error over its bound. */
static double worst_ratio(const gemm_weight *w, const gemm_rows *a, const float *c)
{
    const int64_t n = w->problem.n;
    const int64_t k = w->problem.k;
    const double nu = (double)(k + 1) * 0x1p-24;
    double worst = 0;
    for (int64_t row = 0; row < M; row++) {
        for (int64_t column = 0; column < n; column++) {
            const double *x = a->value + row * k;
            const double *y = w->b + column * k;
            double sum = 0;
            double magnitude = 0;
            for (int64_t i = 0; i < k; i++) {
                sum += x[i] * y[i];
                magnitude += fabs(x[i] * y[i]);
            }
            worst =
                fmax(worst, fabs((double)c[row * n + column] - sum) / (nu / (1 - nu) * magnitude));
        }
    }
    return worst;
}

static void check_case(const gemm_case *problem)
{
    const int64_t size[3] = {M, problem->k, problem->k};
    gemm_weight w = gemm_weight_make(problem, 21);
    gemm_rows a = gemm_rows_make(problem->dtype, size, true, 22);
    float *c = epf_test_alloc((size_t)(M * problem->n), sizeof *c);
    const epf_gemm_tile_args args = {
        .m = M, .a = a.data, .lda = problem->k, .c = c, .ldc = problem->n};
    double ratio;
    gemm_run(&w, &args);
    ratio = worst_ratio(&w, &a, c);
    (void)printf("%-60s %.4f of the bound\n", gemm_case_name(problem), ratio);
    CHECK(ratio <= 1, "%s: error %.3g times the bound", gemm_case_name(problem), ratio);
    CHECK(ratio > 0, "%s: no error at all: is the reference the product itself?",
          gemm_case_name(problem));
    free(c);
    gemm_weight_free(&w);
    gemm_rows_free(&a);
}

int main(void)
{
    static const int64_t ks[] = {64, 1000, 4096};
    for (int kind = 0; kind < 3; kind++) {
        for (int dtype = 0; dtype < 3; dtype++) {
            for (int i = 0; i < 3 && gemm_kind_usable(gemm_kinds[kind], gemm_dtypes[dtype]); i++) {
                const gemm_case problem = {.kind = gemm_kinds[kind],
                                           .dtype = gemm_dtypes[dtype],
                                           .num_experts = 1,
                                           .n = 72,
                                           .k = ks[i],
                                           .num_segments = 1,
                                           .reduce_last_dim = i != 1,
                                           .normal = true};
                check_case(&problem);
            }
        }
    }
    return 0;
}
