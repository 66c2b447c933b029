/* params_table.c: every field of every public struct that a call takes. */
#include "params_table.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#define AT(field) #field, #field, offsetof(S, field)
#define TENSOR(field, flags)                                   \
    {                                                          \
        AT(field), PARAMS_TENSOR, flags, 0, 0, 0, EPF_OK, NULL \
    }
#define TENSOR_AS(field, says, flags)                                                 \
    {                                                                                 \
#field, says, offsetof(S, field), PARAMS_TENSOR, flags, 0, 0, 0, EPF_OK, NULL \
    }
#define TILE(field, flags) TENSOR_AS(tiles.field, "gemm_" #field, flags)
#define INT(field, low, high, step)                                    \
    {                                                                  \
        AT(field), PARAMS_INT, 0, low, high, step, EPF_E_INVALID, NULL \
    }
#define INT_AUTO(field, low, high, step)                                     \
    {                                                                        \
        AT(field), PARAMS_INT, AUTO_OK, low, high, step, EPF_E_INVALID, NULL \
    }
#define INT_OPEN(field, low)                                              \
    {                                                                     \
        AT(field), PARAMS_INT, OPEN, low, INT_MAX, 1, EPF_E_INVALID, NULL \
    }
#define INT_UNSUPPORTED(field, low, high)                               \
    {                                                                   \
        AT(field), PARAMS_INT, 0, low, high, 1, EPF_E_UNSUPPORTED, NULL \
    }
#define SPECIAL(field)                                      \
    {                                                       \
        AT(field), PARAMS_SPECIAL, 0, 0, 0, 0, EPF_OK, NULL \
    }
#define FREE(field, note)                                \
    {                                                    \
        AT(field), PARAMS_FREE, 0, 0, 0, 0, EPF_OK, note \
    }

#define S epf_group_config
static const params_field kGroupThreads[] = {
    SPECIAL(struct_size), FREE(rank, "not looked at"),       FREE(num_ranks, "not looked at"),
    SPECIAL(timeout_ns),  FREE(all_gather, "not looked at"), FREE(all_gather_context, "handed on"),
};
static const params_field kGroup[] = {
    SPECIAL(struct_size), INT(rank, 0, 0, 1),  INT(num_ranks, 1, 1024, 1),
    SPECIAL(timeout_ns),  SPECIAL(all_gather), FREE(all_gather_context, "handed on"),
};
#undef S

#define S epf_op_config
static const params_field kOp[] = {
    SPECIAL(struct_size),
    INT(backend, EPF_BACKEND_CPU, EPF_BACKEND_CUDA, 1),
    INT(max_tokens, 1, INT_MAX / PARAMS_K, 1),
    INT(hidden, 8, INT_MAX - 7, 8),
    INT(topk, 1, 32, 1),
    INT_OPEN(num_tot_experts, 1),
    INT(dtype, EPF_DTYPE_F32, EPF_DTYPE_F16, 1),
    INT(weight_dtype, EPF_DTYPE_F32, EPF_DTYPE_BF16, 1),
    INT(num_sm, 0, PARAMS_WORKERS, 1),
    INT(sm_margin, 0, PARAMS_WORKERS - 1, 1),
    INT(duplicate_comm_buffer, 1, 8, 1),
    SPECIAL(capacity),
    INT(fwd_gemm_block_size_n, 8, 4096, 8),
    FREE(need_reversed_token_scatter_idx, "bool"),
    FREE(lazy, "bool"),
    FREE(allow_regrow, "bool"),
    INT(num_workers, 0, 1024, 1),
    FREE(pin_workers, "bool"),
    INT(gemm_library, 0, EPF_GEMM_LIBRARY_PORTABLE, 1),
    SPECIAL(device),
    SPECIAL(stream),
};
#undef S

#define S epf_weight_config
static const params_field kWeight[] = {
    SPECIAL(struct_size),
    TENSOR(tensor, REQUIRED | LAST_FREE),
    FREE(reduce_last_dim, "bool"),
    SPECIAL(gate_up),
    INT_AUTO(gemm_block_size_n, 8, 65536, 8),
    INT_AUTO(gemm_block_size_k, 8, 65536, 8),
};
#undef S

#define S epf_preprocess_args
static const params_field kPreprocess[] = {
    SPECIAL(struct_size),
    TENSOR(exp_indices, REQUIRED | ROWS_FREE),
    TENSOR(full_scatter_indices, 0),
    TENSOR(local_scatter_indices, 0),
};
#undef S

#define TILES                                                                               \
    TILE(expert_ids, ROWS_MORE), TILE(split_size, 0), TILE(split_size_cum, ROWS_MORE),      \
        TILE(tile_num, ROWS_MORE), TILE(tile_num_cum, ROWS_MORE), TILE(num_tiles_total, 0), \
        TILE(expert_offs, 0)

#define S epf_dispatch_group_gemm_args
static const params_field kDispatch[] = {
    SPECIAL(struct_size),
    SPECIAL(layout),
    TENSOR(input, REQUIRED),
    TENSOR(exp_indices, 0),
    TENSOR(weight, 0),
    TENSOR(gemm_weight, REQUIRED),
    SPECIAL(packed_weight),
    TILES,
    FREE(with_cpy_flag, "bool"),
    INT(comm_buffer_id, 0, PARAMS_SETS - 1, 1),
    INT(optional_sm, 0, PARAMS_WORKERS, 1),
    INT(num_tail_sms, 0, PARAMS_WORKERS - 1, 1),
    SPECIAL(gemm_input_reduce_last_dim),
    FREE(gemm_weight_reduce_last_dim, "bool: says which dimension gemm_weight reduces"),
    TENSOR(gemm_output_data, ROWS_MORE),
    TENSOR(dispatch_output, ROWS_MORE),
    TENSOR(weight_recv, ROWS_MORE),
    INT(gemm_block_size_m, 0, 1024, 1),
    INT_AUTO(gemm_block_size_n, 8, 65536, 8),
    INT_AUTO(gemm_block_size_k, 8, 65536, 8),
    INT(gemm_group_size_m, 1, 65536, 1),
    INT_UNSUPPORTED(gemm_num_stages, 0, 1),
    FREE(use_block_wise_barrier, "bool"),
    INT(num_warps, 1, 32, 1),
    INT(activation, 0, 1, 1),
    SPECIAL(activation_output),
    SPECIAL(keep_gemm_output),
    FREE(enable_profiler, "bool"),
    SPECIAL(profile_file_name),
};
static const params_field kSwiglu[] = {
    TENSOR(activation_output, REQUIRED | ROWS_MORE),
    TENSOR(weight, REQUIRED),
};
#undef S

#define S epf_group_gemm_combine_args
static const params_field kCombine[] = {
    SPECIAL(struct_size),
    SPECIAL(layout),
    TENSOR(gemm_input_data, REQUIRED | ROWS_MORE | LAST_FREE),
    TENSOR(gemm_weight, REQUIRED),
    SPECIAL(packed_weight),
    TILES,
    SPECIAL(gemm_input_reduce_last_dim),
    FREE(gemm_weight_reduce_last_dim, "bool: says which dimension gemm_weight reduces"),
    INT(comm_buffer_id, 0, PARAMS_SETS - 1, 1),
    INT(gemm_block_size_m, 0, 1024, 1),
    INT_AUTO(gemm_block_size_n, 8, 65536, 8),
    INT_AUTO(gemm_block_size_k, 8, 65536, 8),
    INT(gemm_group_size_m, 1, 65536, 1),
    INT_UNSUPPORTED(gemm_num_stages, 0, 1),
    TENSOR(gate_input, ROWS_MORE),
    SPECIAL(cp_flag),
    TENSOR(output_gate, 0),
    TENSOR(combine_weights, 0),
    TENSOR(combine_output, 0),
    INT_UNSUPPORTED(optional_sm, 0, 0),
    INT_UNSUPPORTED(num_reduce_sms, 0, 0),
    TENSOR(optional_signal_tensor, ROWS_MORE),
    INT(num_warps, 1, 32, 1),
    INT(combine_mode, 0, 2, 1),
    TENSOR(grad_output, REQUIRED | ROWS_MORE | LAST_FREE),
    TENSOR(orig_input, REQUIRED | ROWS_MORE | LAST_FREE),
    TENSOR(grad_weight, REQUIRED),
    TENSOR(split_size_cum_per_expert, 0),
    INT(grad_block_size_m, 0, 4096, 1),
    INT(grad_block_size_n, 0, 4096, 1),
    INT_OPEN(grad_block_size_k, 0),
    INT_OPEN(grad_group_size_m, 1),
    FREE(enable_profiler, "bool"),
    SPECIAL(profile_file_name),
};
static const params_field kScatter[] = {
    INT(optional_sm, 0, PARAMS_WORKERS - 1, 1),
    INT(num_reduce_sms, 0, PARAMS_WORKERS - 1, 1),
};
#undef S

#define S epf_layer_forward_args
static const params_field kForward[] = {
    SPECIAL(struct_size),
    TENSOR(input, REQUIRED),
    TENSOR(exp_indices, REQUIRED | ROWS_FREE),
    TENSOR(weight, REQUIRED),
    TENSOR_AS(weights.w13, "w13", REQUIRED),
    TENSOR_AS(weights.w2, "w2", REQUIRED),
    SPECIAL(weights.packed_w13),
    SPECIAL(weights.packed_w2),
    TENSOR(output, REQUIRED),
    FREE(keep_for_backward, "bool"),
    INT(comm_buffer_id, 0, PARAMS_SETS - 1, 1),
    INT(combine_mode, 0, 2, 1),
    INT(num_tail_sms, 0, PARAMS_WORKERS - 1, 1),
    FREE(use_block_wise_barrier, "bool"),
    FREE(enable_profiler, "bool"),
    SPECIAL(profile_file_name),
};
#undef S

#define S epf_layer_backward_args
static const params_field kBackward[] = {
    SPECIAL(struct_size),
    TENSOR(grad_output, REQUIRED),
    TENSOR(w13, REQUIRED),
    TENSOR(w2, REQUIRED),
    SPECIAL(packed_w13_backward),
    SPECIAL(packed_w2_backward),
    TENSOR(grad_input, REQUIRED),
    TENSOR(grad_weight, REQUIRED),
    TENSOR(grad_w13, 0),
    TENSOR(grad_w2, 0),
    INT(comm_buffer_id, 0, PARAMS_SETS - 1, 1),
    INT(combine_mode, 0, 2, 1),
};
#undef S

#define TABLE(id, fields)                             \
    {                                                 \
        id, fields, sizeof(fields) / sizeof *(fields) \
    }

const params_table params_tables[] = {
    TABLE(PARAMS_GROUP_THREADS, kGroupThreads),
    TABLE(PARAMS_GROUP, kGroup),
    TABLE(PARAMS_OP, kOp),
    TABLE(PARAMS_WEIGHT, kWeight),
    TABLE(PARAMS_PREPROCESS, kPreprocess),
    TABLE(PARAMS_DISPATCH, kDispatch),
    TABLE(PARAMS_SWIGLU, kSwiglu),
    TABLE(PARAMS_COMBINE, kCombine),
    TABLE(PARAMS_SCATTER, kScatter),
    TABLE(PARAMS_FORWARD, kForward),
    TABLE(PARAMS_BACKWARD, kBackward),
};
const size_t params_num_tables = sizeof params_tables / sizeof *params_tables;

/* ---- bad ints ---- */

static bool is_legal(const params_field *f, int64_t value)
{
    return ((f->flags & AUTO_OK) != 0 && value == 0) ||
           (value >= f->low && value <= f->high && value % f->step == 0);
}

static int spoil_int(const params_field *f, int32_t index, params_bad *bad)
{
    const int64_t low = f->low;
    const int64_t high = f->high;
    const int64_t values[] = {INT_MIN, -1, 0, low - 1, high + 1, INT_MAX, low + 1, low + 4, -low};
    const int32_t count = (int32_t)(sizeof values / sizeof *values);
    int32_t value;
    if (index >= count) {
        return -1;
    }
    for (int32_t i = 0; i < index; i++) {
        if (values[i] == values[index]) {
            return 0;
        }
    }
    if (is_legal(f, values[index]) || values[index] > INT_MAX || values[index] < INT_MIN ||
        ((f->flags & OPEN) != 0 && values[index] >= low)) {
        return 0;
    }
    value = (int32_t)values[index];
    memcpy(bad->args.bytes + f->offset, &value, sizeof value);
    bad->want = value > high ? f->above : EPF_E_INVALID;
    (void)snprintf(bad->what, sizeof bad->what, "= %d", value);
    return 1;
}

/* ---- bad tensors ---- */

static const char *const kTensorWays[] = {
    "dtype 0",     "dtype -1",     "dtype 99",        "another dtype",    "dtype INT_MAX",
    "ndim -1",     "ndim INT_MAX", "ndim INT_MIN",    "one dim more",     "one dim less",
    "last + 8",    "last - 1",     "last 0",          "last huge",        "rows - 1",
    "rows + 1",    "rows -1",      "rows INT64_MAX",  "rows INT64_MIN",   "stride of last 2",
    "overlapping", "stride 0",     "stride negative", "stride INT64_MAX", "misaligned",
    "data NULL",   "left out",     "middle - 1",      "middle huge",      "middle -1"};

/* Shape and stride; false: legal here. */
static bool spoil_shape(epf_tensor *t, int32_t index, int32_t flags)
{
    const int32_t last = t->ndim - 1;
    const bool is_matrix = last > 0 && (flags & LAST_FREE) == 0;
    switch (index) {
    case 10:
        t->shape[last] += 8;
        t->stride[0] *= 2;
        t->stride[last - 1 > 0 ? last - 1 : 0] *= 1 + (last > 1);
        return is_matrix;
    case 11:
        t->shape[last] -= 1;
        return is_matrix;
    case 12:
        t->shape[last] = 0;
        return is_matrix;
    case 13:
        t->shape[last] = INT64_MAX / 2;
        return is_matrix;
    case 14:
        t->shape[0] = (flags & ROWS_MORE) != 0 ? 0 : t->shape[0] - 1;
        return (flags & ROWS_FREE) == 0;
    case 15:
        t->shape[0]++;
        return (flags & (ROWS_FREE | ROWS_MORE)) == 0;
    case 16:
        t->shape[0] = -1;
        return true;
    case 17:
        t->shape[0] = INT64_MAX;
        return last > 0 || (flags & ROWS_MORE) == 0;
    case 18:
        t->shape[0] = INT64_MIN;
        return true;
    default:
        t->shape[1] = index == 27 ? t->shape[1] - 1 : index == 28 ? INT64_MAX / 4 : -1;
        return last == 2 && index >= 27 && index <= 29;
    }
}

static bool spoil_stride(epf_tensor *t, int32_t index)
{
    const int32_t last = t->ndim - 1;
    switch (index) {
    case 19:
        t->stride[last] = 2;
        return t->shape[last] > 1;
    case 20:
        t->stride[0] = t->shape[last] - 1;
        return last > 0 && t->shape[0] > 1;
    case 21:
        t->stride[0] = 0;
        return t->shape[0] > 1;
    case 22:
        t->stride[0] = -t->stride[0];
        return t->shape[0] > 1;
    default:
        t->stride[0] = INT64_MAX;
        return t->shape[0] > 1;
    }
}

static bool spoil_kind(epf_tensor *t, int32_t index, int32_t flags)
{
    static const int32_t dtypes[] = {0, -1, 99, EPF_DTYPE_I64, INT32_MAX};
    static const int32_t ndims[] = {-1, INT32_MAX, INT32_MIN};
    if (index < 5) {
        t->dtype = dtypes[index];
        return true;
    }
    if (index < 8) {
        t->ndim = ndims[index - 5];
        return true;
    }
    if (index == 8) {
        t->shape[t->ndim] = 1;
        t->stride[t->ndim++] = 1;
        return true;
    }
    if (index == 9) {
        t->ndim--;
        return t->ndim > 0;
    }
    if (index == 24) {
        t->data = (char *)t->data + 1;
        return true;
    }
    if (index == 25) {
        t->data = NULL;
        return true;
    }
    memset(t, 0, sizeof *t); /* left out */
    return (flags & REQUIRED) != 0;
}

static int spoil_tensor(const params_field *f, int32_t index, params_bad *bad)
{
    epf_tensor *const t = (epf_tensor *)(void *)(bad->args.bytes + f->offset);
    bool done;
    if (index >= (int32_t)(sizeof kTensorWays / sizeof *kTensorWays)) {
        return -1;
    }
    if ((index >= 10 && index <= 18) || index >= 27) {
        done = spoil_shape(t, index, f->flags);
    } else if (index >= 19 && index <= 23) {
        done = spoil_stride(t, index);
    } else {
        done = spoil_kind(t, index, f->flags);
    }
    bad->want = EPF_E_INVALID;
    (void)snprintf(bad->what, sizeof bad->what, "%s", kTensorWays[index]);
    return done ? 1 : 0;
}

int params_spoil(const params_field *f, int32_t index, params_bad *bad)
{
    switch (f->kind) {
    case PARAMS_TENSOR:
        return spoil_tensor(f, index, bad);
    case PARAMS_INT:
        return spoil_int(f, index, bad);
    default:
        return -1;
    }
}
