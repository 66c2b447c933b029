/*
 * test_op_absent: a rank that does not take part in a call gives every other rank EPF_E_TIMEOUT at the
 * configured time; the record names the rank waited for; after a reset on all ranks everything works.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/epf_clock.h"
#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

enum { TIMEOUT_MS = 300, SLACK_MS = 2000 };

typedef enum missed_call {
    MISSED_PREPROCESS,
    MISSED_DISPATCH,
    MISSED_COMBINE,
    MISSED_BARRIER,
    MISSED_REGROW /* a dispatch that finds its buffers too small */
} missed_call;

/* What the ranks of one case share. */
typedef struct meeting {
    op_case *c;
    missed_call missed;
    int32_t absent;
    atomic_int num_given_up;
} meeting;

static epf_status call(op_rank *r, missed_call which)
{
    epf_preprocess_args args;
    epf_dispatch_group_gemm_args dispatch;
    epf_group_gemm_combine_args combine;

    switch (which) {
    case MISSED_PREPROCESS:
        CHECK_OK(epf_preprocess_args_init(&args));
        args.exp_indices = r->ids.tensor;
        return op_try_preprocess(r, &args);
    case MISSED_DISPATCH:
    case MISSED_REGROW:
        dispatch = op_dispatch_args(r);
        return op_try_dispatch(r, &dispatch);
    case MISSED_COMBINE:
        combine = op_combine_args(r);
        return op_try_combine(r, &combine, NULL);
    default:
        return epf_op_barrier(r->op);
    }
}

/* Ranks meet on the host, and not at the operator's words: the text alone names whom they waited for. */
static bool meets_on_host(missed_call which)
{
    return which == MISSED_REGROW || (which == MISSED_BARRIER && epf_space_is_device());
}

/* Everyone but the absent rank: the call ends in time, with the truth about whom it waited for. */
static bool give_up(op_rank *r, const meeting *m)
{
    const uint64_t begin = epf_now_ns();
    const epf_status status = call(r, m->missed);
    const double ms = (double)(epf_now_ns() - begin) / 1e6;
    epf_error_record record;
    char missing[32];

    (void)snprintf(missing, sizeof missing, "rank %d did not come", m->absent);
    RANK_CHECK(r->rank, status == EPF_E_TIMEOUT, "status %d: %s", status, epf_last_error());
    RANK_CHECK(r->rank, !meets_on_host(m->missed) || strstr(epf_last_error(), missing) != NULL,
               "the text does not name rank %d: %s", m->absent, epf_last_error());
    RANK_CHECK(r->rank, ms < TIMEOUT_MS + SLACK_MS, "after %.0f ms", ms);
    RANK_OK(r->rank, epf_op_poll_error(r->op, &record));
    RANK_CHECK(r->rank,
               record.status == EPF_E_TIMEOUT &&
                   record.peer == (meets_on_host(m->missed) ? -1 : m->absent),
               "the record says %s of rank %d, worker %d, object %s",
               epf_status_name((epf_status)record.status), record.peer, record.worker,
               record.object);
    /* Whoever gave up first did wait for the whole time; the others heard of it. */
    RANK_CHECK(r->rank, record.rank != r->id || ms >= TIMEOUT_MS * 0.9, "already after %.0f ms",
               ms);
    RANK_STATUS(r->rank, EPF_E_STATE, call(r, m->missed));
    return true;
}

static bool use(op_rank *r)
{
    return op_preprocess(r) && op_check_layout(r) && op_dispatch(r) && op_combine(r);
}

static bool miss(op_rank *r, meeting *m)
{
    bool ok = m->missed == MISSED_REGROW ? op_preprocess(r) : use(r);

    if (ok && r->id != m->absent) {
        ok = give_up(r, m);
    }
    atomic_fetch_add(&m->num_given_up, 1);
    while (atomic_load(&m->num_given_up) < r->rank->num_ranks) {
        const struct timespec pause = {0, 1000000};
        (void)nanosleep(&pause, NULL);
    }
    if (!ok) {
        return false;
    }
    RANK_OK(r->rank, epf_op_reset(r->op));
    return use(r) && use(r);
}

static void run_rank(epf_test_rank *rank)
{
    meeting *m = rank->user;
    op_rank r;

    (void)(op_open(&r, m->c, rank) && miss(&r, m));
    op_close(&r);
}

static int32_t run(missed_call missed, bool fuse_scatter, int32_t absent)
{
    epf_problem problem =
        epf_problem_of(missed == MISSED_REGROW ? "W3E6K2T9H16N16M8C0.1/uniform/seed62"
                                               : "W3E6K2T9H16N16M8/uniform/seed61");
    const op_knobs knobs = {.gates = true};
    epf_data *data;
    meeting m = {.missed = missed, .absent = absent};
    int32_t failed;

    problem.fuse_scatter = fuse_scatter;
    data = epf_data_make(&problem);
    m.c = op_case_make(data, &knobs, false);
    m.c->timeout_ns = TIMEOUT_MS * UINT64_C(1000000);
    m.c->user = &m;
    failed = op_run_function(m.c, run_rank, 0, "absent");
    op_case_free(m.c);
    epf_data_free(data);
    return failed;
}

int main(void)
{
    int32_t failed = 0;

    for (int32_t missed = MISSED_PREPROCESS; missed <= MISSED_REGROW; missed++) {
        failed += run((missed_call)missed, false, missed % 3);
    }
    failed += run(MISSED_COMBINE, true, 1);
    return op_finish(failed);
}
