/*
 * epf_task_gemm.c: GEMM: one output tile, and where its rows go.
 *
 *   dispatch   gemm_output and, with SwiGLU, activation_output: the caller's memory
 *   alone      gemm_output
 *   serial     combine_rows[row] of our own window, for the owners to pull
 *   scatter    combine_rows[slot] of the owner's window (direct), or staged[row] for SCATTER tasks
 */
#include <string.h>

#include "base/epf_error.h"
#include "cpu/epf_worker.h"
#include "cpu/gemm/epf_convert.h"

float epf_weight_value(const epf_call *call, const void *data, int64_t index)
{
    float value;
    epf_convert_to_f32(&value, (const uint8_t *)data + index * call->shape.weight_bytes,
                       (epf_dtype)call->weight_dtype, 1);
    return value;
}

/* Rows of a tile and a segment (0 or 1) of its panel: one product. */
typedef struct product {
    int32_t row;
    int32_t num_rows;
    int32_t segment;
} product;

/* Into the worker's tile buffer of the segment's number. */
static epf_status multiply(epf_worker *worker, const epf_tile *tile, const product *part,
                           int32_t columns)
{
    const epf_call *const call = worker->exec->call;
    const bool is_dispatch = call->phase.kind == EPF_PHASE_DISPATCH;
    epf_gemm_tile_args args;
    memset(&args, 0, sizeof args);
    args.expert = tile->expert;
    args.segment = part->segment;
    args.n_tile = tile->n_tile;
    args.m = part->num_rows;
    args.lda = is_dispatch ? call->shape.hidden : call->gemm_input.stride;
    args.a = is_dispatch ? epf_call_set_row(call, call->rank, call->set_map.recv_tokens,
                                            tile->row_begin + part->row)
                         : (const uint8_t *)call->gemm_input.data +
                               (tile->row_begin + part->row) * args.lda * call->shape.token_bytes;
    args.c = worker->tile[part->segment] + (int64_t)part->row * columns;
    args.ldc = columns;
    return epf_gemm_tile(call->gemm_weight, &args, worker->scratch);
}

/*
 * All of a tile.  Gate and up go strip by strip, so that the second product finds the strip's rows in the cache: with a
 * long K a tile's rows do not stay there.  Not where the provider takes all rows at once.
 */
static epf_status multiply_tile(epf_worker *worker, const epf_tile *tile,
                                const epf_gemm_weight_info *info, int32_t columns)
{
    const int32_t strip =
        info->num_segments > 1 && info->strip_rows > 0 ? info->strip_rows : tile->num_rows;
    product part;
    for (part.row = 0; part.row < tile->num_rows; part.row += strip) {
        part.num_rows = (int32_t)epf_min64(strip, tile->num_rows - part.row);
        for (part.segment = 0; part.segment < info->num_segments; part.segment++) {
            EPF_TRY(multiply(worker, tile, &part, columns));
        }
    }
    return EPF_OK;
}

static void store_rows(const epf_call *call, const epf_rows *to, const epf_tile *tile,
                       const float *sums, int64_t column, int32_t columns)
{
    for (int64_t i = 0; i < tile->num_rows; i++) {
        const int64_t at = (tile->row_begin + i) * to->stride + column;
        epf_convert_from_f32((uint8_t *)to->data + at * call->shape.token_bytes, sums + i * columns,
                             (epf_dtype)call->dtype, columns);
    }
}

/* Where a finished row of y goes, from its first column on. */
static uint8_t *row_destination(const epf_call *call, int64_t row)
{
    if (call->phase.kind == EPF_PHASE_COMBINE_SERIAL) {
        return epf_call_set_row(call, call->rank, call->set_map.combine_rows, row);
    }
    if (!call->phase.direct) {
        return (uint8_t *)call->staged.data + row * call->staged.stride * call->shape.token_bytes;
    }
    return epf_call_set_row(call, call->row_source[2 * row + 1], call->set_map.combine_rows,
                            call->row_source[2 * row]);
}

static void store_combine(const epf_call *call, const epf_tile *tile, const float *sums,
                          int64_t column, int32_t columns)
{
    for (int64_t i = 0; i < tile->num_rows; i++) {
        epf_convert_from_f32(row_destination(call, tile->row_begin + i) +
                                 column * call->shape.token_bytes,
                             sums + i * columns, (epf_dtype)call->dtype, columns);
    }
}

static void store_dispatch(epf_worker *worker, const epf_tile *tile, int64_t column,
                           int32_t columns)
{
    const epf_call *const call = worker->exec->call;
    const uint8_t *const weights = call->set[call->rank] + call->set_map.recv_weight;
    if (call->gemm_output.data != NULL) {
        store_rows(call, &call->gemm_output, tile, worker->tile[0], column, columns);
    }
    if (call->activation_output.data == NULL) {
        return;
    }
    if (call->gemm_output.data != NULL) {
        store_rows(call, &call->gemm_output, tile, worker->tile[1], call->gemm_n / 2 + column,
                   columns);
    }
    for (int64_t i = 0; i < tile->num_rows; i++) {
        epf_swiglu(worker->tile[0] + i * columns, worker->tile[1] + i * columns,
                   epf_weight_value(call, weights, tile->row_begin + i), columns);
    }
    store_rows(call, &call->activation_output, tile, worker->tile[0], column, columns);
}

/* What a finished tile of a combine sets going. */
static void signal_tile(epf_worker *worker, const epf_tile *tile, epf_prof_record *rec)
{
    epf_exec *const exec = worker->exec;
    const epf_call *const call = exec->call;
    const epf_phase *const phase = &call->phase;
    if (call->signal != NULL) {
        (void)epf_add_release_sys_u32((uint32_t *)(void *)&call->signal[tile->m_tile], 1);
    }
    if (phase->kind == EPF_PHASE_COMBINE_SERIAL) {
        if (tile->n_tile == 0) {
            epf_show_gates(call, tile);
        }
        if ((int64_t)epf_word_add(&exec->gemm_done, phase->epoch, 1) + 1 ==
            epf_phase_num_tasks(phase, EPF_TASK_GEMM)) {
            epf_signal_barrier(call);
        }
        return;
    }
    if (epf_word_add(&exec->tile_done[tile->m_tile], phase->epoch, 1) + 1 !=
            epf_phase_tile_done_count(phase) ||
        !phase->direct) {
        return;
    }
    for (int64_t row = tile->row_begin; row < (int64_t)tile->row_begin + tile->num_rows; row++) {
        epf_signal_row(call, row);
        if (rec != NULL) {
            epf_prof_send(worker->lane, rec, epf_flow_of_slot(call->phase.epoch, call->rank, row));
        }
    }
}

/* What comes after the product: stores, what they set going, and how that is recorded. */
static void finish_tile(epf_worker *worker, const epf_tile *tile, epf_prof_record *rec,
                        int64_t index)
{
    const epf_call *const call = worker->exec->call;
    const int64_t column =
        (int64_t)tile->n_tile * epf_gemm_weight_get_info(call->gemm_weight).block_n;
    const int32_t columns = epf_gemm_weight_panel_n(call->gemm_weight, tile->n_tile);
    if (call->phase.kind == EPF_PHASE_GEMM) {
        store_rows(call, &call->gemm_output, tile, worker->tile[0], column, columns);
    } else if (call->phase.kind == EPF_PHASE_DISPATCH) {
        if (call->activation_output.data != NULL) {
            rec = epf_prof_next(worker->lane, rec, EPF_PROF_ACTIVATION, (int32_t)index);
        }
        store_dispatch(worker, tile, column, columns);
    } else {
        rec = epf_prof_next(worker->lane, rec, EPF_PROF_COMBINE_SCATTER_TOKEN, (int32_t)index);
        store_combine(call, tile, worker->tile[0], column, columns);
        rec = epf_prof_next(worker->lane, rec, EPF_PROF_GROUP_GEMM_TAIL_NOTIFY, (int32_t)index);
        signal_tile(worker, tile, rec);
        if (rec != NULL) {
            epf_prof_send(worker->lane, rec,
                          epf_flow_of_tile(call, EPF_PROF_FLOW_GEMM, tile->m_tile, tile->n_tile));
        }
    }
    epf_prof_end(rec);
}

epf_status epf_task_gemm(epf_worker *worker, int64_t index)
{
    const epf_call *const call = worker->exec->call;
    const bool is_dispatch = call->phase.kind == EPF_PHASE_DISPATCH;
    const epf_tile tile = epf_tile_at(&call->phase.tiles, index);
    const epf_need need = epf_phase_need(&call->phase, EPF_TASK_GEMM, index);
    const epf_gemm_weight_info info = epf_gemm_weight_get_info(call->gemm_weight);
    const int32_t columns = epf_gemm_weight_panel_n(call->gemm_weight, tile.n_tile);
    epf_prof_record *rec = epf_prof_begin(worker->lane, EPF_PROF_GROUP_GEMM_WAIT, (int32_t)index);
    epf_status st;
    epf_prof_detail(rec, tile.expert, tile.num_rows);
    st = epf_worker_wait(worker, &need, is_dispatch ? call->rank : EPF_WAIT_ANY_RANK);
    if (st != EPF_OK) {
        return st;
    }
    if (rec != NULL && is_dispatch) {
        epf_prof_recv(worker->lane, rec,
                      epf_flow_of_tile(call, EPF_PROF_FLOW_EXPAND, tile.m_tile, tile.n_tile));
    }
    rec = epf_prof_next(worker->lane, rec, EPF_PROF_GROUP_GEMM_MAIN, (int32_t)index);
    epf_prof_detail(rec, tile.expert, tile.num_rows);
    EPF_TRY(epf_worker_reserve(worker, (int64_t)call->phase.tiles.block_m * info.block_n));
    EPF_TRY(multiply_tile(worker, &tile, &info, columns));
    finish_tile(worker, &tile, rec, index);
    return EPF_OK;
}
