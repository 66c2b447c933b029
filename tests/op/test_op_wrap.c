/*
 * test_op_wrap: the epoch counts up to its last value and starts again, on all ranks together, in the
 * middle of ordinary work.
 */
#include "api/epf_op.h"
#include "op_case.h"
#include "support/epf_check.h"

enum { CALLS_BEFORE = 4, LAYERS = 6 };

static bool pass_the_end(op_rank *r)
{
    const uint32_t first = EPF_EPOCH_LAST - CALLS_BEFORE;

    RANK_OK(r->rank, epf_op_barrier(r->op));
    r->op->epoch = first; /* counters only have to grow: a jump is as good as as many calls */
    for (int32_t i = 0; i < LAYERS; i++) {
        if (!(op_preprocess(r) && op_check_layout(r) && op_dispatch(r) && op_combine(r))) {
            return false;
        }
    }
    RANK_CHECK(r->rank, r->op->epoch < first, "the epoch is %u: it did not start again",
               r->op->epoch);
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && pass_the_end(&r));
    op_close(&r);
}

static int32_t run(const char *text, bool processes)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.gates = true, .num_workers = 2};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, processes);
    const int32_t failed = op_run_function(c, run_rank, 0, "wrap");

    op_case_free(c);
    epf_data_free(data);
    return failed;
}

int main(void)
{
    return op_finish(run("W3E6K2T9H16N16M8/zipf/seed141", false) +
                     run("W3E6K2T9H16N16M8/zipf/seed142/fuse_scatter", false) +
                     run("W2E4K2T9H16N16M8/zipf/seed143/fuse_scatter", true));
}
