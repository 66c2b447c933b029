/*
 * epf_preprocess_sm90.h: what the host side of preprocess and its kernel share (C11 and CUDA C++).
 */
#ifndef EPF_PREPROCESS_SM90_H
#define EPF_PREPROCESS_SM90_H

#include "cuda/epf_cuda_preprocess.h"
#include "cuda/epf_preprocess_index.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The kernel, of one epf_cuda_preprocess_args. */
const void *epf_preprocess_sm90_kernel(void);

/* Dynamic shared memory of a launch. */
int32_t epf_preprocess_sm90_shared_bytes(int32_t num_experts);

#ifdef __cplusplus
}
#endif

#endif
