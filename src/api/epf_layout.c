/* epf_layout.c: the arrays of a layout, and its tile tables. */
#include "api/epf_layout.h"

#include <string.h>

#include "api/epf_backend.h"
#include "base/epf_alloc.h"
#include "core/epf_route.h"

enum { DEFAULT_BLOCK_M = 128 };

/* [count] entries where the backend's tensors are. */
static epf_status reserve_array(epf_layout *l, int64_t count, const char *name, int32_t **array)
{
    epf_memory memory = {NULL, 0};
    EPF_TRY(epf_op_memory_reserve(l->op, &memory, count * (int64_t)sizeof **array, name));
    *array = memory.data;
    return EPF_OK;
}

static void free_layout(epf_layout *l)
{
    l->backend->layout_destroy(l);
#define X(name, entries) l->backend->memory_free(l->name);
    EPF_LAYOUT_ARRAYS(X, 0)
#undef X
    l->backend->memory_free(l->row_source);
    for (size_t i = 0; i < sizeof l->tables / sizeof l->tables[0]; i++) {
        l->backend->memory_free(l->tables[i]);
    }
    epf_free(l);
}

static epf_status make_layout(epf_op *op, epf_layout **out)
{
    const epf_shape *const s = &op->shape;
    epf_status st;
    epf_layout *const l = epf_alloc(1, sizeof *l);
    if (l == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "layout: %zu bytes", sizeof *l);
    }
    l->op = op;
    l->backend = op->backend;
#define X(name, entries) \
    EPF_TRY_GOTO(reserve_array(l, (entries), "layout: " #name, &l->name), err_layout);
    EPF_LAYOUT_ARRAYS(X, s)
#undef X
    EPF_TRY_GOTO(op->backend->layout_create(l), err_layout);
    *out = l;
    return EPF_OK;

err_layout:
    free_layout(l);
    return st;
}

/*
 * On a device a layout that its caller destroys is kept for the next one: freeing device memory waits for what runs
 * there, which may be a peer's call that waits for this rank's next one.
 */
epf_status epf_layout_create(epf_op *op, epf_layout **out)
{
    for (epf_layout *l = op->layouts; l != NULL; l = l->next) {
        if (l->is_free) {
            l->is_free = false;
            l->is_filled = false;
            l->is_known = false;
            l->is_refused = false;
            *out = l;
            return EPF_OK;
        }
    }
    EPF_TRY(make_layout(op, out));
    if (op->backend->on_device) {
        (*out)->next = op->layouts;
        (*out)->is_listed = true;
        op->layouts = *out;
    }
    return EPF_OK;
}

void epf_layout_destroy(epf_layout *l)
{
    if (l == NULL) {
        return;
    }
    if (l->is_listed) {
        l->is_free = true;
    } else {
        free_layout(l);
    }
}

void epf_layout_forget(epf_op *op)
{
    while (op->layouts != NULL) {
        epf_layout *const l = op->layouts;
        op->layouts = l->next;
        l->is_listed = false;
        l->op = NULL;
        if (l->is_free) {
            free_layout(l);
        }
    }
}

int64_t epf_layout_min_rows(const epf_layout *l)
{
    return l->is_known ? l->num_rows : 0;
}

int64_t epf_layout_rows(const epf_layout *l, const epf_buffer_set *set)
{
    return l->is_known ? l->num_rows : set->map.rows;
}

int64_t epf_layout_max_tiles(const epf_layout *l, const epf_buffer_set *set)
{
    return l->is_known ? l->num_tiles : set->map.rows / l->block_m + l->op->shape.num_local;
}

bool epf_layout_is_empty(const epf_layout *l)
{
    return l->is_known && l->num_rows == 0;
}

epf_status epf_layout_reserve_rows(epf_layout *l, int64_t rows)
{
    if (rows <= l->row_source_rows) {
        return EPF_OK;
    }
    epf_free(l->row_source);
    l->row_source_rows = 0;
    l->row_source = epf_alloc((size_t)rows, 2 * sizeof *l->row_source);
    if (l->row_source == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "layout: %lld rows", (long long)rows);
    }
    l->row_source_rows = rows;
    return EPF_OK;
}

/* send_begin: where each position of the sending order starts among this rank's slots. */
static void fill_send_begin(epf_layout *l, const epf_shape *s, const int32_t *own_counts)
{
    int32_t at = 0;
    for (int32_t p = 0; p < s->num_experts; p++) {
        l->send_begin[p] = at;
        l->cursor[p] = at;
        at += own_counts[epf_route_send_expert(p, s->num_local, s->num_ranks)];
    }
    l->send_begin[s->num_experts] = at;
}

void epf_layout_place(epf_layout *l, const epf_shape *s, int32_t rank)
{
    fill_send_begin(l, s, l->counts + (int64_t)rank * s->num_experts);
    for (int64_t slot = 0; slot < (int64_t)l->num_tokens * s->topk; slot++) {
        const int32_t expert = l->topk_idx[slot];
        int32_t position;
        int32_t at;
        if (epf_route_is_dropped(expert, s->num_experts)) {
            l->dst_row[slot] = -1;
            continue;
        }
        position = epf_route_send_position(expert, s->num_local, s->num_ranks);
        at = l->cursor[position]++;
        l->sort_slots[at] = (int32_t)slot;
        l->dst_row[slot] =
            l->offset[(int64_t)expert * s->num_ranks + rank] + at - l->send_begin[position];
    }
}

static epf_status reserve_tiles(epf_layout *l, int64_t num_tiles)
{
    if (num_tiles <= l->max_tiles) {
        return EPF_OK;
    }
    l->max_tiles = 0;
    for (size_t i = 0; i < sizeof l->tables / sizeof l->tables[0]; i++) {
        epf_free(l->tables[i]);
        l->tables[i] = epf_alloc((size_t)num_tiles, sizeof *l->tables[i]);
        if (l->tables[i] == NULL) {
            return EPF_FAIL(EPF_E_NO_MEMORY, "layout: tables of %lld tiles", (long long)num_tiles);
        }
    }
    l->max_tiles = num_tiles;
    return EPF_OK;
}

epf_status epf_layout_tile(epf_layout *l, int32_t block_m)
{
    return l->backend->layout_tile(l, block_m);
}

epf_status epf_layout_tile_on_host(epf_layout *l, int32_t block_m)
{
    const epf_shape *const s = &l->op->shape;
    const int32_t *const rows = l->tokens + (int64_t)l->op->comm->rank * s->num_local;
    const int32_t wanted = block_m == EPF_AUTO ? DEFAULT_BLOCK_M : block_m;
    if (l->block_m == wanted) {
        return EPF_OK;
    }
    l->block_m = 0;
    l->num_tiles = epf_route_tiles(rows, s->num_local, wanted, l->row_offset, l->tile_offset);
    /* room for any block_m, so that a view's tables stay where they are until the next fill */
    EPF_TRY(reserve_tiles(l, (int64_t)l->num_rows + 1));
    for (int32_t e = 0; e < s->num_local; e++) {
        for (int32_t t = l->tile_offset[e]; t < l->tile_offset[e + 1]; t++) {
            l->tables[EPF_TABLE_EXPERT_IDS][t] = e;
            l->tables[EPF_TABLE_SPLIT_SIZE_CUM][t] = l->row_offset[e];
            l->tables[EPF_TABLE_TILE_NUM][t] = l->tile_offset[e + 1] - l->tile_offset[e];
            l->tables[EPF_TABLE_TILE_NUM_CUM][t] = l->tile_offset[e + 1];
        }
    }
    l->block_m = wanted;
    return EPF_OK;
}

epf_status epf_layout_check(const epf_layout *layout, const epf_op *op)
{
    EPF_CHECK_ARG(layout != NULL, "layout: NULL");
    EPF_CHECK_ARG(layout->op == op, "layout: belongs to another operator");
    if (!layout->is_filled || layout->is_refused) {
        return EPF_FAIL(EPF_E_STATE, "layout: its last epf_preprocess() failed");
    }
    return EPF_OK;
}

epf_status epf_layout_learn(const epf_layout *l)
{
    /* What the host has learned of a layout is no part of what the caller sees as constant. */
    epf_layout *const own = (epf_layout *)(uintptr_t)l;
    return l->is_known ? EPF_OK : l->backend->layout_wait(own);
}

epf_status epf_layout_get(const epf_layout *l, epf_layout_view *view)
{
    EPF_CHECK_ARG(l != NULL, "layout: NULL");
    EPF_CHECK_ARG(view != NULL, "view: NULL");
    EPF_TRY(l->is_refused ? EPF_OK : epf_layout_check(l, l->op)); /* why it was, is learned again */
    EPF_TRY(epf_layout_learn(l));
    memset(view, 0, sizeof *view);
    view->num_dispatch_token_cur_rank = l->num_tokens;
    view->num_recv_rows = l->num_rows;
    view->max_recv_rows = l->max_rows;
    view->recv_buf_offset_per_expert = l->offset;
    view->recv_buf_tokens_per_expert = l->tokens;
    view->num_recv_tokens_per_rank = l->recv;
    view->num_input_tokens_per_rank = l->input;
    view->topk_indices_tensor = l->topk_idx;
    view->token_dst_scatter_idx = l->dst_row;
    view->token_sort_indices = l->sort_slots;
    view->reversed_token_scatter_idx =
        l->op->config.need_reversed_token_scatter_idx ? l->row_source : NULL;
    view->block_m = l->block_m;
    view->num_tiles_total = l->num_tiles;
    view->expert_ids = l->tables[EPF_TABLE_EXPERT_IDS];
    view->split_size = l->tokens + (int64_t)l->op->comm->rank * l->op->shape.num_local;
    view->split_size_cum = l->tables[EPF_TABLE_SPLIT_SIZE_CUM];
    view->split_size_cum_per_expert = l->row_offset;
    view->tile_num = l->tables[EPF_TABLE_TILE_NUM];
    view->tile_num_cum = l->tables[EPF_TABLE_TILE_NUM_CUM];
    view->expert_tile_offset = l->tile_offset;
    return EPF_OK;
}
