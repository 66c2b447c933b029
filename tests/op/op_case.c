/* op_case.c: one rank of a case: its tensors, its group, its operator. */
#include "op_case.h"

#include <stdlib.h>
#include <string.h>

#include "op_device.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

/* On a device calls have only been enqueued. */
epf_status op_settle(const op_rank *r)
{
    return op_device_settle(r);
}

epf_op_config op_config_of(const op_case *c)
{
    const epf_problem *p = &c->data->problem;
    const op_knobs *k = &c->knobs;
    epf_op_config config;

    CHECK_OK(epf_op_config_init(&config));
    config.max_tokens = p->max_tokens;
    config.hidden = p->hidden;
    config.topk = p->num_topk;
    config.num_tot_experts = p->num_experts;
    config.dtype = (int32_t)p->dtype;
    config.weight_dtype = (int32_t)p->weight_dtype;
    config.num_sm = k->num_sm;
    config.sm_margin = k->sm_margin;
    config.num_workers = k->num_workers;
    config.pin_workers = k->pin;
    config.duplicate_comm_buffer = k->num_buffers == 0 ? 1 : k->num_buffers;
    config.capacity = k->capacity > 0 ? k->capacity : p->capacity;
    config.need_reversed_token_scatter_idx = k->reversed;
    config.lazy = k->lazy;
    config.allow_regrow = !k->no_regrow;
    config.gemm_library = k->gemm_library;
    op_device_config(&config);
    return config;
}

void op_store_gates(const op_rank *r, const epf_tensor *tensor)
{
    const epf_ref_matrix *gates = &r->c->ranks[r->id].gate_in;
    const epf_dtype dtype = (epf_dtype)tensor->dtype;
    void *elements = epf_test_alloc((size_t)gates->rows, epf_element_bytes(dtype));

    epf_pack(dtype, gates->value, gates->rows, elements);
    op_store(tensor, elements, gates->rows);
    free(elements);
}

/* What the caller brings, and room for what it gets. */
static void make_matrices(op_rank *r)
{
    const epf_data *d = r->c->data;
    const op_knobs *k = &r->c->knobs;
    const epf_problem *p = &d->problem;
    const int64_t tokens = d->num_tokens[r->id];
    const int64_t rows = r->c->route.num_recv_tokens_per_rank[r->id];
    const op_guard guard = {2, k->guard_cols};
    const op_guard guard_rows = {2, 0};

    r->x = op_matrix_of(d->tokens[r->id], tokens, p->hidden, k->guard_cols);
    r->ids = op_matrix_of((epf_ref_tensor){d->topk_idx[r->id], EPF_DTYPE_I32}, tokens, p->num_topk,
                          k->guard_cols);
    r->weight = op_matrix_of(d->weights[r->id], tokens, p->num_topk, k->guard_cols);
    r->combine = op_matrix_of(d->combine_weights[r->id], tokens, p->num_topk, k->guard_cols);
    r->local = op_matrix_of((epf_ref_tensor){d->local_scatter[r->id], EPF_DTYPE_I32}, tokens,
                            p->num_topk, k->guard_cols);
    r->full = op_matrix_of((epf_ref_tensor){d->full_scatter[r->id], EPF_DTYPE_I32}, tokens,
                           p->num_topk, k->guard_cols);
    r->dispatched = op_matrix_make(rows, p->hidden, p->dtype, guard);
    r->received = op_matrix_make(rows, 1, p->weight_dtype, guard_rows);
    r->gemm = op_matrix_make(rows, p->num_columns, p->dtype, guard);
    r->h = op_matrix_make(rows, p->num_columns / 2, p->dtype, guard);
    r->output = op_matrix_make(tokens, p->hidden, p->dtype, (op_guard){0, k->guard_cols});
    r->gate_in = op_matrix_make(rows, 1, p->weight_dtype, guard_rows);
    r->gate = op_matrix_make(tokens, p->num_topk, p->weight_dtype, (op_guard){0, k->guard_cols});
    op_store_gates(r, &r->gate_in.tensor);
    if (k->grad_dtype != 0) {
        r->grad = op_matrix_make((int64_t)r->c->route.num_local_experts * p->num_columns, p->hidden,
                                 (epf_dtype)k->grad_dtype, (op_guard){0, 0});
    }
}

static void free_matrices(op_rank *r)
{
    op_matrix *all[] = {&r->x,         &r->ids,        &r->weight,   &r->combine, &r->local,
                        &r->full,      &r->dispatched, &r->received, &r->gemm,    &r->h,
                        &r->output,    &r->gate_in,    &r->gate,     &r->grad,    &r->signal,
                        &r->spread[0], &r->spread[1]};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        op_matrix_free(all[i]);
    }
}

epf_tensor op_in_space(op_rank *r, epf_tensor tensor)
{
    const size_t size = epf_element_bytes((epf_dtype)tensor.dtype);
    size_t bytes = size;
    op_copy *copy = r->copies;

    for (int32_t i = 0; i < tensor.ndim; i++) {
        bytes *= (size_t)tensor.shape[i];
    }
    if (!epf_space_is_device() || bytes == 0) {
        return tensor;
    }
    while (copy->host != NULL && (copy->host != tensor.data || copy->bytes != bytes)) {
        copy++;
        CHECK(copy < r->copies + OP_MAX_COPIES, "more than %d copies", (int)OP_MAX_COPIES);
    }
    if (copy->host == NULL) {
        *copy = (op_copy){tensor.data, epf_space_alloc(bytes), bytes};
        epf_space_put(copy->space, copy->host, bytes);
    }
    tensor.data = copy->space;
    return tensor;
}

static void free_copies(op_rank *r)
{
    for (int32_t i = 0; i < OP_MAX_COPIES; i++) {
        epf_space_free(r->copies[i].space);
        r->copies[i] = (op_copy){NULL, NULL, 0};
    }
}

/* The same numbers with eight columns behind each row and a row behind each expert that belong to nothing. */
static epf_tensor spread(op_matrix *to, epf_tensor from)
{
    const size_t row = (size_t)from.shape[2] * epf_element_bytes((epf_dtype)from.dtype);
    const int64_t rows = from.shape[1];
    char *wide;

    if (to->tensor.data == NULL) {
        wide = epf_test_alloc((size_t)(from.shape[0] * (rows + 1)), row);
        for (int64_t g = 0; g < from.shape[0]; g++) {
            memcpy(wide + (size_t)(g * (rows + 1)) * row,
                   (const char *)from.data + (size_t)(g * rows) * row, (size_t)rows * row);
            memset(wide + (size_t)(g * (rows + 1) + rows) * row, 0x7f, row);
        }
        *to = op_matrix_of((epf_ref_tensor){wide, (epf_dtype)from.dtype},
                           from.shape[0] * (rows + 1), from.shape[2], 8);
        free(wide);
    }
    from.data = to->tensor.data;
    from.stride[1] = to->stride;
    from.stride[0] = (rows + 1) * to->stride;
    return from;
}

epf_tensor op_weight_tensor(op_rank *r, bool second)
{
    const epf_data *d = r->c->data;
    const op_knobs *k = &r->c->knobs;
    const epf_dtype dtype = d->problem.dtype;
    const int64_t local = r->c->route.num_local_experts;
    const int64_t h = d->problem.hidden;
    const int64_t n = d->problem.num_columns;
    epf_tensor tensor;

    if (!second) {
        tensor = k->b1_transposed ? op_tensor3(d->b1_transposed[r->id].data, dtype, local, h, n)
                                  : op_tensor3(d->b1[r->id].data, dtype, local, n, h);
    } else if (k->swiglu) {
        const epf_ref_tensor here = epf_tensor_at(r->c->b2_half, r->id * local * h * (n / 2));
        tensor = op_tensor3(here.data, dtype, local, h, n / 2);
    } else {
        tensor = k->b2_transposed ? op_tensor3(d->b2_transposed[r->id].data, dtype, local, n, h)
                                  : op_tensor3(d->b2[r->id].data, dtype, local, h, n);
    }
    return k->weight_gaps ? spread(&r->spread[second ? 1 : 0], tensor) : op_in_space(r, tensor);
}

epf_status op_pack(op_rank *r)
{
    epf_weight_config config;
    epf_status st;

    CHECK_OK(epf_weight_config_init(&config));
    config.tensor = op_weight_tensor(r, false);
    config.reduce_last_dim = !r->c->knobs.b1_transposed;
    config.gate_up = r->c->knobs.swiglu;
    config.gemm_block_size_n = r->c->knobs.block_n;
    config.gemm_block_size_k = r->c->knobs.block_k;
    st = epf_weight_create(r->op, &config, &r->w1);
    if (st != EPF_OK) {
        return st;
    }
    config.tensor = op_weight_tensor(r, true);
    config.reduce_last_dim = r->c->knobs.swiglu || !r->c->knobs.b2_transposed;
    config.gate_up = false;
    return epf_weight_create(r->op, &config, &r->w2);
}

bool op_prepare(op_rank *r, op_case *c, epf_test_rank *rank)
{
    memset(r, 0, sizeof *r);
    r->c = c;
    r->rank = rank;
    r->id = rank->rank;
    epf_space_enter(rank->rank);
    make_matrices(r);
    return op_open_group(rank, c, &r->group);
}

bool op_open(op_rank *r, op_case *c, epf_test_rank *rank)
{
    epf_op_config config;

    if (!op_prepare(r, c, rank)) {
        return false;
    }
    config = op_config_of(c);
    if (c->knobs.mixed) { /* a device takes even numbers */
        config.num_workers = (1 + rank->rank % 3) * (epf_space_is_device() ? 2 : 1);
    }
    RANK_OK(rank, epf_op_create(r->group, &config, &r->op));
    if (c->knobs.lazy) {
        RANK_OK(rank, epf_op_sync(r->op));
    }
    if (c->knobs.packed) {
        RANK_OK(rank, op_pack(r));
    }
    return true;
}

void op_close(op_rank *r)
{
    op_return(r);
    epf_op_destroy(r->op);
    if (r->group != NULL) {
        op_close_group(r->c, r->group);
    }
}

void op_borrow(op_rank *r, op_case *c, const op_rank *owner)
{
    memset(r, 0, sizeof *r);
    r->c = c;
    r->rank = owner->rank;
    r->id = owner->id;
    r->group = owner->group;
    r->op = owner->op;
    make_matrices(r);
}

void op_return(op_rank *r)
{
    epf_weight_destroy(r->w1);
    epf_weight_destroy(r->w2);
    epf_layout_destroy(r->layout);
    free_copies(r);
    free_matrices(r);
}
