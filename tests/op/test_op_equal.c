/*
 * test_op_equal: with normal inputs, whose sums do round, the output's bits do not depend on the mode,
 * the run, the number of workers, the size of tiles, the layout of weights, threads or processes, or the
 * number of ranks.
 */
#include <stdio.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"

/* Runs and returns the outputs of all ranks, one after another; freed by the caller. */
static op_matrix outputs_of(const epf_data *data, const op_knobs *knobs, bool processes,
                            const char *name)
{
    const epf_problem *p = &data->problem;
    const size_t size = epf_element_bytes(p->dtype);
    op_case *c = op_case_make(data, knobs, processes);
    op_matrix all;
    int64_t rows = 0;

    CHECK(op_case_run(c, name) == 0, "%s failed", name);
    for (int32_t r = 0; r < p->num_ranks; r++) {
        rows += data->num_tokens[r];
    }
    all = op_matrix_make(rows, p->hidden, p->dtype, (op_guard){0, 0});
    rows = 0;
    for (int32_t r = 0; r < p->num_ranks; r++) {
        memcpy((char *)all.tensor.data + (size_t)(rows * p->hidden) * size, c->outputs[r],
               (size_t)(data->num_tokens[r] * p->hidden) * size);
        rows += data->num_tokens[r];
    }
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

static void check_variants(const char *text)
{
    const epf_problem problem = epf_problem_of(text);
    epf_data *data = epf_data_make(&problem);
    epf_data *merged = epf_data_merge(data);
    const op_knobs plain = {.combine_weights = true};
    op_matrix want = outputs_of(data, &plain, false, "plain");

    for (size_t i = 0; i < sizeof kVariants / sizeof kVariants[0]; i++) {
        const variant *v = &kVariants[i];
        epf_data here = v->one_rank ? *merged : *data;
        const epf_compare what = {v->name, want.rows, want.cols, NULL};
        op_knobs knobs = v->knobs;
        op_matrix got;
        char why[EPF_COMPARE_TEXT];
        here.problem.fuse_scatter = v->fuse_scatter;
        knobs.combine_weights = true;
        got = outputs_of(&here, &knobs, v->processes, v->name);
        CHECK(got.rows == want.rows, "%s: %s: %lld rows", text, v->name, (long long)got.rows);
        CHECK(epf_compare_bits(&what, want.dtype, got.tensor.data, want.tensor.data, why), "%s: %s",
              text, why);
        op_matrix_free(&got);
    }
    op_matrix_free(&want);
    epf_data_free(merged);
    epf_data_free(data);
}

int main(void)
{
    check_variants("W8E16K4T11H64N48M16/zipf/seed21/normal");
    check_variants("W4E8K3T13H72N40M8/uneven_T_per_rank/seed22/fp16/normal");
    check_variants("W3E6K2T13H40N40M8/uniform/seed23/fp32/normal");
    return 0;
}
