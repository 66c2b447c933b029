/*
 * epf_phase_sm90.cuh: one phase as one launch: the grouped GEMM's roles, a communication role beside them, hooks
 * between the two.
 *
 *   DISPATCH          recv_tokens[row] of each peer = input[token], then gemm_output = recv_tokens * B
 *   COMBINE_SCATTER   combine_rows[slot] of each owner = gemm_input * B, then output[token] = sum of its slots
 *   COMBINE_SERIAL    combine_rows[row] = gemm_input * B, a barrier of all ranks, then the owners pull and sum
 *
 * Shapes   epf_call.h; the tiles are those of epf_gemm_sm90.cuh, 128 rows by 2 x 256 columns per cluster.
 * Needs    a layout made earlier on this stream; the host reads nothing of it.
 * Launch   1 CTA per SM, 384 threads, clusters of 2.  All CTAs of all ranks must be resident: the host takes no
 *          more than this rank's share of the device.
 *
 * Roles    warps   regs    does
 *   load   0       40/56   as in the grouped GEMM
 *   plan   1       40/56   as there; before it hands a task on it waits for the task's rows (before_task)
 *   comm   2-3     40/56   dispatch: DISPATCH, then EXPAND.  fuse_scatter: SCATTER, flags of finished tiles; serial:
 *                          SCATTER that only counts tiles for the caller's signal, if there is one
 *   math   4-11    232/224 dispatch: DISPATCH and EXPAND of the first tiles; as in the grouped GEMM; combine: weight
 *                          gradients, then REDUCE
 *   Pairs before first_cluster (fuse_scatter) take no tiles: comm and math bring rows, which then stay in `staged`
 *   first, to their owners, and math sums; or math sums alone.  Where rows stay, math of the other pairs joins in.
 *
 *   dispatch, time ->                                  combine, fuse_scatter
 *   comm   |send|flags|fill part|fill part| ...                        wait tile 0 ----|flags|wait tile 1| ...
 *   plan        wait group of t0 ------|t0|wait|t1|      |wait entered|t0|t1| ...
 *   load                               |k0|k1|k2|...     |k0|k1|k2| ...
 *   math   |send|flags|fill part|        |mma t0 ...       |mma t0 |mma t1, rows of t0| ... |sum token|sum| ...
 *
 * Synchronization beside that of the grouped GEMM
 *   object         where         target                signalled by              waited on by    order
 *   entered[r]     peer window   word(epoch, tag)      comm warp 2 of CTA 0      comm, math,     sys
 *                                                                                plan
 *   recv_flag[row] peer window   word(epoch, carrier)  comm, math of the sender  comm, math      sys
 *                                                                                (EXPAND)
 *   tile_ready[t]  own memory    word(epoch, parts of  comm, math: a part of a   plan            gpu
 *                                t's sweep group)      tile is filled
 *   expert_ready   own memory    word(epoch, parts of  the same                  plan            gpu
 *                                its tiles)
 *   tile_done[t]   own memory    warps * tasks         math warp, before its     comm (SCATTER)  gpu; zeroed by it
 *                                                      next task's rows
 *   tile_done[8t]  own memory    the same where rows   math warp                 comm, math      gpu; zeroed by the
 *                                stay here first                                 (SCATTER)       last part ...
 *   tile_done      own memory    parts of tile t       comm, math (SCATTER)      nobody          relaxed; ... that
 *    [8t + 1]                                                                                    counts here
 *   signal[t]      the caller's  + N-tiles             comm, math (SCATTER)      the caller      sys
 *   combine_flag   peer window   word(epoch, 0)        comm, math (SCATTER)      math (REDUCE)   sys
 *   gemm_done      own memory    CTAs                  math of each CTA          nobody          gpu; the last one ...
 *   barrier[r]     peer window   word(epoch, 0)        ... signals all ranks     math (REDUCE)   sys
 *   bar 4          smem          256 threads           math: rows are stored     math            bar.sync; serial
 *   tickets, left  own memory    -, CTAs               takers; each CTA's end    nobody          gpu; the last CTA
 *                                                                                                ends the epoch
 *
 * TMA reads rows that ordinary stores wrote, maybe from another device: the flag is acquired in the generic proxy,
 * then the load thread fences generic before asynchronous accesses (before_loads).
 * No deadlock  epf_sched.h.  comm waits for its own rank's math only in SCATTER (tile_done); math, before its tiles,
 *              only as EXPAND does, for DISPATCH of all ranks; among its tiles for load; after them for SCATTER or
 *              the last tiles of all ranks.
 * Given up     a role that only moves rows returns; load, plan and math go through all tasks without waiting for
 *              rows (epf_device.cuh), so that no stage is left half-way.
 */
#ifndef EPF_PHASE_SM90_CUH
#define EPF_PHASE_SM90_CUH

#include <type_traits>

#include "cuda/epf_phase_hooks_sm90.cuh"

static constexpr int kMathAhead = 8;   /* pieces of 16 bytes that a lane has on their way */
static constexpr int kMathBarrier = 4; /* 1 to 3 are the grouped GEMM's */

/* Tasks of an M-tile that math warps see, those past N among them. */
template <class C>
static __device__ __forceinline__ int32_t tasks_per_tile(const epf_gemm_sm90_args &args)
{
    return args.num_n_tiles * C::kClusterN;
}

/*
 * All math threads: this CTA's rows and its share of the gates are in place; the last CTA tells all ranks.  A function
 * of its own, as reduce_role() is.
 */
static __device__ __noinline__ void signal_barrier(const phase_view v)
{
    const epf_call &call = v.c.call;
    const int32_t bytes = call.shape.weight_bytes;
    const int32_t thread = (int32_t)threadIdx.x - kLoadThreads;
    for (int64_t row = (int64_t)blockIdx.x * kMathThreads + thread;
         call.has_gate && row < v.shared.num_rows; row += (int64_t)gridDim.x * kMathThreads) {
        copy_weight(call.set[call.rank] + call.set_map.combine_gate + row * bytes,
                    gates_of(call) + row * bytes, bytes);
    }
    bulk_wait_all();
    epf_fence_proxy_async_global();
    named_barrier_sync(kMathBarrier, kMathThreads);
    if (thread == 0 && epf_add_acq_rel_gpu_u32(&v.c.state->gemm_done, 1) == gridDim.x - 1) {
        for (int32_t r = 0; r < call.shape.num_ranks; r++) {
            epf_store_release_sys_u64(
                epf_call_control_word(&call, r, call.control_map.barrier, call.rank),
                epf_word(v.shared.epoch, 0));
        }
    }
}

/* What all ranks are told before this one waits for anything. */
static __device__ __forceinline__ void signal_entered(const phase_view &v)
{
    const epf_call &call = v.c.call;
    for (int32_t r = v.lane; r < call.shape.num_ranks; r += 32) {
        epf_store_release_sys_u64(
            epf_call_control_word(&call, r, call.control_map.entered, call.rank), v.shared.entered);
    }
}

/* A failure that every CTA of this rank sees alike before anything is done. */
static __device__ __forceinline__ int32_t find_refusal(const epf_cuda_call &c, uint32_t epoch)
{
    if (epoch >= EPF_EPOCH_LAST) {
        return EPF_E_STATE;
    }
    return c.head->max_rows > c.call.set_map.rows || c.head->num_rows > c.capacity ? EPF_E_CAPACITY
                                                                                   : EPF_OK;
}

static constexpr int kTasksPerWarp =
    4; /* of DISPATCH at least: few of the later slots carry a row */
static constexpr int kWarpsPerCta =
    10; /* that move rows: two that communicate, eight of the math role */

/* How finely rows, tiles and tokens are dealt out: finer where there are fewer of them than warps. */
static __device__ __forceinline__ void phase_grain(const epf_cuda_call &c, phase_shared &shared)
{
    const epf_phase &phase = c.call.phase;
    const int32_t warps = (int32_t)gridDim.x * kWarpsPerCta;
    const int32_t steps = (int32_t)(epf_shape_row_bytes(&c.call.shape) / 16 + 31) / 32;
    const int32_t senders = max(min(phase.num_comm_workers, (int32_t)gridDim.x), 1) * kWarpsPerCta;
    const int32_t least_parts = max(steps / 8, 1);
    shared.slots_per_task =
        max(1, min(phase.slots_per_task, shared.num_slots / (senders * kTasksPerWarp)));
    shared.part_rows = 2;
    while (shared.part_rows < 16 && shared.part_rows * warps < shared.num_rows) {
        shared.part_rows *= 2;
    }
    shared.column_parts = max(least_parts, min(steps, warps / max((int32_t)c.call.num_tokens, 1)));
}

/* One thread: what this launch is about. */
static __device__ __forceinline__ void phase_begin(const epf_cuda_call &c, int32_t kind,
                                                   phase_shared &shared)
{
    const uint32_t epoch = epoch_of(c);
    const int32_t refusal = find_refusal(c, epoch);
    shared.epoch = epoch;
    shared.entered = epf_word(epoch, epf_tag(kind, c.call.set_index, c.head->epoch));
    shared.num_slots = c.head->num_slots;
    shared.num_rows = c.head->num_rows;
    phase_grain(c, shared);
    shared.counts_tiles = kind == EPF_PHASE_COMBINE_SCATTER || c.call.signal;
    shared.run = c.head->status == EPF_OK && refusal == EPF_OK && !epf_device_is_aborted(c);
    for (int32_t lane = 0; lane < EPF_CUDA_PROF_LANES; lane++) {
        const int64_t at = ((int64_t)blockIdx.x * EPF_CUDA_PROF_LANES + lane) * c.records_per_lane;
        shared.record[lane] = c.records ? c.records + at : nullptr;
        shared.last_record[lane] = c.records + at + c.records_per_lane - 1;
    }
    if (c.grain && blockIdx.x == 0) {
        *c.grain = {shared.slots_per_task, shared.part_rows, shared.column_parts};
    }
    if (refusal != EPF_OK && blockIdx.x == 0) {
        const epf_fault fault = {refusal,
                                 c.call.rank,
                                 0,
                                 EPF_OBJECT_NONE,
                                 -1,
                                 0,
                                 0,
                                 (uint64_t)c.capacity,
                                 (uint64_t)c.head->max_rows};
        epf_device_raise(c, fault);
    } else if (blockIdx.x == 0 && epf_device_is_aborted(c)) {
        epf_device_pass_on(c);
    }
}

/* One thread of each CTA, when its CTA is done with the call. */
static __device__ __forceinline__ void phase_end(const epf_cuda_call &c, int32_t kind,
                                                 const phase_shared &shared)
{
    if (epf_device_leave(c.state, shared.epoch) && kind != EPF_PHASE_DISPATCH) {
        c.state->combine_epoch[c.call.set_index] = shared.epoch;
    }
}

/* Parts of the M-tiles that the first task of every cluster needs, and of a group more. */
template <class C>
static __device__ __forceinline__ int32_t head_parts(const epf_gemm_sm90_args &args,
                                                     const phase_shared &shared)
{
    const int32_t clusters = (int32_t)gridDim.x / C::kCluster;
    const int32_t tiles = (clusters + args.num_n_tiles - 1) / args.num_n_tiles;
    return (max(tiles, args.group_m) + args.group_m) * parts_per_tile(shared);
}

/* What a phase's kernel is made of: G is void, or the configuration of its weight gradients. */
template <class C_, class Hooks_, class G_, int kKind_> struct phase_config {
    using C = C_;
    using Hooks = Hooks_;
    using G = G_;
    static constexpr int kKind = kKind_;
    static constexpr bool kIsDispatch = kKind == EPF_PHASE_DISPATCH;
    static constexpr bool kKeeps = !kIsDispatch && !C::kScatter; /* rows stay here first */
    static constexpr bool kHasGrads = !std::is_same<G, void>::value;
    /* Registers for copying where the math role, which has the most to keep in a combine and with raw output, can
     * spare them. */
    static constexpr bool kWideComm = kIsDispatch && !C::kRaw;
    static constexpr int kCopyAhead = kWideComm ? 4 : 1;
    static_assert(C::kClusterN == 2 && C::kClusterM == 1 && !C::kGathered, "tiles of the layout");
};

template <class P>
static __device__ __forceinline__ void comm_role(const epf_phase_sm90_args &args,
                                                 const phase_view &v)
{
    const epf_phase &phase = args.call.call.phase;
    const int32_t first = epf_phase_first_queue(&phase, (int32_t)blockIdx.x);
    if (P::kIsDispatch) {
        dispatch_role<P::kCopyAhead>(v, first);
    } else if (!P::kKeeps) {
        if (first != EPF_TASK_REDUCE) {
            notify_role(v, tasks_per_tile<typename P::C>(args.gemm));
        }
    } else if (first == EPF_TASK_SCATTER ||
               (phase.kind == EPF_PHASE_COMBINE_SERIAL && v.shared.counts_tiles)) {
        bring_role<P::kCopyAhead>(v, tasks_per_tile<typename P::C>(args.gemm));
    }
}

/* A pair of CTAs that takes no tiles: its warps bring rows back, and sum. */
template <class P>
static __device__ __forceinline__ bool multiplies(const epf_phase_sm90_args &args)
{
    return P::kIsDispatch || blockIdx.x / P::C::kCluster >= (uint32_t)args.gemm.first_cluster;
}

/* Unrolled, so that operands stay in the constant bank: an indexed one would take registers of the math role. */
template <class F>
static __device__ __forceinline__ void for_each_grad(const epf_phase_sm90_args &args, const F &role)
{
    static_assert(EPF_MAX_GRADS == 2, "one line for each");
    if (args.call.call.phase.num_grads > 0) {
        role(args.grad[0]);
    }
    if (args.call.call.phase.num_grads > 1) {
        role(args.grad[1]);
    }
}

template <class P>
static __device__ __forceinline__ void phase_load(const epf_phase_sm90_args &args,
                                                  phase_gemm_smem &smem)
{
    gemm_ring<P::C::kStages> ring;
    load_role<typename P::C, typename P::Hooks>(args.gemm, smem, ring);
    if constexpr (P::kHasGrads) {
        for_each_grad(args, [&](const epf_gemm_sm90_args &grad) {
            load_role<typename P::G, gemm_no_hooks>(grad, smem, ring);
        });
    }
}

template <class P>
static __device__ __forceinline__ void phase_plan(const epf_phase_sm90_args &args,
                                                  phase_gemm_smem &smem)
{
    uint32_t count = 0;
    plan_role<typename P::C, typename P::Hooks>(args.gemm, smem, count);
    if constexpr (P::kHasGrads) {
        for_each_grad(args, [&](const epf_gemm_sm90_args &grad) {
            plan_role<typename P::G, gemm_no_hooks>(grad, smem, count);
        });
    }
}

/* A view made where it is needed: one kept over the tiles would take registers from them. */
static __device__ __forceinline__ phase_view fresh_view(const epf_phase_sm90_args &args)
{
    int32_t thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread)); /* not to be hoisted */
    phase_smem &smem = phase_smem_of();
    return {args.call, smem.shared, smem.tiles, thread % 32};
}

/* Math threads of a combine, after their tiles, and after their weight gradients. */
template <class P> static __device__ __forceinline__ void tiles_end(const epf_phase_sm90_args &args)
{
    count_stored<P::kKeeps>(args.call);
    if (P::kKeeps && args.call.call.phase.kind == EPF_PHASE_COMBINE_SERIAL) {
        signal_barrier(fresh_view(args));
    }
}

template <class P>
static __device__ __forceinline__ void bring_and_sum(const epf_phase_sm90_args &args)
{
    const epf_phase &phase = args.call.call.phase;
    if (P::kKeeps && phase.kind == EPF_PHASE_COMBINE_SCATTER &&
        epf_phase_first_queue(&phase, (int32_t)blockIdx.x) != EPF_TASK_REDUCE) {
        math_bring_role<kMathAhead>(fresh_view(args), tasks_per_tile<typename P::C>(args.gemm));
    }
    reduce_role<typename P::C::T, kMathAhead>(fresh_view(args));
}

template <class P>
static __device__ __forceinline__ void phase_math(const epf_phase_sm90_args &args,
                                                  phase_gemm_smem &smem)
{
    gemm_ring<P::C::kStages> ring;
    if constexpr (P::kIsDispatch) {
        help_dispatch<kMathAhead>(
            fresh_view(args), epf_phase_first_queue(&args.call.call.phase, (int32_t)blockIdx.x));
    }
    if (multiplies<P>(args)) {
        math_role<typename P::C, typename P::Hooks>(args.gemm, smem, ring);
    }
    if constexpr (!P::kIsDispatch) {
        tiles_end<P>(args);
    }
    if constexpr (P::kHasGrads) {
        if (multiplies<P>(args)) {
            for_each_grad(args, [&](const epf_gemm_sm90_args &grad) {
                math_role<typename P::G, grad_hooks>(grad, smem, ring);
            });
        }
    }
    if constexpr (!P::kIsDispatch) {
        bring_and_sum<P>(args);
    }
}

template <class P>
__global__ void __launch_bounds__(kThreads, 1)
    phase_kernel(const __grid_constant__ epf_phase_sm90_args args)
{
    using C = typename P::C;
    phase_smem &smem = phase_smem_of();
    static_assert(std::is_same<gemm_smem<C>, phase_gemm_smem>::value, "one shared memory");
    const phase_view view = {args.call, smem.shared, smem.tiles, (int32_t)threadIdx.x % 32};

    gemm_begin<C>(args.gemm, smem.gemm);
    if (threadIdx.x == 64) {
        smem.tiles = tile_map<C>(args.gemm, smem.gemm);
        phase_begin(args.call, args.call.call.phase.kind, smem.shared);
        /* Where the communicating warps have few registers the math role fills all tiles itself. */
        smem.shared.head_parts = P::kWideComm ? head_parts<C>(args.gemm, smem.shared) : INT32_MAX;
        for (int i = 0; i < kMathWarps; i++) {
            smem.stored_tile[i] = -1;
        }
    }
    __syncthreads();
    cluster_sync();
    if (smem.shared.run) {
        epf_device_delay(args.call.role_delay_ns);
        if (blockIdx.x == 0 && threadIdx.x / 32 == 2) {
            signal_entered(view);
        }
        if (threadIdx.x < kLoadThreads) {
            if constexpr (P::kWideComm) {
                setmaxnreg_dec_56();
            } else {
                setmaxnreg_dec_40();
            }
            if (threadIdx.x >= 64) {
                comm_role<P>(args, view);
            } else if (threadIdx.x == 0 && multiplies<P>(args)) {
                phase_load<P>(args, smem.gemm);
            } else if (threadIdx.x == kPlanThread && multiplies<P>(args)) {
                phase_plan<P>(args, smem.gemm);
            }
        } else {
            if constexpr (P::kWideComm) {
                setmaxnreg_inc_224();
            } else {
                setmaxnreg_inc_232();
            }
            phase_math<P>(args, smem.gemm);
        }
    }
    __syncthreads();
    cluster_sync();
    if (threadIdx.x == 0) {
        phase_end(args.call, P::kKind, smem.shared);
    }
}

#endif
