/*
 * epf_preprocess_index.h: who of a preprocess launch does what, and where it keeps it (C11 and CUDA C++).
 *
 * Slots are cut into one contiguous range per warp, in slot order over all warps of all CTAs: the place of
 * a slot inside its (expert, source) segment is what earlier CTAs, earlier warps of its CTA and earlier
 * slots of its warp have for that expert.  So the order is stable whatever the timing.
 */
#ifndef EPF_PREPROCESS_INDEX_H
#define EPF_PREPROCESS_INDEX_H

#include "core/epf_route.h"
#include "core/epf_window.h"

enum {
    EPF_PREPROCESS_WARPS = 16,
    EPF_PREPROCESS_THREADS = 32 * EPF_PREPROCESS_WARPS,
    EPF_PREPROCESS_MAX_CTAS = 64,
    EPF_PREPROCESS_CTA_SLOTS =
        2048, /* 4 a thread: what one CTA does faster than a second one helps */
    EPF_PREPROCESS_CTA_FILL = 16384, /* ints of -1, likewise */
    EPF_PREPROCESS_MAX_EXPERTS = 1024,
    EPF_PREPROCESS_MAX_RANKS = 64,
    EPF_PREPROCESS_MAX_SLOTS = 1 << 27
};

/* A histogram has a bin for each expert and one for id -1, which local scatter indices count as well. */
EPF_HD int32_t epf_preprocess_num_bins(int32_t num_experts)
{
    return num_experts + 1;
}

/* The bin of an id; -1: it is not counted. */
EPF_HD int32_t epf_preprocess_bin(int32_t id, int32_t num_experts)
{
    if (!epf_route_is_valid(id, num_experts) || id == num_experts) {
        return -1;
    }
    return id < 0 ? num_experts : id;
}

typedef struct epf_preprocess_range {
    int32_t begin;
    int32_t end;
} epf_preprocess_range;

/* The slots of warp `warp` of all warps of the launch: whole groups of 32 but for the last. */
EPF_HD epf_preprocess_range epf_preprocess_slots_of(int32_t num_slots, int32_t num_warps,
                                                    int32_t warp)
{
    const int64_t each = epf_round_up(epf_ceil_div(num_slots, num_warps), 32);
    epf_preprocess_range range;
    range.begin = (int32_t)epf_min64(each * warp, num_slots);
    range.end = (int32_t)epf_min64(each * (warp + 1), num_slots);
    return range;
}

/* CTAs for this many slots of its own, slots to expect of others, and ints to fill with -1. */
EPF_HD int32_t epf_preprocess_num_ctas(int64_t own_slots, int64_t other_slots, int64_t fill)
{
    const int64_t for_slots =
        epf_ceil_div(epf_max64(own_slots, other_slots), EPF_PREPROCESS_CTA_SLOTS);
    const int64_t for_fill = epf_ceil_div(fill, EPF_PREPROCESS_CTA_FILL);
    const int64_t wanted = epf_max64(epf_max64(for_slots, for_fill), 1);
    return (int32_t)epf_min64(wanted, EPF_PREPROCESS_MAX_CTAS);
}

/* Working memory in global memory, as offsets in ints. */
typedef struct epf_preprocess_scratch_map {
    int64_t counts;   /* [MAX_CTAS, bins] slots of a CTA; then of the CTAs before it */
    int64_t totals;   /* [bins] of this rank */
    int64_t bad_slot; /* [MAX_CTAS] first bad id of a CTA, or INT32_MAX */
    int64_t is_bad;   /* [MAX_CTAS] a CTA found bad scatter indices */
    int64_t taken;    /* [T_max K] by sending place: the slot that was given it */
    int64_t total_ints;
} epf_preprocess_scratch_map;

EPF_HD epf_preprocess_scratch_map epf_preprocess_scratch_make(const epf_shape *s)
{
    const int64_t bins = epf_preprocess_num_bins(s->num_experts);
    epf_preprocess_scratch_map map;
    map.counts = 0;
    map.totals = map.counts + EPF_PREPROCESS_MAX_CTAS * bins;
    map.bad_slot = map.totals + bins;
    map.is_bad = map.bad_slot + EPF_PREPROCESS_MAX_CTAS;
    map.taken = map.is_bad + EPF_PREPROCESS_MAX_CTAS;
    map.total_ints = map.taken + epf_shape_max_slots(s);
    return map;
}

/* Prefix sums that every CTA keeps, each [E + 1] with the sum of all at the end. */
typedef enum epf_preprocess_scan {
    EPF_SCAN_ROWS,  /* by expert: slots of all ranks */
    EPF_SCAN_SENT,  /* by position of the sending order: slots of this rank */
    EPF_SCAN_OWN,   /* by expert: slots of this rank */
    EPF_SCAN_TILES, /* by local expert: M-tiles of this rank; nothing past L */
    EPF_NUM_SCANS
} epf_preprocess_scan;

/* Shared memory after the fixed part, as offsets in bytes. */
typedef struct epf_preprocess_shared_map {
    int32_t scans; /* int64 [EPF_NUM_SCANS, E + 1] */
    int32_t bins;  /* int32 [WARPS, bins] slots of a warp; of the warps before it; then cursors */
    int32_t row_first;  /* int32 [E] first row of what this rank sends to an expert */
    int32_t send_first; /* int32 [E] first place of the same in the sending order */
    int32_t prefix;     /* int32 [E] slots of the CTAs before this one */
    int32_t total_bytes;
} epf_preprocess_shared_map;

EPF_HD epf_preprocess_shared_map epf_preprocess_shared_make(int32_t num_experts)
{
    const int32_t row = (int32_t)sizeof(int32_t) * num_experts;
    epf_preprocess_shared_map map;
    map.scans = 0;
    map.bins = EPF_NUM_SCANS * (int32_t)sizeof(int64_t) * (num_experts + 1);
    map.row_first = map.bins + EPF_PREPROCESS_WARPS * (int32_t)sizeof(int32_t) *
                                   epf_preprocess_num_bins(num_experts);
    map.send_first = map.row_first + row;
    map.prefix = map.send_first + row;
    map.total_bytes = map.prefix + row;
    return map;
}

/* Rows of a rank's local experts [first_expert ...] start here in the scan of all ranks' rows. */
EPF_HD int64_t epf_preprocess_rank_begin(const int64_t *rows, int32_t num_local, int32_t rank)
{
    return rows[(int64_t)rank * num_local];
}

EPF_HD int64_t epf_preprocess_rank_rows(const int64_t *rows, int32_t num_local, int32_t rank)
{
    return rows[((int64_t)rank + 1) * num_local] - rows[(int64_t)rank * num_local];
}

/* What a given scatter index of an expert's slot exceeds its place in the segment by. */
typedef struct epf_preprocess_given {
    const int64_t *rows;      /* EPF_SCAN_ROWS */
    const int64_t *own;       /* EPF_SCAN_OWN */
    const int32_t *row_first; /* [E] */
    int32_t num_local;        /* L */
    int32_t num_before;       /* slots of id -1: they sort before all experts */
} epf_preprocess_given;

EPF_HD int64_t epf_preprocess_local_base(const epf_preprocess_given *g, int32_t expert)
{
    return g->num_before + g->own[expert];
}

EPF_HD int64_t epf_preprocess_full_base(const epf_preprocess_given *g, int32_t expert)
{
    return epf_preprocess_rank_begin(g->rows, g->num_local, expert / g->num_local) +
           g->row_first[expert];
}

/* The last j in [0, count) with first[j] <= at: the owner of `at`, as epf_tile_expert() finds it. */
EPF_HD int32_t epf_preprocess_owner(const int64_t *first, int32_t count, int64_t at)
{
    int32_t low = 0;
    int32_t high = count - 1;
    while (low < high) {
        const int32_t middle = (low + high + 1) / 2;
        if (first[middle] <= at) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

#endif
