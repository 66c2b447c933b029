/*
 * epf_gemm_swap_sm90.cuh: the math role with operands swapped: transpose(C) = B * transpose(A).
 *
 * For few rows an expert.  A tile of 128 rows is wgmma's M dimension and costs the same however few of its rows
 * exist; wgmma's N dimension is any multiple of 8, so here an expert of 265 rows is two tiles of 136 that use
 * each weight once.  A warpgroup holds 128 columns of C by kN rows: two wgmma of 64 columns that share the rows.
 *
 * The accumulators hold C transposed.  A finished tile is stored at once, not beneath the next one's k-steps, for
 * which there are no registers: the grids that come here have a few tasks a CTA.
 */
#ifndef EPF_GEMM_SWAP_SM90_CUH
#define EPF_GEMM_SWAP_SM90_CUH

#include "cuda/epf_gemm_math_sm90.cuh"

/* Columns of a tile that a warpgroup stores: both of its slabs, or what an activation makes of them. */
template <class C> static constexpr int kSwapColumns = C::kSwiglu ? kSlab : 2 * kSlab;

/*
 * acc = weights * rows of one k-step, or += where `accumulate`; `half` names the warpgroup.  Its slabs follow each
 * other, or are the same columns of gate and up.
 */
template <class C, int kN>
static __device__ __forceinline__ void multiply_swapped(float (&acc)[2][kN / 2],
                                                        const uint8_t *stage, int half,
                                                        int accumulate)
{
    constexpr uint32_t kStepB = (C::kBNMajor ? 16 * 128 : 16 * 2) >> 4;
    constexpr uint32_t kStepA = 16 * 2 >> 4;
    constexpr uint32_t kFromSlab = (C::kSwiglu ? 2 : 1) * kSlabBytes;
    const uint32_t place = smem_address(stage);
    const uint32_t first = place + C::kBytesA + half * (C::kSwiglu ? 1 : 2) * kSlabBytes;
    const uint64_t rows = wgmma_descriptor(place, 0);
    const uint64_t weights = wgmma_descriptor(first, kSlabBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kBlockK / 16; i++) {
#pragma unroll
        for (int slab = 0; slab < 2; slab++) {
            wgmma<typename C::T, kN, C::kBNMajor, 0>(acc[slab],
                                                     weights + slab * (kFromSlab >> 4) + i * kStepB,
                                                     rows + i * kStepA, i > 0 ? 1 : accumulate);
        }
    }
    wgmma_commit();
}

/* Results of 16 rows from `row` on, rounded: pairs of rows r, r + 1 of columns c, c + 8 and again eight rows down. */
template <class C, int kN>
static __device__ __forceinline__ void round_rows(const float (&acc)[kN / 2], int row,
                                                  uint32_t (&pairs)[4])
{
    const int below = row + 8 < kN ? row + 8 : row; /* kN is odd eights: not stored */
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int at = (i < 2 ? row : below) / 2 + i % 2 * 2;
        pairs[i] = pack(typename C::T(), acc[at], acc[at + 1]);
    }
}

/* The rows' factors for an activation, where the lanes find them: the second box of the first buffer is free. */
template <class C, int kN>
static __device__ __forceinline__ const float *stage_weights(const epf_gemm_sm90_args &args,
                                                             const gemm_task &task, uint8_t *buffer)
{
    float *const weights = (float *)(buffer + kOutBytes);
    for (int i = threadIdx.x % 128; i < (kN + 15) / 16 * 16; i += 128) {
        weights[i] = i < task.rows ? row_weight(args, (int64_t)task.row_begin + i) : 1.0f;
    }
    named_barrier_sync(1 + (threadIdx.x - kLoadThreads) / 128, 128);
    return weights + threadIdx.x % 4 * 2;
}

/*
 * Stores a warpgroup's columns of C, 16 rows at a time.  A warp has 16 columns of a slab, 32 bytes of a row, and a
 * store costs as many cycles as it touches lines of 128 bytes: so the warpgroup transposes into one buffer, boxes of
 * 16 rows x 64 columns in the 128-byte swizzle, and each warp stores four whole rows of each.  Two buffers in turns,
 * so that one meeting each time is enough.
 */
template <class C, int kN>
static __device__ __forceinline__ void store_swapped(const epf_gemm_sm90_args &args,
                                                     const gemm_task &task, gemm_smem<C> &smem,
                                                     const float (&acc)[2][kN / 2])
{
    constexpr int kBoxes = kSwapColumns<C> / kSlab;
    const int half = (threadIdx.x - kLoadThreads) / 128;
    const int warp = threadIdx.x / 32 % 4;
    const int lane = threadIdx.x % 32;
    const int into = lane % 8 + lane / 16 * 8; /* row of the box */
    const int from = warp * 4 + lane / 8;
    const uint32_t boxes = smem_address(smem.out[half * 4]);
    const uint32_t write = into * 128 + ((warp * 2 + lane / 8 % 2) ^ (into % 8)) * 16;
    const uint32_t read = from * 128 + ((lane ^ from) % 8) * 16;
    const int32_t column = (task.n_tile * 2 + half) * kSwapColumns<C> + lane % 8 * 8;
    const int32_t end = C::kSwiglu ? args.half : args.n;
    const int32_t count = task.rows - from;
    const int64_t pitch = args.c_stride * 2;
    char *c = (char *)args.c + (task.row_begin + from) * pitch + (int64_t)column * 2;
    const float *weights = nullptr;
    if constexpr (C::kSwiglu) {
        weights = stage_weights<C, kN>(args, task, smem.out[half * 4]);
    }
#pragma unroll
    for (int row = 0; row < kN; row += 16) {
        const uint32_t buffer = boxes + row / 16 % 2 * 2 * kOutBytes;
        uint32_t pairs[2][4];
        uint4 piece[kBoxes];
        round_rows<C, kN>(acc[0], row, pairs[0]);
        round_rows<C, kN>(acc[1], row, pairs[1]);
        if constexpr (C::kSwiglu) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float2 weight = *(const float2 *)(weights + row + i / 2 * 8);
                pairs[0][i] = swiglu<C>(pairs[0][i], pairs[1][i], weight);
            }
        }
#pragma unroll
        for (int box = 0; box < kBoxes; box++) {
            stmatrix_x4_trans(buffer + box * kOutBytes + write, pairs[box]);
        }
        named_barrier_sync(1 + half, 128);
#pragma unroll
        for (int box = 0; box < kBoxes; box++) {
            load_shared_16(piece[box], buffer + box * kOutBytes + read);
        }
#pragma unroll
        for (int box = 0; box < kBoxes; box++) {
            if (row < count && column + box * kSlab < end) {
                *(uint4 *)(c + box * kSlab * 2) = piece[box];
            }
        }
        c += 16 * pitch;
    }
}

/* A task of up to kN rows, from its first k-step to the store. */
template <class C, int kN>
static __device__ __forceinline__ void swapped_task(const epf_gemm_sm90_args &args,
                                                    gemm_smem<C> &smem, const gemm_task &task,
                                                    gemm_ring<C::kStages> &ring)
{
    const int half = (threadIdx.x - kLoadThreads) / 128;
    const int32_t num_k = task.num_k;
    float acc[2][kN / 2];
    multiply_swapped<C, kN>(acc, smem.ring[ring.stage()], half, 0);
    for (int32_t step = 1; step < num_k; step++) {
        const uint32_t previous = ring.stage();
        ring.advance();
        mbarrier_wait(&smem.full[ring.stage()], ring.phase());
        multiply_swapped<C, kN>(acc, smem.ring[ring.stage()], half, 1);
        wgmma_wait<1>();
        release<C>(&smem.empty[previous]);
    }
    wgmma_wait<0>();
    release<C>(&smem.empty[ring.stage()]);
    ring.advance();
    store_swapped<C, kN>(args, task, smem, acc);
}

/* Passes over a task without rows, or the end. */
template <class C>
static __device__ __forceinline__ void skip_swapped(gemm_smem<C> &smem, gemm_ring<C::kStages> &ring,
                                                    int32_t num_k)
{
    for (int32_t step = 0; step < num_k; step++) {
        mbarrier_wait(&smem.full[ring.stage()], ring.phase());
        release<C>(&smem.empty[ring.stage()]);
        ring.advance();
    }
}

#define EPF_SWAP_WIDTH(n)                           \
    case n:                                         \
        swapped_task<C, n>(args, smem, task, ring); \
        break;

/* As math_role(); wgmma's width is part of the instruction, so each has code of its own. */
template <class C>
static __device__ __forceinline__ void swapped_math_role(const epf_gemm_sm90_args &args,
                                                         gemm_smem<C> &smem,
                                                         gemm_ring<C::kStages> &ring)
{
    for (;; ring.count_task()) {
        const gemm_task &task = smem.task[ring.tasks() % kTaskSlots];
        mbarrier_wait(&smem.full[ring.stage()], ring.phase());
        if (task.end) {
            break;
        }
        switch (__shfl_sync(~0u, swap_width(task.rows), 0)) {
            EPF_SWAP_WIDTH(16)
            EPF_SWAP_WIDTH(32)
            EPF_SWAP_WIDTH(48)
            EPF_SWAP_WIDTH(64)
            EPF_SWAP_WIDTH(80)
            EPF_SWAP_WIDTH(96)
            EPF_SWAP_WIDTH(112)
            EPF_SWAP_WIDTH(128)
            EPF_SWAP_WIDTH(136)
            EPF_SWAP_WIDTH(144)
            EPF_SWAP_WIDTH(152)
        default:
            skip_swapped<C>(smem, ring, task.num_k);
            break;
        }
        free_slot<C>(smem, ring.tasks());
    }
    skip_swapped<C>(smem, ring, C::kMinSteps);
    free_slot<C>(smem, ring.tasks());
    ring.count_task();
}

#endif
