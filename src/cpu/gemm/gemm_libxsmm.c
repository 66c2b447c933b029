/*
 * gemm_libxsmm.c: the provider over libxsmm's generated kernels (x86-64).
 *
 * libxsmm is column-major: its C^T [n, m] = B^T [n, k] x A^T [k, m].  A packed block is that B^T: k
 * rows of n floats, or k / 2 rows of n pairs for bf16.
 */
#include <cpuid.h>
#include <libxsmm.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_error.h"
#include "cpu/gemm/epf_gemm_internal.h"

enum {
    BLOCK_K = 256, /* longer chunks fall out of the caches: a third of the speed at 4096 */
    PAIR = 2,      /* bf16 values of one column that lie together                        */
    SQUARE = 16    /* steps of k that packing takes together                             */
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
    info->widened =
        info->usable && dtype != EPF_DTYPE_F32 && !(dtype == EPF_DTYPE_BF16 && serves_bf16());
    (void)snprintf(info->text, sizeof info->text, "libxsmm %d.%d, %s%s", LIBXSMM_VERSION_MAJOR,
                   LIBXSMM_VERSION_MINOR, libxsmm_get_target_arch(),
                   info->usable ? "" : ": needs AVX2");
}

static int32_t default_block_k(epf_dtype compute)
{
    (void)compute;
    return BLOCK_K;
}

/*
 * Columns of a packed block.  libxsmm cuts them into 64 and a rest; a rest of one vector it sums in
 * several chains of k, how many depends on m.  Two vectors are always one chain each: fill up to
 * those.
 */
static int32_t padded_n(const epf_gemm_block *block)
{
    const int32_t rest = block->n % 64;
    return rest > 0 && rest <= 16 ? (int32_t)epf_round_up(block->n, 32) : block->n;
}

static epf_status packed_bytes(const epf_gemm_block *block, uint64_t *bytes)
{
    *bytes = (uint64_t)padded_n(block) * (uint64_t)block->k *
             (uint64_t)epf_dtype_bytes((int32_t)block->dtype);
    return EPF_OK;
}

/* Goes through both sides in squares, so that the side that is not contiguous stays in cache. */
#define DEFINE_PACK(name, type, group)                                                         \
    static void name(const epf_gemm_block *block, const epf_gemm_source *source, type *packed) \
    {                                                                                          \
        const type *data = source->data;                                                       \
        const int64_t column_step = source->reduce_last_dim ? source->row_stride : 1;          \
        const int64_t k_step = source->reduce_last_dim ? 1 : source->row_stride;               \
        const int64_t width = padded_n(block);                                                 \
        for (int64_t k0 = 0; k0 < block->k; k0 += SQUARE) {                                    \
            const int64_t k1 = epf_min64(k0 + SQUARE, block->k);                               \
            for (int64_t column = 0; column < block->n; column++) {                            \
                for (int64_t k = k0; k < k1; k++) {                                            \
                    packed[(k / (group)*width + column) * (group) + k % (group)] =             \
                        data[k * k_step + column * column_step];                               \
                }                                                                              \
            }                                                                                  \
        }                                                                                      \
    }
DEFINE_PACK(pack_f32, float, 1)
DEFINE_PACK(pack_bf16, uint16_t, PAIR)

static epf_status pack(const epf_gemm_block *block, const epf_gemm_source *source, void *packed,
                       epf_gemm_scratch *scratch)
{
    uint64_t bytes;
    (void)scratch;
    EPF_TRY(packed_bytes(block, &bytes));
    if (padded_n(block) != block->n) {
        memset(packed, 0, bytes);
    }
    if (block->dtype == EPF_DTYPE_F32) {
        pack_f32(block, source, packed);
    } else {
        pack_bf16(block, source, packed);
    }
    return EPF_OK;
}

/* The library keeps its kernels by shape and finds them again; none when its memory for code is
 * full. */
static epf_status run(const epf_gemm_product *p, int32_t n)
{
    const float alpha = 1.0f;
    const float beta = p->accumulate ? 1.0f : 0.0f;
    const int prefetch = LIBXSMM_PREFETCH_NONE;
    const int flags =
        p->block.dtype == EPF_DTYPE_F32 ? LIBXSMM_GEMM_FLAG_NONE : LIBXSMM_GEMM_FLAG_VNNI_A;
    const libxsmm_blasint ldb = (libxsmm_blasint)p->lda;
    const libxsmm_blasint ldc = (libxsmm_blasint)p->ldc;
    if (p->block.dtype == EPF_DTYPE_F32) {
        const libxsmm_smmfunction kernel = libxsmm_smmdispatch(n, p->m, p->block.k, &n, &ldb, &ldc,
                                                               &alpha, &beta, &flags, &prefetch);
        if (kernel != NULL) {
            kernel(p->packed, p->a, p->c);
            return EPF_OK;
        }
    } else {
        const libxsmm_bsmmfunction kernel = libxsmm_bsmmdispatch(
            n, p->m, p->block.k, &n, &ldb, &ldc, &alpha, &beta, &flags, &prefetch);
        if (kernel != NULL) {
            kernel(p->packed, p->a, p->c);
            return EPF_OK;
        }
    }
    return EPF_FAIL(EPF_E_NO_MEMORY, "libxsmm has no kernel for m %d n %d k %d", p->m, n,
                    p->block.k);
}

static epf_status multiply(const epf_gemm_product *product, epf_gemm_scratch *scratch)
{
    const int32_t n = padded_n(&product->block);
    const size_t row_bytes = (size_t)product->block.n * sizeof(float);
    epf_gemm_product p = *product;
    void *wide;
    EPF_CHECK_ARG(p.lda <= INT32_MAX && p.ldc <= INT32_MAX,
                  "GEMM: lda %lld and ldc %lld must be below 2^31 for libxsmm", (long long)p.lda,
                  (long long)p.ldc);
    if (n == p.block.n) {
        return run(&p, n);
    }
    EPF_TRY(epf_gemm_scratch_get(scratch, EPF_GEMM_SLOT_LIB_C,
                                 (uint64_t)p.m * (uint64_t)n * sizeof(float), &wide));
    p.c = wide;
    p.ldc = n;
    memset(wide, 0, (size_t)p.m * (size_t)n * sizeof(float));
    for (int64_t row = 0; row < p.m && p.accumulate; row++) {
        memcpy(p.c + row * n, product->c + row * product->ldc, row_bytes);
    }
    EPF_TRY(run(&p, n));
    for (int64_t row = 0; row < p.m; row++) {
        memcpy(product->c + row * product->ldc, p.c + row * n, row_bytes);
    }
    return EPF_OK;
}

const epf_gemm_provider epf_gemm_libxsmm = {
    .kind = EPF_GEMM_LIBXSMM,
    .query = query,
    .default_block_k = default_block_k,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .multiply = multiply,
};
