/*
 * fault_checks.c: what checking costs: the calls of a layer refused at their very last check, error text
 * included, against the same calls carried out.
 *
 * Refused calls are an upper bound: they also undo what they had begun, and preprocess tells all ranks.
 */
#include <stdlib.h>

#include "base/epf_clock.h"
#include "cli_verify.h"
#include "op_case.h"
#include "support/epf_check.h"

#define CHECKS_PROBLEM "W1E8K2T256H1024N1024M64/uniform/seed7"

enum { MOST_PERCENT = 1, MOST_PAIRS = 100000 };

typedef struct timing {
    verify_run *run;
    op_case *c;
    uint64_t *layer_ns, *refused_ns;
} timing;

/* The arguments of a layer's three calls. */
typedef struct calls {
    epf_preprocess_args preprocess;
    epf_dispatch_group_gemm_args dispatch;
    epf_group_gemm_combine_args combine;
} calls;

static bool run_layer(op_rank *r, const calls *c, uint64_t *ns)
{
    const uint64_t begin_ns = epf_now_ns();

    RANK_OK(r->rank, epf_preprocess(r->op, &c->preprocess, &r->layout));
    RANK_OK(r->rank, epf_dispatch_group_gemm(r->op, &c->dispatch, NULL));
    RANK_OK(r->rank, epf_group_gemm_combine(r->op, &c->combine, NULL));
    *ns = epf_now_ns() - begin_ns;
    return true;
}

static bool run_refused(op_rank *r, const calls *c, uint64_t *ns)
{
    const uint64_t begin_ns = epf_now_ns();

    RANK_STATUS(r->rank, EPF_E_INVALID, epf_dispatch_group_gemm(r->op, &c->dispatch, NULL));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_group_gemm_combine(r->op, &c->combine, NULL));
    /* last: it leaves the layout unfilled */
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_preprocess(r->op, &c->preprocess, &r->layout));
    *ns = epf_now_ns() - begin_ns;
    return true;
}

/* The last argument that each call looks at has a row or column too many. */
static void spoil(calls *c, const op_rank *r)
{
    c->dispatch.gemm_output_data.shape[1]++;
    c->combine.combine_output.shape[1]++;
    c->preprocess.local_scatter_indices = r->ids.tensor;
    c->preprocess.local_scatter_indices.shape[0]++;
}

static int compare(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

static double median_us(uint64_t *ns, size_t count)
{
    qsort(ns, count, sizeof *ns, compare);
    return (double)ns[count / 2] * 1e-3;
}

static bool run_pairs(op_rank *r, timing *t)
{
    calls good, bad;
    uint64_t count = 0;
    double layer_us, refused_us;

    if (!op_preprocess(r) || !op_dispatch(r) || !op_combine(r)) {
        return false;
    }
    CHECK_OK(epf_preprocess_args_init(&good.preprocess));
    good.preprocess.exp_indices = r->ids.tensor;
    good.dispatch = op_dispatch_args(r);
    good.combine = op_combine_args(r);
    bad = good;
    spoil(&bad, r);
    while (verify_more(t->run) && count < MOST_PAIRS) {
        if (!run_layer(r, &good, &t->layer_ns[count]) ||
            !run_refused(r, &bad, &t->refused_ns[count])) {
            return false;
        }
        count++;
        verify_done(t->run, 1);
    }
    RANK_CHECK(r->rank, count > 0, "no time for a single pair");
    layer_us = median_us(t->layer_ns, count);
    refused_us = median_us(t->refused_ns, count);
    verify_note(t->run, "medians %.2f us of %.1f us, %.2f %% (" CHECKS_PROBLEM ")", refused_us,
                layer_us, 100 * refused_us / layer_us);
    RANK_CHECK(r->rank, refused_us * 100 <= layer_us * MOST_PERCENT,
               "%.2f us of %.1f us is over %d %%", refused_us, layer_us, MOST_PERCENT);
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    timing *const t = rank->user;
    op_rank r;

    if (!(op_open(&r, t->c, rank) && run_pairs(&r, t))) {
        verify_fail(t->run, "%s", rank->failure);
    }
    op_close(&r);
}

void verify_checks(const verify_promise *promise, verify_run *run)
{
    const epf_problem problem = epf_problem_of(CHECKS_PROBLEM);
    const op_knobs knobs = {.num_workers = 1, .packed = true, .own_outputs = true, .tables = true};
    epf_data *const data = epf_data_make(&problem);
    timing t = {.run = run, .c = op_case_make(data, &knobs, false)};

    (void)promise;
    t.layer_ns = epf_test_alloc(MOST_PAIRS, sizeof *t.layer_ns);
    t.refused_ns = epf_test_alloc(MOST_PAIRS, sizeof *t.refused_ns);
    t.c->user = &t;
    if (op_run_function(t.c, run_rank, 0, "checks") > 0) {
        verify_fail(run, "the rank failed");
    }
    free(t.layer_ns);
    free(t.refused_ns);
    op_case_free(t.c);
    epf_data_free(data);
}
