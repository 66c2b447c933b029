/*
 * epf_phase_combine_grad_sm90.cu: the compiled kernels of grouped GEMM + combine with weight gradients.
 */
#include "cuda/epf_phase_list.cuh"

#define EPF_COMBINE_VARIANTS_OF(X, type) X(type, 0) X(type, 1)
#define EPF_COMBINE_VARIANTS(X) EPF_COMBINE_VARIANTS_OF(X, bf16) EPF_COMBINE_VARIANTS_OF(X, f16)

#define SERIAL(type, b)                                                   \
    EPF_PHASE_ENTRY(type, b, EPF_GEMM_TO_C, keep_hooks, phase_grad<type>, \
                    EPF_PHASE_COMBINE_SERIAL, 1)
#define SCATTER(type, b)                                                           \
    EPF_PHASE_ENTRY(type, b, EPF_GEMM_TO_ROW_PTR, scatter_hooks, phase_grad<type>, \
                    EPF_PHASE_COMBINE_SCATTER, 1)

extern "C" const epf_phase_sm90_variant *epf_phase_sm90_combine_grad(int32_t *num_variants)
{
    static const epf_phase_sm90_variant list[] = {EPF_COMBINE_VARIANTS(SERIAL)
                                                      EPF_COMBINE_VARIANTS(SCATTER)};
    *num_variants = (int32_t)(sizeof list / sizeof list[0]);
    return list;
}
