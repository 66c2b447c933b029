/* params_world.c: valid arguments of every public function. */
#include "params_world.h"

#include <string.h>

#include "support/epf_check.h"

static epf_tensor tensor1(const void *data, epf_dtype dtype, int64_t a)
{
    epf_tensor t;
    CHECK_OK(epf_tensor_make(&t, (void *)(uintptr_t)data, dtype, 1, &a));
    return t;
}

static epf_tensor tensor2(const void *data, epf_dtype dtype, int64_t a, int64_t b)
{
    const int64_t shape[2] = {a, b};
    epf_tensor t;
    CHECK_OK(epf_tensor_make(&t, (void *)(uintptr_t)data, dtype, 2, shape));
    return t;
}

static epf_tensor tensor3(const void *data, epf_dtype dtype, int64_t a, const int64_t *bc)
{
    const int64_t shape[3] = {a, bc[0], bc[1]};
    epf_tensor t;
    CHECK_OK(epf_tensor_make(&t, (void *)(uintptr_t)data, dtype, 3, shape));
    return t;
}

/* [L, rows, columns] of the token type. */
static epf_tensor experts(const params_rank *r, const params_memory *m, int64_t rows, int64_t cols)
{
    const int64_t shape[2] = {rows, cols};
    return tensor3(m->bytes, EPF_DTYPE_BF16, PARAMS_E / r->num_ranks, shape);
}

static epf_tensor token_ids(const params_rank *r)
{
    return tensor2(r->ids, EPF_DTYPE_I32, PARAMS_T, PARAMS_K);
}

epf_op_config params_op_config(void)
{
    epf_op_config c;
    CHECK_OK(epf_op_config_init(&c));
    c.max_tokens = PARAMS_T;
    c.hidden = PARAMS_H;
    c.topk = PARAMS_K;
    c.num_tot_experts = PARAMS_E;
    c.duplicate_comm_buffer = PARAMS_SETS;
    c.num_workers = PARAMS_WORKERS;
    c.gemm_library = EPF_GEMM_LIBRARY_PORTABLE;
    return c;
}

/* ---- group ---- */

static int gather_alone(void *context, const void *send, void *recv, size_t bytes)
{
    (void)context;
    memcpy(recv, send, bytes);
    return 0;
}

static void make_group_threads(params_rank *r, void *args)
{
    (void)r;
    CHECK_OK(epf_group_config_init((epf_group_config *)args));
}

static epf_status call_group_threads(params_rank *r, const void *args)
{
    epf_group *groups[2] = {NULL, NULL};
    const epf_status st = epf_group_create_threads(2, args, groups);
    (void)r;
    CHECK((st == EPF_OK) == (groups[0] != NULL && groups[1] != NULL), "status %d with groups", st);
    epf_group_destroy(groups[0]);
    epf_group_destroy(groups[1]);
    return st;
}

static void make_group(params_rank *r, void *args)
{
    epf_group_config *const c = args;
    (void)r;
    CHECK_OK(epf_group_config_init(c));
    c->rank = 0;
    c->num_ranks = 1;
    c->all_gather = gather_alone;
}

static epf_status call_group(params_rank *r, const void *args)
{
    epf_group *group = NULL;
    const epf_status st = epf_group_create(args, &group);
    (void)r;
    CHECK((st == EPF_OK) == (group != NULL), "status %d with group %p", st, (void *)group);
    epf_group_destroy(group);
    return st;
}

/* ---- operator ---- */

static void make_op(params_rank *r, void *args)
{
    (void)r;
    *(epf_op_config *)args = params_op_config();
}

static epf_status call_op(params_rank *r, const void *args)
{
    epf_op *op = NULL;
    const epf_status st = epf_op_create(r->group, args, &op);
    CHECK((st == EPF_OK) == (op != NULL), "status %d with op %p", st, (void *)op);
    epf_op_destroy(op);
    return st;
}

static void make_weight(params_rank *r, void *args)
{
    epf_weight_config *const c = args;
    CHECK_OK(epf_weight_config_init(c));
    c->tensor = experts(r, &r->in[2], 2 * PARAMS_I, PARAMS_H);
}

static epf_status call_weight(params_rank *r, const void *args)
{
    epf_weight *weight = NULL;
    const epf_status st = epf_weight_create(r->op, args, &weight);
    CHECK((st == EPF_OK) == (weight != NULL), "status %d with weight %p", st, (void *)weight);
    epf_weight_destroy(weight);
    return st;
}

static void make_preprocess(params_rank *r, void *args)
{
    epf_preprocess_args *const a = args;
    CHECK_OK(epf_preprocess_args_init(a));
    a->exp_indices = token_ids(r);
    a->local_scatter_indices = tensor2(r->local, EPF_DTYPE_I32, PARAMS_T, PARAMS_K);
    a->full_scatter_indices = tensor2(r->full, EPF_DTYPE_I32, PARAMS_T, PARAMS_K);
}

static epf_status call_preprocess(params_rank *r, const void *args)
{
    return epf_preprocess(r->op, args, &r->layout);
}

/* ---- the two phases ---- */

static epf_tile_tables tables_of(const params_rank *r)
{
    const int64_t local = PARAMS_E / r->num_ranks;
    epf_tile_tables t;
    epf_layout_view v;
    CHECK_OK(epf_layout_get(r->layout, &v));
    t.expert_ids = tensor1(v.expert_ids, EPF_DTYPE_I32, v.num_tiles_total);
    t.split_size = tensor1(v.split_size, EPF_DTYPE_I32, local);
    t.split_size_cum = tensor1(v.split_size_cum, EPF_DTYPE_I32, v.num_tiles_total);
    t.tile_num = tensor1(v.tile_num, EPF_DTYPE_I32, v.num_tiles_total);
    t.tile_num_cum = tensor1(v.tile_num_cum, EPF_DTYPE_I32, v.num_tiles_total);
    memcpy(((params_rank *)(uintptr_t)r)->in[7].bytes, &v.num_tiles_total,
           sizeof v.num_tiles_total);
    t.num_tiles_total = tensor1(r->in[7].bytes, EPF_DTYPE_I32, 1);
    t.expert_offs = tensor1(v.expert_tile_offset, EPF_DTYPE_I32, local);
    return t;
}

static void make_dispatch(params_rank *r, void *args)
{
    epf_dispatch_group_gemm_args *const a = args;
    const int64_t rows = PARAMS_ROWS + PARAMS_SPARE;
    CHECK_OK(epf_dispatch_group_gemm_args_init(a));
    a->layout = r->layout;
    a->input = tensor2(r->in[0].bytes, EPF_DTYPE_BF16, PARAMS_T, PARAMS_H);
    a->exp_indices = token_ids(r);
    a->weight = tensor2(r->in[1].bytes, EPF_DTYPE_F32, PARAMS_T, PARAMS_K);
    a->gemm_weight = experts(r, &r->in[2], 2 * PARAMS_I, PARAMS_H);
    a->tiles = tables_of(r);
    a->gemm_output_data = tensor2(r->out[0].bytes, EPF_DTYPE_BF16, rows, 2 * PARAMS_I);
    a->dispatch_output = tensor2(r->out[1].bytes, EPF_DTYPE_BF16, rows, PARAMS_H);
    a->weight_recv = tensor1(r->out[2].bytes, EPF_DTYPE_F32, rows);
}

static void make_swiglu(params_rank *r, void *args)
{
    epf_dispatch_group_gemm_args *const a = args;
    make_dispatch(r, a);
    a->activation = EPF_ACTIVATION_SWIGLU;
    a->activation_output =
        tensor2(r->out[3].bytes, EPF_DTYPE_BF16, PARAMS_ROWS + PARAMS_SPARE, PARAMS_I);
}

static epf_status call_dispatch(params_rank *r, const void *args)
{
    epf_dispatch_group_gemm_result result;
    return epf_dispatch_group_gemm(r->op, args, &result);
}

static void make_combine(params_rank *r, void *args)
{
    epf_group_gemm_combine_args *const a = args;
    const int64_t rows = PARAMS_ROWS + PARAMS_SPARE;
    epf_layout_view v;
    CHECK_OK(epf_group_gemm_combine_args_init(a));
    CHECK_OK(epf_layout_get(r->layout, &v));
    a->layout = r->layout;
    a->gemm_input_data = tensor2(r->in[0].bytes, EPF_DTYPE_BF16, rows, PARAMS_I);
    a->gemm_weight = experts(r, &r->in[2], PARAMS_H, PARAMS_I);
    a->tiles = tables_of(r);
    a->gate_input = tensor1(r->in[1].bytes, EPF_DTYPE_F32, rows);
    a->output_gate = tensor2(r->out[0].bytes, EPF_DTYPE_F32, PARAMS_T, PARAMS_K);
    a->combine_weights = tensor2(r->in[3].bytes, EPF_DTYPE_F32, PARAMS_T, PARAMS_K);
    a->combine_output = tensor2(r->out[1].bytes, EPF_DTYPE_BF16, PARAMS_T, PARAMS_H);
    a->optional_signal_tensor = tensor1(r->out[2].bytes, EPF_DTYPE_I32, PARAMS_ROWS);
    a->grad_output = tensor2(r->in[4].bytes, EPF_DTYPE_BF16, rows, PARAMS_H);
    a->orig_input = tensor2(r->in[5].bytes, EPF_DTYPE_BF16, rows, PARAMS_I);
    a->grad_weight = experts(r, &r->out[3], PARAMS_H, PARAMS_I);
    a->split_size_cum_per_expert =
        tensor1(v.split_size_cum_per_expert, EPF_DTYPE_I32, PARAMS_E / r->num_ranks);
}

static void make_scatter(params_rank *r, void *args)
{
    epf_group_gemm_combine_args *const a = args;
    make_combine(r, a);
    a->combine_mode = EPF_COMBINE_FUSE_SCATTER;
}

static epf_status call_combine(params_rank *r, const void *args)
{
    epf_group_gemm_combine_result result;
    return epf_group_gemm_combine(r->op, args, &result);
}

/* ---- the layer ---- */

static void make_forward(params_rank *r, void *args)
{
    epf_layer_forward_args *const a = args;
    CHECK_OK(epf_layer_forward_args_init(a));
    a->input = tensor2(r->in[0].bytes, EPF_DTYPE_BF16, PARAMS_T, PARAMS_H);
    a->exp_indices = token_ids(r);
    a->weight = tensor2(r->in[1].bytes, EPF_DTYPE_F32, PARAMS_T, PARAMS_K);
    a->weights.w13 = experts(r, &r->in[2], 2 * PARAMS_I, PARAMS_H);
    a->weights.w2 = experts(r, &r->in[3], PARAMS_H, PARAMS_I);
    a->output = tensor2(r->out[0].bytes, EPF_DTYPE_BF16, PARAMS_T, PARAMS_H);
}

static epf_status call_forward(params_rank *r, const void *args)
{
    return epf_layer_forward(r->op, r->context, args);
}

static void make_backward(params_rank *r, void *args)
{
    epf_layer_backward_args *const a = args;
    CHECK_OK(epf_layer_backward_args_init(a));
    a->grad_output = tensor2(r->in[0].bytes, EPF_DTYPE_BF16, PARAMS_T, PARAMS_H);
    a->w13 = experts(r, &r->in[2], 2 * PARAMS_I, PARAMS_H);
    a->w2 = experts(r, &r->in[3], PARAMS_H, PARAMS_I);
    a->grad_input = tensor2(r->out[0].bytes, EPF_DTYPE_BF16, PARAMS_T, PARAMS_H);
    a->grad_weight = tensor2(r->out[1].bytes, EPF_DTYPE_F32, PARAMS_T, PARAMS_K);
    a->grad_w13 = experts(r, &r->out[2], 2 * PARAMS_I, PARAMS_H);
    a->grad_w2 = experts(r, &r->out[3], PARAMS_H, PARAMS_I);
}

static epf_status call_backward(params_rank *r, const void *args)
{
    return epf_layer_backward(r->op, r->context, args);
}

#define CALL(function, type, maker, caller)          \
    {                                                \
        function, #type, sizeof(type), maker, caller \
    }

const params_call params_calls[PARAMS_NUM_CALLS] = {
    CALL("epf_group_create_threads", epf_group_config, make_group_threads, call_group_threads),
    CALL("epf_group_create", epf_group_config, make_group, call_group),
    CALL("epf_op_create", epf_op_config, make_op, call_op),
    CALL("epf_weight_create", epf_weight_config, make_weight, call_weight),
    CALL("epf_preprocess", epf_preprocess_args, make_preprocess, call_preprocess),
    CALL("epf_dispatch_group_gemm", epf_dispatch_group_gemm_args, make_dispatch, call_dispatch),
    CALL("epf_dispatch_group_gemm", epf_dispatch_group_gemm_args, make_swiglu, call_dispatch),
    CALL("epf_group_gemm_combine", epf_group_gemm_combine_args, make_combine, call_combine),
    CALL("epf_group_gemm_combine", epf_group_gemm_combine_args, make_scatter, call_combine),
    CALL("epf_layer_forward", epf_layer_forward_args, make_forward, call_forward),
    CALL("epf_layer_backward", epf_layer_backward_args, make_backward, call_backward),
};

/* ---- opening ---- */

/* Every expert gets as many slots as every other; the scatter indices say what the library would. */
static void fill_indices(params_rank *r)
{
    epf_preprocess_args args;
    epf_layout_view view;
    int32_t before = 0;
    for (int32_t s = 0; s < PARAMS_T * PARAMS_K; s++) {
        r->ids[s] = s % PARAMS_E;
    }
    CHECK_OK(epf_preprocess_args_init(&args));
    args.exp_indices = token_ids(r);
    CHECK_OK(epf_preprocess(r->op, &args, &r->layout));
    CHECK_OK(epf_layout_get(r->layout, &view));
    for (int32_t s = 0; s < PARAMS_T * PARAMS_K; s++) {
        const int32_t owner = r->ids[s] / (PARAMS_E / r->num_ranks);
        r->full[s] = owner * PARAMS_ROWS + view.token_dst_scatter_idx[s];
    }
    for (int32_t e = 0; e < PARAMS_E; e++) {
        for (int32_t s = 0; s < PARAMS_T * PARAMS_K; s++) {
            if (r->ids[s] == e) {
                r->local[s] = before++;
            }
        }
    }
}

void params_open(params_rank *r, epf_group *group)
{
    const epf_op_config config = params_op_config();
    params_args args;
    memset(r, 0, sizeof *r);
    r->group = group;
    r->rank = epf_group_rank(group);
    r->num_ranks = epf_group_num_ranks(group);
    CHECK_OK(epf_op_create(group, &config, &r->op));
    CHECK_OK(epf_op_create(group, &config, &r->other));
    fill_indices(r);
    make_preprocess(r, &args);
    CHECK_OK(epf_preprocess(r->other, &args.preprocess, &r->other_layout));
    make_weight(r, &args);
    CHECK_OK(epf_weight_create(r->op, &args.weight, &r->weight));
    CHECK_OK(epf_weight_create(r->other, &args.weight, &r->other_weight));
    CHECK_OK(epf_layer_context_create(r->op, &r->context));
    CHECK_OK(epf_layer_context_create(r->other, &r->other_context));
    make_forward(r, &args);
    CHECK_OK(call_forward(r, &args));
}

void params_close(params_rank *r)
{
    epf_layer_context_destroy(r->context);
    epf_layer_context_destroy(r->other_context);
    epf_weight_destroy(r->weight);
    epf_weight_destroy(r->other_weight);
    epf_layout_destroy(r->layout);
    epf_layout_destroy(r->other_layout);
    epf_op_destroy(r->op);
    epf_op_destroy(r->other);
}
