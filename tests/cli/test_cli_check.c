/*
 * test_cli_check: --check can fail.  Results made by hand for the sample pass; each kind of damage
 * to them is found, and only that.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_run.h"
#include "support/epf_check.h"

enum { NUM_RANKS = 2, NAME_BYTES = 1024 };

typedef struct fixture {
    char checkpoint[NAME_BYTES], input[NAME_BYTES], expected[NAME_BYTES];
    run_options options;
    run_job job;
    run_result *ranks[NUM_RANKS];
} fixture;

/* What two ranks would leave: our router's choice, and transformers' output. */
static void fill_rank(fixture *f, int32_t rank, const epf_tensor_view *output)
{
    const int64_t first = run_job_first_token(&f->job, rank);
    const int64_t tokens = run_job_rank_tokens(&f->job, rank);
    const int64_t width = f->job.config->hidden;
    float *const hidden = epf_test_alloc((size_t)(tokens * width), sizeof *hidden);
    run_result *const part =
        run_result_at(&f->job, epf_test_alloc(1, (size_t)run_result_bytes(&f->job)));
    const epf_router_args args = {.hidden = hidden,
                                  .num_tokens = tokens,
                                  .topk_idx = part->topk_idx,
                                  .topk_weight = part->topk_weight};

    CHECK_OK(
        epf_tensor_convert(f->job.hidden, first * width, tokens * width, EPF_DTYPE_F32, hidden));
    CHECK_OK(epf_router_run(f->job.router, &args));
    CHECK_OK(
        epf_tensor_convert(output, first * width, tokens * width, EPF_DTYPE_F32, part->output));
    f->ranks[rank] = part;
    free(hidden);
}

static void open_fixture(fixture *f, const char *folder)
{
    epf_array *array;

    (void)snprintf(f->checkpoint, NAME_BYTES, "%s", folder);
    (void)snprintf(f->input, NAME_BYTES, "%.900s/hidden.npy", folder);
    (void)snprintf(f->expected, NAME_BYTES, "%.900s/expected.npy", folder);
    f->options = (run_options){.checkpoint = f->checkpoint,
                               .input = f->input,
                               .layer = 2,
                               .num_ranks = NUM_RANKS,
                               .repeat = 1,
                               .dtype = EPF_DTYPE_F32,
                               .check_tokens = -1};
    CHECK_OK(run_job_open(&f->options, NUM_RANKS, &f->job));
    CHECK_OK(epf_array_open(f->expected, &array));
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        fill_rank(f, r, epf_array_view(array));
    }
    epf_array_close(array);
}

static run_check check(fixture *f)
{
    run_check result;
    CHECK_OK(run_check_make(&f->job, f->ranks, &result));
    return result;
}

static void test_output(fixture *f)
{
    float *const output = f->ranks[1]->output;
    const int64_t at = 20 * f->job.config->hidden + 5;
    const float good = output[at];
    run_check c = check(f);

    CHECK(c.passed && c.num_tokens == 303 && c.num_same == 303, "the sample: %g of a bound",
          c.max_ratio);
    output[at] = good + 0.02f;
    c = check(f);
    CHECK(!c.passed && c.worst_token == run_job_first_token(&f->job, 1) + 20 && c.worst_column == 5,
          "0.02 off at [172, 5], found [%lld, %lld]", (long long)c.worst_token,
          (long long)c.worst_column);
    CHECK(c.num_same == 303 && c.max_weight_ratio <= 1, "routing is found wrong, too");
    output[at] = NAN;
    c = check(f);
    CHECK(!c.passed, "NaN passes");
    output[at] = good;
}

static void test_routing(fixture *f)
{
    const int32_t topk = f->job.config->routing.topk;
    int32_t *const ids = f->ranks[0]->topk_idx + 10 * topk;
    float *const weights = f->ranks[0]->topk_weight + 10 * topk;
    const int32_t id = ids[0], other = ids[1];
    const float weight = weights[0];
    run_check c;

    weights[0] = weight * 1.0005f;
    c = check(f);
    CHECK(!c.passed && c.num_misrouted == 0 && c.max_weight_ratio > 1, "a weight 5e-4 off passes");
    weights[0] = weight;

    ids[0] = id == 0 ? 1 : 0;
    while (ids[0] == ids[1] || ids[0] == ids[2] || ids[0] == ids[3] || ids[0] == id) {
        ids[0]++;
    }
    c = check(f);
    CHECK(!c.passed && c.num_misrouted == 1 && c.num_same == 302, "%lld misrouted",
          (long long)c.num_misrouted);

    ids[0] = other; /* the same experts in another order */
    ids[1] = id;
    weights[0] = weights[1];
    weights[1] = weight;
    c = check(f);
    CHECK(c.passed && c.num_same == 303, "another order of the same experts fails");
}

static void test_subset(fixture *f)
{
    run_check c;
    f->options.check_tokens = 7;
    c = check(f);
    CHECK(c.passed && c.num_tokens == 7, "%lld tokens, not 7", (long long)c.num_tokens);
    f->options.check_tokens = 0;
    c = check(f);
    CHECK(c.num_tokens == 303, "%lld tokens, not all", (long long)c.num_tokens);
}

int main(int argc, char **argv)
{
    static fixture f;

    CHECK(argc == 2, "usage: test_cli_check SAMPLE");
    open_fixture(&f, argv[1]);
    test_output(&f);
    test_routing(&f);
    test_subset(&f);
    run_job_close(&f.job);
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        free(f.ranks[r]);
    }
    printf("--check finds wrong values, NaN, wrong experts and wrong weights\n");
    return 0;
}
