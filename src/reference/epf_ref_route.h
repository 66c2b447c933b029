/*
 * epf_ref_route.h: the naive routing of all ranks at once (docs/SEMANTICS.md, "Order of rows" and "Tiles").
 *
 * Every slot that is not dropped becomes a record; one sort of all records by (expert, source, key)
 * gives the rows of every rank; each array below is then read off that list.  It shares no code with
 * src/core, whose oracle it is: readable first, fast never.
 */
#ifndef EPF_REF_ROUTE_H
#define EPF_REF_ROUTE_H

#include <stdint.h>

#include "epfuse/epfuse_status.h"

typedef struct epf_ref_routing {
    int32_t num_ranks;                   /* W                                                     */
    int32_t num_experts;                 /* E, a multiple of W                                    */
    int32_t num_topk;                    /* K                                                     */
    int32_t max_tokens;                  /* T_max                                                 */
    int32_t block_m;                     /* rows of a full tile                                   */
    const int32_t *num_tokens;           /* [W]                T_r                                */
    const int32_t *const *topk_idx;      /* [W] -> [T_r, K]    0..E-1, or E or -1 for dropped     */
    const int32_t *const *local_scatter; /* [W] -> [T_r, K]    or NULL: slot order                */
    const int32_t *const
        *full_scatter; /* [W] -> [T_r, K]    global rows, or NULL; wins over local */
} epf_ref_routing;

/* One received row: the copy of a slot at the expert it chose. */
typedef struct epf_ref_row {
    int32_t expert; /* 0..E-1, over all ranks                      */
    int32_t source; /* rank that the token comes from              */
    int32_t slot;   /* token * K + k on the source                 */
    int32_t key;    /* order within the (expert, source) segment   */
} epf_ref_row;

/* What one rank sees. */
typedef struct epf_ref_rank {
    int32_t num_rows;               /* R_r                                                    */
    const epf_ref_row *rows;        /* [R_r]                  in row order                    */
    int32_t *token_dst_scatter_idx; /* [T_max * K]            -1: dropped or past T_r         */
    int32_t *topk_indices;          /* [T_max * K]            -1 past T_r                     */
    int32_t *token_sort_indices;    /* [T_max * K]            slots; -1 past the last sent    */
    int32_t
        *reversed_token_scatter_idx;    /* [W * T_max * K, 2]     (slot, source); -1 past R_r     */
    int32_t *split_size;                /* [L]                                                    */
    int32_t *split_size_cum_per_expert; /* [L]                    exclusive prefix sum of rows    */
    int32_t *expert_tile_offset;        /* [L]                    exclusive prefix sum of tiles   */
    int32_t num_tiles_total;
    int32_t *expert_ids;     /* [num_tiles_total]                                      */
    int32_t *split_size_cum; /* [num_tiles_total]      first row of the tile's expert  */
    int32_t *tile_num;       /* [num_tiles_total]                                      */
    int32_t *tile_num_cum;   /* [num_tiles_total]      inclusive                       */
} epf_ref_rank;

typedef struct epf_ref_route {
    int32_t num_ranks, num_experts, num_local_experts, num_topk, max_tokens;
    int32_t *recv_buf_tokens_per_expert; /* [W, L]                                                */
    int32_t *recv_buf_offset_per_expert; /* [W, L, W]                                             */
    int32_t *num_recv_tokens_per_rank;   /* [W]                                                   */
    int32_t *num_input_tokens_per_rank;  /* [W]                                                   */
    epf_ref_rank *ranks;                 /* [W]                                                   */
    epf_ref_row *rows;                   /* all rows, the ranks' one after another                */
    int32_t **arrays;                    /* what epf_ref_route_free() gives back                  */
    int32_t num_arrays;
} epf_ref_route;

/**
 * Route all ranks.  The inputs are read only during the call; free the result with
 * epf_ref_route_free().
 *
 * @return EPF_E_INVALID    an expert id outside -1..E, a scatter index that is no permutation, or
 *                          sizes out of range; the text names rank, token and k
 * @return EPF_E_NO_MEMORY  an allocation failed
 */
epf_status epf_ref_route_make(const epf_ref_routing *routing, epf_ref_route *route);

/* Accepts a zeroed or already freed route. */
void epf_ref_route_free(epf_ref_route *route);

#endif
