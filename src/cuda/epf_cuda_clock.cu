/* epf_cuda_clock.cu: the kernel that shows the host what time it is on the device. */
#include "cuda/epf_cuda_clock.h"
#include "cuda/epf_device.cuh"

static constexpr int kPauseNs = 100; /* stores are not to queue up on their way */

static __global__ void clock_kernel(epf_cuda_clock *shown)
{
    const uint64_t begin = epf_device_clock_ns();
    uint64_t now = begin;
    while (now - begin < EPF_CUDA_CLOCK_NS) {
        epf_store_relaxed_sys_u64(&shown->device_ns, now);
        __nanosleep(kPauseNs);
        now = epf_device_clock_ns();
    }
    epf_store_release_sys_u64(&shown->has_ended, 1);
}

extern "C" const void *epf_cuda_clock_kernel(void)
{
    return (const void *)clock_kernel;
}
