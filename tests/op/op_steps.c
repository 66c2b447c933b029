/* op_steps.c: the calls of one rank, through the public API, and what they must give. */
#include <stdlib.h>
#include <string.h>

#include "op_device.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

bool op_preprocess(op_rank *r)
{
    epf_preprocess_args args;

    RANK_OK(r->rank, epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    if (r->c->knobs.local_scatter) {
        args.local_scatter_indices = r->local.tensor;
    }
    if (r->c->knobs.full_scatter) {
        args.full_scatter_indices = r->full.tensor;
    }
    RANK_OK(r->rank, epf_preprocess(r->op, &args, &r->layout));
    RANK_OK(r->rank, epf_layout_get(r->layout, &r->view));
    return true;
}

epf_status op_try_preprocess(op_rank *r, const epf_preprocess_args *args)
{
    epf_status st = epf_preprocess(r->op, args, &r->layout);
    epf_layout_view view;

    st = st == EPF_OK ? op_settle(r) : st;
    return st == EPF_OK && epf_space_is_device() ? epf_layout_get(r->layout, &view) : st;
}

epf_status op_try_dispatch(op_rank *r, const epf_dispatch_group_gemm_args *args)
{
    const epf_status st = epf_dispatch_group_gemm(r->op, args, &r->first);
    return st == EPF_OK ? op_settle(r) : st;
}

epf_status op_try_combine(op_rank *r, const epf_group_gemm_combine_args *args,
                          epf_group_gemm_combine_result *result)
{
    const epf_status st = epf_group_gemm_combine(r->op, args, result);
    return st == EPF_OK ? op_settle(r) : st;
}

/* One array of the layout against the reference's. */
static bool check_array(op_rank *r, const char *name, const int32_t *got, const int32_t *want,
                        int64_t count)
{
    const epf_compare what = {name, 1, count, NULL};
    char text[EPF_COMPARE_TEXT];
    int32_t *found;
    bool same;

    RANK_CHECK(r->rank, got != NULL || count == 0, "%s: NULL", name);
    found = epf_test_alloc((size_t)count, sizeof *found);
    epf_space_get(found, got, (size_t)count * sizeof *found);
    same = epf_compare_bits(&what, EPF_DTYPE_I32, found, want, text);
    free(found);
    RANK_CHECK(r->rank, same, "%s", text);
    return true;
}

static bool check_tiles(op_rank *r)
{
    const epf_ref_rank *want = &r->c->route.ranks[r->id];
    const epf_layout_view *v = &r->view;
    const int64_t local = r->c->route.num_local_experts;
    const int64_t tiles = want->num_tiles_total;

    RANK_CHECK(r->rank, v->num_tiles_total == tiles, "%d tiles of %d rows, want %lld",
               v->num_tiles_total, v->block_m, (long long)tiles);
    return check_array(r, "split_size", v->split_size, want->split_size, local) &&
           check_array(r, "split_size_cum_per_expert", v->split_size_cum_per_expert,
                       want->split_size_cum_per_expert, local) &&
           check_array(r, "expert_tile_offset", v->expert_tile_offset, want->expert_tile_offset,
                       local) &&
           check_array(r, "expert_ids", v->expert_ids, want->expert_ids, tiles) &&
           check_array(r, "split_size_cum", v->split_size_cum, want->split_size_cum, tiles) &&
           check_array(r, "tile_num", v->tile_num, want->tile_num, tiles) &&
           check_array(r, "tile_num_cum", v->tile_num_cum, want->tile_num_cum, tiles);
}

bool op_check_layout(op_rank *r)
{
    const epf_ref_route *route = &r->c->route;
    const epf_ref_rank *want = &route->ranks[r->id];
    const epf_layout_view *v = &r->view;
    const int64_t ranks = route->num_ranks;
    const int64_t local = route->num_local_experts;
    const int64_t slots = (int64_t)route->max_tokens * route->num_topk;
    int32_t most = 0;

    for (int32_t i = 0; i < ranks; i++) {
        most =
            route->num_recv_tokens_per_rank[i] > most ? route->num_recv_tokens_per_rank[i] : most;
    }
    RANK_CHECK(r->rank,
               v->num_dispatch_token_cur_rank == r->c->data->num_tokens[r->id] &&
                   v->num_recv_rows == want->num_rows && v->max_recv_rows == most,
               "T %d, R %d, largest R %d; want %d, %d, %d", v->num_dispatch_token_cur_rank,
               v->num_recv_rows, v->max_recv_rows, r->c->data->num_tokens[r->id], want->num_rows,
               most);
    RANK_CHECK(r->rank, (v->reversed_token_scatter_idx != NULL) == r->c->knobs.reversed,
               "reversed_token_scatter_idx is there, or not, against the config");
    if (r->c->knobs.reversed &&
        !check_array(r, "reversed_token_scatter_idx", v->reversed_token_scatter_idx,
                     want->reversed_token_scatter_idx, ranks * slots * 2)) {
        return false;
    }
    if (v->block_m == r->c->data->problem.block_m && !check_tiles(r)) {
        return false;
    }
    return check_array(r, "recv_buf_tokens_per_expert", v->recv_buf_tokens_per_expert,
                       route->recv_buf_tokens_per_expert, ranks * local) &&
           check_array(r, "recv_buf_offset_per_expert", v->recv_buf_offset_per_expert,
                       route->recv_buf_offset_per_expert, ranks * local * ranks) &&
           check_array(r, "num_recv_tokens_per_rank", v->num_recv_tokens_per_rank,
                       route->num_recv_tokens_per_rank, ranks) &&
           check_array(r, "num_input_tokens_per_rank", v->num_input_tokens_per_rank,
                       route->num_input_tokens_per_rank, ranks) &&
           check_array(r, "topk_indices_tensor", v->topk_indices_tensor, want->topk_indices,
                       slots) &&
           check_array(r, "token_dst_scatter_idx", v->token_dst_scatter_idx,
                       want->token_dst_scatter_idx, slots) &&
           check_array(r, "token_sort_indices", v->token_sort_indices, want->token_sort_indices,
                       slots);
}

static epf_tile_tables tables_of(op_rank *r)
{
    const epf_ref_rank *want = &r->c->route.ranks[r->id];
    const int64_t local = r->c->route.num_local_experts;
    const int64_t tiles = want->num_tiles_total;
    epf_tile_tables t;

    if (epf_space_is_device() && r->id % 2 == 0) {
        return op_device_tables(&r->view, local); /* others bring their own */
    }
    t.expert_ids = op_in_space(r, op_vector(want->expert_ids, EPF_DTYPE_I32, tiles));
    t.split_size = op_in_space(r, op_vector(want->split_size, EPF_DTYPE_I32, local));
    t.split_size_cum = op_in_space(r, op_vector(want->split_size_cum, EPF_DTYPE_I32, tiles));
    t.tile_num = op_in_space(r, op_vector(want->tile_num, EPF_DTYPE_I32, tiles));
    t.tile_num_cum = op_in_space(r, op_vector(want->tile_num_cum, EPF_DTYPE_I32, tiles));
    t.num_tiles_total = op_in_space(r, op_vector(&want->num_tiles_total, EPF_DTYPE_I32, 1));
    t.expert_offs = op_in_space(r, op_vector(want->expert_tile_offset, EPF_DTYPE_I32, local));
    return t;
}

static bool omitted(const op_rank *r)
{
    return r->c->knobs.omit_empty && r->x.rows == 0;
}

epf_dispatch_group_gemm_args op_dispatch_args(op_rank *r)
{
    const op_knobs *k = &r->c->knobs;
    epf_dispatch_group_gemm_args a;

    CHECK_OK(epf_dispatch_group_gemm_args_init(&a));
    a.layout = r->layout;
    a.with_cpy_flag = !k->in_place;
    if (!omitted(r)) {
        a.input = r->x.tensor;
        a.exp_indices = r->ids.tensor;
        a.weight = k->no_weights ? a.weight : r->weight.tensor;
    }
    if (k->packed) {
        a.packed_weight = r->w1;
    } else {
        a.gemm_weight = op_weight_tensor(r, false);
        a.gemm_weight_reduce_last_dim = !k->b1_transposed;
    }
    if (k->tables) {
        a.tiles = tables_of(r);
    }
    a.comm_buffer_id = k->buffer;
    a.optional_sm = k->optional_sm;
    a.num_tail_sms = k->num_tail_sms;
    a.gemm_block_size_m = r->c->data->problem.block_m;
    a.gemm_block_size_n = k->packed                            ? 0
                          : k->mixed && !epf_space_is_device() ? 8 << r->id % 3
                                                               : k->block_n;
    a.gemm_block_size_k = k->packed ? 0 : k->block_k;
    a.gemm_group_size_m = k->group_m == 0 ? a.gemm_group_size_m : k->group_m;
    a.num_warps = k->num_warps == 0 ? a.num_warps : k->num_warps;
    a.num_warps = k->mixed ? 1 + r->id : a.num_warps;
    a.use_block_wise_barrier = k->block_wise;
    a.enable_profiler = k->profile;
    a.profile_file_name = k->profile ? "op_case_dispatch" : a.profile_file_name;
    if (k->own_outputs) {
        a.gemm_output_data = r->gemm.tensor;
        a.dispatch_output = r->dispatched.tensor;
        a.weight_recv = op_matrix_vector(&r->received);
    }
    if (k->swiglu) {
        a.activation = EPF_ACTIVATION_SWIGLU;
        a.activation_output = r->h.tensor;
        a.keep_gemm_output = !k->drop_gemm_output;
    }
    return a;
}

/* Tokens into the send buffer, for with_cpy_flag = false. */
static bool fill_send_buffer(op_rank *r)
{
    epf_tensor buffer;

    RANK_OK(r->rank, epf_op_send_buffer(r->op, r->c->knobs.buffer, &buffer));
    RANK_CHECK(r->rank,
               buffer.ndim == 2 && buffer.shape[0] == r->c->data->problem.max_tokens &&
                   buffer.shape[1] == r->x.cols && buffer.dtype == (int32_t)r->x.dtype,
               "send buffer: [%lld, %lld]", (long long)buffer.shape[0], (long long)buffer.shape[1]);
    op_store(&buffer, r->c->data->tokens[r->id].data, r->x.rows);
    return true;
}

static bool init_buffer(op_rank *r)
{
    epf_tensor rows;
    epf_tensor weights;

    RANK_OK(r->rank, epf_init_output_buffer(r->op, r->layout, r->c->knobs.buffer, &rows, &weights));
    RANK_CHECK(r->rank,
               rows.shape[0] == r->c->route.ranks[r->id].num_rows && rows.shape[1] == r->x.cols &&
                   weights.shape[0] == rows.shape[0],
               "init_output_buffer: [%lld, %lld] and [%lld]", (long long)rows.shape[0],
               (long long)rows.shape[1], (long long)weights.shape[0]);
    return true;
}

bool op_check_dispatch(op_rank *r)
{
    const op_expected *e = &r->c->ranks[r->id];
    const epf_ref_rank *rows = &r->c->route.ranks[r->id];
    const bool exact = !r->c->data->problem.normal && !r->c->knobs.swiglu;
    const op_want x = {"dispatch_output", &e->x, rows, true};
    const op_want weight = {"weight_recv", &e->weight, rows, true};
    const op_want gemm = {"gemm_output", &e->gemm, rows, exact};
    const op_want h = {"activation_output", &e->h, rows, false};

    return op_check_tensor(r->rank, &r->first.dispatch_output, &x) &&
           (r->c->knobs.no_weights || op_check_tensor(r->rank, &r->first.weight_recv, &weight)) &&
           (r->c->knobs.drop_gemm_output ||
            op_check_tensor(r->rank, &r->first.gemm_output, &gemm)) &&
           (!r->c->knobs.swiglu || op_check_tensor(r->rank, &r->h.tensor, &h)) &&
           op_check_guard(r->rank, "dispatch_output", &r->dispatched) &&
           op_check_guard(r->rank, "weight_recv", &r->received) &&
           op_check_guard(r->rank, "gemm_output", &r->gemm) &&
           op_check_guard(r->rank, "activation_output", &r->h);
}

bool op_dispatch(op_rank *r)
{
    const epf_dispatch_group_gemm_args args = op_dispatch_args(r);

    /* A call that regrows loses what is in the send buffer, so it grows before. */
    if (((r->c->knobs.init_buffer || r->c->knobs.in_place) && !init_buffer(r)) ||
        (r->c->knobs.in_place && !fill_send_buffer(r))) {
        return false;
    }
    RANK_OK(r->rank, epf_dispatch_group_gemm(r->op, &args, &r->first));
    RANK_OK(r->rank, op_settle(r));
    return op_check_dispatch(r);
}

/* A rank that received nothing, and knows it, may leave out what has an entry for each row. */
static bool is_without_rows(const op_rank *r)
{
    return r->c->knobs.omit_empty && !epf_space_is_device() && r->view.num_recv_rows == 0;
}

epf_group_gemm_combine_args op_combine_args(op_rank *r)
{
    const op_knobs *k = &r->c->knobs;
    const epf_problem *p = &r->c->data->problem;
    epf_group_gemm_combine_args a;

    CHECK_OK(epf_group_gemm_combine_args_init(&a));
    a.layout = r->layout;
    a.gemm_input_data = k->swiglu ? r->h.tensor : r->first.gemm_output;
    if (k->packed) {
        a.packed_weight = r->w2;
    } else {
        a.gemm_weight = op_weight_tensor(r, true);
        a.gemm_weight_reduce_last_dim = k->swiglu || !k->b2_transposed;
    }
    if (k->tables) {
        a.tiles = tables_of(r);
    }
    a.comm_buffer_id = k->buffer;
    a.gemm_block_size_m = k->mixed && !epf_space_is_device() ? 1 << r->id : p->block_m;
    a.gemm_block_size_n = k->packed ? 0 : k->block_n;
    a.gemm_block_size_k = k->packed ? 0 : k->block_k;
    a.gemm_group_size_m = k->group_m == 0 ? a.gemm_group_size_m : k->group_m;
    a.num_warps = k->num_warps == 0 ? a.num_warps : k->num_warps;
    a.combine_mode = p->fuse_scatter ? EPF_COMBINE_FUSE_SCATTER : EPF_COMBINE_SERIAL;
    if (p->fuse_scatter) { /* refused in the other mode */
        a.optional_sm = k->combine_sm;
        a.num_reduce_sms = k->num_reduce_sms;
    }
    a.combine_output = k->own_outputs ? r->output.tensor : a.combine_output;
    if (k->gates) {
        a.cp_flag = !k->gates_in_place;
        if (!k->gates_in_place && !is_without_rows(r)) {
            a.gate_input = op_matrix_vector(&r->gate_in);
        }
        a.output_gate = r->gate.tensor;
    }
    if (k->combine_weights) {
        a.combine_weights = r->combine.tensor;
    }
    if (k->grad_dtype != 0) {
        a.grad_output = r->first.gemm_output;
        a.orig_input = r->first.dispatch_output;
        a.grad_weight =
            op_reshape3(r->grad.tensor, r->c->route.num_local_experts, p->num_columns, p->hidden);
        a.grad_block_size_m = k->grad_block_m;
        a.grad_block_size_n = k->grad_block_n;
        a.grad_block_size_k = k->grad_block_k;
        a.split_size_cum_per_expert =
            op_vector(epf_space_is_device() ? r->view.split_size_cum_per_expert
                                            : r->c->route.ranks[r->id].split_size_cum_per_expert,
                      EPF_DTYPE_I32, r->c->route.num_local_experts);
    }
    if (k->signal) {
        a.optional_signal_tensor = op_matrix_vector(&r->signal);
    }
    a.enable_profiler = k->profile;
    a.profile_file_name = k->profile ? "op_case_combine" : a.profile_file_name;
    return a;
}

static bool fill_gate_buffer(op_rank *r)
{
    const epf_ref_matrix *gates = &r->c->ranks[r->id].gate_in;
    epf_tensor buffer;

    RANK_OK(r->rank, epf_op_gate_buffer(r->op, r->c->knobs.buffer, &buffer));
    RANK_CHECK(r->rank, buffer.shape[0] >= gates->rows && buffer.ndim == 1,
               "gate buffer: %lld of %lld", (long long)buffer.shape[0], (long long)gates->rows);
    op_store_gates(r, &buffer);
    return true;
}

bool op_check_combine(op_rank *r, const epf_group_gemm_combine_result *result)
{
    const op_expected *e = &r->c->ranks[r->id];
    const bool exact = !r->c->data->problem.normal && !r->c->knobs.swiglu;
    const op_want output = {"combine_output", &e->output, NULL, exact};
    const op_want gate = {"output_gate", &e->gate, NULL, true};
    const op_want grad = {"grad_weight", &e->grad, NULL, exact};
    const size_t row = (size_t)r->x.cols * epf_element_bytes(r->x.dtype);
    void *output_rows;

    if (!op_check_tensor(r->rank, &result->combine_output, &output) ||
        (r->c->knobs.gates && !op_check_tensor(r->rank, &result->output_gate, &gate)) ||
        (r->c->knobs.grad_dtype != 0 && !op_check_tensor(r->rank, &r->grad.tensor, &grad))) {
        return false;
    }
    output_rows = op_fetch(&result->combine_output, r->x.rows); /* to compare between cases */
    memcpy(r->c->outputs[r->id], output_rows, (size_t)r->x.rows * row);
    free(output_rows);
    return op_check_guard(r->rank, "combine_output", &r->output) &&
           op_check_guard(r->rank, "output_gate", &r->gate);
}

enum { DEFAULT_BLOCK_N = 256 };

/* Zeros, as many as there are M-tiles. */
static void clear_signal(op_rank *r)
{
    const int64_t tiles = r->c->route.ranks[r->id].num_tiles_total;
    int32_t *zeros = epf_test_alloc((size_t)tiles, sizeof *zeros);

    if (r->signal.tensor.data == NULL) {
        r->signal = op_matrix_make(tiles, 1, EPF_DTYPE_I32, (op_guard){1, 0});
    }
    op_store(&r->signal.tensor, zeros, tiles);
    free(zeros);
}

/* Every M-tile counted as many N-tiles; of a packed weight the CPU chooses how many there are. */
static bool check_signal(op_rank *r)
{
    const op_knobs *k = &r->c->knobs;
    const int64_t tiles = r->c->route.ranks[r->id].num_tiles_total;
    const int32_t block_n = k->block_n == 0 ? DEFAULT_BLOCK_N : k->block_n;
    const int32_t want = (r->c->data->problem.hidden + block_n - 1) / block_n;
    int32_t *signal = op_fetch(&r->signal.tensor, tiles);
    int64_t bad = -1;
    int32_t seen = 0;

    for (int64_t t = 0; t < tiles && bad < 0; t++) {
        bad = signal[t] == want ? -1 : t;
        seen = signal[t];
    }
    free(signal);
    RANK_CHECK(r->rank, bad < 0, "signal of tile %lld is %d, want %d", (long long)bad, seen, want);
    return op_check_guard(r->rank, "signal", &r->signal);
}

bool op_combine(op_rank *r)
{
    epf_group_gemm_combine_result result;
    epf_group_gemm_combine_args args;

    if (r->c->knobs.gates && r->c->knobs.gates_in_place && !fill_gate_buffer(r)) {
        return false;
    }
    if (r->c->knobs.signal) {
        clear_signal(r);
    }
    args = op_combine_args(r);
    RANK_OK(r->rank, epf_group_gemm_combine(r->op, &args, &result));
    RANK_OK(r->rank, op_settle(r));
    return (!r->c->knobs.signal || check_signal(r)) && op_check_combine(r, &result);
}

bool op_enqueue(op_rank *r, epf_group_gemm_combine_result *result)
{
    epf_dispatch_group_gemm_args dispatch;
    epf_group_gemm_combine_args combine;
    epf_preprocess_args args;

    RANK_OK(r->rank, epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    RANK_OK(r->rank, epf_preprocess(r->op, &args, &r->layout));
    dispatch = op_dispatch_args(r);
    RANK_OK(r->rank, epf_dispatch_group_gemm(r->op, &dispatch, &r->first));
    combine = op_combine_args(r);
    RANK_OK(r->rank, epf_group_gemm_combine(r->op, &combine, result));
    return true;
}

bool op_check_enqueued(op_rank *r, const epf_group_gemm_combine_result *result)
{
    RANK_OK(r->rank, op_settle(r));
    RANK_OK(r->rank, epf_layout_get(r->layout, &r->view));
    return op_check_layout(r) && op_check_dispatch(r) && op_check_combine(r, result);
}

epf_status op_try_calls(op_rank *r, int32_t calls)
{
    epf_preprocess_args args;
    epf_dispatch_group_gemm_args dispatch;
    epf_group_gemm_combine_args combine;
    epf_status st;

    CHECK_OK(epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    st = op_try_preprocess(r, &args);
    if (st == EPF_OK && calls > 1) {
        dispatch = op_dispatch_args(r);
        st = op_try_dispatch(r, &dispatch);
    }
    if (st == EPF_OK && calls > 2) {
        combine = op_combine_args(r);
        st = op_try_combine(r, &combine, NULL);
    }
    return st;
}
