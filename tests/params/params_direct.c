/* params_direct.c: arguments of the public functions that are no args struct. */
#include <limits.h>
#include <string.h>

#include "params_try.h"
#include "support/epf_check.h"

/* A refused call, then one that works. */
#define TRY_AS(function, argument, says, bad, good)                           \
    do {                                                                      \
        params_note(function, argument);                                      \
        params_refused(function, argument, #bad, (bad), EPF_E_INVALID, says); \
        CHECK_OK(good);                                                       \
    } while (0)
#define TRY(function, argument, bad, good) TRY_AS(function, argument, argument, bad, good)

/* Functions that return no status take anything. */
#define HARMLESS(function, argument, condition)                   \
    do {                                                          \
        params_note(function, argument);                          \
        CHECK(condition, "%s with a bad %s", function, argument); \
    } while (0)

static void try_tensor_make(void)
{
    static const int64_t shape[EPF_MAX_DIMS] = {2, 3, 4, 5};
    static const int64_t negative[2] = {2, -1};
    static const int64_t lowest[2] = {INT64_MIN, 1};
    static const int64_t overflow[3] = {INT64_MAX / 2, 3, 1};
    static const int64_t hides_overflow[3] = {INT64_MAX / 2, 0, 8};
    static const int32_t bad_ndims[] = {0, -1, EPF_MAX_DIMS + 1, INT_MAX, INT_MIN};
    static const int bad_dtypes[] = {0, -1, 8, INT_MAX, INT_MIN};
    epf_tensor t;
    float x[120];
#define MAKE(t, dtype, ndim, shape) epf_tensor_make(t, x, (epf_dtype)(dtype), ndim, shape)
    const char *const f = "epf_tensor_make";
    TRY(f, "tensor", MAKE(NULL, EPF_DTYPE_F32, 2, shape), MAKE(&t, EPF_DTYPE_F32, 2, shape));
    TRY(f, "shape", MAKE(&t, EPF_DTYPE_F32, 2, NULL), MAKE(&t, EPF_DTYPE_F32, 2, shape));
    TRY(f, "shape", MAKE(&t, EPF_DTYPE_F32, 2, negative), MAKE(&t, EPF_DTYPE_F32, 2, shape));
    TRY(f, "shape", MAKE(&t, EPF_DTYPE_F32, 2, lowest), MAKE(&t, EPF_DTYPE_F32, 2, shape));
    TRY(f, "shape", MAKE(&t, EPF_DTYPE_F32, 3, overflow), MAKE(&t, EPF_DTYPE_F32, 4, shape));
    TRY(f, "shape", MAKE(&t, EPF_DTYPE_F32, 3, hides_overflow), MAKE(&t, EPF_DTYPE_F32, 1, shape));
    for (size_t i = 0; i < sizeof bad_ndims / sizeof *bad_ndims; i++) {
        TRY(f, "ndim", MAKE(&t, EPF_DTYPE_F32, bad_ndims[i], shape),
            MAKE(&t, EPF_DTYPE_F32, 2, shape));
        TRY(f, "dtype", MAKE(&t, bad_dtypes[i], 2, shape), MAKE(&t, EPF_DTYPE_U8, 2, shape));
    }
    HARMLESS(f, "data",
             epf_tensor_make(&t, NULL, EPF_DTYPE_F32, 2, shape) == EPF_OK && t.data == NULL);
#undef MAKE
}

static epf_status make_threads(int32_t num_ranks, epf_group **groups)
{
    const epf_status st = epf_group_create_threads(num_ranks, NULL, groups);
    if (st == EPF_OK) {
        epf_group_destroy(groups[0]);
    }
    return st;
}

static void try_group(params_rank *r)
{
    static const int32_t bad[] = {0, -1, 1025, INT_MAX, INT_MIN};
    params_args args;
    epf_group *groups[1] = {NULL};
    const char *const f = "epf_group_create_threads";
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        TRY(f, "num_ranks", make_threads(bad[i], groups), make_threads(1, groups));
    }
    TRY(f, "groups", make_threads(1, NULL), make_threads(1, groups));
    HARMLESS(f, "config", make_threads(1, groups) == EPF_OK);
    params_calls[PARAMS_GROUP].make(r, &args);
    TRY("epf_group_create", "group", epf_group_create(&args.group, NULL),
        params_calls[PARAMS_GROUP].call(r, &args));
    /* NULL is the environment, which is not set up here; what it needs is test_env's */
    HARMLESS("epf_group_create", "config", epf_group_create(NULL, groups) != EPF_OK);
    HARMLESS("epf_group_rank", "group",
             epf_group_rank(NULL) == -1 && epf_group_rank(r->group) == 0);
    HARMLESS("epf_group_num_ranks", "group",
             epf_group_num_ranks(NULL) == 0 && epf_group_num_ranks(r->group) == 1);
    HARMLESS("epf_group_destroy", "group", (epf_group_destroy(NULL), true));
}

static epf_status make_op(epf_group *group, const epf_op_config *config)
{
    epf_op *op = NULL;
    const epf_status st = epf_op_create(group, config, &op);
    epf_op_destroy(op);
    return st;
}

/* A lazy operator, brought through its life in between. */
static epf_status live(params_rank *r)
{
    epf_op_config config = params_op_config();
    epf_op *op = NULL;
    epf_status st;
    config.lazy = true;
    st = epf_op_create(r->group, &config, &op);
    st = st == EPF_OK ? epf_op_sync(op) : st;
    st = st == EPF_OK ? epf_op_materialize(op) : st;
    st = st == EPF_OK ? epf_op_finalize(op) : st;
    epf_op_destroy(op);
    return st;
}

static void try_op(params_rank *r)
{
    const epf_op_config config = params_op_config();
    epf_error_record record;
    void *stream;
    TRY("epf_op_create", "group", make_op(NULL, &config), make_op(r->group, &config));
    TRY("epf_op_create", "config", make_op(r->group, NULL), make_op(r->group, &config));
    TRY("epf_op_create", "op", epf_op_create(r->group, &config, NULL), make_op(r->group, &config));
    TRY("epf_op_sync", "op", epf_op_sync(NULL), live(r));
    TRY("epf_op_materialize", "op", epf_op_materialize(NULL), live(r));
    TRY("epf_op_finalize", "op", epf_op_finalize(NULL), live(r));
    HARMLESS("epf_op_destroy", "op", (epf_op_destroy(NULL), true));
    TRY("epf_op_poll_error", "op", epf_op_poll_error(NULL, &record),
        epf_op_poll_error(r->op, &record));
    TRY("epf_op_poll_error", "record", epf_op_poll_error(r->op, NULL),
        epf_op_poll_error(r->op, &record));
    TRY("epf_op_reset", "op", epf_op_reset(NULL), epf_op_reset(r->op));
    TRY("epf_op_barrier", "op", epf_op_barrier(NULL), epf_op_barrier(r->op));
    TRY("epf_op_synchronize", "op", epf_op_synchronize(NULL), epf_op_synchronize(r->op));
    TRY("epf_op_stream", "op", epf_op_stream(NULL, &stream), epf_op_stream(r->op, &stream));
    TRY("epf_op_stream", "stream", epf_op_stream(r->op, NULL), epf_op_stream(r->op, &stream));
    params_note("epf_op_set_stream", "op");
    params_refused("epf_op_set_stream", "op", "NULL", epf_op_set_stream(NULL, NULL), EPF_E_INVALID,
                   "op");
    params_note("epf_op_set_stream", "stream"); /* the CPU has none */
    params_refused("epf_op_set_stream", "stream", "any", epf_op_set_stream(r->op, &stream),
                   EPF_E_UNSUPPORTED, "stream");
}

static void try_sizes(params_rank *r)
{
    static const int32_t bad[] = {-1, INT_MIN};
    epf_buffer_info infos[64];
    uint64_t bytes;
    double size;
    int32_t count;
    const char *const f = "epf_op_symmetric_breakdown";
    TRY("epf_op_symmetric_bytes", "op", epf_op_symmetric_bytes(NULL, &bytes),
        epf_op_symmetric_bytes(r->op, &bytes));
    TRY("epf_op_symmetric_bytes", "bytes", epf_op_symmetric_bytes(r->op, NULL),
        epf_op_symmetric_bytes(r->op, &bytes));
    TRY("epf_op_symmetric_mb", "op", epf_op_symmetric_mb(NULL, &size),
        epf_op_symmetric_mb(r->op, &size));
    TRY("epf_op_symmetric_mb", "mb", epf_op_symmetric_mb(r->op, NULL),
        epf_op_symmetric_mb(r->op, &size));
    TRY("epf_op_symmetric_gb", "op", epf_op_symmetric_gb(NULL, &size),
        epf_op_symmetric_gb(r->op, &size));
    TRY("epf_op_symmetric_gb", "gb", epf_op_symmetric_gb(r->op, NULL),
        epf_op_symmetric_gb(r->op, &size));
    TRY(f, "op", epf_op_symmetric_breakdown(NULL, infos, 64, &count),
        epf_op_symmetric_breakdown(r->op, infos, 64, &count));
    TRY(f, "infos", epf_op_symmetric_breakdown(r->op, NULL, 1, &count),
        epf_op_symmetric_breakdown(r->op, NULL, 0, &count));
    TRY(f, "count", epf_op_symmetric_breakdown(r->op, infos, 64, NULL),
        epf_op_symmetric_breakdown(r->op, infos, 1, &count));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        TRY(f, "max", epf_op_symmetric_breakdown(r->op, infos, bad[i], &count),
            epf_op_symmetric_breakdown(r->op, infos, 64, &count));
    }
    HARMLESS(f, "max", epf_op_symmetric_breakdown(r->op, infos, INT_MAX, &count) == EPF_OK);
}

static void try_buffers(params_rank *r)
{
    static const int32_t bad[] = {-1, PARAMS_SETS, INT_MAX, INT_MIN};
    epf_tensor a;
    epf_tensor b;
    epf_layout *const l = r->layout;
    TRY("epf_op_send_buffer", "op", epf_op_send_buffer(NULL, 0, &a),
        epf_op_send_buffer(r->op, 0, &a));
    TRY("epf_op_send_buffer", "buffer", epf_op_send_buffer(r->op, 0, NULL),
        epf_op_send_buffer(r->op, 0, &a));
    TRY("epf_op_gate_buffer", "op", epf_op_gate_buffer(NULL, 0, &a),
        epf_op_gate_buffer(r->op, 0, &a));
    TRY("epf_op_gate_buffer", "buffer", epf_op_gate_buffer(r->op, 0, NULL),
        epf_op_gate_buffer(r->op, 0, &a));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        TRY("epf_op_send_buffer", "comm_buffer_id", epf_op_send_buffer(r->op, bad[i], &a),
            epf_op_send_buffer(r->op, 1, &a));
        TRY("epf_op_gate_buffer", "comm_buffer_id", epf_op_gate_buffer(r->op, bad[i], &a),
            epf_op_gate_buffer(r->op, 1, &a));
        TRY("epf_init_output_buffer", "comm_buffer_id",
            epf_init_output_buffer(r->op, l, bad[i], &a, &b),
            epf_init_output_buffer(r->op, l, 1, &a, &b));
    }
#define INIT(argument, bad) \
    TRY("epf_init_output_buffer", argument, bad, epf_init_output_buffer(r->op, l, 0, &a, &b))
    INIT("op", epf_init_output_buffer(NULL, l, 0, &a, &b));
    INIT("layout", epf_init_output_buffer(r->op, NULL, 0, &a, &b));
    INIT("layout", epf_init_output_buffer(r->op, r->other_layout, 0, &a, &b));
    INIT("output_buf", epf_init_output_buffer(r->op, l, 0, NULL, &b));
    INIT("weight_recv_buf", epf_init_output_buffer(r->op, l, 0, &a, NULL));
#undef INIT
}

static void try_phases(params_rank *r)
{
    params_args a;
    epf_layout_view view;
    epf_layout *layout = r->other_layout;
    epf_weight *weight = NULL;
#define VALID(id) params_calls[id].call(r, (params_calls[id].make(r, &a), &a))
    (void)VALID(PARAMS_PREPROCESS);
    TRY("epf_preprocess", "op", epf_preprocess(NULL, &a.preprocess, &r->layout),
        VALID(PARAMS_PREPROCESS));
    TRY("epf_preprocess", "args", epf_preprocess(r->op, NULL, &r->layout),
        VALID(PARAMS_PREPROCESS));
    TRY("epf_preprocess", "layout", epf_preprocess(r->op, &a.preprocess, NULL),
        VALID(PARAMS_PREPROCESS));
    TRY("epf_preprocess", "layout", epf_preprocess(r->op, &a.preprocess, &layout),
        VALID(PARAMS_PREPROCESS));
    TRY("epf_layout_get", "layout", epf_layout_get(NULL, &view), epf_layout_get(r->layout, &view));
    TRY("epf_layout_get", "view", epf_layout_get(r->layout, NULL),
        epf_layout_get(r->layout, &view));
    HARMLESS("epf_layout_destroy", "layout", (epf_layout_destroy(NULL), true));
    params_calls[PARAMS_WEIGHT].make(r, &a);
    TRY("epf_weight_create", "op", epf_weight_create(NULL, &a.weight, &weight),
        VALID(PARAMS_WEIGHT));
    TRY("epf_weight_create", "config", epf_weight_create(r->op, NULL, &weight),
        VALID(PARAMS_WEIGHT));
    TRY("epf_weight_create", "weight", epf_weight_create(r->op, &a.weight, NULL),
        VALID(PARAMS_WEIGHT));
    HARMLESS("epf_weight_destroy", "weight", (epf_weight_destroy(NULL), true));
    params_calls[PARAMS_DISPATCH].make(r, &a);
    TRY("epf_dispatch_group_gemm", "op", epf_dispatch_group_gemm(NULL, &a.dispatch, NULL),
        VALID(PARAMS_DISPATCH));
    TRY("epf_dispatch_group_gemm", "args", epf_dispatch_group_gemm(r->op, NULL, NULL),
        VALID(PARAMS_DISPATCH));
    HARMLESS("epf_dispatch_group_gemm", "result",
             epf_dispatch_group_gemm(r->op, &a.dispatch, NULL) == EPF_OK);
    params_calls[PARAMS_COMBINE].make(r, &a);
    TRY("epf_group_gemm_combine", "op", epf_group_gemm_combine(NULL, &a.combine, NULL),
        VALID(PARAMS_COMBINE));
    TRY("epf_group_gemm_combine", "args", epf_group_gemm_combine(r->op, NULL, NULL),
        VALID(PARAMS_COMBINE));
    HARMLESS("epf_group_gemm_combine", "result",
             epf_group_gemm_combine(r->op, &a.combine, NULL) == EPF_OK);
}

static epf_status make_context(params_rank *r)
{
    epf_layer_context *context = NULL;
    const epf_status st = epf_layer_context_create(r->op, &context);
    epf_layer_context_destroy(context);
    return st;
}

static void try_layer(params_rank *r)
{
    params_args a;
    epf_layer_context *context = NULL;
    TRY("epf_layer_context_create", "op", epf_layer_context_create(NULL, &context),
        make_context(r));
    TRY("epf_layer_context_create", "context", epf_layer_context_create(r->op, NULL),
        make_context(r));
    HARMLESS("epf_layer_context_destroy", "context", (epf_layer_context_destroy(NULL), true));
    HARMLESS("epf_layer_context_layout", "context",
             epf_layer_context_layout(NULL) == NULL &&
                 epf_layer_context_layout(r->other_context) == NULL &&
                 epf_layer_context_layout(r->context) != NULL);
    params_calls[PARAMS_FORWARD].make(r, &a);
    TRY("epf_layer_forward", "op", epf_layer_forward(NULL, r->context, &a.forward),
        VALID(PARAMS_FORWARD));
    TRY("epf_layer_forward", "context", epf_layer_forward(r->op, NULL, &a.forward),
        VALID(PARAMS_FORWARD));
    TRY("epf_layer_forward", "context", epf_layer_forward(r->op, r->other_context, &a.forward),
        VALID(PARAMS_FORWARD));
    TRY("epf_layer_forward", "args", epf_layer_forward(r->op, r->context, NULL),
        VALID(PARAMS_FORWARD));
    params_calls[PARAMS_BACKWARD].make(r, &a);
    TRY("epf_layer_backward", "op", epf_layer_backward(NULL, r->context, &a.backward),
        VALID(PARAMS_BACKWARD));
    TRY("epf_layer_backward", "context", epf_layer_backward(r->op, NULL, &a.backward),
        VALID(PARAMS_BACKWARD));
    TRY("epf_layer_backward", "context", epf_layer_backward(r->op, r->other_context, &a.backward),
        VALID(PARAMS_BACKWARD));
    TRY("epf_layer_backward", "args", epf_layer_backward(r->op, r->context, NULL),
        VALID(PARAMS_BACKWARD));
#undef VALID
}

static void try_texts(void)
{
    static const int bad[] = {1, -12, INT_MAX, INT_MIN};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        HARMLESS("epf_status_text", "status", epf_status_text((epf_status)bad[i]) != NULL);
        HARMLESS("epf_status_name", "status", epf_status_name((epf_status)bad[i]) != NULL);
    }
    CHECK(strcmp(epf_version(), "") != 0 && epf_last_error() != NULL, "version and last error");
}

void params_direct(params_rank *r)
{
    try_tensor_make();
    try_group(r);
    try_op(r);
    try_sizes(r);
    try_buffers(r);
    try_phases(r);
    try_layer(r);
    try_texts();
}
