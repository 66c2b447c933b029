/*
 * test_op_bad_routing: a bad expert id, or scatter indices that are no permutation, on one rank give the
 * same error on all ranks; nothing hangs, and the next call works.
 *
 *     test_op_bad_routing [COUNT]      bad calls per group, default 60
 */
#include <stdlib.h>

#include "op_faults.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

static int32_t num_calls = 60;

static bool bad_and_good(op_rank *r)
{
    epf_rng rng = epf_rng_make(r->c->data->problem.seed, 77);

    for (int32_t i = 0; i < num_calls; i++) {
        epf_error_record record;
        if (!op_call_badly(r, &rng)) {
            return false;
        }
        RANK_OK(r->rank, epf_op_poll_error(r->op, &record));
        if (i % 5 == 0 &&
            !(op_preprocess(r) && op_check_layout(r) && op_dispatch(r) && op_combine(r))) {
            return false;
        }
    }
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && bad_and_good(&r));
    op_close(&r);
}

static int32_t run(const char *text, bool processes)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.gates = true};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, processes);
    const int32_t failed = op_run_function(c, run_rank, 0, "bad routing");

    op_case_free(c);
    epf_data_free(data);
    return failed;
}

int main(int argc, char **argv)
{
    num_calls = argc > 1 ? (int32_t)strtol(argv[1], NULL, 10) : num_calls;
    return op_finish(run("W3E12K2T9H16N16M8/uniform/seed51", false) +
                     run("W4E12K3T9H16N16M8/zipf/seed52/fuse_scatter", false) +
                     run("W2E12K2T9H16N16M8/zipf/seed53/fuse_scatter", true));
}
