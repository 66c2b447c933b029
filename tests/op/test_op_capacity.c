/*
 * test_op_capacity: one row less than the buffers hold, as many, one more; with regrowing all three work,
 * without it the third gives EPF_E_CAPACITY on every rank, corrupts nothing, and the next call works.
 */
#include <stdio.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"

/* One token of each rank to its own first expert: that fits. */
static bool run_after(op_rank *r)
{
    const epf_ref_route *route = &r->c->route;
    const int32_t own = r->id * route->num_local_experts;
    epf_preprocess_args args;
    epf_dispatch_group_gemm_args dispatch;
    epf_group_gemm_combine_args combine;
    epf_group_gemm_combine_result result;
    int32_t ids[32];

    for (int32_t k = 0; k < route->num_topk; k++) {
        ids[k] = own;
    }
    RANK_OK(r->rank, epf_preprocess_args_init(&args));
    args.exp_indices = op_tensor(ids, EPF_DTYPE_I32, 1, route->num_topk);
    RANK_OK(r->rank, epf_preprocess(r->op, &args, &r->layout));
    dispatch = op_dispatch_args(r);
    dispatch.exp_indices = args.exp_indices;
    dispatch.input = op_tensor(r->x.tensor.data, r->x.dtype, 1, r->x.cols);
    dispatch.weight = op_tensor(r->weight.tensor.data, r->weight.dtype, 1, route->num_topk);
    RANK_OK(r->rank, epf_dispatch_group_gemm(r->op, &dispatch, &r->first));
    combine = op_combine_args(r);
    memset(&combine.combine_output, 0, sizeof combine.combine_output);
    RANK_OK(r->rank, epf_group_gemm_combine(r->op, &combine, &result));
    RANK_CHECK(r->rank, result.combine_output.shape[0] == 1, "%lld tokens",
               (long long)result.combine_output.shape[0]);
    return true;
}

static bool refuse_then_work(op_rank *r)
{
    epf_dispatch_group_gemm_args args;
    epf_tensor rows;
    epf_tensor weights;

    if (!op_preprocess(r) || !op_check_layout(r)) {
        return false;
    }
    args = op_dispatch_args(r);
    RANK_STATUS(r->rank, EPF_E_CAPACITY, epf_dispatch_group_gemm(r->op, &args, NULL));
    RANK_STATUS(r->rank, EPF_E_CAPACITY,
                epf_init_output_buffer(r->op, r->layout, 0, &rows, &weights));
    for (int64_t i = 0; i < r->gemm.rows * r->gemm.stride; i++) {
        const uint16_t *bits = r->gemm.tensor.data;
        RANK_CHECK(r->rank, bits[i] == 0xa5a5, "element %lld of gemm_output was written",
                   (long long)i);
    }
    return run_after(r);
}

static void run_refused(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && refuse_then_work(&r));
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
        failed += run_no_regrow(text, s % 2 == 1);
    }
    return failed == 0 ? 0 : 1;
}
