#include "reference/epf_ref_route.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"

enum { FIXED_ARRAYS = 4, ARRAYS_PER_RANK = 11 };

static int compare_rows(const void *left, const void *right)
{
    const epf_ref_row *a = left;
    const epf_ref_row *b = right;

    if (a->expert != b->expert) {
        return a->expert < b->expert ? -1 : 1;
    }
    if (a->source != b->source) {
        return a->source < b->source ? -1 : 1;
    }
    return (a->key > b->key) - (a->key < b->key);
}

/* A rank sends by (local expert, destination rank, slot). */
typedef struct sent_slot {
    int32_t local_expert, destination, slot;
} sent_slot;

static int compare_sent(const void *left, const void *right)
{
    const sent_slot *a = left;
    const sent_slot *b = right;

    if (a->local_expert != b->local_expert) {
        return a->local_expert < b->local_expert ? -1 : 1;
    }
    if (a->destination != b->destination) {
        return a->destination < b->destination ? -1 : 1;
    }
    return (a->slot > b->slot) - (a->slot < b->slot);
}

static epf_status check_sizes(const epf_ref_routing *in)
{
    EPF_CHECK_ARG(in->num_ranks > 0, "num_ranks is %d, must be at least 1", in->num_ranks);
    EPF_CHECK_ARG(in->num_experts > 0 && in->num_experts % in->num_ranks == 0,
                  "num_experts is %d, must be a positive multiple of the %d ranks", in->num_experts,
                  in->num_ranks);
    EPF_CHECK_ARG(in->num_topk > 0, "num_topk is %d, must be at least 1", in->num_topk);
    EPF_CHECK_ARG(in->max_tokens >= 0, "max_tokens is %d, must not be negative", in->max_tokens);
    EPF_CHECK_ARG(in->block_m > 0, "block_m is %d, must be at least 1", in->block_m);
    EPF_CHECK_ARG((int64_t)in->num_ranks * in->max_tokens * in->num_topk <= INT32_MAX / 2,
                  "num_ranks * max_tokens * num_topk does not fit the 32-bit indices");
    for (int32_t r = 0; r < in->num_ranks; r++) {
        EPF_CHECK_ARG(in->num_tokens[r] >= 0 && in->num_tokens[r] <= in->max_tokens,
                      "rank %d: num_tokens is %d, must be 0..%d", r, in->num_tokens[r],
                      in->max_tokens);
    }
    return EPF_OK;
}

static epf_status check_ids(const epf_ref_routing *in)
{
    for (int32_t r = 0; r < in->num_ranks; r++) {
        for (int32_t s = 0; s < in->num_tokens[r] * in->num_topk; s++) {
            const int32_t id = in->topk_idx[r][s];
            EPF_CHECK_ARG(id >= -1 && id <= in->num_experts,
                          "rank %d: topk_idx of token %d, k %d is %d, must be -1..%d", r,
                          s / in->num_topk, s % in->num_topk, id, in->num_experts);
        }
    }
    return EPF_OK;
}

static bool is_dropped(const epf_ref_routing *in, int32_t id)
{
    return id < 0 || id == in->num_experts;
}

/* Takes position `index` of `count`, which nobody else may have taken before. */
static epf_status take_position(const char *name, char *taken, int32_t index, int32_t count)
{
    EPF_CHECK_ARG(index >= 0 && index < count && !taken[index],
                  "%s: %d is outside 0..%d or given twice, must be a permutation", name, index,
                  count - 1);
    taken[index] = 1;
    return EPF_OK;
}

/* Every slot of a rank, dropped ones too, has its own position among the rank's slots. */
static epf_status check_local_scatter(const epf_ref_routing *in, int32_t rank, char *taken)
{
    const int32_t slots = in->num_tokens[rank] * in->num_topk;

    memset(taken, 0, (size_t)slots);
    for (int32_t s = 0; s < slots; s++) {
        EPF_TRY(take_position("local_scatter", taken, in->local_scatter[rank][s], slots));
    }
    return EPF_OK;
}

/* Every slot that is sent has its own row among the rows of all ranks. */
static epf_status check_full_scatter(const epf_ref_routing *in, char *taken)
{
    int32_t num_sent = 0;

    for (int32_t r = 0; r < in->num_ranks; r++) {
        for (int32_t s = 0; s < in->num_tokens[r] * in->num_topk; s++) {
            num_sent += !is_dropped(in, in->topk_idx[r][s]);
        }
    }
    memset(taken, 0, (size_t)num_sent);
    for (int32_t r = 0; r < in->num_ranks; r++) {
        for (int32_t s = 0; s < in->num_tokens[r] * in->num_topk; s++) {
            if (!is_dropped(in, in->topk_idx[r][s])) {
                EPF_TRY(take_position("full_scatter", taken, in->full_scatter[r][s], num_sent));
            }
        }
    }
    return EPF_OK;
}

static epf_status check_scatter(const epf_ref_routing *in)
{
    epf_status st = EPF_OK;
    char *taken = epf_alloc((size_t)in->num_ranks * (size_t)in->max_tokens, (size_t)in->num_topk);

    if (taken == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "reference routing: the positions");
    }
    for (int32_t r = 0; r < in->num_ranks && in->local_scatter != NULL; r++) {
        EPF_TRY_GOTO(check_local_scatter(in, r, taken), free_taken);
    }
    if (in->full_scatter != NULL) {
        st = check_full_scatter(in, taken);
    }
free_taken:
    epf_free(taken);
    return st;
}

/* Fills route->rows with every slot that is not dropped, sorted; returns how many there are. */
static int32_t gather_rows(const epf_ref_routing *in, epf_ref_row *rows)
{
    int32_t num_rows = 0;

    for (int32_t r = 0; r < in->num_ranks; r++) {
        const int32_t slots = in->num_tokens[r] * in->num_topk;
        for (int32_t s = 0; s < slots; s++) {
            const int32_t id = in->topk_idx[r][s];
            int32_t key = s;
            if (is_dropped(in, id)) {
                continue;
            }
            if (in->full_scatter != NULL) {
                key = in->full_scatter[r][s];
            } else if (in->local_scatter != NULL) {
                key = in->local_scatter[r][s];
            }
            rows[num_rows++] = (epf_ref_row){.expert = id, .source = r, .slot = s, .key = key};
        }
    }
    qsort(rows, (size_t)num_rows, sizeof *rows, compare_rows);
    return num_rows;
}

/* An array of `count` entries, all -1, that epf_ref_route_free() gives back; NULL without memory. */
static int32_t *new_array(epf_ref_route *route, int64_t count)
{
    int32_t *array = epf_alloc((size_t)count, sizeof *array);

    if (array != NULL) {
        memset(array, 0xff, (size_t)count * sizeof *array);
        route->arrays[route->num_arrays++] = array;
    }
    return array;
}

static epf_status allocate_arrays(const epf_ref_routing *in, epf_ref_route *route)
{
    const int64_t ranks = in->num_ranks;
    const int64_t local = route->num_local_experts;
    const int64_t slots = (int64_t)in->max_tokens * in->num_topk;
    bool all;

    route->recv_buf_tokens_per_expert = new_array(route, ranks * local);
    route->recv_buf_offset_per_expert = new_array(route, ranks * local * ranks);
    route->num_recv_tokens_per_rank = new_array(route, ranks);
    route->num_input_tokens_per_rank = new_array(route, ranks);
    all = route->num_arrays == FIXED_ARRAYS;
    for (int32_t r = 0; r < in->num_ranks && all; r++) {
        epf_ref_rank *rank = &route->ranks[r];
        /* At most one tile per row. */
        const int64_t tiles = ranks * slots;
        rank->token_dst_scatter_idx = new_array(route, slots);
        rank->topk_indices = new_array(route, slots);
        rank->token_sort_indices = new_array(route, slots);
        rank->reversed_token_scatter_idx = new_array(route, ranks * slots * 2);
        rank->split_size = new_array(route, local);
        rank->split_size_cum_per_expert = new_array(route, local);
        rank->expert_tile_offset = new_array(route, local);
        rank->expert_ids = new_array(route, tiles);
        rank->split_size_cum = new_array(route, tiles);
        rank->tile_num = new_array(route, tiles);
        rank->tile_num_cum = new_array(route, tiles);
        all = route->num_arrays == FIXED_ARRAYS + (r + 1) * ARRAYS_PER_RANK;
    }
    return all ? EPF_OK : EPF_FAIL(EPF_E_NO_MEMORY, "reference routing: an array");
}

/* Rows of every rank, of every (rank, local expert), and where each (rank, expert, source) begins. */
static void fill_counts(const epf_ref_routing *in, epf_ref_route *route, int32_t all_rows)
{
    const int32_t ranks = route->num_ranks;
    const int32_t local = route->num_local_experts;
    int32_t next = 0; /* the list is in (rank, local expert, source) order: one walk reads it all */

    for (int32_t i = 0; i < ranks; i++) {
        const int32_t rank_begin = next;
        for (int32_t j = 0; j < local; j++) {
            const int32_t expert_begin = next;
            for (int32_t k = 0; k < ranks; k++) {
                route->recv_buf_offset_per_expert[(i * local + j) * ranks + k] = next - rank_begin;
                while (next < all_rows && route->rows[next].expert == i * local + j &&
                       route->rows[next].source == k) {
                    next++;
                }
            }
            route->recv_buf_tokens_per_expert[i * local + j] = next - expert_begin;
        }
        route->num_recv_tokens_per_rank[i] = next - rank_begin;
        route->num_input_tokens_per_rank[i] = in->num_tokens[i];
        route->ranks[i].num_rows = next - rank_begin;
        route->ranks[i].rows = route->rows + rank_begin;
    }
}

/* Where each slot went, where each row came from, and the expert ids as they were given. */
static void fill_indices(const epf_ref_routing *in, epf_ref_route *route)
{
    for (int32_t r = 0; r < route->num_ranks; r++) {
        const epf_ref_rank *rank = &route->ranks[r];
        for (int32_t s = 0; s < in->num_tokens[r] * in->num_topk; s++) {
            rank->topk_indices[s] = in->topk_idx[r][s];
        }
        for (int32_t row = 0; row < rank->num_rows; row++) {
            const epf_ref_row *from = &rank->rows[row];
            route->ranks[from->source].token_dst_scatter_idx[from->slot] = row;
            rank->reversed_token_scatter_idx[2 * row] = from->slot;
            rank->reversed_token_scatter_idx[2 * row + 1] = from->source;
        }
    }
}

static epf_status fill_send_order(const epf_ref_routing *in, const epf_ref_route *route)
{
    const int32_t local = route->num_local_experts;
    sent_slot *sent = epf_alloc((size_t)in->max_tokens * (size_t)in->num_topk, sizeof *sent);

    if (sent == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "reference routing: the sent slots");
    }
    for (int32_t r = 0; r < route->num_ranks; r++) {
        int32_t count = 0;
        for (int32_t s = 0; s < in->num_tokens[r] * in->num_topk; s++) {
            const int32_t id = in->topk_idx[r][s];
            if (!is_dropped(in, id)) {
                sent[count++] = (sent_slot){id % local, id / local, s};
            }
        }
        qsort(sent, (size_t)count, sizeof *sent, compare_sent);
        for (int32_t i = 0; i < count; i++) {
            route->ranks[r].token_sort_indices[i] = sent[i].slot;
        }
    }
    epf_free(sent);
    return EPF_OK;
}

static void fill_tiles(const epf_ref_routing *in, const epf_ref_route *route)
{
    for (int32_t r = 0; r < route->num_ranks; r++) {
        epf_ref_rank *rank = &route->ranks[r];
        int32_t first_row = 0;
        int32_t tile = 0;
        for (int32_t e = 0; e < route->num_local_experts; e++) {
            const int32_t rows =
                route->recv_buf_tokens_per_expert[r * route->num_local_experts + e];
            const int32_t tiles = rows / in->block_m + (rows % in->block_m != 0);
            rank->split_size[e] = rows;
            rank->split_size_cum_per_expert[e] = first_row;
            rank->expert_tile_offset[e] = tile;
            for (int32_t t = tile; t < tile + tiles; t++) {
                rank->expert_ids[t] = e;
                rank->split_size_cum[t] = first_row;
                rank->tile_num[t] = tiles;
                rank->tile_num_cum[t] = tile + tiles;
            }
            tile += tiles;
            first_row += rows;
        }
        rank->num_tiles_total = tile;
    }
}

static epf_status fill_route(const epf_ref_routing *in, epf_ref_route *route)
{
    const size_t max_rows = (size_t)in->num_ranks * (size_t)in->max_tokens * (size_t)in->num_topk;
    const size_t max_arrays = FIXED_ARRAYS + (size_t)in->num_ranks * ARRAYS_PER_RANK;

    route->rows = epf_alloc(max_rows, sizeof *route->rows);
    route->ranks = epf_alloc((size_t)in->num_ranks, sizeof *route->ranks);
    route->arrays = epf_alloc(max_arrays, sizeof *route->arrays);
    if (route->rows == NULL || route->ranks == NULL || route->arrays == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "reference routing: %zu rows", max_rows);
    }
    EPF_TRY(allocate_arrays(in, route));
    fill_counts(in, route, gather_rows(in, route->rows));
    fill_indices(in, route);
    fill_tiles(in, route);
    return fill_send_order(in, route);
}

epf_status epf_ref_route_make(const epf_ref_routing *routing, epf_ref_route *route)
{
    epf_status st;

    memset(route, 0, sizeof *route);
    EPF_TRY(check_sizes(routing));
    EPF_TRY(check_ids(routing));
    EPF_TRY(check_scatter(routing));
    route->num_ranks = routing->num_ranks;
    route->num_experts = routing->num_experts;
    route->num_local_experts = routing->num_experts / routing->num_ranks;
    route->num_topk = routing->num_topk;
    route->max_tokens = routing->max_tokens;
    st = fill_route(routing, route);
    if (st != EPF_OK) {
        epf_ref_route_free(route);
    }
    return st;
}

void epf_ref_route_free(epf_ref_route *route)
{
    for (int32_t i = 0; i < route->num_arrays; i++) {
        epf_free(route->arrays[i]);
    }
    epf_free(route->arrays);
    epf_free(route->ranks);
    epf_free(route->rows);
    memset(route, 0, sizeof *route);
}
