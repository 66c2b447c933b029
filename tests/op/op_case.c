/* op_case.c: the steps of one rank, through the public API. */
#include "op_case.h"

#include <string.h>

#include "support/epf_check.h"

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
    return config;
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
    epf_pack(p->weight_dtype, r->c->ranks[r->id].gate_in.value, rows, r->gate_in.tensor.data);
    if (k->grad_dtype != 0) {
        r->grad = op_matrix_make((int64_t)r->c->route.num_local_experts * p->num_columns, p->hidden,
                                 (epf_dtype)k->grad_dtype, (op_guard){0, 0});
    }
}

static void free_matrices(op_rank *r)
{
    op_matrix *all[] = {&r->x,      &r->ids,        &r->weight,   &r->combine, &r->local,
                        &r->full,   &r->dispatched, &r->received, &r->gemm,    &r->h,
                        &r->output, &r->gate_in,    &r->gate,     &r->grad,    &r->signal};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        op_matrix_free(all[i]);
    }
}

static epf_tensor weight_tensor(const op_rank *r, bool second)
{
    const epf_data *d = r->c->data;
    const op_knobs *k = &r->c->knobs;
    const int64_t local = r->c->route.num_local_experts;
    const int64_t h = d->problem.hidden;
    const int64_t n = d->problem.num_columns;

    if (!second) {
        return k->b1_transposed
                   ? op_tensor3(d->b1_transposed[r->id].data, d->problem.dtype, local, h, n)
                   : op_tensor3(d->b1[r->id].data, d->problem.dtype, local, n, h);
    }
    if (k->swiglu) {
        const epf_ref_tensor here = epf_tensor_at(r->c->b2_half, r->id * local * h * (n / 2));
        return op_tensor3(here.data, d->problem.dtype, local, h, n / 2);
    }
    return k->b2_transposed
               ? op_tensor3(d->b2_transposed[r->id].data, d->problem.dtype, local, n, h)
               : op_tensor3(d->b2[r->id].data, d->problem.dtype, local, h, n);
}

static bool pack_weights(op_rank *r)
{
    epf_weight_config config;

    RANK_OK(r->rank, epf_weight_config_init(&config));
    config.tensor = weight_tensor(r, false);
    config.reduce_last_dim = !r->c->knobs.b1_transposed;
    config.gate_up = r->c->knobs.swiglu;
    config.gemm_block_size_n = r->c->knobs.block_n;
    config.gemm_block_size_k = r->c->knobs.block_k;
    RANK_OK(r->rank, epf_weight_create(r->op, &config, &r->w1));
    config.tensor = weight_tensor(r, true);
    config.reduce_last_dim = r->c->knobs.swiglu || !r->c->knobs.b2_transposed;
    config.gate_up = false;
    RANK_OK(r->rank, epf_weight_create(r->op, &config, &r->w2));
    return true;
}

bool op_open(op_rank *r, op_case *c, epf_test_rank *rank)
{
    epf_op_config config = op_config_of(c);

    config.num_workers = c->knobs.mixed ? 1 + rank->rank % 3 : config.num_workers;
    memset(r, 0, sizeof *r);
    r->c = c;
    r->rank = rank;
    r->id = rank->rank;
    make_matrices(r);
    if (!op_open_group(rank, c, &r->group)) {
        return false;
    }
    RANK_OK(rank, epf_op_create(r->group, &config, &r->op));
    if (c->knobs.lazy) {
        RANK_OK(rank, epf_op_sync(r->op));
    }
    return !c->knobs.packed || pack_weights(r);
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
    free_matrices(r);
}

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

/* One array of the layout against the reference's. */
static bool check_array(op_rank *r, const char *name, const int32_t *got, const int32_t *want,
                        int64_t count)
{
    const epf_compare what = {name, 1, count, NULL};
    char text[EPF_COMPARE_TEXT];

    RANK_CHECK(r->rank, got != NULL || count == 0, "%s: NULL", name);
    RANK_CHECK(r->rank, epf_compare_bits(&what, EPF_DTYPE_I32, got, want, text), "%s", text);
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

static epf_tile_tables tables_of(const op_rank *r)
{
    const epf_ref_rank *want = &r->c->route.ranks[r->id];
    const int64_t local = r->c->route.num_local_experts;
    const int64_t tiles = want->num_tiles_total;
    epf_tile_tables t;

    t.expert_ids = op_vector(want->expert_ids, EPF_DTYPE_I32, tiles);
    t.split_size = op_vector(want->split_size, EPF_DTYPE_I32, local);
    t.split_size_cum = op_vector(want->split_size_cum, EPF_DTYPE_I32, tiles);
    t.tile_num = op_vector(want->tile_num, EPF_DTYPE_I32, tiles);
    t.tile_num_cum = op_vector(want->tile_num_cum, EPF_DTYPE_I32, tiles);
    t.num_tiles_total = op_vector(&want->num_tiles_total, EPF_DTYPE_I32, 1);
    t.expert_offs = op_vector(want->expert_tile_offset, EPF_DTYPE_I32, local);
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
        a.gemm_weight = weight_tensor(r, false);
        a.gemm_weight_reduce_last_dim = !k->b1_transposed;
    }
    if (k->tables) {
        a.tiles = tables_of(r);
    }
    a.comm_buffer_id = k->buffer;
    a.optional_sm = k->optional_sm;
    a.num_tail_sms = k->num_tail_sms;
    a.gemm_block_size_m = r->c->data->problem.block_m;
    a.gemm_block_size_n = k->packed ? 0 : k->mixed ? 8 << r->id % 3 : k->block_n;
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
    const size_t bytes = (size_t)r->x.cols * epf_element_bytes(r->x.dtype);
    epf_tensor buffer;

    RANK_OK(r->rank, epf_op_send_buffer(r->op, r->c->knobs.buffer, &buffer));
    RANK_CHECK(r->rank,
               buffer.ndim == 2 && buffer.shape[0] == r->c->data->problem.max_tokens &&
                   buffer.shape[1] == r->x.cols && buffer.dtype == (int32_t)r->x.dtype,
               "send buffer: [%lld, %lld]", (long long)buffer.shape[0], (long long)buffer.shape[1]);
    for (int64_t t = 0; t < r->x.rows; t++) {
        memcpy((char *)buffer.data + (size_t)(t * buffer.stride[0]) * epf_element_bytes(r->x.dtype),
               (const char *)r->x.tensor.data +
                   (size_t)(t * r->x.stride) * epf_element_bytes(r->x.dtype),
               bytes);
    }
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
    return op_check_dispatch(r);
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
        a.gemm_weight = weight_tensor(r, true);
        a.gemm_weight_reduce_last_dim = k->swiglu || !k->b2_transposed;
    }
    if (k->tables) {
        a.tiles = tables_of(r);
    }
    a.comm_buffer_id = k->buffer;
    a.gemm_block_size_m = k->mixed ? 1 << r->id : p->block_m;
    a.gemm_block_size_n = k->packed ? 0 : k->block_n;
    a.gemm_block_size_k = k->packed ? 0 : k->block_k;
    a.gemm_group_size_m = k->group_m == 0 ? a.gemm_group_size_m : k->group_m;
    a.num_warps = k->num_warps == 0 ? a.num_warps : k->num_warps;
    a.combine_mode = p->fuse_scatter ? EPF_COMBINE_FUSE_SCATTER : EPF_COMBINE_SERIAL;
    a.optional_sm = p->fuse_scatter ? k->combine_sm : 0;
    a.num_reduce_sms = p->fuse_scatter ? k->num_reduce_sms : 0;
    a.combine_output = k->own_outputs ? r->output.tensor : a.combine_output;
    if (k->gates) {
        a.cp_flag = !k->gates_in_place;
        a.gate_input = k->gates_in_place ? a.gate_input : op_matrix_vector(&r->gate_in);
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
        a.split_size_cum_per_expert = op_vector(r->c->route.ranks[r->id].split_size_cum_per_expert,
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
    epf_pack((epf_dtype)buffer.dtype, gates->value, gates->rows, buffer.data);
    return true;
}

static bool check_combine(op_rank *r, const epf_group_gemm_combine_result *result)
{
    const op_expected *e = &r->c->ranks[r->id];
    const bool exact = !r->c->data->problem.normal && !r->c->knobs.swiglu;
    const op_want output = {"combine_output", &e->output, NULL, exact};
    const op_want gate = {"output_gate", &e->gate, NULL, true};
    const op_want grad = {"grad_weight", &e->grad, NULL, exact};
    const size_t row = (size_t)r->x.cols * epf_element_bytes(r->x.dtype);

    if (!op_check_tensor(r->rank, &result->combine_output, &output) ||
        (r->c->knobs.gates && !op_check_tensor(r->rank, &result->output_gate, &gate)) ||
        (r->c->knobs.grad_dtype != 0 && !op_check_tensor(r->rank, &r->grad.tensor, &grad))) {
        return false;
    }
    for (int64_t t = 0; t < r->x.rows; t++) { /* kept for comparison between cases */
        memcpy((char *)r->c->outputs[r->id] + (size_t)t * row,
               (const char *)result->combine_output.data +
                   (size_t)(t * result->combine_output.stride[0]) * epf_element_bytes(r->x.dtype),
               row);
    }
    return op_check_guard(r->rank, "combine_output", &r->output) &&
           op_check_guard(r->rank, "output_gate", &r->gate);
}

bool op_combine(op_rank *r)
{
    epf_group_gemm_combine_result result;
    epf_group_gemm_combine_args args;
    const int64_t tiles = r->c->route.ranks[r->id].num_tiles_total;

    if (r->c->knobs.gates && r->c->knobs.gates_in_place && !fill_gate_buffer(r)) {
        return false;
    }
    if (r->c->knobs.signal && r->signal.tensor.data == NULL) {
        r->signal = op_matrix_make(tiles, 1, EPF_DTYPE_I32, (op_guard){1, 0});
    }
    if (r->c->knobs.signal) {
        memset(r->signal.tensor.data, 0, (size_t)tiles * sizeof(int32_t));
    }
    args = op_combine_args(r);
    RANK_OK(r->rank, epf_group_gemm_combine(r->op, &args, &result));
    for (int64_t t = 0; r->c->knobs.signal && t < tiles; t++) {
        const int32_t *signal = r->signal.tensor.data;
        RANK_CHECK(r->rank, signal[t] > 0 && signal[t] == signal[0],
                   "signal of tile %lld is %d, of tile 0 %d", (long long)t, signal[t], signal[0]);
    }
    return check_combine(r, &result);
}
