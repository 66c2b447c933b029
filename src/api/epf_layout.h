/* epf_layout.h: inside of a layout. */
#ifndef EPF_LAYOUT_H
#define EPF_LAYOUT_H

#include "api/epf_op.h"

/* Arrays of fixed size: name, entries. */
#define EPF_LAYOUT_ARRAYS(X, s)                                                              \
    X(topk_idx, epf_shape_max_slots(s))   /* [T_max, K] */                                   \
    X(dst_row, epf_shape_max_slots(s))    /* [T_max, K] */                                   \
    X(sort_slots, epf_shape_max_slots(s)) /* [T_max * K] */                                  \
    X(counts,                                                                                \
      (int64_t)(s)->num_ranks *(s)->num_experts) /* [W, E] of each source for each expert */ \
    X(tokens, (s)->num_experts)                  /* [W, L] */                                \
    X(offset, (int64_t)(s)->num_experts *(s)->num_ranks) /* [W, L, W] */                     \
    X(recv, (s)->num_ranks)                              /* [W] */                           \
    X(input, (s)->num_ranks)                             /* [W] */                           \
    X(row_offset, (s)->num_local + 1)                    /* [L + 1] */                       \
    X(tile_offset, (s)->num_local + 1)                   /* [L + 1] */

struct epf_layout {
    epf_op *op;                     /* on a device NULL once it is gone */
    const epf_backend_ops *backend; /* of op, which may be gone when the layout is destroyed */
    uint32_t epoch;                 /* of its preprocess: the same on all ranks */
    bool is_filled;                 /* preprocess succeeded; on a device: was enqueued */
    bool is_known;                  /* the host knows the row counts below */
    bool is_refused;     /* on a device: the host has learned that preprocess refused the routing */
    int32_t num_tokens;  /* T of this rank */
    int32_t num_slots;   /* slots sent */
    int32_t num_before;  /* slots dropped by -1, which sort before all experts */
    int32_t num_rows;    /* R of this rank */
    int32_t max_rows;    /* largest R of any rank */
    int32_t high_tokens; /* most tokens ever written: entries past them are still -1 */
    int32_t high_rows;   /* as high_tokens, for rows */
#define X(name, entries) int32_t *name;
    EPF_LAYOUT_ARRAYS(X, 0)
#undef X
    int32_t *row_source;     /* [R, 2] at least; [W * T_max * K, 2] if the config asks for it */
    int64_t row_source_rows; /* of row_source */

    int32_t *send_begin; /* CPU: [E + 1] first place of each position of the sending order */
    int32_t *cursor;     /* CPU: [E]     working memory */
    void *device;        /* CUDA: the backend's own */
    epf_layout *next;    /* CUDA: of op->layouts */
    bool is_listed;      /* CUDA: it is there */
    bool is_free;        /* CUDA: the caller has destroyed it */

    int32_t block_m;   /* of the tables below; 0: not made */
    int32_t num_tiles; /* M_grid */
    int64_t max_tiles;
    int32_t *tables[4]; /* [max_tiles] expert_ids, split_size_cum, tile_num, tile_num_cum */
};

enum { EPF_TABLE_EXPERT_IDS, EPF_TABLE_SPLIT_SIZE_CUM, EPF_TABLE_TILE_NUM, EPF_TABLE_TILE_NUM_CUM };

epf_status epf_layout_create(epf_op *op, epf_layout **layout);

/* The operator is about to go: frees the layouts that it keeps for others, forgets those that callers still have. */
void epf_layout_forget(epf_op *op);

/* Slots of `rank` in sending order, and each slot's row in slot order; from ids, counts and offsets. */
void epf_layout_place(epf_layout *layout, const epf_shape *shape, int32_t rank);

/* Makes the tile tables for block_m, unless they are there. */
epf_status epf_layout_tile(epf_layout *layout, int32_t block_m);

/* The CPU's. */
epf_status epf_layout_tile_on_host(epf_layout *layout, int32_t block_m);

/* Rows that a caller's tensor must have at least: R, or 0 where only the device knows. */
int64_t epf_layout_min_rows(const epf_layout *layout);

/* Rows of results and of memory for them: R, or what the set holds. */
int64_t epf_layout_rows(const epf_layout *layout, const epf_buffer_set *set);

/* M-tiles of a call with the set: M_grid, or as many as its rows can have. */
int64_t epf_layout_max_tiles(const epf_layout *layout, const epf_buffer_set *set);

/* Waits until R is known. */
epf_status epf_layout_learn(const epf_layout *layout);

/* R is known, and 0. */
bool epf_layout_is_empty(const epf_layout *layout);

/* EPF_E_INVALID or EPF_E_STATE unless `layout` is filled and belongs to op. */
epf_status epf_layout_check(const epf_layout *layout, const epf_op *op);

/* Room for R row sources. */
epf_status epf_layout_reserve_rows(epf_layout *layout, int64_t rows);

#endif
