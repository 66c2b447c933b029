/*
 * test_sample: the shipped checkpoint, read, routed and computed in double precision, gives what
 * transformers' own MoE block made of the same hidden states (expected.npy, fp32).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/epf_array.h"
#include "model/epf_moe_block.h"
#include "model/epf_router.h"
#include "support/epf_check.h"

enum { LAYER = 2 };

/* fp32 rounding of transformers' sums over H = 128 and I = 64, measured at 4.4e-7. */
static const double tolerance = 1e-6;

typedef struct sample {
    epf_moe_block block;
    int64_t hidden;
    int64_t inner;
    int64_t num_tokens;
    float *input;    /* [T, H]        */
    float *expected; /* [T, H]        */
    float *w13;      /* [E, 2I, H]    */
    float *w2;       /* [E, H, I]     */
    int32_t *idx;    /* [T, K]        */
    double *weight;  /* [T, K]        */
} sample;

static float *read_array(const char *folder, const char *name, int64_t hidden, int64_t *num_tokens)
{
    char path[1024];
    epf_array *array;
    float *values;
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK_OK(epf_array_open(path, &array));
    CHECK_OK(epf_array_num_tokens(array, hidden, num_tokens));
    values = epf_test_alloc((size_t)(*num_tokens * hidden), sizeof values[0]);
    CHECK_OK(
        epf_tensor_convert(epf_array_view(array), 0, *num_tokens * hidden, EPF_DTYPE_F32, values));
    epf_array_close(array);
    return values;
}

static void pack(sample *s)
{
    const int32_t num_experts = s->block.num_experts;
    const size_t matrix = (size_t)(s->inner * s->hidden);
    s->w13 = epf_test_alloc((size_t)num_experts * 2 * matrix, sizeof s->w13[0]);
    s->w2 = epf_test_alloc((size_t)num_experts * matrix, sizeof s->w2[0]);
    const epf_moe_pack_args args = {0, num_experts, EPF_DTYPE_F32, s->w13, s->w2};
    CHECK_OK(epf_moe_block_pack(&s->block, &args));
}

static void route(sample *s)
{
    const size_t slots = (size_t)(s->num_tokens * s->block.config->routing.topk);
    int32_t *idx = epf_test_alloc(slots, sizeof idx[0]);
    float *weight = epf_test_alloc(slots, sizeof weight[0]);
    epf_router *router;
    s->idx = epf_test_alloc(slots, sizeof s->idx[0]);
    s->weight = epf_test_alloc(slots, sizeof s->weight[0]);
    const epf_router_args args = {s->input, s->num_tokens, 0, idx, weight};
    const epf_router_f64_args args_f64 = {s->input, s->num_tokens, 0, s->idx, s->weight, NULL};
    CHECK_OK(epf_router_create(s->block.config, &s->block.router_weight, &s->block.router_bias,
                               &router));
    CHECK_OK(epf_router_run(router, &args));
    CHECK_OK(epf_router_run_f64(router, &args_f64));
    for (size_t i = 0; i < slots; i++) {
        CHECK(idx[i] == s->idx[i], "slot %zu: expert %d in fp32, %d in double", i, idx[i],
              s->idx[i]);
        CHECK(fabs((double)weight[i] - s->weight[i]) < tolerance, "slot %zu: weight %g, %g", i,
              (double)weight[i], s->weight[i]);
    }
    epf_router_destroy(router);
    free(idx);
    free(weight);
}

static double dot(const float *row, const double *x, int64_t count)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        sum += (double)row[i] * x[i];
    }
    return sum;
}

static void add_expert(const sample *s, int32_t expert, double weight, const double *x, double *y)
{
    const int64_t matrix = s->inner * s->hidden;
    const float *gate = s->w13 + 2 * expert * matrix;
    const float *down = s->w2 + expert * matrix;
    double inner[512];
    for (int64_t i = 0; i < s->inner; i++) {
        const double g = dot(gate + i * s->hidden, x, s->hidden);
        const double u = dot(gate + matrix + i * s->hidden, x, s->hidden);
        inner[i] = g / (1.0 + exp(-g)) * u;
    }
    for (int64_t h = 0; h < s->hidden; h++) {
        y[h] += weight * dot(down + h * s->inner, inner, s->inner);
    }
}

static double relative_error(const sample *s)
{
    const int32_t topk = s->block.config->routing.topk;
    double difference = 0.0;
    double norm = 0.0;
    for (int64_t t = 0; t < s->num_tokens; t++) {
        double x[1024];
        double y[1024] = {0};
        for (int64_t h = 0; h < s->hidden; h++) {
            x[h] = (double)s->input[t * s->hidden + h];
        }
        for (int32_t k = 0; k < topk; k++) {
            add_expert(s, s->idx[t * topk + k], s->weight[t * topk + k], x, y);
        }
        for (int64_t h = 0; h < s->hidden; h++) {
            const double want = (double)s->expected[t * s->hidden + h];
            difference += (y[h] - want) * (y[h] - want);
            norm += want * want;
        }
    }
    return sqrt(difference / norm);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "examples/sample";
    epf_checkpoint *checkpoint;
    sample s = {.hidden = 0};
    int64_t num_expected;
    double error;
    CHECK_OK(epf_checkpoint_open(folder, &checkpoint));
    CHECK_OK(epf_moe_block_open(checkpoint, LAYER, 0, -1, &s.block));
    s.hidden = s.block.config->hidden;
    s.inner = s.block.config->intermediate;
    CHECK(s.hidden <= 1024 && s.inner <= 512, "the sample outgrew this test");
    s.input = read_array(folder, "hidden.npy", s.hidden, &s.num_tokens);
    s.expected = read_array(folder, "expected.npy", s.hidden, &num_expected);
    CHECK(s.num_tokens == num_expected && s.num_tokens > 0, "token counts differ");
    pack(&s);
    route(&s);
    error = relative_error(&s);
    printf("%lld tokens, relative error %.2e\n", (long long)s.num_tokens, error);
    CHECK(error < tolerance, "relative error %g", error);
    epf_moe_block_close(&s.block);
    epf_checkpoint_close(checkpoint);
    free(s.input);
    free(s.expected);
    free(s.w13);
    free(s.w2);
    free(s.idx);
    free(s.weight);
    return 0;
}
