/* epf_preset.c: the table. */
#include "model/epf_preset.h"

#include <stddef.h>
#include <string.h>

#define SOFTMAX_ROUTING(e, k, norm)                                        \
    {                                                                      \
        .num_experts = (e), .topk = (k), .score_func = EPF_SCORE_SOFTMAX,  \
        .topk_method = EPF_TOPK_GREEDY, .num_groups = 1, .topk_groups = 1, \
        .norm_topk_prob = (norm), .scaling_factor = 1.0                    \
    }

static const epf_preset presets[] = {
    {.name = "dsv3",
     .about = "DeepSeek-V3: 256 experts, top 8 in 4 of 8 groups",
     .hidden = 7168,
     .intermediate = 2048,
     .gated = true,
     .num_ranks = 8,
     .tokens_per_rank = 8192,
     .routing = {.num_experts = 256,
                 .topk = 8,
                 .score_func = EPF_SCORE_SIGMOID,
                 .topk_method = EPF_TOPK_GROUP_TOP2_SUM,
                 .num_groups = 8,
                 .topk_groups = 4,
                 .norm_topk_prob = true,
                 .has_bias = true,
                 .norm_epsilon = 1e-20,
                 .scaling_factor = 2.5}},
    {.name = "qwen3-235b",
     .about = "Qwen3-235B-A22B: 128 experts, top 8",
     .hidden = 4096,
     .intermediate = 1536,
     .gated = true,
     .num_ranks = 8,
     .tokens_per_rank = 8192,
     .routing = SOFTMAX_ROUTING(128, 8, true)},
    {.name = "mixtral",
     .about = "Mixtral-8x7B: 8 experts, top 2",
     .hidden = 4096,
     .intermediate = 14336,
     .gated = true,
     .num_ranks = 8,
     .tokens_per_rank = 8192,
     .routing = SOFTMAX_ROUTING(8, 2, true)},
    {.name = "example",
     .about = "the original's example: two plain GEMMs, 64 experts, top 2",
     .hidden = 7168,
     .intermediate = 2048,
     .gated = false,
     .num_ranks = 8,
     .tokens_per_rank = 8192,
     .routing = SOFTMAX_ROUTING(64, 2, true)},
    {.name = "test",
     .about = "the original's test: two plain GEMMs, 8 experts a rank, top 8",
     .hidden = 1536,
     .intermediate = 960,
     .gated = false,
     .num_ranks = 8,
     .tokens_per_rank = 4096,
     .routing = SOFTMAX_ROUTING(64, 8, true)},
};

int32_t epf_preset_count(void)
{
    return (int32_t)(sizeof presets / sizeof presets[0]);
}

const epf_preset *epf_preset_at(int32_t index)
{
    return &presets[index];
}

const epf_preset *epf_preset_find(const char *name)
{
    for (int32_t i = 0; i < epf_preset_count(); i++) {
        if (strcmp(presets[i].name, name) == 0) {
            return &presets[i];
        }
    }
    return NULL;
}

int32_t epf_preset_gemm1_columns(const epf_preset *preset)
{
    return preset->gated ? 2 * preset->intermediate : preset->intermediate;
}
