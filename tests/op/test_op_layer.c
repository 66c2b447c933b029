/*
 * test_op_layer: the whole layer, forward and backward, against the reference within its bound, in every
 * mode; the same bits in every mode, on every run and on one rank.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op_device.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

typedef struct layer_variant {
    const char *name;
    int32_t grad_dtype; /* of the weights' gradients; 0: not asked for, but with token_grads */
    int32_t num_tail_sms, num_workers, buffer;
    bool token_grads; /* in the token type */
    bool packed, serial, scatters, expert_wise, processes;
} layer_variant;

static const layer_variant kVariants[] = {
    {.name = "defaults", .grad_dtype = EPF_DTYPE_F32},
    {.name = "serial", .serial = true, .expert_wise = true, .token_grads = true},
    {.name = "packed", .packed = true, .scatters = true, .grad_dtype = EPF_DTYPE_F32, .buffer = 1},
    {.name = "two-stage", .scatters = true, .num_tail_sms = 1, .num_workers = 3},
    {.name = "processes", .processes = true, .scatters = true, .grad_dtype = EPF_DTYPE_F32},
};

static bool has_grads(const layer_variant *v)
{
    return v->token_grads || v->grad_dtype != 0;
}

/* What every rank's layer must find, and room for what it finds. */
typedef struct layer_case {
    op_case *c; /* for the group and the config */
    const layer_variant *variant;
    epf_ref_forward forward[EPF_PROBLEM_MAX_RANKS];
    epf_ref_backward backward[EPF_PROBLEM_MAX_RANKS];
    void *grad_inputs[EPF_PROBLEM_MAX_RANKS]; /* [T_r, H] as c->outputs */
} layer_case;

static epf_ref_tensor w2_of(const op_case *c, int32_t rank)
{
    const epf_problem *p = &c->data->problem;
    const int64_t per_rank = (int64_t)c->route.num_local_experts * p->hidden * (p->num_columns / 2);
    return epf_tensor_at(c->b2_half, rank * per_rank);
}

/* The output's gradient: the tokens themselves do as well as any numbers. */
static const epf_ref_tensor *grad_output_of(const op_case *c)
{
    return c->data->tokens;
}

static void expect(layer_case *l, const op_case *c)
{
    const epf_data *d = c->data;
    epf_ref_tensor w2[EPF_PROBLEM_MAX_RANKS];
    const epf_ref_layer layer = {.route = &c->route,
                                 .hidden = d->problem.hidden,
                                 .intermediate = d->problem.num_columns / 2,
                                 .mode = EPF_REF_EXACT,
                                 .gate_up_rounded = epf_space_is_device(),
                                 .dtype = d->problem.dtype,
                                 .weight_dtype = d->problem.weight_dtype,
                                 .input = d->tokens,
                                 .weights = d->weights,
                                 .w13 = d->b1,
                                 .w2 = w2};

    for (int32_t r = 0; r < d->problem.num_ranks; r++) {
        w2[r] = w2_of(c, r);
    }
    CHECK_OK(epf_ref_layer_forward(&layer, l->forward));
    CHECK_OK(epf_ref_layer_backward(&layer, l->forward, grad_output_of(c), l->backward));
}

/* One rank's arguments and results. */
typedef struct layer_rank {
    op_rank r;
    const layer_case *l;
    epf_layer_context *context;
    epf_weight *w13_back, *w2_back;
    epf_tensor w13, w2;
    op_matrix grad_output, grad_input, grad_weight, grad_w13, grad_w2;
} layer_rank;

static void make_tensors(layer_rank *k)
{
    const op_case *c = k->r.c;
    const epf_problem *p = &c->data->problem;
    const int64_t local = c->route.num_local_experts;
    const int64_t tokens = c->data->num_tokens[k->r.id];
    const int64_t inter = p->num_columns / 2;
    const epf_dtype grad_dtype =
        k->l->variant->grad_dtype == 0 ? p->dtype : (epf_dtype)k->l->variant->grad_dtype;
    const op_guard none = {0, 0};

    k->w13 = op_in_space(
        &k->r, op_tensor3(c->data->b1[k->r.id].data, p->dtype, local, 2 * inter, p->hidden));
    k->w2 =
        op_in_space(&k->r, op_tensor3(w2_of(c, k->r.id).data, p->dtype, local, p->hidden, inter));
    k->grad_output = op_matrix_of(grad_output_of(c)[k->r.id], tokens, p->hidden, 0);
    k->grad_input = op_matrix_make(tokens, p->hidden, p->dtype, none);
    k->grad_weight = op_matrix_make(tokens, p->num_topk, p->weight_dtype, none);
    k->grad_w13 = op_matrix_make(local * 2 * inter, p->hidden, grad_dtype, none);
    k->grad_w2 = op_matrix_make(local * p->hidden, inter, grad_dtype, none);
}

static bool pack_one(layer_rank *k, epf_tensor tensor, bool forward, epf_weight **out)
{
    epf_weight_config config;

    RANK_OK(k->r.rank, epf_weight_config_init(&config));
    config.tensor = tensor;
    config.reduce_last_dim = forward;
    config.gate_up = forward && tensor.data == k->w13.data;
    RANK_OK(k->r.rank, epf_weight_create(k->r.op, &config, out));
    return true;
}

static bool pack(layer_rank *k)
{
    return pack_one(k, k->w13, true, &k->r.w1) && pack_one(k, k->w2, true, &k->r.w2) &&
           pack_one(k, k->w13, false, &k->w13_back) && pack_one(k, k->w2, false, &k->w2_back);
}

static bool forward(layer_rank *k)
{
    const layer_variant *v = k->l->variant;
    const epf_ref_forward *want = &k->l->forward[k->r.id];
    const op_want output = {"output", &want->output, NULL, false};
    epf_layer_forward_args args;

    RANK_OK(k->r.rank, epf_layer_forward_args_init(&args));
    args.input = k->r.x.tensor;
    args.exp_indices = k->r.ids.tensor;
    args.weight = k->r.weight.tensor;
    args.output = k->r.output.tensor;
    args.comm_buffer_id = v->buffer;
    args.num_tail_sms = v->num_tail_sms;
    args.use_block_wise_barrier = !v->expert_wise;
    args.combine_mode = v->serial     ? EPF_COMBINE_SERIAL
                        : v->scatters ? EPF_COMBINE_FUSE_SCATTER
                                      : EPF_COMBINE_AUTO;
    if (v->packed) {
        args.weights.packed_w13 = k->r.w1;
        args.weights.packed_w2 = k->r.w2;
    } else {
        args.weights.w13 = k->w13;
        args.weights.w2 = k->w2;
    }
    RANK_OK(k->r.rank, epf_layer_forward(k->r.op, k->context, &args));
    RANK_OK(k->r.rank, op_settle(&k->r));
    RANK_CHECK(k->r.rank, epf_layer_context_layout(k->context) != NULL, "no layout after forward");
    return op_check_tensor(k->r.rank, &k->r.output.tensor, &output);
}

static bool check_backward(layer_rank *k)
{
    const epf_ref_backward *want = &k->l->backward[k->r.id];
    const op_want grad_input = {"grad_input", &want->grad_input, NULL, false};
    const op_want grad_weight = {"grad_weight", &want->grad_weights, NULL, false};
    const op_want grad_w13 = {"grad_w13", &want->grad_w13, NULL, false};
    const op_want grad_w2 = {"grad_w2", &want->grad_w2, NULL, false};

    return op_check_tensor(k->r.rank, &k->grad_input.tensor, &grad_input) &&
           op_check_tensor(k->r.rank, &k->grad_weight.tensor, &grad_weight) &&
           (!has_grads(k->l->variant) ||
            (op_check_tensor(k->r.rank, &k->grad_w13.tensor, &grad_w13) &&
             op_check_tensor(k->r.rank, &k->grad_w2.tensor, &grad_w2)));
}

static bool backward(layer_rank *k)
{
    const layer_variant *v = k->l->variant;
    const epf_problem *p = &k->r.c->data->problem;
    const int64_t local = k->r.c->route.num_local_experts;
    epf_layer_backward_args args;

    RANK_OK(k->r.rank, epf_layer_backward_args_init(&args));
    args.grad_output = k->grad_output.tensor;
    args.w13 = k->w13;
    args.w2 = k->w2;
    args.packed_w13_backward = k->w13_back;
    args.packed_w2_backward = k->w2_back;
    args.grad_input = k->grad_input.tensor;
    args.grad_weight = k->grad_weight.tensor;
    args.comm_buffer_id = v->buffer;
    args.combine_mode = v->serial     ? EPF_COMBINE_SERIAL
                        : v->scatters ? EPF_COMBINE_FUSE_SCATTER
                                      : EPF_COMBINE_AUTO;
    if (has_grads(v)) {
        args.grad_w13 = op_reshape3(k->grad_w13.tensor, local, p->num_columns, p->hidden);
        args.grad_w2 = op_reshape3(k->grad_w2.tensor, local, p->hidden, p->num_columns / 2);
    }
    RANK_OK(k->r.rank, epf_layer_backward(k->r.op, k->context, &args));
    RANK_OK(k->r.rank, op_settle(&k->r));
    return check_backward(k);
}

/* The results of a step are kept; those of a later one must have the same bits. */
static bool keep(layer_rank *k, int32_t step)
{
    const op_case *c = k->r.c;
    const size_t bytes = (size_t)(k->r.x.rows * k->r.x.cols) * epf_element_bytes(k->r.x.dtype);
    void *output = op_fetch(&k->r.output.tensor, k->r.x.rows);
    void *grad_input = op_fetch(&k->grad_input.tensor, k->r.x.rows);
    const bool same = step == 0 || (memcmp(c->outputs[k->r.id], output, bytes) == 0 &&
                                    memcmp(k->l->grad_inputs[k->r.id], grad_input, bytes) == 0);

    memcpy(c->outputs[k->r.id], output, bytes);
    memcpy(k->l->grad_inputs[k->r.id], grad_input, bytes);
    free(output);
    free(grad_input);
    RANK_CHECK(k->r.rank, same, "step %d gives other bits", step);
    return true;
}

static bool steps(layer_rank *k)
{
    epf_layer_backward_args args;

    RANK_OK(k->r.rank, epf_layer_context_create(k->r.op, &k->context));
    RANK_CHECK(k->r.rank, epf_layer_context_layout(k->context) == NULL, "a layout before forward");
    RANK_OK(k->r.rank, epf_layer_backward_args_init(&args));
    args.grad_output = k->grad_output.tensor;
    args.w13 = k->w13;
    args.w2 = k->w2;
    args.grad_input = k->grad_input.tensor;
    args.grad_weight = k->grad_weight.tensor;
    RANK_STATUS(k->r.rank, EPF_E_STATE, epf_layer_backward(k->r.op, k->context, &args));
    for (int32_t step = 0; step < 3; step++) {
        if (!forward(k) || !backward(k) || !keep(k, step)) {
            return false;
        }
    }
    return true;
}

/* Of a rank's outputs, or of its input gradients. */
static size_t rank_bytes(const epf_data *data, int32_t rank)
{
    return (size_t)(data->num_tokens[rank] * data->problem.hidden) *
           epf_element_bytes(data->problem.dtype);
}

static void run_rank(epf_test_rank *rank)
{
    const layer_case *l = rank->user;
    layer_rank k;

    memset(&k, 0, sizeof k);
    k.l = l;
    if (op_open(&k.r, l->c, rank)) {
        make_tensors(&k);
        (void)((!l->variant->packed || pack(&k)) && steps(&k));
    }
    epf_weight_destroy(k.w13_back);
    epf_weight_destroy(k.w2_back);
    epf_layer_context_destroy(k.context);
    op_matrix_free(&k.grad_output);
    op_matrix_free(&k.grad_input);
    op_matrix_free(&k.grad_weight);
    op_matrix_free(&k.grad_w13);
    op_matrix_free(&k.grad_w2);
    op_close(&k.r);
}

/* Runs a variant; outputs and input gradients of all ranks, end to end. */
static int32_t run(const epf_data *data, const layer_variant *variant, op_rows *all)
{
    const epf_problem *p = &data->problem;
    op_knobs knobs = {.swiglu = true, .num_buffers = 2, .num_workers = variant->num_workers};
    layer_case *l = epf_test_alloc(1, sizeof *l);
    int32_t failed;

    op_device_tame(&knobs);
    l->c = op_case_make(data, &knobs, variant->processes);
    l->c->user = l;
    l->variant = variant;
    expect(l, l->c);
    for (int32_t r = 0; r < p->num_ranks; r++) {
        l->grad_inputs[r] = epf_shared_alloc(rank_bytes(data, r));
    }
    failed = op_run_function(l->c, run_rank, 0, variant->name);
    all[0] = op_rows_of(data, l->c->outputs);
    all[1] = op_rows_of(data, l->grad_inputs);
    for (int32_t r = 0; r < p->num_ranks; r++) {
        epf_shared_free(l->grad_inputs[r], rank_bytes(data, r));
    }
    epf_ref_forward_free(l->forward, p->num_ranks);
    epf_ref_backward_free(l->backward, p->num_ranks);
    op_case_free(l->c);
    free(l);
    return failed;
}

static int32_t same_bits(const char *name, op_rows *got, const op_rows *want)
{
    int32_t failed = 0;

    for (int32_t i = 0; i < 2; i++) {
        char what[64];
        (void)snprintf(what, sizeof what, "%s of %s against defaults",
                       i == 0 ? "output" : "grad_input", name);
        failed += !op_rows_equal(what, &got[i], &want[i]);
        free(got[i].data);
    }
    return failed;
}

static int32_t run_problem(const char *text)
{
    static const layer_variant one_rank = {.name = "one rank"};
    const epf_problem problem = epf_problem_of(text);
    epf_data *data = epf_data_make(&problem);
    epf_data *merged = epf_data_merge(data);
    op_rows want[2];
    op_rows got[2];
    int32_t failed = run(data, &kVariants[0], want);

    for (size_t i = 1; i < sizeof kVariants / sizeof kVariants[0]; i++) {
        if (op_leaves_out(&problem, kVariants[i].processes)) {
            continue;
        }
        failed += run(data, &kVariants[i], got);
        failed += same_bits(kVariants[i].name, got, want);
    }
    failed += run(merged, &one_rank, got);
    failed += same_bits(one_rank.name, got, want);
    free(want[0].data);
    free(want[1].data);
    epf_data_free(merged);
    epf_data_free(data);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const texts[] = {"W2E4K2T13H40N48/zipf/seed91/normal",
                                        "W4E8K3T7H24N32/uneven_T_per_rank/seed92/fp32/normal",
                                        "W3E6K2T9H24N32/some_dropped/seed93/fp16/wbf16/normal",
                                        "W8E16K4T5H32N32/duplicates/seed94/wbf16/normal",
                                        "W2E2K2T6H16N16/all_dropped/seed95/normal",
                                        "W3E6K2T6H16N16/empty_ranks/seed96/normal",
                                        "W3E6K2T6H16N16/one_token/seed97/normal",
                                        "W2E4K2T6H16N16C0.5/all_to_one_rank/seed98/normal"};
    int32_t failed = 0;

    if (argc > 1) {
        return op_finish(run_problem(argv[1]));
    }
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        failed += run_problem(texts[i]);
    }
    return op_finish(failed);
}
