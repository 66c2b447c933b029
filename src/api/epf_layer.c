/*
 * epf_layer.c: the whole layer, forward and backward, out of the two fused operations.
 *
 * Forward     preprocess; dispatch + GEMM 1 (w13) + SwiGLU; GEMM 2 (w2) + combine
 * Backward    dispatch of dy + GEMM by w2 -> dh; activation backwards, row by row -> dg, du, dw;
 *             GEMM by w13 + combine -> grad_input, and dw as gates -> grad_weight.  Both weight
 *             gradients are tasks of that last phase.
 */
#include <string.h>

#include "api/epf_combine.h"
#include "api/epf_phase_args.h"
#include "api/epf_spec.h"
#include "base/epf_alloc.h"
#include "core/epf_dtype.h"
#include "prof/epf_prof.h"

struct epf_layer_context {
    epf_op *op;                     /* on a device NULL once it is gone */
    const epf_backend_ops *backend; /* of op, which may be gone when the context is destroyed */
    epf_layout *layout;
    const epf_buffer_set *set; /* of the pass under way */
    bool is_kept;              /* the memories below are of the last forward pass */
    int64_t intermediate;      /* I */
    int64_t max_rows;          /* of the memories below: R, or on a device what the set held */
    epf_memory rows;           /* [R, H]   x, as received */
    epf_memory row_weights;    /* [R]      routing weights, as received */
    epf_memory projected;      /* [R, 2 I] gate | up */
    epf_memory activated;      /* [R, I]   h */
    epf_memory grad_rows;      /* [R, H]   dy, as received */
    epf_memory grad_hidden;    /* [R, I]   dh */
    epf_memory grad_projected; /* [R, 2 I] dg | du */
    epf_memory grad_weights;   /* [R]      dw */
    epf_layer_context *next;   /* on a device: of op->contexts, */
    bool is_listed;            /* ... it is there, */
    bool is_free;              /* ... and the caller has destroyed it */
};

/* On a device a context that its caller destroys is kept for the next one, as layouts are (epf_layout.c). */
static epf_layer_context *take_kept(epf_op *op)
{
    for (epf_layer_context *c = op->contexts; c != NULL; c = c->next) {
        if (c->is_free) {
            c->is_free = false;
            c->is_kept = false;
            if (c->layout != NULL) {
                c->layout->is_filled = false;
            }
            return c;
        }
    }
    return NULL;
}

epf_status epf_layer_context_create(epf_op *op, epf_layer_context **context)
{
    epf_layer_context *c;
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    EPF_CHECK_ARG(context != NULL, "context: NULL");
    c = take_kept(op);
    if (c != NULL) {
        *context = c;
        return EPF_OK;
    }
    c = epf_alloc(1, sizeof *c);
    if (c == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "layer context: %zu bytes", sizeof *c);
    }
    c->op = op;
    c->backend = op->backend;
    if (op->backend->on_device) {
        c->next = op->contexts;
        c->is_listed = true;
        op->contexts = c;
    }
    *context = c;
    return EPF_OK;
}

static void free_context(epf_layer_context *c)
{
    epf_layout_destroy(c->layout);
    c->backend->memory_free(c->rows.data);
    c->backend->memory_free(c->row_weights.data);
    c->backend->memory_free(c->projected.data);
    c->backend->memory_free(c->activated.data);
    c->backend->memory_free(c->grad_rows.data);
    c->backend->memory_free(c->grad_hidden.data);
    c->backend->memory_free(c->grad_projected.data);
    c->backend->memory_free(c->grad_weights.data);
    epf_free(c);
}

void epf_layer_context_destroy(epf_layer_context *c)
{
    if (c != NULL && c->is_listed) {
        c->is_free = true;
    } else if (c != NULL) {
        free_context(c);
    }
}

void epf_layer_forget(epf_op *op)
{
    while (op->contexts != NULL) {
        epf_layer_context *const c = op->contexts;
        op->contexts = c->next;
        c->is_listed = false;
        c->op = NULL;
        if (c->is_free) {
            free_context(c);
        }
    }
}

const epf_layout *epf_layer_context_layout(const epf_layer_context *c)
{
    return c == NULL || c->layout == NULL || !c->layout->is_filled ? NULL : c->layout;
}

/* [R, columns] (columns > 0) or [R] in `memory`; on a device as many rows as the set holds. */
static epf_status reserve(const epf_layer_context *c, epf_memory *memory, int32_t dtype,
                          int64_t columns, epf_tensor *tensor)
{
    const int64_t rows = c->max_rows;
    const int64_t shape[2] = {rows, columns};
    const int64_t bytes = rows * (columns > 0 ? columns : 1) * epf_dtype_bytes(dtype);
    EPF_TRY(epf_op_memory_reserve(c->op, memory, bytes, "layer context"));
    *tensor = epf_tensor_of(memory->data, dtype, columns > 0 ? 2 : 1, shape);
    return EPF_OK;
}

static epf_status find_intermediate(const epf_layer_weights *w, int64_t *intermediate)
{
    const int64_t columns = w->packed_w13 != NULL       ? w->packed_w13->n
                            : epf_tensor_given(&w->w13) ? w->w13.shape[1]
                                                        : 0;
    EPF_CHECK_ARG(columns > 0 && columns % 16 == 0,
                  "w13: %lld rows per expert, must be 2 I with I a positive multiple of 8",
                  (long long)columns);
    *intermediate = columns / 2;
    return EPF_OK;
}

/* "<name>_<phase>" for the profiler; `text` holds it. */
static epf_status profile_name(const char *name, const char *phase, char *text, size_t size)
{
    size_t used;
    EPF_CHECK_ARG(name != NULL, "profile_file_name: NULL");
    used = strlen(name);
    EPF_CHECK_ARG(used + strlen(phase) + 1 <= size, "profile_file_name: longer than %zu characters",
                  size - strlen(phase) - 1);
    memcpy(text, name, used);
    memcpy(text + used, phase, strlen(phase) + 1);
    return EPF_OK;
}

enum { NAME_BYTES = 101 };

static epf_status forward_dispatch(epf_op *op, epf_layer_context *c,
                                   const epf_layer_forward_args *a)
{
    epf_dispatch_group_gemm_args d;
    char name[NAME_BYTES];
    EPF_TRY(epf_dispatch_group_gemm_args_init(&d));
    d.layout = c->layout;
    d.input = a->input;
    d.weight = a->weight;
    d.gemm_weight = a->weights.w13;
    d.packed_weight = a->weights.packed_w13;
    d.comm_buffer_id = a->comm_buffer_id;
    d.num_tail_sms = a->num_tail_sms;
    d.gemm_block_size_m = op->backend->layer_block_m;
    d.gemm_group_size_m = EPF_LAYER_GROUP_M;
    d.use_block_wise_barrier = a->use_block_wise_barrier;
    d.activation = EPF_ACTIVATION_SWIGLU;
    d.keep_gemm_output = a->keep_for_backward;
    EPF_TRY(reserve(c, &c->activated, op->config.dtype, c->intermediate, &d.activation_output));
    if (a->keep_for_backward) {
        EPF_TRY(
            reserve(c, &c->projected, op->config.dtype, 2 * c->intermediate, &d.gemm_output_data));
        EPF_TRY(reserve(c, &c->rows, op->config.dtype, op->shape.hidden, &d.dispatch_output));
        EPF_TRY(reserve(c, &c->row_weights, op->config.weight_dtype, 0, &d.weight_recv));
    }
    if (a->enable_profiler) {
        EPF_TRY(profile_name(a->profile_file_name, "_dispatch_group_gemm", name, sizeof name));
        d.enable_profiler = true;
        d.profile_file_name = name;
    }
    return epf_dispatch_group_gemm(op, &d, NULL);
}

static epf_status forward_combine(epf_op *op, epf_layer_context *c, const epf_layer_forward_args *a)
{
    epf_group_gemm_combine_args g;
    char name[NAME_BYTES];
    EPF_TRY(epf_group_gemm_combine_args_init(&g));
    g.layout = c->layout;
    EPF_TRY(reserve(c, &c->activated, op->config.dtype, c->intermediate, &g.gemm_input_data));
    g.gemm_weight = a->weights.w2;
    g.packed_weight = a->weights.packed_w2;
    g.comm_buffer_id = a->comm_buffer_id;
    g.gemm_block_size_m = op->backend->layer_block_m;
    g.gemm_group_size_m = EPF_LAYER_GROUP_M;
    g.combine_mode = a->combine_mode;
    g.combine_output = a->output;
    if (a->enable_profiler) {
        EPF_TRY(profile_name(a->profile_file_name, "_group_gemm_combine", name, sizeof name));
        g.enable_profiler = true;
        g.profile_file_name = name;
    }
    return epf_group_gemm_combine(op, &g, NULL);
}

/* Both passes' names fit a file name. */
static epf_status check_profile(const epf_op *op, const epf_layer_forward_args *a)
{
    char name[NAME_BYTES];
    epf_gemm_knobs knobs;
    if (!a->enable_profiler) {
        return EPF_OK;
    }
    EPF_TRY(profile_name(a->profile_file_name, "_dispatch_group_gemm", name, sizeof name));
    memset(&knobs, 0, sizeof knobs);
    knobs.profile_file_name = name;
    EPF_TRY(op->backend->check_knobs(op, &knobs));
    return epf_prof_check_name(name);
}

static epf_status check_forward_weights(epf_op *op, const epf_layer_weights *w,
                                        int64_t intermediate)
{
    const epf_weight_use w13 = {"w13",    "packed_w13",     &w->w13,          w->packed_w13,
                                true,     2 * intermediate, op->shape.hidden, true,
                                EPF_AUTO, EPF_AUTO};
    const epf_weight_use w2 = {"w2",     "packed_w2",      &w->w2,       w->packed_w2,
                               true,     op->shape.hidden, intermediate, false,
                               EPF_AUTO, EPF_AUTO};
    EPF_TRY(epf_weight_check(op, &w13));
    return epf_weight_check(op, &w2);
}

/* What a forward pass can be refused for before any rank is told. */
static epf_status check_forward(const epf_op *op, const epf_layer_forward_args *a)
{
    const int64_t tokens = a->exp_indices.shape[0];
    const epf_tensor_want ids = {
        "exp_indices", 2, {EPF_ANY_SIZE, op->shape.topk}, EPF_DTYPE_I32, 0, false, false};
    const epf_tensor_want output = {"output", 2,    {tokens, op->shape.hidden}, op->config.dtype, 0,
                                    false,    false};
    const epf_tensor_want input = {"input", 2,    {tokens, op->shape.hidden}, op->config.dtype, 0,
                                   false,   false};
    const epf_tensor_want weight = {
        "weight", 2, {tokens, op->shape.topk}, op->config.weight_dtype, 0, false, false};
    if (epf_tensor_check(&a->exp_indices, &ids) != EPF_OK || !epf_tensor_given(&a->exp_indices) ||
        tokens > op->shape.max_tokens) {
        return EPF_OK; /* preprocess refuses it, and tells all ranks */
    }
    EPF_TRY(epf_tensor_check(&a->input, &input));
    EPF_TRY(epf_tensor_check(&a->weight, &weight));
    EPF_TRY(epf_tensor_check(&a->output, &output));
    EPF_CHECK_ARG(a->num_tail_sms >= 0 && a->num_tail_sms < op->num_working,
                  "num_tail_sms: %d, must be 0..%d: below the workers", a->num_tail_sms,
                  op->num_working - 1);
    EPF_TRY(check_profile(op, a));
    EPF_TRY(epf_combine_check_mode(a->combine_mode));
    return epf_op_check_set(op, a->comm_buffer_id);
}

/* Out of memory between the parts of a pass: peers are in the next one already. */
static epf_status end_pass(epf_op *op, const epf_layer_context *c, int32_t comm_buffer_id,
                           epf_status st)
{
    return st == EPF_E_NO_MEMORY
               ? epf_op_give_up(op, &op->sets[comm_buffer_id], epf_layer_context_layout(c), st)
               : st;
}

static epf_status run_forward(epf_op *op, epf_layer_context *c, const epf_layer_forward_args *a)
{
    epf_preprocess_args p;
    EPF_TRY(epf_preprocess_args_init(&p));
    p.exp_indices = a->exp_indices;
    EPF_TRY(epf_preprocess(op, &p, &c->layout));
    EPF_TRY(epf_op_learn_rows(op, c->set, c->layout));
    c->max_rows = epf_op_max_rows(op, c->layout, c->set);
    EPF_TRY(forward_dispatch(op, c, a));
    return forward_combine(op, c, a);
}

epf_status epf_layer_forward(epf_op *op, epf_layer_context *c, const epf_layer_forward_args *args)
{
    epf_layer_forward_args a;
    epf_status st;
    EPF_TRY(epf_op_check_ready(op, "epf_layer_forward"));
    EPF_CHECK_ARG(c != NULL && c->op == op, "context: %s",
                  c == NULL ? "NULL" : "belongs to another operator");
    EPF_TRY(epf_struct_import(&epf_spec_forward_args, args, &a));
    EPF_TRY(check_forward(op, &a));
    EPF_TRY(find_intermediate(&a.weights, &c->intermediate));
    EPF_TRY(check_forward_weights(op, &a.weights, c->intermediate));
    c->is_kept = false;
    c->set = &op->sets[a.comm_buffer_id];
    st = run_forward(op, c, &a);
    c->is_kept = st == EPF_OK && a.keep_for_backward;
    return end_pass(op, c, a.comm_buffer_id, st);
}

static epf_status activation_backward(epf_op *op, const epf_layer_context *c)
{
    const epf_activation_rows rows = {
        c->layout,         c->max_rows,         c->intermediate,        c->grad_hidden.data,
        c->projected.data, c->row_weights.data, c->grad_projected.data, c->grad_weights.data};
    return op->backend->activation_backward(op, &rows);
}

static epf_status backward_dispatch(epf_op *op, epf_layer_context *c,
                                    const epf_layer_backward_args *a)
{
    epf_dispatch_group_gemm_args d;
    EPF_TRY(epf_dispatch_group_gemm_args_init(&d));
    d.layout = c->layout;
    d.input = a->grad_output;
    d.packed_weight = a->packed_w2_backward;
    if (d.packed_weight == NULL) {
        d.gemm_weight = a->w2;
        d.gemm_weight_reduce_last_dim = false;
    }
    d.comm_buffer_id = a->comm_buffer_id;
    d.gemm_block_size_m = op->backend->layer_block_m;
    d.gemm_group_size_m = EPF_LAYER_GROUP_M;
    d.use_block_wise_barrier = true;
    EPF_TRY(reserve(c, &c->grad_hidden, op->config.dtype, c->intermediate, &d.gemm_output_data));
    if (epf_tensor_given(&a->grad_w2)) {
        EPF_TRY(reserve(c, &c->grad_rows, op->config.dtype, op->shape.hidden, &d.dispatch_output));
    }
    return epf_dispatch_group_gemm(op, &d, NULL);
}

/* The gradient of w2 alone: tasks of this rank only, no peer takes part. */
static epf_status gradient_w2(epf_op *op, epf_layer_context *c, const epf_layer_backward_args *a)
{
    epf_group_gemm_combine_args g;
    epf_gemm_knobs knobs;
    epf_launch launch;
    if (!epf_tensor_given(&a->grad_w2)) {
        return EPF_OK;
    }
    EPF_TRY(epf_group_gemm_combine_args_init(&g));
    EPF_TRY(reserve(c, &c->grad_rows, op->config.dtype, op->shape.hidden, &g.grad_output));
    EPF_TRY(reserve(c, &c->activated, op->config.dtype, c->intermediate, &g.orig_input));
    g.grad_weight = a->grad_w2;
    EPF_TRY(epf_grad_check(op, c->layout, &g));
    memset(&knobs, 0, sizeof knobs);
    knobs.group_size_m = 1;
    knobs.num_warps = 1;
    memset(&launch, 0, sizeof launch);
    launch.layout = c->layout;
    launch.capacity = g.grad_output.shape[0];
    /* The epoch of the dispatch before: it took no tickets for gradients, and peers need not know. */
    epf_op_fill_call(op, c->set, &launch.call);
    launch.call.phase.kind = EPF_PHASE_GRAD;
    epf_phase_fill(c->layout, NULL, &knobs, &launch.call);
    epf_grad_fill(op, &g, &launch.call);
    return op->backend->phase_run(op, &launch);
}

static epf_status backward_combine(epf_op *op, epf_layer_context *c,
                                   const epf_layer_backward_args *a)
{
    epf_group_gemm_combine_args g;
    EPF_TRY(epf_group_gemm_combine_args_init(&g));
    g.layout = c->layout;
    EPF_TRY(
        reserve(c, &c->grad_projected, op->config.dtype, 2 * c->intermediate, &g.gemm_input_data));
    EPF_TRY(reserve(c, &c->grad_weights, op->config.weight_dtype, 0, &g.gate_input));
    g.packed_weight = a->packed_w13_backward;
    if (g.packed_weight == NULL) {
        g.gemm_weight = a->w13;
        g.gemm_weight_reduce_last_dim = false;
    }
    g.comm_buffer_id = a->comm_buffer_id;
    g.gemm_block_size_m = op->backend->layer_block_m;
    g.gemm_group_size_m = EPF_LAYER_GROUP_M;
    g.combine_mode = a->combine_mode;
    g.combine_output = a->grad_input;
    g.output_gate = a->grad_weight;
    if (epf_tensor_given(&a->grad_w13)) {
        g.grad_output = g.gemm_input_data;
        EPF_TRY(reserve(c, &c->rows, op->config.dtype, op->shape.hidden, &g.orig_input));
        g.grad_weight = a->grad_w13;
    }
    return epf_group_gemm_combine(op, &g, NULL);
}

static epf_status check_backward_weights(epf_op *op, const epf_layer_context *c,
                                         const epf_layer_backward_args *a)
{
    const epf_tensor none = {0};
    const epf_weight_use w13 = {"w13",
                                "packed_w13_backward",
                                a->packed_w13_backward != NULL ? &none : &a->w13,
                                a->packed_w13_backward,
                                false,
                                op->shape.hidden,
                                2 * c->intermediate,
                                false,
                                EPF_AUTO,
                                EPF_AUTO};
    const epf_weight_use w2 = {"w2",
                               "packed_w2_backward",
                               a->packed_w2_backward != NULL ? &none : &a->w2,
                               a->packed_w2_backward,
                               false,
                               c->intermediate,
                               op->shape.hidden,
                               false,
                               EPF_AUTO,
                               EPF_AUTO};
    EPF_TRY(epf_weight_check(op, &w13));
    return epf_weight_check(op, &w2);
}

/* What a backward pass can be refused for before any rank is told. */
static epf_status check_backward(epf_op *op, const epf_layer_context *c,
                                 const epf_layer_backward_args *a)
{
    const int64_t num_local = op->shape.num_local;
    const int64_t hidden = op->shape.hidden;
    const int64_t tokens = c->layout->num_tokens;
    const int32_t dtype = op->config.dtype;
    const epf_tensor_want wants[] = {
        {"grad_output", 2, {tokens, hidden}, dtype, 0, false, false},
        {"grad_input", 2, {tokens, hidden}, dtype, 0, false, false},
        {"grad_weight", 2, {tokens, op->shape.topk}, op->config.weight_dtype, 0, false, false},
        {"w13",
         3,
         {num_local, 2 * c->intermediate, hidden},
         dtype,
         0,
         a->packed_w13_backward != NULL,
         false},
        {"w2",
         3,
         {num_local, hidden, c->intermediate},
         dtype,
         0,
         a->packed_w2_backward != NULL,
         false},
        {"grad_w13",
         3,
         {num_local, 2 * c->intermediate, hidden},
         dtype,
         EPF_DTYPE_F32,
         true,
         false},
        {"grad_w2", 3, {num_local, hidden, c->intermediate}, dtype, EPF_DTYPE_F32, true, false},
    };
    const epf_tensor *const tensors[] = {&a->grad_output, &a->grad_input, &a->grad_weight, &a->w13,
                                         &a->w2,          &a->grad_w13,   &a->grad_w2};
    for (size_t i = 0; i < sizeof wants / sizeof wants[0]; i++) {
        EPF_TRY(epf_tensor_check(tensors[i], &wants[i]));
    }
    EPF_TRY(epf_combine_check_mode(a->combine_mode));
    EPF_TRY(check_backward_weights(op, c, a));
    return epf_op_check_set(op, a->comm_buffer_id);
}

static epf_status run_backward(epf_op *op, epf_layer_context *c, const epf_layer_backward_args *a)
{
    epf_tensor unused;
    EPF_TRY(backward_dispatch(op, c, a));
    EPF_TRY(reserve(c, &c->grad_projected, op->config.dtype, 2 * c->intermediate, &unused));
    EPF_TRY(reserve(c, &c->grad_weights, op->config.weight_dtype, 0, &unused));
    EPF_TRY(activation_backward(op, c));
    EPF_TRY(gradient_w2(op, c, a));
    return backward_combine(op, c, a);
}

epf_status epf_layer_backward(epf_op *op, epf_layer_context *c, const epf_layer_backward_args *args)
{
    epf_layer_backward_args a;
    epf_status st;
    EPF_TRY(epf_op_check_ready(op, "epf_layer_backward"));
    EPF_CHECK_ARG(c != NULL && c->op == op, "context: %s",
                  c == NULL ? "NULL" : "belongs to another operator");
    if (!c->is_kept) {
        return EPF_FAIL(EPF_E_STATE, "context: holds no forward pass kept for backward");
    }
    EPF_TRY(epf_struct_import(&epf_spec_backward_args, args, &a));
    EPF_TRY(check_backward(op, c, &a));
    c->set = &op->sets[a.comm_buffer_id];
    st = run_backward(op, c, &a);
    return end_pass(op, c, a.comm_buffer_id, st);
}
