/*
 * test_op_errors: every parameter at every kind of bad value.  Each bad call is refused with the right
 * status and one line that names the parameter, and a valid call right after it works.
 *
 *     test_op_errors [name]      only parameters whose name contains the text
 *
 * One rank, so that a refused call leaves nobody waiting.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"

/* ---- what is tried ---- */

enum {
    ROWS_FREE = 1, /* any number of rows is legal                                   */
    ROWS_MORE = 2, /* more rows than needed are legal                               */
    LAST_FREE = 4, /* the last dimension decides something else: names that instead */
    OPTIONAL = 8,  /* may be left out                                               */
};

typedef struct tensor_field {
    const char *name; /* as the message calls it */
    size_t offset;    /* in the args struct      */
    int32_t flags;
} tensor_field;

enum { MAX_BAD = 6 };

typedef struct int_field {
    const char *name;
    size_t offset;
    int32_t num_bad;
    int32_t bad[MAX_BAD];
    epf_status status;
} int_field;

/* One public function with valid arguments that can be spoilt. */
typedef struct subject {
    const char *name;
    size_t size;                          /* of its args struct                     */
    void (*make)(op_rank *r, void *args); /* valid ones                             */
    epf_status (*call)(op_rank *r, const void *args);
    const tensor_field *tensors;
    size_t num_tensors;
    const int_field *ints;
    size_t num_ints;
} subject;

static int32_t num_cases;
static const char *wanted = "";

/* Kinds of bad tensor. */
typedef enum spoiling {
    SPOIL_DTYPE_UNKNOWN,
    SPOIL_DTYPE_OTHER,
    SPOIL_NDIM_MORE,
    SPOIL_NDIM_HUGE,
    SPOIL_NDIM_NEGATIVE,
    SPOIL_LAST_LARGER,
    SPOIL_LAST_SMALLER,
    SPOIL_ROWS_FEWER,
    SPOIL_ROWS_MORE,
    SPOIL_ROWS_NEGATIVE,
    SPOIL_ROWS_HUGE,
    SPOIL_STRIDE_LAST,
    SPOIL_STRIDE_OVERLAP,
    SPOIL_MISALIGNED,
    SPOIL_NULL,
    NUM_SPOILINGS
} spoiling;

/* False: this kind does not apply, or would be legal. */
static bool spoil(epf_tensor *t, spoiling kind, int32_t flags)
{
    const int32_t last = t->ndim - 1;

    switch (kind) {
    case SPOIL_DTYPE_UNKNOWN:
        t->dtype = 99;
        return true;
    case SPOIL_DTYPE_OTHER:
        t->dtype = EPF_DTYPE_I64;
        return true;
    case SPOIL_NDIM_MORE:
        if (t->ndim == EPF_MAX_DIMS) {
            return false;
        }
        t->shape[t->ndim] = 1;
        t->stride[t->ndim] = 1;
        t->ndim++;
        return true;
    case SPOIL_NDIM_HUGE:
        t->ndim = INT_MAX;
        return true;
    case SPOIL_NDIM_NEGATIVE:
        t->ndim = -1;
        return true;
    case SPOIL_LAST_LARGER:
        t->shape[last] += 8;
        t->stride[0] += last > 0 ? 8 * (t->stride[0] / (t->shape[last] - 8) + 1) : 0;
        return last > 0 && (flags & LAST_FREE) == 0;
    case SPOIL_LAST_SMALLER:
        t->shape[last] -= 1;
        return last > 0 && (flags & LAST_FREE) == 0;
    case SPOIL_ROWS_FEWER:
        t->shape[0] = (flags & ROWS_MORE) != 0 ? 1 : t->shape[0] - 1;
        return (flags & ROWS_FREE) == 0;
    case SPOIL_ROWS_MORE:
        t->shape[0]++;
        return (flags & (ROWS_FREE | ROWS_MORE)) == 0;
    case SPOIL_ROWS_NEGATIVE:
        t->shape[0] = -1;
        return true;
    case SPOIL_ROWS_HUGE:
        t->shape[0] = INT64_MAX;
        return true;
    case SPOIL_STRIDE_LAST:
        t->stride[last] = 2;
        return t->shape[last] > 1;
    case SPOIL_STRIDE_OVERLAP:
        t->stride[0] = t->shape[last] - 1;
        return last > 0 && t->shape[0] > 1;
    case SPOIL_MISALIGNED:
        t->data = (char *)t->data + 1;
        return true;
    default:
        t->data = NULL;
        return true;
    }
}

/* ---- the valid calls ---- */

static void make_preprocess(op_rank *r, void *args)
{
    epf_preprocess_args *a = args;
    CHECK_OK(epf_preprocess_args_init(a));
    a->exp_indices = r->ids.tensor;
    a->local_scatter_indices = r->local.tensor;
}

static epf_status call_preprocess(op_rank *r, const void *args)
{
    return epf_preprocess(r->op, args, &r->layout);
}

static void make_dispatch(op_rank *r, void *args)
{
    *(epf_dispatch_group_gemm_args *)args = op_dispatch_args(r);
}

static void make_swiglu(op_rank *r, void *args)
{
    epf_dispatch_group_gemm_args *a = args;
    *a = op_dispatch_args(r);
    a->activation = EPF_ACTIVATION_SWIGLU;
    a->activation_output = r->h.tensor;
}

static epf_status call_dispatch(op_rank *r, const void *args)
{
    return epf_dispatch_group_gemm(r->op, args, NULL);
}

static void make_combine(op_rank *r, void *args)
{
    *(epf_group_gemm_combine_args *)args = op_combine_args(r);
}

static epf_status call_combine(op_rank *r, const void *args)
{
    return epf_group_gemm_combine(r->op, args, NULL);
}

static void make_weight(op_rank *r, void *args)
{
    epf_weight_config *config = args;
    CHECK_OK(epf_weight_config_init(config));
    config->tensor = op_dispatch_args(r).gemm_weight;
}

static epf_status call_weight(op_rank *r, const void *args)
{
    epf_weight *weight = NULL;
    const epf_status st = epf_weight_create(r->op, args, &weight);
    CHECK((st == EPF_OK) == (weight != NULL), "status %d with weight %p", st, (void *)weight);
    epf_weight_destroy(weight);
    return st;
}

static void make_op_config(op_rank *r, void *args)
{
    *(epf_op_config *)args = op_config_of(r->c);
}

static epf_status call_create(op_rank *r, const void *args)
{
    epf_op *op = NULL;
    const epf_status st = epf_op_create(r->group, args, &op);
    CHECK((st == EPF_OK) == (op != NULL), "status %d with op %p", st, (void *)op);
    epf_op_destroy(op);
    return st;
}

/* ---- tables ---- */

#define AT(type, field) #field, offsetof(type, field)
#define TILE(type, field) "gemm_" #field, offsetof(type, tiles.field)
#define BAD(...)                                        \
    sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t), \
    {                                                   \
        __VA_ARGS__                                     \
    }

static const tensor_field kPreprocessTensors[] = {
    {AT(epf_preprocess_args, exp_indices), ROWS_FREE},
    {AT(epf_preprocess_args, local_scatter_indices), OPTIONAL},
};

#define D epf_dispatch_group_gemm_args
static const tensor_field kDispatchTensors[] = {
    {AT(D, input), 0},
    {AT(D, exp_indices), OPTIONAL},
    {AT(D, weight), OPTIONAL},
    {AT(D, gemm_weight), LAST_FREE},
    {TILE(D, expert_ids), OPTIONAL | ROWS_MORE},
    {TILE(D, split_size), OPTIONAL},
    {TILE(D, split_size_cum), OPTIONAL | ROWS_MORE},
    {TILE(D, tile_num), OPTIONAL | ROWS_MORE},
    {TILE(D, tile_num_cum), OPTIONAL | ROWS_MORE},
    {TILE(D, num_tiles_total), OPTIONAL},
    {TILE(D, expert_offs), OPTIONAL},
    {AT(D, gemm_output_data), OPTIONAL | ROWS_MORE},
    {AT(D, dispatch_output), OPTIONAL | ROWS_MORE},
    {AT(D, weight_recv), OPTIONAL | ROWS_MORE},
};
static const tensor_field kSwigluTensors[] = {
    {AT(D, activation_output), ROWS_MORE},
};
static const int_field kDispatchInts[] = {
    {AT(D, comm_buffer_id), BAD(-1, INT_MIN, 2, INT_MAX), EPF_E_INVALID},
    {AT(D, optional_sm), BAD(-1, INT_MIN, 4, INT_MAX), EPF_E_INVALID},
    {AT(D, num_tail_sms), BAD(-1, INT_MIN, 3, INT_MAX), EPF_E_INVALID},
    {AT(D, gemm_block_size_m), BAD(-1, INT_MIN, 1025, INT_MAX), EPF_E_INVALID},
    {AT(D, gemm_block_size_n), BAD(-1, INT_MIN, 7, 12, INT_MAX), EPF_E_INVALID},
    {AT(D, gemm_block_size_k), BAD(-1, INT_MIN, 7, 12, INT_MAX), EPF_E_INVALID},
    {AT(D, gemm_group_size_m), BAD(-1, INT_MIN, 0, INT_MAX), EPF_E_INVALID},
    {AT(D, gemm_num_stages), BAD(-1, INT_MIN), EPF_E_INVALID},
    {AT(D, gemm_num_stages), BAD(2, INT_MAX), EPF_E_UNSUPPORTED},
    {AT(D, num_warps), BAD(-1, INT_MIN, 0, 33, INT_MAX), EPF_E_INVALID},
    {AT(D, activation), BAD(-1, INT_MIN, 2, INT_MAX), EPF_E_INVALID},
};
#undef D

#define C epf_group_gemm_combine_args
static const tensor_field kCombineTensors[] = {
    {AT(C, gemm_input_data), ROWS_MORE | LAST_FREE},
    {AT(C, gemm_weight), LAST_FREE},
    {TILE(C, expert_ids), OPTIONAL | ROWS_MORE},
    {TILE(C, split_size), OPTIONAL},
    {TILE(C, split_size_cum), OPTIONAL | ROWS_MORE},
    {TILE(C, tile_num), OPTIONAL | ROWS_MORE},
    {TILE(C, tile_num_cum), OPTIONAL | ROWS_MORE},
    {TILE(C, num_tiles_total), OPTIONAL},
    {TILE(C, expert_offs), OPTIONAL},
    {AT(C, gate_input), OPTIONAL | ROWS_MORE},
    {AT(C, output_gate), OPTIONAL},
    {AT(C, combine_weights), OPTIONAL},
    {AT(C, combine_output), OPTIONAL},
    {AT(C, optional_signal_tensor), OPTIONAL | ROWS_MORE},
    {AT(C, grad_output), OPTIONAL | ROWS_MORE | LAST_FREE},
    {AT(C, orig_input), OPTIONAL | ROWS_MORE | LAST_FREE},
    {AT(C, grad_weight), OPTIONAL},
    {AT(C, split_size_cum_per_expert), OPTIONAL},
};
static const int_field kCombineInts[] = {
    {AT(C, comm_buffer_id), BAD(-1, INT_MIN, 2, INT_MAX), EPF_E_INVALID},
    {AT(C, gemm_block_size_m), BAD(-1, INT_MIN, 1025, INT_MAX), EPF_E_INVALID},
    {AT(C, gemm_block_size_n), BAD(-1, INT_MIN, 7, 12, INT_MAX), EPF_E_INVALID},
    {AT(C, gemm_block_size_k), BAD(-1, INT_MIN, 7, 12, INT_MAX), EPF_E_INVALID},
    {AT(C, gemm_group_size_m), BAD(-1, INT_MIN, 0, INT_MAX), EPF_E_INVALID},
    {AT(C, gemm_num_stages), BAD(-1, INT_MIN), EPF_E_INVALID},
    {AT(C, gemm_num_stages), BAD(2, INT_MAX), EPF_E_UNSUPPORTED},
    {AT(C, optional_sm), BAD(-1, INT_MIN), EPF_E_INVALID},
    {AT(C, optional_sm), BAD(1, INT_MAX), EPF_E_UNSUPPORTED}, /* serial */
    {AT(C, num_reduce_sms), BAD(-1, INT_MIN), EPF_E_INVALID},
    {AT(C, num_reduce_sms), BAD(1, INT_MAX), EPF_E_UNSUPPORTED},
    {AT(C, num_warps), BAD(-1, INT_MIN, 0, 33, INT_MAX), EPF_E_INVALID},
    {AT(C, combine_mode), BAD(-1, INT_MIN, 3, INT_MAX), EPF_E_INVALID},
    {AT(C, grad_block_size_m), BAD(-1, INT_MIN, INT_MAX), EPF_E_INVALID},
    {AT(C, grad_block_size_n), BAD(-1, INT_MIN, INT_MAX), EPF_E_INVALID},
    {AT(C, grad_block_size_k), BAD(-1, INT_MIN), EPF_E_INVALID},
    {AT(C, grad_group_size_m), BAD(-1, INT_MIN, 0), EPF_E_INVALID},
};
#undef C

static const tensor_field kWeightTensors[] = {{AT(epf_weight_config, tensor), LAST_FREE}};
static const int_field kWeightInts[] = {
    {AT(epf_weight_config, gemm_block_size_n), BAD(-1, INT_MIN, 7, 12, INT_MAX), EPF_E_INVALID},
    {AT(epf_weight_config, gemm_block_size_k), BAD(-1, INT_MIN, 7, 12, INT_MAX), EPF_E_INVALID},
};

#define O epf_op_config
static const int_field kConfigInts[] = {
    {AT(O, backend), BAD(-1, 0, 3, INT_MAX, INT_MIN), EPF_E_INVALID},
    {AT(O, max_tokens), BAD(-1, 0, INT_MAX, INT_MIN), EPF_E_INVALID},
    {AT(O, hidden), BAD(-8, 0, 7, 12, INT_MAX, INT_MIN), EPF_E_INVALID},
    {AT(O, topk), BAD(-1, 0, 33, INT_MAX, INT_MIN), EPF_E_INVALID},
    {AT(O, num_tot_experts), BAD(-1, 0, INT_MIN), EPF_E_INVALID},
    {AT(O, dtype), BAD(0, -1, EPF_DTYPE_F64, EPF_DTYPE_I32, 99), EPF_E_INVALID},
    {AT(O, weight_dtype), BAD(0, -1, EPF_DTYPE_F16, EPF_DTYPE_I32, 99), EPF_E_INVALID},
    {AT(O, num_sm), BAD(-1, INT_MIN, 4, INT_MAX), EPF_E_INVALID},
    {AT(O, sm_margin), BAD(-1, INT_MIN, 3, INT_MAX), EPF_E_INVALID},
    {AT(O, duplicate_comm_buffer), BAD(-1, 0, 9, INT_MAX, INT_MIN), EPF_E_INVALID},
    {AT(O, fwd_gemm_block_size_n), BAD(-8, 0, 7, 12, 4104, INT_MAX), EPF_E_INVALID},
    {AT(O, num_workers), BAD(-1, INT_MIN, 1025, INT_MAX), EPF_E_INVALID},
    {AT(O, gemm_library), BAD(-1, INT_MIN, 4, INT_MAX), EPF_E_INVALID},
};
#undef O

#define COUNT(array) (array), sizeof(array) / sizeof *(array)
#define NONE NULL, 0

static const subject kSubjects[] = {
    {"epf_preprocess", sizeof(epf_preprocess_args), make_preprocess, call_preprocess,
     COUNT(kPreprocessTensors), NONE},
    {"epf_dispatch_group_gemm", sizeof(epf_dispatch_group_gemm_args), make_dispatch, call_dispatch,
     COUNT(kDispatchTensors), COUNT(kDispatchInts)},
    {"epf_dispatch_group_gemm with SwiGLU", sizeof(epf_dispatch_group_gemm_args), make_swiglu,
     call_dispatch, COUNT(kSwigluTensors), NONE},
    {"epf_group_gemm_combine", sizeof(epf_group_gemm_combine_args), make_combine, call_combine,
     COUNT(kCombineTensors), COUNT(kCombineInts)},
    {"epf_weight_create", sizeof(epf_weight_config), make_weight, call_weight,
     COUNT(kWeightTensors), COUNT(kWeightInts)},
    {"epf_op_create", sizeof(epf_op_config), make_op_config, call_create, NONE, COUNT(kConfigInts)},
};

/* ---- the cases ---- */

typedef union any_args {
    epf_preprocess_args preprocess;
    epf_dispatch_group_gemm_args dispatch;
    epf_group_gemm_combine_args combine;
    epf_weight_config weight;
    epf_op_config config;
} any_args;

/* One refused call, then one that works.  What a call gave is checked by the caller. */
static bool try_bad(op_rank *r, const subject *s, const any_args *bad, epf_status want,
                    const char *name, const char *what)
{
    const epf_status got = s->call(r, bad);
    any_args good;

    num_cases++;
    RANK_CHECK(r->rank, got == want, "%s: %s %s: status %d, want %d: %s", s->name, name, what, got,
               want, epf_last_error());
    RANK_CHECK(r->rank,
               strstr(epf_last_error(), name) != NULL && strchr(epf_last_error(), '\n') == NULL,
               "%s: %s %s: the text does not name it: %s", s->name, name, what, epf_last_error());
    if (s->call == call_preprocess) { /* a layout that failed to be filled may not be used */
        make_preprocess(r, &good);
        RANK_OK(r->rank, call_preprocess(r, &good));
        return true;
    }
    s->make(r, &good);
    RANK_CHECK(r->rank, s->call(r, &good) == EPF_OK, "%s after a bad %s %s: %s", s->name, name,
               what, epf_last_error());
    return true;
}

static bool try_tensors(op_rank *r, const subject *s)
{
    for (size_t i = 0; i < s->num_tensors; i++) {
        const tensor_field *f = &s->tensors[i];
        if (strstr(f->name, wanted) == NULL) {
            continue;
        }
        for (int32_t kind = 0; kind < NUM_SPOILINGS; kind++) {
            any_args bad;
            char what[48];
            s->make(r, &bad);
            epf_tensor *t = (epf_tensor *)(void *)((char *)&bad + f->offset);
            (void)snprintf(what, sizeof what, "spoilt in way %d", kind);
            if (spoil(t, (spoiling)kind, f->flags) &&
                !try_bad(r, s, &bad, EPF_E_INVALID, f->name, what)) {
                return false;
            }
        }
    }
    return true;
}

static bool try_ints(op_rank *r, const subject *s)
{
    for (size_t i = 0; i < s->num_ints; i++) {
        const int_field *f = &s->ints[i];
        for (int32_t b = 0; b < f->num_bad && strstr(f->name, wanted) != NULL; b++) {
            any_args bad;
            char what[48];
            s->make(r, &bad);
            memcpy((char *)&bad + f->offset, &f->bad[b], sizeof(int32_t));
            (void)snprintf(what, sizeof what, "at %d", f->bad[b]);
            if (!try_bad(r, s, &bad, f->status, f->name, what)) {
                return false;
            }
        }
    }
    return true;
}

/* Tables that are well formed, but say something else than the layout. */
static bool try_tables(op_rank *r)
{
    for (size_t i = 4; i < 11; i++) {
        const tensor_field *f = &kDispatchTensors[i];
        any_args bad;
        int32_t wrong[64];
        make_dispatch(r, &bad);
        epf_tensor *t = (epf_tensor *)(void *)((char *)&bad + f->offset);
        CHECK(t->shape[0] >= 1 && t->shape[0] <= 64, "%lld entries", (long long)t->shape[0]);
        memcpy(wrong, t->data, (size_t)t->shape[0] * sizeof *wrong);
        wrong[t->shape[0] - 1]++;
        t->data = wrong;
        if (!try_bad(r, &kSubjects[1], &bad, EPF_E_INVALID, f->name, "with a wrong entry")) {
            return false;
        }
    }
    return true;
}

/* Doubles and flags of the config, which the tables of ints cannot hold. */
static bool try_capacity(op_rank *r)
{
    static const double bad_capacity[] = {0, -1, NAN, INFINITY, -INFINITY};

    for (size_t i = 0; i < sizeof bad_capacity / sizeof bad_capacity[0]; i++) {
        any_args bad;
        make_op_config(r, &bad);
        bad.config.capacity = bad_capacity[i];
        if (!try_bad(r, &kSubjects[5], &bad, EPF_E_INVALID, "capacity", "bad")) {
            return false;
        }
    }
    return true;
}

/* Combinations that are wrong although each argument is right. */
static bool try_combinations(op_rank *r)
{
    const subject *dispatch = &kSubjects[1];
    const subject *combine = &kSubjects[3];
    epf_weight_config config;
    any_args a;
    bool ok;

    make_dispatch(r, &a);
    a.dispatch.gemm_input_reduce_last_dim = false;
    ok = try_bad(r, dispatch, &a, EPF_E_UNSUPPORTED, "gemm_input_reduce_last_dim", "false");
    make_dispatch(r, &a);
    memset(&a.dispatch.gemm_weight, 0, sizeof a.dispatch.gemm_weight);
    ok = ok && try_bad(r, dispatch, &a, EPF_E_INVALID, "gemm_weight", "left out");
    make_weight(r, &config);
    RANK_OK(r->rank, epf_weight_create(r->op, &config, &r->w1));
    make_dispatch(r, &a);
    a.dispatch.packed_weight = r->w1;
    ok = ok && try_bad(r, dispatch, &a, EPF_E_INVALID, "packed_weight", "beside gemm_weight");
    make_dispatch(r, &a);
    a.dispatch.keep_gemm_output = false;
    ok = ok && try_bad(r, dispatch, &a, EPF_E_INVALID, "keep_gemm_output", "false");
    make_dispatch(r, &a);
    a.dispatch.layout = NULL;
    ok = ok && try_bad(r, dispatch, &a, EPF_E_INVALID, "layout", "NULL");
    make_dispatch(r, &a);
    a.dispatch.enable_profiler = true;
    a.dispatch.profile_file_name = "../escape";
    ok = ok && try_bad(r, dispatch, &a, EPF_E_INVALID, "", "profile name that leaves the folder");
    make_swiglu(r, &a);
    memset(&a.dispatch.weight, 0, sizeof a.dispatch.weight);
    ok = ok && try_bad(r, dispatch, &a, EPF_E_INVALID, "weight", "left out with SwiGLU");
    make_combine(r, &a);
    memset(&a.combine.grad_weight, 0, sizeof a.combine.grad_weight);
    ok = ok && try_bad(r, combine, &a, EPF_E_INVALID, "grad_weight", "left out");
    make_combine(r, &a);
    a.combine.cp_flag = false;
    ok = ok && try_bad(r, combine, &a, EPF_E_INVALID, "cp_flag", "false beside gate_input");
    make_combine(r, &a);
    a.combine.layout = NULL;
    return ok && try_bad(r, combine, &a, EPF_E_INVALID, "layout", "NULL");
}

/* NULL where something must be. */
static bool try_nulls(op_rank *r)
{
    epf_preprocess_args args;
    epf_layout *layout = NULL;
    epf_layout_view view;
    epf_tensor tensor;
    epf_op_config config = op_config_of(r->c);
    epf_op *op = NULL;
    uint64_t bytes;
    double size;

    make_preprocess(r, &args);
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_preprocess(NULL, &args, &layout));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_preprocess(r->op, NULL, &layout));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_preprocess(r->op, &args, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_layout_get(NULL, &view));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_layout_get(r->layout, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_dispatch_group_gemm(NULL, NULL, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_dispatch_group_gemm(r->op, NULL, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_group_gemm_combine(NULL, NULL, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_group_gemm_combine(r->op, NULL, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_create(NULL, &config, &op));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_create(r->group, NULL, &op));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_create(r->group, &config, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_symmetric_bytes(NULL, &bytes));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_symmetric_bytes(r->op, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_symmetric_mb(r->op, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_symmetric_gb(NULL, &size));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_symmetric_breakdown(r->op, NULL, 0, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_poll_error(r->op, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_poll_error(NULL, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_sync(NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_finalize(NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_reset(NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_barrier(NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_send_buffer(r->op, 0, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_send_buffer(r->op, -1, &tensor));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_send_buffer(r->op, 2, &tensor));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_gate_buffer(r->op, 2, &tensor));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_gate_buffer(NULL, 0, &tensor));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_weight_create(r->op, NULL, &r->w1));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_layer_context_create(r->op, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_layer_forward(r->op, NULL, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_layer_backward(r->op, NULL, NULL));
    num_cases += 32;
    return true;
}

static bool try_all(op_rank *r)
{
    if (!op_preprocess(r) || !op_dispatch(r) || !op_combine(r)) {
        return false;
    }
    for (size_t s = 0; s < sizeof kSubjects / sizeof kSubjects[0]; s++) {
        if (!try_tensors(r, &kSubjects[s]) || !try_ints(r, &kSubjects[s])) {
            return false;
        }
    }
    if (wanted[0] == '\0' &&
        (!try_tables(r) || !try_capacity(r) || !try_combinations(r) || !try_nulls(r))) {
        return false;
    }
    return op_preprocess(r) && op_check_layout(r) && op_dispatch(r) && op_combine(r);
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && try_all(&r));
    op_close(&r);
}

int main(int argc, char **argv)
{
    const epf_problem problem = epf_problem_of("W1E3K2T6H16N32M4/zipf/seed101");
    const op_knobs knobs = {.num_workers = 3,
                            .num_buffers = 2,
                            .local_scatter = true,
                            .tables = true,
                            .own_outputs = true,
                            .gates = true,
                            .combine_weights = true,
                            .signal = true,
                            .grad_dtype = EPF_DTYPE_F32};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, false);
    int32_t failed;

    wanted = argc > 1 ? argv[1] : wanted;
    failed = op_run_function(c, run_rank, 0, "errors");
    printf("%d bad calls\n", num_cases);
    CHECK(failed > 0 || wanted[0] != '\0' || num_cases >= 500, "only %d bad calls", num_cases);
    op_case_free(c);
    epf_data_free(data);
    return op_finish(failed);
}
