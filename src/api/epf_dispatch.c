/* epf_dispatch.c: arguments of dispatch + grouped GEMM, and the phase they make. */
#include <string.h>

#include "api/epf_phase_args.h"
#include "api/epf_spec.h"

/* One call being put together. */
typedef struct dispatch {
    epf_op *op;
    epf_dispatch_group_gemm_args args;
    epf_gemm_knobs knobs;
    epf_buffer_set *set;
    const epf_weight *weight;
    epf_weight *temporary;
    epf_dispatch_group_gemm_result result;
    epf_launch launch;
} dispatch;

static epf_status check_inputs(dispatch *d)
{
    const epf_shape *const s = &d->op->shape;
    const epf_layout *const l = d->args.layout;
    const epf_tensor_want input = {
        "input", 2, {l->num_tokens, s->hidden}, d->op->config.dtype, 0, false, false};
    const epf_tensor_want ids = {"exp_indices", 2,    {l->num_tokens, s->topk}, EPF_DTYPE_I32, 0,
                                 true,          false};
    const epf_tensor_want weight = {
        "weight", 2, {l->num_tokens, s->topk}, d->op->config.weight_dtype, 0, true, false};
    if (d->args.with_cpy_flag) {
        EPF_TRY(epf_tensor_check(&d->args.input, &input));
        EPF_TRY(epf_phase_check_align(d->op, &d->args.input, "input"));
    }
    EPF_TRY(epf_tensor_check(&d->args.weight, &weight));
    EPF_TRY(epf_tensor_check(&d->args.exp_indices, &ids));
    if (!epf_tensor_given(&d->args.exp_indices) || d->op->backend->on_device) {
        return EPF_OK; /* out of the host's reach: the layout's own ids are used anyway */
    }
    for (int64_t slot = 0; slot < (int64_t)l->num_tokens * s->topk; slot++) {
        const int64_t t = slot / s->topk;
        const int64_t k = slot % s->topk;
        const int32_t id =
            ((const int32_t *)d->args.exp_indices.data)[t * d->args.exp_indices.stride[0] + k];
        EPF_CHECK_ARG(id == l->topk_idx[slot], "exp_indices[%lld, %lld]: %d, but the layout has %d",
                      (long long)t, (long long)k, id, l->topk_idx[slot]);
    }
    return EPF_OK;
}

static epf_status check_activation(const dispatch *d)
{
    const epf_dispatch_group_gemm_args *const a = &d->args;
    const int64_t rows = epf_layout_min_rows(a->layout);
    const bool is_swiglu = a->activation == EPF_ACTIVATION_SWIGLU;
    const epf_tensor_want want = {
        "activation_output", 2, {rows, d->weight->n / 2}, d->op->config.dtype, 0, !is_swiglu, true};
    EPF_CHECK_ARG(is_swiglu || a->activation == EPF_ACTIVATION_NONE,
                  "activation: %d, must be 0 or 1", a->activation);
    EPF_CHECK_ARG(!is_swiglu || epf_tensor_given(&a->weight) || a->layout->num_tokens == 0,
                  "weight: not given, but SwiGLU multiplies with it");
    EPF_CHECK_ARG(is_swiglu || !epf_tensor_given(&a->activation_output),
                  "activation_output: given without an activation");
    EPF_CHECK_ARG(is_swiglu || a->keep_gemm_output,
                  "keep_gemm_output: false without an activation leaves no output");
    EPF_TRY(epf_tensor_check(&a->activation_output, &want));
    return epf_phase_check_align(d->op, &a->activation_output, "activation_output");
}

/* Who dispatches, who expands; the rest multiplies from the start. */
static epf_status place_workers(const dispatch *d, epf_phase *phase)
{
    const int32_t workers = phase->num_workers;
    const int32_t num_tail = d->args.num_tail_sms;
    int32_t num_comm = d->args.optional_sm != EPF_AUTO ? d->args.optional_sm : d->op->config.num_sm;
    EPF_CHECK_ARG(d->args.optional_sm >= 0, "optional_sm: %d, must be at least 0",
                  d->args.optional_sm);
    EPF_CHECK_ARG(num_tail >= 0, "num_tail_sms: %d, must be at least 0", num_tail);
    EPF_CHECK_ARG(num_tail < workers,
                  "num_tail_sms: %d, must be below the %d workers: one must dispatch", num_tail,
                  workers);
    if (num_comm == EPF_AUTO) {
        num_comm = workers - num_tail;
    }
    EPF_CHECK_ARG((int64_t)num_comm + num_tail <= workers,
                  "%s: %d with num_tail_sms %d, together at most the %d workers",
                  d->args.optional_sm != EPF_AUTO ? "optional_sm" : "num_sm", num_comm, num_tail,
                  workers);
    phase->num_comm_workers = num_comm;
    phase->num_tail_workers = num_tail;
    return EPF_OK;
}

static epf_status resolve_weight(dispatch *d)
{
    const epf_dispatch_group_gemm_args *const a = &d->args;
    const epf_weight_use use = {"gemm_weight",
                                "packed_weight",
                                &a->gemm_weight,
                                a->packed_weight,
                                a->gemm_weight_reduce_last_dim,
                                EPF_ANY_SIZE,
                                d->op->shape.hidden,
                                a->activation == EPF_ACTIVATION_SWIGLU,
                                a->gemm_block_size_n,
                                a->gemm_block_size_k};
    return epf_weight_resolve(d->op, &use, &d->weight, &d->temporary);
}

static epf_status resolve_outputs(dispatch *d)
{
    const epf_op *const op = d->op;
    const int64_t rows = epf_layout_min_rows(d->args.layout);
    const epf_room room = {d->op, &d->set->gemm_output, epf_layout_rows(d->args.layout, d->set),
                           epf_op_max_rows(d->op, d->args.layout, d->set)};
    const epf_tensor_want gemm = {
        "gemm_output_data", 2, {rows, d->weight->n}, op->config.dtype, 0, true, true};
    const epf_tensor_want copy = {
        "dispatch_output", 2, {rows, op->shape.hidden}, op->config.dtype, 0, true, true};
    const epf_tensor_want weights = {"weight_recv", 1,   {rows}, op->config.weight_dtype, 0,
                                     true,          true};
    EPF_TRY(epf_tensor_check(&d->args.dispatch_output, &copy));
    EPF_TRY(epf_phase_check_align(op, &d->args.dispatch_output, "dispatch_output"));
    EPF_TRY(epf_tensor_check(&d->args.weight_recv, &weights));
    if (d->args.keep_gemm_output) {
        EPF_TRY(epf_phase_check_align(op, &d->args.gemm_output_data, "gemm_output_data"));
        return epf_output_of(&d->args.gemm_output_data, &gemm, &room, &d->result.gemm_output);
    }
    EPF_CHECK_ARG(!epf_tensor_given(&d->args.gemm_output_data),
                  "gemm_output_data: given, but keep_gemm_output is false");
    return EPF_OK;
}

static epf_status check(dispatch *d)
{
    const epf_dispatch_group_gemm_args *const a = &d->args;
    epf_phase phase;
    d->knobs.input_reduce_last_dim = a->gemm_input_reduce_last_dim;
    d->knobs.block_size_m = a->gemm_block_size_m;
    d->knobs.group_size_m = a->gemm_group_size_m;
    d->knobs.num_stages = a->gemm_num_stages;
    d->knobs.num_warps = a->num_warps;
    if (a->enable_profiler) {
        EPF_CHECK_ARG(a->profile_file_name != NULL, "profile_file_name: NULL");
        d->knobs.profile_file_name = a->profile_file_name;
    }
    EPF_TRY(epf_layout_check(a->layout, d->op));
    EPF_TRY(epf_op_check_set(d->op, a->comm_buffer_id));
    d->set = &d->op->sets[a->comm_buffer_id];
    EPF_TRY(epf_op_learn_rows(d->op, d->set, a->layout));
    EPF_TRY(epf_phase_check_knobs(d->op, &d->knobs));
    memset(&phase, 0, sizeof phase);
    phase.num_workers = d->op->num_working;
    EPF_TRY(place_workers(d, &phase));
    EPF_TRY(check_inputs(d));
    EPF_TRY(epf_layout_tile(a->layout, a->gemm_block_size_m));
    EPF_TRY(epf_phase_check_tables(&a->tiles, a->layout));
    EPF_TRY(resolve_weight(d));
    EPF_TRY(epf_phase_check_tasks(a->layout, d->weight));
    EPF_TRY(check_activation(d));
    return resolve_outputs(d);
}

static void fill(dispatch *d)
{
    const epf_dispatch_group_gemm_args *const a = &d->args;
    const epf_tensor *const by_rows[] = {&a->gemm_output_data, &a->activation_output,
                                         &a->dispatch_output, &a->weight_recv};
    epf_call *const c = &d->launch.call;
    const uint8_t *own;
    epf_op_fill_call(d->op, d->set, c);
    c->phase.kind = EPF_PHASE_DISPATCH;
    (void)place_workers(d, &c->phase); /* checked before */
    c->phase.block_wise = a->use_block_wise_barrier;
    epf_phase_fill(a->layout, d->weight, &d->knobs, c);
    c->input = epf_rows_of(&a->input);
    if (!a->with_cpy_flag) {
        c->input.data = d->set->window.base[c->rank] + d->set->map.send_tokens;
        c->input.stride = d->op->shape.hidden;
    }
    c->weight = epf_rows_of(&a->weight);
    own = d->set->window.base[c->rank];
    c->dispatch_output = epf_rows_of(&a->dispatch_output);
    c->weight_recv = epf_tensor_given(&a->weight_recv) ? a->weight_recv.data : NULL;
    if (c->dispatch_output.data == own + c->set_map.recv_tokens) {
        c->dispatch_output.data = NULL; /* the window's own rows: nothing to copy */
    }
    if (c->weight_recv == own + c->set_map.recv_weight ||
        (c->weight.data == NULL && a->layout->num_tokens > 0)) { /* its own, or none were sent */
        c->weight_recv = NULL;
    }
    c->gemm_output = epf_rows_of(&d->result.gemm_output);
    c->activation_output = epf_rows_of(&a->activation_output);
    d->launch.layout = a->layout;
    d->launch.weight = d->weight;
    d->launch.profile_file_name = d->knobs.profile_file_name;
    d->launch.capacity =
        epf_phase_capacity(d->set, by_rows, (int32_t)(sizeof by_rows / sizeof by_rows[0]));
    if (a->keep_gemm_output && !epf_tensor_given(&a->gemm_output_data)) {
        d->launch.capacity =
            epf_min64(d->launch.capacity,
                      d->set->gemm_output.bytes / (d->weight->n * d->op->shape.token_bytes));
    }
}

/* The caller's tensor, cut to the rows that are known. */
static epf_tensor cut(epf_tensor given, int64_t rows)
{
    given.shape[0] = epf_min64(given.shape[0], rows);
    return given;
}

static void fill_result(dispatch *d)
{
    const epf_op *const op = d->op;
    const int64_t shape[2] = {epf_layout_rows(d->args.layout, d->set), op->shape.hidden};
    uint8_t *const own = d->set->window.base[op->comm->rank];
    d->result.dispatch_output =
        epf_tensor_of(own + d->set->map.recv_tokens, op->config.dtype, 2, shape);
    if (epf_tensor_given(&d->args.dispatch_output)) {
        d->result.dispatch_output = cut(d->args.dispatch_output, shape[0]);
    }
    if (!epf_tensor_given(&d->args.weight) && d->args.layout->num_tokens > 0) {
        return; /* a rank without tokens may leave them out and still receives its peers' */
    }
    d->result.weight_recv =
        epf_tensor_of(own + d->set->map.recv_weight, op->config.weight_dtype, 1, shape);
    if (epf_tensor_given(&d->args.weight_recv)) {
        d->result.weight_recv = cut(d->args.weight_recv, shape[0]);
    }
}

static epf_status run(dispatch *d)
{
    EPF_TRY(epf_op_reserve_rows(d->op, d->set, d->args.layout));
    EPF_TRY(epf_op_next_epoch(d->op));
    fill(d);
    EPF_TRY(d->op->backend->phase_run(d->op, &d->launch));
    fill_result(d);
    return EPF_OK;
}

epf_status epf_dispatch_group_gemm(epf_op *op, const epf_dispatch_group_gemm_args *args,
                                   epf_dispatch_group_gemm_result *result)
{
    dispatch d;
    epf_status st;
    memset(&d, 0, sizeof d);
    d.op = op;
    EPF_TRY(epf_op_check_ready(op, "epf_dispatch_group_gemm"));
    EPF_TRY(epf_struct_import(&epf_spec_dispatch_args, args, &d.args));
    st = check(&d);
    if (st == EPF_E_NO_MEMORY) {
        st = epf_op_give_up(op, d.set, d.args.layout, st);
    } else if (st == EPF_OK) {
        st = run(&d);
    }
    epf_weight_destroy(d.temporary);
    if (st == EPF_OK && result != NULL) {
        *result = d.result;
    }
    return st;
}

epf_status epf_init_output_buffer(epf_op *op, const epf_layout *layout, int32_t comm_buffer_id,
                                  epf_tensor *output_buf, epf_tensor *weight_recv_buf)
{
    int64_t shape[2];
    epf_buffer_set *set;
    uint8_t *own;
    EPF_TRY(epf_op_check_ready(op, "epf_init_output_buffer"));
    EPF_TRY(epf_layout_check(layout, op));
    EPF_TRY(epf_op_check_set(op, comm_buffer_id));
    EPF_CHECK_ARG(output_buf != NULL, "output_buf: NULL");
    EPF_CHECK_ARG(weight_recv_buf != NULL, "weight_recv_buf: NULL");
    set = &op->sets[comm_buffer_id];
    EPF_TRY(epf_layout_learn(layout));
    EPF_TRY(epf_op_reserve_rows(op, set, layout));
    own = set->window.base[op->comm->rank];
    shape[0] = layout->num_rows;
    shape[1] = op->shape.hidden;
    *output_buf = epf_tensor_of(own + set->map.recv_tokens, op->config.dtype, 2, shape);
    *weight_recv_buf = epf_tensor_of(own + set->map.recv_weight, op->config.weight_dtype, 1, shape);
    return EPF_OK;
}
