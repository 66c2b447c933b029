/*
 * epf_preprocess_place.cuh: rows and sending places of a rank's slots, in slot order or as scatter indices say.
 */
#ifndef EPF_PREPROCESS_PLACE_CUH
#define EPF_PREPROCESS_PLACE_CUH

#include "cuda/epf_preprocess.cuh"

/* (slot, rank) to the rank that will hold the row. */
static __device__ __forceinline__ void push_source(const preprocess &x, int32_t slot,
                                                   int32_t expert, int32_t row)
{
    if (row >= 0 && row < epf_shape_max_rows(&x.shape)) {
        int2 *const to =
            (int2 *)(x.call.control[expert / x.shape.num_local] + x.call.control_map.row_source);
        to[row] = make_int2(slot, x.call.rank);
    }
}

/*
 * Slots in sending order; in slot order each slot's row, and its source to the row's rank, unless scatter
 * indices are given, which decide the rows.  Slots of one expert that a warp has at the same time find each other
 * and take places in lane order; the first of them moves the warp's cursor on.
 */
static __device__ __forceinline__ void place_slots(const preprocess &x, bool is_given)
{
    const uint32_t below = (1u << x.lane) - 1;
    for (int32_t first = x.range.begin; first < x.range.end; first += 32 * kBatch) {
        int32_t ids[kBatch];
#pragma unroll
        for (int32_t b = 0; b < kBatch; b++) {
            const int32_t slot = first + 32 * b + x.lane;
            ids[b] = slot < x.range.end ? x.args.topk_idx[slot] : -1;
        }
#pragma unroll
        for (int32_t b = 0; b < kBatch; b++) {
            const int32_t slot = first + 32 * b + x.lane;
            const int32_t e = ids[b];
            const bool is_kept = e >= 0 && e < x.shape.num_experts;
            const uint32_t same = __match_any_sync(~0u, e);
            const int32_t rank_in_warp = __popc(same & below);
            const int32_t cursor = is_kept ? x.warp_bins[e] : 0;
            __syncwarp();
            if (is_kept && rank_in_warp == 0) {
                x.warp_bins[e] = cursor + __popc(same);
            }
            __syncwarp();
            if (is_kept) {
                const int32_t place = x.prefix[e] + cursor + rank_in_warp;
                const int32_t at = x.send_first[e] + place;
                if (at >= 0 && at < x.num_slots) {
                    x.args.sort_slots[at] = slot;
                }
                if (!is_given) {
                    x.args.dst_row[slot] = x.row_first[e] + place;
                    push_source(x, slot, e, x.row_first[e] + place);
                }
            } else if (slot < x.range.end) {
                x.args.dst_row[slot] = -1;
            }
        }
    }
}

/* The place that the given scatter indices say for a slot in its segment; -1: bad, or they disagree. */
static __device__ __forceinline__ int64_t given_place(const preprocess &x,
                                                      const epf_preprocess_given &given,
                                                      int32_t slot, int32_t expert)
{
    const int64_t count = given.own[expert + 1] - given.own[expert];
    int64_t place = -1;
    if (x.args.local_scatter.data != nullptr) {
        place = load_index(x.args.local_scatter, slot, x.shape.topk) -
                epf_preprocess_local_base(&given, expert);
    }
    if (x.args.full_scatter.data != nullptr) {
        const int64_t full = load_index(x.args.full_scatter, slot, x.shape.topk) -
                             epf_preprocess_full_base(&given, expert);
        place = x.args.local_scatter.data == nullptr || place == full ? full : -1;
    }
    return place >= 0 && place < count ? place : -1;
}

/* Rows by the given scatter indices; every slot puts its name on the place it takes.  True: a bad index. */
static __device__ __forceinline__ bool take_places(const preprocess &x)
{
    const epf_preprocess_given given = {scan_of(x, EPF_SCAN_ROWS), scan_of(x, EPF_SCAN_OWN),
                                        x.row_first, x.shape.num_local,
                                        x.scratch[x.at.totals + x.shape.num_experts]};
    bool is_bad = false;
    for (int32_t slot = x.range.begin + x.lane; slot < x.range.end; slot += 32) {
        const int32_t e = x.args.topk_idx[slot];
        if (e >= 0 && e < x.shape.num_experts) {
            const int64_t place = given_place(x, given, slot, e);
            const int64_t at = x.send_first[e] + place;
            const bool is_good = place >= 0 && at >= 0 && at < x.num_slots;
            x.args.dst_row[slot] = is_good ? x.row_first[e] + (int32_t)place : -1;
            if (is_good) {
                x.scratch[x.at.taken + at] = slot;
            }
            is_bad = is_bad || !is_good;
        }
    }
    return is_bad;
}

/* Where two slots took one place, the one whose name is gone finds out.  True: that happened. */
static __device__ __forceinline__ bool push_given(const preprocess &x)
{
    bool is_bad = false;
    for (int32_t slot = x.range.begin + x.lane; slot < x.range.end; slot += 32) {
        const int32_t e = x.args.topk_idx[slot];
        const int32_t row = x.args.dst_row[slot];
        if (e >= 0 && e < x.shape.num_experts && row >= 0) {
            const int32_t at = x.send_first[e] + (row - x.row_first[e]);
            if (x.scratch[x.at.taken + at] == slot) {
                push_source(x, slot, e, row);
            } else {
                is_bad = true;
            }
        }
    }
    return is_bad;
}

#endif
