/*
 * epf_gemm_store_sm90.cuh: from accumulators to memory; included by epf_gemm_sm90.cuh only.
 *
 * A finished tile is rounded to 16 bits at once, which frees the accumulators, and stored later, while the
 * tensor cores work on the next tile.  SwiGLU is computed from the rounded values, so that it gives the same
 * bits as the plain product followed by an activation.
 */
#ifndef EPF_GEMM_STORE_SM90_CUH
#define EPF_GEMM_STORE_SM90_CUH

/* One warpgroup's 64 x kBlockN results: pairs of columns of two rows per thread (see wgmma.cuh). */
template <class C> struct rounded_tile {
    static constexpr int kPairs = C::kBlockN / 8;
    uint32_t upper[kPairs]; /* row 16 * warp + lane / 4, columns 8j + 2 * (lane % 4)  */
    uint32_t lower[kPairs]; /* eight rows down                                        */
    gemm_task task;
    int32_t row_begin;      /* the warp's first row of C                              */
    int32_t rows;           /* 0 .. 16, the warp's                                    */
};

static __device__ __forceinline__ uint32_t pack(__nv_bfloat16, float a, float b)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    return *(const uint32_t *)&pair;
}

static __device__ __forceinline__ uint32_t pack(__half, float a, float b)
{
    const __half2 pair = __floats2half2_rn(a, b);
    return *(const uint32_t *)&pair;
}

static __device__ __forceinline__ float2 unpack(__nv_bfloat16, uint32_t pair)
{
    return __bfloat1622float2(*(const __nv_bfloat162 *)&pair);
}

static __device__ __forceinline__ float2 unpack(__half, uint32_t pair)
{
    return __half22float2(*(const __half2 *)&pair);
}

template <class C>
static __device__ __forceinline__ void round_tile(const float (&acc)[C::kBlockN / 2], const gemm_task &task,
                                                  int slab, bool empty, rounded_tile<C> &out)
{
    const int warp_row = slab * kSlab + (threadIdx.x % 128) / 32 * 16;
    out.task = task;
    out.row_begin = task.row_begin + warp_row;
    out.rows = min(max(task.rows - warp_row, 0), 16);
#pragma unroll
    for (int j = 0; j < rounded_tile<C>::kPairs; j++) {
        const uint32_t upper = pack(typename C::T(), acc[4 * j], acc[4 * j + 1]);
        const uint32_t lower = pack(typename C::T(), acc[4 * j + 2], acc[4 * j + 3]);
        out.upper[j] = empty ? 0 : upper;
        out.lower[j] = empty ? 0 : lower;
    }
}

/* The rows this lane stores: lane / 8 and every fourth after it, 16 bytes at a time. */
struct lane_rows {
    char *row[4];
    int32_t rows; /* how many of them exist */
};

static __device__ __forceinline__ lane_rows rows_of(void *base, void *const *row_ptr, int64_t row_bytes,
                                                    int32_t first, int32_t rows)
{
    const int lane = threadIdx.x % 32;
    lane_rows mine;
    mine.rows = (rows - lane / 8 + 3) / 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t row = first + lane / 8 + 4 * i;
        if (row_ptr) {
            mine.row[i] = i < mine.rows ? (char *)row_ptr[row] : nullptr;
        } else {
            mine.row[i] = (char *)base + row * row_bytes;
        }
    }
    return mine;
}

/*
 * Stores 16 rows x 64 columns through the warp's buffer, which turns pairs of columns into 128 contiguous
 * bytes of a row.
 */
static __device__ __forceinline__ void store_columns(const uint32_t *upper, const uint32_t *lower,
                                                     uint32_t buffer, const lane_rows &to, int2 column_end)
{
    const int lane = threadIdx.x % 32;
    const uint32_t write = buffer + (lane % 16) * kOutPitch + lane / 16 * 16;
    const uint32_t read = buffer + lane / 8 * kOutPitch + lane % 8 * 16;
    const int32_t column = column_end.x + lane % 8 * 8;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
        stmatrix_x4(write + j * 16, upper[j], lower[j], upper[j + 1], lower[j + 1]);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint4 piece;
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(piece.x), "=r"(piece.y), "=r"(piece.z), "=r"(piece.w)
                     : "r"(read + i * 4 * kOutPitch)
                     : "memory");
        if (i < to.rows && column < column_end.y) {
            *(uint4 *)(to.row[i] + (int64_t)column * 2) = piece;
        }
    }
}

/* silu(gate) * up * weight for two neighbouring columns, rounded once. */
template <class C> static __device__ __forceinline__ uint32_t swiglu(uint32_t gate, uint32_t up, float weight)
{
    const float2 g = unpack(typename C::T(), gate);
    const float2 u = unpack(typename C::T(), up);
    const float x = __fdividef(g.x, 1.0f + __expf(-g.x)) * u.x * weight;
    const float y = __fdividef(g.y, 1.0f + __expf(-g.y)) * u.y * weight;
    return pack(typename C::T(), x, y);
}

/* Stores what round_tile() left, if anything, and forgets it. */
template <class C, class Hooks>
static __device__ __forceinline__ void store_tile(const epf_gemm_sm90_args &args, rounded_tile<C> &done,
                                                  gemm_smem<C> &smem)
{
    constexpr int kHalfPairs = rounded_tile<C>::kPairs / 2;
    const int lane = threadIdx.x % 32;
    if (done.rows == 0) {
        return;
    }
    const uint32_t buffer = smem_address(smem.out[threadIdx.x / 32 - kLoadThreads / 32]);
    const int64_t row_bytes = (int64_t)args.n * 2;
    if (C::kColumns || args.half == 0) {
        const lane_rows to = rows_of(args.c, args.row_ptr, row_bytes, done.row_begin, done.rows);
        const int32_t column = done.task.n_tile * C::kBlockN;
#pragma unroll
        for (int j = 0; j < 2 * kHalfPairs; j += 8) {
            store_columns(done.upper + j, done.lower + j, buffer, to, make_int2(column + j * 8, args.n));
        }
    } else {
        const int32_t column = done.task.n_tile * (C::kBlockN / 2);
        if (args.raw) {
            const lane_rows to = rows_of(args.raw, nullptr, row_bytes, done.row_begin, done.rows);
#pragma unroll
            for (int j = 0; j < kHalfPairs; j += 8) {
                store_columns(done.upper + j, done.lower + j, buffer, to,
                              make_int2(column + j * 8, args.half));
                store_columns(done.upper + kHalfPairs + j, done.lower + kHalfPairs + j, buffer, to,
                              make_int2(args.half + column + j * 8,
                                        min(args.n, args.half + column + kHalfPairs * 8)));
            }
        }
        const int32_t row = done.row_begin + lane / 4;
        const bool weighted = args.row_weight != nullptr;
        const float upper = weighted && lane / 4 < done.rows ? args.row_weight[row] : 1.0f;
        const float lower = weighted && lane / 4 + 8 < done.rows ? args.row_weight[row + 8] : 1.0f;
#pragma unroll
        for (int j = 0; j < kHalfPairs; j++) {
            done.upper[j] = swiglu<C>(done.upper[j], done.upper[j + kHalfPairs], upper);
            done.lower[j] = swiglu<C>(done.lower[j], done.lower[j + kHalfPairs], lower);
        }
        const lane_rows to =
            rows_of(args.c, args.row_ptr, (int64_t)args.half * 2, done.row_begin, done.rows);
#pragma unroll
        for (int j = 0; j < kHalfPairs; j += 8) {
            store_columns(done.upper + j, done.lower + j, buffer, to, make_int2(column + j * 8, args.half));
        }
    }
    Hooks::after_store(args, done.task, done.row_begin, done.rows);
    done.rows = 0;
}

#endif
