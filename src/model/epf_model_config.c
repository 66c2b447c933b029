/*
 * epf_model_config.c: one table of defaults, then one reader per family for what is its own.
 *
 * null counts as absent, except for n_shared_experts, where it says that there are none.
 */
#include "model/epf_model_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "model/epf_file.h"
#include "model/epf_json.h"

enum {
    REQUIRED = -1, /* as a default: the field must be there */
    MAX_WIDTH = 1 << 20,
    MAX_LAYERS = 100000,
    MAX_EXPERTS = 16384,
    MAX_TOPK = 256
};

/* A config file is a few kilobytes; this is far above any and bounds jansson's tree. */
static const size_t max_config_bytes = 1u << 20;

static const char *const model_types[EPF_MODEL_COUNT] = {
#define X(name, text) text,
    EPF_MODEL_MAP(X)
#undef X
};

/* Defaults of transformers' config classes, and the names that fields go by. */
typedef struct family {
    const char
        *expert_keys[3]; /* spellings of E that transformers reads or writes; the first leads */
    const char *intermediate_key;
    int32_t hidden;
    int32_t intermediate;
    int32_t num_layers;
    int32_t num_experts;
    int32_t topk;
} family;

static const family families[EPF_MODEL_COUNT] = {
    [EPF_MODEL_MIXTRAL] =
        {{"num_local_experts", "num_experts"}, "intermediate_size", 4096, 14336, 32, 8, 2},
    [EPF_MODEL_QWEN2_MOE] =
        {{"num_experts", "num_local_experts"}, "moe_intermediate_size", 2048, 1408, 24, 60, 4},
    [EPF_MODEL_QWEN3_MOE] =
        {{"num_experts", "num_local_experts"}, "moe_intermediate_size", 2048, 768, 24, 128, 8},
    [EPF_MODEL_OLMOE] =
        {{"num_experts", "num_local_experts"}, "intermediate_size", 2048, 2048, 16, 64, 8},
    [EPF_MODEL_DEEPSEEK_V2] = {{"n_routed_experts", "num_experts", "num_local_experts"},
                               "moe_intermediate_size",
                               4096,
                               1407,
                               32,
                               64,
                               REQUIRED},
    [EPF_MODEL_DEEPSEEK_V3] = {{"n_routed_experts", "num_experts", "num_local_experts"},
                               "moe_intermediate_size",
                               7168,
                               2048,
                               61,
                               256,
                               8},
};

typedef struct reader {
    const char *file;
    const json_t *root;
} reader;

typedef struct int_field {
    const char *key;
    int32_t missing; /* default, or REQUIRED */
    int32_t least;
    int32_t most;
} int_field;

/* The member, or NULL if it is absent or null. */
static const json_t *get(const reader *r, const char *key)
{
    const json_t *value = json_object_get(r->root, key);
    return json_is_null(value) ? NULL : value;
}

/* What a value is, for a message. */
static const char *describe(const json_t *value, char out[EPF_PRINTABLE_BYTES])
{
    char text[EPF_PRINTABLE_BYTES];
    const size_t length = json_dumpb(value, text, sizeof text, JSON_ENCODE_ANY | JSON_COMPACT);
    if (length > sizeof text) {
        return "too long a value"; /* and only partly in `text` */
    }
    (void)epf_printable(text, length, out);
    return out;
}

static epf_status read_int(const reader *r, int_field field, int32_t *out)
{
    const json_t *value = get(r, field.key);
    char text[EPF_PRINTABLE_BYTES];
    if (value == NULL) {
        if (field.missing == REQUIRED) {
            return EPF_FAIL(EPF_E_FORMAT, "%s: %s is missing", r->file, field.key);
        }
        if (field.missing < field.least || field.missing > field.most) {
            return EPF_FAIL(EPF_E_FORMAT,
                            "%s: %s is missing, and its default %d is not in %d .. %d", r->file,
                            field.key, field.missing, field.least, field.most);
        }
        *out = field.missing;
        return EPF_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < field.least ||
        json_integer_value(value) > field.most) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: %s is %s; must be an integer in %d .. %d", r->file,
                        field.key, describe(value, text), field.least, field.most);
    }
    *out = (int32_t)json_integer_value(value);
    return EPF_OK;
}

static epf_status read_bool(const reader *r, const char *key, bool missing, bool *out)
{
    const json_t *value = get(r, key);
    char text[EPF_PRINTABLE_BYTES];
    if (value != NULL && !json_is_boolean(value)) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: %s is %s; must be true or false", r->file, key,
                        describe(value, text));
    }
    *out = value == NULL ? missing : json_is_true(value);
    return EPF_OK;
}

static epf_status read_scale(const reader *r, const char *key, double missing, double *out)
{
    const json_t *value = get(r, key);
    const double number = json_number_value(value);
    char text[EPF_PRINTABLE_BYTES];
    if (value != NULL && (!json_is_number(value) || !(number > 0.0) || number > 1e6)) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: %s is %s; must be a number above 0, at most 1e6",
                        r->file, key, describe(value, text));
    }
    *out = value == NULL ? missing : number;
    return EPF_OK;
}

/* A field that, where present, must be one of two words; `either` may be the same word twice. */
static epf_status check_word(const reader *r, const char *key, const char *one, const char *other)
{
    const json_t *value = get(r, key);
    const char *word = json_string_value(value);
    char text[EPF_PRINTABLE_BYTES];
    if (value == NULL || (word != NULL && (strcmp(word, one) == 0 || strcmp(word, other) == 0))) {
        return EPF_OK;
    }
    return EPF_FAIL(EPF_E_UNSUPPORTED, "%s: %s is %s; supported: %s%s%s", r->file, key,
                    describe(value, text), one, one == other ? "" : ", ",
                    one == other ? "" : other);
}

static epf_status read_num_experts(const reader *r, const family *f, int32_t *out)
{
    const char *found = NULL;
    *out = f->num_experts;
    for (int i = 0; i < 3 && f->expert_keys[i] != NULL; i++) {
        const int_field field = {f->expert_keys[i], REQUIRED, 1, MAX_EXPERTS};
        int32_t number = 0;
        if (get(r, field.key) == NULL) {
            continue;
        }
        EPF_TRY(read_int(r, field, &number));
        if (found != NULL && number != *out) {
            return EPF_FAIL(EPF_E_FORMAT, "%s: %s is %d but %s is %d; they must agree", r->file,
                            found, *out, field.key, number);
        }
        found = field.key;
        *out = number;
    }
    return EPF_OK;
}

static epf_status read_dense_layers(const reader *r, epf_model_config *config)
{
    const json_t *list = get(r, "mlp_only_layers");
    const size_t count = json_array_size(list);
    if (list == NULL || (json_is_array(list) && count == 0)) {
        return EPF_OK;
    }
    if (!json_is_array(list) || count > MAX_LAYERS) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: mlp_only_layers is no list of at most %d layers",
                        r->file, MAX_LAYERS);
    }
    config->dense_layers = epf_alloc(count, sizeof config->dense_layers[0]);
    if (config->dense_layers == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for mlp_only_layers", r->file);
    }
    config->num_dense_layers = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        if (!json_is_integer(item) || json_integer_value(item) < 0 ||
            json_integer_value(item) > MAX_LAYERS) {
            return EPF_FAIL(EPF_E_FORMAT, "%s: mlp_only_layers[%zu] is no layer number", r->file,
                            i);
        }
        config->dense_layers[i] = (int32_t)json_integer_value(item);
    }
    return EPF_OK;
}

static epf_status read_qwen(const reader *r, epf_model_config *config)
{
    const int_field step = {"decoder_sparse_step", 1, 1, MAX_LAYERS};
    EPF_TRY(read_int(r, step, &config->sparse_step));
    EPF_TRY(read_dense_layers(r, config));
    if (config->type == EPF_MODEL_QWEN2_MOE) {
        const int_field shared = {"shared_expert_intermediate_size", 5632, 0, MAX_WIDTH};
        EPF_TRY(read_int(r, shared, &config->shared_intermediate));
        config->has_shared_gate = config->shared_intermediate > 0;
    }
    return read_bool(r, "norm_topk_prob", false, &config->routing.norm_topk_prob);
}

static epf_status read_shared_experts(const reader *r, int32_t missing, epf_model_config *config)
{
    const int_field field = {"n_shared_experts", missing, 0, 1024};
    int32_t count = 0;
    if (!json_is_null(json_object_get(r->root, field.key))) {
        EPF_TRY(read_int(r, field, &count));
    }
    config->shared_intermediate = count * config->intermediate; /* 2^10 x 2^20 fits */
    return EPF_OK;
}

static epf_status read_groups(const reader *r, int32_t num_groups, int32_t topk_groups,
                              epf_routing *routing)
{
    const int_field groups = {"n_group", num_groups, 1, routing->num_experts};
    EPF_TRY(read_int(r, groups, &routing->num_groups));
    const int_field kept = {"topk_group", topk_groups, 1, routing->num_groups};
    const int32_t least_size = routing->topk_method == EPF_TOPK_GROUP_TOP2_SUM ? 2 : 1;
    EPF_TRY(read_int(r, kept, &routing->topk_groups));
    if (routing->num_experts % routing->num_groups != 0 ||
        routing->num_experts / routing->num_groups < least_size) {
        return EPF_FAIL(EPF_E_FORMAT,
                        "%s: n_group is %d; must cut %d experts into equal groups of at least %d",
                        r->file, routing->num_groups, routing->num_experts, least_size);
    }
    if (routing->topk > routing->topk_groups * (routing->num_experts / routing->num_groups)) {
        return EPF_FAIL(EPF_E_FORMAT,
                        "%s: num_experts_per_tok is %d, but topk_group %d keeps only %d experts",
                        r->file, routing->topk, routing->topk_groups,
                        routing->topk_groups * (routing->num_experts / routing->num_groups));
    }
    return EPF_OK;
}

/* transformers ignores moe_layer_freq; the models' own code reads it so. */
static epf_status read_deepseek(const reader *r, int32_t first_k_dense, epf_model_config *config)
{
    const int_field dense = {"first_k_dense_replace", first_k_dense, 0, MAX_LAYERS};
    const int_field freq = {"moe_layer_freq", 1, 1, MAX_LAYERS};
    EPF_TRY(read_int(r, dense, &config->first_k_dense));
    return read_int(r, freq, &config->layer_freq);
}

static epf_status read_deepseek_v2(const reader *r, epf_model_config *config)
{
    const char *method = json_string_value(get(r, "topk_method"));
    epf_routing *routing = &config->routing;
    bool normalise = false;
    EPF_TRY(read_deepseek(r, 0, config));
    EPF_TRY(read_shared_experts(r, 2, config));
    EPF_TRY(check_word(r, "scoring_func", "softmax", "softmax"));
    EPF_TRY(check_word(r, "topk_method", "greedy", "group_limited_greedy"));
    EPF_TRY(read_bool(r, "norm_topk_prob", false, &normalise));
    if (normalise) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "%s: norm_topk_prob is true; for deepseek_v2 its meaning "
                        "differs between transformers and the model's own code",
                        r->file);
    }
    EPF_TRY(read_scale(r, "routed_scaling_factor", 1.0, &routing->scaling_factor));
    if (method != NULL && strcmp(method, "group_limited_greedy") == 0) {
        routing->topk_method = EPF_TOPK_GROUP_MAX;
        return read_groups(r, REQUIRED, REQUIRED, routing);
    }
    return EPF_OK;
}

static epf_status read_deepseek_v3(const reader *r, epf_model_config *config)
{
    epf_routing *routing = &config->routing;
    EPF_TRY(read_deepseek(r, 3, config));
    EPF_TRY(read_shared_experts(r, 1, config));
    EPF_TRY(check_word(r, "scoring_func", "sigmoid", "sigmoid"));
    EPF_TRY(check_word(r, "topk_method", "noaux_tc", "noaux_tc"));
    EPF_TRY(read_bool(r, "norm_topk_prob", true, &routing->norm_topk_prob));
    EPF_TRY(read_scale(r, "routed_scaling_factor", 2.5, &routing->scaling_factor));
    routing->score_func = EPF_SCORE_SIGMOID;
    routing->topk_method = EPF_TOPK_GROUP_TOP2_SUM;
    routing->has_bias = true;
    routing->norm_epsilon = 1e-20;
    return read_groups(r, 8, 4, routing);
}

static epf_status read_family(const reader *r, epf_model_config *config)
{
    switch (config->type) {
    case EPF_MODEL_MIXTRAL:
        config->routing.norm_topk_prob = true;
        return EPF_OK;
    case EPF_MODEL_QWEN2_MOE:
    case EPF_MODEL_QWEN3_MOE:
        return read_qwen(r, config);
    case EPF_MODEL_OLMOE:
        return read_bool(r, "norm_topk_prob", false, &config->routing.norm_topk_prob);
    case EPF_MODEL_DEEPSEEK_V2:
        return read_deepseek_v2(r, config);
    case EPF_MODEL_DEEPSEEK_V3:
        return read_deepseek_v3(r, config);
    default:
        return EPF_FAIL(EPF_E_INTERNAL, "model family %d has no reader", (int)config->type);
    }
}

static epf_status read_type(const reader *r, epf_model_type *type)
{
    const json_t *value = get(r, "model_type");
    char known[EPF_MODEL_COUNT * 24] = "";
    char text[EPF_PRINTABLE_BYTES];
    if (!json_is_string(value)) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: model_type is missing or no string", r->file);
    }
    for (int i = 0; i < EPF_MODEL_COUNT; i++) {
        if (strcmp(model_types[i], json_string_value(value)) == 0) {
            *type = (epf_model_type)i;
            return EPF_OK;
        }
        (void)strcat(strcat(known, i == 0 ? "" : ", "), model_types[i]);
    }
    return EPF_FAIL(EPF_E_UNSUPPORTED, "%s: model_type is %s; supported: %s", r->file,
                    describe(value, text), known);
}

static epf_status read_root(const reader *r, epf_model_config *config)
{
    epf_routing *routing = &config->routing;
    const family *f;
    EPF_TRY(read_type(r, &config->type));
    f = &families[config->type];
    config->layer_freq = 1;
    config->sparse_step = 1;
    routing->num_groups = 1;
    routing->topk_groups = 1;
    routing->scaling_factor = 1.0;
    EPF_TRY(check_word(r, "hidden_act", "silu", "swish"));
    EPF_TRY(read_num_experts(r, f, &routing->num_experts));
    const int32_t max_topk = routing->num_experts < MAX_TOPK ? routing->num_experts : MAX_TOPK;
    const int_field hidden = {"hidden_size", f->hidden, 1, MAX_WIDTH};
    const int_field layers = {"num_hidden_layers", f->num_layers, 1, MAX_LAYERS};
    const int_field inner = {f->intermediate_key, f->intermediate, 1, MAX_WIDTH};
    const int_field topk = {"num_experts_per_tok", f->topk, 1, max_topk};
    EPF_TRY(read_int(r, hidden, &config->hidden));
    EPF_TRY(read_int(r, layers, &config->num_layers));
    EPF_TRY(read_int(r, inner, &config->intermediate));
    EPF_TRY(read_int(r, topk, &routing->topk));
    return read_family(r, config);
}

epf_status epf_model_config_parse(const char *label, const void *text, uint64_t num_bytes,
                                  epf_model_config *config)
{
    const epf_json_source source = {label, text};
    const epf_json_span span = {text, (size_t)num_bytes};
    epf_model_config made = {.dense_layers = NULL};
    json_t *root;
    epf_status st;
    EPF_TRY(epf_json_load(&source, span, max_config_bytes, &root));
    if (json_is_object(root)) {
        const reader r = {label, root};
        st = read_root(&r, &made);
    } else {
        st = EPF_FAIL(EPF_E_FORMAT, "%s: is no JSON object", label);
    }
    json_decref(root);
    if (st != EPF_OK) {
        epf_model_config_free(&made);
        return st;
    }
    *config = made;
    return EPF_OK;
}

epf_status epf_model_config_read(const char *path, epf_model_config *config)
{
    epf_file_map map;
    epf_status st;
    EPF_TRY(epf_file_map_open(path, &map));
    st = epf_model_config_parse(path, map.bytes, map.num_bytes, config);
    epf_file_map_close(&map);
    return st;
}

void epf_model_config_free(epf_model_config *config)
{
    epf_free(config->dense_layers);
    config->dense_layers = NULL;
    config->num_dense_layers = 0;
}

const char *epf_model_type_name(epf_model_type type)
{
    return (unsigned)type < EPF_MODEL_COUNT ? model_types[type] : "?";
}

epf_status epf_model_config_check_layer(const epf_model_config *config, int64_t layer)
{
    EPF_CHECK_ARG(layer >= 0 && layer < config->num_layers,
                  "layer %lld is out of range; the model has layers 0 .. %d", (long long)layer,
                  config->num_layers - 1);
    EPF_CHECK_ARG(layer >= config->first_k_dense,
                  "layer %lld is not a MoE layer: first_k_dense_replace is %d", (long long)layer,
                  config->first_k_dense);
    EPF_CHECK_ARG(layer % config->layer_freq == 0,
                  "layer %lld is not a MoE layer: moe_layer_freq is %d", (long long)layer,
                  config->layer_freq);
    EPF_CHECK_ARG((layer + 1) % config->sparse_step == 0,
                  "layer %lld is not a MoE layer: decoder_sparse_step is %d", (long long)layer,
                  config->sparse_step);
    for (int32_t i = 0; i < config->num_dense_layers; i++) {
        EPF_CHECK_ARG(config->dense_layers[i] != layer,
                      "layer %lld is not a MoE layer: mlp_only_layers names it", (long long)layer);
    }
    return EPF_OK;
}
