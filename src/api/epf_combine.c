/* epf_combine.c: arguments of grouped GEMM + combine, and the phase they make. */
#include <string.h>

#include "api/epf_combine.h"
#include "api/epf_phase_args.h"
#include "api/epf_spec.h"

/* One call being put together. */
typedef struct combine {
    epf_op *op;
    epf_group_gemm_combine_args args;
    epf_gemm_knobs knobs;
    epf_buffer_set *set;
    const epf_weight *weight;
    epf_weight *temporary;
    epf_group_gemm_combine_result result;
    epf_launch launch;
} combine;

enum { MAX_GRAD_BLOCK = 4096 };

static bool has_gate(const combine *c)
{
    return epf_tensor_given(&c->args.gate_input) || !c->args.cp_flag ||
           (epf_layout_is_empty(c->args.layout) && epf_tensor_given(&c->args.output_gate));
}

static epf_status check_inputs(combine *c)
{
    const epf_op *const op = c->op;
    const epf_layout *const l = c->args.layout;
    const int64_t rows = epf_layout_min_rows(l);
    const epf_tensor_want input = {
        "gemm_input_data", 2, {rows, EPF_ANY_SIZE}, op->config.dtype, 0, false, true};
    const epf_tensor_want gate = {"gate_input", 1, {rows}, op->config.weight_dtype, 0, true, true};
    const epf_tensor_want output_gate = {
        "output_gate", 2, {l->num_tokens, op->shape.topk}, op->config.weight_dtype, 0, true, false};
    const epf_tensor_want weights = {
        "combine_weights", 2, {l->num_tokens, op->shape.topk}, EPF_DTYPE_F32, 0, true, false};
    EPF_CHECK_ARG(epf_tensor_given(&c->args.gemm_input_data),
                  "gemm_input_data: not given, but required");
    EPF_TRY(epf_tensor_check(&c->args.gemm_input_data, &input));
    EPF_TRY(epf_phase_check_align(op, &c->args.gemm_input_data, "gemm_input_data"));
    EPF_TRY(epf_tensor_check(&c->args.gate_input, &gate));
    EPF_TRY(epf_tensor_check(&c->args.output_gate, &output_gate));
    EPF_TRY(epf_tensor_check(&c->args.combine_weights, &weights));
    EPF_CHECK_ARG(c->args.cp_flag || !epf_tensor_given(&c->args.gate_input),
                  "gate_input: given, but cp_flag false says the gates are in the gate buffer");
    EPF_CHECK_ARG(has_gate(c) || !epf_tensor_given(&c->args.output_gate),
                  "output_gate: given without gate_input");
    return EPF_OK;
}

epf_status epf_combine_check_mode(int32_t mode)
{
    EPF_CHECK_ARG(mode >= EPF_COMBINE_SERIAL && mode <= EPF_COMBINE_AUTO,
                  "combine_mode: %d, must be 0 (serial), 1 (fuse_scatter) or 2 (auto)", mode);
    return EPF_OK;
}

/* Workers of its own for scattering or summing: in fuse_scatter, and some must be left to multiply. */
static epf_status check_own_workers(const epf_op *op, const epf_group_gemm_combine_args *a,
                                    int32_t workers)
{
    const bool is_first = a->optional_sm > 0;
    const char *const name = is_first ? "optional_sm" : "num_reduce_sms";
    const int32_t wanted = is_first ? a->optional_sm : a->num_reduce_sms;
    const int32_t other = is_first ? a->num_reduce_sms : a->optional_sm;
    const int64_t taken = (int64_t)wanted + other;
    if (wanted == 0) {
        return EPF_OK;
    }
    if (a->combine_mode == EPF_COMBINE_SERIAL) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "%s: %d, but in serial mode all workers multiply first, then all sum", name,
                        wanted);
    }
    EPF_CHECK_ARG((op->backend->on_device ? (taken + 1) / 2 * 2 : taken) < workers,
                  "%s: %d with the other at %d, together%s below the %d workers: one must multiply",
                  name, wanted, other, op->backend->on_device ? ", in pairs of CTAs," : "",
                  workers);
    return EPF_OK;
}

/* EPF_COMBINE_AUTO, as measured; ranks have the same mode if they have workers of their own alike. */
static int32_t choose_mode(const epf_op *op, const epf_group_gemm_combine_args *a)
{
    const bool has_own_workers = a->optional_sm > 0 || a->num_reduce_sms > 0;
    if (a->combine_mode != EPF_COMBINE_AUTO) {
        return a->combine_mode;
    }
    return has_own_workers || (op->backend->on_device && op->shape.num_ranks > 1)
               ? EPF_COMBINE_FUSE_SCATTER
               : EPF_COMBINE_SERIAL;
}

static epf_status place_workers(combine *c, epf_phase *phase)
{
    epf_group_gemm_combine_args *const a = &c->args;
    EPF_TRY(epf_combine_check_mode(a->combine_mode));
    a->combine_mode = choose_mode(c->op, a);
    EPF_CHECK_ARG(a->optional_sm >= 0, "optional_sm: %d, must be at least 0", a->optional_sm);
    EPF_CHECK_ARG(a->num_reduce_sms >= 0, "num_reduce_sms: %d, must be at least 0",
                  a->num_reduce_sms);
    EPF_TRY(check_own_workers(c->op, a, phase->num_workers));
    phase->kind = a->combine_mode == EPF_COMBINE_SERIAL ? EPF_PHASE_COMBINE_SERIAL
                                                        : EPF_PHASE_COMBINE_SCATTER;
    phase->direct = a->optional_sm == EPF_AUTO;
    phase->num_comm_workers = a->optional_sm;
    phase->num_tail_workers = a->num_reduce_sms;
    return EPF_OK;
}

static epf_status check_grad_blocks(const epf_op *op, const epf_group_gemm_combine_args *a)
{
    const int32_t blocks[] = {a->grad_block_size_m, a->grad_block_size_n};
    const char *const names[] = {"grad_block_size_m", "grad_block_size_n"};
    for (int i = 0; i < 2; i++) {
        EPF_CHECK_ARG(blocks[i] >= 0 && blocks[i] <= MAX_GRAD_BLOCK,
                      "%s: %d, must be 0 (AUTO) or 1..%d", names[i], blocks[i],
                      (int)MAX_GRAD_BLOCK);
    }
    EPF_CHECK_ARG(a->grad_block_size_k >= 0, "grad_block_size_k: %d, must be 0 (AUTO) or more",
                  a->grad_block_size_k);
    EPF_CHECK_ARG(a->grad_group_size_m >= 1, "grad_group_size_m: %d, must be at least 1",
                  a->grad_group_size_m);
    EPF_TRY(epf_phase_check_fixed(op, names[0], blocks[0], op->backend->grad_block_n));
    EPF_TRY(epf_phase_check_fixed(op, names[1], blocks[1], op->backend->grad_block_k));
    return epf_phase_check_fixed(op, "grad_block_size_k", a->grad_block_size_k,
                                 op->backend->grad_rows);
}

static epf_grad_map grad_map(const epf_op *op, const epf_group_gemm_combine_args *a)
{
    const epf_grad_map map = {
        (int32_t)a->grad_output.shape[1], (int32_t)a->orig_input.shape[1],
        a->grad_block_size_m == EPF_AUTO ? op->backend->grad_block_n : a->grad_block_size_m,
        a->grad_block_size_n == EPF_AUTO ? op->backend->grad_block_k : a->grad_block_size_n,
        a->grad_group_size_m};
    return map;
}

/* The gradient's tiles of all experts together fit a ticket, also where a call has two gradients. */
static epf_status check_grad_tasks(const epf_op *op, const epf_group_gemm_combine_args *a)
{
    const epf_grad_map map = grad_map(op, a);
    const int64_t tiles =
        epf_tensor_given(&a->grad_weight) ? epf_grad_num_tiles(&map, op->shape.num_local) : 0;
    EPF_CHECK_ARG(tiles <= INT32_MAX / EPF_MAX_GRADS,
                  "grad_block_size_m, grad_block_size_n: %lld tiles, must be at most %d",
                  (long long)tiles, INT32_MAX / EPF_MAX_GRADS);
    return EPF_OK;
}

/* What tensor maps, and 16 bytes at a time, ask of a gradient's matrices. */
static epf_status check_device_grad(const epf_op *op, const epf_group_gemm_combine_args *a)
{
    const int64_t *const stride = a->grad_weight.stride;
    if (a->grad_output.shape[1] % 8 != 0 || a->orig_input.shape[1] % 8 != 0) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "grad_output, orig_input: %lld and %lld columns, but this backend takes "
                        "multiples of 8",
                        (long long)a->grad_output.shape[1], (long long)a->orig_input.shape[1]);
    }
    if (op->shape.num_local > 1 && stride[0] % stride[1] != 0) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "grad_weight: stride[0] %lld, but this backend writes experts that are "
                        "whole rows of %lld apart",
                        (long long)stride[0], (long long)stride[1]);
    }
    return EPF_OK;
}

epf_status epf_grad_check(epf_op *op, const epf_layout *l, const epf_group_gemm_combine_args *a)
{
    const epf_tensor_want grad_output = {
        "grad_output", 2, {epf_layout_min_rows(l), EPF_ANY_SIZE}, op->config.dtype, 0, true, true};
    const epf_tensor_want orig_input = {
        "orig_input", 2, {epf_layout_min_rows(l), EPF_ANY_SIZE}, op->config.dtype, 0, true, true};
    const epf_table table = {"split_size_cum_per_expert", l->row_offset, op->shape.num_local,
                             false};
    epf_tensor_want grad_weight = {
        "grad_weight",
        3,
        {op->shape.num_local, a->grad_output.shape[1], a->orig_input.shape[1]},
        op->config.dtype,
        EPF_DTYPE_F32,
        true,
        false};
    const int given = (epf_tensor_given(&a->grad_output) ? 1 : 0) +
                      (epf_tensor_given(&a->orig_input) ? 1 : 0) +
                      (epf_tensor_given(&a->grad_weight) ? 1 : 0);
    EPF_CHECK_ARG(given == 0 || given == 3,
                  "grad_output, orig_input, grad_weight: %d given, must be all three or none",
                  given);
    EPF_TRY(check_grad_blocks(op, a));
    EPF_TRY(epf_tensor_check(&a->grad_output, &grad_output));
    EPF_TRY(epf_tensor_check(&a->orig_input, &orig_input));
    EPF_CHECK_ARG(given == 0 ||
                      (a->grad_output.shape[1] >= 1 && a->grad_output.shape[1] <= INT32_MAX &&
                       a->orig_input.shape[1] >= 1 && a->orig_input.shape[1] <= INT32_MAX),
                  "grad_output, orig_input: %lld and %lld columns, must be 1..2^31 - 1",
                  (long long)a->grad_output.shape[1], (long long)a->orig_input.shape[1]);
    EPF_TRY(epf_tensor_check(&a->grad_weight, &grad_weight));
    EPF_TRY(epf_phase_check_align(op, &a->grad_output, "grad_output"));
    EPF_TRY(epf_phase_check_align(op, &a->orig_input, "orig_input"));
    EPF_TRY(epf_phase_check_align(op, &a->grad_weight, "grad_weight"));
    if (op->backend->on_device && given > 0) {
        EPF_TRY(check_device_grad(op, a));
    }
    EPF_TRY(check_grad_tasks(op, a));
    return epf_phase_check_table(op, &a->split_size_cum_per_expert, &table);
}

void epf_grad_fill(const epf_op *op, const epf_group_gemm_combine_args *a, epf_call *call)
{
    epf_grad_map *const map = &call->phase.grads[call->phase.num_grads];
    epf_grad_operands *const g = &call->grads[call->phase.num_grads];
    if (!epf_tensor_given(&a->grad_weight)) {
        return;
    }
    call->phase.num_grads++;
    *map = grad_map(op, a);
    map->group = (int32_t)epf_min64(map->group, epf_ceil_div(map->n, map->block_n));
    g->grad_output = epf_rows_of(&a->grad_output);
    g->orig_input = epf_rows_of(&a->orig_input);
    g->out.data = a->grad_weight.data;
    g->out.stride = a->grad_weight.shape[1] > 1 ? a->grad_weight.stride[1] : map->k;
    g->expert_stride = a->grad_weight.shape[0] > 1 ? a->grad_weight.stride[0] : 0;
    g->out_dtype = a->grad_weight.dtype;
    g->block_rows =
        a->grad_block_size_k == EPF_AUTO ? op->backend->grad_rows : a->grad_block_size_k;
}

static epf_status resolve_weight(combine *c)
{
    const epf_group_gemm_combine_args *const a = &c->args;
    const epf_weight_use use = {"gemm_weight",
                                "packed_weight",
                                &a->gemm_weight,
                                a->packed_weight,
                                a->gemm_weight_reduce_last_dim,
                                c->op->shape.hidden,
                                a->gemm_input_data.shape[1],
                                false,
                                a->gemm_block_size_n,
                                a->gemm_block_size_k};
    return epf_weight_resolve(c->op, &use, &c->weight, &c->temporary);
}

static epf_status resolve_outputs(combine *c)
{
    const epf_op *const op = c->op;
    const epf_layout *const l = c->args.layout;
    const epf_tensor_want output = {
        "combine_output", 2, {l->num_tokens, op->shape.hidden}, op->config.dtype, 0, true, false};
    const epf_tensor_want gate = {
        "output_gate", 2, {l->num_tokens, op->shape.topk}, op->config.weight_dtype, 0, true, false};
    const epf_tensor_want signal = {"optional_signal_tensor",
                                    1,
                                    {epf_layout_max_tiles(l, c->set)},
                                    EPF_DTYPE_I32,
                                    0,
                                    true,
                                    true};
    const int64_t max_tokens = op->backend->on_device ? op->shape.max_tokens : l->num_tokens;
    const epf_room gates = {c->op, &c->set->output_gate, l->num_tokens, max_tokens};
    const epf_room tokens = {c->op, &c->set->combine_output, l->num_tokens, max_tokens};
    EPF_TRY(epf_tensor_check(&c->args.optional_signal_tensor, &signal));
    if (has_gate(c)) {
        EPF_TRY(epf_output_of(&c->args.output_gate, &gate, &gates, &c->result.output_gate));
    }
    if (!c->launch.call.phase.direct) {
        EPF_TRY(epf_op_memory_reserve(
            c->op, &c->op->staged, epf_op_max_rows(op, l, c->set) * epf_shape_row_bytes(&op->shape),
            "rows before scatter"));
    }
    EPF_TRY(epf_phase_check_align(op, &c->args.combine_output, "combine_output"));
    return epf_output_of(&c->args.combine_output, &output, &tokens, &c->result.combine_output);
}

static epf_status check(combine *c)
{
    const epf_group_gemm_combine_args *const a = &c->args;
    c->knobs.input_reduce_last_dim = a->gemm_input_reduce_last_dim;
    c->knobs.block_size_m = a->gemm_block_size_m;
    c->knobs.group_size_m = a->gemm_group_size_m;
    c->knobs.num_stages = a->gemm_num_stages;
    c->knobs.num_warps = a->num_warps;
    if (a->enable_profiler) {
        EPF_CHECK_ARG(a->profile_file_name != NULL, "profile_file_name: NULL");
        c->knobs.profile_file_name = a->profile_file_name;
    }
    EPF_TRY(epf_layout_check(a->layout, c->op));
    EPF_TRY(epf_op_check_set(c->op, a->comm_buffer_id));
    c->set = &c->op->sets[a->comm_buffer_id];
    EPF_TRY(epf_op_learn_rows(c->op, c->set, a->layout));
    EPF_TRY(epf_phase_check_knobs(c->op, &c->knobs));
    c->launch.call.phase.num_workers = c->op->num_working;
    EPF_TRY(place_workers(c, &c->launch.call.phase));
    EPF_TRY(check_inputs(c));
    EPF_TRY(epf_layout_tile(a->layout, a->gemm_block_size_m));
    EPF_TRY(epf_phase_check_tables(&a->tiles, a->layout));
    EPF_TRY(epf_grad_check(c->op, a->layout, a));
    EPF_TRY(resolve_weight(c));
    EPF_TRY(epf_phase_check_tasks(a->layout, c->weight));
    return resolve_outputs(c);
}

static void fill(combine *c)
{
    const epf_tensor *const by_rows[] = {&c->args.gemm_input_data, &c->args.gate_input,
                                         &c->args.grad_output, &c->args.orig_input};
    epf_call *const call = &c->launch.call;
    const int32_t hidden = c->op->shape.hidden;
    epf_op_fill_call(c->op, c->set, call);
    (void)place_workers(c, &call->phase); /* checked before */
    epf_phase_fill(c->args.layout, c->weight, &c->knobs, call);
    call->gemm_input = epf_rows_of(&c->args.gemm_input_data);
    call->has_gate = has_gate(c);
    call->gate_input = epf_tensor_given(&c->args.gate_input) ? c->args.gate_input.data : NULL;
    call->output_gate = epf_rows_of(&c->result.output_gate);
    call->combine_weights = epf_rows_of(&c->args.combine_weights);
    call->combine_output = epf_rows_of(&c->result.combine_output);
    call->signal = epf_tensor_given(&c->args.optional_signal_tensor)
                       ? c->args.optional_signal_tensor.data
                       : NULL;
    call->staged.data = c->op->staged.data;
    call->staged.stride = hidden;
    epf_grad_fill(c->op, &c->args, call);
    c->launch.layout = c->args.layout;
    c->launch.weight = c->weight;
    c->launch.profile_file_name = c->knobs.profile_file_name;
    c->launch.capacity =
        epf_phase_capacity(c->set, by_rows, (int32_t)(sizeof by_rows / sizeof by_rows[0]));
    if (!call->phase.direct) {
        c->launch.capacity =
            epf_min64(c->launch.capacity, c->op->staged.bytes / epf_shape_row_bytes(&c->op->shape));
    }
}

static epf_status run(combine *c)
{
    EPF_TRY(epf_op_reserve_rows(c->op, c->set, c->args.layout));
    EPF_TRY(epf_op_next_epoch(c->op));
    fill(c);
    c->set->combine_epoch = c->op->epoch;
    return c->op->backend->phase_run(c->op, &c->launch);
}

epf_status epf_group_gemm_combine(epf_op *op, const epf_group_gemm_combine_args *args,
                                  epf_group_gemm_combine_result *result)
{
    combine c;
    epf_status st;
    memset(&c, 0, sizeof c);
    c.op = op;
    EPF_TRY(epf_op_check_ready(op, "epf_group_gemm_combine"));
    EPF_TRY(epf_struct_import(&epf_spec_combine_args, args, &c.args));
    st = check(&c);
    if (st == EPF_E_NO_MEMORY) {
        st = epf_op_give_up(op, c.set, c.args.layout, st);
    } else if (st == EPF_OK) {
        st = run(&c);
    }
    epf_weight_destroy(c.temporary);
    if (st == EPF_OK && result != NULL) {
        *result = c.result;
    }
    return st;
}
