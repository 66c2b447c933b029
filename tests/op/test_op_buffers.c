/*
 * test_op_buffers: several sets of communication buffers.  Call i + 1 fills its set while what call i
 * left in its own is still read: with n sets, the results of the last n dispatches stay as they were.
 */
#include <stdlib.h>

#include "op_case.h"
#include "support/epf_check.h"

enum { NUM_SETS = 3, NUM_CALLS = 10 };

static bool dispatch_shifted(op_rank *r, int32_t call, epf_tensor *rows)
{
    epf_dispatch_group_gemm_args args = op_dispatch_args(r);
    uint16_t *tokens = op_matrix_fetch(&r->x);

    for (int64_t i = 0; i < r->x.rows * r->x.stride; i++) {
        tokens[i] = (uint16_t)(0x3f80 + call); /* every call sends other bits */
    }
    op_matrix_store(&r->x, tokens);
    free(tokens);
    args.comm_buffer_id = call % NUM_SETS;
    RANK_OK(r->rank, op_try_dispatch(r, &args));
    *rows = r->first.dispatch_output;
    return true;
}

/* Every element of a call's rows still is what that call sent. */
static bool check_rows(op_rank *r, int32_t call, const epf_tensor *rows)
{
    const int64_t num_rows = r->c->route.ranks[r->id].num_rows;
    uint16_t *bits = op_fetch(rows, num_rows);
    int64_t bad = -1;

    for (int64_t i = 0; i < num_rows * r->x.cols && bad < 0; i++) {
        bad = bits[i] == 0x3f80 + call ? -1 : i;
    }
    free(bits);
    RANK_CHECK(r->rank, bad < 0, "call %d: element %lld was overwritten", call, (long long)bad);
    return true;
}

static bool pipeline(op_rank *r)
{
    epf_tensor rows[NUM_CALLS];
    bool ok = op_preprocess(r);

    for (int32_t i = 0; i < NUM_CALLS && ok; i++) {
        ok = dispatch_shifted(r, i, &rows[i]);
        for (int32_t j = i < NUM_SETS - 1 ? 0 : i - NUM_SETS + 1; j <= i && ok; j++) {
            ok = check_rows(r, j, &rows[j]);
        }
    }
    return ok;
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && pipeline(&r));
    op_close(&r);
}

int main(void)
{
    const epf_problem problem = epf_problem_of("W3E6K2T15H16N16M8/zipf/seed41");
    const op_knobs knobs = {.num_buffers = NUM_SETS};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, false);
    const int32_t failed = op_run_function(c, run_rank, 0, "buffers");

    op_case_free(c);
    epf_data_free(data);
    return op_finish(failed);
}
