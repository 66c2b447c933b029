/*
 * epf_gemm_launch.h: what launches of the grouped GEMM alone and of the fused phases share.
 */
#ifndef EPF_GEMM_LAUNCH_H
#define EPF_GEMM_LAUNCH_H

#include "cuda/epf_gemm_cuda.h"
#include "cuda/epf_gemm_sm90.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { EPF_GEMM_THREADS = 384 };

/* Describes the operands to a kernel of this variant: tensor maps, tiles, pointers.  `args` as epf_gemm_cuda() checks
 * them; row_ptr may be any non-NULL pointer where the kernel finds rows another way. */
epf_status epf_gemm_sm90_fill(const epf_gemm_cuda_args *args, const epf_gemm_sm90_variant *variant,
                              epf_gemm_sm90_args *out);

/* A kernel of EPF_GEMM_THREADS threads and one parameter. */
typedef struct epf_cuda_kernel {
    const void *function;
    int32_t smem_bytes;
    int32_t cluster;  /* CTAs of a cluster */
    int32_t num_ctas; /* rounded down to whole clusters */
} epf_cuda_kernel;

epf_status epf_gemm_sm90_launch(const epf_cuda_kernel *kernel, void *kernel_args, void *stream);

#ifdef __cplusplus
}
#endif

#endif
