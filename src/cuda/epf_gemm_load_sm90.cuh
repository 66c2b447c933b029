/*
 * epf_gemm_load_sm90.cuh: filling the ring with k-steps of A and B; the load roles.
 */
#ifndef EPF_GEMM_LOAD_SM90_CUH
#define EPF_GEMM_LOAD_SM90_CUH

#include "cuda/epf_gemm_plan_sm90.cuh"

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
        const int2 at =
            C::kColumns ? make_int2(row - task.expert * args.m_pitch, k) : make_int2(k, row);
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

template <class C, class Hooks>
static __device__ __forceinline__ void load_role(const epf_gemm_sm90_args &args, gemm_smem<C> &smem,
                                                 gemm_ring<C::kStages> &ring)
{
    for (;; ring.count_task()) {
        mbarrier_wait(&smem.ready, ring.tasks() % 2);
        const gemm_task task = smem.task[ring.tasks() % kTaskSlots];
        if (task.end) {
            break;
        }
        Hooks::before_loads();
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
    mbarrier_arrive(&smem.wanted, 1); /* a next pass may be planned */
    load_end<C>(smem, ring);
    ring.count_task();
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
template <class C>
static __device__ __forceinline__ void gather_role(const epf_gemm_sm90_args &args,
                                                   gemm_smem<C> &smem)
{
    constexpr int kLag = 2;
    task_walk walk = walk_begin<C>(args, smem, 0);
    gemm_task task;
    gemm_ring<C::kStages> ring;
    gemm_ring<C::kStages> signalled;
    uint32_t unsignalled = 0;
    gather_rows mine;
    while (walk_next<C>(args, smem, walk, task)) {
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
        walk_publish<C>(args, smem, walk);
        cp_async_wait<
            0>(); /* finding the next rows takes as long as math has work with these stages */
        for (; unsignalled > 0; unsignalled--) {
            gather_signal(&smem.full[signalled.stage()]);
            signalled.advance();
        }
    }
    if (threadIdx.x == 0) {
        smem.task[task_slot(walk)] = end_task<C>();
        load_end<C>(smem, ring);
        walk_done<C>(args);
    }
}

#endif
