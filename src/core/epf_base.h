/*
 * epf_base.h: what every header of src/core needs, in the common subset of C11 and CUDA C++.
 *
 * src/core is pure: no I/O, no allocation, no threads.  EPF_HD marks a function that the host, the
 * CPU backend and CUDA kernels share.
 */
#ifndef EPF_BASE_H
#define EPF_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define EPF_HD static __host__ __device__ __forceinline__
#else
#define EPF_HD static inline
#endif

EPF_HD int64_t epf_min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

EPF_HD int64_t epf_max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Quotient rounded up; a >= 0, b > 0. */
EPF_HD int64_t epf_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* The least multiple of b that is not below a; a >= 0, b > 0. */
EPF_HD int64_t epf_round_up(int64_t a, int64_t b)
{
    return epf_ceil_div(a, b) * b;
}

#endif
