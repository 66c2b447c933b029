/*
 * epf_cuda_clock.h: what the host's clock says when the device's says something.
 */
#ifndef EPF_CUDA_CLOCK_H
#define EPF_CUDA_CLOCK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In host memory that the device writes. */
typedef struct epf_cuda_clock {
    uint64_t device_ns; /* globaltimer, again and again while the kernel runs */
    uint64_t has_ended; /* 1: it has run */
} epf_cuda_clock;

/* The kernel, of one epf_cuda_clock *: one thread, EPF_CUDA_CLOCK_NS long. */
const void *epf_cuda_clock_kernel(void);

enum { EPF_CUDA_CLOCK_NS = 100000 };

#ifdef __cplusplus
}
#endif

#endif
