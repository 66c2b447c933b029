/* params_special.c: pointers, flags that contradict, contents of index arrays, struct sizes. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "params_try.h"
#include "support/epf_check.h"

static params_args valid(params_rank *r, params_call_id id)
{
    params_args a;
    memset(&a, 0, sizeof a);
    params_calls[id].make(r, &a);
    return a;
}

static void try_group_config(params_rank *r)
{
    params_args a = valid(r, PARAMS_GROUP_THREADS);
    a.group.timeout_ns = 0;
    params_try(r, PARAMS_GROUP_THREADS, &a, "timeout_ns", "= 0", EPF_E_INVALID);
    a = valid(r, PARAMS_GROUP);
    a.group.timeout_ns = 0;
    params_try(r, PARAMS_GROUP, &a, "timeout_ns", "= 0", EPF_E_INVALID);
    a = valid(r, PARAMS_GROUP); /* rank and num_ranks go with all_gather only */
    a.group.all_gather = NULL;
    params_try(r, PARAMS_GROUP, &a, "all_gather", "NULL beside rank", EPF_E_INVALID);
}

static void try_capacity(params_rank *r)
{
    static const double bad[] = {0, -0.0, -1, -1e-300, NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        params_args a = valid(r, PARAMS_OP);
        a.op.capacity = bad[i];
        params_try(r, PARAMS_OP, &a, "capacity", "bad", EPF_E_INVALID);
    }
}

static void try_stream(params_rank *r)
{
    static const int32_t bad[] = {0, -2, INT_MAX, INT_MIN};
    params_args a = valid(r, PARAMS_OP);
    a.op.stream = r; /* the CPU backend has neither */
    params_try(r, PARAMS_OP, &a, "stream", "given", EPF_E_UNSUPPORTED);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        a = valid(r, PARAMS_OP);
        a.op.device = bad[i];
        params_try(r, PARAMS_OP, &a, "device", "given", EPF_E_UNSUPPORTED);
    }
}

/* Which token and which of its slots: as the text says it. */
static void check_place(params_rank *r, const params_args *bad, const char *place)
{
    const params_call *const c = &params_calls[PARAMS_PREPROCESS];
    CHECK(c->call(r, bad) == EPF_E_INVALID && strstr(epf_last_error(), place) != NULL,
          "%s is not in: %s", place, epf_last_error());
    params_works(r, PARAMS_PREPROCESS, place);
}

/* Ids and scatter indices that are well formed tensors, but say something wrong. */
static void try_contents(params_rank *r)
{
    static const int32_t bad_ids[] = {-2, PARAMS_E + 1, INT_MAX, INT_MIN};
    static const int32_t bad_places[] = {-1, PARAMS_T * PARAMS_K, INT_MAX, INT_MIN};
    int32_t wrong[PARAMS_T * PARAMS_K];
    for (size_t i = 0; i < sizeof bad_ids / sizeof *bad_ids; i++) {
        params_args a = valid(r, PARAMS_PREPROCESS);
        memcpy(wrong, r->ids, sizeof wrong);
        wrong[3] = bad_ids[i];
        a.preprocess.exp_indices.data = wrong;
        params_try(r, PARAMS_PREPROCESS, &a, "exp_indices", "bad id", EPF_E_INVALID);
        memcpy(wrong, r->local, sizeof wrong);
        wrong[3] = bad_places[i];
        a = valid(r, PARAMS_PREPROCESS);
        a.preprocess.local_scatter_indices.data = wrong;
        params_try(r, PARAMS_PREPROCESS, &a, "local_scatter_indices", "bad place", EPF_E_INVALID);
        memcpy(wrong, r->full, sizeof wrong);
        wrong[3] = bad_places[i];
        a = valid(r, PARAMS_PREPROCESS);
        a.preprocess.full_scatter_indices.data = wrong;
        params_try(r, PARAMS_PREPROCESS, &a, "full_scatter_indices", "bad place", EPF_E_INVALID);
    }
    params_args a = valid(r, PARAMS_PREPROCESS);
    memcpy(wrong, r->local, sizeof wrong);
    wrong[0] = wrong[PARAMS_E]; /* both slots of expert 0 */
    a.preprocess.local_scatter_indices.data = wrong;
    params_try(r, PARAMS_PREPROCESS, &a, "local_scatter_indices", "twice a place", EPF_E_INVALID);
    check_place(r, &a, "slot [2, 0]");
    memcpy(wrong, r->local, sizeof wrong);
    wrong[3] = -1;
    check_place(r, &a, "local_scatter_indices[1, 1] on rank 0: -1, must be 6..7 for expert 3");
    memcpy(wrong, r->full, sizeof wrong); /* a permutation, but not the other indices' */
    wrong[1] = r->full[1 + PARAMS_E];
    wrong[1 + PARAMS_E] = r->full[1];
    a = valid(r, PARAMS_PREPROCESS);
    a.preprocess.full_scatter_indices.data = wrong;
    params_try(r, PARAMS_PREPROCESS, &a, "full_scatter_indices", "unlike the other", EPF_E_INVALID);
    check_place(r, &a, "full_scatter_indices[0, 1]");
    memcpy(wrong, r->ids, sizeof wrong);
    wrong[5] = -2;
    a = valid(r, PARAMS_PREPROCESS);
    a.preprocess.exp_indices.data = wrong;
    check_place(r, &a, "exp_indices[2, 1] on rank 0: -2");
    wrong[0] = -3; /* the first of all */
    check_place(r, &a, "exp_indices[0, 0] on rank 0: -3");
    a = valid(r, PARAMS_PREPROCESS);
    a.preprocess.exp_indices.shape[0] = PARAMS_T + 1;
    params_try(r, PARAMS_PREPROCESS, &a, "exp_indices", "too many tokens", EPF_E_INVALID);
    a = valid(r, PARAMS_DISPATCH);
    memcpy(wrong, r->ids, sizeof wrong);
    wrong[0]++;
    a.dispatch.exp_indices.data = wrong;
    params_try(r, PARAMS_DISPATCH, &a, "exp_indices", "not the layout's", EPF_E_INVALID);
}

/* One wrong entry in each given table. */
static void try_tables(params_rank *r)
{
    static const char *const names[] = {
        "tiles.expert_ids",   "tiles.split_size",      "tiles.split_size_cum", "tiles.tile_num",
        "tiles.tile_num_cum", "tiles.num_tiles_total", "tiles.expert_offs"};
    int32_t wrong[16];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (int32_t id = PARAMS_DISPATCH; id <= PARAMS_COMBINE; id++) {
            params_args a = valid(r, (params_call_id)id);
            epf_tensor *const t = &(id == PARAMS_COMBINE ? &a.combine.tiles.expert_ids
                                                         : &a.dispatch.tiles.expert_ids)[i];
            CHECK(t->shape[0] >= 1 && t->shape[0] <= 16, "%lld entries", (long long)t->shape[0]);
            memcpy(wrong, t->data, (size_t)t->shape[0] * sizeof *wrong);
            wrong[t->shape[0] - 1]++;
            t->data = wrong;
            params_try(r, (params_call_id)id, &a, names[i], "wrong entry", EPF_E_INVALID);
        }
    }
    params_args a = valid(r, PARAMS_COMBINE);
    memcpy(wrong, a.combine.split_size_cum_per_expert.data, PARAMS_E * sizeof *wrong);
    wrong[1]--;
    a.combine.split_size_cum_per_expert.data = wrong;
    params_try(r, PARAMS_COMBINE, &a, "split_size_cum_per_expert", "wrong entry", EPF_E_INVALID);
}

/* layout and packed_weight of both phases. */
static void try_objects(params_rank *r)
{
    params_args a;
#define OBJECT(id, field, value, what)                                       \
    do {                                                                     \
        a = valid(r, id);                                                    \
        a.field = (value);                                                   \
        params_try(r, id, &a, strchr(#field, '.') + 1, what, EPF_E_INVALID); \
    } while (0)
    OBJECT(PARAMS_DISPATCH, dispatch.layout, NULL, "NULL");
    OBJECT(PARAMS_DISPATCH, dispatch.layout, r->other_layout, "another's");
    OBJECT(PARAMS_DISPATCH, dispatch.packed_weight, r->weight, "beside gemm_weight");
    OBJECT(PARAMS_COMBINE, combine.layout, NULL, "NULL");
    OBJECT(PARAMS_COMBINE, combine.layout, r->other_layout, "another's");
    OBJECT(PARAMS_COMBINE, combine.packed_weight, r->weight, "beside gemm_weight");
    OBJECT(PARAMS_FORWARD, forward.weights.packed_w13, r->weight, "beside w13");
    OBJECT(PARAMS_FORWARD, forward.weights.packed_w2, r->weight, "beside w2");
    OBJECT(PARAMS_BACKWARD, backward.packed_w13_backward, r->other_weight, "another's");
    OBJECT(PARAMS_BACKWARD, backward.packed_w2_backward, r->other_weight, "another's");
#undef OBJECT
    a = valid(r, PARAMS_DISPATCH);
    memset(&a.dispatch.gemm_weight, 0, sizeof a.dispatch.gemm_weight);
    a.dispatch.packed_weight = r->other_weight;
    params_try(r, PARAMS_DISPATCH, &a, "packed_weight", "another's", EPF_E_INVALID);
    a = valid(r, PARAMS_SWIGLU); /* packed without gate_up */
    memset(&a.dispatch.gemm_weight, 0, sizeof a.dispatch.gemm_weight);
    a.dispatch.packed_weight = r->weight;
    params_try(r, PARAMS_SWIGLU, &a, "gate_up", "not packed for SwiGLU", EPF_E_INVALID);
}

/* Flags that contradict another argument. */
static void try_flags(params_rank *r)
{
    params_args a = valid(r, PARAMS_DISPATCH);
    a.dispatch.gemm_input_reduce_last_dim = false;
    params_try(r, PARAMS_DISPATCH, &a, "gemm_input_reduce_last_dim", "false", EPF_E_UNSUPPORTED);
    a = valid(r, PARAMS_DISPATCH);
    a.dispatch.keep_gemm_output = false;
    params_try(r, PARAMS_DISPATCH, &a, "keep_gemm_output", "false", EPF_E_INVALID);
    a = valid(r, PARAMS_SWIGLU);
    a.dispatch.activation = EPF_ACTIVATION_NONE;
    params_try(r, PARAMS_SWIGLU, &a, "activation_output", "without one", EPF_E_INVALID);
    a = valid(r, PARAMS_SWIGLU);
    a.dispatch.keep_gemm_output = false;
    params_try(r, PARAMS_SWIGLU, &a, "keep_gemm_output", "false beside output", EPF_E_INVALID);
    a = valid(r, PARAMS_COMBINE);
    a.combine.gemm_input_reduce_last_dim = false;
    params_try(r, PARAMS_COMBINE, &a, "gemm_input_reduce_last_dim", "false", EPF_E_UNSUPPORTED);
    a = valid(r, PARAMS_COMBINE);
    a.combine.cp_flag = false;
    params_try(r, PARAMS_COMBINE, &a, "cp_flag", "false beside gate_input", EPF_E_INVALID);
    a = valid(r, PARAMS_WEIGHT); /* N = 8 has no two halves of whole vectors */
    a.weight.tensor.shape[1] = 8;
    a.weight.gate_up = true;
    params_try(r, PARAMS_WEIGHT, &a, "gate_up", "with N 8", EPF_E_INVALID);
}

/* What was packed for other blocks or columns, and outputs without their inputs. */
static void try_mismatches(params_rank *r)
{
    params_args a;
#define PACKED(field, value, says)                                     \
    a = valid(r, PARAMS_DISPATCH);                                     \
    memset(&a.dispatch.gemm_weight, 0, sizeof a.dispatch.gemm_weight); \
    a.dispatch.packed_weight = r->weight;                              \
    a.dispatch.field = (value);                                        \
    params_try(r, PARAMS_DISPATCH, &a, #field, says, EPF_E_INVALID)
    PACKED(gemm_block_size_n, 8, "not as packed");
    PACKED(gemm_block_size_k, 8, "not as packed");
#undef PACKED
    a = valid(r, PARAMS_COMBINE); /* packed for H + 8 columns */
    a.combine.gemm_weight.shape[1] = PARAMS_H + 8;
    params_try(r, PARAMS_COMBINE, &a, "gemm_weight", "of other columns", EPF_E_INVALID);
    a = valid(r, PARAMS_COMBINE);
    memset(&a.combine.gate_input, 0, sizeof a.combine.gate_input);
    params_try(r, PARAMS_COMBINE, &a, "output_gate", "without gate_input", EPF_E_INVALID);
    a = valid(r, PARAMS_COMBINE);
    a.combine.grad_output.shape[1] = 0;
    a.combine.grad_weight.shape[1] = 0;
    params_try(r, PARAMS_COMBINE, &a, "grad_output", "of no columns", EPF_E_INVALID);
}

/* Objects in states that do not allow the call. */
static void try_states(params_rank *r)
{
    epf_op_config config = params_op_config();
    params_args a = valid(r, PARAMS_PREPROCESS);
    epf_layout_view view;
    epf_op *op;
    static const int32_t bad[PARAMS_T * PARAMS_K] = {-2};
    a.preprocess.exp_indices.data = (void *)(uintptr_t)bad;
    CHECK(params_calls[PARAMS_PREPROCESS].call(r, &a) == EPF_E_INVALID, "a bad id");
    params_note("epf_layout_get", "layout");
    params_refused("epf_layout_get", "layout", "not filled", epf_layout_get(r->layout, &view),
                   EPF_E_STATE, "layout");
    params_works(r, PARAMS_PREPROCESS, "a bad id");
    config.lazy = true;
    CHECK_OK(epf_op_create(r->group, &config, &op));
    params_note("epf_op_reset", "op");
    params_refused("epf_op_reset", "op", "lazy", epf_op_reset(op), EPF_E_STATE, "operator");
    params_note("epf_op_barrier", "op");
    params_refused("epf_op_barrier", "op", "lazy", epf_op_barrier(op), EPF_E_STATE, "lazy");
    CHECK_OK(epf_op_sync(op));
    CHECK_OK(epf_op_finalize(op));
    CHECK_OK(epf_op_finalize(op));
    params_note("epf_op_sync", "op");
    params_refused("epf_op_sync", "op", "finalized", epf_op_sync(op), EPF_E_STATE, "finalized");
    params_note("epf_op_barrier", "op");
    params_refused("epf_op_barrier", "op", "finalized", epf_op_barrier(op), EPF_E_STATE,
                   "finalized");
    epf_op_destroy(op);
}

static void try_profile(params_rank *r)
{
    static char lengthy[300];
    memset(lengthy, 'x', sizeof lengthy - 1);
    const char *const bad[] = {NULL, "", "../escape", "a/b", ".", "..", lengthy, "a\nb", "\x01"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        params_args a = valid(r, PARAMS_DISPATCH);
        a.dispatch.enable_profiler = true;
        a.dispatch.profile_file_name = bad[i];
        params_try(r, PARAMS_DISPATCH, &a, "profile_file_name", "bad", EPF_E_INVALID);
        a = valid(r, PARAMS_COMBINE);
        a.combine.enable_profiler = true;
        a.combine.profile_file_name = bad[i];
        params_try(r, PARAMS_COMBINE, &a, "profile_file_name", "bad", EPF_E_INVALID);
        if (i == 1 || i == 4 || i == 5) {
            continue; /* the phase's name is added: a file name all the same */
        }
        a = valid(r, PARAMS_FORWARD);
        a.forward.enable_profiler = true;
        a.forward.profile_file_name = bad[i];
        params_try(r, PARAMS_FORWARD, &a, "profile_file_name", "bad", EPF_E_INVALID);
    }
}

void params_special(params_rank *r)
{
    try_group_config(r);
    try_capacity(r);
    try_contents(r);
    try_tables(r);
    try_objects(r);
    try_flags(r);
    try_stream(r);
    try_mismatches(r);
    try_states(r);
    try_profile(r);
}

/* ---- struct sizes ---- */

static void try_import(params_rank *r, params_call_id id)
{
    static const uint32_t bad[] = {0, 1, 7, 65537, UINT32_MAX};
    const params_call *const c = &params_calls[id];
    uint32_t size;
    params_args a;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        a = valid(r, id);
        memcpy(a.bytes, &bad[i], sizeof bad[i]);
        params_try(r, id, &a, "struct_size", "out of range", EPF_E_INVALID);
    }
    for (uint32_t more = 1; more <= 64;
         more += 63) { /* a newer caller that sets what we do not know */
        a = valid(r, id);
        size = (uint32_t)c->size + more;
        memcpy(a.bytes, &size, sizeof size);
        a.bytes[size - 1] = 1;
        params_note(c->struct_name, "struct_size");
        params_refused(c->function, "struct_size", "unknown byte", c->call(r, &a),
                       EPF_E_UNSUPPORTED, c->struct_name);
        params_works(r, id, "an unknown byte");
        a.bytes[size - 1] = 0; /* ... and one that does not */
        if (id == PARAMS_PREPROCESS || id == PARAMS_FORWARD) {
            a = valid(r, id); /* the layout may have moved */
            memcpy(a.bytes, &size, sizeof size);
        }
        CHECK(c->call(r, &a) == EPF_OK, "%s with %u bytes more, all zero: %s", c->struct_name, more,
              epf_last_error());
    }
}

typedef epf_status (*init_function)(void *user, size_t size);

static void try_init(const char *name, init_function init)
{
    static const size_t bad[] = {0, 1, 7, 65537, SIZE_MAX};
    static unsigned char bytes[65536];
    params_note(name, name + 4);
    params_refused(name, "pointer", "NULL", init(NULL, 64), EPF_E_INVALID, "NULL");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        params_note(name, "struct_size");
        params_refused(name, "struct_size", "out of range", init(bytes, bad[i]), EPF_E_INVALID,
                       "struct_size");
        CHECK_OK(init(bytes, i % 2 == 0 ? 8 : sizeof bytes));
    }
}

#define INIT(name, type)                               \
    static epf_status name(void *user, size_t size)    \
    {                                                  \
        return epf_##name##_sized((type *)user, size); \
    }
INIT(group_config_init, epf_group_config)
INIT(op_config_init, epf_op_config)
INIT(weight_config_init, epf_weight_config)
INIT(preprocess_args_init, epf_preprocess_args)
INIT(dispatch_group_gemm_args_init, epf_dispatch_group_gemm_args)
INIT(group_gemm_combine_args_init, epf_group_gemm_combine_args)
INIT(layer_forward_args_init, epf_layer_forward_args)
INIT(layer_backward_args_init, epf_layer_backward_args)
#undef INIT

void params_struct_sizes(params_rank *r)
{
    for (int32_t id = 0; id < PARAMS_NUM_CALLS; id++) {
        try_import(r, (params_call_id)id);
    }
#define TRY_INIT(name) try_init("epf_" #name "_sized", name)
    TRY_INIT(group_config_init);
    TRY_INIT(op_config_init);
    TRY_INIT(weight_config_init);
    TRY_INIT(preprocess_args_init);
    TRY_INIT(dispatch_group_gemm_args_init);
    TRY_INIT(group_gemm_combine_args_init);
    TRY_INIT(layer_forward_args_init);
    TRY_INIT(layer_backward_args_init);
#undef TRY_INIT
}
