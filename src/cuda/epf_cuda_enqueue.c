/* epf_cuda_enqueue.c: an operator's calls on its stream: preprocess, phases, rows; and the heads of layouts. */
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cuda/epf_cuda_backend_internal.h"
#include "cuda/epf_cuda_phase.h"
#include "cuda/epf_gemm_cuda.h"

enum { ROW_CTAS_PER_SM = 4 };

/* --- layouts ---------------------------------------------------------------------------------- */

epf_status epf_cuda_layout_create(epf_cuda_op *o, epf_cuda_layout **out)
{
    epf_cuda_layout *const l = epf_alloc(1, sizeof *l);
    void *m = NULL;
    epf_status st;
    if (l == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "layout: %zu bytes", sizeof *l);
    }
    l->generation = o->generation;
    EPF_TRY_GOTO(epf_cuda_alloc(&o->group, sizeof *l->head, "layout's head", &m), err_layout);
    l->head = m;
    EPF_TRY_GOTO(epf_cuda_host_alloc(&o->group, sizeof *l->host_head, "layout's head", &m),
                 err_layout);
    l->host_head = m;
    *out = l;
    return EPF_OK;

err_layout:
    epf_cuda_layout_destroy(l);
    return st;
}

void epf_cuda_layout_destroy(epf_cuda_layout *l)
{
    if (l == NULL) {
        return;
    }
    epf_cuda_free(l->head);
    epf_cuda_host_free(l->host_head);
    epf_free(l);
}

static bool has_finished(void *context)
{
    const epf_cuda_layout *const l = context;
    const uint32_t seen = epf_load_acquire_sys_u32(&l->host_head->num_finished);
    return (int32_t)(seen - l->expected) >= 0;
}

static epf_status wait_head(epf_cuda_op *o, const epf_cuda_layout *l)
{
    epf_cuda_layout probe = *l;
    if (l->generation != o->generation && !has_finished(&probe)) {
        return EPF_FAIL(EPF_E_STATE, "layout: its preprocess did not end before epf_op_reset()");
    }
    if (o->has_captured) { /* replays count as well, which the host cannot know */
        return epf_cuda_op_wait(o);
    }
    if (has_finished(&probe)) {
        return EPF_OK;
    }
    EPF_TRY(epf_cuda_refuse_capture(o->stream, "epf_layout_get"));
    if (epf_cuda_wait_until(o, has_finished, &probe) == EPF_WAIT_READY) {
        return EPF_OK;
    }
    return EPF_FAIL(EPF_E_TIMEOUT, "layout: preprocess did not end within the group's timeout");
}

epf_status epf_cuda_layout_wait(epf_cuda_op *o, const epf_cuda_layout *l, epf_layout_head *head)
{
    int previous;
    epf_status st;
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    st = wait_head(o, l);
    epf_cuda_leave(o->group.device, previous);
    if (st == EPF_OK) {
        *head = *l->host_head;
    }
    return st;
}

bool epf_cuda_layout_is_captured(const epf_cuda_layout *l)
{
    return l->is_captured;
}

/* --- calls ------------------------------------------------------------------------------------ */

static void fill_call(const epf_cuda_op *o, const epf_call *call, epf_cuda_call *c)
{
    c->call = *call;
    c->state = o->state;
    c->tile_ready = o->tile_ready;
    c->expert_ready = o->expert_ready;
    c->tile_done = o->tile_done;
    c->report = o->report;
    c->timeout_ns = o->comm->timeout_ns;
    c->role_delay_ns = o->role_delay_ns;
}

void epf_cuda_op_delay_roles(epf_cuda_op *o, uint64_t max_ns)
{
    o->role_delay_ns = max_ns;
}

/* What the host will wait for, once the launch was taken. */
static void count_preprocess(epf_cuda_op *o, epf_cuda_layout *l, bool is_capturing)
{
    o->has_captured = o->has_captured || is_capturing;
    l->is_captured = is_capturing;
    if (!is_capturing) {
        l->expected = ++o->num_preprocess;
    }
}

static epf_status enqueue_preprocess(epf_cuda_op *o, epf_cuda_layout *l,
                                     epf_cuda_preprocess_args *args)
{
    bool is_capturing;
    EPF_TRY(epf_cuda_is_capturing(o->stream, &is_capturing));
    if (l->generation != o->generation) { /* nothing before the reset writes to it any more */
        l->host_head->num_finished = 0;
        l->generation = o->generation;
    }
    EPF_TRY(epf_cuda_preprocess(args, o->stream));
    count_preprocess(o, l, is_capturing);
    return EPF_OK;
}

epf_status epf_cuda_op_preprocess(epf_cuda_op *o, epf_cuda_layout *l, const epf_call *call,
                                  epf_cuda_preprocess_args *args)
{
    int previous;
    epf_status st;
    fill_call(o, call, &args->call);
    args->head = l->head;
    args->host_head = l->host_head;
    args->scratch = o->scratch;
    args->num_ctas = o->num_ctas;
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    st = enqueue_preprocess(o, l, args);
    epf_cuda_leave(o->group.device, previous);
    return st;
}

/* What the grouped GEMM alone and the weight gradients alone have in common. */
static void fill_gemm(const epf_cuda_op *o, const epf_cuda_launch *launch, epf_gemm_cuda_args *g)
{
    const epf_call *const call = launch->call;
    memset(g, 0, sizeof *g);
    g->dtype = call->dtype;
    g->num_experts = call->shape.num_local;
    g->a_rows = launch->capacity;
    g->rows = call->phase.tiles.rows;
    g->row_offset = call->phase.tiles.row_offset;
    g->queue = o->state->queue;
    g->expected_rows = launch->expected_rows;
    g->sm_margin = o->group.num_sms - o->num_ctas;
}

static epf_status enqueue_gemm(epf_cuda_op *o, const epf_cuda_launch *launch)
{
    const epf_call *const call = launch->call;
    epf_gemm_cuda_args g;
    fill_gemm(o, launch, &g);
    g.b_n_major = launch->weight_n_major ? 1 : 0;
    g.n = (int32_t)call->gemm_n;
    g.k = (int32_t)call->gemm_k;
    g.a = call->gemm_input.data;
    g.a_stride = call->gemm_input.stride;
    g.b = call->gemm_weight;
    g.b_stride = launch->weight_stride;
    g.b_expert_stride = launch->weight_expert_stride;
    g.c = call->gemm_output.data;
    g.c_stride = call->gemm_output.stride;
    return epf_gemm_cuda(&g, o->stream);
}

static epf_status enqueue_grads(epf_cuda_op *o, const epf_cuda_launch *launch)
{
    for (int32_t i = 0; i < launch->call->phase.num_grads; i++) {
        const epf_grad_map *const map = &launch->call->phase.grads[i];
        const epf_grad_operands *const operands = &launch->call->grads[i];
        epf_gemm_cuda_args g;
        fill_gemm(o, launch, &g);
        g.weight_grad = 1;
        g.c_dtype = operands->out_dtype;
        g.m = map->n;
        g.n = map->k;
        g.a = operands->grad_output.data;
        g.a_stride = operands->grad_output.stride;
        g.b = operands->orig_input.data;
        g.b_stride = operands->orig_input.stride;
        g.c = operands->out.data;
        g.c_stride = operands->out.stride;
        g.c_expert_stride = operands->expert_stride;
        EPF_TRY(epf_gemm_cuda(&g, o->stream));
    }
    return EPF_OK;
}

static epf_status enqueue_phase(epf_cuda_op *o, const epf_cuda_launch *launch)
{
    epf_cuda_phase_args args;
    memset(&args, 0, sizeof args);
    fill_call(o, launch->call, &args.call);
    args.call.head = launch->layout->head;
    args.call.capacity = launch->capacity;
    args.call.records = launch->records;
    args.call.records_per_lane = launch->records_per_lane;
    args.call.grain = launch->grain;
    args.own_set = launch->own_set;
    args.weight_n_major = launch->weight_n_major;
    args.weight_stride = launch->weight_stride;
    args.weight_expert_stride = launch->weight_expert_stride;
    args.num_ctas = o->num_ctas;
    args.expected_rows = launch->expected_rows;
    return epf_cuda_phase_run(&args, o->stream);
}

static epf_status enqueue(epf_cuda_op *o, const epf_cuda_launch *launch)
{
    switch (launch->call->phase.kind) {
    case EPF_PHASE_GEMM:
        return enqueue_gemm(o, launch);
    case EPF_PHASE_GRAD:
        return enqueue_grads(o, launch);
    default:
        return enqueue_phase(o, launch);
    }
}

epf_status epf_cuda_op_phase(epf_cuda_op *o, const epf_cuda_launch *launch)
{
    int previous;
    epf_status st;
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    st = enqueue(o, launch);
    epf_cuda_leave(o->group.device, previous);
    return st;
}

epf_status epf_cuda_op_rows_backward(epf_cuda_op *o, const epf_cuda_layout *l,
                                     epf_rows_backward_args *args)
{
    int previous;
    epf_status st;
    args->head = l->head;
    args->num_ctas = o->num_ctas * ROW_CTAS_PER_SM;
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    st = epf_rows_backward(args, o->stream);
    epf_cuda_leave(o->group.device, previous);
    return st;
}
