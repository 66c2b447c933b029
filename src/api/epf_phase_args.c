/* epf_phase_args.c: what dispatch and combine have in common. */
#include "api/epf_phase_args.h"

#include <string.h>

#include "core/epf_dtype.h"
#include "prof/epf_prof.h"

enum { MAX_BLOCK_M = 1024, MAX_GROUP = 65536, MAX_WARPS = 32 };

epf_status epf_phase_check_knobs(const epf_gemm_knobs *k)
{
    if (!k->input_reduce_last_dim) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "gemm_input_reduce_last_dim: false, but rows of tokens are contiguous");
    }
    EPF_CHECK_ARG(k->block_size_m >= EPF_AUTO && k->block_size_m <= MAX_BLOCK_M,
                  "gemm_block_size_m: %d, must be 0 (AUTO) or 1..%d", k->block_size_m,
                  (int)MAX_BLOCK_M);
    EPF_CHECK_ARG(k->group_size_m >= 1 && k->group_size_m <= MAX_GROUP,
                  "gemm_group_size_m: %d, must be 1..%d", k->group_size_m, (int)MAX_GROUP);
    EPF_CHECK_ARG(k->num_stages >= 0, "gemm_num_stages: %d, must be 0 (AUTO) or more",
                  k->num_stages);
    if (k->num_stages > 1) {
        return EPF_FAIL(
            EPF_E_UNSUPPORTED,
            "gemm_num_stages: %d, but the CPU backend has no ring of stages: 0 (AUTO) or 1",
            k->num_stages);
    }
    EPF_CHECK_ARG(k->num_warps >= 1 && k->num_warps <= MAX_WARPS, "num_warps: %d, must be 1..%d",
                  k->num_warps, (int)MAX_WARPS);
    return k->profile_file_name != NULL ? epf_prof_check_name(k->profile_file_name) : EPF_OK;
}

epf_status epf_phase_check_table(const epf_tensor *tensor, const char *name, const int32_t *values,
                                 int64_t count, bool at_least)
{
    const epf_tensor_want want = {name, 1, {count}, EPF_DTYPE_I32, 0, true, at_least};
    const int32_t *const given = tensor->data;
    EPF_TRY(epf_tensor_check(tensor, &want));
    for (int64_t i = 0; epf_tensor_given(tensor) && i < count; i++) {
        EPF_CHECK_ARG(given[i] == values[i], "%s[%lld]: %d, but the layout says %d", name,
                      (long long)i, given[i], values[i]);
    }
    return EPF_OK;
}

epf_status epf_phase_check_tables(const epf_tile_tables *t, const epf_layout *l)
{
    const int64_t tiles = l->num_tiles;
    const int64_t num_local = l->op->shape.num_local;
    const int32_t *const rows = l->tokens + l->op->comm->rank * num_local;
    EPF_TRY(epf_phase_check_table(&t->expert_ids, "gemm_expert_ids",
                                  l->tables[EPF_TABLE_EXPERT_IDS], tiles, true));
    EPF_TRY(epf_phase_check_table(&t->split_size, "gemm_split_size", rows, num_local, false));
    EPF_TRY(epf_phase_check_table(&t->split_size_cum, "gemm_split_size_cum",
                                  l->tables[EPF_TABLE_SPLIT_SIZE_CUM], tiles, true));
    EPF_TRY(epf_phase_check_table(&t->tile_num, "gemm_tile_num", l->tables[EPF_TABLE_TILE_NUM],
                                  tiles, true));
    EPF_TRY(epf_phase_check_table(&t->tile_num_cum, "gemm_tile_num_cum",
                                  l->tables[EPF_TABLE_TILE_NUM_CUM], tiles, true));
    EPF_TRY(epf_phase_check_table(&t->num_tiles_total, "gemm_num_tiles_total", &l->num_tiles, 1,
                                  false));
    return epf_phase_check_table(&t->expert_offs, "gemm_expert_offs", l->tile_offset, num_local,
                                 false);
}

void epf_phase_fill(const epf_layout *l, const epf_weight *weight, const epf_gemm_knobs *knobs,
                    epf_call *call)
{
    epf_tile_map *const tiles = &call->phase.tiles;
    tiles->num_experts = l->op->shape.num_local;
    tiles->block_m = l->block_m;
    tiles->num_n_tiles = 1;
    /* more than there are tiles is all of them, and keeps products of the tile order in 32 bits */
    tiles->group_m = (int32_t)epf_max64(1, epf_min64(knobs->group_size_m, l->num_tiles));
    tiles->rows = l->tokens + (int64_t)l->op->comm->rank * l->op->shape.num_local;
    tiles->row_offset = l->row_offset;
    tiles->tile_offset = l->tile_offset;
    call->layout_epoch = l->epoch;
    call->topk_idx = l->topk_idx;
    call->dst_row = l->dst_row;
    call->sort_slots = l->sort_slots;
    call->row_source = l->row_source;
    call->num_tokens = l->num_tokens;
    call->phase.slots_per_task = knobs->num_warps;
    call->phase.tokens_per_task = knobs->num_warps;
    call->phase.num_slots = l->num_slots;
    call->phase.num_tokens = l->num_tokens;
    if (weight != NULL) {
        tiles->num_n_tiles = epf_gemm_weight_get_info(weight->gemm).num_n_tiles;
        call->gemm_weight = weight->gemm;
        call->gemm_n = weight->n;
        call->gemm_k = weight->k;
    }
}

epf_status epf_phase_check_tasks(const epf_layout *l, const epf_weight *weight)
{
    const int64_t num_n = epf_gemm_weight_get_info(weight->gemm).num_n_tiles;
    EPF_CHECK_ARG(l->num_tiles * num_n <= INT32_MAX,
                  "gemm_block_size_m, gemm_block_size_n: %d x %lld tiles, must be at most 2^31 - 1",
                  l->num_tiles, (long long)num_n);
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

epf_status epf_phase_run(epf_op *op, const epf_call *call, const epf_gemm_knobs *knobs)
{
    epf_prof *prof = NULL;
    epf_fault fault;
    epf_status st = EPF_OK;
    epf_status prof_status = EPF_OK;
    if (knobs->profile_file_name != NULL) {
        const epf_prof_config config = {op->comm->rank, call->phase.num_workers, max_records(call)};
        prof_status = epf_prof_create(&config, &prof); /* peers wait: run unrecorded if it fails */
    }
    memset(&fault, 0, sizeof fault);
    epf_op_signal_entered(call);
    if (epf_exec_run(op->exec, call, prof, &fault) != EPF_OK) {
        st = epf_op_fail(op, &fault);
    } else if (prof_status != EPF_OK) {
        st = prof_status;
    } else if (prof != NULL) {
        st = epf_prof_write(prof, NULL, knobs->profile_file_name);
    }
    epf_prof_destroy(prof);
    return st;
}

epf_rows epf_rows_of(const epf_tensor *tensor)
{
    const epf_rows rows = {epf_tensor_given(tensor) ? tensor->data : NULL,
                           tensor->shape[0] > 1 ? tensor->stride[0] : tensor->shape[1]};
    return rows;
}

epf_status epf_output_of(const epf_tensor *given, const epf_tensor_want *want, int64_t rows,
                         epf_memory *memory, epf_tensor *output)
{
    int64_t shape[EPF_MAX_DIMS];
    int64_t bytes = epf_dtype_bytes(want->dtype);
    memcpy(shape, want->shape, sizeof shape);
    shape[0] = rows;
    EPF_TRY(epf_tensor_check(given, want));
    if (epf_tensor_given(given)) {
        *output = *given;
        output->shape[0] = rows;
        return EPF_OK;
    }
    for (int32_t d = 0; d < want->ndim; d++) {
        bytes *= shape[d];
    }
    EPF_TRY(epf_memory_reserve(memory, epf_max64(bytes, 1), want->name));
    *output = epf_tensor_of(memory->data, want->dtype, want->ndim, shape);
    return EPF_OK;
}
