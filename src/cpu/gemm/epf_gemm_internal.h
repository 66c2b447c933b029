/*
 * epf_gemm_internal.h: what the frame of the tile GEMM and its providers share.
 *
 * The frame (epf_gemm.c, epf_gemm_tn.c) owns panels, chunks of K and widening; a provider knows
 * blocks only: block [n, k] of one compute type, packed in its own layout, times rows.  A block of
 * a widened weight is kept in the narrow type, in the provider's fp32 layout element by element,
 * and widened into scratch when it is used: half the memory and half the traffic of keeping fp32,
 * the same bits.
 */
#ifndef EPF_GEMM_INTERNAL_H
#define EPF_GEMM_INTERNAL_H

#include "core/epf_dtype.h"
#include "cpu/gemm/epf_gemm.h"

/* Blocks and scratch memory start at a multiple of this. */
enum { EPF_GEMM_ALIGNMENT = 64 };

typedef struct epf_gemm_block {
    epf_dtype dtype; /* compute type: F32 or what the provider serves natively */
    int32_t n;       /* columns of the result                                  */
    int32_t k;       /* reduction length                                       */
} epf_gemm_block;

/* An [n, k] matrix (reduce_last_dim) or a [k, n] one, rows row_stride elements apart. */
typedef struct epf_gemm_source {
    const void *data;
    int64_t row_stride;
    bool reduce_last_dim;
} epf_gemm_source;

/* c (=) or (+=) a x block^T: a [m, k] of block.dtype, c [m, n] fp32. */
typedef struct epf_gemm_product {
    epf_gemm_block block;
    const void *packed;
    bool accumulate;
    int32_t m;
    const void *a;
    int64_t lda;
    float *c;
    int64_t ldc;
} epf_gemm_product;

/* Each function may be called from any number of threads at once, with one scratch per thread. */
typedef struct epf_gemm_provider {
    epf_gemm_kind kind;
    /* Fills all of info; info->dtype serves natively when usable and not widened. */
    void (*query)(epf_dtype dtype, epf_gemm_provider_info *info);
    /* Chunk of K that suits the provider; the frame cuts it to K. */
    int32_t (*default_block_k)(epf_dtype compute);
    /* Bytes of a packed block, at block->dtype. */
    epf_status (*packed_bytes)(const epf_gemm_block *block, uint64_t *bytes);
    /* Rows of A that one pass over a block takes; NULL: as many as there are. */
    epf_status (*strip_rows)(const epf_gemm_block *block, int32_t *rows);
    epf_status (*pack)(const epf_gemm_block *block, const epf_gemm_source *source, void *packed,
                       epf_gemm_scratch *scratch);
    epf_status (*multiply)(const epf_gemm_product *product, epf_gemm_scratch *scratch);
} epf_gemm_provider;

/* The index-th kind to try for what was asked: that kind alone, or for AUTO all that serve dtype, best first.
 * EPF_E_UNSUPPORTED when there are no more.  A library may refuse a shape whose rows it would not sum alike. */
epf_status epf_gemm_choice(epf_gemm_kind asked, epf_dtype dtype, int32_t index,
                           epf_gemm_kind *kind);

/* The provider of a kind that is not AUTO; NULL if it is not compiled in. */
const epf_gemm_provider *epf_gemm_provider_get(epf_gemm_kind kind);
/* The provider that serves (kind, dtype) here, AUTO and the environment resolved. */
epf_status epf_gemm_provider_resolve(epf_gemm_kind kind, epf_dtype dtype,
                                     const epf_gemm_provider **provider, bool *widened);

extern const epf_gemm_provider epf_gemm_portable;
#if defined(EPF_HAVE_ONEDNN)
extern const epf_gemm_provider epf_gemm_onednn;
#endif
#if defined(EPF_HAVE_LIBXSMM)
extern const epf_gemm_provider epf_gemm_libxsmm;
#endif

/* Uses of scratch memory that may be live at the same time. */
typedef enum epf_gemm_slot {
    EPF_GEMM_SLOT_A,       /* rows: widened, transposed                 */
    EPF_GEMM_SLOT_B,       /* a block, widened or packed for one use    */
    EPF_GEMM_SLOT_SOURCE,  /* a source matrix, widened or padded        */
    EPF_GEMM_SLOT_LIB_A,   /* provider: rows, padded                    */
    EPF_GEMM_SLOT_LIB_C,   /* provider: result, padded                  */
    EPF_GEMM_SLOT_LIBRARY, /* provider: the library's own scratch       */
    EPF_GEMM_NUM_SLOTS
} epf_gemm_slot;

/* At least `bytes` of uninitialised memory, valid until the same slot is asked for again. */
epf_status epf_gemm_scratch_get(epf_gemm_scratch *scratch, epf_gemm_slot slot, uint64_t bytes,
                                void **memory);

/* `elements` further into memory of `dtype`. */
static inline const void *epf_gemm_at(const void *data, epf_dtype dtype, int64_t elements)
{
    return (const char *)data + elements * epf_dtype_bytes((int32_t)dtype);
}

#endif
