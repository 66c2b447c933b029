/*
 * test_op_bits: tokens and routing weights travel bit for bit, whatever the bits: NaN with payload,
 * infinities, subnormals, -0.
 */
#include <stdlib.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

static void random_bits(uint64_t seed, void *out, size_t bytes)
{
    epf_rng rng = epf_rng_make(seed, 9);
    unsigned char *at = out;

    for (size_t i = 0; i < bytes; i++) {
        at[i] = (unsigned char)epf_rng_below(&rng, 256);
    }
}

/* Every row of `got` against the source's tokens or weights, wherever it was copied from. */
static bool check_rows(op_rank *r, const epf_tensor *got, const epf_ref_tensor *sources,
                       int64_t cols, bool per_slot)
{
    const epf_ref_rank *here = &r->c->route.ranks[r->id];
    const size_t bytes = (size_t)cols * epf_element_bytes((epf_dtype)got->dtype);
    char *rows = op_fetch(got, here->num_rows);
    int64_t bad = -1;

    for (int64_t row = 0; row < here->num_rows && bad < 0; row++) {
        const epf_ref_row *from = &here->rows[row];
        const int64_t at = per_slot ? from->slot : from->slot / r->c->route.num_topk * cols;
        const void *source = epf_tensor_at(sources[from->source], at).data;
        bad = memcmp(rows + (size_t)row * bytes, source, bytes) == 0 ? -1 : row;
    }
    free(rows);
    RANK_CHECK(r->rank, bad < 0, "row %lld (expert %d, source %d, slot %d) has other bits",
               (long long)bad, here->rows[bad].expert, here->rows[bad].source,
               here->rows[bad].slot);
    return true;
}

static bool dispatch_bits(op_rank *r)
{
    epf_dispatch_group_gemm_args args;

    if (!op_preprocess(r)) {
        return false;
    }
    args = op_dispatch_args(r);
    RANK_OK(r->rank, op_try_dispatch(r, &args));
    return check_rows(r, &r->first.dispatch_output, r->c->data->tokens, r->c->data->problem.hidden,
                      false) &&
           check_rows(r, &r->first.weight_recv, r->c->data->weights, 1, true);
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && dispatch_bits(&r));
    op_close(&r);
}

static int32_t run(const char *text)
{
    const epf_problem problem = epf_problem_of(text);
    epf_data *data = epf_data_make(&problem);
    int32_t failed = 0;
    int64_t tokens = 0;

    for (int32_t r = 0; r < problem.num_ranks; r++) {
        tokens += data->num_tokens[r];
    }
    random_bits(1, (void *)(uintptr_t)data->tokens[0].data,
                (size_t)(tokens * problem.hidden) * epf_element_bytes(problem.dtype));
    random_bits(2, (void *)(uintptr_t)data->weights[0].data,
                (size_t)(tokens * problem.num_topk) * epf_element_bytes(problem.weight_dtype));
    for (int32_t own = 0; own < 2; own++) {
        const op_knobs knobs = {.own_outputs = own == 1, .guard_cols = own == 1 ? 8 : 0};
        op_case *c = op_case_make(data, &knobs, false);
        failed += op_run_function(c, run_rank, 0, "bits");
        op_case_free(c);
    }
    epf_data_free(data);
    return failed;
}

int main(void)
{
    return op_finish(run("W2E4K3T19H40N16M8/duplicates/seed111") +
                     run("W3E6K2T19H40N16M8/zipf/seed112/fp16/wbf16") +
                     run("W4E8K2T19H40N16M8/uniform/seed113/fp32"));
}
