/*
 * epf_phase_sum_sm90.cuh: the way back of a combine: flags of finished tiles (SCATTER), and the sum per token
 * (REDUCE).
 */
#ifndef EPF_PHASE_SUM_SM90_CUH
#define EPF_PHASE_SUM_SM90_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/epf_phase_comm_sm90.cuh"

/* This rank's gates, by row. */
static __device__ __forceinline__ const uint8_t *gates_of(const epf_call &call)
{
    return call.gate_input ? (const uint8_t *)call.gate_input
                           : call.set[call.rank] + call.set_map.gate;
}

/* What tile_done[t] comes to: each warp that stored rows of a tile counts once per task of the tile. */
static __device__ __forceinline__ uint64_t tile_done_target(const epf_tile &tile, int32_t tasks)
{
    return (uint64_t)((tile.num_rows + EPF_CUDA_PART_ROWS - 1) / EPF_CUDA_PART_ROWS) * tasks;
}

/* The row is with its owner: its gate and its flag follow. */
static __device__ __forceinline__ void flag_row(const phase_view &v, int64_t row)
{
    const epf_call &call = v.c.call;
    const int32_t bytes = call.shape.weight_bytes;
    const int64_t slot = call.row_source[2 * row];
    const int32_t owner = call.row_source[2 * row + 1];
    if (call.has_gate) {
        copy_weight(call.set[owner] + call.set_map.combine_gate + slot * bytes,
                    gates_of(call) + row * bytes, bytes);
    }
    epf_store_release_sys_u64(epf_call_set_word(&call, owner, call.set_map.combine_flag, slot),
                              epf_word(v.shared.epoch, 0));
}

/* One lane, when the M-tile's rows have been stored: its N-tiles count for the caller, all at once. */
static __device__ __forceinline__ void signal_tile(const phase_view &v, int32_t tile)
{
    const epf_call &call = v.c.call;
    if (call.signal) {
        (void)epf_add_release_sys_u32((uint32_t *)&call.signal[tile],
                                      (uint32_t)call.phase.tiles.num_n_tiles);
    }
}

/* SCATTER: the rows of M-tile t are with their owners: gates and flags follow.  tile_done is zero again after it. */
static __device__ __forceinline__ bool notify_task(const phase_view &v, int32_t index,
                                                   int32_t tasks)
{
    const epf_tile tile = epf_tile_of_m(&v.tiles, index);
    uint64_t *const done = &v.c.tile_done[index];
    prof_begin(v);
    const bool ok = epf_device_wait(v.c, done, tile_done_target(tile, tasks),
                                    {EPF_OBJECT_TILE_DONE, v.c.call.rank, index});
    if (!__all_sync(~0u, ok)) {
        return false;
    }
    __syncwarp();
    if (v.lane == 0) {
        epf_store_relaxed_gpu_u64(done, 0);
        signal_tile(v, index);
    }
    prof_end(v, EPF_PROF_COMBINE_WAIT, index);
    prof_begin(v);
#pragma unroll 1
    for (int32_t i = v.lane; i < tile.num_rows; i += 32) {
        flag_row(v, (int64_t)tile.row_begin + i);
    }
    prof_end(v, EPF_PROF_GROUP_GEMM_TAIL_NOTIFY, index);
    return true;
}

/* Tasks of an M-tile where rows stay here first: parts of 16 rows to bring away, or one that only counts. */
static __device__ __forceinline__ int32_t bring_parts(const epf_call &call)
{
    return call.phase.kind == EPF_PHASE_COMBINE_SCATTER ? EPF_CUDA_TILE_PARTS : 1;
}

/* Brings staged rows [rows.x, rows.y) to their owners. */
template <int kAhead>
static __device__ __forceinline__ void bring_rows(const phase_view &v, int2 rows)
{
    const epf_call &call = v.c.call;
#pragma unroll 1
    for (int32_t row = rows.x; row < rows.y; row++) {
        const int2 source = ((const int2 *)call.row_source)[row];
        copy_row<kAhead>(epf_call_set_row(&call, source.y, call.set_map.combine_rows, source.x),
                         (const uint8_t *)call.staged.data + row * epf_shape_row_bytes(&call.shape),
                         row_pieces(call), v.lane);
    }
    __syncwarp();
    if (rows.x + v.lane < rows.y) {
        flag_row(v, rows.x + v.lane);
    }
}

/*
 * SCATTER where rows stay here first.  Two words of tile_done for an M-tile: warps that stored of it, and parts that have
 * seen that; the last part makes both zero.
 */
template <int kAhead>
static __device__ __forceinline__ bool bring_task(const phase_view &v, int32_t index, int32_t tasks)
{
    const epf_call &call = v.c.call;
    const int32_t parts = bring_parts(call);
    const int32_t m_tile = index / parts;
    const epf_tile tile = epf_tile_of_m(&v.tiles, m_tile);
    uint64_t *const done = &v.c.tile_done[(int64_t)m_tile * EPF_CUDA_TILE_PARTS];
    prof_begin(v);
    const bool ok = epf_device_wait(v.c, done, tile_done_target(tile, tasks),
                                    {EPF_OBJECT_TILE_DONE, call.rank, m_tile});
    if (!__all_sync(~0u, ok)) {
        return false;
    }
    if (v.lane == 0 && epf_add_relaxed_gpu_u64(&done[1], 1) == (uint64_t)parts - 1) {
        epf_store_relaxed_gpu_u64(&done[0], 0);
        epf_store_relaxed_gpu_u64(&done[1], 0);
        signal_tile(v, m_tile);
    }
    prof_end(v, EPF_PROF_COMBINE_WAIT, m_tile);
    if (call.phase.kind == EPF_PHASE_COMBINE_SCATTER) {
        const int32_t first = index % parts * EPF_CUDA_PART_ROWS;
        prof_begin(v);
        bring_rows<kAhead>(
            v, make_int2(tile.row_begin + first,
                         tile.row_begin + min(first + EPF_CUDA_PART_ROWS, tile.num_rows)));
        prof_end(v, EPF_PROF_COMBINE_SCATTER_TOKEN, index);
    }
    return true;
}

/* SCATTER until none is left, where rows stay here first. */
template <int kAhead>
static __device__ __forceinline__ void bring_role(const phase_view &v, int32_t tasks_per_tile)
{
    const int32_t num = epf_tile_num_m(&v.tiles) * bring_parts(v.c.call);
    for (;;) {
        const int32_t task = take_ticket(v, EPF_TASK_SCATTER);
        if (task >= num || !bring_task<kAhead>(v, task, tasks_per_tile)) {
            return;
        }
    }
}

/* The math role's: a function of its own, as reduce_role() is. */
template <int kAhead>
static __device__ __noinline__ void math_bring_role(const phase_view v, int32_t tasks_per_tile)
{
    bring_role<kAhead>(v, tasks_per_tile);
}

/* One lane's slot of a token that is summed. */
struct summed_slot {
    const uint8_t *y;
    const uint8_t *gate;
    float factor;
    uint32_t kept; /* of the warp: slots that were not dropped */
};

static __device__ __forceinline__ summed_slot look_at_sum(const phase_view &v, int64_t token)
{
    const epf_call &call = v.c.call;
    const epf_shape &s = call.shape;
    const int64_t slot = token * s.topk + v.lane;
    const int32_t expert = v.lane < s.topk ? call.topk_idx[slot] : -1;
    const bool kept = !epf_route_is_dropped(expert, s.num_experts);
    summed_slot own = {nullptr, nullptr, 1.0f, 0};
    if (kept) {
        const bool pulls = call.phase.kind == EPF_PHASE_COMBINE_SERIAL;
        const int32_t from = pulls ? expert / s.num_local : call.rank;
        const int64_t row = pulls ? call.dst_row[slot] : slot;
        own.y = epf_call_set_row(&call, from, call.set_map.combine_rows, row);
        own.gate = call.set[from] + call.set_map.combine_gate + row * s.weight_bytes;
        if (call.combine_weights.data) {
            own.factor =
                ((const float *)
                     call.combine_weights.data)[token * call.combine_weights.stride + v.lane];
        }
    }
    own.kept = __ballot_sync(~0u, kept);
    return own;
}

/* Before a token is summed: serial, everything of all ranks (waited for once); scatter, its own slots. */
static __device__ __forceinline__ bool wait_token(const phase_view &v, int64_t token)
{
    const epf_call &call = v.c.call;
    const epf_shape &s = call.shape;
    const int64_t slot = token * s.topk + v.lane;
    bool ok = true;
    if (v.lane < s.topk) {
        const int32_t expert = call.topk_idx[slot];
        if (!epf_route_is_dropped(expert, s.num_experts)) {
            const int32_t owner = expert / s.num_local;
            ok = epf_device_wait(
                v.c, epf_call_set_word(&call, call.rank, call.set_map.combine_flag, slot),
                epf_word(v.shared.epoch, 0), {EPF_OBJECT_COMBINE_FLAG, owner, slot});
        }
    }
    return __all_sync(~0u, ok);
}

static __device__ __forceinline__ bool wait_barrier(const phase_view &v)
{
    const epf_call &call = v.c.call;
    bool ok = true;
#pragma unroll 1
    for (int32_t r = v.lane; r < call.shape.num_ranks && ok; r += 32) {
        ok = epf_device_wait(v.c,
                             epf_call_control_word(&call, call.rank, call.control_map.barrier, r),
                             epf_word(v.shared.epoch, 0), {EPF_OBJECT_BARRIER, r, r});
    }
    return __all_sync(~0u, ok);
}

template <class T> static __device__ __forceinline__ float2 widen(uint32_t pair);
template <> __device__ __forceinline__ float2 widen<__nv_bfloat16>(uint32_t pair)
{
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
template <> __device__ __forceinline__ float2 widen<__half>(uint32_t pair)
{
    return __half22float2(*(const __half2 *)&pair);
}
template <class T> static __device__ __forceinline__ uint32_t narrow(float2 pair);
template <> __device__ __forceinline__ uint32_t narrow<__nv_bfloat16>(float2 pair)
{
    const __nv_bfloat162 both = __floats2bfloat162_rn(pair.x, pair.y);
    return *(const uint32_t *)&both;
}
template <> __device__ __forceinline__ uint32_t narrow<__half>(float2 pair)
{
    const __half2 both = __floats2half2_rn(pair.x, pair.y);
    return *(const uint32_t *)&both;
}

template <class T>
static __device__ __forceinline__ void add_scaled(float2 (&sum)[4], const uint4 &y, float factor)
{
    const uint32_t pairs[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 value = widen<T>(pairs[i]);
        sum[i].x = fmaf(factor, value.x, sum[i].x);
        sum[i].y = fmaf(factor, value.y, sum[i].y);
    }
}

/*
 * Sums a token's rows in fp32, k ascending; each lane 8 columns at a time, kAhead rows of them on their way.  The
 * pieces [begin, end) of 8 columns.
 */
template <class T, int kAhead>
static __device__ __forceinline__ void sum_pieces(const phase_view &v, const summed_slot &own,
                                                  uint4 *out, int32_t begin, int32_t end)
{
#pragma unroll 1
    for (int32_t first = begin; first < end; first += 32) {
        const int32_t piece = first + v.lane;
        float2 sum[4] = {};
#pragma unroll 1
        for (uint32_t left = own.kept; left != 0;) {
            uint32_t ahead = left;
            uint4 y[kAhead];
#pragma unroll
            for (int j = 0; j < kAhead; j++) {
                const int k = ahead != 0 ? __ffs((int)ahead) - 1 : 0;
                const uint4 *const from =
                    (const uint4 *)__shfl_sync(~0u, (unsigned long long)own.y, k);
                y[j] = make_uint4(0, 0, 0, 0);
                if (ahead != 0 && piece < end) {
                    y[j] = from[piece];
                }
                ahead &= ahead - 1;
            }
#pragma unroll
            for (int j = 0; j < kAhead; j++) {
                const int k = left != 0 ? __ffs((int)left) - 1 : 0;
                const float factor = __shfl_sync(~0u, own.factor, k);
                add_scaled<T>(sum, y[j], left != 0 ? factor : 0.0f);
                left &= left - 1;
            }
        }
        if (piece < end) {
            out[piece] = make_uint4(narrow<T>(sum[0]), narrow<T>(sum[1]), narrow<T>(sum[2]),
                                    narrow<T>(sum[3]));
        }
    }
}

static __device__ __forceinline__ void store_gate(const phase_view &v, const summed_slot &own,
                                                  int64_t token)
{
    const epf_call &call = v.c.call;
    const int32_t bytes = call.shape.weight_bytes;
    uint8_t *const to =
        (uint8_t *)call.output_gate.data + (token * call.output_gate.stride + v.lane) * bytes;
    if (own.gate) {
        copy_weight(to, own.gate, bytes);
    } else if (bytes == 4) {
        *(uint32_t *)to = 0;
    } else {
        *(uint16_t *)to = 0;
    }
}

/* Part `part` of the columns of a token's sum; its gates with the first. */
template <class T, int kAhead>
static __device__ __forceinline__ void sum_token(const phase_view &v, int32_t token, int32_t part)
{
    const epf_call &call = v.c.call;
    const summed_slot own = look_at_sum(v, token);
    const int32_t pieces = row_pieces(call);
    const int32_t steps = (pieces + 31) / 32;
    const int32_t first = part * steps / v.shared.column_parts * 32;
    const int32_t end = min((part + 1) * steps / v.shared.column_parts * 32, pieces);
    sum_pieces<T, kAhead>(v, own,
                          (uint4 *)((uint8_t *)call.combine_output.data +
                                    token * call.combine_output.stride * call.shape.token_bytes),
                          first, end);
    if (part == 0 && call.has_gate && v.lane < call.shape.topk) {
        store_gate(v, own, token);
    }
}

/*
 * REDUCE until none is left.  The math role's: a function of its own, by value, since in line it would take registers
 * from the tiles.
 */
template <class T, int kAhead> static __device__ __noinline__ void reduce_role(const phase_view v)
{
    const epf_call &call = v.c.call;
    const bool is_serial = call.phase.kind == EPF_PHASE_COMBINE_SERIAL;
    prof_begin(v);
    if (!wait_entered(v) || (is_serial && !wait_barrier(v))) {
        return;
    }
    if (is_serial) {
        prof_end(v, EPF_PROF_BARRIER_ALL, EPF_PROF_NONE);
    }
    for (;;) {
        const uint32_t ticket = (uint32_t)take_ticket(v, EPF_TASK_REDUCE);
        const int32_t token = (int32_t)(ticket / (uint32_t)v.shared.column_parts);
        if (token >= call.num_tokens) {
            return;
        }
        if (!is_serial) {
            prof_begin(v);
            if (!wait_token(v, token)) {
                return;
            }
            prof_end(v, EPF_PROF_COMBINE_WAIT, token);
        }
        prof_begin(v);
        sum_token<T, kAhead>(v, token, (int32_t)(ticket % (uint32_t)v.shared.column_parts));
        prof_end(v, EPF_PROF_COMBINE_TOPK_REDUCE, token);
    }
}

/* SCATTER of fuse_scatter. */
static __device__ __forceinline__ void notify_role(const phase_view &v, int32_t tasks_per_tile)
{
    const int32_t num_tiles = epf_tile_num_m(&v.tiles);
    for (;;) {
        const int32_t task = take_ticket(v, EPF_TASK_SCATTER);
        if (task >= num_tiles || !notify_task(v, task, tasks_per_tile)) {
            return;
        }
    }
}

#endif
