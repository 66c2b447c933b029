/*
 * gemm_portable.c: the provider that is always there: fp32 products with the compiler's vectors.
 * Blocks are packed as strips of as many columns as a register tile has, padded with zeros.
 */
#include <stdio.h>
#include <string.h>

#include "base/epf_error.h"
#include "cpu/gemm/epf_gemm_internal.h"
#include "cpu/gemm/epf_vector.h"

enum {
    BLOCK_K = 256,       /* a strip of 32 columns then takes 32 KiB                       */
    CONFLICT_BYTES = 512 /* rows at multiples of this share few sets of the first cache   */
};

static void query(epf_dtype dtype, epf_gemm_provider_info *info)
{
    info->kind = EPF_GEMM_PORTABLE;
    info->built = true;
    info->usable = true;
    info->widened = dtype != EPF_DTYPE_F32;
    (void)snprintf(info->text, sizeof info->text, "portable C, %s", epf_vector_ops_get()->name);
}

static int32_t default_block_k(epf_dtype compute)
{
    (void)compute;
    return BLOCK_K;
}

static epf_status packed_bytes(const epf_gemm_block *block, uint64_t *bytes)
{
    const int64_t padded_n = epf_round_up(block->n, epf_vector_ops_get()->strip_n);
    *bytes = (uint64_t)(padded_n * block->k) * sizeof(float);
    return EPF_OK;
}

/* One strip from [n, k] rows: element (k, column) comes from row `column`. */
static void pack_strip_nk(const float *data, int64_t row_stride, int32_t k, int32_t columns,
                          float *strip)
{
    const int32_t strip_n = epf_vector_ops_get()->strip_n;
    for (int32_t column = 0; column < columns; column++) {
        const float *row = data + column * row_stride;
        for (int32_t i = 0; i < k; i++) {
            strip[(int64_t)i * strip_n + column] = row[i];
        }
    }
}

static void pack_strip_kn(const float *data, int64_t row_stride, int32_t k, int32_t columns,
                          float *strip)
{
    const int32_t strip_n = epf_vector_ops_get()->strip_n;
    for (int32_t i = 0; i < k; i++) {
        memcpy(strip + (int64_t)i * strip_n, data + i * row_stride,
               (size_t)columns * sizeof *strip);
    }
}

static epf_status pack(const epf_gemm_block *block, const epf_gemm_source *source, void *packed,
                       epf_gemm_scratch *scratch)
{
    const int32_t strip_n = epf_vector_ops_get()->strip_n;
    float *strip = packed;
    (void)scratch;
    for (int32_t n0 = 0; n0 < block->n; n0 += strip_n) {
        const int32_t columns = (int32_t)epf_min64(strip_n, block->n - n0);
        const int64_t elements = (int64_t)strip_n * block->k;
        const float *data = source->data;
        if (columns < strip_n) {
            memset(strip, 0, (size_t)elements * sizeof *strip);
        }
        if (source->reduce_last_dim) {
            pack_strip_nk(data + n0 * source->row_stride, source->row_stride, block->k, columns,
                          strip);
        } else {
            pack_strip_kn(data + n0, source->row_stride, block->k, columns, strip);
        }
        strip += elements;
    }
    return EPF_OK;
}

/* Copies rows whose distance makes them fight for the same cache sets to a kinder distance. */
static epf_status spread_rows(const epf_gemm_product *product, epf_vector_product *p,
                              epf_gemm_scratch *scratch)
{
    const int64_t lda = product->block.k + 16;
    void *copy;
    if ((uint64_t)product->lda * sizeof(float) % CONFLICT_BYTES != 0 || product->m == 1) {
        return EPF_OK;
    }
    EPF_TRY(epf_gemm_scratch_get(scratch, EPF_GEMM_SLOT_LIB_A,
                                 (uint64_t)(product->m * lda) * sizeof(float), &copy));
    for (int64_t row = 0; row < product->m; row++) {
        memcpy((float *)copy + row * lda, p->a + row * p->lda,
               (size_t)product->block.k * sizeof(float));
    }
    p->a = copy;
    p->lda = lda;
    return EPF_OK;
}

static epf_status multiply(const epf_gemm_product *product, epf_gemm_scratch *scratch)
{
    epf_vector_product p = {.m = product->m,
                            .n = product->block.n,
                            .k = product->block.k,
                            .accumulate = product->accumulate,
                            .a = product->a,
                            .lda = product->lda,
                            .strips = product->packed,
                            .c = product->c,
                            .ldc = product->ldc};
    EPF_TRY(spread_rows(product, &p, scratch));
    epf_vector_ops_get()->multiply(&p);
    return EPF_OK;
}

const epf_gemm_provider epf_gemm_portable = {
    .kind = EPF_GEMM_PORTABLE,
    .query = query,
    .default_block_k = default_block_k,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .multiply = multiply,
};
