/*
 * epf_device.cuh: how a kernel of the operator waits, gives up, begins and ends; shared by all of them.
 *
 * Every wait is bounded.  The first wait of a rank to time out raises the abort on all ranks; after that no
 * wait waits any more: roles run on without it, on whatever the buffers hold, so that a kernel ends by itself
 * and nothing has to be torn down in the middle of a pipeline.  What such a call leaves behind is not a result;
 * epf_op_reset() zeroes every word.
 */
#ifndef EPF_DEVICE_CUH
#define EPF_DEVICE_CUH

#include "cuda/epf_cuda_call.h"
#include "epfuse/epfuse_status.h"

static __device__ __forceinline__ uint64_t epf_device_clock_ns(void)
{
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

/* Of a test of the protocol: some of the warps that come here are late, by times of the clock's choice. */
static __device__ __forceinline__ void epf_device_delay(uint64_t role_delay_ns)
{
    if (role_delay_ns != 0) {
        const uint64_t begin = epf_device_clock_ns();
        const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
        uint64_t mixed = (begin + warp * 40503u) * UINT64_C(0x9e3779b97f4a7c15);
        mixed ^= mixed >> 29;
        mixed = __shfl_sync(~0u, mixed, 0);
        if (mixed % 3 == 0) {
            const uint64_t wait = (mixed >> 8) % role_delay_ns;
            while (epf_device_clock_ns() - begin < wait) {
            }
        }
    }
}

static __device__ __forceinline__ uint32_t *epf_device_abort(const epf_call &call, int32_t rank)
{
    return (uint32_t *)(call.control[rank] + call.control_map.abort);
}

static __device__ __forceinline__ epf_fault *epf_device_fault(const epf_call &call, int32_t on,
                                                              int32_t by)
{
    return (epf_fault *)(call.control[on] + call.control_map.faults) + by;
}

static __device__ __forceinline__ bool epf_device_is_aborted(const epf_cuda_call &c)
{
    return epf_load_relaxed_sys_u32(epf_device_abort(c.call, c.call.rank)) != 0;
}

/* Tells this rank's host, once. */
static __device__ __forceinline__ void epf_device_report(const epf_cuda_call &c,
                                                         const epf_fault &fault)
{
    if (epf_cas_acq_rel_gpu_u32(&c.state->failed, 0, 1) == 0) {
        c.report->fault = fault;
        epf_store_release_sys_u32(&c.report->is_set, 1);
    }
}

/* Gives up for all ranks: the first to do so on this rank tells its host and every rank. */
static __device__ __forceinline__ void epf_device_raise(const epf_cuda_call &c,
                                                        const epf_fault &fault)
{
    if (epf_cas_acq_rel_gpu_u32(&c.state->failed, 0, 1) != 0) {
        return;
    }
    c.report->fault = fault;
    epf_store_release_sys_u32(&c.report->is_set, 1);
    for (int32_t r = 0; r < c.call.shape.num_ranks; r++) {
        *epf_device_fault(c.call, r, c.call.rank) = fault;
        epf_store_release_sys_u32(epf_device_abort(c.call, r), (uint32_t)c.call.rank + 1);
    }
}

/* After an abort that another rank raised: passes its record on to our host. */
static __device__ __forceinline__ void epf_device_pass_on(const epf_cuda_call &c)
{
    const uint32_t by = epf_load_acquire_sys_u32(epf_device_abort(c.call, c.call.rank));
    if (by >= 1 && by <= (uint32_t)c.call.shape.num_ranks) {
        epf_device_report(c, *epf_device_fault(c.call, c.call.rank, (int32_t)by - 1));
    }
}

/* What a wait is for, as an error record says it. */
struct epf_wait_for {
    int32_t object; /* epf_object */
    int32_t peer;   /* rank that signals it, or -1 */
    int64_t index;
};

static __device__ __forceinline__ bool epf_device_wait_slow(const epf_cuda_call &c,
                                                            const uint64_t *word, uint64_t at_least,
                                                            const epf_wait_for &what)
{
    const uint64_t begin = epf_device_clock_ns();
    for (uint32_t spins = 1;; spins++) {
        const uint64_t seen = epf_load_acquire_sys_u64(word);
        if (seen >= at_least) {
            return true;
        }
        if (spins % 64 != 0) {
            continue;
        }
        if (epf_device_is_aborted(c)) {
            epf_device_pass_on(c);
            return false;
        }
        if (epf_device_clock_ns() - begin > c.timeout_ns) {
            const epf_fault fault = {EPF_E_TIMEOUT, c.call.rank, (int32_t)blockIdx.x,
                                     what.object,   what.peer,   0,
                                     what.index,    at_least,    seen};
            epf_device_raise(c, fault);
            return false;
        }
    }
}

/* Waits, with acquire order, until *word >= at_least; false: the call was given up.  Any thread, any divergence. */
static __device__ __forceinline__ bool epf_device_wait(const epf_cuda_call &c, const uint64_t *word,
                                                       uint64_t at_least, const epf_wait_for &what)
{
    return epf_load_acquire_sys_u64(word) >= at_least ||
           epf_device_wait_slow(c, word, at_least, what);
}

/* Ordinary stores that this thread has seen, of whatever thread or rank, are seen by its TMA loads after it. */
static __device__ __forceinline__ void epf_fence_proxy_async_global(void)
{
    asm volatile("fence.proxy.async.global;" ::: "memory");
}

/*
 * One thread per CTA, when nothing of this CTA will touch the call any more.  True in the last CTA of the
 * launch: `state` is then ready for the next one but for what only the caller knows.
 */
static __device__ __forceinline__ bool epf_device_leave(epf_cuda_state *state, uint32_t epoch)
{
    if (epf_add_acq_rel_gpu_u32(&state->left, 1) != gridDim.x - 1) {
        return false;
    }
    state->left = 0;
    state->queue[0] = 0;
    state->queue[1] = 0;
    state->gemm_done = 0;
    state->grid_arrived[0] = 0;
    state->grid_arrived[1] = 0;
    for (int i = 0; i < EPF_NUM_TASK_CLASSES; i++) {
        state->tickets[i] = 0;
    }
    state->epoch = epoch;
    return true;
}

#endif
