/*
 * epf_gemm_sm90.cuh: grouped GEMM on Hopper, one persistent launch.
 *
 *   c[r, :] = a[r, :] * transpose(b[e(r), :, :])                forward; B also [G, K, N]; A also a[gather[r], :]
 *   c[g, :, :] = transpose(a[rows of g, :]) * b[rows of g, :]   weight gradient (A_COLUMNS)
 *
 * Shapes   see epf_gemm_sm90_args; bf16 or fp16, fp32 accumulators, one rounding.
 * Needs    rows[G] (and row_offset[G]) written earlier on this stream; the host never reads them.
 * Tile     128 x kBlockN x 64 per CTA; a task is a tile of 128 * kClusterM rows and kBlockN * kClusterN columns.
 * Launch   1 CTA/SM, 384 threads, clusters of kClusterM * kClusterN; no residency is relied upon.
 *
 * Roles    warps   regs   does
 *   load   0-3     40     thread 0 takes tasks and issues TMA for A and B; where rows are gathered, all four
 *                         warps copy A by cp.async
 *   math   4-11    232    two warpgroups, 64 rows each: wgmma, round, store
 *
 *   time ->
 *   load   |k0|k1|k2|k3|k4| ... |k0'|k1'|                at most kStages ahead of math
 *   math      |mma k0|mma k1| ... |round|mma k0'       |mma k1'|
 *                                       |store the tile|             rounded rows stay in registers and
 *                                                                    leave beneath the next tile's first k-step
 *
 * Synchronization
 *   object      where   target                     signalled by                waited on by  order / phase
 *   full[s]     smem    1 + tx bytes; gathered     TMA; load thread 0; each    math          mbarrier, ring phase
 *                       also one per load warp     load warp after its rows
 *                                                  and a proxy fence
 *   empty[s]    smem    2 * CTAs of the cluster    one thread of each math     load          mbarrier, ring phase ^ 1
 *                                                  warpgroup of the cluster
 *   next_full   smem    1 + 4 bytes                load thread 0 of the        load          mbarrier, phase t / 8
 *    [t % 8]                                       cluster's first CTA: the                  (only with a queue)
 *                                                  index of task t
 *   queue[0]    global  -                          load thread 0 of each       nobody        relaxed; hands out tasks
 *                                                  cluster
 *   queue[1]    global  clusters                   each cluster at its end     nobody        relaxed; the last one resets
 *                                                                                            both for the next launch
 *   task[t % 8] smem    -                          load thread 0, before it    math          ordered by full[s] of the
 *                                                  arrives on full[s]                        task's first k-step
 *   cluster     -       all threads                each at its end             all           nobody leaves while a peer
 *                                                                                            may still write to it
 *
 * No deadlock  load waits for math of earlier k-steps only, math for load; every CTA of a cluster walks the same
 *              tasks with the same number of k-steps, also where it has no rows.
 * Reuse        task slot t % 8 is rewritten when the ring, of at most 6 stages, has moved past task t.
 * Determinism  one warpgroup owns a tile's rows, k ascending; the tile order comes from epf_tile.h.
 * Edges        rows past an expert's last are loaded (they are the next expert's) and never stored; columns past N
 *              and K are zero-filled by TMA; in the weight gradient the rows past the end are zeroed in both operands.
 */
#ifndef EPF_GEMM_SM90_CUH
#define EPF_GEMM_SM90_CUH

#include "core/epf_tile.h"
#include "cuda/epf_gemm_sm90.h"
#include "cuda/sm90/mbarrier.cuh"
#include "cuda/sm90/tma.cuh"
#include "cuda/sm90/wgmma.cuh"

static constexpr int kBlockM = 128;
static constexpr int kBlockK = EPF_GEMM_BLOCK_K;
static constexpr int kSlab = EPF_GEMM_SLAB;
static constexpr int kSlabBytes = kSlab * kBlockK * 2; /* 64 x 64, also one 64-column block of B */
static constexpr int kThreads = 384;
static constexpr int kLoadThreads = 128;
static constexpr int kTaskSlots = 8;
static constexpr int kNextSlots = 8;
static constexpr int kFetchAhead =
    5; /* k-steps before a task's end at which the next one is asked for */
static constexpr int kOutBytes = EPF_GEMM_STORE_ROWS * 64 * 2; /* a warp's store buffer */
static constexpr int kMaxGroups = 2 * EPF_GEMM_MAX_EXPERTS;    /* of tiles; see build_tables() */
static constexpr int kMaxSmem = 232448;

template <typename T_, int kBlockN_, int kClusterM_, int kClusterN_, int kSource_, bool kBNMajor_,
          int kEpilogue_>
struct gemm_config {
    using T = T_;
    static constexpr int kBlockN = kBlockN_;
    static constexpr int kClusterM = kClusterM_;
    static constexpr int kClusterN = kClusterN_;
    static constexpr int kCluster = kClusterM * kClusterN;
    static constexpr bool kGathered = kSource_ == EPF_GEMM_A_GATHERED;
    static constexpr bool kColumns = kSource_ == EPF_GEMM_A_COLUMNS;
    static constexpr bool kBNMajor = kBNMajor_;
    static constexpr bool kRaw = kEpilogue_ == EPF_GEMM_TO_SWIGLU_RAW;
    static constexpr bool kSwiglu = kEpilogue_ == EPF_GEMM_TO_SWIGLU || kRaw;
    static constexpr bool kScatter = kEpilogue_ == EPF_GEMM_TO_ROW_PTR;
    static constexpr int kStages = kBlockN == 256 ? 4 : 6;
    static constexpr int kBytesA = kBlockM * kBlockK * 2;
    static constexpr int kBytesB = kBlockN * kBlockK * 2;
    static constexpr int kStoreParts = 4;
    static constexpr int kMinSteps =
        kStoreParts; /* beneath each k-step of a task a part is stored */
    static constexpr int kPlanThread = kGathered ? 0 : 32; /* which finds the CTA's next task */
    static constexpr int kFullArrivals = kGathered ? 1 + kLoadThreads / 32 : 1;
    static_assert(kCluster == 1 || kCluster == 2, "a cluster has one or two CTAs");
    static_assert(kStages < kTaskSlots, "a task slot outlives the ring");
    static_assert(!(kGathered && kClusterN > 1), "gathered rows are not multicast");
};

/* What the math warpgroups of this CTA need to know of a task. */
struct gemm_task {
    int32_t row_begin; /* first row of C                                          */
    int32_t rows;      /* 0 .. 128, this CTA's                                    */
    int32_t expert;
    int32_t n_tile;  /* in units of kBlockN                                     */
    int32_t num_k;   /* k-steps, at least C::kMinSteps; those past K hold zeros    */
    int32_t k_begin; /* weight gradient: first of the rows that are K           */
    int32_t k_rows;  /* weight gradient: their number                           */
    int32_t end;     /* 1: no task, and none to come                            */
};

template <class C> struct gemm_smem {
    uint8_t ring[C::kStages][C::kBytesA + C::kBytesB];
    uint8_t out[kThreads / 32 - kLoadThreads / 32][kOutBytes]; /* one per math warp */
    gemm_task task[kTaskSlots];
    uint64_t full[C::kStages];
    uint64_t empty[C::kStages];
    uint64_t next_full[kNextSlots];
    uint64_t wanted;           /* the load thread nears a task's end   */
    uint64_t ready;            /* the next task is in its slot, or none */
    uint32_t next[kNextSlots]; /* index of the cluster's next task */
    int32_t rows[kMaxGroups];
    int32_t row_offset[kMaxGroups];
    int32_t tile_offset[kMaxGroups + 1];
    int32_t k_rows[C::kColumns ? EPF_GEMM_MAX_EXPERTS : 1];
    int32_t k_offset[C::kColumns ? EPF_GEMM_MAX_EXPERTS : 1];
};

/*
 * Position in the ring of stages, in two rounds of which the phase tells one from the other, and the number
 * of tasks taken: together, since the math role has no register to spare.
 */
template <int kStages> struct gemm_ring {
    static_assert(2 * kStages <= 16, "the position has four bits");
    uint32_t packed = 0;
    __device__ __forceinline__ uint32_t stage() const
    {
        return packed % 16 % kStages;
    }
    __device__ __forceinline__ uint32_t phase() const
    {
        return packed % 16 / kStages;
    }
    __device__ __forceinline__ void advance()
    {
        packed += packed % 16 == 2 * kStages - 1 ? 1 - 2 * kStages : 1;
    }
    __device__ __forceinline__ uint32_t tasks() const
    {
        return packed / 16;
    }
    __device__ __forceinline__ void count_task()
    {
        packed += 16;
    }
};

/* Where fused kernels differ from the plain one. */
struct gemm_no_hooks {
    /* Load thread, before the task's first load: returns when its rows of A may be read. */
    static __device__ __forceinline__ void before_loads(const epf_gemm_sm90_args &,
                                                        const gemm_task &)
    {}
    /* Each math warp, after it stored its rows [row, row + rows) of the task. */
    static __device__ __forceinline__ void after_store(const epf_gemm_sm90_args &,
                                                       const gemm_task &, int, int)
    {}
};

/* Inclusive prefix sum over the warp's lanes. */
static __device__ __forceinline__ int32_t warp_scan(int32_t value)
{
    for (int step = 1; step < 32; step *= 2) {
        const int32_t before = __shfl_up_sync(~0u, value, step);
        value += (int)(threadIdx.x % 32) >= step ? before : 0;
    }
    return value;
}

/*
 * Fills the tile tables from the row counts; one warp.  Group of tiles g < num_experts is expert g.  With
 * short_last it has the expert's full tiles only, and group num_experts + g its last rows: tasks that cost
 * less then come at the end, where they even out the SMs' loads.
 */
template <class C>
static __device__ __forceinline__ void build_tables(const epf_gemm_sm90_args &args,
                                                    gemm_smem<C> &smem)
{
    const int lane = threadIdx.x % 32;
    const int block_m = kBlockM * C::kClusterM;
    int32_t rows_before = 0;
    int32_t full_before = 0;
    int32_t short_before = 0;
    for (int base = 0; base < args.num_experts; base += 32) {
        const int e = base + lane;
        const bool exists = e < args.num_experts;
        const int32_t rows = exists ? args.rows[e] : 0;
        const int32_t out_rows = C::kColumns ? (exists ? args.m : 0) : rows;
        const int32_t rest = args.short_last ? out_rows % block_m : 0;
        const int32_t full_tiles = (out_rows - rest + block_m - 1) / block_m;
        const int32_t short_tiles = rest > 0 ? 1 : 0;
        const int32_t row_end = rows_before + warp_scan(rows);
        const int32_t full_end = full_before + warp_scan(full_tiles);
        const int32_t short_end = short_before + warp_scan(short_tiles);
        if (exists) {
            const int32_t first = args.row_offset ? args.row_offset[e] : row_end - rows;
            const int32_t out_first = C::kColumns ? e * args.m : first;
            smem.rows[e] = out_rows - rest;
            smem.row_offset[e] = out_first;
            smem.tile_offset[e] = full_end - full_tiles;
            if (args.short_last) {
                smem.rows[args.num_experts + e] = rest;
                smem.row_offset[args.num_experts + e] = out_first + out_rows - rest;
                smem.tile_offset[args.num_experts + e] = short_end - short_tiles;
            }
            if constexpr (C::kColumns) {
                smem.k_rows[e] = rows;
                smem.k_offset[e] = first;
            }
        }
        rows_before = __shfl_sync(~0u, row_end, 31);
        full_before = __shfl_sync(~0u, full_end, 31);
        short_before = __shfl_sync(~0u, short_end, 31);
    }
    if (lane == 0) {
        smem.tile_offset[args.short_last ? 2 * args.num_experts : args.num_experts] =
            full_before + short_before;
    }
    __syncwarp();
    for (int e = lane; args.short_last && e < args.num_experts; e += 32) {
        smem.tile_offset[args.num_experts + e] += full_before;
    }
}

template <class C>
static __device__ __forceinline__ epf_tile_map tile_map(const epf_gemm_sm90_args &args,
                                                        const gemm_smem<C> &smem)
{
    epf_tile_map map;
    map.num_experts = args.short_last ? 2 * args.num_experts : args.num_experts;
    map.block_m = kBlockM * C::kClusterM;
    map.num_n_tiles = args.num_n_tiles;
    map.group_m = args.group_m;
    map.rows = smem.rows;
    map.row_offset = smem.row_offset;
    map.tile_offset = smem.tile_offset;
    return map;
}

/*
 * The part of a cluster's tile that is this CTA's.  Rows are dealt out in slabs of 64, the first CTA having
 * at most one more than the second, so that a short tile costs both the same.
 */
template <class C>
static __device__ __forceinline__ gemm_task cta_task(const epf_gemm_sm90_args &args,
                                                     const gemm_smem<C> &smem, const epf_tile &tile,
                                                     uint32_t cta)
{
    gemm_task task;
    task.row_begin = tile.row_begin;
    task.rows = tile.num_rows;
    task.expert = tile.expert >= args.num_experts ? tile.expert - args.num_experts : tile.expert;
    task.n_tile = tile.n_tile;
    task.num_k = max((args.k + kBlockK - 1) / kBlockK, C::kMinSteps);
    task.k_begin = 0;
    task.k_rows = 0;
    task.end = 0;
    if constexpr (C::kClusterM == 2) {
        const int32_t slabs = (tile.num_rows + kSlab - 1) / kSlab;
        const int32_t upper = (slabs + 1) / 2 * kSlab;
        task.row_begin += cta ? upper : 0;
        task.rows = cta ? max(tile.num_rows - upper, 0) : min(tile.num_rows, upper);
    }
    if constexpr (C::kClusterN == 2) {
        task.n_tile = tile.n_tile * 2 + (int32_t)cta;
    }
    if constexpr (C::kColumns) {
        task.k_rows = smem.k_rows[task.expert];
        task.num_k = max((task.k_rows + kBlockK - 1) / kBlockK, C::kMinSteps);
        task.k_begin = smem.k_offset[task.expert];
    }
    return task;
}

/* Issues the loads of A's slabs for one k-step; returns the bytes that will arrive in this CTA. */
template <class C>
static __device__ __forceinline__ uint32_t load_a(const epf_gemm_sm90_args &args,
                                                  const gemm_task &task, uint32_t to, uint64_t *bar,
                                                  int32_t k)
{
    uint32_t bytes = 0;
    const uint32_t cta = C::kClusterN == 2 ? cluster_cta_rank() : 0;
#pragma unroll
    for (int h = 0; h < kBlockM / kSlab; h++) {
        if (task.rows <= h * kSlab) {
            break;
        }
        const int32_t row = task.row_begin + h * kSlab;
        const int2 at = C::kColumns ? make_int2(row - task.expert * args.m, k) : make_int2(k, row);
        if constexpr (C::kClusterN == 2) {
            if ((uint32_t)h == cta) {
                tma_load_2d_multicast(to + h * kSlabBytes, &args.map_a, bar, at, 3, kEvictLast);
            }
        } else {
            tma_load_2d(to + h * kSlabBytes, &args.map_a, bar, at, kEvictLast);
        }
        bytes += kSlabBytes;
    }
    return bytes;
}

/* Issues the loads of B for one k-step: half a tile each where two CTAs share it. */
template <class C>
static __device__ __forceinline__ void load_b(const epf_gemm_sm90_args &args, const gemm_task &task,
                                              uint32_t to, uint64_t *bar, int32_t k)
{
    constexpr int kHalfN = C::kBlockN / 2;
    constexpr int kBoxes = C::kBNMajor ? kHalfN / 64 : 1;
    const uint32_t cta = C::kClusterM == 2 ? cluster_cta_rank() : 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (C::kClusterM == 2 && (uint32_t)h != cta) {
            continue;
        }
        const int32_t n = C::kSwiglu ? task.n_tile * kHalfN + h * args.half
                                     : task.n_tile * C::kBlockN + h * kHalfN;
#pragma unroll
        for (int box = 0; box < kBoxes; box++) {
            const uint32_t place = to + h * kHalfN * kBlockK * 2 + box * kSlabBytes;
            const int3 at = C::kBNMajor ? make_int3(n + box * 64, k, C::kColumns ? 0 : task.expert)
                                        : make_int3(k, n, task.expert);
            if constexpr (C::kClusterM == 2) {
                tma_load_3d_multicast(place, &args.map_b, bar, at, 3, kEvictNormal);
            } else {
                tma_load_3d(place, &args.map_b, bar, at, kEvictNormal);
            }
        }
    }
}

/* A load thread's way through the cluster's tasks: in fixed turns, or from the launch's queue. */
struct task_walk {
    epf_tile_map map;
    epf_tile_cursor cursor;
    uint32_t count;   /* tasks taken            */
    uint32_t fetched; /* index of the next task */
};

template <class C>
static __device__ __forceinline__ task_walk walk_begin(const epf_gemm_sm90_args &args,
                                                       const gemm_smem<C> &smem)
{
    task_walk walk;
    walk.map = tile_map(args, smem);
    walk.cursor = epf_tile_begin(blockIdx.x / C::kCluster, gridDim.x / C::kCluster);
    walk.count = 0;
    walk.fetched = 0;
    return walk;
}

/* Where this task is stored for the math role. */
static __device__ __forceinline__ uint32_t task_slot(const task_walk &walk)
{
    return (walk.count - 1) % kTaskSlots;
}

template <class C>
static __device__ __forceinline__ bool walk_next(const epf_gemm_sm90_args &args, gemm_smem<C> &smem,
                                                 task_walk &walk, gemm_task &task)
{
    epf_tile tile;
    if (args.queue && walk.count > 0) {
        const uint32_t slot = walk.count % kNextSlots;
        if (C::kCluster > 1 && threadIdx.x == C::kPlanThread) {
            mbarrier_arrive_expect_tx(&smem.next_full[slot], sizeof(uint32_t));
        }
        mbarrier_wait(&smem.next_full[slot], (walk.count - (slot == 0 ? 1 : 0)) / kNextSlots % 2);
        walk.cursor.index = smem.next[slot];
    }
    walk.count++;
    if (!epf_tile_next(&walk.map, &walk.cursor, &tile)) {
        return false;
    }
    task = cta_task(args, smem, tile, C::kCluster == 2 ? cluster_cta_rank() : 0);
    return true;
}

template <class C> static __device__ __forceinline__ bool walk_leads(const epf_gemm_sm90_args &args)
{
    return args.queue && threadIdx.x == C::kPlanThread &&
           (C::kCluster == 1 || cluster_cta_rank() == 0);
}

/* Near a task's end: asks for the next one, late so that no SM sits on work another could begin. */
template <class C>
static __device__ __forceinline__ void walk_fetch(const epf_gemm_sm90_args &args, task_walk &walk)
{
    if (walk_leads<C>(args)) {
        walk.fetched = gridDim.x / C::kCluster + atomicAdd(&args.queue[0], 1);
    }
}

/* At a task's end: tells every CTA of the cluster which task walk_fetch() got. */
template <class C>
static __device__ __forceinline__ void walk_publish(const epf_gemm_sm90_args &args,
                                                    gemm_smem<C> &smem, const task_walk &walk)
{
    if (walk_leads<C>(args)) {
        const uint32_t slot = walk.count % kNextSlots;
        if constexpr (C::kCluster == 1) {
            smem.next[slot] = walk.fetched;
            mbarrier_arrive(&smem.next_full[slot], 1);
        } else {
#pragma unroll
            for (uint32_t cta = 0; cta < C::kCluster; cta++) {
                store_async_cluster(&smem.next[slot], walk.fetched, &smem.next_full[slot], cta);
            }
        }
    }
}

template <class C> static __device__ __forceinline__ gemm_task end_task(void)
{
    gemm_task task = {};
    task.num_k = C::kMinSteps;
    task.end = 1;
    return task;
}

/* Hands the end, which is in its slot already, to the math role. */
template <class C>
static __device__ __forceinline__ void load_end(gemm_smem<C> &smem, gemm_ring<C::kStages> ring)
{
    for (int32_t step = 0; step < C::kMinSteps; step++) {
        mbarrier_wait(&smem.empty[ring.stage()], ring.phase() ^ 1);
        mbarrier_arrive(&smem.full[ring.stage()], C::kFullArrivals);
        ring.advance();
    }
}

/* The last cluster to end resets the queue. */
template <class C> static __device__ __forceinline__ void walk_done(const epf_gemm_sm90_args &args)
{
    if (walk_leads<C>(args) && atomicAdd(&args.queue[1], 1) == gridDim.x / C::kCluster - 1) {
        args.queue[0] = 0;
        args.queue[1] = 0;
    }
}

/* One thread finds the next task while the load thread is busy with the last k-steps of this one. */
template <class C>
static __device__ __forceinline__ void plan_role(const epf_gemm_sm90_args &args, gemm_smem<C> &smem)
{
    task_walk walk = walk_begin(args, smem);
    bool more = true;
    while (more) {
        gemm_task &next = smem.task[walk.count % kTaskSlots];
        if (walk.count > 0) {
            mbarrier_wait(&smem.wanted, (walk.count - 1) % 2);
            walk_fetch<C>(args, walk);
            walk_publish(args, smem, walk);
        }
        more = walk_next(args, smem, walk, next);
        if (!more) {
            next = end_task<C>();
        }
        mbarrier_arrive(&smem.ready, 1);
    }
    walk_done<C>(args);
}

template <class C, class Hooks>
static __device__ __forceinline__ void load_role(const epf_gemm_sm90_args &args, gemm_smem<C> &smem)
{
    gemm_ring<C::kStages> ring;
    for (;; ring.count_task()) {
        mbarrier_wait(&smem.ready, ring.tasks() % 2);
        const gemm_task task = smem.task[ring.tasks() % kTaskSlots];
        if (task.end) {
            break;
        }
        Hooks::before_loads(args, task);
        for (int32_t step = 0; step < task.num_k; step++) {
            uint64_t *bar = &smem.full[ring.stage()];
            const uint32_t place = smem_address(smem.ring[ring.stage()]);
            const int32_t k = task.k_begin + step * kBlockK;
            if (step == max(task.num_k - kFetchAhead, 0)) {
                mbarrier_arrive(&smem.wanted, 1);
            }
            mbarrier_wait(&smem.empty[ring.stage()], ring.phase() ^ 1);
            const uint32_t slabs = (uint32_t)(task.rows + kSlab - 1) / kSlab;
            mbarrier_arrive_expect_tx(bar, slabs * kSlabBytes + C::kBytesB);
            load_a<C>(args, task, place, bar, k);
            load_b<C>(args, task, place + C::kBytesA, bar, k);
            ring.advance();
        }
    }
    load_end(smem, ring);
}

/* This thread's share of the gathered rows: one 16-byte piece of every sixteenth row. */
struct gather_rows {
    static constexpr int kRows = kBlockM / (kLoadThreads / 8);
    uint32_t place;         /* of the first row's piece in the swizzled slab */
    uint32_t source[kRows]; /* first piece of each row, in pieces            */
    int32_t rows;           /* how many of them exist                        */
};

static __device__ __forceinline__ void gather_begin(const epf_gemm_sm90_args &args,
                                                    const gemm_task &task, gather_rows &mine)
{
    const int row = threadIdx.x / 8;
    const int piece = threadIdx.x % 8;
    mine.place = row * 128 + ((piece ^ (row % 8)) * 16);
    mine.rows = (task.rows - row + 15) / 16;
#pragma unroll
    for (int j = 0; j < gather_rows::kRows; j++) {
        const int32_t from = j < mine.rows ? args.gather[task.row_begin + row + 16 * j] : 0;
        mine.source[j] = (uint32_t)from * (uint32_t)(args.k / 8);
    }
}

/* Copies this thread's pieces of one k-step; columns past K become zero. */
static __device__ __forceinline__ void gather_step(const epf_gemm_sm90_args &args,
                                                   const gather_rows &mine, uint32_t to,
                                                   int32_t step)
{
    const uint32_t piece = step * (kBlockK / 8) + threadIdx.x % 8;
    const bool valid = piece < (uint32_t)(args.k / 8);
#pragma unroll
    for (int j = 0; j < gather_rows::kRows; j++) {
        if (j < mine.rows) {
            const uint64_t from = valid ? (uint64_t)mine.source[j] + piece : 0;
            cp_async_16(to + mine.place + j * 16 * 128, (const uint4 *)args.a + from, valid);
        }
    }
    cp_async_commit();
}

/* Signals this warp's part of a stage whose copies, by every lane, are complete. */
static __device__ __forceinline__ void gather_signal(uint64_t *bar)
{
    fence_proxy_async_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
        mbarrier_arrive(bar, 1);
    }
}

/*
 * As load_role(), with A gathered by all four warps.  Before a stage is waited for, the one issued kLag
 * steps ago is signalled, so that math never starves behind its own release of a stage.
 */
template <class C, class Hooks>
static __device__ __forceinline__ void gather_role(const epf_gemm_sm90_args &args,
                                                   gemm_smem<C> &smem)
{
    constexpr int kLag = 2;
    task_walk walk = walk_begin(args, smem);
    gemm_task task;
    gemm_ring<C::kStages> ring;
    gemm_ring<C::kStages> signalled;
    uint32_t unsignalled = 0;
    gather_rows mine;
    while (walk_next(args, smem, walk, task)) {
        Hooks::before_loads(args, task);
        gather_begin(args, task, mine);
        for (int32_t step = 0; step < task.num_k; step++) {
            uint64_t *bar = &smem.full[ring.stage()];
            const uint32_t place = smem_address(smem.ring[ring.stage()]);
            if (step == max(task.num_k - kFetchAhead, 0)) {
                walk_fetch<C>(args, walk);
            }
            if (unsignalled == kLag) {
                cp_async_wait<kLag - 1>();
                gather_signal(&smem.full[signalled.stage()]);
                signalled.advance();
                unsignalled--;
            }
            mbarrier_wait(&smem.empty[ring.stage()], ring.phase() ^ 1);
            if (threadIdx.x == 0) {
                if (step == 0) {
                    smem.task[task_slot(walk)] = task;
                }
                mbarrier_arrive_expect_tx(bar, C::kBytesB);
                load_b<C>(args, task, place + C::kBytesA, bar, step * kBlockK);
            }
            gather_step(args, mine, place, step);
            ring.advance();
            unsignalled++;
        }
        walk_publish(args, smem, walk);
        cp_async_wait<
            0>(); /* finding the next rows takes as long as math has work with these stages */
        for (; unsignalled > 0; unsignalled--) {
            gather_signal(&smem.full[signalled.stage()]);
            signalled.advance();
        }
    }
    if (threadIdx.x == 0) {
        smem.task[task_slot(walk)] = end_task<C>();
        load_end(smem, ring);
        walk_done<C>(args);
    }
}

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

/* One thread per CTA of the cluster tells that CTA that this warpgroup has read the stage. */
template <class C> static __device__ __forceinline__ void release(uint64_t *bar)
{
    const uint32_t thread = threadIdx.x % 128;
    if constexpr (C::kCluster == 1) {
        if (thread == 0) {
            mbarrier_arrive(bar, 1);
        }
    } else if (thread < C::kCluster) {
        mbarrier_arrive_cluster(bar, thread);
    }
}

#include "cuda/epf_gemm_store_sm90.cuh"

/*
 * Passes over a task of which this warpgroup has no rows, or the end; stores the task before.  Why a barrier:
 * one thread frees the stage for four warps, and no multiplication holds them together here; a warp that lags
 * by a round of the ring would wait for a phase that is gone.
 */
template <class C, class Hooks>
static __device__ __forceinline__ void skip_task(const epf_gemm_sm90_args &args, gemm_smem<C> &smem,
                                                 gemm_ring<C::kStages> &ring, rounded_tile<C> &done,
                                                 const gemm_task &before, int32_t num_k)
{
    for (int32_t step = 0; step < num_k; step++) {
        mbarrier_wait(&smem.full[ring.stage()], ring.phase());
        store_part<C, Hooks>(args, done, before, smem, step);
        named_barrier_sync(1 + (threadIdx.x - kLoadThreads) / 128, 128);
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
static __device__ __forceinline__ void math_role(const epf_gemm_sm90_args &args, gemm_smem<C> &smem)
{
    const int slab = (threadIdx.x - kLoadThreads) / 128;
    float acc[C::kBlockN / 2];
    rounded_tile<C> done;
    gemm_ring<C::kStages> ring;
    for (;; ring.count_task()) {
        const gemm_task &task = smem.task[ring.tasks() % kTaskSlots];
        const gemm_task &before = smem.task[(ring.tasks() - 1) % kTaskSlots];
        mbarrier_wait(&smem.full[ring.stage()], ring.phase());
        const int32_t num_k = task.num_k;
        if (task.rows <= slab * kSlab) {
            skip_task<C, Hooks>(args, smem, ring, done, before, num_k);
            if (task.end) {
                bulk_wait_read();
                return;
            }
            continue;
        }
        multiply_tail<C>(acc, smem.ring[ring.stage()], slab, 0, task, 0);
        store_part<C, Hooks>(args, done, before, smem, part_of<C>(0, slab, num_k));
        for (int32_t step = 1; step < num_k; step++) {
            const uint32_t previous = ring.stage();
            ring.advance();
            mbarrier_wait(&smem.full[ring.stage()], ring.phase());
            multiply_tail<C>(acc, smem.ring[ring.stage()], slab, 1, task, step);
            if (step < kLastStore<C>) {
                store_part<C, Hooks>(args, done, before, smem, part_of<C>(step, slab, num_k));
            }
            wgmma_wait<1>();
            release<C>(&smem.empty[previous]);
        }
        wgmma_wait<0>();
        release<C>(&smem.empty[ring.stage()]);
        ring.advance();
        round_tile<C>(acc, C::kColumns && task.k_rows == 0, done);
    }
}

template <class C, class Hooks>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_gemm_kernel(const __grid_constant__ epf_gemm_sm90_args args)
{
    extern __shared__ __align__(1024) uint8_t shared[];
    gemm_smem<C> &smem = *reinterpret_cast<gemm_smem<C> *>(shared);
    if (threadIdx.x < 32) {
        build_tables(args, smem);
    } else if (threadIdx.x == 32) {
        for (int i = 0; i < C::kStages; i++) {
            mbarrier_init(&smem.full[i], C::kFullArrivals);
            mbarrier_init(&smem.empty[i], 2 * C::kCluster);
        }
        for (int i = 0; i < kNextSlots; i++) {
            mbarrier_init(&smem.next_full[i], 1);
        }
        mbarrier_init(&smem.wanted, 1);
        mbarrier_init(&smem.ready, 1);
        smem.task[kTaskSlots - 1].rows = 0; /* before the first task there is nothing to store */
        fence_mbarrier_init();
        tma_prefetch_map(&args.map_a);
        tma_prefetch_map(&args.map_b);
    }
    __syncthreads();
    if constexpr (C::kCluster > 1) {
        cluster_sync();
    }
    if (threadIdx.x < kLoadThreads) {
        setmaxnreg_dec_40();
        if constexpr (C::kGathered) {
            gather_role<C, Hooks>(args, smem);
        } else if (threadIdx.x == 0) {
            load_role<C, Hooks>(args, smem);
        } else if (threadIdx.x == C::kPlanThread) {
            plan_role(args, smem);
        }
    } else {
        setmaxnreg_inc_232();
        math_role<C, Hooks>(args, smem);
    }
    if constexpr (C::kCluster > 1) {
        cluster_sync();
    }
}

#endif
