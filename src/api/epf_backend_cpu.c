/* epf_backend_cpu.c: the CPU backend: host memory, and worker threads that end a call before it returns. */
#include <math.h>
#include <string.h>

#include "api/epf_phase_args.h"
#include "base/epf_alloc.h"
#include "comm/epf_place.h"
#include "core/epf_dtype.h"
#include "cpu/gemm/epf_convert.h"
#include "cpu/gemm/epf_gemm.h"
#include "prof/epf_prof.h"

static epf_status check_config(const epf_op_config *c)
{
    if (c->stream != NULL) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "stream: %p, but the CPU backend has none", c->stream);
    }
    if (c->device != -1) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "device: %d, but the CPU backend has none: -1",
                        c->device);
    }
    return EPF_OK;
}

static epf_status make_exec(epf_op *op)
{
    epf_exec_config config = {op->comm, op->config.num_workers, NULL, 0};
    epf_topology *topology = NULL;
    epf_place place;
    epf_status st;
    memset(&place, 0, sizeof place);
    EPF_TRY(epf_topology_read("/sys/devices/system", &topology));
    st = epf_place_rank(topology, op->comm->rank, op->comm->num_ranks, &place);
    epf_topology_free(topology);
    if (st != EPF_OK) {
        return st;
    }
    if (config.num_workers == EPF_AUTO) {
        config.num_workers = op->comm->num_ranks >= 1 && place.num_cores > 0 ? place.num_cores : 1;
        config.num_workers += op->config.sm_margin; /* AUTO counts the workers that work */
    }
    if (op->config.pin_workers) {
        config.cpus = place.cpus;
        config.num_cpus = place.num_cpus;
    }
    st = epf_exec_create(&config, &op->exec);
    epf_place_release(&place);
    return st;
}

static epf_status create(epf_op *op)
{
    EPF_TRY(make_exec(op));
    op->num_workers = epf_exec_num_workers(op->exec);
    return epf_op_place_workers(op);
}

static epf_status join(epf_op *op)
{
    (void)op;
    return EPF_OK;
}

static void destroy(epf_op *op)
{
    epf_exec_destroy(op->exec);
}

static epf_status window_create(epf_op *op, int64_t bytes, epf_op_window *window)
{
    epf_window *made;
    EPF_TRY(epf_comm_window_create(op->comm, (uint64_t)bytes, &made));
    window->base = made->base;
    window->table = made->base;
    window->memory = made;
    return EPF_OK;
}

/* A part goes with its last mapping, whose ever that is. */
static void window_detach(epf_op *op, epf_op_window *window)
{
    (void)op;
    (void)window;
}

static void window_destroy(epf_op *op, epf_op_window *window)
{
    epf_comm_window_destroy(op->comm, window->memory);
    memset(window, 0, sizeof *window);
}

static epf_status set_grown(epf_op *op, int64_t rows)
{
    (void)op;
    (void)rows;
    return EPF_OK;
}

static epf_status memory_reserve(epf_op *op, epf_memory *memory, int64_t bytes, const char *name)
{
    (void)op;
    return epf_memory_reserve(memory, bytes, name);
}

static epf_status copy(epf_op *op, void *to, const void *from, int64_t bytes)
{
    (void)op;
    memcpy(to, from, (size_t)bytes);
    return EPF_OK;
}

static epf_status check_knobs(const epf_op *op, const epf_gemm_knobs *k)
{
    (void)op;
    if (k->num_stages > 1) {
        return EPF_FAIL(
            EPF_E_UNSUPPORTED,
            "gemm_num_stages: %d, but the CPU backend has no ring of stages: 0 (AUTO) or 1",
            k->num_stages);
    }
    return EPF_OK;
}

static epf_status weight_check(const epf_op *op, const epf_weight_config *c, const epf_weight *w)
{
    (void)op;
    (void)c;
    (void)w;
    return EPF_OK;
}

static epf_status weight_make(epf_op *op, const epf_weight_config *c, epf_weight *w)
{
    epf_gemm_weight_desc desc;
    epf_gemm_weight *packed;
    memset(&desc, 0, sizeof desc);
    desc.kind = (epf_gemm_kind)op->config.gemm_library;
    desc.dtype = (epf_dtype)op->config.dtype;
    desc.num_experts = op->shape.num_local;
    desc.n = w->n;
    desc.k = w->k;
    desc.reduce_last_dim = c->reduce_last_dim;
    desc.expert_stride = c->tensor.stride[0];
    desc.row_stride = c->tensor.stride[1];
    desc.data = c->tensor.data;
    desc.num_segments = c->gate_up ? 2 : 1;
    desc.block_n = w->block_n;
    desc.block_k = w->block_k;
    EPF_TRY(epf_gemm_weight_create(&desc, &packed));
    w->data = packed;
    w->num_n_tiles = epf_gemm_weight_get_info(packed).num_n_tiles;
    return EPF_OK;
}

static void weight_free(epf_weight *w)
{
    epf_gemm_weight_destroy(w->data);
}

/* Working memory, and marks for what no call has written: the arrays' ends keep them. */
static epf_status layout_create(epf_layout *l)
{
    const epf_shape *const s = &l->op->shape;
    const size_t slot_bytes = (size_t)epf_shape_max_slots(s) * sizeof(int32_t);
    memset(l->topk_idx, 0xff, slot_bytes);
    memset(l->dst_row, 0xff, slot_bytes);
    memset(l->sort_slots, 0xff, slot_bytes);
    l->send_begin = epf_alloc((size_t)s->num_experts + 1, sizeof *l->send_begin);
    l->cursor = epf_alloc((size_t)s->num_experts, sizeof *l->cursor);
    if (l->send_begin == NULL || l->cursor == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "layout: %d experts", s->num_experts);
    }
    if (!l->op->config.need_reversed_token_scatter_idx) {
        return epf_layout_reserve_rows(l, 1);
    }
    EPF_TRY(epf_layout_reserve_rows(l, epf_shape_max_rows(s)));
    memset(l->row_source, 0xff, (size_t)epf_shape_max_rows(s) * 2 * sizeof(int32_t));
    return EPF_OK;
}

static void layout_destroy(epf_layout *l)
{
    epf_free(l->send_begin);
    epf_free(l->cursor);
}

static epf_status layout_wait(epf_layout *l)
{
    (void)l;
    return EPF_OK;
}

/* Most records one worker can make: all tasks, some records each, and the links of its flows: one per
 * slot sent, per row brought back, per N-tile of an M-tile on both sides. */
static uint64_t max_records(const epf_call *call)
{
    enum { RECORDS_PER_TASK = 4 };
    const epf_phase *const p = &call->phase;
    int64_t records = p->num_slots + p->tiles.row_offset[p->tiles.num_experts] +
                      2 * epf_tile_num_tasks(&p->tiles) + 16;
    for (int32_t c = 0; c < EPF_NUM_TASK_CLASSES; c++) {
        records += epf_phase_num_tasks(p, c) * RECORDS_PER_TASK;
    }
    return (uint64_t)records;
}

/* Tells all ranks that this one is in the call: its buffers may be written. */
static void signal_entered(const epf_call *call)
{
    for (int32_t r = 0; r < call->shape.num_ranks; r++) {
        epf_store_release_sys_u64(
            epf_call_control_word(call, r, call->control_map.entered, call->rank),
            epf_word(call->phase.epoch, epf_call_tag(call)));
    }
}

static epf_status phase_run(epf_op *op, const epf_launch *launch)
{
    const epf_call *const call = &launch->call;
    epf_prof *prof = NULL;
    epf_fault fault;
    epf_status st = EPF_OK;
    epf_status prof_status = EPF_OK;
    if (launch->profile_file_name != NULL) {
        const epf_prof_config config = {op->comm->rank, call->phase.num_workers, max_records(call)};
        prof_status = epf_prof_create(&config, &prof); /* peers wait: run unrecorded if it fails */
    }
    memset(&fault, 0, sizeof fault);
    if (call->phase.kind != EPF_PHASE_GRAD) {
        signal_entered(call);
    }
    if (epf_exec_run(op->exec, call, prof, &fault) != EPF_OK) {
        st = epf_op_fail(op, &fault);
    } else if (prof_status != EPF_OK) {
        st = prof_status;
    } else if (prof != NULL) {
        st = epf_prof_write(prof, NULL, launch->profile_file_name);
    }
    epf_prof_destroy(prof);
    return st;
}

/* One row backwards through h = silu(g) u w, all in fp32; `work` is [5 I]. */
static float activation_backward_row(float *work, int64_t count, float weight)
{
    const float *const g = work;
    const float *const u = work + count;
    const float *const dh = work + 2 * count;
    float *const dg = work + 3 * count;
    float *const du = work + 4 * count;
    double dw = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const float sigmoid = 1.0f / (1.0f + expf(-g[i]));
        const float silu = g[i] * sigmoid;
        dw += (double)dh[i] * (double)silu * (double)u[i];
        du[i] = dh[i] * silu * weight;
        dg[i] = dh[i] * u[i] * weight * (sigmoid * (1.0f + g[i] * (1.0f - sigmoid)));
    }
    return (float)dw;
}

static epf_status activation_backward(epf_op *op, const epf_activation_rows *r)
{
    const epf_dtype dtype = (epf_dtype)op->config.dtype;
    const epf_dtype weight_dtype = (epf_dtype)op->config.weight_dtype;
    const int64_t count = r->intermediate;
    const int64_t bytes = epf_dtype_bytes((int32_t)dtype);
    const int64_t weight_bytes = epf_dtype_bytes((int32_t)weight_dtype);
    float *const work = epf_alloc(5 * (size_t)count, sizeof *work);
    if (work == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "layer backward: %lld floats", (long long)(5 * count));
    }
    for (int64_t row = 0; row < r->layout->num_rows; row++) {
        float weight;
        float dw;
        epf_convert_to_f32(work, (const uint8_t *)r->projected + row * 2 * count * bytes, dtype,
                           2 * count);
        epf_convert_to_f32(work + 2 * count, (const uint8_t *)r->grad_hidden + row * count * bytes,
                           dtype, count);
        epf_convert_to_f32(&weight, (const uint8_t *)r->weight + row * weight_bytes, weight_dtype,
                           1);
        dw = activation_backward_row(work, count, weight);
        epf_convert_from_f32((uint8_t *)r->grad_projected + row * 2 * count * bytes,
                             work + 3 * count, dtype, 2 * count);
        epf_convert_from_f32((uint8_t *)r->grad_weight + row * weight_bytes, &dw, weight_dtype, 1);
    }
    epf_free(work);
    return EPF_OK;
}

static epf_status barrier(epf_op *op)
{
    epf_call call;
    epf_fault fault;
    epf_need need;
    EPF_TRY(epf_op_next_epoch(op));
    epf_op_fill_call(op, &op->sets[0], &call);
    for (int32_t r = 0; r < call.shape.num_ranks; r++) {
        epf_store_release_sys_u64(
            epf_call_control_word(&call, r, call.control_map.barrier, call.rank),
            epf_word(call.phase.epoch, 0));
    }
    need = epf_phase_need_word(&call.phase, EPF_OBJECT_BARRIER, 0);
    need.end = call.shape.num_ranks;
    return epf_exec_wait(op->exec, &call, &need, &fault) == EPF_OK ? EPF_OK
                                                                   : epf_op_fail(op, &fault);
}

static epf_status no_wait(epf_op *op)
{
    (void)op;
    return EPF_OK;
}

/* Calls have ended before they return, and told the host so. */
static void poll(const epf_op *op, epf_fault *fault)
{
    (void)op;
    (void)fault;
}

static bool is_aborted(const epf_op *op)
{
    const uint8_t *const own = op->control.base[op->comm->rank] + op->control_map.abort;
    return epf_load_acquire_sys_u32((const uint32_t *)(const void *)own) != 0;
}

static void raise_fault(epf_op *op, const epf_fault *fault)
{
    epf_call call;
    epf_op_fill_call(op, &op->sets[0], &call);
    epf_exec_raise(&call, fault);
}

static epf_status zero(epf_op *op)
{
    const int32_t rank = op->comm->rank;
    memset(op->control.base[rank], 0, (size_t)op->control_map.posted_head);
    for (int32_t i = 0; i < op->config.duplicate_comm_buffer; i++) {
        memset(op->sets[i].window.base[rank], 0, (size_t)op->sets[i].map.recv_weight);
    }
    epf_exec_zero(op->exec);
    return EPF_OK;
}

static epf_status set_stream(epf_op *op, void *stream)
{
    (void)op;
    return EPF_FAIL(EPF_E_UNSUPPORTED, "stream: %p, but the CPU backend has none", stream);
}

static void *get_stream(const epf_op *op)
{
    (void)op;
    return NULL;
}

enum { GRAD_BLOCK_N = 256, GRAD_BLOCK_K = 512 };

const epf_backend_ops epf_backend_cpu = {
    .on_device = false,
    .row_align = 1,
    .layer_block_m = EPF_LAYER_BLOCK_M,
    .grad_block_n = GRAD_BLOCK_N,
    .grad_block_k = GRAD_BLOCK_K,
    .grad_rows = INT32_MAX,
    .check_config = check_config,
    .create = create,
    .join = join,
    .destroy = destroy,
    .window_create = window_create,
    .window_detach = window_detach,
    .window_destroy = window_destroy,
    .set_grown = set_grown,
    .memory_reserve = memory_reserve,
    .memory_free = epf_free,
    .copy = copy,
    .check_knobs = check_knobs,
    .weight_check = weight_check,
    .weight_make = weight_make,
    .weight_free = weight_free,
    .layout_create = layout_create,
    .layout_destroy = layout_destroy,
    .layout_tile = epf_layout_tile_on_host,
    .layout_wait = layout_wait,
    .preprocess = epf_preprocess_on_host,
    .phase_run = phase_run,
    .activation_backward = activation_backward,
    .barrier = barrier,
    .wait = no_wait,
    .poll = poll,
    .is_aborted = is_aborted,
    .raise = raise_fault,
    .zero = zero,
    .set_stream = set_stream,
    .stream = get_stream,
};
