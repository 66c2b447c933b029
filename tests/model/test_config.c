/*
 * test_config: config.json of each family with all fields, with none (transformers' defaults), and
 * every field with values it cannot have; and the reason why a layer is not a MoE layer.
 */
#include "model/epf_model_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_kit.h"

static epf_model_config parse(const char *text)
{
    epf_model_config config;
    CHECK_OK(epf_model_config_parse("config.json", text, strlen(text), &config));
    return config;
}

typedef struct expected {
    const char *text;
    int32_t layers, hidden, inner, shared, experts, topk, first_dense;
    int groups, topk_groups, norm;
    double scale;
} expected;

/* Only what transformers itself cannot do without; the rest are its defaults. */
static const expected defaults[] = {
    {"{\"model_type\":\"mixtral\"}", 32, 4096, 14336, 0, 8, 2, 0, 1, 1, 1, 1.0},
    {"{\"model_type\":\"qwen2_moe\"}", 24, 2048, 1408, 5632, 60, 4, 0, 1, 1, 0, 1.0},
    {"{\"model_type\":\"qwen3_moe\"}", 24, 2048, 768, 0, 128, 8, 0, 1, 1, 0, 1.0},
    {"{\"model_type\":\"olmoe\"}", 16, 2048, 2048, 0, 64, 8, 0, 1, 1, 0, 1.0},
    {"{\"model_type\":\"deepseek_v2\",\"num_experts_per_tok\":6}", 32, 4096, 1407, 2814, 64, 6, 0,
     1, 1, 0, 1.0},
    {"{\"model_type\":\"deepseek_v3\"}", 61, 7168, 2048, 2048, 256, 8, 3, 8, 4, 1, 2.5},
    /* null is absent; n_shared_experts: null says none */
    {"{\"model_type\":\"mixtral\",\"hidden_size\":null,\"num_local_experts\":null}", 32, 4096,
     14336, 0, 8, 2, 0, 1, 1, 1, 1.0},
    {"{\"model_type\":\"deepseek_v3\",\"n_shared_experts\":null,\"topk_method\":\"noaux_tc\","
     "\"scoring_func\":\"sigmoid\",\"n_group\":1,\"topk_group\":1,\"norm_topk_prob\":false,"
     "\"routed_scaling_factor\":1}",
     61, 7168, 2048, 0, 256, 8, 3, 1, 1, 0, 1.0},
    {"{\"model_type\":\"deepseek_v2\",\"hidden_size\":5120,\"moe_intermediate_size\":1536,"
     "\"n_routed_experts\":160,\"num_experts_per_tok\":6,\"n_group\":8,\"topk_group\":3,"
     "\"topk_method\":\"group_limited_greedy\",\"routed_scaling_factor\":16.0,"
     "\"first_k_dense_replace\":1,\"num_hidden_layers\":60,\"scoring_func\":\"softmax\","
     "\"norm_topk_prob\":false,\"hidden_act\":\"silu\",\"moe_layer_freq\":1}",
     60, 5120, 1536, 3072, 160, 6, 1, 8, 3, 0, 16.0},
    {"{\"model_type\":\"qwen3_moe\",\"num_local_experts\":16,\"num_experts\":16,"
     "\"norm_topk_prob\":true,\"moe_intermediate_size\":8}",
     24, 2048, 8, 0, 16, 8, 0, 1, 1, 1, 1.0},
};

static void test_values(void)
{
    for (size_t i = 0; i < sizeof defaults / sizeof defaults[0]; i++) {
        const expected *want = &defaults[i];
        epf_model_config c = parse(want->text);
        const epf_routing *r = &c.routing;
        CHECK(c.num_layers == want->layers && c.hidden == want->hidden &&
                  c.intermediate == want->inner && c.shared_intermediate == want->shared &&
                  c.first_k_dense == want->first_dense,
              "%s: layers %d, H %d, I %d, shared %d", want->text, c.num_layers, c.hidden,
              c.intermediate, c.shared_intermediate);
        CHECK(r->num_experts == want->experts && r->topk == want->topk &&
                  r->num_groups == want->groups && r->topk_groups == want->topk_groups &&
                  r->norm_topk_prob == (want->norm != 0) && r->scaling_factor == want->scale,
              "%s: E %d, K %d, groups %d of %d, norm %d, scale %g", want->text, r->num_experts,
              r->topk, r->topk_groups, r->num_groups, r->norm_topk_prob, r->scaling_factor);
        epf_model_config_free(&c);
    }
}

static void test_routing_kinds(void)
{
    epf_model_config c = parse("{\"model_type\":\"deepseek_v3\"}");
    CHECK(c.type == EPF_MODEL_DEEPSEEK_V3 && c.routing.score_func == EPF_SCORE_SIGMOID &&
              c.routing.topk_method == EPF_TOPK_GROUP_TOP2_SUM && c.routing.has_bias &&
              c.routing.norm_epsilon == 1e-20,
          "deepseek_v3");
    c = parse(defaults[8].text);
    CHECK(c.routing.score_func == EPF_SCORE_SOFTMAX &&
              c.routing.topk_method == EPF_TOPK_GROUP_MAX && !c.routing.has_bias,
          "deepseek_v2");
    c = parse("{\"model_type\":\"qwen2_moe\"}");
    CHECK(c.has_shared_gate && c.routing.topk_method == EPF_TOPK_GREEDY, "qwen2_moe");
    c = parse("{\"model_type\":\"qwen2_moe\",\"shared_expert_intermediate_size\":0}");
    CHECK(!c.has_shared_gate && c.shared_intermediate == 0, "qwen2_moe without a shared expert");
    CHECK(strcmp(epf_model_type_name(EPF_MODEL_OLMOE), "olmoe") == 0, "name");
}

typedef struct hostile {
    const char *text;
    epf_status status;
    const char *part;
} hostile;

#define MIXTRAL(member) "{\"model_type\":\"mixtral\"," member "}"
#define QWEN(member) "{\"model_type\":\"qwen3_moe\"," member "}"
#define V2(member) "{\"model_type\":\"deepseek_v2\",\"num_experts_per_tok\":6," member "}"
#define V3(member) "{\"model_type\":\"deepseek_v3\"," member "}"

static const hostile cases[] = {
    {"", EPF_E_FORMAT, "config.json: invalid JSON at byte 0"},
    {"{", EPF_E_FORMAT, "config.json: invalid JSON at byte 1"},
    {"[]", EPF_E_FORMAT, "config.json: is no JSON object"},
    {"{\"model_type\":\"mixtral\"} x", EPF_E_FORMAT, "config.json: invalid JSON at byte 2"},
    {"{\"a\":01}", EPF_E_FORMAT, "invalid JSON"},
    {"{\"a\":1,\"a\":1}", EPF_E_FORMAT, "duplicate"},
    {"{\"a\":\"\xff\"}", EPF_E_FORMAT, "invalid JSON at byte 6"},
    {"{}", EPF_E_FORMAT, "model_type is missing"},
    {"{\"model_type\":3}", EPF_E_FORMAT, "model_type is missing or no string"},
    {"{\"model_type\":\"llama\"}", EPF_E_UNSUPPORTED,
     "model_type is \"llama\"; supported: mixtral, q"},
    {"{\"model_type\":\"a\\nb\"}", EPF_E_UNSUPPORTED, "model_type is \"a\\nb\""},
    {"{\"text_config\":{\"model_type\":\"mixtral\"}}", EPF_E_FORMAT, "model_type is missing"},
    {MIXTRAL("\"hidden_act\":\"gelu\""), EPF_E_UNSUPPORTED,
     "hidden_act is \"gelu\"; supported: silu"},
    {MIXTRAL("\"hidden_act\":7"), EPF_E_UNSUPPORTED, "hidden_act is 7"},
    {MIXTRAL("\"hidden_size\":0"), EPF_E_FORMAT,
     "hidden_size is 0; must be an integer in 1 .. 1048576"},
    {MIXTRAL("\"hidden_size\":-8"), EPF_E_FORMAT, "hidden_size is -8"},
    {MIXTRAL("\"hidden_size\":4096.0"), EPF_E_FORMAT, "hidden_size is 4096.0"},
    {MIXTRAL("\"hidden_size\":\"4096\""), EPF_E_FORMAT, "hidden_size is \"4096\""},
    {MIXTRAL("\"hidden_size\":[1]"), EPF_E_FORMAT, "hidden_size is [1]"},
    {MIXTRAL("\"hidden_size\":9223372036854775807"), EPF_E_FORMAT,
     "hidden_size is 9223372036854775807"},
    {MIXTRAL("\"hidden_size\":18446744073709551616"), EPF_E_FORMAT, "invalid JSON"},
    {MIXTRAL("\"num_local_experts\":0"), EPF_E_FORMAT, "num_local_experts is 0; must be"},
    {MIXTRAL("\"num_local_experts\":16385"), EPF_E_FORMAT, "num_local_experts is 16385"},
    {MIXTRAL("\"num_local_experts\":4,\"num_experts\":8"), EPF_E_FORMAT,
     "num_local_experts is 4 but num_experts is 8; they must agree"},
    {MIXTRAL("\"num_experts_per_tok\":9"), EPF_E_FORMAT,
     "num_experts_per_tok is 9; must be an integer in 1 .. 8"},
    {MIXTRAL("\"num_experts_per_tok\":0"), EPF_E_FORMAT, "num_experts_per_tok is 0"},
    {MIXTRAL("\"num_hidden_layers\":0"), EPF_E_FORMAT, "num_hidden_layers is 0"},
    {MIXTRAL("\"intermediate_size\":1048577"), EPF_E_FORMAT, "intermediate_size is 1048577"},
    {QWEN("\"moe_intermediate_size\":0"), EPF_E_FORMAT, "moe_intermediate_size is 0"},
    {QWEN("\"norm_topk_prob\":1"), EPF_E_FORMAT, "norm_topk_prob is 1; must be true or false"},
    {QWEN("\"decoder_sparse_step\":0"), EPF_E_FORMAT, "decoder_sparse_step is 0"},
    {QWEN("\"mlp_only_layers\":3"), EPF_E_FORMAT, "mlp_only_layers is no list"},
    {QWEN("\"mlp_only_layers\":[0,-1]"), EPF_E_FORMAT, "mlp_only_layers[1] is no layer number"},
    {QWEN("\"mlp_only_layers\":[\"0\"]"), EPF_E_FORMAT, "mlp_only_layers[0] is no layer number"},
    {"{\"model_type\":\"deepseek_v2\"}", EPF_E_FORMAT, "num_experts_per_tok is missing"},
    {V2("\"topk_method\":\"noaux_tc\""), EPF_E_UNSUPPORTED,
     "topk_method is \"noaux_tc\"; supported: greedy, group_limited_greedy"},
    {V2("\"topk_method\":\"group_limited_greedy\""), EPF_E_FORMAT, "n_group is missing"},
    {V2("\"topk_method\":\"group_limited_greedy\",\"n_group\":8"), EPF_E_FORMAT,
     "topk_group is missing"},
    {V2("\"scoring_func\":\"sigmoid\""), EPF_E_UNSUPPORTED,
     "scoring_func is \"sigmoid\"; supported: softmax"},
    {V2("\"norm_topk_prob\":true"), EPF_E_UNSUPPORTED, "norm_topk_prob is true"},
    {V2("\"n_shared_experts\":-1"), EPF_E_FORMAT, "n_shared_experts is -1"},
    {V2("\"moe_layer_freq\":0"), EPF_E_FORMAT, "moe_layer_freq is 0"},
    {V2("\"moe_layer_freq\":[0,1]"), EPF_E_FORMAT, "moe_layer_freq is [0,1]"},
    {V3("\"n_group\":7"), EPF_E_FORMAT,
     "n_group is 7; must cut 256 experts into equal groups of at least 2"},
    {V3("\"n_group\":256,\"topk_group\":256"), EPF_E_FORMAT, "n_group is 256; must cut"},
    {V3("\"n_group\":0"), EPF_E_FORMAT, "n_group is 0"},
    {V3("\"topk_group\":9"), EPF_E_FORMAT, "topk_group is 9; must be an integer in 1 .. 8"},
    {V3("\"n_group\":64,\"topk_group\":1"), EPF_E_FORMAT,
     "num_experts_per_tok is 8, but topk_group 1 keeps only 4 experts"},
    {V3("\"n_group\":2"), EPF_E_FORMAT,
     "topk_group is missing, and its default 4 is not in 1 .. 2"},
    {QWEN("\"num_experts\":4"), EPF_E_FORMAT,
     "num_experts_per_tok is missing, and its default 8 is not in 1 .. 4"},
    {V3("\"scoring_func\":\"softmax\""), EPF_E_UNSUPPORTED,
     "scoring_func is \"softmax\"; supported: sigmoid"},
    {V3("\"topk_method\":\"greedy\""), EPF_E_UNSUPPORTED,
     "topk_method is \"greedy\"; supported: noaux_tc"},
    {V3("\"routed_scaling_factor\":0"), EPF_E_FORMAT,
     "routed_scaling_factor is 0; must be a number above 0"},
    {V3("\"routed_scaling_factor\":-2.5"), EPF_E_FORMAT, "routed_scaling_factor is -2.5"},
    {V3("\"routed_scaling_factor\":1e300"), EPF_E_FORMAT, "at most 1e6"},
    {V3("\"routed_scaling_factor\":true"), EPF_E_FORMAT, "routed_scaling_factor is true"},
    {V3("\"first_k_dense_replace\":-1"), EPF_E_FORMAT, "first_k_dense_replace is -1"},
};

static void test_hostile(void)
{
    char *deep = epf_test_alloc(1u << 21, 1);
    epf_model_config config;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        /* A copy of exact length, so that a sanitizer sees reads past the end. */
        const size_t length = strlen(cases[i].text);
        char *text = epf_test_alloc(length, 1);
        memcpy(text, cases[i].text, length);
        kit_expect(cases[i].text, epf_model_config_parse("config.json", text, length, &config),
                   cases[i].status, cases[i].part);
        free(text);
    }
    memset(deep, '[', 1u << 21);
    kit_expect("deep", epf_model_config_parse("config.json", deep, 100000, &config), EPF_E_FORMAT,
               "maximum parsing depth reached");
    kit_expect("long", epf_model_config_parse("config.json", deep, 1u << 21, &config), EPF_E_FORMAT,
               "JSON value of 2097152 bytes at byte 0; at most 1048576");
    kit_expect("missing", epf_model_config_read(kit_path("config.json"), &config), EPF_E_FILE,
               "cannot be opened");
    free(deep);
}

static void refuse_layer(const char *text, int64_t layer, const char *part)
{
    epf_model_config config = parse(text);
    kit_expect(text, epf_model_config_check_layer(&config, layer), EPF_E_INVALID, part);
    epf_model_config_free(&config);
}

static void accept_layer(const char *text, int64_t layer)
{
    epf_model_config config = parse(text);
    CHECK_OK(epf_model_config_check_layer(&config, layer));
    epf_model_config_free(&config);
}

static void test_layers(void)
{
    static const char qwen[] = QWEN("\"decoder_sparse_step\":2,\"mlp_only_layers\":[5,7]");
    static const char v3[] = V3("\"moe_layer_freq\":2");
    refuse_layer(qwen, -1, "layer -1 is out of range; the model has layers 0 .. 23");
    refuse_layer(qwen, 24, "layer 24 is out of range");
    refuse_layer(qwen, INT64_MAX, "is out of range");
    refuse_layer(qwen, 2, "layer 2 is not a MoE layer: decoder_sparse_step is 2");
    refuse_layer(qwen, 7, "layer 7 is not a MoE layer: mlp_only_layers names it");
    accept_layer(qwen, 1);
    accept_layer(qwen, 9);
    refuse_layer(v3, 2, "layer 2 is not a MoE layer: first_k_dense_replace is 3");
    refuse_layer(v3, 3, "layer 3 is not a MoE layer: moe_layer_freq is 2");
    accept_layer(v3, 4);
    accept_layer(MIXTRAL("\"num_hidden_layers\":1"), 0);
}

int main(void)
{
    test_values();
    test_routing_kinds();
    test_hostile();
    test_layers();
    printf("%zu hostile configs refused\n", sizeof cases / sizeof cases[0] + 3);
    return 0;
}
