/*
 * epf_gemm_sm90.cuh: grouped GEMM on Hopper, one persistent launch.
 *
 *   c[r, :] = a[r, :] * transpose(b[e(r), :, :])                forward; B also [G, K, N]; A also a[gather[r], :]
 *   c[g, :, :] = transpose(a[rows of g, :]) * b[rows of g, :]   weight gradient (A_COLUMNS)
 *
 * Shapes   see epf_gemm_sm90_args; bf16 or fp16, fp32 accumulators, one rounding.
 * Needs    rows[G] (and row_offset[G]) written earlier on this stream; the host never reads them.
 * Tile     128 x kBlockN x 64 per CTA; a task is a tile of 128 * kClusterM rows and kBlockN * kClusterN columns.
 *          Ring of kStages = 4 stages (192 KiB), 16 KiB to store through, tables.
 *          Swapped operands: kBlockN columns by up to kSwapRows rows, see epf_gemm_swap_sm90.cuh.
 * Launch   1 CTA/SM, 384 threads, clusters of kClusterM * kClusterN; no residency is relied upon.
 *
 * Roles    warps   regs   does
 *   load   0       40     one thread: TMA for A and B of task after task, k-step after k-step
 *   plan   1       40     one thread: finds the next task while load is busy with this one's last k-steps
 *   gather 2-3     40     where rows are gathered: half of the cluster's by cp.async; load hands them on
 *   math   4-11    232    two warpgroups, 64 rows each: wgmma, round, store
 *
 *   time ->
 *   load   |k0|k1|k2|k3|k4| ... |k0'|k1'|                          at most kStages ahead of math
 *   math 0    |mma k0|mma k1| ... |round|mma k0' store|mma k1'|mma k2' store| ...
 *   math 1    |mma k0|mma k1| ... |round|mma k0'|mma k1' store|mma k2'| ...
 *                                       rounded rows wait in registers and leave, a quarter at a time, while
 *                                       the other warpgroup has the tensor cores
 *
 * Synchronization
 *   object      where   target                     signalled by                waited on by  order / phase
 *   full[s]     smem    1 + tx bytes; gathered     TMA; load; gathered: again  math          mbarrier, ring phase
 *                       2 + tx bytes               when it hands rows on, and
 *                                                  the copy from the other CTA
 *   gathered[s] smem    64                         cp.async of each gather     load          mbarrier, ring phase
 *                                                  thread; then a proxy fence
 *   empty[s]    smem    8 * CTAs of the cluster    each math warp of the       load          mbarrier, ring phase ^ 1
 *                                                  cluster
 *   wanted      smem    1; gathered 65             load, near a task's end;    plan          mbarrier, phase t
 *                                                  each gather thread
 *   ready       smem    1                          plan: task t is in its      load, gather  mbarrier, phase t
 *                                                  slot, or the end
 *   task[t % 8] smem    -                          plan, before ready          load, gather, ready; full[s] of the task's
 *                                                                              math          first k-step
 *   task_free   smem    256                        each math thread, after     plan          mbarrier, phase t / 8
 *    [t % 8]                                       task t + 1
 *   next_full   smem    1 + 4 bytes                plan of the cluster's       plan          mbarrier, phase t / 8
 *    [t % 8]                                       first CTA: index of task t                (only with a queue)
 *   queue[0]    global  -                          plan of each cluster        nobody        relaxed; hands out tasks
 *   queue[1]    global  clusters                   plan of each cluster at     nobody        relaxed; the last one resets
 *                                                  its end                                   both for the next launch
 *   bars 1-3    smem    128, 256 threads           math: k rows zeroed;        math          bar.sync
 *                                                  swapped: rows to store are there
 *   cluster     -       all threads                each at its end             all           nobody leaves while a peer
 *                                                                                            may still write to it
 *
 * No deadlock  load waits for math of earlier k-steps and for plan, plan for load of earlier tasks, math for load;
 *              every CTA of a cluster walks the same tasks with the same number of k-steps, also without rows.
 * Reuse        a stage is loaded again when every warp of the cluster has read it, a task slot written again when every
 *              math thread of the CTA has: one thread could speak for its warp, but racecheck would not believe it.
 * Determinism  one warpgroup owns a tile's rows, k ascending; the tile order comes from epf_tile.h.
 * Edges        rows past an expert's last are loaded (they are the next expert's) and never stored; columns past N
 *              and K are zero-filled by TMA; in the weight gradient the rows past the end are zeroed in both operands.
 * Hooks        make a fused kernel of these roles (epf_phase_sm90.cuh): before_task(), before_loads(), task_begins(),
 *              task_ends(), store_begins(), row_address(), after_store().  A part stored by TMA is complete only
 *              after cp.async.bulk.wait_group.
 * Passes       a fused kernel may run the roles again, on other operands with the same ring: positions and phases
 *              go on where the pass before left them.
 */
#ifndef EPF_GEMM_SM90_CUH
#define EPF_GEMM_SM90_CUH

#include "cuda/epf_gemm_load_sm90.cuh"
#include "cuda/epf_gemm_math_sm90.cuh"
#include "cuda/epf_gemm_swap_sm90.cuh"

/* One thread: barriers and the first task slot. */
template <class C>
static __device__ __forceinline__ void init_barriers(const epf_gemm_sm90_args &args,
                                                     gemm_smem<C> &smem)
{
    for (int i = 0; i < C::kStages; i++) {
        mbarrier_init(&smem.full[i], C::kFullArrivals);
        mbarrier_init(&smem.gathered[i], kGatherThreads);
        mbarrier_init(&smem.empty[i], kMathWarps * C::kCluster);
    }
    for (int i = 0; i < kNextSlots; i++) {
        mbarrier_init(&smem.next_full[i], 1);
    }
    for (int i = 0; i < kTaskSlots; i++) {
        mbarrier_init(&smem.task_free[i], kMathThreads);
    }
    mbarrier_init(&smem.wanted, C::kWanted);
    mbarrier_init(&smem.ready, 1);
    smem.task[kTaskSlots - 1].rows = 0; /* before the first task there is nothing to store */
    fence_mbarrier_init();
    tma_prefetch_map(&args.map_a);
    if constexpr (C::kSwapped) {
        tma_prefetch_map(&args.map_a_rest);
    }
    tma_prefetch_map(&args.map_b);
}

/* Barriers, tables and the first task slot; whoever calls it synchronizes the cluster afterwards. */
template <class C>
static __device__ __forceinline__ void gemm_begin(const epf_gemm_sm90_args &args,
                                                  gemm_smem<C> &smem)
{
    if (threadIdx.x < 32) {
        build_tables<C>(args, smem);
    } else if (threadIdx.x == 32) {
        init_barriers<C>(args, smem);
    }
}

template <class C>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_gemm_kernel(const __grid_constant__ epf_gemm_sm90_args args)
{
    extern __shared__ __align__(1024) uint8_t shared[];
    gemm_smem<C> &smem = *reinterpret_cast<gemm_smem<C> *>(shared);
    gemm_ring<C::kStages> ring;
    if (threadIdx.x == 64) { /* beside the tables, which wait for the row counts */
        init_barriers<C>(args, smem);
    }
    cluster_arrive();
    if (threadIdx.x / 32 == kPlanThread / 32) { /* which alone reads them */
        build_tables<C>(args, smem);
    }
    cluster_wait();
    if (threadIdx.x < kLoadThreads) {
        setmaxnreg_dec_40();
        if (C::kGathered && threadIdx.x >= kFirstGatherThread) {
            gather_role<C>(args, smem);
        } else if (threadIdx.x == 0) {
            if constexpr (C::kGathered) {
                gather_load_role<C>(args, smem, ring);
            } else {
                load_role<C, gemm_no_hooks>(args, smem, ring);
            }
        } else if (threadIdx.x == kPlanThread) {
            uint32_t count = 0;
            plan_role<C, gemm_no_hooks>(args, smem, count);
        }
    } else {
        setmaxnreg_inc_232();
        if constexpr (C::kSwapped) {
            swapped_math_role<C>(args, smem, ring);
        } else {
            math_role<C, gemm_no_hooks>(args, smem, ring);
        }
    }
    if constexpr (C::kCluster > 1) {
        cluster_sync();
    }
}

#endif
