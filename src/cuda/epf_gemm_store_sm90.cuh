/*
 * epf_gemm_store_sm90.cuh: from accumulators to memory; included by epf_gemm_math_sm90.cuh only.
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

/*
 * Stores a weight gradient's sums as they are (c_f32): 8 bytes a lane, a sector for four of them.  At once, for kept
 * beneath the next task's k-steps they would take twice the registers of rounded ones.
 */
template <class C>
static __device__ __forceinline__ void store_sums(const epf_gemm_sm90_args &args,
                                                  const float (&acc)[C::kBlockN / 2],
                                                  const gemm_task &task)
{
    const warp_rows rows = rows_of_warp(task);
    const int row = threadIdx.x % 32 / 4;
    const int32_t column = task.n_tile * C::kBlockN + threadIdx.x % 4 * 2;
    const int64_t eight_rows = 8 * args.c_stride;
    const bool empty = task.k_rows == 0;
    float *const at = (float *)args.c + (rows.begin + row) * args.c_stride + column;
#pragma unroll
    for (int j = 0; j < C::kBlockN / 8; j++) {
        if (column + 8 * j < args.n && row < rows.count) {
            *(float2 *)(at + 8 * j) =
                empty ? make_float2(0, 0) : make_float2(acc[4 * j], acc[4 * j + 1]);
        }
        if (column + 8 * j < args.n && row + 8 < rows.count) {
            *(float2 *)(at + eight_rows + 8 * j) =
                empty ? make_float2(0, 0) : make_float2(acc[4 * j + 2], acc[4 * j + 3]);
        }
    }
}

/* Where rows are stored: those that stay together, or by Hooks::row_address(). */
struct store_place {
    char *base;
    int64_t pitch; /* bytes from row to row */
};

/* Waits until the warp's buffer is free and puts 16 rows x 64 columns there, in the 128-byte swizzle. */
static __device__ __forceinline__ void fill_buffer(const uint32_t *upper, const uint32_t *lower,
                                                   uint32_t buffer)
{
    const int lane = threadIdx.x % 32;
    const uint32_t row = buffer + lane % 16 * 128;
    const uint32_t piece = (lane / 16) ^ (lane % 8);
    if (lane == 0) {
        bulk_wait_read();
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
        stmatrix_x4(row + (j ^ piece) * 16, upper[j], lower[j], upper[j + 1], lower[j + 1]);
    }
}

/* Stores the buffer's rows from `column_end.x` on to where they go: lane l 16 bytes of row l / 8 and every fourth
 * after it. */
template <bool kScatter, class Hooks>
static __device__ __forceinline__ void store_rows(const epf_gemm_sm90_args &args, uint32_t buffer,
                                                  const store_place &place, const warp_rows &rows,
                                                  int2 column_end)
{
    const int lane = threadIdx.x % 32;
    const int32_t column = column_end.x + lane % 8 * 8;
    const int32_t count = column < column_end.y ? (rows.count - lane / 8 + 3) / 4 : 0;
    const int64_t first = rows.begin + lane / 8;
    uint4 piece[4];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = lane / 8 + 4 * i;
        load_shared_16(piece[i], buffer + row * 128 + (((lane ^ row) % 8) * 16));
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i < count) {
            char *row = kScatter ? Hooks::row_address(args, rows.begin, lane / 8 + 4 * i)
                                 : place.base + (first + 4 * i) * place.pitch;
            *(uint4 *)(row + (int64_t)column * 2) = piece[i];
        }
    }
    __syncwarp();
}

/* Stores 16 rows x 64 columns of C: by TMA where all rows are there and stay together. */
template <bool kScatter, class Hooks>
static __device__ __forceinline__ void store_columns(const epf_gemm_sm90_args &args,
                                                     const CUtensorMap *map,
                                                     const store_place &place, uint32_t buffer,
                                                     const warp_rows &rows, int2 column_end)
{
    if (!kScatter && rows.count == EPF_GEMM_STORE_ROWS) {
        fence_proxy_async_shared();
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
            tma_store_2d(map, buffer, make_int2(column_end.x, rows.begin));
            bulk_commit();
        }
    } else {
        store_rows<kScatter, Hooks>(args, buffer, place, rows, column_end);
    }
}

/* x / (1 + exp(-x)), within 2^-20 of it: two approximate instructions, no special cases. */
static __device__ __forceinline__ float silu(float x)
{
    float power;
    float inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
    return x * inverse;
}

/* silu(gate) * up * weight for two neighbours, rounded once. */
template <class C>
static __device__ __forceinline__ uint32_t swiglu(uint32_t gate, uint32_t up, float2 weight)
{
    const float2 g = unpack(typename C::T(), gate);
    const float2 u = unpack(typename C::T(), up);
    return pack(typename C::T(), silu(g.x) * u.x * weight.x, silu(g.y) * u.y * weight.y);
}

/* Keeps the compiler from unpacking a value long before its use, which takes twice the registers. */
static __device__ __forceinline__ void pin(uint32_t &value)
{
    asm volatile("" : "+r"(value));
}

static __device__ __forceinline__ float row_weight(const epf_gemm_sm90_args &args, int64_t row)
{
    if (!args.row_weight) {
        return 1.0f;
    }
    return args.row_weight_bf16 ? __bfloat162float(((const __nv_bfloat16 *)args.row_weight)[row])
                                : ((const float *)args.row_weight)[row];
}

/* Replaces gate by the activation, pairs kBegin .. kEnd - 1. */
template <class C, int kBegin, int kEnd>
static __device__ __forceinline__ void swiglu_pairs(const epf_gemm_sm90_args &args,
                                                    const warp_rows &rows, rounded_tile<C> &done)
{
    constexpr int kHalf = rounded_tile<C>::kPairs / 2;
    const int in_warp = threadIdx.x % 32 / 4;
    const float upper = in_warp < rows.count ? row_weight(args, rows.begin + in_warp) : 1.0f;
    const float lower =
        in_warp + 8 < rows.count ? row_weight(args, rows.begin + in_warp + 8) : 1.0f;
#pragma unroll
    for (int j = kBegin; j < kEnd; j++) {
        pin(done.upper[j + kHalf]);
        pin(done.lower[j + kHalf]);
        done.upper[j] = swiglu<C>(done.upper[j], done.upper[j + kHalf], make_float2(upper, upper));
        done.lower[j] = swiglu<C>(done.lower[j], done.lower[j + kHalf], make_float2(lower, lower));
    }
}

/* Part kPart of store_part(), for `rows` rows of the calling warp: 64 columns. */
template <class C, class Hooks, int kPart>
static __device__ __forceinline__ void store_plain(const epf_gemm_sm90_args &args,
                                                   rounded_tile<C> &done, const warp_rows &rows,
                                                   int32_t n_tile, uint32_t buffer)
{
    constexpr int kPair = kPart * 8;
    if constexpr (kPair < rounded_tile<C>::kPairs) {
        fill_buffer(done.upper + kPair, done.lower + kPair, buffer);
        store_columns<C::kScatter, Hooks>(args, &args.map_c, {(char *)args.c, args.c_stride * 2},
                                          buffer, rows,
                                          make_int2(n_tile * C::kBlockN + kPair * 8, args.n));
    }
}

/* The same with an activation: a quarter of it is computed; every second part stores 64 columns. */
template <class C, class Hooks, int kPart>
static __device__ __forceinline__ void store_swiglu(const epf_gemm_sm90_args &args,
                                                    rounded_tile<C> &done, const warp_rows &rows,
                                                    int32_t n_tile, uint32_t buffer)
{
    constexpr int kHalf = rounded_tile<C>::kPairs / 2; /* pairs of gate or up */
    constexpr int kPair = kPart * 4;
    constexpr int kOut = kPart / 2 * 8; /* first pair of these 64 columns */
    if constexpr (kPair < kHalf) {
        const int32_t column = n_tile * (C::kBlockN / 2) + kOut * 8;
        swiglu_pairs<C, kPair, kPair + 4>(args, rows, done);
        if constexpr (kPair == kOut + 4) {
            fill_buffer(done.upper + kOut, done.lower + kOut, buffer);
            store_columns<false, Hooks>(args, &args.map_c, {(char *)args.c, args.c_stride * 2},
                                        buffer, rows, make_int2(column, args.half));
        }
    }
}

/* 64 columns of the product itself, the first half of them gate. */
template <class C, class Hooks, int kPart>
static __device__ __forceinline__ void store_raw(const epf_gemm_sm90_args &args,
                                                 rounded_tile<C> &done, const warp_rows &rows,
                                                 int32_t n_tile, uint32_t buffer)
{
    constexpr int kHalf = rounded_tile<C>::kPairs / 2;
    constexpr int kPair = kPart * 8;
    if constexpr (kPair < 2 * kHalf) {
        const int32_t column = n_tile * (C::kBlockN / 2) + kPair % kHalf * 8;
        fill_buffer(done.upper + kPair, done.lower + kPair, buffer);
        store_columns<false, Hooks>(
            args, &args.map_raw, {(char *)args.raw, args.raw_stride * 2}, buffer, rows,
            kPair < kHalf ? make_int2(column, args.half) : make_int2(args.half + column, args.n));
    }
}

template <class C, class Hooks, int kPart>
static __device__ __forceinline__ void store_one(const epf_gemm_sm90_args &args,
                                                 rounded_tile<C> &done, const gemm_task &task,
                                                 gemm_smem<C> &smem)
{
    const warp_rows rows = rows_of_warp(task);
    const uint32_t buffer = smem_address(smem.out[(threadIdx.x - kLoadThreads) / 32]);
    if (rows.count == 0) {
        return;
    }
    if (kPart == 0) {
        Hooks::store_begins(args, rows.begin, rows.count);
    }
    if constexpr (C::kRaw) {
        store_raw<C, Hooks, kPart>(args, done, rows, task.n_tile, buffer);
    }
    if constexpr (C::kSwiglu) {
        store_swiglu<C, Hooks, kPart>(args, done, rows, task.n_tile, buffer);
    } else {
        store_plain<C, Hooks, kPart>(args, done, rows, task.n_tile, buffer);
    }
    if (kPart == C::kStoreParts - 1) {
        Hooks::after_store(args, task, rows.begin, rows.count);
    }
}

/*
 * One part of storing `task`, which round_tile() left in `done`, through the warp's buffer.  Why parts: a
 * warpgroup that does not multiply leaves the tensor cores to the other one, but for half a k-step only.
 */
template <class C, class Hooks>
static __device__ __forceinline__ void store_part(const epf_gemm_sm90_args &args,
                                                  rounded_tile<C> &done, const gemm_task &task,
                                                  gemm_smem<C> &smem, int part)
{
    if (C::kColumns && args.c_f32) {
        return; /* store_sums() has stored it */
    }
    switch (part) {
    case 0:
        store_one<C, Hooks, 0>(args, done, task, smem);
        break;
    case 1:
        store_one<C, Hooks, 1>(args, done, task, smem);
        break;
    case 2:
        store_one<C, Hooks, 2>(args, done, task, smem);
        break;
    case 3:
        store_one<C, Hooks, 3>(args, done, task, smem);
        break;
    default:
        break;
    }
}

#endif
