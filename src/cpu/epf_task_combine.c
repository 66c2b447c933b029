/*
 * epf_task_combine.c: SCATTER and REDUCE: rows back to the rank that sent them, and their sum per token.
 */
#include <string.h>

#include "base/epf_error.h"
#include "core/epf_route.h"
#include "cpu/epf_worker.h"
#include "cpu/gemm/epf_convert.h"

void epf_signal_barrier(const epf_call *call)
{
    for (int32_t r = 0; r < call->shape.num_ranks; r++) {
        epf_store_release_sys_u64(
            epf_call_control_word(call, r, call->control_map.barrier, call->rank),
            epf_word(call->phase.epoch, 0));
    }
}

/* This rank's gates, by row: the caller's, or those it put into the gate buffer. */
static const uint8_t *gates(const epf_call *call)
{
    return call->gate_input != NULL ? call->gate_input : call->set[call->rank] + call->set_map.gate;
}

void epf_show_gates(const epf_call *call, const epf_tile *tile)
{
    const int64_t bytes = call->shape.weight_bytes;
    if (call->has_gate) {
        memcpy(call->set[call->rank] + call->set_map.combine_gate + tile->row_begin * bytes,
               gates(call) + tile->row_begin * bytes, (size_t)(tile->num_rows * bytes));
    }
}

void epf_signal_row(const epf_call *call, int64_t row)
{
    const int32_t owner = call->row_source[2 * row + 1];
    const int64_t slot = call->row_source[2 * row];
    const int64_t bytes = call->shape.weight_bytes;
    if (call->has_gate) {
        memcpy(call->set[owner] + call->set_map.combine_gate + slot * bytes,
               gates(call) + row * bytes, (size_t)bytes);
    }
    epf_store_release_sys_u64(epf_call_set_word(call, owner, call->set_map.combine_flag, slot),
                              epf_word(call->phase.epoch, 0));
}

epf_status epf_task_scatter(epf_worker *worker, int64_t index)
{
    const epf_call *const call = worker->exec->call;
    const epf_tile tile = epf_tile_of_m(&call->phase.tiles, (int32_t)index);
    const epf_need need = epf_phase_need(&call->phase, EPF_TASK_SCATTER, index);
    const size_t bytes = (size_t)epf_shape_row_bytes(&call->shape);
    const int64_t stride = call->staged.stride * call->shape.token_bytes;
    epf_prof_record *rec = epf_prof_begin(worker->lane, EPF_PROF_COMBINE_WAIT, (int32_t)index);
    const epf_status st = epf_worker_wait(worker, &need, call->rank);
    if (st != EPF_OK) {
        return st;
    }
    for (int32_t n = 0; rec != NULL && n < call->phase.tiles.num_n_tiles; n++) {
        epf_prof_recv(worker->lane, rec,
                      epf_flow_of_tile(call, EPF_PROF_FLOW_GEMM, tile.m_tile, n));
    }
    rec = epf_prof_next(worker->lane, rec, EPF_PROF_COMBINE_SCATTER_TOKEN, (int32_t)index);
    epf_prof_detail(rec, tile.expert, tile.num_rows);
    for (int64_t row = tile.row_begin; row < (int64_t)tile.row_begin + tile.num_rows; row++) {
        memcpy(epf_call_set_row(call, call->row_source[2 * row + 1], call->set_map.combine_rows,
                                call->row_source[2 * row]),
               (const uint8_t *)call->staged.data + row * stride, bytes);
        epf_signal_row(call, row);
        if (rec != NULL) {
            epf_prof_send(worker->lane, rec, epf_flow_of_slot(call->phase.epoch, call->rank, row));
        }
    }
    epf_prof_end(rec);
    return EPF_OK;
}

/* Where y of this slot is to be read: our own window, or the window of the expert's rank. */
static const uint8_t *y_of_slot(const epf_call *call, int64_t slot)
{
    const int32_t owner = call->topk_idx[slot] / call->shape.num_local;
    return call->phase.kind == EPF_PHASE_COMBINE_SERIAL
               ? epf_call_set_row(call, owner, call->set_map.combine_rows, call->dst_row[slot])
               : epf_call_set_row(call, call->rank, call->set_map.combine_rows, slot);
}

static const uint8_t *gate_of_slot(const epf_call *call, int64_t slot)
{
    const int64_t bytes = call->shape.weight_bytes;
    const int32_t owner = call->topk_idx[slot] / call->shape.num_local;
    return call->phase.kind == EPF_PHASE_COMBINE_SERIAL
               ? call->set[owner] + call->set_map.combine_gate + call->dst_row[slot] * bytes
               : call->set[call->rank] + call->set_map.combine_gate + slot * bytes;
}

/* output_gate of one token; 0 where the slot was dropped. */
static void store_gates(const epf_call *call, int64_t token)
{
    const epf_shape *const s = &call->shape;
    const int64_t bytes = s->weight_bytes;
    for (int64_t k = 0; k < s->topk; k++) {
        const int64_t slot = token * s->topk + k;
        uint8_t *const to =
            (uint8_t *)call->output_gate.data + (token * call->output_gate.stride + k) * bytes;
        if (epf_route_is_dropped(call->topk_idx[slot], s->num_experts)) {
            memset(to, 0, (size_t)bytes);
        } else {
            memcpy(to, gate_of_slot(call, slot), (size_t)bytes);
        }
    }
}

static float slot_factor(const epf_call *call, int64_t slot)
{
    const int64_t token = slot / call->shape.topk;
    const int64_t k = slot % call->shape.topk;
    return call->combine_weights.data == NULL
               ? 1.0f
               : ((const float *)
                      call->combine_weights.data)[token * call->combine_weights.stride + k];
}

/* The token's kept slots, k ascending. */
static void sum_token(const epf_call *call, int64_t token)
{
    const epf_shape *const s = &call->shape;
    const void *rows[EPF_MAX_TOPK];
    float factors[EPF_MAX_TOPK];
    int32_t count = 0;
    for (int64_t slot = token * s->topk; slot < (token + 1) * s->topk; slot++) {
        if (!epf_route_is_dropped(call->topk_idx[slot], s->num_experts)) {
            rows[count] = y_of_slot(call, slot);
            factors[count++] = slot_factor(call, slot);
        }
    }
    epf_sum_rows((uint8_t *)call->combine_output.data +
                     token * call->combine_output.stride * s->token_bytes,
                 rows, factors, count, (epf_dtype)call->dtype, s->hidden);
}

/* A rank is in this call, and in the same as we; then its rows are waited for. */
static epf_status wait_slot(epf_worker *worker, int64_t slot)
{
    const epf_call *const call = worker->exec->call;
    const int32_t owner = call->topk_idx[slot] / call->shape.num_local;
    const epf_need entered = epf_phase_need_entered(&call->phase, owner);
    const epf_need flag = epf_phase_need_slot(&call->phase, slot);
    const epf_status st = epf_worker_wait(worker, &entered, owner);
    return st == EPF_OK ? epf_worker_wait(worker, &flag, owner) : st;
}

/* What a run of slots needs before it is summed. */
static epf_status wait_slots(epf_worker *worker, const epf_need *whole, int64_t begin, int64_t end)
{
    const epf_call *const call = worker->exec->call;
    epf_need entered = epf_phase_need_entered(&call->phase, 0);
    epf_status st = EPF_OK;
    if (call->phase.kind == EPF_PHASE_COMBINE_SERIAL) {
        entered.end = call->phase.num_ranks;
        st = epf_worker_wait(worker, &entered, EPF_WAIT_ANY_RANK);
        return st == EPF_OK ? epf_worker_wait(worker, whole, EPF_WAIT_ANY_RANK) : st;
    }
    for (int64_t slot = begin; slot < end && st == EPF_OK; slot++) {
        if (!epf_route_is_dropped(call->topk_idx[slot], call->shape.num_experts)) {
            st = wait_slot(worker, slot);
        }
    }
    return st;
}

epf_status epf_task_reduce(epf_worker *worker, int64_t index)
{
    const epf_call *const call = worker->exec->call;
    const epf_shape *const s = &call->shape;
    const bool is_serial = call->phase.kind == EPF_PHASE_COMBINE_SERIAL;
    const int64_t begin = index * call->phase.tokens_per_task;
    const int64_t end = epf_min64(begin + call->phase.tokens_per_task, call->num_tokens);
    const epf_need need = epf_phase_need(&call->phase, EPF_TASK_REDUCE, index);
    epf_prof_record *rec = epf_prof_begin(
        worker->lane, is_serial ? EPF_PROF_BARRIER_ALL : EPF_PROF_COMBINE_WAIT, (int32_t)index);
    const epf_status st = wait_slots(worker, &need, begin * s->topk, end * s->topk);
    if (st != EPF_OK) {
        return st;
    }
    for (int64_t slot = end * s->topk - 1; rec != NULL && !is_serial && slot >= begin * s->topk;
         slot--) {
        if (!epf_route_is_dropped(call->topk_idx[slot],
                                  s->num_experts)) { /* the last it waited for */
            epf_prof_recv(worker->lane, rec,
                          epf_flow_of_slot(call->phase.epoch, call->topk_idx[slot] / s->num_local,
                                           call->dst_row[slot]));
            break;
        }
    }
    rec = epf_prof_next(worker->lane, rec, EPF_PROF_COMBINE_TOPK_REDUCE, (int32_t)index);
    epf_prof_detail(rec, EPF_PROF_NONE, (int32_t)(end - begin));
    for (int64_t token = begin; token < end; token++) {
        sum_token(call, token);
        if (call->has_gate) {
            store_gates(call, token);
        }
    }
    epf_prof_end(rec);
    return EPF_OK;
}
