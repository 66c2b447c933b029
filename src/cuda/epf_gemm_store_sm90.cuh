/*
 * epf_gemm_store_sm90.cuh: from accumulators to memory; included by epf_gemm_sm90.cuh only.
 *
 * A finished tile is rounded to 16 bits at once, which frees the accumulators, and stored later, while the
 * tensor cores work on the next tile.  SwiGLU is computed from the rounded values, so that it gives the same
 * bits as the plain product followed by an activation.
 */
#ifndef EPF_GEMM_STORE_SM90_CUH
#define EPF_GEMM_STORE_SM90_CUH

static constexpr int kStoreParts = 4;

/* One warpgroup's 64 x kBlockN results: pairs of columns of two rows per thread (see wgmma.cuh). */
template <class C> struct rounded_tile {
    static constexpr int kPairs = C::kBlockN / 8;
    uint32_t upper[kPairs]; /* row 16 * warp + lane / 4, columns 8j + 2 * (lane % 4) */
    uint32_t lower[kPairs]; /* eight rows down                                       */
};

/* The 16 rows of the calling warp. */
struct warp_rows {
    int32_t begin; /* first row of C */
    int32_t count; /* 0 .. 16        */
};

static __device__ __forceinline__ warp_rows rows_of_warp(const gemm_task &task)
{
    const int32_t first = (int32_t)(threadIdx.x - kLoadThreads) / 32 * 16;
    warp_rows mine;
    mine.begin = task.row_begin + first;
    mine.count = min(max(task.rows - first, 0), 16);
    return mine;
}

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
static __device__ __forceinline__ void round_tile(const float (&acc)[C::kBlockN / 2], bool empty,
                                                  rounded_tile<C> &out)
{
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
                                                    const warp_rows &rows)
{
    const int lane = threadIdx.x % 32;
    lane_rows mine;
    mine.rows = (rows.count - lane / 8 + 3) / 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t row = rows.begin + lane / 8 + 4 * i;
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
#ifdef EPF_STREAM_C
            __stcs((uint4 *)(to.row[i] + (int64_t)column * 2), piece);
#else
            *(uint4 *)(to.row[i] + (int64_t)column * 2) = piece;
#endif
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

/* Replaces gate by the activation, pairs kBegin .. kEnd - 1. */
template <class C, int kBegin, int kEnd>
static __device__ __forceinline__ void swiglu_pairs(const float *row_weight, const warp_rows &rows,
                                                    rounded_tile<C> &done)
{
    constexpr int kHalf = rounded_tile<C>::kPairs / 2;
    const int in_warp = threadIdx.x % 32 / 4;
    const float *weight = row_weight ? row_weight + rows.begin + in_warp : nullptr;
    const float upper = weight && in_warp < rows.count ? weight[0] : 1.0f;
    const float lower = weight && in_warp + 8 < rows.count ? weight[8] : 1.0f;
#pragma unroll
    for (int j = kBegin; j < kEnd; j++) {
        done.upper[j] = swiglu<C>(done.upper[j], done.upper[j + kHalf], upper);
        done.lower[j] = swiglu<C>(done.lower[j], done.lower[j + kHalf], lower);
    }
}

/*
 * One quarter of storing `task`, which round_tile() left in `done`, through the warp's buffer.  Why quarters: each hides beneath a k-step of the next tile, which leaves little more of the shared memory's
 * bandwidth than that, and an activation takes as long as one.
 */
template <class C, class Hooks, int kPart>
static __device__ __forceinline__ void store_part(const epf_gemm_sm90_args &args, rounded_tile<C> &done,
                                                  const gemm_task &task, uint8_t *out)
{
    constexpr int kPairs = rounded_tile<C>::kPairs;
    constexpr int kHalf = kPairs / 2;     /* pairs of gate or up     */
    constexpr int kPair = kPart * 8;      /* the 64 columns of a part */
    constexpr int kOut = kPart / 2 * 8;   /* and of an activation     */
    const warp_rows rows = rows_of_warp(task);
    if (rows.count == 0) {
        return;
    }
    const uint32_t buffer = smem_address(out);
    const int64_t row_bytes = (int64_t)args.n * 2;
    if (C::kColumns || args.half == 0) {
        if constexpr (kPair < kPairs) {
            const lane_rows to = rows_of(args.c, args.row_ptr, row_bytes, rows);
            const int32_t column = task.n_tile * C::kBlockN + kPair * 8;
            store_columns(done.upper + kPair, done.lower + kPair, buffer, to, make_int2(column, args.n));
        }
    } else if constexpr (kOut < kHalf && kPart % 2 == 0) {
        const int32_t column = task.n_tile * (C::kBlockN / 2) + kOut * 8;
        if (args.raw) {
            const lane_rows to = rows_of(args.raw, nullptr, row_bytes, rows);
            store_columns(done.upper + kOut, done.lower + kOut, buffer, to, make_int2(column, args.half));
            store_columns(done.upper + kHalf + kOut, done.lower + kHalf + kOut, buffer, to,
                          make_int2(args.half + column, args.n));
        }
        swiglu_pairs<C, kOut, kOut + 8>(args.row_weight, rows, done);
    } else if constexpr (kOut < kHalf) {
        const lane_rows to = rows_of(args.c, args.row_ptr, row_bytes / 2, rows);
        const int32_t column = task.n_tile * (C::kBlockN / 2) + kOut * 8;
        store_columns(done.upper + kOut, done.lower + kOut, buffer, to, make_int2(column, args.half));
    }
    if (kPart == kStoreParts - 1) {
        Hooks::after_store(args, task, rows.begin, rows.count);
    }
}

/* The parts from `begin` on. */
template <class C, class Hooks>
static __device__ __forceinline__ void store_rest(const epf_gemm_sm90_args &args, rounded_tile<C> &done,
                                                  const gemm_task &task, uint8_t *out, int begin)
{
    if (begin <= 0) {
        store_part<C, Hooks, 0>(args, done, task, out);
    }
    if (begin <= 1) {
        store_part<C, Hooks, 1>(args, done, task, out);
    }
    if (begin <= 2) {
        store_part<C, Hooks, 2>(args, done, task, out);
    }
    if (begin <= 3) {
        store_part<C, Hooks, 3>(args, done, task, out);
    }
}

#endif
