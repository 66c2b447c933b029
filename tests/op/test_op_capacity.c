/*
 * test_op_capacity: one row less than the buffers hold, as many, one more; with regrowing all three work,
 * without it the third gives EPF_E_CAPACITY on every rank, corrupts nothing, and the next call works.
 */
#include <stdio.h>

#include "op_faults.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

static void run_refused(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && op_refuse_then_work(&r));
    op_close(&r);
}

static int32_t run_no_regrow(const char *text, bool processes)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.no_regrow = true, .own_outputs = true};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, processes);
    const int32_t failed = op_run_function(c, run_refused, 0, "no regrow");

    op_case_free(c);
    epf_data_free(data);
    return failed;
}

int main(void)
{
    static const char *const shapes[] = {"W2E4K2T10H16N16M8C1", "W4E8K2T10H16N16M8C1.5",
                                         "W3E3K1T7H8N8M4C1", "W8E8K2T5H8N8C0.75"};
    static const char *const sizes[] = {"minus_one", "equal", "plus_one"};
    int32_t failed = 0;

    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        char text[EPF_PROBLEM_TEXT];
        for (size_t i = 0; i < 3; i++) {
            for (int32_t mode = 0; mode < 4; mode++) {
                const op_knobs knobs = {.no_regrow = i < 2 && mode % 2 == 0,
                                        .num_buffers = 2,
                                        .buffer = mode % 2,
                                        .repeat = 2,
                                        .gates = true};
                (void)snprintf(text, sizeof text, "%s/capacity_%s/seed%zu%s", shapes[s], sizes[i],
                               s, mode < 2 ? "" : "/fuse_scatter");
                failed += !op_run(text, &knobs, false, "capacity");
            }
        }
        (void)snprintf(text, sizeof text, "%s/capacity_plus_one/seed%zu", shapes[s], s);
        failed += run_no_regrow(text, s % 2 == 1 && !epf_space_is_device());
    }
    return op_finish(failed);
}
