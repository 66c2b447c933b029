/* sim_calls.c: one rank's calls, checked against the reference, and what it may answer after a fault. */
#include "sim_calls.h"

#include <string.h>

#include "api/epf_op.h"
#include "support/epf_check.h"

/* Beside the timeout: looks at peers are 5 ms apart and sleeps last up to 1 ms; the rest is steps. */
enum { NOTICE_NS = 15000000 };

/* Some rank has begun a call of its own set: from then to the reset any rank may hear of it, also one that
 * still is in the call before. */
static bool odd_begun;

/* Of the call in which a rank ran out of memory. */
static int32_t failed_position;

/* When the last rank so far began each call: its waits end one after another, each within its own time, so who
 * came early may first have waited for who is slow and then for who stands still. */
static uint64_t last_start_ns[MAX_EPISODES * MAX_CALLS];

static int32_t layout_owner(int32_t which)
{
    return which == 1 ? 0 : which;
}

static op_rank *case_of(run_rank *k, const plan_call *call)
{
    op_rank *const r = &k->cases[call->which];
    r->layout = k->cases[layout_owner(call->which)].layout;
    return r;
}

epf_status rank_open(run_rank *k)
{
    const sim_plan *const p = k->plan;
    epf_op_config config = op_config_of(p->cases[0]);
    epf_status st;
    op_rank owner;
    odd_begun = false;
    failed_position = MAX_EPISODES * MAX_CALLS;
    memset(last_start_ns, 0, sizeof last_start_ns);
    config.num_workers = p->knobs[0].mixed ? 1 + k->rank.rank % 3 : config.num_workers;
    st = epf_op_create(k->group, &config, &k->op);
    memset(&owner, 0, sizeof owner);
    owner.rank = &k->rank;
    owner.id = k->rank.rank;
    owner.group = k->group;
    owner.op = k->op;
    for (int32_t c = 0; c < p->num_cases; c++) {
        op_borrow(&k->cases[c], p->cases[c], &owner);
    }
    if (st == EPF_OK && p->first_epoch != 0) {
        k->op->epoch = p->first_epoch; /* counters only have to grow */
    }
    return st != EPF_OK || !p->is_layer ? st : epf_layer_context_create(k->op, &k->context);
}

void rank_close(run_rank *k)
{
    epf_layer_context_destroy(k->context);
    for (int32_t c = 0; c < MAX_CASES; c++) {
        if (layout_owner(c) == c) {
            epf_layout_destroy(k->cases[c].layout);
        }
        k->cases[c].layout = NULL;
    }
    epf_op_destroy(k->op);
    k->op = NULL;
}

/* ---- what a call may answer ---- */

static bool has_bad_id(const sim_plan *p, const plan_call *call)
{
    return call->kind == CALL_BAD_PREPROCESS && p->data[call->which]->num_tokens[call->rank] > 0;
}

/* Exchanges of the group watch no abort: who is ahead of the failed rank, in one of the next call, waits its
 * time.  Who is in the same call does not: the failed rank comes to that one. */
static bool is_collective_timeout(const run_rank *k, epf_status st)
{
    epf_error_record record;
    return st == EPF_E_TIMEOUT && k->position > failed_position && k->op != NULL &&
           epf_op_poll_error(k->op, &record) == EPF_OK && strcmp(record.object, "nothing") == 0;
}

/* Whether a rank may say `st` because of the fault that happened. */
static bool is_excused(const run_rank *k, epf_status st)
{
    const sim_plan *const p = k->plan;
    const sim_fault *const f = sim_fault_now();
    if (odd_begun && st == EPF_E_INVALID) {
        return true;
    }
    if (f == NULL) {
        return false;
    }
    switch (f->kind) {
    case SIM_FAULT_KILL:
        return st == EPF_E_PEER;
    case SIM_FAULT_PAUSE:
    case SIM_FAULT_STALL:
        if (f->duration_ns < p->timeout_ns * 9 / 10) {
            return false;
        }
        return st == EPF_E_TIMEOUT || k->rank.rank == f->rank;
    case SIM_FAULT_MEMORY:
        return st == EPF_E_NO_MEMORY || is_collective_timeout(k, st);
    default:
        return false;
    }
}

/* The time by which a call that began at start_ns is over, whatever happened. */
static uint64_t latest_end(const run_rank *k, epf_status st, uint64_t start_ns)
{
    const sim_fault *const f = sim_fault_now();
    const uint64_t timeout_ns = k->plan->timeout_ns;
    uint64_t from = sim_fault_time() > start_ns ? sim_fault_time() : start_ns;
    bool is_stall;
    if (f == NULL) {
        return UINT64_MAX;
    }
    is_stall = f->kind == SIM_FAULT_STALL || f->kind == SIM_FAULT_PAUSE;
    if (!is_stall && st != EPF_E_TIMEOUT) {
        return from + NOTICE_NS;
    }
    if (last_start_ns[k->position] > from) {
        from = last_start_ns[k->position];
    }
    if (is_stall && k->rank.rank == f->rank) {
        from += f->duration_ns;
    }
    return from + timeout_ns + timeout_ns / 10 + NOTICE_NS / 5;
}

static void check_answer(run_rank *k, const char *name, epf_status normal, epf_status st,
                         uint64_t start_ns)
{
    const uint64_t latest = latest_end(k, st, start_ns);
    if (st != normal && !is_excused(k, st)) {
        sim_fail("rank %d: %s: status %d, want %d: %s", k->rank.rank, name, (int)st, (int)normal,
                 epf_last_error());
    }
    if (sim_now() > latest) {
        sim_fail("rank %d: %s: %.3f ms too late, status %d", k->rank.rank, name,
                 (double)(sim_now() - latest) * 1e-6, (int)st);
    }
}

static void check_result(run_rank *k, const char *name, bool ok)
{
    if (!ok) {
        sim_fail("rank %d: %s: %s", k->rank.rank, name, k->failure);
    }
}

/* ---- the calls ---- */

static epf_status preprocess(run_rank *k, const plan_call *call)
{
    op_rank *const r = case_of(k, call);
    epf_preprocess_args args;
    epf_status st;
    int32_t *const first = r->ids.tensor.data;
    const bool is_bad = has_bad_id(k->plan, call) && call->rank == k->rank.rank;
    const int32_t kept = is_bad ? *first : 0;
    CHECK_OK(epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    if (is_bad) {
        *first = k->plan->data[call->which]->problem.num_experts + 3;
    }
    st = epf_preprocess(k->op, &args, &r->layout);
    if (is_bad) {
        *first = kept;
    }
    if (st == EPF_OK) {
        check_result(k, "layout",
                     epf_layout_get(r->layout, &r->view) == EPF_OK && op_check_layout(r));
    }
    return st;
}

/* Tokens into the send buffer, for dispatch without a copy; it grows before, not with them in it. */
static epf_status fill_send_buffer(run_rank *k, op_rank *r)
{
    const size_t bytes = (size_t)r->x.cols * epf_element_bytes(r->x.dtype);
    epf_tensor rows;
    epf_tensor weights;
    epf_tensor buffer;
    epf_status st = epf_init_output_buffer(k->op, r->layout, r->c->knobs.buffer, &rows, &weights);
    if (st == EPF_OK) {
        st = epf_op_send_buffer(k->op, r->c->knobs.buffer, &buffer);
    }
    for (int64_t t = 0; st == EPF_OK && t < r->x.rows; t++) {
        memcpy((char *)buffer.data + (size_t)t * bytes,
               (const char *)r->x.tensor.data + (size_t)t * bytes, bytes);
    }
    return st;
}

/* The gates into the gate buffer, for combine without a copy. */
static epf_status fill_gate_buffer(run_rank *k, const op_rank *r)
{
    const epf_ref_matrix *const gates = &r->c->ranks[r->id].gate_in;
    epf_tensor buffer;
    const epf_status st = epf_op_gate_buffer(k->op, r->c->knobs.buffer, &buffer);
    if (st == EPF_OK) {
        epf_pack((epf_dtype)buffer.dtype, gates->value, gates->rows, buffer.data);
    }
    return st;
}

static epf_status dispatch(run_rank *k, const plan_call *call)
{
    op_rank *const r = case_of(k, call);
    epf_dispatch_group_gemm_args args = op_dispatch_args(r);
    epf_status st = r->c->knobs.in_place ? fill_send_buffer(k, r) : EPF_OK;
    if (st != EPF_OK) {
        return st;
    }
    if (call->kind == CALL_ODD_DISPATCH && call->rank == k->rank.rank) {
        args.comm_buffer_id = 1 - args.comm_buffer_id;
    }
    st = epf_dispatch_group_gemm(k->op, &args, &r->first);
    if (st == EPF_OK) {
        check_result(k, "dispatch", op_check_dispatch(r));
    }
    return st;
}

static bool check_combine(op_rank *r, const epf_group_gemm_combine_result *result)
{
    const op_expected *const e = &r->c->ranks[r->id];
    const op_want output = {"combine_output", &e->output, NULL, !r->c->knobs.swiglu};
    const op_want gate = {"output_gate", &e->gate, NULL, true};
    const op_want grad = {"grad_weight", &e->grad, NULL, true};
    return op_check_tensor(r->rank, &result->combine_output, &output) &&
           (!r->c->knobs.gates || op_check_tensor(r->rank, &result->output_gate, &gate)) &&
           (r->c->knobs.grad_dtype == 0 || op_check_tensor(r->rank, &r->grad.tensor, &grad)) &&
           op_check_guard(r->rank, "combine_output", &r->output);
}

static epf_status combine(run_rank *k, const plan_call *call)
{
    op_rank *const r = case_of(k, call);
    const int64_t tiles = r->c->route.ranks[r->id].num_tiles_total;
    epf_group_gemm_combine_result result;
    epf_group_gemm_combine_args args;
    epf_status st = r->c->knobs.gates_in_place ? fill_gate_buffer(k, r) : EPF_OK;
    if (st != EPF_OK) {
        return st;
    }
    if (r->c->knobs.signal && r->signal.tensor.data == NULL) {
        r->signal = op_matrix_make(tiles, 1, EPF_DTYPE_I32, (op_guard){1, 0});
    }
    args = op_combine_args(r);
    st = epf_group_gemm_combine(k->op, &args, &result);
    if (st == EPF_OK) {
        check_result(k, "combine", check_combine(r, &result));
    }
    return st;
}

static epf_status layer(run_rank *k, const plan_call *call)
{
    op_rank *const r = &k->cases[call->which];
    const epf_problem *const p = &r->c->data->problem;
    const int64_t local = r->c->route.num_local_experts;
    const op_want output = {"layer output", &r->c->ranks[r->id].output, NULL, false};
    const int64_t half = r->id * local * p->hidden * (p->num_columns / 2);
    epf_layer_forward_args args;
    epf_status st;
    CHECK_OK(epf_layer_forward_args_init(&args));
    args.input = r->x.tensor;
    args.exp_indices = r->ids.tensor;
    args.weight = r->weight.tensor;
    args.output = r->output.tensor;
    args.weights.w13 =
        op_tensor3(r->c->data->b1[r->id].data, p->dtype, local, p->num_columns, p->hidden);
    args.weights.w2 = op_tensor3(epf_tensor_at(r->c->b2_half, half).data, p->dtype, local,
                                 p->hidden, p->num_columns / 2);
    args.comm_buffer_id = r->c->knobs.buffer;
    args.combine_mode = p->fuse_scatter ? EPF_COMBINE_FUSE_SCATTER : EPF_COMBINE_SERIAL;
    st = epf_layer_forward(k->op, k->context, &args);
    if (st == EPF_OK) {
        check_result(k, "layer", op_check_tensor(r->rank, &args.output, &output));
    }
    return st;
}

static epf_status make_call(run_rank *k, const plan_call *call)
{
    switch (call->kind) {
    case CALL_DISPATCH:
    case CALL_ODD_DISPATCH:
        return dispatch(k, call);
    case CALL_COMBINE:
        return combine(k, call);
    case CALL_LAYER:
        return layer(k, call);
    case CALL_BARRIER:
        return epf_op_barrier(k->op);
    case CALL_RESET:
        return epf_op_reset(k->op);
    default:
        return preprocess(k, call);
    }
}

epf_status rank_call(run_rank *k, const plan_call *call)
{
    const uint64_t start_ns = sim_now(); /* time goes forward only */
    const epf_status normal = has_bad_id(k->plan, call) ? EPF_E_INVALID : EPF_OK;
    epf_status st;
    last_start_ns[k->position] = start_ns;
    odd_begun = odd_begun || call->kind == CALL_ODD_DISPATCH;
    sim_note(call_name(call->kind), -1);
    st = make_call(k, call);
    if (st == EPF_E_NO_MEMORY && sim_fault_now() != NULL &&
        sim_fault_now()->rank == k->rank.rank) { /* a layer is several calls in one */
        failed_position = k->position - (call->kind == CALL_LAYER ? 1 : 0);
    }
    sim_note(call_name(call->kind), (int32_t)st);
    check_answer(k, call_name(call->kind), normal, st, start_ns);
    k->num_calls++;
    return st == normal ? EPF_OK : st;
}

epf_status rank_reset(run_rank *k)
{
    const uint64_t start_ns = sim_now();
    epf_status st;
    odd_begun = false;
    failed_position = MAX_EPISODES * MAX_CALLS;
    sim_note("reset", -1);
    st = epf_op_reset(k->op);
    sim_note("reset", (int32_t)st);
    check_answer(k, "reset", EPF_OK, st, start_ns);
    return st;
}
