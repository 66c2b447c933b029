/*
 * gemm_libxsmm.c: the provider over libxsmm's generated kernels (x86-64).
 *
 * libxsmm is column-major: its C^T [n, m] = B^T [n, k] x A^T [k, m].  A packed block is that B^T: k rows
 * of n floats, or k / 2 rows of n pairs for bf16.
 */
#include <cpuid.h>
#include <libxsmm.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_error.h"
#include "cpu/gemm/epf_gemm_internal.h"

enum {
    BLOCK_K = 256, /* longer chunks fall out of the caches: a third of the speed at 4096 */
    PAIR = 2       /* bf16 values of one column that lie together                        */
};

/* CPUID leaf 7: AMX-BF16. */
static bool has_amx(void)
{
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1u << 22)) != 0;
}

/* Processors with AMX run AVX512-BF16's dot product slower than fp32 multiply-adds: widen there. */
static bool serves_bf16(void)
{
    return libxsmm_get_target_archid() >= LIBXSMM_X86_AVX512_CPX && !has_amx();
}

static void query(epf_dtype dtype, epf_gemm_provider_info *info)
{
    info->kind = EPF_GEMM_LIBXSMM;
    info->built = true;
    info->usable = libxsmm_get_target_archid() >= LIBXSMM_X86_AVX2;
    info->widened = info->usable && dtype != EPF_DTYPE_F32 &&
                    !(dtype == EPF_DTYPE_BF16 && serves_bf16());
    (void)snprintf(info->text, sizeof info->text, "libxsmm %d.%d, %s%s", LIBXSMM_VERSION_MAJOR,
                   LIBXSMM_VERSION_MINOR, libxsmm_get_target_arch(),
                   info->usable ? "" : ": needs AVX2");
}

static int32_t default_block_k(epf_dtype compute)
{
    (void)compute;
    return BLOCK_K;
}

static epf_status packed_bytes(const epf_gemm_block *block, uint64_t *bytes)
{
    *bytes = (uint64_t)block->n * (uint64_t)block->k * (uint64_t)epf_dtype_bytes((int32_t)block->dtype);
    return EPF_OK;
}

static void pack_f32(const epf_gemm_block *block, const epf_gemm_source *source, float *packed)
{
    const float *data = source->data;
    const int64_t column_step = source->reduce_last_dim ? source->row_stride : 1;
    const int64_t k_step = source->reduce_last_dim ? 1 : source->row_stride;
    for (int64_t k = 0; k < block->k; k++) {
        for (int64_t column = 0; column < block->n; column++) {
            packed[k * block->n + column] = data[k * k_step + column * column_step];
        }
    }
}

static void pack_bf16(const epf_gemm_block *block, const epf_gemm_source *source, uint16_t *packed)
{
    const uint16_t *data = source->data;
    const int64_t column_step = source->reduce_last_dim ? source->row_stride : 1;
    const int64_t k_step = source->reduce_last_dim ? 1 : source->row_stride;
    for (int64_t k = 0; k < block->k; k++) {
        uint16_t *row = packed + k / PAIR * block->n * PAIR + k % PAIR;
        for (int64_t column = 0; column < block->n; column++) {
            row[column * PAIR] = data[k * k_step + column * column_step];
        }
    }
}

static epf_status pack(const epf_gemm_block *block, const epf_gemm_source *source, void *packed,
                       epf_gemm_scratch *scratch)
{
    (void)scratch;
    if (block->dtype == EPF_DTYPE_F32) {
        pack_f32(block, source, packed);
    } else {
        pack_bf16(block, source, packed);
    }
    return EPF_OK;
}

/* The library keeps its kernels by shape and finds them again; NULL when its memory for code is full. */
static epf_status multiply(const epf_gemm_product *p, epf_gemm_scratch *scratch)
{
    const float alpha = 1.0f;
    const float beta = p->accumulate ? 1.0f : 0.0f;
    const int prefetch = LIBXSMM_PREFETCH_NONE;
    const libxsmm_blasint lda = p->block.n;
    const libxsmm_blasint ldb = (libxsmm_blasint)p->lda;
    const libxsmm_blasint ldc = (libxsmm_blasint)p->ldc;
    int flags = LIBXSMM_GEMM_FLAG_NONE;
    (void)scratch;
    EPF_CHECK_ARG(p->lda <= INT32_MAX && p->ldc <= INT32_MAX,
                  "GEMM: lda %lld and ldc %lld must be below 2^31 for libxsmm", (long long)p->lda,
                  (long long)p->ldc);
    if (p->block.dtype == EPF_DTYPE_F32) {
        const libxsmm_smmfunction kernel = libxsmm_smmdispatch(
            p->block.n, p->m, p->block.k, &lda, &ldb, &ldc, &alpha, &beta, &flags, &prefetch);
        if (kernel != NULL) {
            kernel(p->packed, p->a, p->c);
            return EPF_OK;
        }
    } else {
        libxsmm_bsmmfunction kernel;
        flags = LIBXSMM_GEMM_FLAG_VNNI_A;
        kernel = libxsmm_bsmmdispatch(p->block.n, p->m, p->block.k, &lda, &ldb, &ldc, &alpha, &beta,
                                      &flags, &prefetch);
        if (kernel != NULL) {
            kernel(p->packed, p->a, p->c);
            return EPF_OK;
        }
    }
    return EPF_FAIL(EPF_E_NO_MEMORY, "libxsmm has no kernel for m %d n %d k %d", p->m, p->block.n,
                    p->block.k);
}

const epf_gemm_provider epf_gemm_libxsmm = {
    .kind = EPF_GEMM_LIBXSMM,
    .query = query,
    .default_block_k = default_block_k,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .multiply = multiply,
};
