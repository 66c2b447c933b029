/* epf_phase_args.c: what dispatch and combine have in common. */
#include "api/epf_phase_args.h"

#include <string.h>

#include "base/epf_alloc.h"
#include "core/epf_dtype.h"
#include "prof/epf_prof.h"

enum { MAX_BLOCK_M = 1024, MAX_GROUP = 65536, MAX_WARPS = 32 };

epf_status epf_phase_check_knobs(const epf_op *op, const epf_gemm_knobs *k)
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
    EPF_CHECK_ARG(k->num_warps >= 1 && k->num_warps <= MAX_WARPS, "num_warps: %d, must be 1..%d",
                  k->num_warps, (int)MAX_WARPS);
    if (k->profile_file_name != NULL) {
        EPF_TRY(epf_prof_check_name(k->profile_file_name));
    }
    return op->backend->check_knobs(op, k);
}

epf_status epf_phase_check_fixed(const epf_op *op, const char *name, int32_t value, int32_t fixed)
{
    if (op->backend->on_device && value != EPF_AUTO && value != fixed) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "%s: %d, but the device's kernels have it fixed: 0 (AUTO) or %d", name,
                        value, fixed);
    }
    return EPF_OK;
}

epf_status epf_phase_check_align(const epf_op *op, const epf_tensor *t, const char *name)
{
    const int64_t align = op->backend->row_align;
    bool fits = (uintptr_t)t->data % (uintptr_t)align == 0;
    if (t->ndim < 1 || t->ndim > EPF_MAX_DIMS) {
        return EPF_OK; /* not given, or no tensor: epf_tensor_check() says so */
    }
    for (int32_t d = 0; d + 1 < t->ndim; d++) {
        const int64_t rest = t->stride[d] % align; /* a product with any stride would overflow */
        fits = fits && (t->shape[d] <= 1 || rest * epf_dtype_bytes(t->dtype) % align == 0);
    }
    if (!fits) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "%s: at %p with stride[0] %lld, but this backend reads rows that start at "
                        "multiples of %lld bytes",
                        name, t->data, (long long)t->stride[0], (long long)align);
    }
    return EPF_OK;
}

static epf_status compare(const epf_table *table, const int32_t *given, const int32_t *wanted)
{
    for (int64_t i = 0; i < table->count; i++) {
        EPF_CHECK_ARG(given[i] == wanted[i], "%s[%lld]: %d, but the layout says %d", table->name,
                      (long long)i, given[i], wanted[i]);
    }
    return EPF_OK;
}

/* Both on the host, once all that may write to them has ended. */
static epf_status compare_on_host(epf_op *op, const epf_tensor *tensor, const epf_table *table)
{
    const int64_t bytes = table->count * (int64_t)sizeof *table->values;
    int32_t *const both = epf_alloc((size_t)epf_max64(table->count, 1), 2 * sizeof *both);
    epf_status st = EPF_OK;
    if (both == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: %lld entries", table->name, (long long)table->count);
    }
    st = table->count > 0 ? op->backend->wait(op) : EPF_OK;
    st = st == EPF_OK ? op->backend->copy(op, both, tensor->data, bytes) : st;
    st = st == EPF_OK ? op->backend->copy(op, both + table->count, table->values, bytes) : st;
    st = st == EPF_OK ? compare(table, both, both + table->count) : st;
    epf_free(both);
    return st;
}

epf_status epf_phase_check_table(epf_op *op, const epf_tensor *tensor, const epf_table *table)
{
    const epf_tensor_want want = {table->name, 1,    {table->count}, EPF_DTYPE_I32,
                                  0,           true, table->at_least};
    EPF_TRY(epf_tensor_check(tensor, &want));
    if (!epf_tensor_given(tensor) || tensor->data == table->values) {
        return EPF_OK;
    }
    return op->backend->on_device ? compare_on_host(op, tensor, table)
                                  : compare(table, tensor->data, table->values);
}

/* Tables of the caller's own have as many entries as there are tiles, which then must be known. */
static epf_status learn_tiles(const epf_tile_tables *t, const epf_layout *l)
{
    const epf_tensor *const given[] = {&t->expert_ids, &t->split_size_cum, &t->tile_num,
                                       &t->tile_num_cum, &t->num_tiles_total};
    const void *const own[] = {l->tables[EPF_TABLE_EXPERT_IDS], l->tables[EPF_TABLE_SPLIT_SIZE_CUM],
                               l->tables[EPF_TABLE_TILE_NUM], l->tables[EPF_TABLE_TILE_NUM_CUM],
                               NULL};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        if (epf_tensor_given(given[i]) && given[i]->data != own[i]) {
            return epf_layout_learn(l);
        }
    }
    return EPF_OK;
}

epf_status epf_phase_check_tables(const epf_tile_tables *t, const epf_layout *l)
{
    const epf_status st = learn_tiles(t, l);
    const int64_t tiles = l->is_known ? l->num_tiles : 0;
    const int64_t num_local = l->op->shape.num_local;
    const epf_table tables[] = {
        {"gemm_expert_ids", l->tables[EPF_TABLE_EXPERT_IDS], tiles, true},
        {"gemm_split_size", l->tokens + l->op->comm->rank * num_local, num_local, false},
        {"gemm_split_size_cum", l->tables[EPF_TABLE_SPLIT_SIZE_CUM], tiles, true},
        {"gemm_tile_num", l->tables[EPF_TABLE_TILE_NUM], tiles, true},
        {"gemm_tile_num_cum", l->tables[EPF_TABLE_TILE_NUM_CUM], tiles, true},
        {"gemm_num_tiles_total", &l->num_tiles, 1, false},
        {"gemm_expert_offs", l->tile_offset, num_local, false},
    };
    const epf_tensor *const given[] = {&t->expert_ids, &t->split_size,   &t->split_size_cum,
                                       &t->tile_num,   &t->tile_num_cum, &t->num_tiles_total,
                                       &t->expert_offs};
    EPF_TRY(st);
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        EPF_TRY(epf_phase_check_table(l->op, given[i], &tables[i]));
    }
    return EPF_OK;
}

void epf_phase_fill(const epf_layout *l, const epf_weight *weight, const epf_gemm_knobs *knobs,
                    epf_call *call)
{
    epf_tile_map *const tiles = &call->phase.tiles;
    tiles->num_experts = l->op->shape.num_local;
    tiles->block_m = l->block_m;
    tiles->num_n_tiles = 1;
    /* more than there are tiles is all of them, and keeps products of the tile order in 32 bits */
    tiles->group_m = (int32_t)epf_max64(
        1, epf_min64(knobs->group_size_m, l->is_known ? l->num_tiles : l->max_tiles));
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
        tiles->num_n_tiles = (int32_t)weight->num_n_tiles;
        call->gemm_weight = weight->data;
        call->gemm_n = weight->n;
        call->gemm_k = weight->k;
    }
}

epf_status epf_phase_check_tasks(const epf_layout *l, const epf_weight *weight)
{
    const int64_t num_n = weight->num_n_tiles;
    EPF_CHECK_ARG(!l->is_known || l->num_tiles * num_n <= INT32_MAX,
                  "gemm_block_size_m, gemm_block_size_n: %d x %lld tiles, must be at most 2^31 - 1",
                  l->num_tiles, (long long)num_n);
    return EPF_OK;
}

int64_t epf_phase_capacity(const epf_buffer_set *set, const epf_tensor *const *tensors, int32_t num)
{
    int64_t rows = set->map.rows;
    for (int32_t i = 0; i < num; i++) {
        if (epf_tensor_given(tensors[i])) {
            rows = epf_min64(rows, tensors[i]->shape[0]);
        }
    }
    return rows;
}

epf_rows epf_rows_of(const epf_tensor *tensor)
{
    const epf_rows rows = {epf_tensor_given(tensor) ? tensor->data : NULL,
                           tensor->shape[0] > 1 ? tensor->stride[0] : tensor->shape[1]};
    return rows;
}

epf_status epf_output_of(const epf_tensor *given, const epf_tensor_want *want, const epf_room *room,
                         epf_tensor *output)
{
    int64_t shape[EPF_MAX_DIMS];
    int64_t row_bytes = epf_dtype_bytes(want->dtype);
    memcpy(shape, want->shape, sizeof shape);
    shape[0] = room->rows;
    EPF_TRY(epf_tensor_check(given, want));
    if (epf_tensor_given(given)) {
        *output = *given;
        output->shape[0] = epf_min64(room->rows, given->shape[0]);
        return EPF_OK;
    }
    for (int32_t d = 1; d < want->ndim; d++) {
        row_bytes *= shape[d];
    }
    EPF_TRY(epf_op_memory_reserve(room->op, room->memory, room->max_rows * row_bytes, want->name));
    *output = epf_tensor_of(room->memory->data, want->dtype, want->ndim, shape);
    return EPF_OK;
}
