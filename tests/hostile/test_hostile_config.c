/* test_hostile_config: attacks on config.json. */
#include "hostile.h"
#include "model/epf_model_config.h"

#define F EPF_E_FORMAT
#define U EPF_E_UNSUPPORTED
#define MIXTRAL(rest) "{\"model_type\":\"mixtral\"," rest "}"
#define QWEN3(rest) "{\"model_type\":\"qwen3_moe\"," rest "}"
#define V2(rest) "{\"model_type\":\"deepseek_v2\",\"num_experts_per_tok\":6," rest "}"
#define V3(rest) "{\"model_type\":\"deepseek_v3\"," rest "}"

static epf_status read_bytes(const void *bytes, size_t num_bytes)
{
    epf_model_config config;
    const epf_status st = epf_model_config_parse("f", bytes, num_bytes, &config);
    if (st == EPF_OK) {
        epf_model_config_free(&config);
    }
    return st;
}

static const hostile_case cases[] = {
    {"empty file", "", "invalid JSON at byte 0", F},
    {"list", "[]", "is no JSON object", F},
    {"number", "1", "is no JSON object", F},
    {"cut", "{\"model_type\":\"mix", "invalid JSON at byte", F},
    {"two objects", "{}{}", "invalid JSON at byte 3", F},
    {"NUL behind", "{}~x00", "invalid JSON at byte 3", F},
    {"invalid UTF-8", "{\"model_type\":\"~xff\"}", "invalid JSON at byte", F},
    {"nested 3000 deep", "~3000{[}~3000{]}", "invalid JSON at byte", F},
    {"2 MB", "{\"x\":\"~2000000{x}\"}", "JSON value of 2000008 bytes at byte 0; at most", F},
    {"no type", "{}", "model_type is missing or no string", F},
    {"type a number", "{\"model_type\":1}", "model_type is missing or no string", F},
    {"type unknown", "{\"model_type\":\"llama\"}", "model_type is \"llama\"; supported: mixtral",
     U},
    {"type with format", "{\"model_type\":\"%n%s\"}", "model_type is \"%n%s\"; supported", U},
    {"type with escape code", "{\"model_type\":\"\\u001b[2J\"}", "supported: mixtral", U},
    {"type of 1000 letters", "{\"model_type\":\"~1000{t}\"}", "model_type is too long a value", U},
    {"type twice", "{\"model_type\":\"mixtral\",\"model_type\":\"olmoe\"}", "duplicate object key",
     F},
    {"hidden 0", MIXTRAL("\"hidden_size\":0"), "hidden_size is 0; must be an integer in 1 .. ", F},
    {"hidden -1", MIXTRAL("\"hidden_size\":-1"), "hidden_size is -1; must be an integer", F},
    {"hidden 2^31", MIXTRAL("\"hidden_size\":2147483648"), "hidden_size is 2147483648; must", F},
    {"hidden 2^32 + 1", MIXTRAL("\"hidden_size\":4294967297"), "hidden_size is 4294967297; must",
     F},
    {"hidden 2^64", MIXTRAL("\"hidden_size\":18446744073709551616"), "invalid JSON at byte", F},
    {"hidden 4096.0", MIXTRAL("\"hidden_size\":4096.0"),
     "hidden_size is 4096.0; must be an integer", F},
    {"hidden 4e3", MIXTRAL("\"hidden_size\":4e3"), "hidden_size is 4000.0; must be an integer", F},
    {"hidden text", MIXTRAL("\"hidden_size\":\"4096\""), "hidden_size is \"4096\"; must be an", F},
    {"hidden a list", MIXTRAL("\"hidden_size\":[4096]"), "hidden_size is [4096]; must be an", F},
    {"hidden a large object", MIXTRAL("\"hidden_size\":{\"a\":\"~500{b}\"}"),
     "hidden_size is too long a", F},
    {"experts 0", MIXTRAL("\"num_local_experts\":0"), "num_local_experts is 0; must be", F},
    {"experts a million", MIXTRAL("\"num_local_experts\":1000000"),
     "num_local_experts is 1000000; must", F},
    {"experts twice, unlike", MIXTRAL("\"num_local_experts\":8,\"num_experts\":16"),
     "they must agree", F},
    {"topk above E", MIXTRAL("\"num_experts_per_tok\":9"),
     "num_experts_per_tok is 9; must be an integer in 1 .. 8", F},
    {"topk 0", MIXTRAL("\"num_experts_per_tok\":0"), "num_experts_per_tok is 0; must be", F},
    {"default topk above E", MIXTRAL("\"num_local_experts\":1"),
     "is missing, and its default 2 is not in", F},
    {"layers 0", MIXTRAL("\"num_hidden_layers\":0"), "num_hidden_layers is 0; must", F},
    {"layers 2^40", MIXTRAL("\"num_hidden_layers\":1099511627776"),
     "num_hidden_layers is 1099511627776", F},
    {"activation", MIXTRAL("\"hidden_act\":\"gelu\""),
     "hidden_act is \"gelu\"; supported: silu, swish", U},
    {"activation a number", MIXTRAL("\"hidden_act\":1"), "hidden_act is 1; supported", U},
    {"bool as number", QWEN3("\"norm_topk_prob\":1"), "norm_topk_prob is 1; must be true or false",
     F},
    {"bool as text", QWEN3("\"norm_topk_prob\":\"true\""), "norm_topk_prob is \"true\"; must be",
     F},
    {"step 0", QWEN3("\"decoder_sparse_step\":0"), "decoder_sparse_step is 0; must", F},
    {"dense layers no list", QWEN3("\"mlp_only_layers\":3"), "mlp_only_layers is no list", F},
    {"dense layer -1", QWEN3("\"mlp_only_layers\":[0,-1]"), "mlp_only_layers[1] is no layer number",
     F},
    {"dense layer 1.5", QWEN3("\"mlp_only_layers\":[1.5]"), "mlp_only_layers[0] is no layer number",
     F},
    {"too many dense layers", QWEN3("\"mlp_only_layers\":[~100000{0,}0]"),
     "no list of at most 100000", F},
    {"v2 without topk", "{\"model_type\":\"deepseek_v2\"}", "num_experts_per_tok is missing", F},
    {"v2 normalises", V2("\"norm_topk_prob\":true"), "norm_topk_prob is true; for deepseek_v2", U},
    {"v2 method", V2("\"topk_method\":\"noaux_tc\""),
     "topk_method is \"noaux_tc\"; supported: greedy", U},
    {"v2 groups missing", V2("\"topk_method\":\"group_limited_greedy\""), "n_group is missing", F},
    {"scale 0", V3("\"routed_scaling_factor\":0"), "routed_scaling_factor is 0; must be a number",
     F},
    {"scale -2.5", V3("\"routed_scaling_factor\":-2.5"), "routed_scaling_factor is -2.5; must", F},
    {"scale 1e300", V3("\"routed_scaling_factor\":1e300"), "must be a number above 0, at most 1e6",
     F},
    {"scale 1e999", V3("\"routed_scaling_factor\":1e999"), "invalid JSON at byte", F},
    {"scale NaN", V3("\"routed_scaling_factor\":NaN"), "invalid JSON at byte", F},
    {"groups 7", V3("\"n_group\":7,\"topk_group\":1"),
     "n_group is 7; must cut 256 experts into equal", F},
    {"groups of one", V3("\"n_group\":256,\"topk_group\":256"), "into equal groups of at least 2",
     F},
    {"topk_group above n_group", V3("\"n_group\":8,\"topk_group\":9"), "topk_group is 9; must", F},
    {"topk above the kept", V3("\"n_group\":128,\"topk_group\":1,\"num_experts_per_tok\":3"),
     "keeps only 2 experts", F},
    {"shared experts -1", V3("\"n_shared_experts\":-1"), "n_shared_experts is -1; must", F},
};

int main(void)
{
    static const hostile_suite suite = {"config", read_bytes, 8, 8192, NULL};
    hostile_run(&suite, cases, sizeof cases / sizeof *cases);
    return hostile_end(&suite, 55);
}
