/*
 * test_gemm_native: libxsmm's bf16 kernels, which only processors with AVX512-BF16 and without AMX
 * would choose: exact on integers, rows independent of m, on any processor that can run them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/epf_half.h"
#include "cpu/gemm/epf_gemm_internal.h"
#include "gemm_case.h"

enum { MAX_M = 70 };

#if defined(EPF_HAVE_LIBXSMM) && defined(__x86_64__)
#include <cpuid.h>

static bool has_avx512_bf16(void)
{
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __builtin_cpu_supports("avx512bw") && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 &&
           (a & (1u << 5)) != 0;
}

static void fill(epf_rng *rng, uint16_t *data, int64_t count, bool normal)
{
    for (int64_t i = 0; i < count; i++) {
        (void)gemm_store(data, EPF_DTYPE_BF16, i, gemm_draw(rng, normal));
    }
}

static void check_exact(const uint16_t *a, const uint16_t *b, const epf_gemm_product *p)
{
    for (int64_t i = 0; i < (int64_t)p->m * p->block.n; i++) {
        const uint16_t *x = a + i / p->block.n * p->block.k;
        const uint16_t *y = b + i % p->block.n * p->block.k;
        double sum = 0;
        for (int32_t k = 0; k < p->block.k; k++) {
            sum += (double)epf_bf16_to_f32(x[k]) * (double)epf_bf16_to_f32(y[k]);
        }
        CHECK((double)p->c[i] == sum, "n %d k %d: element %lld is %g, not %g", p->block.n,
              p->block.k, (long long)i, (double)p->c[i], sum);
    }
}

static void check_rows(epf_gemm_product p, const float *all, epf_gemm_scratch *scratch)
{
    float *some = epf_test_alloc((size_t)(MAX_M * p.block.n), sizeof *some);
    p.c = some;
    for (p.m = 1; p.m < MAX_M; p.m++) {
        CHECK_OK(epf_gemm_libxsmm.multiply(&p, scratch));
        CHECK(memcmp(some, all, (size_t)(p.m * p.block.n) * sizeof *some) == 0,
              "n %d k %d: rows of m %d differ from those of %d", p.block.n, p.block.k, p.m, MAX_M);
    }
    free(some);
}

static void check_block(int32_t n, int32_t k, bool normal, epf_gemm_scratch *scratch)
{
    epf_rng rng = epf_rng_make((uint64_t)(n * 10000 + k), normal);
    uint16_t *a = epf_test_alloc((size_t)(MAX_M * k), sizeof *a);
    uint16_t *b = epf_test_alloc((size_t)(n * k), sizeof *b);
    float *c = epf_test_alloc((size_t)(MAX_M * n), sizeof *c);
    const epf_gemm_source source = {b, k, true};
    epf_gemm_product p = {
        .block = {EPF_DTYPE_BF16, n, k}, .m = MAX_M, .a = a, .lda = k, .c = c, .ldc = n};
    uint64_t bytes;
    void *packed;
    fill(&rng, a, (int64_t)MAX_M * k, normal);
    fill(&rng, b, (int64_t)n * k, normal);
    CHECK_OK(epf_gemm_libxsmm.packed_bytes(&p.block, &bytes));
    packed = epf_test_alloc(bytes, 1);
    CHECK_OK(epf_gemm_libxsmm.pack(&p.block, &source, packed, scratch));
    p.packed = packed;
    CHECK_OK(epf_gemm_libxsmm.multiply(&p, scratch));
    if (normal) {
        check_rows(p, c, scratch);
    } else {
        check_exact(a, b, &p);
    }
    free(packed);
    free(a);
    free(b);
    free(c);
}

int main(void)
{
    static const int32_t shapes[][2] = {{8, 8},    {16, 256}, {24, 40},
                                        {72, 256}, {136, 72}, {256, 256}};
    epf_gemm_scratch *scratch = NULL;
    if (!has_avx512_bf16()) {
        (void)printf("skipped: no AVX512-BF16\n");
        return EPF_TEST_SKIPPED;
    }
    CHECK_OK(epf_gemm_scratch_create(&scratch));
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        check_block(shapes[i][0], shapes[i][1], false, scratch);
        check_block(shapes[i][0], shapes[i][1], true, scratch);
    }
    epf_gemm_scratch_destroy(scratch);
    return 0;
}
#else
int main(void)
{
    (void)printf("skipped: built without libxsmm\n");
    return EPF_TEST_SKIPPED;
}
#endif
