/*
 * test_op_equal: with normal inputs, whose sums do round, the output's bits do not depend on the mode,
 * the run, the number of workers, the size of tiles, the layout of weights, threads or processes, or the
 * number of ranks.
 */
#include <stdlib.h>

#include "op_case.h"
#include "op_device.h"
#include "support/epf_check.h"

/* Runs and returns the outputs of all ranks; data is freed by the caller. */
static op_rows outputs_of(const epf_data *data, const op_knobs *knobs, bool processes,
                          const char *name)
{
    op_case *c = op_case_make(data, knobs, processes);
    op_rows all;

    CHECK(op_case_run(c, name) == 0, "%s failed", name);
    all = op_rows_of(data, c->outputs);
    op_case_free(c);
    return all;
}

typedef struct variant {
    const char *name;
    op_knobs knobs;
    bool fuse_scatter, processes, one_rank;
} variant;

static const variant kVariants[] = {
    {.name = "again"},
    {.name = "one worker", .knobs = {.num_workers = 1}},
    {.name = "four workers", .knobs = {.num_workers = 4, .num_tail_sms = 1}},
    {.name = "block-wise", .knobs = {.block_wise = true}},
    {.name = "small tiles", .knobs = {.block_n = 16, .group_m = 1}},
    {.name = "packed", .knobs = {.packed = true}},
    {.name = "transposed", .knobs = {.b1_transposed = true, .b2_transposed = true}},
    {.name = "fuse_scatter", .fuse_scatter = true},
    {.name = "fuse_scatter, workers of its own",
     .knobs = {.num_workers = 3, .combine_sm = 1, .num_reduce_sms = 1},
     .fuse_scatter = true},
    {.name = "processes", .processes = true},
    {.name = "fuse_scatter, processes", .fuse_scatter = true, .processes = true},
    {.name = "one rank", .one_rank = true},
    {.name = "one rank, fuse_scatter", .fuse_scatter = true, .one_rank = true},
};

static int32_t check_variants(const char *text)
{
    const epf_problem problem = epf_problem_of(text);
    epf_data *data = epf_data_make(&problem);
    epf_data *merged = epf_data_merge(data);
    const op_knobs plain = {.combine_weights = true};
    op_rows want = outputs_of(data, &plain, false, "plain");
    int32_t failed = 0;

    for (size_t i = 0; i < sizeof kVariants / sizeof kVariants[0]; i++) {
        const variant *v = &kVariants[i];
        epf_data here = v->one_rank ? *merged : *data;
        op_knobs knobs = v->knobs;
        op_rows got;
        if (op_leaves_out(&problem, v->processes) || op_device_refuses(&knobs) != EPF_OK) {
            continue;
        }
        here.problem.fuse_scatter = v->fuse_scatter;
        knobs.combine_weights = true;
        got = outputs_of(&here, &knobs, v->processes, v->name);
        failed += !op_rows_equal(v->name, &got, &want);
        free(got.data);
    }
    free(want.data);
    epf_data_free(merged);
    epf_data_free(data);
    return failed;
}

int main(void)
{
    return op_finish(check_variants("W8E16K4T11H64N48M16/zipf/seed21/normal") +
                     check_variants("W4E8K3T13H72N40M8/uneven_T_per_rank/seed22/fp16/normal") +
                     check_variants("W3E6K2T13H40N40M8/uniform/seed23/fp32/normal"));
}
