/* epf_op_memory.c: the operator's symmetric memory: taking, growing, showing and giving it back. */
#include <stdio.h>
#include <string.h>

#include "api/epf_backend.h"
#include "base/epf_alloc.h"

enum { REGROW_ROWS = 1024 };

static void release_windows(epf_op *op)
{
    for (int32_t i = 0; i < EPF_MAX_BUFFER_SETS; i++) {
        op->backend->window_destroy(op, &op->sets[i].window);
    }
    op->backend->window_destroy(op, &op->control);
}

static void detach_windows(epf_op *op)
{
    for (int32_t i = 0; i < EPF_MAX_BUFFER_SETS; i++) {
        op->backend->window_detach(op, &op->sets[i].window);
    }
    op->backend->window_detach(op, &op->control);
}

epf_status epf_op_sync(epf_op *op)
{
    epf_status st;
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    if (op->is_finalized) {
        return EPF_FAIL(EPF_E_STATE, "epf_op_sync: the operator was finalized");
    }
    if (op->control.base != NULL) {
        return EPF_OK;
    }
    EPF_TRY(op->backend->window_create(op, op->control_map.total_bytes, &op->control));
    for (int32_t i = 0; i < op->config.duplicate_comm_buffer; i++) {
        EPF_TRY_GOTO(
            op->backend->window_create(op, op->sets[i].map.total_bytes, &op->sets[i].window),
            err_windows);
    }
    return EPF_OK;

err_windows: /* the same on all ranks */
    release_windows(op);
    return st;
}

epf_status epf_op_materialize(epf_op *op)
{
    return epf_op_sync(op);
}

epf_status epf_op_finalize(epf_op *op)
{
    epf_status st = EPF_OK;
    bool have_met = false;
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    if (op->is_finalized) {
        return EPF_OK;
    }
    if (op->control.base != NULL) {
        st = op->backend->wait(op);
        if (st == EPF_OK && epf_op_fault(op).status == EPF_OK && !op->backend->is_aborted(op)) {
            detach_windows(op);
            st = epf_comm_barrier(op->comm); /* peers may still read what we pushed or they pull */
            have_met = st == EPF_OK;
        }
    }
    release_windows(op);
    op->is_finalized = true;
    if (have_met && op->backend->on_device) { /* as in epf_op_replace_set() */
        st = epf_comm_barrier(op->comm);
    }
    return st;
}

void epf_op_destroy(epf_op *op)
{
    if (op == NULL) {
        return;
    }
    if (op->backend != NULL) {
        (void)op->backend->wait(op);
        epf_layer_forget(op);
        epf_layout_forget(op);
        release_windows(op);
        for (int32_t i = 0; i < EPF_MAX_BUFFER_SETS; i++) {
            op->backend->memory_free(op->sets[i].gemm_output.data);
            op->backend->memory_free(op->sets[i].combine_output.data);
            op->backend->memory_free(op->sets[i].output_gate.data);
        }
        op->backend->memory_free(op->staged.data);
        op->backend->destroy(op);
    }
    epf_free(op);
}

epf_status epf_memory_reserve(epf_memory *memory, int64_t bytes, const char *name)
{
    if (bytes <= memory->bytes) {
        return EPF_OK;
    }
    epf_free(memory->data);
    memory->bytes = 0;
    memory->data = epf_alloc_aligned((size_t)bytes, 1, 64);
    if (memory->data == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: %lld bytes", name, (long long)bytes);
    }
    memory->bytes = bytes;
    return EPF_OK;
}

int64_t epf_op_max_rows(const epf_op *op, const epf_layout *layout, const epf_buffer_set *set)
{
    const int64_t rows = epf_layout_rows(layout, set);
    return op->backend->on_device ? epf_max64(rows, set->map.rows) : rows;
}

epf_status epf_op_memory_reserve(epf_op *op, epf_memory *memory, int64_t bytes, const char *name)
{
    return op->backend->memory_reserve(op, memory, epf_max64(bytes, 1), name);
}

/* What the caller has put into its own buffers of the set for this layout. */
static epf_status move_own_buffers(epf_op *op, const epf_buffer_set *from,
                                   const epf_set_map *to_map, uint8_t *to, const epf_layout *layout)
{
    const uint8_t *const own = from->window.base[op->comm->rank];
    const int64_t gates = epf_min64(layout->num_rows, from->map.rows);
    EPF_TRY(op->backend->copy(op, to + to_map->send_tokens, own + from->map.send_tokens,
                              layout->num_tokens * epf_shape_row_bytes(&op->shape)));
    return op->backend->copy(op, to + to_map->gate, own + from->map.gate,
                             gates * op->shape.weight_bytes);
}

epf_status epf_op_replace_set(epf_op *op, epf_buffer_set *set, int64_t rows,
                              const epf_layout *layout)
{
    epf_set_map map;
    epf_op_window window = {NULL, NULL, NULL};
    epf_status st = EPF_OK;
    epf_set_map_make(&op->shape, rows, &map);
    if (op->backend->on_device) {
        EPF_TRY(op->backend->wait(op));
        EPF_TRY(epf_op_note(op, epf_comm_agree(op->comm, op->backend->set_grown(op, rows))));
    }
    EPF_TRY(epf_op_note(op, op->backend->window_create(op, map.total_bytes, &window)));
    if (layout != NULL) {
        st = move_own_buffers(op, set, &map, window.base[op->comm->rank], layout);
    }
    if (op->backend->on_device) {
        op->backend->window_detach(op, &set->window);
        (void)epf_op_note(op, epf_comm_barrier(op->comm));
    }
    op->backend->window_destroy(op, &set->window); /* peers that still read it keep it mapped */
    if (op->backend
            ->on_device) { /* freeing waits for what runs there: no peer may be in its call yet */
        (void)epf_op_note(op, epf_comm_barrier(op->comm));
    }
    set->window = window;
    set->map = map;
    return st;
}

epf_status epf_op_learn_rows(const epf_op *op, const epf_buffer_set *set, const epf_layout *layout)
{
    const bool always_fits = set->map.rows >= epf_shape_max_rows(&op->shape);
    if (layout->is_known || always_fits || !op->config.allow_regrow ||
        op->backend->layout_is_captured(layout)) {
        return EPF_OK; /* the device compares */
    }
    return epf_layout_learn(layout);
}

epf_status epf_op_reserve_rows(epf_op *op, epf_buffer_set *set, const epf_layout *layout)
{
    if (!layout->is_known || layout->max_rows <= set->map.rows) {
        return EPF_OK; /* where only the device knows, it compares */
    }
    if (!op->config.allow_regrow) {
        return EPF_FAIL(EPF_E_CAPACITY,
                        "capacity: a rank receives %d rows, the buffers hold %lld and may not grow",
                        layout->max_rows, (long long)set->map.rows);
    }
    return epf_op_replace_set(op, set, epf_round_up(layout->max_rows, REGROW_ROWS), layout);
}

epf_status epf_op_symmetric_bytes(const epf_op *op, uint64_t *bytes)
{
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    EPF_CHECK_ARG(bytes != NULL, "bytes: NULL");
    *bytes = (uint64_t)op->control_map.total_bytes;
    for (int32_t i = 0; i < op->config.duplicate_comm_buffer; i++) {
        *bytes += (uint64_t)op->sets[i].map.total_bytes;
    }
    return EPF_OK;
}

epf_status epf_op_symmetric_mb(const epf_op *op, double *mb)
{
    uint64_t bytes;
    EPF_CHECK_ARG(mb != NULL, "mb: NULL");
    EPF_TRY(epf_op_symmetric_bytes(op, &bytes));
    *mb = (double)bytes / (double)(1 << 20);
    return EPF_OK;
}

epf_status epf_op_symmetric_gb(const epf_op *op, double *gb)
{
    double mb;
    EPF_CHECK_ARG(gb != NULL, "gb: NULL");
    EPF_TRY(epf_op_symmetric_mb(op, &mb));
    *gb = mb / 1024.0;
    return EPF_OK;
}

/* The list being written; entries past max are only counted. */
typedef struct breakdown {
    epf_buffer_info *infos;
    int32_t max;
    int32_t count;
    uint64_t end; /* of the buffer before */
} breakdown;

/* What alignment left empty behind the buffer before. */
static void end_padding(breakdown *b, int64_t next_offset)
{
    if (b->count > 0 && b->count <= b->max) {
        b->infos[b->count - 1].padding = (uint64_t)next_offset - b->end;
    }
}

static void add_info(breakdown *b, const char *name, int32_t buffer_set, int64_t offset,
                     int64_t bytes)
{
    if (offset > 0) {
        end_padding(b, offset);
    }
    if (b->count < b->max) {
        const epf_buffer_info info = {name, buffer_set, (uint64_t)offset, (uint64_t)bytes, 0};
        b->infos[b->count] = info;
    }
    b->end = (uint64_t)(offset + bytes);
    b->count++;
}

epf_status epf_op_symmetric_breakdown(const epf_op *op, epf_buffer_info *infos, int32_t max,
                                      int32_t *count)
{
    breakdown b = {infos, max, 0, 0};
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    EPF_CHECK_ARG(count != NULL, "count: NULL");
    EPF_CHECK_ARG(max >= 0, "max: %d, must be at least 0", max);
    EPF_CHECK_ARG(infos != NULL || max == 0, "infos: NULL");
#define X(name, bytes, alignment) add_info(&b, #name, -1, op->control_map.name, (bytes));
    EPF_CONTROL_MAP(X, &op->shape)
#undef X
    end_padding(&b, op->control_map.total_bytes);
    for (int32_t i = 0; i < op->config.duplicate_comm_buffer; i++) {
        const epf_set_map *const map = &op->sets[i].map;
#define X(name, bytes, alignment) add_info(&b, #name, i, map->name, (bytes));
        EPF_SET_MAP(X, &op->shape, map->rows)
#undef X
        end_padding(&b, map->total_bytes);
    }
    *count = b.count;
    return EPF_OK;
}

epf_status epf_op_send_buffer(epf_op *op, int32_t comm_buffer_id, epf_tensor *buffer)
{
    int64_t shape[2];
    EPF_TRY(epf_op_check_ready(op, "epf_op_send_buffer"));
    EPF_TRY(epf_op_check_set(op, comm_buffer_id));
    EPF_CHECK_ARG(buffer != NULL, "buffer: NULL");
    shape[0] = op->shape.max_tokens;
    shape[1] = op->shape.hidden;
    *buffer = epf_tensor_of(op->sets[comm_buffer_id].window.base[op->comm->rank] +
                                op->sets[comm_buffer_id].map.send_tokens,
                            op->config.dtype, 2, shape);
    return EPF_OK;
}

epf_status epf_op_gate_buffer(epf_op *op, int32_t comm_buffer_id, epf_tensor *buffer)
{
    int64_t shape[1];
    EPF_TRY(epf_op_check_ready(op, "epf_op_gate_buffer"));
    EPF_TRY(epf_op_check_set(op, comm_buffer_id));
    EPF_CHECK_ARG(buffer != NULL, "buffer: NULL");
    shape[0] = op->sets[comm_buffer_id].map.rows;
    *buffer = epf_tensor_of(op->sets[comm_buffer_id].window.base[op->comm->rank] +
                                op->sets[comm_buffer_id].map.gate,
                            op->config.weight_dtype, 1, shape);
    return EPF_OK;
}
