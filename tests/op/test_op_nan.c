/*
 * test_op_nan: NaN among routing weights, gates and weights of the sum reaches exactly what is computed with
 * it, in every mode, forward and backward, and nothing hangs.
 *
 *     test_op_nan [COUNT]      draws of NaN a group, default 4
 */
#include <stdlib.h>

#include "op_device.h"
#include "op_nan.h"
#include "support/epf_check.h"

static int32_t num_draws = 4;

static bool draws(op_rank *r)
{
    static const int32_t modes[] = {EPF_COMBINE_SERIAL, EPF_COMBINE_FUSE_SCATTER, EPF_COMBINE_AUTO};
    epf_rng rng = epf_rng_make(r->c->data->problem.seed, 87);

    for (int32_t i = 0; i < num_draws; i++) {
        for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++) {
            if (!op_nan_layer(r, &rng, modes[m])) {
                return false;
            }
        }
        if (!op_nan_combine(r, &rng)) {
            return false;
        }
    }
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && draws(&r));
    op_close(&r);
}

/* The layer's outputs and gradients come from tensors of the case's own size, without guards. */
static int32_t run(const char *text, op_knobs knobs)
{
    const epf_problem problem = epf_problem_of(text);
    epf_data *data = epf_data_make(&problem);
    op_case *c;
    int32_t failed;

    op_device_tame(&knobs);
    c = op_case_make(data, &knobs, false);
    failed = op_run_function(c, run_rank, 0, "NaN");
    op_case_free(c);
    epf_data_free(data);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const texts[] = {
        "W1E3K2T150H40N48/zipf/seed131", "W1E4K2T9H16N16/some_dropped/seed132/fp16/wbf16",
        "W3E6K3T70H40N48/zipf/seed133/fuse_scatter", "W3E6K2T13H24N32/some_dropped/seed134/fp32",
        "W3E12K4T21H32N16/duplicates/seed135/wbf16/fuse_scatter"};
    const op_knobs knobs[] = {
        {.gates = true},
        {.gates = true, .num_workers = 1, .block_wise = true},
        {.gates = true, .num_workers = 3, .num_tail_sms = 1, .block_wise = true},
        {.gates = true, .gemm_library = EPF_GEMM_LIBRARY_PORTABLE},
    };
    int32_t failed = 0;

    num_draws = argc > 1 ? (int32_t)strtol(argv[1], NULL, 10) : num_draws;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        for (size_t k = 0; k < sizeof knobs / sizeof knobs[0]; k++) {
            failed += run(texts[i], knobs[k]);
        }
    }
    return op_finish(failed);
}
