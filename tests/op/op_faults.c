/* op_faults.c: calls that are refused on every rank. */
#include "op_faults.h"

#include <limits.h>
#include <string.h>

bool op_call_badly(op_rank *r, epf_rng *rng)
{
    const epf_data *d = r->c->data;
    const int32_t victim = epf_rng_below(rng, d->problem.num_ranks);
    const int32_t kind = epf_rng_below(rng, 3);
    const int32_t slots = d->num_tokens[victim] * d->problem.num_topk;
    const int32_t slot = epf_rng_below(rng, slots);
    const int32_t other = (slot + 1 + epf_rng_below(rng, slots - 1)) % slots;
    const int32_t bad_ids[] = {-2, INT_MIN, INT_MAX, 1 << 20, d->problem.num_experts + 1};
    const int32_t bad = bad_ids[epf_rng_below(rng, 5)];
    int32_t *wrong = kind == 0 ? r->ids.tensor.data : r->local.tensor.data;
    epf_preprocess_args args;
    epf_status status;
    int32_t kept = 0;

    RANK_OK(r->rank, epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    if (kind > 0) {
        args.local_scatter_indices = r->local.tensor;
    }
    if (r->id == victim) {
        kept = wrong[slot];
        wrong[slot] = kind == 0 ? bad : kind == 1 ? wrong[other] : slots + 5;
    }
    status = epf_preprocess(r->op, &args, &r->layout);
    if (r->id == victim) {
        wrong[slot] = kept;
    }
    RANK_CHECK(r->rank, status == EPF_E_INVALID, "kind %d on rank %d: status %d: %s", kind, victim,
               status, epf_last_error());
    RANK_CHECK(r->rank, strchr(epf_last_error(), '\n') == NULL && epf_last_error()[0] != '\0',
               "the text is not one line: %s", epf_last_error());
    return true;
}

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
    /* the case's own tensors have room for the refused call's rows, which may be fewer */
    memset(&dispatch.gemm_output_data, 0, sizeof dispatch.gemm_output_data);
    memset(&dispatch.dispatch_output, 0, sizeof dispatch.dispatch_output);
    memset(&dispatch.weight_recv, 0, sizeof dispatch.weight_recv);
    RANK_OK(r->rank, epf_dispatch_group_gemm(r->op, &dispatch, &r->first));
    combine = op_combine_args(r);
    memset(&combine.combine_output, 0, sizeof combine.combine_output);
    RANK_OK(r->rank, epf_group_gemm_combine(r->op, &combine, &result));
    RANK_CHECK(r->rank, result.combine_output.shape[0] == 1, "%lld tokens",
               (long long)result.combine_output.shape[0]);
    return true;
}

bool op_refuse_then_work(op_rank *r)
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
