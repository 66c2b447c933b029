/* fuzz_config.c: what an accepted config says is within the bounds that later code relies on. */
#include "fuzz.h"
#include "model/epf_model_config.h"

static void check_config(const epf_model_config *config)
{
    const epf_routing *r = &config->routing;
    FUZZ_CHECK(config->hidden >= 1 && config->intermediate >= 1 && config->num_layers >= 1);
    FUZZ_CHECK(config->shared_intermediate >= 0 && config->layer_freq >= 1 &&
               config->sparse_step >= 1);
    FUZZ_CHECK(r->num_experts >= 1 && r->topk >= 1 && r->topk <= r->num_experts);
    FUZZ_CHECK(r->num_groups >= 1 && r->num_experts % r->num_groups == 0);
    FUZZ_CHECK(r->topk_groups >= 1 && r->topk_groups <= r->num_groups);
    FUZZ_CHECK(r->topk_method == EPF_TOPK_GREEDY ||
               r->topk <= r->topk_groups * (r->num_experts / r->num_groups));
    FUZZ_CHECK(r->scaling_factor > 0.0 && r->scaling_factor <= 1e6);
    for (int64_t layer = -1; layer <= 4; layer++) {
        const epf_status st = epf_model_config_check_layer(config, layer);
        FUZZ_CHECK(st == EPF_OK || st == EPF_E_INVALID);
        FUZZ_CHECK(st != EPF_OK || (layer >= 0 && layer < config->num_layers));
    }
}

int FUZZ_TARGET(const uint8_t *bytes, size_t num_bytes)
{
    epf_model_config config;
    epf_status st;
    fuzz_watch_begin(4 * num_bytes); /* jansson's hash tables */
    st = epf_model_config_parse("f", bytes, num_bytes, &config);
    fuzz_watch_end();
    if (st == EPF_OK) {
        check_config(&config);
        epf_model_config_free(&config);
    }
    return 0;
}
