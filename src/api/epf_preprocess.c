/*
 * epf_preprocess.c: the exchange that turns every rank's routing into one layout.
 *
 *   1. each rank checks and counts its slots, writes head and counts to every peer, then `posted`
 *   2. with all counts each rank computes all offsets, its slots' rows and the sending order, writes
 *      (slot, rank) to each row's rank, then `sourced`
 *   3. with all sources each rank copies its own out of the window
 *
 * A rank that finds its routing bad says so in its head (or in the low half of `sourced`), so that all
 * ranks return the same error and nobody waits.
 * Reuse: posted is double-buffered by parity.  A rank posts call i + 2 only after all posted i + 1, that
 * is after all have read i.  Row sources of i + 1 are written after all posted i + 1, that is after all
 * copied theirs of i.
 */
#include <string.h>

#include "api/epf_backend.h"
#include "api/epf_spec.h"
#include "core/epf_route.h"

/* What one preprocess on the host works on. */
typedef struct exchange {
    epf_op *op;
    epf_layout *layout;
    const epf_preprocess_args *args;
    epf_call call; /* windows and epoch; no phase is run */
    int32_t parity;
} exchange;

/* Where a check failed: heads of epf_posted_head with where = -1 have no slot. */
enum { NO_SLOT = -1 };

static const int32_t *index_row(const epf_tensor *tensor, int64_t token)
{
    return (const int32_t *)tensor->data + token * tensor->stride[0];
}

/* Copies the ids and counts them; `counts` is this rank's [E].  A bad id goes into the head. */
static epf_status count_slots(exchange *x, int32_t *counts, epf_posted_head *head)
{
    const epf_shape *const s = &x->op->shape;
    epf_layout *const l = x->layout;
    const int32_t num_tokens = (int32_t)x->args->exp_indices.shape[0];
    memset(counts, 0, (size_t)s->num_experts * sizeof *counts);
    l->num_slots = 0;
    l->num_before = 0;
    l->high_tokens = num_tokens > l->high_tokens ? num_tokens : l->high_tokens;
    for (int64_t t = 0; t < num_tokens; t++) {
        const int32_t *const ids = index_row(&x->args->exp_indices, t);
        for (int32_t k = 0; k < s->topk; k++) {
            const int64_t slot = t * s->topk + k;
            if (!epf_route_is_valid(ids[k], s->num_experts)) {
                head->where = (int32_t)slot;
                head->value = ids[k];
                return EPF_E_INVALID;
            }
            l->topk_idx[slot] = ids[k];
            l->num_before += ids[k] < 0 ? 1 : 0;
            if (!epf_route_is_dropped(ids[k], s->num_experts)) {
                counts[ids[k]]++;
                l->num_slots++;
            }
        }
    }
    for (int64_t i = (int64_t)num_tokens * s->topk; i < (int64_t)l->high_tokens * s->topk; i++) {
        l->topk_idx[i] = -1;
        l->dst_row[i] = -1;
    }
    l->high_tokens = num_tokens;
    l->num_tokens = num_tokens;
    return EPF_OK;
}

/* `counts` is this rank's [E]; NULL where the head refuses. */
static void post(exchange *x, const epf_posted_head *head, const int32_t *counts)
{
    const epf_call *const c = &x->call;
    const epf_shape *const s = &x->op->shape;
    const int64_t place = (int64_t)x->parity * s->num_ranks + c->rank;
    for (int32_t r = 0; r < s->num_ranks; r++) {
        epf_posted_head *const to_head =
            (epf_posted_head *)(void *)(c->control[r] + c->control_map.posted_head) + place;
        int32_t *const to_counts =
            (int32_t *)(void *)(c->control[r] + c->control_map.counts) + place * s->num_experts;
        memcpy(to_head, head, sizeof *head);
        if (counts != NULL) {
            memcpy(to_counts, counts, (size_t)s->num_experts * sizeof *counts);
        }
        epf_store_release_sys_u64(epf_call_control_word(c, r, c->control_map.posted, c->rank),
                                  epf_word(c->phase.epoch, 0));
    }
}

/* All words of `object` of this epoch. */
static epf_status wait_all(exchange *x, int32_t object)
{
    epf_need need = epf_phase_need_word(&x->call.phase, object, 0);
    epf_fault fault;
    need.end = x->op->shape.num_ranks;
    return epf_exec_wait(x->op->exec, &x->call, &need, &fault) == EPF_OK
               ? EPF_OK
               : epf_op_fail(x->op, &fault);
}

/* The first rank whose check failed decides the error of all; then counts and T of all are taken. */
static epf_status read_posted(exchange *x)
{
    const epf_call *const c = &x->call;
    const epf_shape *const s = &x->op->shape;
    epf_layout *const l = x->layout;
    const int64_t place = (int64_t)x->parity * s->num_ranks;
    const epf_posted_head *const heads =
        (const epf_posted_head *)(const void *)(c->control[c->rank] + c->control_map.posted_head) +
        place;
    const int32_t *const counts =
        (const int32_t *)(const void *)(c->control[c->rank] + c->control_map.counts) +
        place * s->num_experts;
    for (int32_t r = 0; r < s->num_ranks; r++) {
        if (heads[r].status != EPF_OK && heads[r].where != NO_SLOT) {
            return EPF_FAIL(
                (epf_status)heads[r].status,
                "exp_indices[%d, %d] on rank %d: %d, must be -1..%d (-1 and %d drop the slot)",
                heads[r].where / s->topk, heads[r].where % s->topk, r, heads[r].value,
                s->num_experts, s->num_experts);
        }
        if (heads[r].status != EPF_OK && r == c->rank) {
            return (epf_status)heads[r].status; /* our own text stands */
        }
        if (heads[r].status != EPF_OK) {
            return EPF_FAIL((epf_status)heads[r].status,
                            heads[r].status == EPF_E_NO_MEMORY
                                ? "preprocess: rank %d had no memory for its layout"
                                : "preprocess: rank %d refused its arguments",
                            r);
        }
    }
    for (int32_t r = 0; r < s->num_ranks; r++) {
        l->input[r] = heads[r].num_tokens;
    }
    memcpy(l->counts, counts, (size_t)s->num_ranks * (size_t)s->num_experts * sizeof *counts);
    return EPF_OK;
}

/* A given order inside the segments: which kind, and what is taken away to get the row. */
typedef struct given_order {
    const char *name;
    const epf_tensor *tensor;
    bool is_full;
} given_order;

/* What a given index of expert e has more than its place in the segment: literally the sort's start. */
static int64_t order_base(const epf_layout *l, const epf_shape *s, int32_t rank, bool is_full,
                          int32_t expert)
{
    int64_t base = 0;
    if (is_full) { /* global row number: buffers of lower ranks, then the segment's first row */
        for (int32_t r = 0; r < expert / s->num_local; r++) {
            base += l->recv[r];
        }
        return base + l->offset[(int64_t)expert * s->num_ranks + rank];
    }
    base = l->num_before; /* dropped slots of id -1 sort first */
    for (int32_t e = 0; e < expert; e++) {
        base += l->counts[(int64_t)rank * s->num_experts + e];
    }
    return base;
}

/* Puts the given order into dst_row; cursor[] holds each expert's base.  EPF_E_INVALID: no permutation. */
static epf_status take_order(epf_layout *l, const epf_shape *s, int32_t rank,
                             const given_order *order, bool check_only)
{
    const int32_t *const own_counts = l->counts + (int64_t)rank * s->num_experts;
    int64_t base = 0;
    int32_t base_of = -1;
    for (int32_t i = 0; i < l->num_slots; i++) {
        const int64_t slot = l->sort_slots[i];
        const int32_t expert = l->topk_idx[slot];
        const int32_t first = l->offset[(int64_t)expert * s->num_ranks + rank];
        const int64_t given = index_row(order->tensor, slot / s->topk)[slot % s->topk];
        int64_t place;
        if (expert != base_of) {
            base = order_base(l, s, rank, order->is_full, expert);
            base_of = expert;
        }
        place = given - base;
        EPF_CHECK_ARG(place >= 0 && place < own_counts[expert],
                      "%s[%lld, %lld] on rank %d: %lld, must be %lld..%lld for expert %d",
                      order->name, (long long)(slot / s->topk), (long long)(slot % s->topk), rank,
                      (long long)given, (long long)base, (long long)(base + own_counts[expert] - 1),
                      expert);
        EPF_CHECK_ARG(
            !check_only || l->dst_row[slot] == first + place,
            "%s[%lld, %lld] on rank %d: %lld, does not agree with the other scatter indices",
            order->name, (long long)(slot / s->topk), (long long)(slot % s->topk), rank,
            (long long)given);
        l->dst_row[slot] = first + (int32_t)place;
    }
    return EPF_OK;
}

/* Every row of every segment is taken once: sort_slots of a segment have distinct rows. */
static epf_status check_permutation(epf_layout *l, const epf_shape *s, int32_t rank,
                                    const char *name, uint8_t *seen)
{
    memset(seen, 0, (size_t)l->num_slots);
    for (int32_t i = 0; i < l->num_slots; i++) {
        const int64_t slot = l->sort_slots[i];
        const int32_t expert = l->topk_idx[slot];
        const int32_t position = epf_route_send_position(expert, s->num_local, s->num_ranks);
        const int32_t at = l->send_begin[position] + l->dst_row[slot] -
                           l->offset[(int64_t)expert * s->num_ranks + rank];
        EPF_CHECK_ARG(seen[at] == 0,
                      "%s on rank %d: slot [%lld, %lld] takes the place of another one", name, rank,
                      (long long)(slot / s->topk), (long long)(slot % s->topk));
        seen[at] = 1;
    }
    return EPF_OK;
}

static epf_status apply_orders(exchange *x)
{
    epf_layout *const l = x->layout;
    const epf_shape *const s = &x->op->shape;
    const int32_t rank = x->call.rank;
    const given_order orders[] = {
        {"local_scatter_indices", &x->args->local_scatter_indices, false},
        {"full_scatter_indices", &x->args->full_scatter_indices, true},
    };
    bool is_taken = false;
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        if (epf_tensor_given(orders[i].tensor)) {
            EPF_TRY(epf_memory_reserve(&x->op->staged, epf_max64(l->num_slots, 1), "marks"));
            EPF_TRY(take_order(l, s, rank, &orders[i], is_taken));
            EPF_TRY(check_permutation(l, s, rank, orders[i].name, x->op->staged.data));
            is_taken = true;
        }
    }
    return EPF_OK;
}

/* Rows, order and sources of this rank's slots. */
static epf_status lay_out(exchange *x)
{
    epf_layout *const l = x->layout;
    const epf_shape *const s = &x->op->shape;
    const epf_route_tables tables = {s->num_ranks, s->num_local, l->counts,
                                     l->tokens,    l->offset,    l->recv};
    if (!epf_route_fill(&tables)) {
        return EPF_FAIL(EPF_E_INTERNAL, "preprocess: more than 2^31 - 1 rows on one rank");
    }
    l->num_rows = l->recv[x->call.rank];
    l->max_rows = 0;
    for (int32_t r = 0; r < s->num_ranks; r++) {
        l->max_rows = l->recv[r] > l->max_rows ? l->recv[r] : l->max_rows;
    }
    epf_layout_place(l, s, x->call.rank);
    for (int64_t i = l->num_slots; i < epf_shape_max_slots(s) && l->sort_slots[i] != -1; i++) {
        l->sort_slots[i] = -1;
    }
    EPF_TRY(apply_orders(x));
    EPF_TRY(epf_layout_reserve_rows(l, l->num_rows));
    l->block_m = 0;
    return epf_layout_tile(l, EPF_AUTO);
}

/* (slot, rank) of each row to the rank that will hold it; `status` of our own checks with it. */
static void push_sources(exchange *x, epf_status status)
{
    const epf_layout *const l = x->layout;
    const epf_call *const c = &x->call;
    const epf_shape *const s = &x->op->shape;
    for (int32_t i = 0; i < l->num_slots && status == EPF_OK; i++) {
        const int32_t slot = l->sort_slots[i];
        const int32_t source[2] = {slot, c->rank};
        int32_t *const to = (int32_t *)(void *)(c->control[l->topk_idx[slot] / s->num_local] +
                                                c->control_map.row_source) +
                            2 * (int64_t)l->dst_row[slot];
        memcpy(to, source, sizeof source);
    }
    for (int32_t r = 0; r < s->num_ranks; r++) {
        epf_store_release_sys_u64(epf_call_control_word(c, r, c->control_map.sourced, c->rank),
                                  epf_word(c->phase.epoch, (uint32_t)-status));
    }
}

static epf_status read_sources(exchange *x, epf_status mine)
{
    epf_layout *const l = x->layout;
    const epf_call *const c = &x->call;
    for (int32_t r = 0; r < x->op->shape.num_ranks; r++) {
        const uint32_t code = epf_word_low(
            epf_load_acquire_sys_u64(epf_call_control_word(c, c->rank, c->control_map.sourced, r)));
        if (code != 0) {
            return r == c->rank ? mine
                                : EPF_FAIL((epf_status) - (int32_t)code,
                                           -(int32_t)code == EPF_E_NO_MEMORY
                                               ? "preprocess: rank %d had no memory for its rows"
                                               : "preprocess: rank %d refused its scatter indices",
                                           r);
        }
    }
    memcpy(l->row_source, c->control[c->rank] + c->control_map.row_source,
           (size_t)l->num_rows * 2 * sizeof *l->row_source);
    if (x->op->config.need_reversed_token_scatter_idx) {
        for (int64_t i = 2 * (int64_t)l->num_rows; i < 2 * (int64_t)l->high_rows; i++) {
            l->row_source[i] = -1;
        }
    }
    l->high_rows = l->num_rows;
    return EPF_OK;
}

static epf_status run_exchange(exchange *x, epf_status refused)
{
    epf_posted_head head = {EPF_OK, 0, NO_SLOT, 0};
    epf_status st = refused;
    if (st == EPF_OK) {
        head.num_tokens = (int32_t)x->args->exp_indices.shape[0];
        st = count_slots(x, x->layout->counts, &head);
    }
    head.status = st;
    post(x, &head, st == EPF_OK ? x->layout->counts : NULL);
    EPF_TRY(wait_all(x, EPF_OBJECT_POSTED));
    EPF_TRY(read_posted(x));
    st = lay_out(x);
    push_sources(x, st);
    EPF_TRY(wait_all(x, EPF_OBJECT_SOURCED));
    return read_sources(x, st);
}

epf_status epf_preprocess_on_host(epf_exchange *e)
{
    epf_op *const op = e->op;
    exchange x;
    memset(&x, 0, sizeof x);
    x.op = op;
    x.layout = e->layout;
    x.args = &e->args;
    EPF_TRY(epf_op_next_epoch(op));
    epf_op_fill_call(op, &op->sets[0], &x.call);
    x.parity = (int32_t)(op->num_preprocess++ & 1u);
    EPF_TRY(run_exchange(&x, e->refused));
    x.layout->epoch = op->epoch;
    x.layout->is_known = true;
    return EPF_OK;
}

static epf_status check_tensors(const epf_exchange *x)
{
    const epf_shape *const s = &x->op->shape;
    const epf_tensor_want want = {"exp_indices", 2,    {EPF_ANY_SIZE, s->topk}, EPF_DTYPE_I32, 0,
                                  false,         false};
    epf_tensor_want scatter = {"", 2, {0, s->topk}, EPF_DTYPE_I32, 0, true, false};
    EPF_CHECK_ARG(epf_tensor_given(&x->args.exp_indices), "exp_indices: not given, but required");
    EPF_TRY(epf_tensor_check(&x->args.exp_indices, &want));
    EPF_CHECK_ARG(x->args.exp_indices.shape[0] <= s->max_tokens,
                  "exp_indices: %lld tokens, must be at most max_tokens %d",
                  (long long)x->args.exp_indices.shape[0], s->max_tokens);
    scatter.shape[0] = x->args.exp_indices.shape[0];
    scatter.name = "full_scatter_indices";
    EPF_TRY(epf_tensor_check(&x->args.full_scatter_indices, &scatter));
    scatter.name = "local_scatter_indices";
    return epf_tensor_check(&x->args.local_scatter_indices, &scatter);
}

/* The layout to work on.  Where there is none the call is refused, which all ranks are told. */
static void take_layout(epf_exchange *x, epf_layout **layout)
{
    const bool is_usable = layout != NULL && (*layout == NULL || (*layout)->op == x->op);
    if (!is_usable && x->refused == EPF_OK) {
        x->refused = EPF_FAIL(EPF_E_INVALID, "layout: %s",
                              layout == NULL ? "NULL" : "belongs to another operator");
    }
    if (is_usable && *layout != NULL) {
        x->layout = *layout;
    } else if (x->refused == EPF_OK) {
        x->refused = epf_layout_create(x->op, &x->layout);
    }
}

epf_status epf_preprocess(epf_op *op, const epf_preprocess_args *args, epf_layout **layout)
{
    epf_exchange x;
    epf_status st;
    memset(&x, 0, sizeof x);
    EPF_TRY(epf_op_check_ready(op, "epf_preprocess"));
    x.op = op;
    x.refused = epf_struct_import(&epf_spec_preprocess_args, args, &x.args);
    take_layout(&x, layout);
    if (x.refused == EPF_OK) {
        x.refused = check_tensors(&x);
    }
    if (x.layout != NULL) {
        x.layout->is_filled = false;
    }
    st = op->backend->preprocess(&x);
    if (st == EPF_OK) {
        x.layout->is_filled = true;
        *layout = x.layout;
    } else if (layout == NULL || x.layout != *layout) {
        epf_layout_destroy(x.layout);
    }
    return st;
}
