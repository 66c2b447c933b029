/* op_nan.c: the same calls without NaN and with it. */
#include "op_nan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/epf_check.h"

enum { MOST_BAD = 3, NUM_RESULTS = 5 };

/* Slots of one rank that get a NaN. */
typedef struct bad_slots {
    int32_t victim;
    int32_t count;
    int32_t slots[MOST_BAD];
} bad_slots;

static bad_slots draw(const op_rank *r, epf_rng *rng)
{
    const epf_data *d = r->c->data;
    bad_slots bad = {.victim = epf_rng_below(rng, d->problem.num_ranks)};
    const int32_t num_slots = d->num_tokens[bad.victim] * d->problem.num_topk;

    bad.count = num_slots == 0 ? 0 : epf_rng_range(rng, 1, MOST_BAD);
    for (int32_t i = 0; i < bad.count; i++) {
        bad.slots[i] = epf_rng_below(rng, num_slots);
    }
    return bad;
}

/* The expert of the i-th of them; -1: it is dropped. */
static int32_t expert_of(const op_rank *r, const bad_slots *bad, int32_t i)
{
    const int32_t id = r->c->data->topk_idx[bad->victim][bad->slots[i]];
    return id == r->c->data->problem.num_experts ? -1 : id;
}

static bool hits_slot(const op_rank *r, const bad_slots *bad, int64_t slot)
{
    bool hit = false;

    for (int32_t i = 0; i < bad->count && r->id == bad->victim; i++) {
        hit = hit || (bad->slots[i] == slot && expert_of(r, bad, i) >= 0);
    }
    return hit;
}

static bool hits_token(const op_rank *r, const bad_slots *bad, int64_t token)
{
    const int32_t topk = r->c->data->problem.num_topk;
    bool hit = false;

    for (int32_t k = 0; k < topk; k++) {
        hit = hit || hits_slot(r, bad, token * topk + k);
    }
    return hit;
}

static bool hits_expert(const op_rank *r, const bad_slots *bad, int64_t local)
{
    bool hit = false;

    for (int32_t i = 0; i < bad->count; i++) {
        hit = hit || expert_of(r, bad, i) == r->id * r->c->route.num_local_experts + local;
    }
    return hit;
}

/* The elements of a contiguous matrix on one rank, with NaN at the bad slots. */
static void put_nan(const op_rank *r, const bad_slots *bad, const op_matrix *matrix)
{
    const int32_t topk = r->c->data->problem.num_topk;
    const size_t size = epf_element_bytes(matrix->dtype);
    const double value = NAN;
    char *elements = op_matrix_fetch(matrix);

    for (int32_t i = 0; i < bad->count && r->id == bad->victim; i++) {
        const int64_t at = bad->slots[i] / topk * matrix->stride + bad->slots[i] % topk;
        epf_pack(matrix->dtype, &value, 1, elements + (size_t)at * size);
    }
    op_matrix_store(matrix, elements);
    free(elements);
}

typedef bool hit_function(const op_rank *r, const bad_slots *bad, int64_t index);

/* Of a matrix whose `rows_per` rows have one index each: NaN where `hits`, else the bits of `before`. */
typedef struct nan_want {
    const char *name;
    const op_matrix *matrix;
    hit_function *hits;
    int64_t rows_per;
} nan_want;

static bool check(op_rank *r, const bad_slots *bad, const nan_want *want, const void *before)
{
    const op_matrix *m = want->matrix;
    const size_t row_bytes = (size_t)m->stride * epf_element_bytes(m->dtype);
    char *after = op_matrix_fetch(m);
    int64_t odd = -1;
    bool is_hit = false;

    for (int64_t row = 0; row < m->rows && odd < 0; row++) {
        const epf_ref_tensor elements = {after + (size_t)row * row_bytes, m->dtype};
        const char *old = (const char *)before + (size_t)row * row_bytes;
        is_hit = want->hits(r, bad, row / want->rows_per);
        for (int64_t i = 0; i < m->cols && odd < 0 && is_hit; i++) {
            odd = isnan(epf_ref_load(elements, i)) ? -1 : row;
        }
        if (!is_hit && memcmp(elements.data, old, row_bytes) != 0) {
            odd = row;
        }
    }
    free(after);
    RANK_CHECK(r->rank, odd < 0, "%s: row %lld %s (NaN at slot %d, ... of rank %d)", want->name,
               (long long)odd, is_hit ? "is not all NaN" : "has other bits", bad->slots[0],
               bad->victim);
    return true;
}

/* ---- the layer ---- */

typedef struct layer {
    op_rank *r;
    epf_layer_context *context;
    int32_t combine_mode;
    epf_tensor w13, w2;
    op_matrix weight, grad_output, output, grad_input, grad_weight, grad_w13, grad_w2;
} layer;

static void make_layer(layer *l)
{
    const op_case *c = l->r->c;
    const epf_problem *p = &c->data->problem;
    const int64_t local = c->route.num_local_experts;
    const int64_t tokens = c->data->num_tokens[l->r->id];
    const int64_t inter = p->num_columns / 2;
    const op_guard none = {0, 0};
    const epf_ref_tensor w2 = epf_tensor_at(c->b2_half, l->r->id * local * p->hidden * inter);

    l->w13 = op_in_space(
        l->r, op_tensor3(c->data->b1[l->r->id].data, p->dtype, local, 2 * inter, p->hidden));
    l->w2 = op_in_space(l->r, op_tensor3(w2.data, p->dtype, local, p->hidden, inter));
    l->weight = op_matrix_of(c->data->weights[l->r->id], tokens, p->num_topk, 0);
    l->grad_output = op_matrix_of(c->data->tokens[l->r->id], tokens, p->hidden, 0);
    l->output = op_matrix_make(tokens, p->hidden, p->dtype, none);
    l->grad_input = op_matrix_make(tokens, p->hidden, p->dtype, none);
    l->grad_weight = op_matrix_make(tokens, p->num_topk, p->weight_dtype, none);
    l->grad_w13 = op_matrix_make(local * 2 * inter, p->hidden, EPF_DTYPE_F32, none);
    l->grad_w2 = op_matrix_make(local * p->hidden, inter, EPF_DTYPE_F32, none);
}

static void free_layer(layer *l)
{
    op_matrix *all[] = {&l->weight,      &l->grad_output, &l->output, &l->grad_input,
                        &l->grad_weight, &l->grad_w13,    &l->grad_w2};

    epf_layer_context_destroy(l->context);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        op_matrix_free(all[i]);
    }
}

static bool forward(layer *l)
{
    epf_layer_forward_args args;

    RANK_OK(l->r->rank, epf_layer_forward_args_init(&args));
    args.input = l->r->x.tensor;
    args.exp_indices = l->r->ids.tensor;
    args.weight = l->weight.tensor;
    args.weights.w13 = l->w13;
    args.weights.w2 = l->w2;
    args.output = l->output.tensor;
    args.comm_buffer_id = l->r->c->knobs.buffer;
    args.num_tail_sms = l->r->c->knobs.num_tail_sms;
    args.use_block_wise_barrier = l->r->c->knobs.block_wise;
    args.combine_mode = l->combine_mode;
    RANK_OK(l->r->rank, epf_layer_forward(l->r->op, l->context, &args));
    RANK_OK(l->r->rank, op_settle(l->r));
    return true;
}

static bool backward(layer *l)
{
    const epf_problem *p = &l->r->c->data->problem;
    const int64_t local = l->r->c->route.num_local_experts;
    epf_layer_backward_args args;

    RANK_OK(l->r->rank, epf_layer_backward_args_init(&args));
    args.grad_output = l->grad_output.tensor;
    args.w13 = l->w13;
    args.w2 = l->w2;
    args.grad_input = l->grad_input.tensor;
    args.grad_weight = l->grad_weight.tensor;
    args.grad_w13 = op_reshape3(l->grad_w13.tensor, local, p->num_columns, p->hidden);
    args.grad_w2 = op_reshape3(l->grad_w2.tensor, local, p->hidden, p->num_columns / 2);
    args.comm_buffer_id = l->r->c->knobs.buffer;
    args.combine_mode = l->combine_mode;
    RANK_OK(l->r->rank, epf_layer_backward(l->r->op, l->context, &args));
    RANK_OK(l->r->rank, op_settle(l->r));
    return true;
}

static bool hits_nothing(const op_rank *r, const bad_slots *bad, int64_t index)
{
    (void)r;
    (void)bad;
    (void)index;
    return false;
}

static bool layer_twice(layer *l, const bad_slots *bad)
{
    const epf_problem *p = &l->r->c->data->problem;
    const nan_want wants[NUM_RESULTS] = {
        {"output", &l->output, hits_token, 1},
        {"grad_input", &l->grad_input, hits_token, 1},
        {"grad_weight", &l->grad_weight, hits_nothing, 1},
        {"grad_w13", &l->grad_w13, hits_expert, p->num_columns},
        {"grad_w2", &l->grad_w2, hits_expert, p->hidden},
    };
    void *before[NUM_RESULTS];
    bool ok;

    if (!forward(l) || !backward(l)) {
        return false;
    }
    for (int32_t i = 0; i < NUM_RESULTS; i++) {
        before[i] = op_matrix_fetch(wants[i].matrix);
    }
    put_nan(l->r, bad, &l->weight);
    ok = forward(l) && backward(l);
    for (int32_t i = 0; i < NUM_RESULTS; i++) {
        ok = ok && check(l->r, bad, &wants[i], before[i]);
        free(before[i]);
    }
    return ok;
}

bool op_nan_layer(op_rank *r, epf_rng *rng, int32_t combine_mode)
{
    layer l = {.r = r, .combine_mode = combine_mode};
    const bad_slots bad = draw(r, rng);
    bool ok;

    make_layer(&l);
    ok = epf_layer_context_create(r->op, &l.context) == EPF_OK && layer_twice(&l, &bad);
    free_layer(&l);
    return ok;
}

/* ---- the two operations ---- */

static bool combine(op_rank *r, const op_matrix *weights, const op_matrix *gates)
{
    epf_group_gemm_combine_args args = op_combine_args(r);
    epf_group_gemm_combine_result result;

    args.combine_weights = weights->tensor;
    args.combine_output = r->output.tensor;
    args.gate_input = op_matrix_vector(gates);
    args.output_gate = r->gate.tensor;
    RANK_OK(r->rank, op_try_combine(r, &args, &result));
    return true;
}

/* Gates go the other way: a NaN in the rows that came from the bad slots. */
static void put_nan_gates(const op_rank *r, const bad_slots *bad, const op_matrix *gates)
{
    const epf_ref_rank *here = &r->c->route.ranks[r->id];
    const size_t size = epf_element_bytes(gates->dtype);
    const double value = NAN;
    char *elements = op_matrix_fetch(gates);

    for (int64_t row = 0; row < here->num_rows; row++) {
        for (int32_t i = 0; i < bad->count && here->rows[row].source == bad->victim; i++) {
            if (here->rows[row].slot == bad->slots[i]) {
                epf_pack(gates->dtype, &value, 1, elements + (size_t)row * size);
            }
        }
    }
    op_matrix_store(gates, elements);
    free(elements);
}

static bool combine_twice(op_rank *r, const bad_slots *bad, const op_matrix *weights)
{
    const nan_want sum = {"combine_output", &r->output, hits_token, 1};
    op_matrix column = r->gate; /* a row of it for each slot */
    const nan_want gates = {"output_gate", &column, hits_slot, 1};
    void *before[2];
    bool ok;

    column.rows = r->gate.rows * r->gate.cols;
    column.cols = column.stride = 1;
    column.tensor = op_tensor(r->gate.tensor.data, r->gate.dtype, column.rows, 1);
    if (!combine(r, weights, &r->gate_in)) {
        return false;
    }
    before[0] = op_matrix_fetch(&r->output);
    before[1] = op_matrix_fetch(&r->gate);
    put_nan(r, bad, weights);
    put_nan_gates(r, bad, &r->gate_in);
    ok = combine(r, weights, &r->gate_in) && check(r, bad, &sum, before[0]) &&
         check(r, bad, &gates, before[1]);
    op_store_gates(r, &r->gate_in.tensor);
    free(before[0]);
    free(before[1]);
    return ok;
}

bool op_nan_combine(op_rank *r, epf_rng *rng)
{
    const bad_slots bad = draw(r, rng);
    op_matrix weights = op_matrix_of(r->c->data->combine_weights[r->id], r->x.rows,
                                     r->c->data->problem.num_topk, 0);
    const bool ok = op_preprocess(r) && op_dispatch(r) && combine_twice(r, &bad, &weights);

    op_matrix_free(&weights);
    return ok;
}
