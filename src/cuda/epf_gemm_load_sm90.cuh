/*
 * epf_gemm_load_sm90.cuh: filling the ring with k-steps of A and B; the load roles.
 */
#ifndef EPF_GEMM_LOAD_SM90_CUH
#define EPF_GEMM_LOAD_SM90_CUH

#include "cuda/epf_gemm_plan_sm90.cuh"

/* Issues the loads of A's slabs for one k-step. */
template <class C>
static __device__ __forceinline__ void load_a(const epf_gemm_sm90_args &args, const gemm_task &task,
                                              uint32_t to, uint64_t *bar, int32_t k)
{
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
    }
}

/* As load_a(), of as many rows as wgmma's N dimension takes. */
static __device__ __forceinline__ void load_swapped_a(const epf_gemm_sm90_args &args,
                                                      const gemm_task &task, uint32_t to,
                                                      uint64_t *bar, int32_t k)
{
    const int32_t width = swap_width(task.rows);
    int32_t row = 0;
    for (; row + kSlab <= width; row += kSlab) {
        tma_load_2d(to + row * kBlockK * 2, &args.map_a, bar, make_int2(k, task.row_begin + row),
                    kEvictLast);
    }
    for (; row < width; row += EPF_GEMM_SWAP_STEP) {
        tma_load_2d(to + row * kBlockK * 2, &args.map_a_rest, bar,
                    make_int2(k, task.row_begin + row), kEvictLast);
    }
}

/* Bytes of A that a k-step's loads bring. */
template <class C> static __device__ __forceinline__ uint32_t bytes_of_a(const gemm_task &task)
{
    const int32_t rows =
        C::kSwapped ? swap_width(task.rows) : (task.rows + kSlab - 1) / kSlab * kSlab;
    return (uint32_t)rows * kBlockK * 2;
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
            mbarrier_arrive_expect_tx(bar, bytes_of_a<C>(task) + C::kBytesB);
            if constexpr (
                C::kSwapped) { /* first what comes from memory, then what others read too */
                load_b<C>(args, task, place + C::kBytesA, bar, k);
                load_swapped_a(args, task, place, bar, k);
            } else {
                load_a<C>(args, task, place, bar, k);
                load_b<C>(args, task, place + C::kBytesA, bar, k);
            }
            ring.advance();
        }
    }
    mbarrier_arrive(&smem.wanted, 1); /* a next pass may be planned */
    load_end<C>(smem, ring);
    ring.count_task();
}

/*
 * This thread's share of the gathered rows: one 16-byte piece of every eighth row.  Each CTA of the cluster gathers
 * half of each slab, so that a tile of few rows costs both the same.
 */
struct gather_rows {
    static constexpr int kPart = kSlab / 2;             /* of a slab, this CTA's   */
    static constexpr int kAtOnce = kGatherThreads / 8;  /* rows that a pass copies */
    static constexpr int kRows = kBlockM / 2 / kAtOnce; /* passes                  */
    static_assert(kAtOnce == 8, "the swizzle is the same for all of a thread's rows");
    uint32_t place;         /* of the first row's piece in the swizzled tile */
    uint32_t source[kRows]; /* first piece of each row, in pieces            */
    static __device__ __forceinline__ constexpr int row(int j) /* counted from the first */
    {
        return j * kAtOnce / kPart * kSlab + j * kAtOnce % kPart;
    }
};
static constexpr uint32_t kNoRow = ~0u; /* for a source */

static __device__ __forceinline__ void gather_begin(const epf_gemm_sm90_args &args,
                                                    const gemm_task &task, gather_rows &mine)
{
    const int32_t first = (int32_t)(threadIdx.x - kFirstGatherThread) / 8 +
                          (int32_t)cluster_cta_rank() * gather_rows::kPart;
    mine.place = first * 128 + (((threadIdx.x ^ first) % 8) * 16);
#pragma unroll
    for (int j = 0; j < gather_rows::kRows; j++) {
        const int32_t row = first + mine.row(j);
        const int32_t from = row < task.rows ? args.gather[task.row_begin + row] : -1;
        mine.source[j] = from < 0 ? kNoRow : (uint32_t)from * (uint32_t)(args.k / 8);
    }
}

/* Copies this thread's pieces of one k-step; columns past K become zero, rows past the last stay as they are: to read
 * another one in their place is to read it for all of them at once. */
static __device__ __forceinline__ void gather_step(const epf_gemm_sm90_args &args,
                                                   const gather_rows &mine, uint32_t to,
                                                   int32_t step)
{
    const uint32_t piece = step * (kBlockK / 8) + threadIdx.x % 8;
    const bool valid = piece < (uint32_t)(args.k / 8);
    const uint4 *from = (const uint4 *)args.a + piece;
    asm volatile("" : "+l"(from)); /* two instructions for a row's address, not four */
#pragma unroll
    for (int j = 0; j < gather_rows::kRows; j++) {
        if (mine.source[j] != kNoRow) {
            cp_async_16(to + mine.place + mine.row(j) * 128, from + mine.source[j], valid,
                        kEvictLast);
        }
    }
}

/* Gathers this CTA's half of the rows, two warps; gather_load_role() sees when they have arrived. */
template <class C>
static __device__ __forceinline__ void gather_role(const epf_gemm_sm90_args &args,
                                                   gemm_smem<C> &smem)
{
    gemm_ring<C::kStages> ring;
    gather_rows mine;
    for (;; ring.count_task()) {
        mbarrier_wait(&smem.ready, ring.tasks() % 2);
        const gemm_task &task = smem.task[ring.tasks() % kTaskSlots];
        const int32_t num_k = task.num_k;
        const bool end = task.end;
        gather_begin(args, task, mine);
        mbarrier_arrive(&smem.wanted, 1); /* the slot is not read again */
        if (end) {
            break;
        }
        for (int32_t step = 0; step < num_k; step++) {
            mbarrier_wait(&smem.empty[ring.stage()], ring.phase() ^ 1);
            gather_step(args, mine, smem_address(smem.ring[ring.stage()]), step);
            cp_async_arrive(&smem.gathered[ring.stage()]);
            ring.advance();
        }
    }
}

/* Hands on a stage whose rows have been gathered, if there is one: to the other CTA a copy of them.  Returns 1 or 0. */
template <class C>
static __device__ __forceinline__ int32_t hand_on(gemm_smem<C> &smem,
                                                  gemm_ring<C::kStages> &gathered)
{
    const uint32_t stage = gathered.stage();
    const uint32_t cta = cluster_cta_rank();
    if (!mbarrier_test(&smem.gathered[stage], gathered.phase())) {
        return 0;
    }
    fence_proxy_async_shared();
#pragma unroll
    for (int h = 0; h < kBlockM / kSlab; h++) {
        bulk_copy_cluster(smem_address(smem.ring[stage]) + h * kSlabBytes + cta * kSlabBytes / 2,
                          kSlabBytes / 2, &smem.full[stage], cta ^ 1);
    }
    mbarrier_arrive(&smem.full[stage], 1);
    gathered.advance();
    return 1;
}

/* As load_role() for B; meanwhile it hands on what has been gathered. */
template <class C>
static __device__ __forceinline__ void gather_load_role(const epf_gemm_sm90_args &args,
                                                        gemm_smem<C> &smem,
                                                        gemm_ring<C::kStages> &ring)
{
    gemm_ring<C::kStages> gathered;
    int32_t behind = 0; /* k-steps loaded and not handed on */
    for (;; ring.count_task()) {
        while (!mbarrier_test(&smem.ready, ring.tasks() % 2)) {
            behind -= hand_on<C>(smem, gathered);
        }
        const gemm_task task = smem.task[ring.tasks() % kTaskSlots];
        if (task.end) {
            break;
        }
        for (int32_t step = 0; step < task.num_k; step++) {
            uint64_t *bar = &smem.full[ring.stage()];
            const uint32_t place = smem_address(smem.ring[ring.stage()]);
            if (step == max(task.num_k - kFetchAhead, 0)) {
                mbarrier_arrive(&smem.wanted, 1);
            }
            while (!mbarrier_test(&smem.empty[ring.stage()], ring.phase() ^ 1)) {
                behind -= hand_on<C>(smem, gathered);
            }
            mbarrier_arrive_expect_tx(bar, C::kBytesA / 2 + C::kBytesB);
            load_b<C>(args, task, place + C::kBytesA, bar, step * kBlockK);
            ring.advance();
            behind += 1 - hand_on<C>(smem, gathered);
        }
    }
    while (behind > 0) {
        behind -= hand_on<C>(smem, gathered);
    }
    mbarrier_arrive(&smem.wanted, 1);
    load_end<C>(smem, ring);
    ring.count_task();
}

#endif
