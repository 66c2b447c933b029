/*
 * fault_refused.c: calls that must be refused on all ranks: bad routing on one of them, and routings at the
 * edge of the capacity.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli_verify.h"
#include "op_faults.h"
#include "op_nan.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

enum { CALLS_PER_GROUP = 50, GOOD_EVERY = 5, PROCESSES_EVERY = 6 };

/* A group's calls, for its ranks. */
typedef struct refusals {
    verify_run *run;
    op_case *c;
    uint64_t number;
    int32_t num_calls;
} refusals;

/* NaN weights are no bad routing: a layer with them is as good as any, apart from them. */
static bool good_then_nan(op_rank *r, epf_rng *rng)
{
    const int32_t mode =
        r->c->data->problem.fuse_scatter ? EPF_COMBINE_FUSE_SCATTER : EPF_COMBINE_SERIAL;

    return op_preprocess(r) && op_check_layout(r) && op_dispatch(r) && op_combine(r) &&
           op_nan_layer(r, rng, mode) && op_nan_combine(r, rng);
}

static bool bad_then_good(op_rank *r, const refusals *f)
{
    epf_rng rng = epf_rng_make(f->run->seed ^ f->number, 77);

    for (int32_t i = 0; i < f->num_calls; i++) {
        epf_error_record record;
        if (!op_call_badly(r, &rng)) {
            return false;
        }
        RANK_OK(r->rank, epf_op_poll_error(r->op, &record));
        if (i % GOOD_EVERY == GOOD_EVERY - 1 && !good_then_nan(r, &rng)) {
            return false;
        }
        if (r->id == 0) {
            verify_done(f->run, 1);
        }
    }
    return true;
}

static void run_bad_rank(epf_test_rank *rank)
{
    const refusals *const f = rank->user;
    op_rank r;

    if (!(op_open(&r, f->c, rank) && bad_then_good(&r, f))) {
        verify_fail(f->run, "group %llu, rank %d of %d: %s", (unsigned long long)f->number,
                    rank->rank, rank->num_ranks, rank->failure);
    }
    op_close(&r);
}

void verify_bad_routing(const verify_promise *promise, verify_run *run)
{
    refusals *const f = epf_shared_alloc(sizeof *f);

    (void)promise;
    f->run = run;
    for (; verify_more(run); f->number++) {
        epf_rng rng = epf_rng_make(run->seed ^ f->number, 78);
        const op_knobs knobs = {.gates = true};
        char text[EPF_PROBLEM_TEXT];
        const int32_t ranks = epf_rng_range(&rng, 2, 8);
        (void)snprintf(
            text, sizeof text, "W%dE%dK%dT%dH16N16M8/%s/seed%d%s", ranks,
            ranks * epf_rng_range(&rng, 1, 3), epf_rng_range(&rng, 2, 4), epf_rng_range(&rng, 1, 9),
            epf_rng_below(&rng, 2) == 0 ? "zipf" : "duplicates", epf_rng_below(&rng, 1 << 20),
            epf_rng_below(&rng, 2) == 0 ? "" : "/fuse_scatter");
        const epf_problem problem = epf_problem_of(text);
        epf_data *data = epf_data_make(&problem);
        const uint64_t left = run->target - run->done;
        f->num_calls = (int32_t)(left < CALLS_PER_GROUP ? left : CALLS_PER_GROUP);
        f->c = op_case_make(data, &knobs, f->number % PROCESSES_EVERY == PROCESSES_EVERY - 1);
        f->c->user = f;
        if (op_run_function(f->c, run_bad_rank, 0, text) > 0) {
            verify_fail(run, "group %llu (%s)", (unsigned long long)f->number, text);
        }
        op_case_free(f->c);
        epf_data_free(data);
    }
    verify_note(run,
                "expert ids and scatter indices, 2 to 8 ranks, %llu groups; after every fifth call "
                "a good layer and one with NaN weights, which are NaN where they belong alone",
                (unsigned long long)f->number);
    epf_shared_free(f, sizeof *f);
}

/* ---- capacity ---- */

static void run_refused_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && op_refuse_then_work(&r));
    op_close(&r);
}

static bool run_refused(const char *text, bool processes)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.no_regrow = true, .own_outputs = true};
    epf_data *data = epf_data_make(&problem);
    op_case *c = data == NULL ? NULL : op_case_make(data, &knobs, processes);
    const int32_t failed = c == NULL ? 0 : op_run_function(c, run_refused_rank, 0, text);

    op_case_free(c);
    epf_data_free(data);
    return failed == 0;
}

/* The edge from below, at it, above it with and without growing, and any routing with little room. */
static bool run_capacity_case(uint64_t seed, uint64_t number, char text[EPF_PROBLEM_TEXT])
{
    static const char *const routings[] = {
        "capacity_minus_one", "capacity_equal", "capacity_plus_one",
        "capacity_plus_one",  "zipf",           "all_to_one_rank"};
    epf_rng rng = epf_rng_make(seed ^ number, 79);
    const int32_t kind = (int32_t)(number % 6);
    const int32_t ranks = epf_rng_range(&rng, 2, 8);
    const bool processes = epf_rng_below(&rng, 8) == 0;
    const int32_t topk = epf_rng_range(&rng, 1, 4);
    /* room for one token of each rank's own, which the call after a refused one needs */
    const double least = 1.0;
    const double capacity = least + 0.25 * epf_rng_below(&rng, 4 * (ranks - 1));
    const op_knobs knobs = {.no_regrow = kind < 2 && epf_rng_below(&rng, 2) == 0,
                            .num_buffers = 2,
                            .buffer = epf_rng_below(&rng, 2),
                            .repeat = 2,
                            .own_outputs = epf_rng_below(&rng, 2) == 0,
                            .gates = true};

    (void)snprintf(text, EPF_PROBLEM_TEXT, "W%dE%dK%dT%dH%dN%dM8C%.9g/%s/seed%d%s", ranks,
                   ranks * epf_rng_range(&rng, 1, 3), topk, epf_rng_range(&rng, 2, 12),
                   8 * epf_rng_range(&rng, 1, 3), 8 * epf_rng_range(&rng, 1, 3), capacity,
                   routings[kind], epf_rng_below(&rng, 1 << 20),
                   kind != 3 && epf_rng_below(&rng, 2) == 0 ? "/fuse_scatter" : "");
    return kind == 3 ? run_refused(text, processes) : op_run(text, &knobs, processes, "capacity");
}

void verify_capacity(const verify_promise *promise, verify_run *run)
{
    char text[EPF_PROBLEM_TEXT];

    (void)promise;
    for (uint64_t number = 0; verify_more(run); number++) {
        if (!run_capacity_case(run->seed, number, text)) {
            verify_fail(run, "case %llu: %s", (unsigned long long)number, text);
        }
        verify_done(run, 1);
    }
    verify_note(run,
                "one row below the capacity, at it, one above it with and without growing, and "
                "far above, a sixth each; 2 to 8 ranks");
}
