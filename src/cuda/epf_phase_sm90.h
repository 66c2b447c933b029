/*
 * epf_phase_sm90.h: what the host side of the fused phases and their kernels share (C11 and CUDA C++).
 */
#ifndef EPF_PHASE_SM90_H
#define EPF_PHASE_SM90_H

#include "cuda/epf_cuda_call.h"
#include "cuda/epf_gemm_sm90.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The only argument of a phase's kernel.  `gemm` comes first: the roles of the grouped GEMM know nothing else. */
typedef struct epf_phase_sm90_args {
    epf_gemm_sm90_args gemm;
    epf_gemm_sm90_args grad[EPF_MAX_GRADS]; /* the first call.phase.num_grads */
    epf_cuda_call call;
} epf_phase_sm90_args;

#ifdef __cplusplus
static_assert(sizeof(epf_phase_sm90_args) <= 4096, "the parameters of a kernel");
#endif

/* A compiled kernel of a phase: 128 x 256 tiles, clusters of two side by side. */
typedef struct epf_phase_sm90_variant {
    int32_t kind;      /* epf_phase_kind; SERIAL: of any combine whose rows stay here first */
    int32_t with_grad; /* 1: weight gradients in the same launch */
    epf_gemm_sm90_variant gemm;
} epf_phase_sm90_variant;

/* The compiled kernels of one family; stores their number. */
const epf_phase_sm90_variant *epf_phase_sm90_dispatch(int32_t *num_variants);
const epf_phase_sm90_variant *epf_phase_sm90_combine(int32_t *num_variants);
const epf_phase_sm90_variant *epf_phase_sm90_combine_grad(int32_t *num_variants);

#ifdef __cplusplus
}
#endif

#endif
