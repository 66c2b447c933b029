/*
 * test_gemm_faults: every allocation may fail, and leaves an error and no leak; every mistake of a
 * caller is refused with a text that names it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "gemm_case.h"

enum { N = 40, K = 48, M = 5 };

static float weight_data[2 * N * K];
static float rows_data[M * K];
static float result[M * N];

/* The whole life of a weight and its products. */
static epf_status use_all(epf_gemm_kind kind, epf_dtype dtype)
{
    const epf_gemm_weight_desc desc = {.kind = kind,
                                       .dtype = dtype,
                                       .num_experts = 2,
                                       .n = N,
                                       .k = K,
                                       .data = weight_data,
                                       .block_k = 24};
    const epf_gemm_tile_args tile = {
        .expert = 1, .m = M, .a = rows_data, .lda = K, .c = result, .ldc = N};
    const epf_gemm_tn_args tn = {.kind = kind,
                                 .dtype = dtype,
                                 .rows = 3,
                                 .m = M,
                                 .n = 8,
                                 .a = rows_data,
                                 .lda = 8,
                                 .b = weight_data,
                                 .ldb = 8,
                                 .c = result,
                                 .ldc = 8};
    epf_gemm_weight *weight = NULL;
    epf_gemm_scratch *scratch = NULL;
    epf_status st;
    EPF_TRY_GOTO(epf_gemm_scratch_create(&scratch), done);
    EPF_TRY_GOTO(epf_gemm_weight_create(&desc, &weight), done);
    EPF_TRY_GOTO(epf_gemm_tile(weight, &tile, scratch), done);
    EPF_TRY_GOTO(epf_gemm_tn(&tn, scratch), done);

done:
    epf_gemm_weight_destroy(weight);
    epf_gemm_scratch_destroy(scratch);
    return st;
}

static void check_allocations(epf_gemm_kind kind, epf_dtype dtype)
{
    uint64_t nth = 0;
    epf_status st = EPF_E_NO_MEMORY;
    while (st != EPF_OK) {
        nth++;
        CHECK(nth < 1000, "%s: allocation %llu fails, still no success", epf_gemm_kind_name(kind),
              (unsigned long long)nth);
        epf_alloc_fail_at(nth);
        st = use_all(kind, dtype);
        CHECK(st == EPF_OK || st == EPF_E_NO_MEMORY, "%s: allocation %llu: status %d, %s",
              epf_gemm_kind_name(kind), (unsigned long long)nth, (int)st, epf_error_text());
    }
    epf_alloc_fail_at(0);
    CHECK_OK(use_all(kind, dtype));
    (void)printf("%s %s: %llu allocations\n", epf_gemm_kind_name(kind),
                 epf_dtype_name((int32_t)dtype), (unsigned long long)nth - 1);
}

static void refused(epf_status got, epf_status want, const char *word)
{
    CHECK(got == want, "status %d, not %d: %s", (int)got, (int)want, word);
    CHECK(strstr(epf_error_text(), word) != NULL, "'%s' does not say '%s'", epf_error_text(), word);
}

static void check_descriptions(void)
{
    const epf_gemm_weight_desc good = {.kind = EPF_GEMM_PORTABLE,
                                       .dtype = EPF_DTYPE_F32,
                                       .num_experts = 2,
                                       .n = N,
                                       .k = K,
                                       .data = weight_data};
    epf_gemm_weight *weight = NULL;
    epf_gemm_weight_desc desc;
#define REFUSED(field, value, word)                                       \
    desc = good;                                                          \
    desc.field = (value);                                                 \
    refused(epf_gemm_weight_create(&desc, &weight), EPF_E_INVALID, word); \
    CHECK(weight == NULL, "%s: an output was written", word)
    REFUSED(n, 0, "n is 0");
    REFUSED(n, 36, "n is 36");
    REFUSED(n, -8, "n is -8");
    REFUSED(n, (int64_t)1 << 40, "n is 1099511627776");
    REFUSED(k, 20, "k is 20");
    REFUSED(k, 0, "k is 0");
    REFUSED(num_experts, 0, "num_experts is 0");
    REFUSED(num_segments, 3, "num_segments is 3");
    REFUSED(num_segments, -1, "num_segments is -1");
    REFUSED(block_n, 12, "block_n is 12");
    REFUSED(block_n, -8, "block_n is -8");
    REFUSED(block_k, 4, "block_k is 4");
    REFUSED(row_stride, N - 1, "row_stride is 39");
    REFUSED(expert_stride, 3, "expert_stride is 3");
    REFUSED(data, NULL, "data");
    REFUSED(dtype, EPF_DTYPE_I32, "int32");
    REFUSED(dtype, (epf_dtype)99, "no type");
    REFUSED(kind, (epf_gemm_kind)9, "kind 9");
#undef REFUSED
    refused(epf_gemm_weight_create(NULL, &weight), EPF_E_INVALID, "NULL");
    refused(epf_gemm_weight_create(&good, NULL), EPF_E_INVALID, "NULL");
}

static void check_tiles(void)
{
    const epf_gemm_weight_desc desc = {.kind = EPF_GEMM_PORTABLE,
                                       .dtype = EPF_DTYPE_F32,
                                       .num_experts = 2,
                                       .n = N,
                                       .k = K,
                                       .data = weight_data};
    const epf_gemm_tile_args good = {.m = M, .a = rows_data, .lda = K, .c = result, .ldc = N};
    epf_gemm_weight *weight = NULL;
    epf_gemm_scratch *scratch = NULL;
    epf_gemm_tile_args args;
    CHECK_OK(epf_gemm_weight_create(&desc, &weight));
    CHECK_OK(epf_gemm_scratch_create(&scratch));
#define REFUSED(field, value, word) \
    args = good;                    \
    args.field = (value);           \
    refused(epf_gemm_tile(weight, &args, scratch), EPF_E_INVALID, word)
    REFUSED(expert, 2, "expert is 2");
    REFUSED(expert, -1, "expert is -1");
    REFUSED(segment, 1, "segment is 1");
    REFUSED(n_tile, 1, "n_tile is 1");
    REFUSED(m, -1, "m is -1");
    REFUSED(a, NULL, "NULL");
    REFUSED(c, NULL, "NULL");
    REFUSED(lda, K - 1, "lda is 47");
    REFUSED(ldc, N - 1, "ldc is 39");
#undef REFUSED
    refused(epf_gemm_tile(NULL, &good, scratch), EPF_E_INVALID, "NULL");
    refused(epf_gemm_tile(weight, &good, NULL), EPF_E_INVALID, "NULL");
    refused(epf_gemm_weight_pack_expert(weight, 2, scratch), EPF_E_INVALID, "expert is 2");
    args = good;
    args.m = 0;
    args.a = NULL;
    args.c = NULL;
    CHECK_OK(epf_gemm_tile(weight, &args, scratch));
    CHECK_OK(epf_gemm_tile(weight, &good, scratch));
    epf_gemm_weight_destroy(weight);
    epf_gemm_weight_destroy(NULL);
    epf_gemm_scratch_destroy(scratch);
    epf_gemm_scratch_destroy(NULL);
}

static void check_gradients(void)
{
    const epf_gemm_tn_args good = {.kind = EPF_GEMM_PORTABLE,
                                   .dtype = EPF_DTYPE_F32,
                                   .rows = 3,
                                   .m = M,
                                   .n = 8,
                                   .a = rows_data,
                                   .lda = 8,
                                   .b = weight_data,
                                   .ldb = 8,
                                   .c = result,
                                   .ldc = 8};
    epf_gemm_scratch *scratch = NULL;
    epf_gemm_tn_args args;
    CHECK_OK(epf_gemm_scratch_create(&scratch));
#define REFUSED(field, value, word) \
    args = good;                    \
    args.field = (value);           \
    refused(epf_gemm_tn(&args, scratch), EPF_E_INVALID, word)
    REFUSED(rows, -1, "rows is -1");
    REFUSED(m, 0, "m 0");
    REFUSED(n, 0, "n 0");
    REFUSED(a, NULL, "NULL");
    REFUSED(b, NULL, "NULL");
    REFUSED(c, NULL, "NULL");
    REFUSED(lda, 4, "lda 4");
    REFUSED(ldb, 7, "ldb 7");
    REFUSED(ldc, 7, "ldc 7");
    REFUSED(dtype, EPF_DTYPE_U8, "uint8");
#undef REFUSED
    CHECK_OK(epf_gemm_tn(&good, scratch));
    epf_gemm_scratch_destroy(scratch);
}

/* EPFUSE_GEMM replaces AUTO and nothing else. */
static void check_environment(void)
{
    epf_gemm_provider_info info;
    epf_gemm_kind kind;
    CHECK(setenv("EPFUSE_GEMM", "portable", 1) == 0, "setenv");
    CHECK_OK(epf_gemm_provider_query(EPF_GEMM_AUTO, EPF_DTYPE_BF16, &info));
    CHECK(info.kind == EPF_GEMM_PORTABLE, "EPFUSE_GEMM=portable gave %d", (int)info.kind);
    CHECK_OK(epf_gemm_provider_query(EPF_GEMM_LIBXSMM, EPF_DTYPE_BF16, &info));
    CHECK(info.kind == EPF_GEMM_LIBXSMM, "an explicit kind was replaced by %d", (int)info.kind);
    CHECK(setenv("EPFUSE_GEMM", "fast", 1) == 0, "setenv");
    refused(epf_gemm_provider_query(EPF_GEMM_AUTO, EPF_DTYPE_BF16, &info), EPF_E_INVALID,
            "EPFUSE_GEMM=fast");
    CHECK(unsetenv("EPFUSE_GEMM") == 0, "unsetenv");
    CHECK_OK(epf_gemm_kind_parse("libxsmm", &kind));
    CHECK(kind == EPF_GEMM_LIBXSMM, "libxsmm parsed as %d", (int)kind);
    refused(epf_gemm_kind_parse("mkl", &kind), EPF_E_INVALID, "mkl");
}

/* A provider that is not there is refused, not replaced. */
static void check_missing(void)
{
    for (int kind = 0; kind < 3; kind++) {
        const epf_gemm_weight_desc desc = {.kind = gemm_kinds[kind],
                                           .dtype = EPF_DTYPE_F32,
                                           .num_experts = 1,
                                           .n = N,
                                           .k = K,
                                           .data = weight_data};
        epf_gemm_weight *weight = NULL;
        if (!gemm_kind_usable(gemm_kinds[kind], EPF_DTYPE_F32)) {
            refused(epf_gemm_weight_create(&desc, &weight), EPF_E_UNSUPPORTED,
                    epf_gemm_kind_name(gemm_kinds[kind]));
        }
    }
}

int main(void)
{
    for (int kind = 0; kind < 3; kind++) {
        for (int dtype = 0; dtype < 3; dtype++) {
            if (gemm_kind_usable(gemm_kinds[kind], gemm_dtypes[dtype])) {
                check_allocations(gemm_kinds[kind], gemm_dtypes[dtype]);
            }
        }
    }
    check_descriptions();
    check_tiles();
    check_gradients();
    check_environment();
    check_missing();
    return 0;
}
