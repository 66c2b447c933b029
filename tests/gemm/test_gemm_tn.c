/*
 * test_gemm_tn: the weight gradient is exact on integers for every provider and type, from no rows
 * to more than a chunk; on normal numbers two calls give the same bits.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gemm_case.h"

typedef struct tn_case {
    int64_t rows;
    int32_t m, n;
    int32_t gap;
} tn_case;

static void check_exact(const epf_gemm_tn_args *args, const gemm_rows *a, const gemm_rows *b)
{
    for (int64_t i = 0; i < args->m; i++) {
        for (int64_t j = 0; j < args->ldc; j++) {
            double want = j < args->n ? 0 : -1;
            for (int64_t row = 0; row < args->rows && j < args->n; row++) {
                want += a->value[row * args->m + i] * b->value[row * args->n + j];
            }
            CHECK((double)args->c[i * args->ldc + j] == want,
                  "%s %s rows %lld m %d n %d: (%lld, %lld) is %g, not %g",
                  epf_gemm_kind_name(args->kind), epf_dtype_name((int32_t)args->dtype),
                  (long long)args->rows, args->m, args->n, (long long)i, (long long)j,
                  (double)args->c[i * args->ldc + j], want);
        }
    }
}

static void check_case(epf_gemm_kind kind, epf_dtype dtype, const tn_case *t, bool normal)
{
    const int64_t a_size[3] = {t->rows, t->m, t->m + t->gap};
    const int64_t b_size[3] = {t->rows, t->n, t->n + t->gap};
    gemm_rows a = gemm_rows_make(dtype, a_size, normal, 31);
    gemm_rows b = gemm_rows_make(dtype, b_size, normal, 32);
    const size_t count = (size_t)(t->m * (t->n + t->gap));
    float *c = epf_test_alloc(count, sizeof *c);
    float *again = epf_test_alloc(count, sizeof *again);
    epf_gemm_tn_args args = {.kind = kind,
                             .dtype = dtype,
                             .rows = t->rows,
                             .m = t->m,
                             .n = t->n,
                             .a = a.data,
                             .lda = a.stride,
                             .b = b.data,
                             .ldb = b.stride,
                             .c = c,
                             .ldc = t->n + t->gap};
    epf_gemm_scratch *scratch = NULL;
    CHECK_OK(epf_gemm_scratch_create(&scratch));
    for (size_t i = 0; i < count; i++) {
        c[i] = again[i] = -1;
    }
    CHECK_OK(epf_gemm_tn(&args, scratch));
    if (!normal) {
        check_exact(&args, &a, &b);
    }
    args.c = again;
    CHECK_OK(epf_gemm_tn(&args, scratch));
    CHECK(memcmp(c, again, count * sizeof *c) == 0, "%s: two runs differ",
          epf_gemm_kind_name(kind));
    epf_gemm_scratch_destroy(scratch);
    free(c);
    free(again);
    gemm_rows_free(&a);
    gemm_rows_free(&b);
}

int main(void)
{
    static const tn_case cases[] = {{0, 16, 24, 1},   {1, 8, 8, 0},     {63, 24, 40, 0},
                                    {64, 1, 3, 2},    {65, 40, 72, 5},  {512, 128, 64, 0},
                                    {513, 17, 33, 1}, {1300, 64, 96, 0}};
    int checked = 0;
    for (int kind = 0; kind < 3; kind++) {
        for (int dtype = 0; dtype < 3; dtype++) {
            for (int i = 0; i < 8 && gemm_kind_usable(gemm_kinds[kind], gemm_dtypes[dtype]); i++) {
                check_case(gemm_kinds[kind], gemm_dtypes[dtype], &cases[i], false);
                check_case(gemm_kinds[kind], gemm_dtypes[dtype], &cases[i], true);
                checked++;
            }
        }
    }
    (void)printf("%d cases\n", checked);
    return 0;
}
