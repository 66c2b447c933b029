/*
 * epf_route.h: from expert ids to rows, order and tiles (docs/SEMANTICS.md, sections "Order" and "Tiles").
 *
 * Rows of a rank are ordered by (local expert, source rank, slot); slots of a rank are sent in the order
 * (local expert, destination rank, slot).  Pure functions of the routing, shared by every backend.
 */
#ifndef EPF_ROUTE_H
#define EPF_ROUTE_H

#include "core/epf_base.h"

enum { EPF_MAX_TOPK = 32 }; /* experts of a token */

EPF_HD bool epf_route_is_dropped(int32_t expert, int32_t num_experts)
{
    return expert == -1 || expert == num_experts;
}

EPF_HD bool epf_route_is_valid(int32_t expert, int32_t num_experts)
{
    return expert >= -1 && expert <= num_experts;
}

/* Position of expert e in the sending order of a rank's experts: by (local expert, destination). */
EPF_HD int32_t epf_route_send_position(int32_t expert, int32_t num_local, int32_t num_ranks)
{
    return expert % num_local * num_ranks + expert / num_local;
}

/* The expert at a position of the sending order: inverse of epf_route_send_position(). */
EPF_HD int32_t epf_route_send_expert(int32_t position, int32_t num_local, int32_t num_ranks)
{
    return position % num_ranks * num_local + position / num_ranks;
}

/*
 * The slot of this token that carries its row to the rank of slot k: the first of the token's slots for
 * that rank in sending order.  The others are filled in from it on the receiving side (token saving).
 * `experts` is the token's row of topk ids, [K]; slot k is not dropped.
 */
EPF_HD int32_t epf_route_carrier(const int32_t *experts, int32_t topk, int32_t num_experts,
                                 int32_t num_local, int32_t k)
{
    const int32_t rank = experts[k] / num_local;
    int32_t best = k;
    for (int32_t other = 0; other < topk; other++) {
        if (!epf_route_is_dropped(experts[other], num_experts) &&
            experts[other] / num_local == rank &&
            (experts[other] < experts[best] || (experts[other] == experts[best] && other < best))) {
            best = other;
        }
    }
    return best;
}

/* What a rank needs to turn counts into rows; all arrays are the caller's. */
typedef struct epf_route_tables {
    int32_t num_ranks;     /* W */
    int32_t num_local;     /* L */
    const int32_t *counts; /* [W, E]    in: slots of source rank k for expert e */
    int32_t *tokens;       /* [W, L]    rows of each rank's local experts */
    int32_t *offset;       /* [W, L, W] first row on rank i, expert j, from source k */
    int32_t *recv;         /* [W]       rows of each rank */
} epf_route_tables;

/* Fills tokens, offset and recv.  False: a rank would have more than 2^31 - 1 rows. */
EPF_HD bool epf_route_fill(const epf_route_tables *t)
{
    const int64_t num_experts = (int64_t)t->num_ranks * t->num_local;
    for (int32_t i = 0; i < t->num_ranks; i++) {
        int64_t row = 0;
        for (int32_t j = 0; j < t->num_local; j++) {
            const int64_t begin = row;
            const int64_t at = ((int64_t)i * t->num_local + j) * t->num_ranks;
            for (int32_t k = 0; k < t->num_ranks; k++) {
                t->offset[at + k] = (int32_t)row;
                row += t->counts[k * num_experts + (int64_t)i * t->num_local + j];
                if (row > INT32_MAX) {
                    return false;
                }
            }
            t->tokens[(int64_t)i * t->num_local + j] = (int32_t)(row - begin);
        }
        t->recv[i] = (int32_t)row;
    }
    return true;
}

/* Fills row_offset and tile_offset, both [L + 1], from rows [L]; returns the number of M-tiles. */
EPF_HD int32_t epf_route_tiles(const int32_t *rows, int32_t num_local, int32_t block_m,
                               int32_t *row_offset, int32_t *tile_offset)
{
    int32_t row = 0;
    int32_t tile = 0;
    for (int32_t e = 0; e < num_local; e++) {
        row_offset[e] = row;
        tile_offset[e] = tile;
        row += rows[e];
        tile += (int32_t)epf_ceil_div(rows[e], block_m);
    }
    row_offset[num_local] = row;
    tile_offset[num_local] = tile;
    return tile;
}

#endif
