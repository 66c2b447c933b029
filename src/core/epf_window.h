/*
 * epf_window.h: everything a peer may touch, from one list each: name, bytes, alignment.
 *
 * A rank shows its peers two kinds of windows: one control window, whose size depends on the
 * operator's shape alone, and one buffer set per comm_buffer_id, which may be regrown.  Sizes,
 * offsets on both sides, the public breakdown and the tests all come from these lists.
 */
#ifndef EPF_WINDOW_MAP_H
#define EPF_WINDOW_MAP_H

#include "core/epf_base.h"

/* What an operator was made for; equal on every rank. */
typedef struct epf_shape {
    int32_t num_ranks;    /* W */
    int32_t num_experts;  /* E */
    int32_t num_local;    /* L */
    int32_t topk;         /* K */
    int32_t hidden;       /* H */
    int32_t max_tokens;   /* T_max */
    int32_t token_bytes;  /* per element of a token */
    int32_t weight_bytes; /* per element of a routing weight, gate */
} epf_shape;

/* What a rank tells all others before any row moves.  status: epf_status of its own check. */
typedef struct epf_posted_head {
    int32_t status;
    int32_t num_tokens;
    int32_t where; /* slot of the first bad entry */
    int32_t value; /* that entry */
} epf_posted_head;

/* Who waited for what; written by the rank that gave up, into every rank's control window. */
typedef struct epf_fault {
    int32_t status; /* epf_status */
    int32_t rank;   /* that gave up */
    int32_t worker;
    int32_t object; /* epf_object it waited for */
    int32_t peer;   /* rank it waited for, or -1 */
    int32_t unused;
    int64_t index;
    uint64_t expected;
    uint64_t seen;
} epf_fault;

/* Slots and rows that the widest call can have. */
EPF_HD int64_t epf_shape_max_slots(const epf_shape *s)
{
    return (int64_t)s->max_tokens * s->topk;
}

EPF_HD int64_t epf_shape_max_rows(const epf_shape *s)
{
    return epf_shape_max_slots(s) * s->num_ranks;
}

EPF_HD int64_t epf_shape_row_bytes(const epf_shape *s)
{
    return (int64_t)s->hidden * s->token_bytes;
}

#define EPF_WORD_BYTES ((int64_t)sizeof(uint64_t))

/* Serial combine keeps y and gates by row, fuse_scatter by slot of the owner: one buffer serves both. */
EPF_HD int64_t epf_shape_combine_rows(const epf_shape *s, int64_t rows)
{
    return epf_max64(rows, epf_shape_max_slots(s));
}

/* Words come first, up to posted_head and recv_weight: epf_op_reset() zeroes them so (test_window holds it). */
/*    name          bytes                                                 alignment  what */
#define EPF_CONTROL_MAP(X, s)                                                                 \
    X(abort, (int64_t)sizeof(uint32_t), 128)                    /* first failure */           \
    X(faults, (int64_t)sizeof(epf_fault) * (s)->num_ranks, 128) /* [W] by reporter */         \
    X(entered, EPF_WORD_BYTES *(s)->num_ranks, 128)             /* [W] by source */           \
    X(barrier, EPF_WORD_BYTES *(s)->num_ranks, 128)             /* [W] by source */           \
    X(posted, EPF_WORD_BYTES *(s)->num_ranks, 128)              /* [W] by source */           \
    X(sourced, EPF_WORD_BYTES *(s)->num_ranks, 128)             /* [W] by source */           \
    X(posted_head, 2 * (int64_t)sizeof(epf_posted_head) * (s)->num_ranks,                     \
      128)                                                             /* [2, W] by parity */ \
    X(counts, 2 * 4 * (int64_t)(s)->num_ranks * (s)->num_experts, 128) /* [2, W, E] */        \
    X(row_source, 8 * epf_shape_max_rows(s), 4096)                     /* [R, 2] slot, rank */

#define EPF_SET_MAP(X, s, rows)                                                                \
    X(recv_flag, EPF_WORD_BYTES *(rows), 128)                    /* [R] epoch | row */         \
    X(combine_flag, EPF_WORD_BYTES *epf_shape_max_slots(s), 128) /* [T K] epoch */             \
    X(recv_weight, (rows) * (s)->weight_bytes, 128)              /* [R] */                     \
    X(gate, (rows) * (s)->weight_bytes, 128)                     /* [R] caller's own */        \
    X(combine_gate, epf_shape_combine_rows(s, rows) * (s)->weight_bytes, 128) /* [R or T K] */ \
    X(send_tokens, (s)->max_tokens *epf_shape_row_bytes(s), 4096)             /* [T, H] */     \
    X(recv_tokens, (rows)*epf_shape_row_bytes(s), 4096)                       /* [R, H] */     \
    X(combine_rows, epf_shape_combine_rows(s, rows) * epf_shape_row_bytes(s),                  \
      4096) /* [R or T K, H] */

/* Byte offsets from a rank's base. */
typedef struct epf_control_map {
#define X(name, bytes, alignment) int64_t name;
    EPF_CONTROL_MAP(X, 0)
#undef X
    int64_t total_bytes;
} epf_control_map;

typedef struct epf_set_map {
#define X(name, bytes, alignment) int64_t name;
    EPF_SET_MAP(X, 0, 0)
#undef X
    int64_t rows; /* capacity of the set */
    int64_t total_bytes;
} epf_set_map;

EPF_HD void epf_control_map_make(const epf_shape *s, epf_control_map *map)
{
    int64_t at = 0;
#define X(name, bytes, alignment)       \
    at = epf_round_up(at, (alignment)); \
    map->name = at;                     \
    at += (bytes);
    EPF_CONTROL_MAP(X, s)
#undef X
    map->total_bytes = epf_round_up(at, 4096);
}

EPF_HD void epf_set_map_make(const epf_shape *s, int64_t rows, epf_set_map *map)
{
    int64_t at = 0;
#define X(name, bytes, alignment)       \
    at = epf_round_up(at, (alignment)); \
    map->name = at;                     \
    at += (bytes);
    EPF_SET_MAP(X, s, rows)
#undef X
    map->rows = rows;
    map->total_bytes = epf_round_up(at, 4096);
}

#endif
