/* epf_backend_cuda.c: the CUDA backend: device memory, and calls that are enqueued on a stream. */
#include <string.h>

#include "api/epf_phase_args.h"
#include "base/epf_alloc.h"
#include "core/epf_dtype.h"
#include "cuda/epf_cuda_backend.h"
#include "cuda/epf_cuda_profile.h"

/* Tiles of the kernels (src/cuda/epf_phase_sm90.cuh). */
enum { BLOCK_N = 256, BLOCK_K = 64, NUM_STAGES = 4, ROW_ALIGN = 16 };

static epf_status check_config(const epf_op_config *c)
{
    if (c->dtype != EPF_DTYPE_BF16 && c->dtype != EPF_DTYPE_F16) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "dtype: %s, the CUDA backend takes bf16 or fp16",
                        epf_dtype_name(c->dtype));
    }
    if (c->gemm_library != EPF_GEMM_LIBRARY_AUTO) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "gemm_library: %d is the CPU's choice, must be 0 (AUTO)",
                        c->gemm_library);
    }
    if (c->pin_workers) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "pin_workers: true, but the CUDA backend has no threads");
    }
    if (c->fwd_gemm_block_size_n != BLOCK_N) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "fwd_gemm_block_size_n: %d, but the device's kernels have it fixed: %d",
                        c->fwd_gemm_block_size_n, (int)BLOCK_N);
    }
    EPF_CHECK_ARG(c->num_workers % 2 == 0, "num_workers: %d, must be even: CTAs come in pairs",
                  c->num_workers);
    EPF_CHECK_ARG(c->device >= -1, "device: %d, must be -1 or more", c->device);
    return EPF_OK;
}

/* The windows as they are now: they change with regrowing. */
static epf_cuda_op *cuda_of(const epf_op *op)
{
    epf_cuda_windows w;
    memset(&w, 0, sizeof w);
    w.control_map = &op->control_map;
    w.control = op->control.base;
    for (int32_t i = 0; i < op->config.duplicate_comm_buffer && w.control != NULL; i++) {
        if (op->sets[i].window.base != NULL) {
            w.own_set[i] = op->sets[i].window.base[op->comm->rank];
            w.set_bytes[i] = op->sets[i].map.recv_weight;
            w.num_sets = i + 1;
        }
    }
    epf_cuda_op_set_windows(op->cuda, &w);
    return op->cuda;
}

static epf_status create(epf_op *op)
{
    (void)op; /* how many CTAs there are is known when the group has been joined */
    return EPF_OK;
}

static epf_status join(epf_op *op)
{
    const epf_cuda_op_config config = {op->comm,
                                       &op->shape,
                                       op->config.device,
                                       op->config.num_workers,
                                       op->config.sm_margin,
                                       op->config.stream,
                                       op->sets[0].map.rows};
    epf_status st;
    EPF_TRY(epf_cuda_op_create(&config, &op->cuda));
    op->num_workers = epf_cuda_op_num_workers(op->cuda);
    st = epf_op_place_workers(op);
    op->num_working = epf_cuda_op_num_ctas(op->cuda);
    return epf_comm_agree(op->comm, st);
}

static epf_status window_create(epf_op *op, int64_t bytes, epf_op_window *window)
{
    epf_cuda_window *made;
    EPF_TRY(epf_cuda_window_create(op->comm, epf_cuda_op_group(op->cuda), (uint64_t)bytes, &made));
    window->base = made->base;
    window->table = made->base_table;
    window->memory = made;
    return EPF_OK;
}

static void window_detach(epf_op *op, epf_op_window *window)
{
    if (window->memory != NULL) {
        epf_cuda_window_detach(epf_cuda_op_group(op->cuda), window->memory);
    }
}

static void window_destroy(epf_op *op, epf_op_window *window)
{
    if (window->memory != NULL) {
        epf_cuda_window_destroy(op->comm, epf_cuda_op_group(op->cuda), window->memory);
    }
    memset(window, 0, sizeof *window);
}

static epf_status set_grown(epf_op *op, int64_t rows)
{
    return epf_cuda_op_reserve_rows(op->cuda, rows);
}

/* Freeing waits for the device, where ranks as threads may have kernels that wait for this one. */
struct epf_retired {
    struct epf_retired *next;
    void *memory;
};

static void free_retired(epf_op *op)
{
    while (op->retired != NULL) {
        struct epf_retired *const r = op->retired;
        op->retired = r->next;
        epf_cuda_free(r->memory);
        epf_free(r);
    }
}

static epf_status retire(epf_op *op, void *memory, const char *name)
{
    struct epf_retired *const r = memory != NULL ? epf_alloc(1, sizeof *r) : NULL;
    if (memory == NULL) {
        return EPF_OK;
    }
    if (r == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: %zu bytes", name, sizeof *r);
    }
    r->memory = memory;
    r->next = op->retired;
    op->retired = r;
    return EPF_OK;
}

static epf_status memory_reserve(epf_op *op, epf_memory *memory, int64_t bytes, const char *name)
{
    void *grown;
    epf_status st;
    if (bytes <= memory->bytes) {
        return EPF_OK;
    }
    EPF_TRY(epf_cuda_alloc(epf_cuda_op_group(op->cuda), bytes, name, &grown));
    st = retire(op, memory->data, name);
    if (st != EPF_OK) {
        epf_cuda_free(grown);
        return st;
    }
    memory->data = grown;
    memory->bytes = bytes;
    return EPF_OK;
}

static epf_status copy(epf_op *op, void *to, const void *from, int64_t bytes)
{
    return epf_cuda_op_copy(op->cuda, to, from, bytes);
}

static epf_status check_knobs(const epf_op *op, const epf_gemm_knobs *k)
{
    EPF_TRY(epf_phase_check_fixed(op, "gemm_block_size_m", k->block_size_m, EPF_CUDA_BLOCK_M));
    EPF_TRY(epf_phase_check_fixed(op, "gemm_num_stages", k->num_stages, NUM_STAGES));
    return k->profile_file_name != NULL ? epf_cuda_op_check_profile(op->cuda) : EPF_OK;
}

static epf_status weight_check(const epf_op *op, const epf_weight_config *c, const epf_weight *w)
{
    (void)c;
    EPF_TRY(epf_phase_check_fixed(op, "gemm_block_size_n", w->block_n, BLOCK_N));
    return epf_phase_check_fixed(op, "gemm_block_size_k", w->block_k, BLOCK_K);
}

static epf_status weight_make(epf_op *op, const epf_weight_config *c, epf_weight *w)
{
    (void)op;
    w->data = c->tensor.data;
    w->stride = c->tensor.stride[1];
    w->expert_stride = c->tensor.shape[0] > 1 ? c->tensor.stride[0] : 0;
    w->num_n_tiles = epf_ceil_div(w->n, BLOCK_N);
    return EPF_OK;
}

static void weight_free(epf_weight *w)
{
    (void)w; /* the tensor is the caller's */
}

static void destroy(epf_op *op)
{
    epf_layout_destroy(op->spare);
    free_retired(op);
    epf_cuda_op_destroy(op->cuda);
}

/* --- layouts ---------------------------------------------------------------------------------- */

static epf_status reserve_ints(epf_op *op, int64_t count, const char *name, int32_t **array)
{
    epf_memory memory = {NULL, 0};
    EPF_TRY(memory_reserve(op, &memory, epf_max64(count, 1) * (int64_t)sizeof **array, name));
    *array = memory.data;
    return EPF_OK;
}

static epf_status layout_create(epf_layout *l)
{
    epf_op *const op = l->op;
    epf_cuda_layout *device;
    const int64_t rows = epf_shape_max_rows(&op->shape); /* of sources: whatever the sets hold */
    const int64_t tiles = epf_cuda_max_tiles(rows, op->shape.num_local);
    EPF_TRY(reserve_ints(op, 2 * rows, "layout: row_source", &l->row_source));
    l->row_source_rows = rows;
    for (size_t i = 0; i < sizeof l->tables / sizeof l->tables[0]; i++) {
        EPF_TRY(reserve_ints(op, tiles, "layout: tables", &l->tables[i]));
    }
    l->max_tiles = tiles;
    l->block_m = EPF_CUDA_BLOCK_M;
    EPF_TRY(epf_cuda_layout_create(op->cuda, &device));
    l->device = device;
    return EPF_OK;
}

static void layout_destroy(epf_layout *l)
{
    epf_cuda_layout_destroy(l->device);
}

static epf_status layout_tile(epf_layout *l, int32_t block_m)
{
    return epf_phase_check_fixed(l->op, "gemm_block_size_m", block_m, EPF_CUDA_BLOCK_M);
}

/* Why all ranks' preprocess refused the routing. */
static epf_status say_refusal(const epf_op *op, const epf_layout_head *head)
{
    const epf_status st = (epf_status)head->status;
    const int32_t topk = op->shape.topk;
    if (st == EPF_E_INVALID && head->where >= 0) {
        return EPF_FAIL(
            st, "exp_indices[%d, %d] on rank %d: %d, must be -1..%d (-1 and %d drop the slot)",
            head->where / topk, head->where % topk, head->rank, head->value, op->shape.num_experts,
            op->shape.num_experts);
    }
    return EPF_FAIL(st, "preprocess: rank %d refused its arguments or scatter indices", head->rank);
}

static epf_status layout_wait(epf_layout *l)
{
    epf_op *const op = l->op;
    epf_layout_head head;
    epf_fault fault;
    const epf_status st = epf_cuda_layout_wait(cuda_of(op), l->device, &head);
    fault = epf_op_fault(op);
    if (fault.status != EPF_OK) {
        return epf_op_say(&fault);
    }
    EPF_TRY(st);
    l->is_refused = head.status != EPF_OK;
    if (l->is_refused) {
        return say_refusal(op, &head);
    }
    l->epoch = head.epoch;
    l->num_slots = head.num_slots;
    l->num_rows = head.num_rows;
    l->max_rows = head.max_rows;
    l->num_tiles = head.num_tiles;
    l->is_known = !epf_cuda_layout_is_captured(l->device);
    return EPF_OK;
}

static bool layout_is_captured(const epf_layout *l)
{
    return epf_cuda_layout_is_captured(l->device) || epf_cuda_op_is_capturing(l->op->cuda);
}

/* --- calls ------------------------------------------------------------------------------------ */

static epf_cuda_indices indices_of(const epf_tensor *t)
{
    const epf_cuda_indices indices = {epf_tensor_given(t) ? t->data : NULL,
                                      epf_tensor_given(t) && t->shape[0] > 1 ? t->stride[0]
                                                                             : t->shape[1]};
    return indices;
}

static void fill_preprocess(const epf_exchange *x, const epf_layout *l, epf_cuda_preprocess_args *a)
{
    memset(a, 0, sizeof *a);
    a->num_tokens = x->refused == EPF_OK ? (int32_t)x->args.exp_indices.shape[0] : -1;
    a->refused = x->refused;
    if (x->refused == EPF_OK) {
        a->exp_indices = indices_of(&x->args.exp_indices);
        a->full_scatter = indices_of(&x->args.full_scatter_indices);
        a->local_scatter = indices_of(&x->args.local_scatter_indices);
    }
    a->topk_idx = l->topk_idx;
    a->dst_row = l->dst_row;
    a->sort_slots = l->sort_slots;
    a->row_source = l->row_source;
    a->row_capacity = l->row_source_rows;
    a->all_row_sources = x->op->config.need_reversed_token_scatter_idx;
    a->counts = l->counts;
    a->tokens = l->tokens;
    a->offset = l->offset;
    a->recv = l->recv;
    a->input = l->input;
    a->row_offset = l->row_offset;
    a->tile_offset = l->tile_offset;
    memcpy(a->tables, l->tables, sizeof a->tables);
}

/* Refused calls take part as well: with a layout that no caller sees. */
static epf_status take_spare(epf_exchange *x, epf_layout **layout)
{
    *layout = x->layout;
    if (x->refused != EPF_OK && x->op->spare == NULL) {
        EPF_TRY(epf_layout_create(x->op, &x->op->spare));
    }
    if (x->refused != EPF_OK) {
        *layout = x->op->spare;
    }
    return EPF_OK;
}

static epf_status enqueue_preprocess(epf_exchange *x)
{
    epf_op *const op = x->op;
    epf_layout *l;
    epf_cuda_preprocess_args args;
    epf_call call;
    EPF_TRY(take_spare(x, &l));
    EPF_TRY(epf_op_next_epoch(op));
    epf_op_fill_call(op, &op->sets[0], &call);
    fill_preprocess(x, l, &args);
    l->is_known = false;
    l->is_refused = false;
    l->num_tokens = args.num_tokens > 0 ? args.num_tokens : 0;
    return epf_cuda_op_preprocess(op->cuda, l->device, &call, &args);
}

static epf_status preprocess(epf_exchange *x)
{
    const epf_status refused = x->refused;
    const epf_status st = enqueue_preprocess(x);
    if (st != EPF_OK) { /* peers wait for this rank's part */
        return epf_op_give_up(x->op, &x->op->sets[0], NULL, st);
    }
    return refused;
}

static epf_status wait_all(epf_op *op)
{
    return op->cuda == NULL ? EPF_OK : epf_cuda_op_wait(cuda_of(op));
}

/* Peers wait for this rank: where there is no memory for a profile the call runs without. */
static epf_status run_profiled(epf_op *op, epf_cuda_launch *launch, const char *name)
{
    const epf_status prepared = epf_cuda_profile_begin(op->cuda, launch);
    epf_status st;
    epf_fault fault;
    EPF_TRY(epf_cuda_op_phase(op->cuda, launch));
    EPF_TRY(prepared);
    st = wait_all(op);
    fault = epf_op_fault(op);
    if (fault.status != EPF_OK) {
        return epf_op_say(&fault);
    }
    EPF_TRY(st);
    return epf_cuda_profile_write(op->cuda, launch, name);
}

static epf_status phase_run(epf_op *op, const epf_launch *launch)
{
    const epf_buffer_set *const set = &op->sets[launch->call.set_index];
    epf_cuda_launch l;
    memset(&l, 0, sizeof l);
    l.call = &launch->call;
    l.layout = launch->layout->device;
    l.own_set = set->window.base[op->comm->rank];
    if (launch->weight != NULL) {
        l.weight_n_major = !launch->weight->reduce_last_dim;
        l.weight_stride = launch->weight->stride;
        l.weight_expert_stride = launch->weight->expert_stride;
    }
    l.capacity = launch->capacity;
    l.expected_rows = launch->layout->is_known ? launch->layout->num_rows : 0;
    return launch->profile_file_name != NULL ? run_profiled(op, &l, launch->profile_file_name)
                                             : epf_cuda_op_phase(op->cuda, &l);
}

static epf_status activation_backward(epf_op *op, const epf_activation_rows *r)
{
    epf_rows_backward_args args;
    memset(&args, 0, sizeof args);
    args.capacity = r->capacity;
    args.dtype = op->config.dtype;
    args.weight_dtype = op->config.weight_dtype;
    args.intermediate = r->intermediate;
    args.grad_hidden = r->grad_hidden;
    args.projected = r->projected;
    args.weight = r->weight;
    args.grad_projected = r->grad_projected;
    args.grad_weight = r->grad_weight;
    return epf_cuda_op_rows_backward(op->cuda, r->layout->device, &args);
}

static void poll(const epf_op *op, epf_fault *fault)
{
    epf_cuda_op_poll(op->cuda, fault);
}

static epf_status barrier(epf_op *op)
{
    epf_fault fault;
    EPF_TRY(wait_all(op));
    fault = epf_op_fault(op);
    if (fault.status != EPF_OK) {
        return epf_op_say(&fault);
    }
    EPF_TRY(epf_op_note(op, epf_comm_barrier(op->comm)));
    free_retired(op); /* all ranks' calls have ended, and none begins another before all are done */
    return epf_op_note(op, epf_comm_barrier(op->comm));
}

static bool is_aborted(const epf_op *op)
{
    return epf_cuda_op_is_aborted(cuda_of(op));
}

static void raise_fault(epf_op *op, const epf_fault *fault)
{
    epf_cuda_op_raise(cuda_of(op), fault);
}

static epf_status zero(epf_op *op)
{
    return epf_cuda_op_zero(cuda_of(op));
}

static epf_status set_stream(epf_op *op, void *stream)
{
    return epf_cuda_op_set_stream(op->cuda, stream);
}

static void *get_stream(const epf_op *op)
{
    return epf_cuda_op_stream(op->cuda);
}

const epf_backend_ops epf_backend_cuda = {
    .on_device = true,
    .row_align = ROW_ALIGN,
    .layer_block_m = EPF_AUTO,
    .grad_block_n = EPF_CUDA_BLOCK_M,
    .grad_block_k = BLOCK_N,
    .grad_rows = BLOCK_K,
    .check_config = check_config,
    .create = create,
    .join = join,
    .destroy = destroy,
    .window_create = window_create,
    .window_detach = window_detach,
    .window_destroy = window_destroy,
    .set_grown = set_grown,
    .memory_reserve = memory_reserve,
    .memory_free = epf_cuda_free,
    .copy = copy,
    .check_knobs = check_knobs,
    .weight_check = weight_check,
    .weight_make = weight_make,
    .weight_free = weight_free,
    .layout_create = layout_create,
    .layout_destroy = layout_destroy,
    .layout_tile = layout_tile,
    .layout_wait = layout_wait,
    .layout_is_captured = layout_is_captured,
    .preprocess = preprocess,
    .phase_run = phase_run,
    .activation_backward = activation_backward,
    .barrier = barrier,
    .wait = wait_all,
    .poll = poll,
    .is_aborted = is_aborted,
    .raise = raise_fault,
    .zero = zero,
    .set_stream = set_stream,
    .stream = get_stream,
};
