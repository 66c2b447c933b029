/*
 * epf_task_dispatch.c: DISPATCH and EXPAND: tokens to the ranks that own their experts.
 *
 * A token crosses once per destination, with its carrier slot (epf_route_carrier); its other rows there
 * get a flag that names the carrier's row, released after that row's data, and are filled by EXPAND on
 * the receiving side.
 */
#include <string.h>

#include "core/epf_route.h"
#include "cpu/epf_worker.h"

static void send_weight(const epf_call *call, int32_t destination, int64_t slot, int64_t row)
{
    const int64_t bytes = call->shape.weight_bytes;
    const int64_t token = slot / call->shape.topk;
    const int64_t k = slot % call->shape.topk;
    const uint8_t *const from =
        (const uint8_t *)call->weight.data + (token * call->weight.stride + k) * bytes;
    memcpy(call->set[destination] + call->set_map.recv_weight + row * bytes, from, (size_t)bytes);
}

/* Sends what `slot` carries: the row, and the weight and flag of every slot it stands for. */
static void send_token(const epf_call *call, int64_t slot, int32_t destination)
{
    const epf_shape *const s = &call->shape;
    const int64_t token = slot / s->topk;
    const int64_t row = call->dst_row[slot];
    const uint8_t *const from =
        (const uint8_t *)call->input.data + token * call->input.stride * s->token_bytes;
    memcpy(epf_call_set_row(call, destination, call->set_map.recv_tokens, row), from,
           (size_t)epf_shape_row_bytes(s));
    for (int64_t other = token * s->topk; other < (token + 1) * s->topk; other++) {
        const int32_t expert = call->topk_idx[other];
        if (epf_route_is_dropped(expert, s->num_experts) || expert / s->num_local != destination) {
            continue;
        }
        if (call->weight.data != NULL) {
            send_weight(call, destination, other, call->dst_row[other]);
        }
        epf_store_release_sys_u64(
            epf_call_set_word(call, destination, call->set_map.recv_flag, call->dst_row[other]),
            epf_word(call->phase.epoch, (uint32_t)row));
    }
}

epf_status epf_task_dispatch(epf_worker *worker, int64_t index)
{
    const epf_call *const call = worker->exec->call;
    const epf_shape *const s = &call->shape;
    const int64_t begin = index * call->phase.slots_per_task;
    const int64_t end = epf_min64(begin + call->phase.slots_per_task, call->phase.num_slots);
    epf_prof_record *rec =
        epf_prof_begin(worker->lane, EPF_PROF_DISPATCH_TOKEN_MAIN, (int32_t)index);
    epf_prof_detail(rec, EPF_PROF_NONE, (int32_t)(end - begin));
    for (int64_t i = begin; i < end; i++) {
        const int64_t slot = call->sort_slots[i];
        const int64_t token = slot / s->topk;
        const int32_t k = (int32_t)(slot % s->topk);
        const int32_t *const experts = call->topk_idx + token * s->topk;
        const int32_t destination = experts[k] / s->num_local;
        epf_need need;
        epf_status st;
        if (epf_route_carrier(experts, s->topk, s->num_experts, s->num_local, k) != k) {
            continue;
        }
        need = epf_phase_need_entered(&call->phase, destination);
        st = epf_worker_wait(worker, &need, destination);
        if (st != EPF_OK) {
            return st;
        }
        send_token(call, slot, destination);
        if (rec != NULL) {
            epf_prof_send(
                worker->lane, rec,
                epf_flow_of_row(call->phase.epoch, call->rank, destination, call->dst_row[slot]));
        }
    }
    epf_prof_end(rec);
    return EPF_OK;
}

/* Fills the rows of the tile whose data came with another row. */
static void expand_rows(const epf_call *call, const epf_tile *tile)
{
    const size_t bytes = (size_t)epf_shape_row_bytes(&call->shape);
    for (int64_t row = tile->row_begin; row < (int64_t)tile->row_begin + tile->num_rows; row++) {
        const int64_t carrier = epf_word_low(epf_load_relaxed_sys_u64(
            epf_call_set_word(call, call->rank, call->set_map.recv_flag, row)));
        if (carrier != row) {
            memcpy(epf_call_set_row(call, call->rank, call->set_map.recv_tokens, row),
                   epf_call_set_row(call, call->rank, call->set_map.recv_tokens, carrier), bytes);
        }
    }
}

/* The copies that the caller asked for. */
static void copy_out(const epf_call *call, const epf_tile *tile)
{
    const size_t row_bytes = (size_t)epf_shape_row_bytes(&call->shape);
    const int64_t weight_bytes = call->shape.weight_bytes;
    if (call->dispatch_output.data != NULL) {
        uint8_t *const to = call->dispatch_output.data;
        const int64_t stride = call->dispatch_output.stride * call->shape.token_bytes;
        for (int64_t row = tile->row_begin; row < (int64_t)tile->row_begin + tile->num_rows;
             row++) {
            memcpy(to + row * stride,
                   epf_call_set_row(call, call->rank, call->set_map.recv_tokens, row), row_bytes);
        }
    }
    if (call->weight_recv != NULL) {
        memcpy((uint8_t *)call->weight_recv + tile->row_begin * weight_bytes,
               call->set[call->rank] + call->set_map.recv_weight + tile->row_begin * weight_bytes,
               (size_t)(tile->num_rows * weight_bytes));
    }
}

epf_status epf_task_expand(epf_worker *worker, int64_t index)
{
    epf_exec *const exec = worker->exec;
    const epf_call *const call = exec->call;
    const epf_tile tile = epf_tile_of_m(&call->phase.tiles, (int32_t)index);
    const epf_need whole = epf_phase_need(&call->phase, EPF_TASK_EXPAND, index);
    epf_prof_record *rec =
        epf_prof_begin(worker->lane, EPF_PROF_DISPATCH_EXPAND_WAIT, (int32_t)index);
    epf_prof_detail(rec, tile.expert, tile.num_rows);
    for (int64_t row = whole.begin; row < whole.end; row++) {
        const epf_need need = {whole.object, row, row + 1, whole.at_least};
        const epf_status st = epf_worker_wait(worker, &need, call->row_source[2 * row + 1]);
        if (st != EPF_OK) {
            return st;
        }
    }
    if (rec != NULL) {
        const int64_t last = whole.end - 1;
        const int64_t carrier = epf_word_low(epf_load_relaxed_sys_u64(
            epf_call_set_word(call, call->rank, call->set_map.recv_flag, last)));
        epf_prof_recv(worker->lane, rec,
                      epf_flow_of_row(call->phase.epoch, call->row_source[2 * last + 1], call->rank,
                                      carrier));
    }
    rec = epf_prof_next(worker->lane, rec, EPF_PROF_DISPATCH_EXPAND_MAIN, (int32_t)index);
    epf_prof_detail(rec, tile.expert, tile.num_rows);
    expand_rows(call, &tile);
    copy_out(call, &tile);
    rec = epf_prof_next(worker->lane, rec, EPF_PROF_DISPATCH_TOKEN_TAIL_NOTIFY, (int32_t)index);
    (void)epf_word_add(&exec->tile_ready[index], call->phase.epoch, 1);
    (void)epf_word_add(&exec->expert_ready[tile.expert], call->phase.epoch, 1);
    for (int32_t n = 0; rec != NULL && n < call->phase.tiles.num_n_tiles; n++) {
        epf_prof_send(worker->lane, rec,
                      epf_flow_of_tile(call, EPF_PROF_FLOW_EXPAND, tile.m_tile, n));
    }
    epf_prof_end(rec);
    return EPF_OK;
}
