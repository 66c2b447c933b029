/*
 * test_op_overflow: more rows arrive than the buffers hold, and nobody on the host has looked.  Where buffers may
 * grow they do, in the call itself.  Where not, all ranks get EPF_E_CAPACITY, no tensor of a caller is written behind
 * its end, and after a reset a call that fits works.
 */
#include <stdio.h>

#include "op_faults.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

/* The layout is not looked into, so that only the device knows how many rows there are. */
static bool overflow(op_rank *r, bool is_first)
{
    epf_dispatch_group_gemm_args dispatch;
    epf_preprocess_args args;
    epf_status st;

    RANK_OK(r->rank, epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    RANK_OK(r->rank, epf_preprocess(r->op, &args, &r->layout));
    dispatch = op_dispatch_args(r);
    st = op_try_dispatch(r, &dispatch);
    RANK_CHECK(r->rank, st == EPF_E_CAPACITY, "%s: %s", epf_status_name(st), epf_last_error());
    /* Later calls have left a token's row where this rank's routing has none. */
    return !is_first || (op_check_guard(r->rank, "dispatch_output", &r->dispatched) &&
                         op_check_guard(r->rank, "weight_recv", &r->received) &&
                         op_check_guard(r->rank, "gemm_output", &r->gemm));
}

static bool overflow_and_work(op_rank *r)
{
    for (int32_t i = 0; i < 5; i++) {
        if (!overflow(r, i == 0)) {
            return false;
        }
        if (epf_space_is_device()) {
            RANK_OK(r->rank, epf_op_reset(r->op));
        }
        if (!op_run_one_token(r)) {
            return false;
        }
    }
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && overflow_and_work(&r));
    op_close(&r);
}

static void run_growing(epf_test_rank *rank)
{
    epf_group_gemm_combine_result result;
    op_rank r;
    bool ok = op_open(&r, rank->user, rank);

    for (int32_t i = 0; i < 3 && ok; i++) {
        ok = op_enqueue(&r, &result) && op_check_enqueued(&r, &result);
    }
    op_close(&r);
}

static int32_t run(const char *text, bool grows)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.no_regrow = !grows, .own_outputs = !grows};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, false);
    const int32_t failed =
        op_run_function(c, grows ? run_growing : run_rank, 0, grows ? "growing" : "overflow");

    op_case_free(c);
    epf_data_free(data);
    return failed;
}

int main(void)
{
    static const char *const shapes[] = {"W2E4K2T150H64N64C1", "W4E8K2T70H64N136C1.5",
                                         "W8E8K2T45H72N64C0.75"};
    int32_t failed = 0;

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        char text[EPF_PROBLEM_TEXT];
        (void)snprintf(text, sizeof text, "%s/capacity_plus_one/seed%zu", shapes[i], i);
        failed += run(text, false) + run(text, true);
        (void)snprintf(text, sizeof text, "%s/all_to_one_rank/seed%zu/fuse_scatter", shapes[i], i);
        failed += run(text, false) + run(text, true);
    }
    return op_finish(failed);
}
