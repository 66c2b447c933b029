/*
 * epf_phase_comm_sm90.cuh: the communication role of a fused phase: tasks of the schedule other than the tiles.
 *
 * A worker of the schedule (epf_sched.h) is one warp here.  It takes tickets of a class from the launch's state,
 * and its lanes share each task: 16 bytes of a row per lane, one slot, row or rank per lane where words are waited
 * for or signalled.  Release by one lane of what all lanes stored: __syncwarp() orders the lanes, a release of
 * system scope is cumulative.
 */
#ifndef EPF_PHASE_COMM_SM90_CUH
#define EPF_PHASE_COMM_SM90_CUH

#include "core/epf_route.h"
#include "cuda/epf_device.cuh"
#include "cuda/epf_phase_sm90.h"

/* What every CTA finds out at its start. */
struct phase_shared {
    uint32_t epoch;
    uint64_t entered;  /* what this rank stores as `entered` */
    int32_t num_slots; /* sent by this rank */
    int32_t num_rows;  /* R */
    int32_t slots_per_task;
    int32_t part_rows;    /* EXPAND: rows of a part of an M-tile */
    int32_t head_parts;   /* parts that the first tiles wait for */
    int32_t column_parts; /* REDUCE: parts of a token's columns */
    uint32_t run;         /* 0: nothing is done, this rank takes no part */
    uint32_t
        counts_tiles; /* combine: somebody waits for M-tiles, so that rows stored are counted */
    /* Each lane's next record, NULL where none is kept, and its last one: here, since roles have no register to spare. */
    epf_prof_record *record[EPF_CUDA_PROF_LANES];
    epf_prof_record *last_record[EPF_CUDA_PROF_LANES];
};

/* A warp's view of the call. */
struct phase_view {
    const epf_cuda_call &c;
    phase_shared &shared;
    const epf_tile_map &tiles; /* in shared memory */
    int32_t lane;
};

/* One thread of the lane: its task begins, and ends.  Free where nothing is recorded but for a look. */
static __device__ __forceinline__ void record_begin(const phase_shared &shared, int32_t lane)
{
    epf_prof_record *const record = shared.record[lane];
    if (record) {
        record->begin_ns = epf_device_clock_ns();
    }
}

static __device__ __forceinline__ void record_end(phase_shared &shared, int32_t lane,
                                                  epf_prof_event event, int32_t task)
{
    epf_prof_record *const record = shared.record[lane];
    if (record) {
        record->end_ns = epf_device_clock_ns();
        record->event = event;
        record->task = task;
        record->expert = EPF_PROF_NONE;
        record->rows = EPF_PROF_NONE;
        shared.record[lane] = record == shared.last_record[lane] ? nullptr : record + 1;
    }
}

/* The communicating warps' tasks; math warps' sums are left out but for the first one's. */
static __device__ __forceinline__ int32_t lane_of_warp(void)
{
    return (int32_t)threadIdx.x / 32 - 2 + EPF_CUDA_LANE_COMM_0;
}

static __device__ __forceinline__ void prof_begin(const phase_view &v)
{
    if (v.lane == 0 && lane_of_warp() <= EPF_CUDA_LANE_MATH) {
        record_begin(v.shared, lane_of_warp());
    }
}

static __device__ __forceinline__ void prof_end(const phase_view &v, epf_prof_event event,
                                                int32_t task)
{
    if (v.lane == 0 && lane_of_warp() <= EPF_CUDA_LANE_MATH) {
        record_end(v.shared, lane_of_warp(), event, task);
    }
}

/* EXPAND works on parts of a tile, so that many warps fill the tiles that are needed next. */
static __device__ __forceinline__ int32_t parts_per_tile(const phase_shared &shared)
{
    return EPF_CUDA_BLOCK_M / shared.part_rows;
}

/*
 * Tiles that are swept together (epf_tile.h) are waited for together: `tile_ready` of the group's first tile counts
 * the parts of all.  The tasks of a group then begin at one time and go through K side by side, which is what keeps
 * their operands in the L2 cache; begun one by one as their rows arrive, a product takes up to twice as long.
 */
struct tile_group {
    int32_t first; /* M-tile */
    int32_t num;   /* of tiles */
};

static __device__ __forceinline__ tile_group group_of_tile(const epf_tile_map &tiles,
                                                           int32_t expert, int32_t tile)
{
    const int32_t in_expert = tile - tiles.tile_offset[expert];
    tile_group group;
    group.first = tile - in_expert % tiles.group_m;
    group.num = min(tiles.group_m, tiles.tile_offset[expert + 1] - group.first);
    return group;
}

/* Takes a ticket of the class for the whole warp. */
static __device__ __forceinline__ int32_t take_ticket(const phase_view &v, int task_class)
{
    uint32_t ticket = 0;
    if (v.lane == 0) {
        ticket = epf_add_relaxed_gpu_u32(&v.c.state->tickets[task_class], 1);
    }
    return (int32_t)__shfl_sync(~0u, ticket, 0);
}

/* Tickets of the class that anyone has taken: one look for the whole warp, whose lanes must agree. */
static __device__ __forceinline__ int32_t tickets_taken(const phase_view &v, int task_class)
{
    uint32_t taken = 0;
    if (v.lane == 0) {
        taken = epf_load_relaxed_gpu_u32(&v.c.state->tickets[task_class]);
    }
    return (int32_t)__shfl_sync(~0u, taken, 0);
}

/* Copies one row, kAhead times 16 bytes per lane and step; the warp together. */
template <int kAhead>
static __device__ __forceinline__ void copy_row(uint8_t *to, const uint8_t *from, int32_t pieces,
                                                int lane)
{
    uint4 *const out = (uint4 *)to;
    const uint4 *const in = (const uint4 *)from;
    int32_t i = lane;
#pragma unroll 1
    for (; i + 32 * (kAhead - 1) < pieces; i += 32 * kAhead) {
        uint4 piece[kAhead];
#pragma unroll
        for (int j = 0; j < kAhead; j++) {
            piece[j] = in[i + 32 * j];
        }
#pragma unroll
        for (int j = 0; j < kAhead; j++) {
            out[i + 32 * j] = piece[j];
        }
    }
#pragma unroll 1
    for (; i < pieces; i += 32) {
        out[i] = in[i];
    }
}

static __device__ __forceinline__ int32_t row_pieces(const epf_call &call)
{
    return (int32_t)(epf_shape_row_bytes(&call.shape) / 16);
}

/* Copies `bytes` (2 or 4) of a routing weight or gate. */
static __device__ __forceinline__ void copy_weight(uint8_t *to, const uint8_t *from, int32_t bytes)
{
    if (bytes == 4) {
        *(uint32_t *)to = *(const uint32_t *)from;
    } else {
        *(uint16_t *)to = *(const uint16_t *)from;
    }
}

/*
 * All ranks are in this call, and in the same as we: their buffers may be written, and what they signal belongs to
 * it.  Once per warp; the ranks' launches begin together or not at all, so that waiting for each destination by
 * itself would gain nothing and cost registers in the loops that copy.
 */
static __device__ __forceinline__ bool wait_entered(const phase_view &v)
{
    const epf_call &call = v.c.call;
    bool ok = true;
#pragma unroll 1
    for (int32_t r = v.lane; r < call.shape.num_ranks && ok; r += 32) {
        const uint64_t *const word =
            epf_call_control_word(&call, call.rank, call.control_map.entered, r);
        ok = epf_device_wait(v.c, word, epf_word(v.shared.epoch, 0), {EPF_OBJECT_ENTERED, r, r});
        const uint64_t seen = epf_load_relaxed_sys_u64(word);
        if (ok && epf_entered_is_mismatch(v.shared.entered, seen)) {
            const epf_fault fault = {
                EPF_E_INVALID,    call.rank, (int32_t)blockIdx.x, EPF_OBJECT_ENTERED, r, 0, r,
                v.shared.entered, seen};
            epf_device_raise(v.c, fault);
            ok = false;
        }
    }
    return __all_sync(~0u, ok);
}

/* What a lane's slot of the sending order is about. */
struct sent_slot {
    int32_t token;
    int32_t destination; /* rank to which it carries the token's row; -1: another slot does */
    int32_t row;         /* on the destination */
};

/* Every lane looks at a slot of its own: the loads of a whole task are on their way at once. */
static __device__ __forceinline__ sent_slot look_at(const phase_view &v, int32_t index)
{
    const epf_call &call = v.c.call;
    const epf_shape &s = call.shape;
    const int32_t slot = call.sort_slots[index];
    sent_slot sent;
    sent.token = slot / s.topk;
    const int32_t k = slot - sent.token * s.topk;
    const int32_t *const experts = call.topk_idx + (int64_t)sent.token * s.topk;
    const bool carries = epf_route_carrier(experts, s.topk, s.num_experts, s.num_local, k) == k;
    sent.destination = carries ? experts[k] / s.num_local : -1;
    sent.row = call.dst_row[slot];
    return sent;
}

/* The slot of lane `from`, for the whole warp. */
static __device__ __forceinline__ sent_slot slot_of_lane(const sent_slot &own, int from)
{
    sent_slot sent;
    sent.token = __shfl_sync(~0u, own.token, from);
    sent.destination = __shfl_sync(~0u, own.destination, from);
    sent.row = __shfl_sync(~0u, own.row, from);
    return sent;
}

/* The row that a slot carries. */
template <int kAhead>
static __device__ __forceinline__ void send_row(const phase_view &v, const sent_slot &sent)
{
    const epf_call &call = v.c.call;
    copy_row<kAhead>(epf_call_set_row(&call, sent.destination, call.set_map.recv_tokens, sent.row),
                     (const uint8_t *)call.input.data +
                         sent.token * call.input.stride * call.shape.token_bytes,
                     row_pieces(call), v.lane);
}

/* Weight and flag, which names the row that has the data, of each of the token's slots for that rank: lane k's. */
static __device__ __forceinline__ void send_flags(const phase_view &v, const sent_slot &sent)
{
    const epf_call &call = v.c.call;
    const epf_shape &s = call.shape;
    const int64_t slot = (int64_t)sent.token * s.topk + v.lane;
    const int32_t expert = v.lane < s.topk ? call.topk_idx[slot] : -1;
    if (epf_route_is_dropped(expert, s.num_experts) || expert / s.num_local != sent.destination) {
        return;
    }
    const int64_t row = call.dst_row[slot];
    if (call.weight.data) {
        copy_weight(call.set[sent.destination] + call.set_map.recv_weight + row * s.weight_bytes,
                    (const uint8_t *)call.weight.data +
                        (sent.token * call.weight.stride + v.lane) * s.weight_bytes,
                    s.weight_bytes);
    }
    epf_store_release_sys_u64(
        epf_call_set_word(&call, sent.destination, call.set_map.recv_flag, row),
        epf_word(v.shared.epoch, (uint32_t)sent.row));
}

/* DISPATCH: all rows of the task first, then their flags: one wait for the stores of a whole task. */
template <int kAhead>
static __device__ __forceinline__ void dispatch_task(const phase_view &v, int32_t index)
{
    const int32_t slot = index * v.shared.slots_per_task + v.lane;
    sent_slot own = {0, -1, 0};
    if (v.lane < v.shared.slots_per_task && slot < v.shared.num_slots) {
        own = look_at(v, slot);
    }
#pragma unroll 1
    for (uint32_t left = __ballot_sync(~0u, own.destination >= 0); left != 0; left &= left - 1) {
        send_row<kAhead>(v, slot_of_lane(own, __ffs((int)left) - 1));
    }
    __syncwarp();
#pragma unroll 1
    for (uint32_t left = __ballot_sync(~0u, own.destination >= 0); left != 0; left &= left - 1) {
        send_flags(v, slot_of_lane(own, __ffs((int)left) - 1));
    }
}

/* One row of the window, from another one of it. */
template <int kAhead>
static __device__ __forceinline__ void fill_row(const phase_view &v, int32_t row, int32_t from)
{
    const epf_call &call = v.c.call;
    copy_row<kAhead>(epf_call_set_row(&call, call.rank, call.set_map.recv_tokens, row),
                     epf_call_set_row(&call, call.rank, call.set_map.recv_tokens, from),
                     row_pieces(call), v.lane);
}

/* Rows of the caller's copies, from the window. */
template <int kAhead>
static __device__ __forceinline__ void copy_out(const phase_view &v, int2 rows)
{
    const epf_call &call = v.c.call;
    if (call.dispatch_output.data) {
#pragma unroll 1
        for (int32_t row = rows.x; row < rows.y; row++) {
            copy_row<kAhead>((uint8_t *)call.dispatch_output.data +
                                 row * call.dispatch_output.stride * call.shape.token_bytes,
                             epf_call_set_row(&call, call.rank, call.set_map.recv_tokens, row),
                             row_pieces(call), v.lane);
        }
    }
    if (call.weight_recv && rows.x + v.lane < rows.y) {
        const int64_t at = (int64_t)(rows.x + v.lane) * call.shape.weight_bytes;
        copy_weight((uint8_t *)call.weight_recv + at,
                    call.set[call.rank] + call.set_map.recv_weight + at, call.shape.weight_bytes);
    }
}

/* The rows of a part of an M-tile, from x to before y. */
static __device__ __forceinline__ int2 rows_of_part(const phase_view &v, int32_t index)
{
    const int32_t parts = parts_per_tile(v.shared);
    const epf_tile tile = epf_tile_of_m(&v.tiles, index / parts);
    const int32_t first = index % parts * v.shared.part_rows;
    return make_int2(tile.row_begin + min(first, tile.num_rows),
                     tile.row_begin + min(first + v.shared.part_rows, tile.num_rows));
}

/* The row that has the data of the calling lane's row; -1: given up. */
static __device__ __forceinline__ int32_t wait_row(const phase_view &v, int2 rows)
{
    const epf_call &call = v.c.call;
    const int32_t own = rows.x + v.lane;
    if (own >= rows.y) {
        return own;
    }
    const uint64_t *const flag = epf_call_set_word(&call, call.rank, call.set_map.recv_flag, own);
    return epf_device_wait(v.c, flag, epf_word(v.shared.epoch, 0),
                           {EPF_OBJECT_RECV_FLAG, call.row_source[2 * (int64_t)own + 1], own})
               ? (int32_t)epf_word_low(epf_load_relaxed_sys_u64(flag))
               : -1;
}

/* EXPAND: a part of an M-tile.  Every part counts, also one without rows. */
template <int kAhead>
static __device__ __forceinline__ bool expand_task(const phase_view &v, int32_t index)
{
    const int2 rows = rows_of_part(v, index);
    prof_begin(v);
    const int32_t carrier = wait_row(v, rows);
    if (!__all_sync(~0u, carrier >= 0)) {
        return false;
    }
    prof_end(v, EPF_PROF_DISPATCH_EXPAND_WAIT, index);
    prof_begin(v);
#pragma unroll 1
    for (int32_t row = rows.x; row < rows.y; row++) {
        const int32_t from = __shfl_sync(~0u, carrier, row - rows.x);
        if (from != row) {
            fill_row<kAhead>(v, row, from);
        }
    }
    copy_out<kAhead>(v, rows);
    __syncwarp();
    if (v.lane == 0) {
        const int32_t tile = index / parts_per_tile(v.shared);
        const int32_t expert = epf_tile_expert(&v.tiles, tile);
        epf_fence_proxy_async_global();
        (void)epf_word_add(&v.c.tile_ready[group_of_tile(v.tiles, expert, tile).first],
                           v.shared.epoch, 1);
        (void)epf_word_add(&v.c.expert_ready[expert], v.shared.epoch, 1);
    }
    prof_end(v, EPF_PROF_DISPATCH_EXPAND_MAIN, index);
    return true;
}

/* DISPATCH until none is left. */
template <int kAhead> static __device__ __forceinline__ void send_all(const phase_view &v)
{
    const int32_t num = (int32_t)epf_ceil_div(v.shared.num_slots, v.shared.slots_per_task);
    for (;;) {
        const int32_t task = take_ticket(v, EPF_TASK_DISPATCH);
        if (task >= num) {
            return;
        }
        prof_begin(v);
        dispatch_task<kAhead>(v, task);
        prof_end(v, EPF_PROF_DISPATCH_TOKEN_MAIN, task);
    }
}

/* DISPATCH, then EXPAND: what the schedule lists for a worker that starts with `first`. */
template <int kAhead>
static __device__ __forceinline__ void dispatch_role(const phase_view &v, int32_t first)
{
    const int32_t num_expands = epf_tile_num_m(&v.tiles) * parts_per_tile(v.shared);
    if (first > EPF_TASK_EXPAND || !wait_entered(v)) {
        return;
    }
    if (first == EPF_TASK_DISPATCH) {
        send_all<kAhead>(v);
    }
    for (;;) {
        const int32_t task = take_ticket(v, EPF_TASK_EXPAND);
        if (task >= num_expands || !expand_task<kAhead>(v, task)) {
            return;
        }
    }
}

/*
 * The math role's part in dispatch: while no tile is ready it has nothing else to do.  It leaves once the rows of the
 * first tiles are taken care of; the communicating warps bring the others while tiles are multiplied.
 */
template <int kAhead>
static __device__ __forceinline__ void help_dispatch(const phase_view &v, int32_t first)
{
    const int32_t num_expands = epf_tile_num_m(&v.tiles) * parts_per_tile(v.shared);
    const int32_t head = min(v.shared.head_parts, num_expands);
    if (first > EPF_TASK_EXPAND || !wait_entered(v)) {
        return;
    }
    if (first == EPF_TASK_DISPATCH) {
        send_all<kAhead>(v);
    }
    while (tickets_taken(v, EPF_TASK_EXPAND) < head) {
        const int32_t task = take_ticket(v, EPF_TASK_EXPAND);
        if (task >= num_expands || !expand_task<kAhead>(v, task)) {
            return;
        }
    }
}

#endif
