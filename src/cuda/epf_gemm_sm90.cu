/*
 * epf_gemm_sm90.cu: the compiled kernels of the grouped GEMM, and the list that names them.
 */
#include "cuda/epf_gemm_sm90.cuh"

#include "epfuse/epfuse_dtype.h"

/* Plain tiles, then those with swapped operands.
 *      type  block_n  clusters  A          B is [G, K, N]  epilogue */
#define EPF_GEMM_VARIANTS_OF(X, type)                                  \
    X(type, 256, 1, 2, EPF_GEMM_A_ROWS, 0, EPF_GEMM_TO_C)              \
    X(type, 256, 2, 1, EPF_GEMM_A_ROWS, 0, EPF_GEMM_TO_C)              \
    X(type, 256, 1, 2, EPF_GEMM_A_ROWS, 0, EPF_GEMM_TO_SWIGLU)         \
    X(type, 256, 2, 1, EPF_GEMM_A_ROWS, 0, EPF_GEMM_TO_SWIGLU)         \
    X(type, 256, 1, 2, EPF_GEMM_A_ROWS, 0, EPF_GEMM_TO_SWIGLU_RAW)     \
    X(type, 256, 1, 2, EPF_GEMM_A_ROWS, 0, EPF_GEMM_TO_ROW_PTR)        \
    X(type, 256, 1, 2, EPF_GEMM_A_ROWS, 1, EPF_GEMM_TO_C)              \
    X(type, 256, 1, 2, EPF_GEMM_A_ROWS, 1, EPF_GEMM_TO_SWIGLU)         \
    X(type, 256, 1, 2, EPF_GEMM_A_ROWS, 1, EPF_GEMM_TO_SWIGLU_RAW)     \
    X(type, 256, 1, 2, EPF_GEMM_A_ROWS, 1, EPF_GEMM_TO_ROW_PTR)        \
    X(type, 256, 1, 2, EPF_GEMM_A_GATHERED, 0, EPF_GEMM_TO_C)          \
    X(type, 256, 1, 2, EPF_GEMM_A_GATHERED, 0, EPF_GEMM_TO_SWIGLU)     \
    X(type, 256, 1, 2, EPF_GEMM_A_GATHERED, 0, EPF_GEMM_TO_SWIGLU_RAW) \
    X(type, 256, 1, 2, EPF_GEMM_A_GATHERED, 1, EPF_GEMM_TO_C)          \
    X(type, 256, 1, 2, EPF_GEMM_A_GATHERED, 1, EPF_GEMM_TO_SWIGLU)     \
    X(type, 256, 1, 2, EPF_GEMM_A_GATHERED, 1, EPF_GEMM_TO_SWIGLU_RAW) \
    X(type, 256, 1, 2, EPF_GEMM_A_COLUMNS, 1, EPF_GEMM_TO_C)
#define EPF_GEMM_VARIANTS(X)                              \
    EPF_GEMM_VARIANTS_OF(X, bf16)                         \
    EPF_GEMM_VARIANTS_OF(X, f16)                          \
    X(bf16, 256, 1, 1, EPF_GEMM_A_ROWS, 0, EPF_GEMM_TO_C) \
    X(bf16, 256, 1, 1, EPF_GEMM_A_COLUMNS, 1, EPF_GEMM_TO_C)

#define EPF_GEMM_SWAPPED_OF(X, type) \
    X(type, 0, EPF_GEMM_TO_C)        \
    X(type, 1, EPF_GEMM_TO_C) X(type, 0, EPF_GEMM_TO_SWIGLU) X(type, 1, EPF_GEMM_TO_SWIGLU)
#define EPF_GEMM_SWAPPED(X) EPF_GEMM_SWAPPED_OF(X, bf16) EPF_GEMM_SWAPPED_OF(X, f16)

using bf16 = __nv_bfloat16;
using f16 = __half;
static const int32_t dtype_bf16 = EPF_DTYPE_BF16;
static const int32_t dtype_f16 = EPF_DTYPE_F16;

#define CONFIG(type, n, cm, cn, a, b, to) gemm_config<type, n, cm, cn, a, (b) != 0, to>
#define FITS(type, n, cm, cn, a, b, to)                                             \
    static_assert(sizeof(gemm_smem<CONFIG(type, n, cm, cn, a, b, to)>) <= kMaxSmem, \
                  "shared memory");
EPF_GEMM_VARIANTS(FITS)
#define SWAPPED(type, b, to) gemm_swap_config<type, (b) != 0, to>
#define SWAPPED_FITS(type, b, to) \
    static_assert(sizeof(gemm_smem<SWAPPED(type, b, to)>) <= kMaxSmem, "shared memory");
EPF_GEMM_SWAPPED(SWAPPED_FITS)

#define ENTRY(type, n, cm, cn, a, b, to)                            \
    {dtype_##type,                                                  \
     n,                                                             \
     cm,                                                            \
     cn,                                                            \
     a,                                                             \
     b,                                                             \
     to,                                                            \
     0,                                                             \
     (int32_t)sizeof(gemm_smem<CONFIG(type, n, cm, cn, a, b, to)>), \
     (const void *)grouped_gemm_kernel<CONFIG(type, n, cm, cn, a, b, to)>},

#define SWAPPED_ENTRY(type, b, to)                     \
    {dtype_##type,                                     \
     256,                                              \
     2,                                                \
     1,                                                \
     EPF_GEMM_A_ROWS,                                  \
     b,                                                \
     to,                                               \
     1,                                                \
     (int32_t)sizeof(gemm_smem<SWAPPED(type, b, to)>), \
     (const void *)grouped_gemm_kernel<SWAPPED(type, b, to)>},

extern "C" const epf_gemm_sm90_variant *epf_gemm_sm90_variants(int32_t *num_variants)
{
    static const epf_gemm_sm90_variant list[] = {EPF_GEMM_VARIANTS(ENTRY)
                                                     EPF_GEMM_SWAPPED(SWAPPED_ENTRY)};
    *num_variants = (int32_t)(sizeof list / sizeof list[0]);
    return list;
}
