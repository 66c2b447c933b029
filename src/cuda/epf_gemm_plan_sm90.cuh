/*
 * epf_gemm_plan_sm90.cuh: which task a CTA takes next; the plan role.
 *
 * A task is a tile of the whole cluster (epf_tile.h).  Tasks come in fixed turns, or from the launch's queue
 * in the order in which clusters ask, which keeps clusters that are near in time near in memory.
 */
#ifndef EPF_GEMM_PLAN_SM90_CUH
#define EPF_GEMM_PLAN_SM90_CUH

#include "cuda/epf_gemm_types_sm90.cuh"

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
    const int block_m = C::kTaskRows;
    int32_t rows_before = 0;
    int32_t full_before = 0;
    int32_t short_before = 0;
    for (int base = 0; base < args.num_experts; base += 32) {
        const int e = base + lane;
        const bool exists = e < args.num_experts;
        const int32_t rows = exists ? args.rows[e] : 0;
        const int32_t rest = args.short_last ? rows % block_m : 0;
        const int32_t full_tiles = (rows - rest + block_m - 1) / block_m;
        const int32_t short_tiles = rest > 0 ? 1 : 0;
        const int32_t row_end = rows_before + warp_scan(rows);
        const int32_t full_end = full_before + warp_scan(full_tiles);
        const int32_t short_end = short_before + warp_scan(short_tiles);
        if (exists) {
            const int32_t first = args.row_offset ? args.row_offset[e] : row_end - rows;
            smem.rows[e] = rows - rest;
            smem.row_offset[e] = first;
            smem.tile_offset[e] = full_end - full_tiles;
            if (args.short_last) {
                smem.rows[args.num_experts + e] = rest;
                smem.row_offset[args.num_experts + e] = first + rows - rest;
                smem.tile_offset[args.num_experts + e] = short_end - short_tiles;
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
    __syncwarp();
}

template <class C>
static __device__ __forceinline__ epf_tile_map tile_map(const epf_gemm_sm90_args &args,
                                                        const gemm_smem<C> &smem)
{
    epf_tile_map map;
    map.num_experts = args.short_last ? 2 * args.num_experts : args.num_experts;
    map.block_m = C::kTaskRows;
    map.num_n_tiles = args.num_n_tiles;
    map.group_m = args.group_m;
    map.rows = smem.rows;
    map.row_offset = smem.row_offset;
    map.tile_offset = smem.tile_offset;
    return map;
}

/*
 * Swapped operands: the expert's tiles and their CTAs share its rows evenly, so that none has a few rows that cost
 * all the weights.
 */
template <class C>
static __device__ __forceinline__ void share_rows(const gemm_smem<C> &smem, const epf_tile &tile,
                                                  uint32_t cta, gemm_task &task)
{
    const int32_t first = smem.tile_offset[tile.expert];
    const int32_t shares = (smem.tile_offset[tile.expert + 1] - first) * C::kClusterM;
    const int32_t share = (tile.m_tile - first) * C::kClusterM + (int32_t)cta;
    const int32_t each = smem.rows[tile.expert] / shares;
    const int32_t more = smem.rows[tile.expert] % shares; /* as many shares have one row more */
    task.row_begin = smem.row_offset[tile.expert] + share * each + min(share, more);
    task.rows = each + (share < more ? 1 : 0);
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
    if constexpr (C::kSwapped) {
        share_rows<C>(smem, tile, cta, task);
    } else if constexpr (C::kClusterM == 2) {
        const int32_t slabs = (tile.num_rows + kSlab - 1) / kSlab;
        const int32_t upper = (slabs + 1) / 2 * kSlab;
        task.row_begin += cta ? upper : 0;
        task.rows = cta ? max(tile.num_rows - upper, 0) : min(tile.num_rows, upper);
    }
    if constexpr (C::kClusterN == 2) {
        task.n_tile = tile.n_tile * 2 + (int32_t)cta;
    }
    if constexpr (C::kColumns) {
        task.k_rows = smem.rows[task.expert];
        task.num_k = max((task.k_rows + kBlockK - 1) / kBlockK, C::kMinSteps);
        task.k_begin = smem.row_offset[task.expert];
    }
    return task;
}

/* A load thread's way through the cluster's tasks: in fixed turns, or from the launch's queue. */
struct task_walk {
    epf_tile_map map;
    epf_tile_cursor cursor;
    uint32_t count;   /* tasks taken            */
    uint32_t fetched; /* index of the next task */
};

/* Clusters that take tasks. */
template <class C>
static __device__ __forceinline__ uint32_t num_clusters(const epf_gemm_sm90_args &args)
{
    return gridDim.x / C::kCluster - (uint32_t)args.first_cluster;
}

/* `count`: tasks of earlier passes through the ring, their ends among them. */
template <class C>
static __device__ __forceinline__ task_walk walk_begin(const epf_gemm_sm90_args &args,
                                                       const gemm_smem<C> &smem, uint32_t count)
{
    task_walk walk;
    walk.map = tile_map<C>(args, smem);
    walk.cursor = epf_tile_begin(blockIdx.x / C::kCluster - (uint32_t)args.first_cluster,
                                 num_clusters<C>(args));
    walk.count = count;
    walk.fetched = 0;
    return walk;
}

/* Where this task is stored for the math role. */
static __device__ __forceinline__ uint32_t task_slot(const task_walk &walk)
{
    return (walk.count - 1) % kTaskSlots;
}

/* The tile of a weight gradient: every expert's output has the same M rows, whatever the rows it sums over. */
template <class C>
static __device__ __forceinline__ bool next_grad_tile(const epf_gemm_sm90_args &args,
                                                      epf_tile_cursor &cursor, epf_tile &tile)
{
    const int32_t block_m = kBlockM * C::kClusterM;
    const int32_t num_m = (args.m + block_m - 1) / block_m;
    const int32_t per_expert = num_m * args.num_n_tiles;
    const int32_t index =
        (int32_t)cursor.index; /* the host checks that there are fewer than 2^31 */
    tile.expert = index / per_expert;
    if (tile.expert >= args.num_experts) {
        return false;
    }
    const epf_tile_place place =
        epf_tile_sweep(index - tile.expert * per_expert, num_m, args.num_n_tiles, args.group_m);
    tile.m_tile = tile.expert * num_m + place.m;
    tile.n_tile = place.n;
    tile.row_begin = tile.expert * args.m_pitch + place.m * block_m;
    tile.num_rows = min(block_m, args.m - place.m * block_m);
    cursor.index += cursor.step;
    return true;
}

template <class C>
static __device__ __forceinline__ bool next_tile(const epf_gemm_sm90_args &args, task_walk &walk,
                                                 epf_tile &tile)
{
    if constexpr (C::kColumns) {
        return next_grad_tile<C>(args, walk.cursor, tile);
    } else {
        return epf_tile_next(&walk.map, &walk.cursor, &tile);
    }
}

template <class C>
static __device__ __forceinline__ bool walk_next(const epf_gemm_sm90_args &args, gemm_smem<C> &smem,
                                                 task_walk &walk, gemm_task &task)
{
    epf_tile tile;
    if (args.queue && walk.count > 0) {
        const uint32_t slot = walk.count % kNextSlots;
        if (C::kCluster > 1 && threadIdx.x == kPlanThread) {
            mbarrier_arrive_expect_tx(&smem.next_full[slot], sizeof(uint32_t));
        }
        mbarrier_wait(&smem.next_full[slot], (walk.count - (slot == 0 ? 1 : 0)) / kNextSlots % 2);
        walk.cursor.index = smem.next[slot];
    }
    walk.count++;
    if (!next_tile<C>(args, walk, tile)) {
        return false;
    }
    task = cta_task<C>(args, smem, tile, C::kCluster == 2 ? cluster_cta_rank() : 0);
    return true;
}

template <class C> static __device__ __forceinline__ bool walk_leads(const epf_gemm_sm90_args &args)
{
    return args.queue && threadIdx.x == kPlanThread &&
           (C::kCluster == 1 || cluster_cta_rank() == 0);
}

/* Near a task's end: asks for the next one, late so that no SM sits on work another could begin. */
template <class C>
static __device__ __forceinline__ void walk_fetch(const epf_gemm_sm90_args &args, task_walk &walk)
{
    if (walk_leads<C>(args)) {
        walk.fetched = num_clusters<C>(args) + atomicAdd(&args.queue[0], 1);
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
static __device__ __forceinline__ void load_end(gemm_smem<C> &smem, gemm_ring<C::kStages> &ring)
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
    if (walk_leads<C>(args) && atomicAdd(&args.queue[1], 1) == num_clusters<C>(args) - 1) {
        args.queue[0] = 0;
        args.queue[1] = 0;
    }
}

/* Until math is done with the slot of task `count`.  The last slot counts one more, for no task before the first. */
template <class C>
static __device__ __forceinline__ void wait_slot(gemm_smem<C> &smem, uint32_t count)
{
    mbarrier_wait(&smem.task_free[count % kTaskSlots], ((count + 1) / kTaskSlots + 1) % 2);
}

/* Brings the indices of a task's rows near: the warps that gather wait for them when the task begins. */
static __device__ __forceinline__ void touch_indices(const epf_gemm_sm90_args &args,
                                                     const gemm_task &task)
{
    constexpr int kLine = 128 / sizeof(int32_t);
    for (int32_t row = 0; row < task.rows + kLine - 1; row += kLine) {
        touch_global(&args.gather[task.row_begin + min(row, task.rows - 1)]);
    }
}

/*
 * One thread finds the next task while the load thread is busy with the last k-steps of this one.  `count`: tasks
 * of earlier passes; afterwards those of this one as well.
 */
template <class C, class Hooks>
static __device__ __forceinline__ void plan_role(const epf_gemm_sm90_args &args, gemm_smem<C> &smem,
                                                 uint32_t &count)
{
    task_walk walk = walk_begin<C>(args, smem, count);
    bool more = true;
    while (more) {
        gemm_task &next = smem.task[walk.count % kTaskSlots];
        if (walk.count > 0) {
            mbarrier_wait(&smem.wanted, (walk.count - 1) % 2);
            walk_fetch<C>(args, walk);
            walk_publish<C>(args, smem, walk);
        }
        wait_slot<C>(smem, walk.count);
        more = walk_next<C>(args, smem, walk, next);
        if (more) {
            Hooks::before_task(args, next, walk.count - count);
            if constexpr (C::kGathered) {
                touch_indices(args, next);
            }
        } else {
            next = end_task<C>();
        }
        mbarrier_arrive(&smem.ready, 1);
    }
    walk_done<C>(args);
    count = walk.count;
}

#endif
