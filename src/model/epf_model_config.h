/*
 * epf_model_config.h: what config.json of a HuggingFace checkpoint says about its MoE layers.
 *
 * A field that config.json lacks takes the default of transformers' config class of that model
 * type.
 * Everything is range checked here, so that later code may multiply and index without looking.
 */
#ifndef EPF_MODEL_CONFIG_H
#define EPF_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "epfuse/epfuse_status.h"

/* Model families: constant, model_type of config.json. */
#define EPF_MODEL_MAP(X)                    \
    X(EPF_MODEL_MIXTRAL, "mixtral")         \
    X(EPF_MODEL_QWEN2_MOE, "qwen2_moe")     \
    X(EPF_MODEL_QWEN3_MOE, "qwen3_moe")     \
    X(EPF_MODEL_OLMOE, "olmoe")             \
    X(EPF_MODEL_DEEPSEEK_V2, "deepseek_v2") \
    X(EPF_MODEL_DEEPSEEK_V3, "deepseek_v3")

typedef enum epf_model_type {
#define X(name, text) name,
    EPF_MODEL_MAP(X)
#undef X
        EPF_MODEL_COUNT
} epf_model_type;

typedef enum epf_score_func { EPF_SCORE_SOFTMAX, EPF_SCORE_SIGMOID } epf_score_func;

/* How the K experts of a token are chosen from its scores; see epf_router.h. */
typedef enum epf_topk_method {
    EPF_TOPK_GREEDY,        /* the K best */
    EPF_TOPK_GROUP_MAX,     /* group_limited_greedy: best topk_group groups by their best score */
    EPF_TOPK_GROUP_TOP2_SUM /* noaux_tc: biased scores; groups by the sum of their two best */
} epf_topk_method;

typedef struct epf_routing {
    int32_t num_experts; /* E, 1 .. 16384 */
    int32_t topk;        /* K, 1 .. min(E, 256) */
    epf_score_func score_func;
    epf_topk_method topk_method;
    int32_t num_groups;    /* 1 where groups are not used; divides E */
    int32_t topk_groups;   /* groups kept, 1 .. num_groups */
    bool norm_topk_prob;   /* weights are divided by their sum */
    bool has_bias;         /* e_score_correction_bias[E] takes part in the choice */
    double norm_epsilon;   /* added to that sum */
    double scaling_factor; /* routed_scaling_factor; 1 where the model has none */
} epf_routing;

typedef struct epf_model_config {
    epf_model_type type;
    int32_t num_layers;          /* num_hidden_layers */
    int32_t hidden;              /* H */
    int32_t intermediate;        /* I of one routed expert */
    int32_t shared_intermediate; /* I of the shared expert(s) together; 0 = none */
    bool has_shared_gate;        /* their output is scaled by sigmoid(x . shared_expert_gate) */
    epf_routing routing;
    /* Which layers are MoE; ask epf_model_config_check_layer(). */
    int32_t first_k_dense;    /* layers [0, first_k_dense) are dense */
    int32_t layer_freq;       /* moe_layer_freq: layer % layer_freq == 0 is MoE */
    int32_t sparse_step;      /* decoder_sparse_step: (layer + 1) % sparse_step == 0 is MoE */
    int32_t num_dense_layers; /* length of dense_layers */
    int32_t *dense_layers;    /* mlp_only_layers */
} epf_model_config;

/* Reads config.json.  EPF_E_FILE, EPF_E_FORMAT (field, value, what it must be), EPF_E_UNSUPPORTED
 * (another model_type, hidden_act, ...), EPF_E_NO_MEMORY. */
epf_status epf_model_config_read(const char *path, epf_model_config *config);

/* As above from memory; `label` stands for the path. */
epf_status epf_model_config_parse(const char *label, const void *text, uint64_t num_bytes,
                                  epf_model_config *config);

/* Frees what a successful read or parse took; the struct may be cleared with zeros instead. */
void epf_model_config_free(epf_model_config *config);

const char *epf_model_type_name(epf_model_type type);

/* EPF_OK if layer has routed experts; else EPF_E_INVALID and the reason: out of range, or dense by
 * which field. */
epf_status epf_model_config_check_layer(const epf_model_config *config, int64_t layer);

#endif
