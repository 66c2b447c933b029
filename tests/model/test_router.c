/*
 * test_router: the rule on logits chosen by hand: order, ties, groups, bias, margins; bad numbers
 * are refused by name; and bits do not depend on how tokens are cut into calls.
 *
 * With W the identity, hidden states are the logits.
 */
#include "model/epf_router.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/epf_router_logits.h"
#include "model/model_kit.h"
#include "support/epf_rng.h"

enum { MAX_EXPERTS = 64 };

static epf_model_config make_config(int32_t num_experts, int32_t topk)
{
    epf_model_config config = {.type = EPF_MODEL_OLMOE, .num_layers = 1, .hidden = num_experts};
    config.routing.num_experts = num_experts;
    config.routing.topk = topk;
    config.routing.num_groups = 1;
    config.routing.topk_groups = 1;
    config.routing.scaling_factor = 1.0;
    return config;
}

static epf_router *make_router(const epf_model_config *config, const float *bias)
{
    const int64_t shape[2] = {config->routing.num_experts, config->hidden};
    float *identity = epf_test_alloc((size_t)(shape[0] * shape[1]), sizeof identity[0]);
    epf_tensor_view weight = epf_tensor_view_of("w", EPF_FILE_F32, 2, shape, identity);
    epf_tensor_view bias_view = epf_tensor_view_of("b", EPF_FILE_F32, 1, shape, bias);
    epf_router *router;
    for (int64_t i = 0; i < shape[0]; i++) {
        identity[i * shape[1] + i] = 1.0f;
    }
    CHECK_OK(epf_router_create(config, &weight, bias == NULL ? NULL : &bias_view, &router));
    free(identity);
    return router;
}

typedef struct one_token {
    int32_t idx[MAX_EXPERTS];
    double weight[MAX_EXPERTS];
    double margin;
} one_token;

/* Routes one token in both precisions, which must agree, and compares the ids. */
static one_token route(const epf_model_config *config, const float *bias, const float *logits,
                       const int32_t *want)
{
    one_token out = {.margin = -1.0};
    int32_t idx[MAX_EXPERTS];
    float weight[MAX_EXPERTS];
    epf_router *router = make_router(config, bias);
    const epf_router_args args = {logits, 1, 0, idx, weight};
    const epf_router_f64_args args_f64 = {logits, 1, 0, out.idx, out.weight, &out.margin};
    CHECK_OK(epf_router_run(router, &args));
    CHECK_OK(epf_router_run_f64(router, &args_f64));
    for (int32_t k = 0; k < config->routing.topk; k++) {
        CHECK(out.idx[k] == want[k], "choice %d is %d, not %d", k, out.idx[k], want[k]);
        CHECK(idx[k] == want[k] && weight[k] == (float)out.weight[k], "fp32 differs at %d", k);
    }
    epf_router_destroy(router);
    return out;
}

static void check_near(double found, double want)
{
    CHECK(fabs(found - want) <= 1e-12 * fabs(want), "%.17g, not %.17g", found, want);
}

static void test_softmax(void)
{
    static const float logits[5] = {0.0f, 2.0f, -1.0f, 2.0f, 1.0f};
    static const int32_t want[3] = {1, 3, 4};
    const double sum = 1.0 + 2.0 * exp(2.0) + exp(-1.0) + exp(1.0);
    epf_model_config config = make_config(5, 3);
    one_token out = route(&config, NULL, logits, want);
    check_near(out.weight[0], exp(2.0) / sum);
    check_near(out.weight[2], exp(1.0) / sum);
    check_near(out.margin, exp(1.0) / sum - 1.0 / sum);
    config.routing.norm_topk_prob = true;
    config.routing.scaling_factor = 4.0;
    out = route(&config, NULL, logits, want);
    check_near(out.weight[0], 4.0 * exp(2.0) / (2.0 * exp(2.0) + exp(1.0)));
    check_near(out.weight[0] + out.weight[1] + out.weight[2], 4.0);
}

static void test_ties(void)
{
    static const float equal[6] = {0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f};
    static const float zeros[4] = {-0.0f, 0.0f, 0.0f, -0.0f};
    static const int32_t in_order[6] = {0, 1, 2, 3, 4, 5};
    epf_model_config config = make_config(6, 6);
    one_token out = route(&config, NULL, equal, in_order);
    CHECK(isinf(out.margin), "everything chosen: no margin");
    config = make_config(6, 2);
    out = route(&config, NULL, equal, in_order);
    CHECK(out.margin == 0.0, "a tie has margin 0");
    config = make_config(4, 3);
    (void)route(&config, NULL, zeros, in_order);
}

/* Logits of 1e4 and more neither overflow nor give NaN. */
static void test_large(void)
{
    static const float logits[3] = {-30000.0f, 30000.0f, 29999.0f};
    static const int32_t want[3] = {1, 2, 0};
    epf_model_config config = make_config(3, 3);
    one_token out = route(&config, NULL, logits, want);
    check_near(out.weight[0], 1.0 / (1.0 + exp(-1.0)));
    CHECK(out.weight[2] == 0.0, "underflow is zero");
    config.routing.score_func = EPF_SCORE_SIGMOID;
    config.routing.norm_topk_prob = true;
    config.routing.norm_epsilon = 1e-20;
    out = route(&config, NULL, logits, (const int32_t[3]){1, 2, 0});
    check_near(out.weight[0], 0.5);
}

/* Groups by their best: group 1 has the best expert, group 0 the two next best. */
static void test_group_max(void)
{
    static const float logits[6] = {2.0f, 2.5f, 3.0f, -9.0f, 1.0f, 1.0f};
    static const int32_t one_group[2] = {2, 3};
    static const int32_t two_groups[2] = {2, 1};
    epf_model_config config = make_config(6, 2);
    one_token out;
    config.routing.topk_method = EPF_TOPK_GROUP_MAX;
    config.routing.num_groups = 3;
    out = route(&config, NULL, logits, one_group);
    CHECK(out.margin < 0.3, "margin of the groups: %g", out.margin);
    config.routing.topk_groups = 2;
    (void)route(&config, NULL, logits, two_groups);
    config.routing.topk_groups = 3;
    (void)route(&config, NULL, logits, two_groups);
}

/* Groups by the sum of their two best, after the bias; weights are without it. */
static void test_group_top2(void)
{
    static const float logits[6] = {0.0f, 0.0f, 3.0f, -9.0f, 0.1f, 0.0f};
    static const float bias[6] = {0.0f, 0.0f, 0.0f, -1.0f, -4.0f, 0.5f};
    static const int32_t want[2] = {0, 1};
    static const int32_t both[3] = {2, 0, 1};
    epf_model_config config = make_config(6, 2);
    one_token out;
    config.routing.score_func = EPF_SCORE_SIGMOID;
    config.routing.topk_method = EPF_TOPK_GROUP_TOP2_SUM;
    config.routing.num_groups = 3;
    config.routing.has_bias = true;
    out = route(&config, bias, logits, want); /* sums 1.0, -0.05, -2.5 */
    check_near(out.weight[0], 0.5);
    config.routing.topk_groups = 2;
    config.routing.topk = 3;
    out = route(&config, bias, logits, both);
    check_near(out.weight[0], 1.0 / (1.0 + exp(-3.0)));
    /* A kept group may have nothing but negative choices: it still beats one that is out. */
    static const float low[6] = {-2.0f, -2.0f, -2.0f, -2.0f, -2.0f, -2.0f};
    static const float all_negative[6] = {-3.0f, -3.0f, -1.0f, -1.0f, -2.0f, -2.0f};
    static const int32_t second[2] = {2, 3};
    config.routing.topk = 2;
    config.routing.topk_groups = 1;
    (void)route(&config, all_negative, low, second);
}

static void test_bad_numbers(void)
{
    epf_model_config config = make_config(20, 2);
    epf_router *router = make_router(&config, NULL);
    float hidden[10 * 20] = {0};
    int32_t idx[20];
    float weight[20];
    double weight_f64[20];
    const epf_router_args args = {hidden, 10, 100, idx, weight};
    const epf_router_f64_args args_f64 = {hidden, 10, 100, idx, weight_f64, NULL};
    hidden[9 * 20 + 17] = NAN;
    kit_expect("NaN", epf_router_run(router, &args), EPF_E_FORMAT,
               "token 109 has a logit that is NaN");
    kit_expect("NaN", epf_router_run_f64(router, &args_f64), EPF_E_FORMAT, "token 109 has a logit");
    hidden[9 * 20 + 17] = 0.0f;
    hidden[3 * 20 + 17] = INFINITY;
    kit_expect("inf", epf_router_run(router, &args), EPF_E_FORMAT, "token 103 has a logit that is");
    epf_router_destroy(router);
}

static void refuse_create(const epf_model_config *config, const epf_tensor_view *weight,
                          const epf_tensor_view *bias, epf_status status, const char *part)
{
    epf_router *router = NULL;
    kit_expect(part, epf_router_create(config, weight, bias, &router), status, part);
    CHECK(router == NULL, "output written on failure");
}

static void test_bad_weights(void)
{
    epf_model_config config = make_config(4, 2);
    float data[16] = {0};
    const int64_t shape[2] = {4, 4};
    epf_tensor_view weight = epf_tensor_view_of("w", EPF_FILE_F32, 2, shape, data);
    epf_tensor_view bias = epf_tensor_view_of("b", EPF_FILE_F32, 1, shape, data);
    refuse_create(&config, NULL, NULL, EPF_E_INVALID, "the weight is missing or not [4, 4]");
    weight.shape[0] = 3;
    refuse_create(&config, &weight, NULL, EPF_E_INVALID, "the weight is missing or not [4, 4]");
    weight.shape[0] = 4;
    weight.dtype = EPF_FILE_F64;
    refuse_create(&config, &weight, NULL, EPF_E_INVALID, "cannot convert F64");
    weight.dtype = EPF_FILE_F32;
    data[7] = NAN;
    refuse_create(&config, &weight, NULL, EPF_E_FORMAT, "tensor 'w': element 7 is NaN");
    data[7] = -INFINITY;
    refuse_create(&config, &weight, NULL, EPF_E_FORMAT, "tensor 'w': element 7 is infinite");
    data[7] = 0.0f;
    config.routing.has_bias = true;
    refuse_create(&config, &weight, NULL, EPF_E_INVALID, "the bias is missing or not [4]");
    bias.shape[0] = 5;
    refuse_create(&config, &weight, &bias, EPF_E_INVALID, "the bias is missing or not [4]");
}

static void fill_random(uint64_t seed, float *values, size_t count)
{
    epf_rng rng = epf_rng_make(seed, 0);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)(epf_rng_uniform(&rng) - 0.5);
    }
}

enum { LOGITS_HIDDEN = 150, LOGITS_PANELS = 2, LOGITS_WIDTH = LOGITS_PANELS * EPF_LOGITS_EXPERTS };

/* The chain that epf_router_logits.h promises for one logit, in plain C. */
static double expected_logit(const float *x, const float *column)
{
    double sum = 0.0;
    for (int first = 0; first < LOGITS_HIDDEN; first += 64) {
        volatile float part = 0.0f; /* volatile: no contraction, no wider register */
        for (int h = first; h < LOGITS_HIDDEN && h < first + 64; h++) {
            volatile float product = x[h] * column[h * EPF_LOGITS_EXPERTS];
            part = part + product;
        }
        sum += (double)part;
    }
    return sum;
}

/* Every version that this machine can run, to the bit; sizes are odd on purpose. */
static void test_logits(void)
{
    static float panels[LOGITS_PANELS * LOGITS_HIDDEN * EPF_LOGITS_EXPERTS];
    static float x[EPF_LOGITS_TOKENS][LOGITS_HIDDEN];
    static double logits[EPF_LOGITS_TOKENS * LOGITS_WIDTH];
    const epf_logits_weight weight = {panels, LOGITS_PANELS, LOGITS_HIDDEN};
    const float *rows[EPF_LOGITS_TOKENS];
    fill_random(1, panels, sizeof panels / sizeof panels[0]);
    fill_random(2, x[0], sizeof x / sizeof x[0][0]);
    for (int t = 0; t < EPF_LOGITS_TOKENS; t++) {
        rows[t] = x[t];
    }
    for (int version = 0; version < epf_router_logits_num_versions(); version++) {
        epf_router_logits_version(version, &weight, rows, logits);
        for (int i = 0; i < EPF_LOGITS_TOKENS * LOGITS_WIDTH; i++) {
            const int e = i % LOGITS_WIDTH;
            const double want = expected_logit(
                x[i / LOGITS_WIDTH],
                panels + e / EPF_LOGITS_EXPERTS * LOGITS_HIDDEN * EPF_LOGITS_EXPERTS +
                    e % EPF_LOGITS_EXPERTS);
            CHECK(memcmp(&want, &logits[i], sizeof want) == 0,
                  "version %d: logit %d: %.17g, not %.17g", version, i, logits[i], want);
        }
    }
    printf("%d versions of the logits agree\n", epf_router_logits_num_versions());
}

/* All tokens at once and one by one give the same bits. */
static void test_cuts(void)
{
    enum { T = 21, E = 37, K = 5 };
    epf_model_config config = make_config(E, K);
    epf_router *router = make_router(&config, NULL);
    static float hidden[T * E];
    static int32_t idx[2][T * K];
    static float weight[2][T * K];
    const epf_router_args whole = {hidden, T, 0, idx[0], weight[0]};
    const epf_router_args none = {NULL, 0, 0, NULL, NULL};
    fill_random(3, hidden, T * E);
    CHECK_OK(epf_router_run(router, &whole));
    CHECK_OK(epf_router_run(router, &none));
    for (int t = 0; t < T; t++) {
        const epf_router_args one = {hidden + t * E, 1, t, idx[1] + t * K, weight[1] + t * K};
        CHECK_OK(epf_router_run(router, &one));
    }
    CHECK(memcmp(idx[0], idx[1], sizeof idx[0]) == 0, "ids depend on the cut");
    CHECK(memcmp(weight[0], weight[1], sizeof weight[0]) == 0, "weights depend on the cut");
    epf_router_destroy(router);
}

int main(void)
{
    test_softmax();
    test_ties();
    test_large();
    test_group_max();
    test_group_top2();
    test_bad_numbers();
    test_bad_weights();
    test_logits();
    test_cuts();
    epf_router_destroy(NULL);
    return 0;
}
