/*
 * epf_gemm_math_sm90.cuh: multiplying what is in the ring; the math role.
 */
#ifndef EPF_GEMM_MATH_SM90_CUH
#define EPF_GEMM_MATH_SM90_CUH

#include "cuda/epf_gemm_types_sm90.cuh"

/*
 * acc = stage's A slab * B, or += where `accumulate`; in a weight gradient only the first `depth` k count.  Why a vote:
 * wgmma in a branch that the compiler cannot see to be uniform is serialized.
 */
template <class C>
static __device__ __forceinline__ void multiply(float (&acc)[C::kBlockN / 2], const uint8_t *stage,
                                                int slab, int accumulate, int depth)
{
    constexpr uint32_t kStepA = (C::kColumns ? 16 * 128 : 16 * 2) >> 4;
    constexpr uint32_t kStepB = (C::kBNMajor ? 16 * 128 : 16 * 2) >> 4;
    const uint32_t place = smem_address(stage);
    const uint64_t a = wgmma_descriptor(place + slab * kSlabBytes, kSlabBytes);
    const uint64_t b = wgmma_descriptor(place + C::kBytesA, kSlabBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kBlockK / 16; i++) {
        if (!C::kColumns || __any_sync(~0u, i * 16 < depth)) {
            wgmma<typename C::T, C::kBlockN, C::kColumns, C::kBNMajor>(
                acc, a + i * kStepA, b + i * kStepB, i > 0 ? 1 : accumulate);
        }
    }
    wgmma_commit();
}

/*
 * Zeroes rows [depth, next sixteen) of K in both operands of a weight gradient's last k-step.  Why both:
 * those rows are another expert's or stale, and zero times infinity is not zero.  Where `both` warpgroups
 * multiply, each clears its rows of A and half of the B they share.
 */
template <class C>
static __device__ __forceinline__ void zero_tail(uint8_t *stage, int slab, int depth, bool both)
{
    constexpr int kBlocks = C::kBlockN / 64;
    const int end = (depth + 15) / 16 * 16;
    const int first_block = both ? slab * (kBlocks / 2) : 0;
    const int end_block = both ? first_block + kBlocks / 2 : kBlocks;
#pragma unroll 1
    for (int piece = threadIdx.x % 128; piece < (end - depth) * 8; piece += 128) {
        const int at = depth * 128 + piece * 16;
        *(uint4 *)(stage + slab * kSlabBytes + at) = make_uint4(0, 0, 0, 0);
#pragma unroll 1
        for (int block = first_block; block < end_block; block++) {
            *(uint4 *)(stage + C::kBytesA + block * kSlabBytes + at) = make_uint4(0, 0, 0, 0);
        }
    }
    fence_proxy_async_shared();
    if (both) {
        named_barrier_sync(3, 256);
    } else {
        named_barrier_sync(1 + slab, 128);
    }
}

/* multiply(), the end of a weight gradient's rows cleaned first. */
template <class C>
static __device__ __forceinline__ void multiply_tail(float (&acc)[C::kBlockN / 2], uint8_t *stage,
                                                     int slab, int accumulate,
                                                     const gemm_task &task, int step)
{
    const int depth = C::kColumns ? task.k_rows - step * kBlockK : kBlockK;
    if (C::kColumns && depth > 0 && depth < kBlockK) {
        zero_tail<C>(stage, slab, depth, task.rows > kSlab);
    }
    multiply<C>(acc, stage, slab, accumulate, depth);
}

/* The calling warp tells every CTA of the cluster that it has read the stage.  A lane number kept over the tile would
 * take a register that there is not. */
template <class C> static __device__ __forceinline__ void release(uint64_t *bar)
{
    uint32_t lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    __syncwarp();
    if constexpr (C::kCluster == 1) {
        if (lane == 0) {
            mbarrier_arrive(bar, 1);
        }
    } else if (lane < C::kCluster) {
        mbarrier_arrive_cluster(bar, lane);
    }
}

/* The calling thread will not read the slot of the task before `tasks` again. */
template <class C>
static __device__ __forceinline__ void free_slot(gemm_smem<C> &smem, uint32_t tasks)
{
    mbarrier_arrive(&smem.task_free[(tasks - 1) % kTaskSlots], 1);
}

#include "cuda/epf_gemm_store_sm90.cuh"

/* Passes over a task of which this warpgroup has no rows, or the end; stores the task before. */
template <class C, class Hooks>
static __device__ __forceinline__ void skip_task(const epf_gemm_sm90_args &args, gemm_smem<C> &smem,
                                                 gemm_ring<C::kStages> &ring, rounded_tile<C> &done,
                                                 const gemm_task &before, int32_t num_k)
{
    for (int32_t step = 0; step < num_k; step++) {
        mbarrier_wait(&smem.full[ring.stage()], ring.phase());
        if constexpr (C::kStoreLate) {
            store_part<C, Hooks>(args, done, before, smem, step);
        }
        release<C>(&smem.empty[ring.stage()]);
        ring.advance();
    }
}

/*
 * Which part the warpgroup stores beneath a k-step, or -1.  They take turns where there are enough k-steps,
 * so that one multiplies while the other one stores.
 */
template <class C> static constexpr int kLastStore = 2 * C::kStoreParts;
template <class C> static __device__ __forceinline__ int part_of(int step, int slab, int num_k)
{
    if (num_k < kLastStore<C>) {
        return step;
    }
    return step % 2 == slab ? step / 2 : -1;
}

/*
 * Multiplies this warpgroup's rows of every task, and stores those of the task before, a part beneath each
 * of the first k-steps.  Every task has as many k-steps as there are parts.
 */
template <class C, class Hooks>
static __device__ __forceinline__ void math_role(const epf_gemm_sm90_args &args, gemm_smem<C> &smem,
                                                 gemm_ring<C::kStages> &ring)
{
    const int slab = (threadIdx.x - kLoadThreads) / 128;
    float acc[C::kBlockN / 2];
    rounded_tile<C> done;
    for (;; ring.count_task()) {
        const gemm_task &task = smem.task[ring.tasks() % kTaskSlots];
        const gemm_task &before = smem.task[(ring.tasks() - 1) % kTaskSlots];
        mbarrier_wait(&smem.full[ring.stage()], ring.phase());
        const int32_t num_k = task.num_k;
        if (task.rows <= slab * kSlab) {
            skip_task<C, Hooks>(args, smem, ring, done, before, num_k);
            free_slot<C>(smem, ring.tasks());
            if (task.end) {
                bulk_wait_read();
                ring.count_task();
                return;
            }
            continue;
        }
        Hooks::task_begins(args);
        multiply_tail<C>(acc, smem.ring[ring.stage()], slab, 0, task, 0);
        if constexpr (C::kStoreLate) {
            store_part<C, Hooks>(args, done, before, smem, part_of<C>(0, slab, num_k));
        }
        for (int32_t step = 1; step < num_k; step++) {
            const uint32_t previous = ring.stage();
            ring.advance();
            mbarrier_wait(&smem.full[ring.stage()], ring.phase());
            multiply_tail<C>(acc, smem.ring[ring.stage()], slab, 1, task, step);
            if (C::kStoreLate && step < kLastStore<C>) {
                store_part<C, Hooks>(args, done, before, smem, part_of<C>(step, slab, num_k));
            }
            wgmma_wait<1>();
            release<C>(&smem.empty[previous]);
        }
        wgmma_wait<0>();
        release<C>(&smem.empty[ring.stage()]);
        ring.advance();
        free_slot<C>(smem, ring.tasks());
        Hooks::task_ends(args, task);
        if (C::kColumns && args.c_f32) {
            store_sums<C>(args, acc, task);
            continue;
        }
        round_tile<C>(acc, C::kColumns && task.k_rows == 0, done);
        if constexpr (!C::kStoreLate) {
#pragma unroll 1 /* fewer registers */
            for (int part = 0; part < C::kStoreParts; part++) {
                store_part<C, Hooks>(args, done, task, smem, part);
            }
        }
    }
}

#endif
