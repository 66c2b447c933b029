/* epf_layout.h: inside of a layout. */
#ifndef EPF_LAYOUT_H
#define EPF_LAYOUT_H

#include "api/epf_op.h"

struct epf_layout {
    epf_op *op;
    uint32_t epoch;          /* of its preprocess: the same on all ranks */
    bool is_filled;          /* preprocess succeeded */
    int32_t num_tokens;      /* T of this rank */
    int32_t num_slots;       /* slots sent */
    int32_t num_before;      /* slots dropped by -1, which sort before all experts */
    int32_t num_rows;        /* R of this rank */
    int32_t max_rows;        /* largest R of any rank */
    int32_t high_tokens;     /* most tokens ever written: entries past them are still -1 */
    int32_t high_rows;       /* as high_tokens, for rows */
    int32_t *topk_idx;       /* [T_max, K] */
    int32_t *dst_row;        /* [T_max, K] */
    int32_t *sort_slots;     /* [T_max * K] */
    int32_t *row_source;     /* [W * T_max * K, 2] if the config asks for it, else grown */
    int64_t row_source_rows; /* of row_source */
    int32_t *counts;         /* [W, E]    slots of each source for each expert */
    int32_t *send_begin;     /* [E + 1]   first place of each position of the sending order */
    int32_t *cursor;         /* [E]       working memory */
    int32_t *tokens;         /* [W, L] */
    int32_t *offset;         /* [W, L, W] */
    int32_t *recv;           /* [W] */
    int32_t *input;          /* [W] */

    int32_t block_m;   /* of the tables below; 0: not made */
    int32_t num_tiles; /* M_grid */
    int64_t max_tiles;
    int32_t *row_offset;  /* [L + 1] */
    int32_t *tile_offset; /* [L + 1] */
    int32_t *tables[4];   /* [max_tiles] expert_ids, split_size_cum, tile_num, tile_num_cum */
};

enum { EPF_TABLE_EXPERT_IDS, EPF_TABLE_SPLIT_SIZE_CUM, EPF_TABLE_TILE_NUM, EPF_TABLE_TILE_NUM_CUM };

epf_status epf_layout_create(epf_op *op, epf_layout **layout);

/* Slots of `rank` in sending order, and each slot's row in slot order; from ids, counts and offsets. */
void epf_layout_place(epf_layout *layout, const epf_shape *shape, int32_t rank);

/* Makes the tile tables for block_m, unless they are there. */
epf_status epf_layout_tile(epf_layout *layout, int32_t block_m);

/* EPF_E_INVALID or EPF_E_STATE unless `layout` is filled and belongs to op. */
epf_status epf_layout_check(const epf_layout *layout, const epf_op *op);

/* Room for R row sources. */
epf_status epf_layout_reserve_rows(epf_layout *layout, int64_t rows);

#endif
