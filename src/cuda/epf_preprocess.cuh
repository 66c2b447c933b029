/*
 * epf_preprocess.cuh: what every part of the preprocess kernel shares: its context, its barriers, its scan.
 */
#ifndef EPF_PREPROCESS_CUH
#define EPF_PREPROCESS_CUH

#include "cuda/epf_device.cuh"
#include "cuda/epf_preprocess_sm90.h"

enum { kThreads = EPF_PREPROCESS_THREADS, kWarps = EPF_PREPROCESS_WARPS };
enum { kBatch = 4 }; /* loads that a thread has in flight */

/* The fixed part of shared memory. */
struct preprocess_words {
    int64_t warp_sum[EPF_NUM_SCANS][kWarps];
    epf_layout_head head; /* what this CTA knows of the result: the same in every CTA */
    epf_posted_head posted;
    int32_t bad_slot;   /* first of this CTA; INT32_MAX: none */
    int32_t first_bad;  /* first rank that refuses; INT32_MAX: none */
    int32_t first_over; /* first rank with more rows than there is room for, likewise */
    int32_t is_last;
};

struct preprocess {
    const epf_cuda_preprocess_args &args;
    const epf_call &call;
    const epf_shape &shape;
    uint32_t epoch;
    int32_t parity;
    int32_t num_slots; /* T K */
    int32_t thread;
    int32_t lane;
    epf_preprocess_range range; /* slots of this warp */
    preprocess_words *words;
    int64_t *scans;     /* shared memory, as epf_preprocess_shared_map says */
    int32_t *bins;      /* of all warps */
    int32_t *warp_bins; /* of this warp */
    int32_t *row_first;
    int32_t *send_first;
    int32_t *prefix;
    int32_t *scratch; /* global memory, as epf_preprocess_scratch_map says */
    epf_preprocess_scratch_map at;
};

static __device__ __forceinline__ int64_t *scan_of(const preprocess &x, int32_t which)
{
    return x.scans + (int64_t)which * (x.shape.num_experts + 1);
}

static __device__ __forceinline__ int64_t grid_thread(void)
{
    return (int64_t)blockIdx.x * kThreads + threadIdx.x;
}

static __device__ __forceinline__ int64_t grid_threads(void)
{
    return (int64_t)gridDim.x * kThreads;
}

/* Every rank's head and counts of this call, as they lie in the window of rank `on`. */
static __device__ __forceinline__ epf_posted_head *posted_heads(const preprocess &x, int32_t on)
{
    return (epf_posted_head *)(x.call.control[on] + x.call.control_map.posted_head) +
           (int64_t)x.parity * x.shape.num_ranks;
}

static __device__ __forceinline__ int32_t *posted_counts(const preprocess &x, int32_t on)
{
    return (int32_t *)(x.call.control[on] + x.call.control_map.counts) +
           (int64_t)x.parity * x.shape.num_ranks * x.shape.num_experts;
}

static __device__ __forceinline__ int32_t load_index(const epf_cuda_indices &from, int32_t slot,
                                                     int32_t topk)
{
    return from.stride == topk ? from.data[slot]
                               : from.data[slot / topk * from.stride + slot % topk];
}

/* -1 into [begin, end) of an array that starts at a multiple of 16 bytes; the whole grid shares the work. */
static __device__ __forceinline__ void fill_unset(int32_t *array, int64_t begin, int64_t end)
{
    for (int64_t i = begin / 4 + grid_thread(); i * 4 < end; i += grid_threads()) {
        if (i * 4 >= begin && i * 4 + 4 <= end) {
            *(int4 *)(array + i * 4) = make_int4(-1, -1, -1, -1);
            continue;
        }
        for (int64_t j = epf_max64(i * 4, begin); j < epf_min64(i * 4 + 4, end); j++) {
            array[j] = -1;
        }
    }
}

/*
 * All threads.  True in the CTA that brings `word` to `last` + 1.  Its threads then see what all threads of
 * the CTAs before wrote: the barrier of a CTA orders its threads' stores before thread 0's add, adds of one
 * word form a chain of releases and acquires, and the second barrier hands that on.  A release of the last
 * CTA, of system scope, therefore covers the stores of all of them.
 */
static __device__ __forceinline__ bool arrive(const preprocess &x, uint32_t *word, uint32_t last)
{
    __syncthreads();
    if (x.thread == 0) {
        /* Why sys: each CTA then flushes its own stores to peers, instead of the last one all of them. */
        const uint32_t before = x.shape.num_ranks > 1 ? epf_add_acq_rel_sys_u32(word, 1)
                                                      : epf_add_acq_rel_gpu_u32(word, 1);
        x.words->is_last = before == last;
    }
    __syncthreads();
    return x.words->is_last != 0;
}

/* Not inlined: what it hands to the slow path by address must not be local memory of the kernel. */
static __device__ __noinline__ bool wait_word(const epf_cuda_call &c, const uint64_t *word,
                                              uint64_t at_least, int32_t object, int32_t peer)
{
    const epf_wait_for what = {object, peer, peer};
    return epf_device_wait(c, word, at_least, what);
}

/* All threads.  Waits for this epoch's word of every rank at `offset` of our control window; false: given up. */
static __device__ __forceinline__ bool wait_all(const preprocess &x, int64_t offset, int32_t object)
{
    bool ok = true;
    for (int32_t r = x.thread; r < x.shape.num_ranks; r += kThreads) {
        ok = wait_word(x.args.call, epf_call_control_word(&x.call, x.call.rank, offset, r),
                       epf_word(x.epoch, 0), object, r) &&
             ok;
    }
    /* What thread r acquired, all threads see after the barrier. */
    return __syncthreads_and(ok) != 0;
}

static __device__ __noinline__ void raise_fault(const epf_cuda_call &c, int32_t status,
                                                uint64_t expected, uint64_t seen)
{
    const epf_fault fault = {status,   c.call.rank, (int32_t)blockIdx.x, EPF_OBJECT_NONE, -1, 0, 0,
                             expected, seen};
    epf_device_raise(c, fault);
}

/* One thread: waits until all CTAs of the launch arrived at `word`; false: given up. */
static __device__ __noinline__ bool wait_grid(const epf_cuda_call &c, const uint32_t *word)
{
    const uint64_t begin = epf_device_clock_ns();
    for (uint32_t spins = 1; epf_load_acquire_gpu_u32(word) < gridDim.x; spins++) {
        if (spins % 64 != 0) {
            continue;
        }
        if (epf_device_is_aborted(c)) {
            epf_device_pass_on(c);
            return false;
        }
        if (epf_device_clock_ns() - begin > c.timeout_ns) {
            raise_fault(c, EPF_E_TIMEOUT, gridDim.x, epf_load_relaxed_gpu_u32(word));
            return false;
        }
    }
    return true;
}

/* All threads of all CTAs, once a launch: sees what was written before it.  Counts on in the same word. */
static __device__ __forceinline__ bool grid_barrier(const preprocess &x, uint32_t *word)
{
    bool ok = true;
    __syncthreads();
    if (x.thread == 0) {
        (void)epf_add_acq_rel_gpu_u32(word, 1);
        ok = wait_grid(x.args.call, word);
    }
    return __syncthreads_and(ok) != 0;
}

static __device__ __forceinline__ int64_t warp_scan(int64_t value, int32_t lane)
{
#pragma unroll
    for (int32_t step = 1; step < 32; step *= 2) {
        const int64_t below = __shfl_up_sync(~0u, value, step);
        value += lane >= step ? below : 0;
    }
    return value;
}

/* All threads, all arrays at once: counts become exclusive prefix sums, with the sum of all at [E]. */
static __device__ __forceinline__ void scan_all(const preprocess &x)
{
    const int32_t experts = x.shape.num_experts;
    const int32_t each = (int32_t)epf_ceil_div(experts, kThreads);
    const int32_t begin = (int32_t)epf_min64((int64_t)x.thread * each, experts);
    const int32_t end = (int32_t)epf_min64((int64_t)begin + each, experts);
    const int32_t warp = x.thread / 32;
    int64_t before[EPF_NUM_SCANS];

    __syncthreads();
#pragma unroll
    for (int32_t q = 0; q < EPF_NUM_SCANS; q++) {
        int64_t sum = 0;
        for (int32_t i = begin; i < end; i++) {
            sum += scan_of(x, q)[i];
        }
        before[q] = warp_scan(sum, x.lane);
        if (x.lane == 31) {
            x.words->warp_sum[q][warp] = before[q];
        }
        before[q] -= sum;
    }
    __syncthreads();
    if (warp < EPF_NUM_SCANS) {
        const int64_t sum = x.lane < kWarps ? x.words->warp_sum[warp][x.lane] : 0;
        const int64_t through = warp_scan(sum, x.lane);
        if (x.lane < kWarps) {
            x.words->warp_sum[warp][x.lane] = through - sum;
        }
    }
    __syncthreads();
#pragma unroll
    for (int32_t q = 0; q < EPF_NUM_SCANS; q++) {
        int64_t *const values = scan_of(x, q);
        int64_t at = before[q] + x.words->warp_sum[q][warp];
        for (int32_t i = begin; i < end; i++) {
            const int64_t value = values[i];
            values[i] = at;
            at += value;
        }
        if (begin < end && end == experts) {
            values[experts] = at;
        }
    }
    __syncthreads();
}

#endif
