/*
 * epf_phase_dispatch_sm90.cu: the compiled kernels of dispatch + grouped GEMM.
 */
#include "cuda/epf_phase_list.cuh"

/*      type  B is [L, K, N]  epilogue */
#define EPF_DISPATCH_VARIANTS_OF(X, type) \
    X(type, 0, EPF_GEMM_TO_C)             \
    X(type, 0, EPF_GEMM_TO_SWIGLU)        \
    X(type, 0, EPF_GEMM_TO_SWIGLU_RAW)    \
    X(type, 1, EPF_GEMM_TO_C)             \
    X(type, 1, EPF_GEMM_TO_SWIGLU)        \
    X(type, 1, EPF_GEMM_TO_SWIGLU_RAW)
#define EPF_DISPATCH_VARIANTS(X) EPF_DISPATCH_VARIANTS_OF(X, bf16) EPF_DISPATCH_VARIANTS_OF(X, f16)

#define ENTRY(type, b, to) EPF_PHASE_ENTRY(type, b, to, dispatch_hooks, void, EPF_PHASE_DISPATCH, 0)

extern "C" const epf_phase_sm90_variant *epf_phase_sm90_dispatch(int32_t *num_variants)
{
    static const epf_phase_sm90_variant list[] = {EPF_DISPATCH_VARIANTS(ENTRY)};
    *num_variants = (int32_t)(sizeof list / sizeof list[0]);
    return list;
}
