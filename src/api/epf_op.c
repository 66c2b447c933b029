/* epf_op.c: making, ending and resetting an operator. */
#include "api/epf_op.h"

#include <math.h>
#include <string.h>

#include "api/epf_backend.h"
#include "api/epf_group.h"
#include "api/epf_spec.h"
#include "base/epf_alloc.h"
#include "core/epf_dtype.h"
#include "core/epf_route.h"

enum { MAX_WORKERS = 1024, MAX_BLOCK_N = 4096 };

static epf_status check_types(const epf_op_config *c)
{
    EPF_CHECK_ARG(epf_dtype_is_token(c->dtype), "dtype: %s (%d), must be bf16, fp16 or fp32",
                  epf_dtype_name(c->dtype), c->dtype);
    EPF_CHECK_ARG(c->weight_dtype == EPF_DTYPE_F32 || c->weight_dtype == EPF_DTYPE_BF16,
                  "weight_dtype: %s (%d), must be fp32 or bf16", epf_dtype_name(c->weight_dtype),
                  c->weight_dtype);
    EPF_CHECK_ARG(
        c->gemm_library >= EPF_GEMM_LIBRARY_AUTO && c->gemm_library <= EPF_GEMM_LIBRARY_PORTABLE,
        "gemm_library: %d, must be 0..%d", c->gemm_library, (int)EPF_GEMM_LIBRARY_PORTABLE);
    return EPF_OK;
}

static epf_status check_config(const epf_op_config *c, int32_t num_ranks)
{
    EPF_CHECK_ARG(c->max_tokens >= 1, "max_tokens: %d, must be at least 1", c->max_tokens);
    EPF_CHECK_ARG(c->hidden >= 8 && c->hidden % 8 == 0,
                  "hidden: %d, must be a positive multiple of 8", c->hidden);
    EPF_CHECK_ARG(c->topk >= 1 && c->topk <= EPF_MAX_TOPK, "topk: %d, must be 1..%d", c->topk,
                  (int)EPF_MAX_TOPK);
    EPF_CHECK_ARG(c->num_tot_experts >= 1 && c->num_tot_experts % num_ranks == 0,
                  "num_tot_experts: %d, must be a positive multiple of the %d ranks",
                  c->num_tot_experts, num_ranks);
    EPF_CHECK_ARG((int64_t)c->max_tokens * c->topk <= INT32_MAX / num_ranks,
                  "max_tokens: %d with topk %d and %d ranks is more than 2^31 - 1 rows",
                  c->max_tokens, c->topk, num_ranks);
    EPF_CHECK_ARG(c->hidden <= INT64_MAX / 64 / ((int64_t)c->max_tokens * c->topk * num_ranks),
                  "hidden: %d with %d tokens, topk %d and %d ranks is more than 2^63 bytes",
                  c->hidden, c->max_tokens, c->topk, num_ranks);
    EPF_CHECK_ARG(c->duplicate_comm_buffer >= 1 && c->duplicate_comm_buffer <= EPF_MAX_BUFFER_SETS,
                  "duplicate_comm_buffer: %d, must be 1..%d", c->duplicate_comm_buffer,
                  (int)EPF_MAX_BUFFER_SETS);
    EPF_CHECK_ARG(isfinite(c->capacity) && c->capacity > 0.0, "capacity: %g, must be above 0",
                  c->capacity);
    EPF_CHECK_ARG(c->fwd_gemm_block_size_n >= 8 && c->fwd_gemm_block_size_n <= MAX_BLOCK_N &&
                      c->fwd_gemm_block_size_n % 8 == 0,
                  "fwd_gemm_block_size_n: %d, must be a multiple of 8 in 8..%d",
                  c->fwd_gemm_block_size_n, (int)MAX_BLOCK_N);
    EPF_CHECK_ARG(c->num_workers >= EPF_AUTO && c->num_workers <= MAX_WORKERS,
                  "num_workers: %d, must be 0..%d", c->num_workers, (int)MAX_WORKERS);
    EPF_CHECK_ARG(c->num_sm >= EPF_AUTO, "num_sm: %d, must be at least 0", c->num_sm);
    EPF_CHECK_ARG(c->sm_margin >= 0 && c->sm_margin < MAX_WORKERS, "sm_margin: %d, must be 0..%d",
                  c->sm_margin, MAX_WORKERS - 1);
    return check_types(c);
}

/* What all ranks must have alike, field by field, in one comparable form. */
typedef struct agreement {
    int32_t status;
    int32_t fields[9];
    double capacity;
} agreement;

static const char *const agreed_names[] = {"backend",
                                           "max_tokens",
                                           "hidden",
                                           "topk",
                                           "num_tot_experts",
                                           "dtype",
                                           "weight_dtype",
                                           "duplicate_comm_buffer",
                                           "lazy"};

static void fill_agreement(const epf_op_config *c, epf_status mine, agreement *a)
{
    const int32_t fields[] = {
        c->backend,         c->max_tokens, c->hidden,       c->topk,
        c->num_tot_experts, c->dtype,      c->weight_dtype, c->duplicate_comm_buffer,
        c->lazy ? 1 : 0};
    memset(a, 0, sizeof *a);
    a->status = mine;
    memcpy(a->fields, fields, sizeof fields);
    a->capacity = c->capacity;
    if (c->allow_regrow) {
        a->fields[8] |= 2;
    }
}

static epf_status compare_agreements(const agreement *all, int32_t num_ranks)
{
    for (int32_t r = 0; r < num_ranks; r++) {
        if (all[r].status != EPF_OK) {
            return EPF_FAIL((epf_status)all[r].status, "rank %d: its operator's config is refused",
                            r);
        }
    }
    for (int32_t r = 1; r < num_ranks; r++) {
        for (size_t f = 0; f < sizeof agreed_names / sizeof agreed_names[0]; f++) {
            EPF_CHECK_ARG(all[r].fields[f] == all[0].fields[f],
                          "%s: %d on rank 0, %d on rank %d, must be equal", agreed_names[f],
                          all[0].fields[f], all[r].fields[f], r);
        }
        EPF_CHECK_ARG(fabs(all[r].capacity - all[0].capacity) <= 0.0,
                      "capacity: %g on rank 0, %g on rank %d, must be equal", all[0].capacity,
                      all[r].capacity, r);
    }
    return EPF_OK;
}

/* All ranks find the same error, or none; takes no memory. */
static epf_status agree(epf_comm *comm, const epf_op_config *config, epf_status mine)
{
    agreement own;
    agreement *const all = comm->scratch;
    _Static_assert(sizeof own <= EPF_COMM_SCRATCH_BYTES, "an agreement fits a rank's scratch");
    fill_agreement(config, mine, &own);
    EPF_TRY(epf_comm_all_gather(comm, &own, all, sizeof own));
    return mine != EPF_OK ? mine : compare_agreements(all, comm->num_ranks);
}

epf_status epf_op_place_workers(epf_op *op)
{
    const int32_t workers = op->num_workers;
    EPF_CHECK_ARG(op->config.sm_margin < workers, "sm_margin: %d, must be below the %d workers",
                  op->config.sm_margin, workers);
    op->num_working = workers - op->config.sm_margin;
    EPF_CHECK_ARG(op->config.num_sm <= op->num_working,
                  "num_sm: %d, must be at most %d: the %d workers less sm_margin %d",
                  op->config.num_sm, op->num_working, workers, op->config.sm_margin);
    return EPF_OK;
}

static void make_shape(epf_op *op)
{
    const epf_op_config *const c = &op->config;
    const int32_t num_ranks = op->comm->num_ranks;
    const double share = c->capacity < num_ranks ? c->capacity : (double)num_ranks;
    int64_t rows;
    op->shape.num_ranks = num_ranks;
    op->shape.num_experts = c->num_tot_experts;
    op->shape.num_local = c->num_tot_experts / num_ranks;
    op->shape.topk = c->topk;
    op->shape.hidden = c->hidden;
    op->shape.max_tokens = c->max_tokens;
    op->shape.token_bytes = epf_dtype_bytes(c->dtype);
    op->shape.weight_bytes = epf_dtype_bytes(c->weight_dtype);
    epf_control_map_make(&op->shape, &op->control_map);
    rows = (int64_t)ceil((double)epf_shape_max_slots(&op->shape) * share);
    for (int32_t i = 0; i < c->duplicate_comm_buffer; i++) {
        epf_set_map_make(&op->shape, epf_max64(rows, 1), &op->sets[i].map);
    }
}

static epf_status prepare(epf_op *op, const epf_op_config *user)
{
    EPF_TRY(epf_struct_import(&epf_spec_op_config, user, &op->config));
    EPF_TRY(check_config(&op->config, op->comm->num_ranks));
    EPF_TRY(epf_backend_find(op->config.backend, &op->backend));
    EPF_TRY(op->backend->check_config(&op->config));
    make_shape(op);
    return op->backend->create(op);
}

epf_status epf_op_create(epf_group *group, const epf_op_config *config, epf_op **out)
{
    epf_status st;
    epf_op *op;
    EPF_CHECK_ARG(group != NULL, "group: NULL");
    EPF_CHECK_ARG(out != NULL, "op: NULL");
    op = epf_alloc(1, sizeof *op);
    if (op == NULL) {
        const epf_op_config none = {0};
        return agree(group->comm, &none,
                     EPF_FAIL(EPF_E_NO_MEMORY, "operator: %zu bytes", sizeof *op));
    }
    op->comm = group->comm;
    st = prepare(op, config);
    EPF_TRY_GOTO(agree(op->comm, &op->config, st), err_op);
    EPF_TRY_GOTO(op->backend->join(op), err_op);
    if (!op->config.lazy) {
        EPF_TRY_GOTO(epf_op_sync(op), err_op);
    }
    *out = op;
    return EPF_OK;

err_op:
    epf_op_destroy(op);
    return st;
}

epf_fault epf_op_fault(const epf_op *op)
{
    epf_fault fault = op->fault;
    if (fault.status == EPF_OK && op->control.base != NULL) {
        op->backend->poll(op, &fault);
    }
    return fault;
}

epf_status epf_op_check_ready(const epf_op *op, const char *function)
{
    epf_fault fault;
    EPF_CHECK_ARG(op != NULL, "%s: op is NULL", function);
    if (op->is_finalized) {
        return EPF_FAIL(EPF_E_STATE, "%s: the operator was finalized", function);
    }
    if (op->control.base == NULL) {
        return EPF_FAIL(EPF_E_STATE, "%s: a lazy operator needs epf_op_sync() first", function);
    }
    fault = epf_op_fault(op);
    if (fault.status != EPF_OK) {
        return EPF_FAIL(EPF_E_STATE, "%s: after %s on rank %d the operator needs epf_op_reset()",
                        function, epf_status_name((epf_status)fault.status), fault.rank);
    }
    return EPF_OK;
}

epf_status epf_op_check_set(const epf_op *op, int32_t comm_buffer_id)
{
    EPF_CHECK_ARG(comm_buffer_id >= 0 && comm_buffer_id < op->config.duplicate_comm_buffer,
                  "comm_buffer_id: %d, must be 0..%d", comm_buffer_id,
                  op->config.duplicate_comm_buffer - 1);
    return EPF_OK;
}

static const char *object_name(int32_t object)
{
    switch (object) {
#define X(name, text) \
    case (name):      \
        return (text);
        EPF_OBJECT_MAP(X)
#undef X
    default:
        return "unknown";
    }
}

epf_status epf_op_say(const epf_fault *fault)
{
    if (fault->object == EPF_OBJECT_NONE) {
        return EPF_FAIL((epf_status)fault->status, "rank %d, worker %d: %s", fault->rank,
                        fault->worker, epf_status_text((epf_status)fault->status));
    }
    if (fault->status == EPF_E_INVALID) {
        return EPF_FAIL(
            EPF_E_INVALID,
            "rank %d is in another call than rank %d (operation %u, buffer set %u, layout %u "
            "against %u, %u, %u; operations: 1 dispatch, 2 serial, 3 fuse_scatter combine)",
            fault->peer, fault->rank, epf_tag_kind(fault->seen), epf_tag_set(fault->seen),
            epf_tag_layout(fault->seen), epf_tag_kind(fault->expected),
            epf_tag_set(fault->expected), epf_tag_layout(fault->expected));
    }
    return EPF_FAIL(
        (epf_status)fault->status,
        "rank %d, worker %d: waited for %s[%lld] of rank %d, expected epoch %u count %u, saw "
        "epoch %u count %u",
        fault->rank, fault->worker, object_name(fault->object), (long long)fault->index,
        fault->peer, epf_word_epoch(fault->expected), epf_word_low(fault->expected),
        epf_word_epoch(fault->seen), epf_word_low(fault->seen));
}

epf_status epf_op_fail(epf_op *op, const epf_fault *fault)
{
    op->fault = *fault;
    return epf_op_say(fault);
}

epf_status epf_op_give_up(epf_op *op, epf_buffer_set *set, const epf_layout *layout,
                          epf_status status)
{
    epf_fault fault;
    if (op->shape.num_ranks == 1 || op->fault.status != EPF_OK) {
        return status;
    }
    if (layout != NULL) {
        EPF_TRY(epf_op_reserve_rows(op, set, layout)); /* if it fails, it does on all ranks */
    }
    if (op->epoch >= EPF_EPOCH_LAST) {
        EPF_TRY(epf_op_next_epoch(op)); /* where all meet, and see no abort either */
    }
    memset(&fault, 0, sizeof fault);
    fault.status = status;
    fault.rank = op->comm->rank;
    fault.peer = -1;
    op->backend->raise(op, &fault);
    op->fault = fault; /* the text of what failed stands */
    return status;
}

/* Closes the operator until a reset, unless a fault already says more. */
static epf_status close_op(epf_op *op, epf_status status)
{
    if (epf_op_fault(op).status == EPF_OK) {
        memset(&op->fault, 0, sizeof op->fault);
        op->fault.status = status;
        op->fault.rank = op->comm->rank;
        op->fault.peer = -1;
    }
    return status;
}

epf_status epf_op_note(epf_op *op, epf_status status)
{
    const bool may_disagree = status == EPF_E_TIMEOUT || status == EPF_E_PEER ||
                              status == EPF_E_STATE || status == EPF_E_INVALID;
    return may_disagree ? close_op(op, status) : status;
}

epf_status epf_op_poll_error(const epf_op *op, epf_error_record *record)
{
    epf_fault fault;
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    EPF_CHECK_ARG(record != NULL, "record: NULL");
    fault = epf_op_fault(op);
    memset(record, 0, sizeof *record);
    record->status = fault.status;
    record->rank = fault.rank;
    record->worker = fault.worker;
    record->object = object_name(fault.object);
    record->peer = fault.status == EPF_OK ? -1 : fault.peer;
    record->index = fault.index;
    record->expected = fault.expected;
    record->seen = fault.seen;
    return EPF_OK;
}

epf_status epf_op_synchronize(epf_op *op)
{
    epf_fault fault;
    epf_status st;
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    st = op->backend->wait(op);
    fault = epf_op_fault(op);
    return fault.status != EPF_OK ? epf_op_say(&fault) : st;
}

epf_status epf_op_set_stream(epf_op *op, void *stream)
{
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    return op->backend->set_stream(op, stream);
}

epf_status epf_op_stream(const epf_op *op, void **stream)
{
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    EPF_CHECK_ARG(stream != NULL, "stream: NULL");
    *stream = op->backend->stream(op);
    return EPF_OK;
}

void epf_op_fill_call(const epf_op *op, const epf_buffer_set *set, epf_call *call)
{
    memset(call, 0, sizeof *call);
    call->shape = op->shape;
    call->control_map = op->control_map;
    call->set_map = set->map;
    call->rank = op->comm->rank;
    call->set_index = (int32_t)(set - op->sets);
    call->dtype = op->config.dtype;
    call->weight_dtype = op->config.weight_dtype;
    call->gemm_kind = op->config.gemm_library;
    call->control = op->control.table;
    call->set = set->window.table;
    call->phase.epoch = op->epoch;
    call->phase.free_epoch = set->combine_epoch + 1;
    call->phase.num_ranks = op->shape.num_ranks;
    call->phase.num_workers = op->num_working;
}

static epf_status zero_own_words(epf_op *op)
{
    for (int32_t i = 0; i < EPF_MAX_BUFFER_SETS; i++) {
        op->sets[i].combine_epoch = 0;
    }
    op->epoch = 0;
    op->num_preprocess = 0;
    return op->backend->zero(op);
}

/* After a regrow that some ranks finished and some did not: all take the larger one. */
static epf_status align_sets(epf_op *op)
{
    int64_t mine[EPF_MAX_BUFFER_SETS];
    const int64_t *const all = op->comm->scratch;
    _Static_assert(sizeof mine <= EPF_COMM_SCRATCH_BYTES, "rows of all sets fit a rank's scratch");
    memset(mine, 0, sizeof mine);
    for (int32_t i = 0; i < op->config.duplicate_comm_buffer; i++) {
        mine[i] = op->sets[i].map.rows;
    }
    EPF_TRY(epf_comm_all_gather(op->comm, mine, op->comm->scratch, sizeof mine));
    for (int32_t i = 0; i < op->config.duplicate_comm_buffer; i++) {
        int64_t least = mine[i];
        int64_t most = mine[i];
        for (int32_t r = 0; r < op->shape.num_ranks; r++) {
            least = epf_min64(least, all[(int64_t)r * EPF_MAX_BUFFER_SETS + i]);
            most = epf_max64(most, all[(int64_t)r * EPF_MAX_BUFFER_SETS + i]);
        }
        mine[i] = least < most ? most : 0; /* scratch is used again below */
    }
    for (int32_t i = 0; i < op->config.duplicate_comm_buffer; i++) {
        EPF_TRY(mine[i] > 0 ? epf_op_replace_set(op, &op->sets[i], mine[i], NULL) : EPF_OK);
    }
    return EPF_OK;
}

static epf_status start_again(epf_op *op)
{
    EPF_TRY(op->backend->wait(op));
    EPF_TRY(epf_comm_reset(op->comm));
    EPF_TRY(epf_comm_barrier(op->comm)); /* nobody is in a call any more */
    EPF_TRY(align_sets(op));
    EPF_TRY(zero_own_words(op));
    return epf_comm_barrier(op->comm); /* nobody starts before all are clean */
}

epf_status epf_op_reset(epf_op *op)
{
    epf_status st;
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    if (op->is_finalized || op->control.base == NULL) {
        return EPF_FAIL(EPF_E_STATE, "epf_op_reset: the operator holds no memory");
    }
    st = start_again(op);
    if (st != EPF_OK) {
        return close_op(op, st); /* also where it saw no error: it is now between two epochs */
    }
    memset(&op->fault, 0, sizeof op->fault);
    return EPF_OK;
}

/* All ranks start again from zeroed words; where that fails, some may have and some not. */
static epf_status wrap(epf_op *op)
{
    EPF_TRY(op->backend->wait(op));
    EPF_TRY(epf_comm_barrier(op->comm));
    EPF_TRY(zero_own_words(op));
    return epf_comm_barrier(op->comm);
}

epf_status epf_op_next_epoch(epf_op *op)
{
    if (op->epoch >= EPF_EPOCH_LAST) {
        const epf_status st = wrap(op);
        if (st != EPF_OK) {
            return close_op(op, st);
        }
    }
    op->epoch++;
    return EPF_OK;
}

epf_status epf_op_barrier(epf_op *op)
{
    EPF_TRY(epf_op_check_ready(op, "epf_op_barrier"));
    return op->backend->barrier(op);
}
