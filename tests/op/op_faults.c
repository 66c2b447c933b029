/* op_faults.c: calls that are refused on every rank, and ranks that die. */
#include "op_faults.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "support/epf_check.h"

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
    const op_matrix *wrong = kind == 0 ? &r->ids : &r->local;
    int32_t *values;
    epf_preprocess_args args;
    epf_status status;
    int32_t kept = 0;

    RANK_OK(r->rank, epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    if (kind > 0) {
        args.local_scatter_indices = r->local.tensor;
    }
    values = op_matrix_fetch(wrong);
    if (r->id == victim) {
        kept = values[slot];
        values[slot] = kind == 0 ? bad : kind == 1 ? values[other] : slots + 5;
        op_matrix_store(wrong, values);
    }
    status = op_try_preprocess(r, &args);
    if (r->id == victim) {
        values[slot] = kept;
        op_matrix_store(wrong, values);
    }
    free(values);
    RANK_CHECK(r->rank, status == EPF_E_INVALID, "kind %d on rank %d: status %d: %s", kind, victim,
               status, epf_last_error());
    RANK_CHECK(r->rank, strchr(epf_last_error(), '\n') == NULL && epf_last_error()[0] != '\0',
               "the text is not one line: %s", epf_last_error());
    return true;
}

/* A call of one token, whose layout is there. */
static bool call_one_token(op_rank *r, const op_matrix *ids)
{
    epf_dispatch_group_gemm_args dispatch = op_dispatch_args(r);
    epf_group_gemm_combine_args combine;
    epf_group_gemm_combine_result result;

    dispatch.exp_indices = ids->tensor;
    dispatch.input = op_tensor(r->x.tensor.data, r->x.dtype, 1, r->x.cols);
    dispatch.weight = op_tensor(r->weight.tensor.data, r->weight.dtype, 1, ids->cols);
    /* the case's own tensors have room for the refused call's rows, which may be fewer */
    memset(&dispatch.gemm_output_data, 0, sizeof dispatch.gemm_output_data);
    memset(&dispatch.dispatch_output, 0, sizeof dispatch.dispatch_output);
    memset(&dispatch.weight_recv, 0, sizeof dispatch.weight_recv);
    RANK_OK(r->rank, op_try_dispatch(r, &dispatch));
    combine = op_combine_args(r);
    memset(&combine.combine_output, 0, sizeof combine.combine_output);
    RANK_OK(r->rank, op_try_combine(r, &combine, &result));
    RANK_CHECK(r->rank, result.combine_output.shape[0] == 1, "%lld tokens",
               (long long)result.combine_output.shape[0]);
    return true;
}

bool op_run_one_token(op_rank *r)
{
    const epf_ref_route *route = &r->c->route;
    epf_preprocess_args args;
    op_matrix ids;
    int32_t values[32];
    bool ok;

    for (int32_t k = 0; k < route->num_topk; k++) {
        values[k] = r->id * route->num_local_experts;
    }
    ids = op_matrix_of((epf_ref_tensor){values, EPF_DTYPE_I32}, 1, route->num_topk, 0);
    CHECK_OK(epf_preprocess_args_init(&args));
    args.exp_indices = ids.tensor;
    ok = op_try_preprocess(r, &args) == EPF_OK ||
         epf_rank_fail(r->rank, __FILE__, __LINE__, "preprocess: %s", epf_last_error());
    ok = ok && call_one_token(r, &ids);
    op_matrix_free(&ids);
    return ok;
}

/* As it was made: canaries alone. */
static bool check_unwritten(op_rank *r, const op_matrix *matrix)
{
    uint16_t *bits = op_matrix_fetch(matrix);
    int64_t bad = -1;

    for (int64_t i = 0; i < matrix->rows * matrix->stride && bad < 0; i++) {
        bad = bits[i] == 0xa5a5 ? -1 : i;
    }
    free(bits);
    RANK_CHECK(r->rank, bad < 0, "element %lld of gemm_output was written", (long long)bad);
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
    return check_unwritten(r, &r->gemm) && op_run_one_token(r);
}

static _Atomic uint64_t *death; /* for the signal handler */

static void die(int signal_number)
{
    (void)signal_number;
    atomic_store(death, epf_now_ns());
    (void)kill(getpid(), SIGKILL);
}

void op_die_after(int32_t after_us, _Atomic uint64_t *died_at)
{
    const struct itimerval timer = {{0, 0}, {after_us / 1000000, after_us % 1000000}};
    struct sigaction action;

    death = died_at;
    memset(&action, 0, sizeof action);
    action.sa_handler = die;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &timer, NULL) == 0,
          "timer");
}
