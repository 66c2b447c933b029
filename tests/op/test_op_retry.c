/*
 * test_op_retry: a rank whose call is refused for its arguments tries again with good ones; its peers,
 * which were in the call all the time, never notice.
 */
#include "op_case.h"
#include "support/epf_check.h"

/* Refused: no such buffer set. */
static bool refused(op_rank *r)
{
    epf_dispatch_group_gemm_args dispatch = op_dispatch_args(r);
    epf_group_gemm_combine_args combine;

    dispatch.comm_buffer_id = 5;
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_dispatch_group_gemm(r->op, &dispatch, NULL));
    dispatch = op_dispatch_args(r);
    dispatch.gemm_weight.dtype = EPF_DTYPE_I64;
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_dispatch_group_gemm(r->op, &dispatch, NULL));
    if (!op_dispatch(r)) {
        return false;
    }
    combine = op_combine_args(r);
    combine.num_warps = 0;
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_group_gemm_combine(r->op, &combine, NULL));
    return op_combine(r);
}

static bool try_again(op_rank *r)
{
    for (int32_t i = 0; i < 2 * r->rank->num_ranks; i++) {
        if (!op_preprocess(r)) {
            return false;
        }
        if (r->id == i % r->rank->num_ranks ? !refused(r) : !(op_dispatch(r) && op_combine(r))) {
            return false;
        }
    }
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && try_again(&r));
    op_close(&r);
}

int main(void)
{
    static const char *const texts[] = {"W3E6K2T9H16N16M8/zipf/seed151",
                                        "W2E4K2T9H16N16M8/uniform/seed152/fuse_scatter"};
    int32_t failed = 0;

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const epf_problem problem = epf_problem_of(texts[i]);
        const op_knobs knobs = {.gates = true};
        epf_data *data = epf_data_make(&problem);
        op_case *c = op_case_make(data, &knobs, false);
        failed += op_run_function(c, run_rank, 0, "retry");
        op_case_free(c);
        epf_data_free(data);
    }
    return op_finish(failed);
}
