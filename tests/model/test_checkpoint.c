/*
 * test_checkpoint: whole folders.  Experts are found under every naming, in one file or in shards,
 * in mixed types; only the shards that a range of experts needs are opened; packing puts gate rows
 * before up rows; and whatever is missing, misplaced or misshapen is named.
 *
 * Element i of a tensor whose name has the hash h is (h + i) % 251 - 125: exact in every type.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/epf_half.h"
#include "model/epf_moe_block.h"
#include "model/epf_safetensors.h"
#include "model/model_kit.h"

enum { HIDDEN = 6, INNER = 4, EXPERTS = 3, SHARED = 5, MAX_TENSORS = 32, NAME_BYTES = 96 };

/* Tensors to be written to one file. */
typedef struct tensor_list {
    int count;
    epf_tensor_view views[MAX_TENSORS];
    char names[MAX_TENSORS][NAME_BYTES];
} tensor_list;

static float value_of(const char *name, int64_t i)
{
    int64_t hash = 0;
    for (const char *c = name; *c != '\0'; c++) {
        hash = (hash * 31 + *c) % 1000003;
    }
    return (float)((hash + i) % 251 - 125);
}

static void add(tensor_list *list, const char *name, epf_file_dtype dtype, const int64_t shape[3])
{
    const int32_t num_dims = shape[1] == 0 ? 1 : shape[2] == 0 ? 2 : 3;
    epf_tensor_view *view = &list->views[list->count];
    uint8_t *data;
    CHECK(list->count < MAX_TENSORS, "too many tensors");
    (void)snprintf(list->names[list->count], NAME_BYTES, "%s", name);
    *view = epf_tensor_view_of(list->names[list->count++], dtype, num_dims, shape, NULL);
    data = epf_test_alloc((size_t)view->num_bytes, 1);
    for (int64_t i = 0; i < epf_tensor_num_elements(view); i++) {
        const float value = value_of(name, i);
        const uint16_t half =
            dtype == EPF_FILE_F16 ? epf_f16_from_f32(value) : epf_bf16_from_f32(value);
        if (dtype == EPF_FILE_F32) {
            memcpy(data + 4 * i, &value, 4);
        } else if (epf_file_dtype_bits(dtype) == 16) {
            memcpy(data + 2 * i, &half, 2);
        }
    }
    view->data = data;
}

static void add2(tensor_list *list, const char *name, epf_file_dtype dtype, int64_t rows,
                 int64_t columns)
{
    const int64_t shape[3] = {rows, columns, 0};
    add(list, name, dtype, shape);
}

static void add3(tensor_list *list, const char *name, int64_t a, int64_t b, int64_t c)
{
    const int64_t shape[3] = {a, b, c};
    add(list, name, EPF_FILE_F32, shape);
}

static void write_list(tensor_list *list, const char *file)
{
    CHECK_OK(epf_safetensors_write(kit_path(file), list->views, list->count));
    for (int i = 0; i < list->count; i++) {
        free((void *)(uintptr_t)list->views[i].data);
    }
    memset(list, 0, sizeof *list);
}

/* One expert's three matrices under "prefix.E.": gate, up, down by the given names and types. */
static void add_expert(tensor_list *list, const char *prefix, int expert,
                       const char *const names[3])
{
    static const epf_file_dtype dtypes[3] = {EPF_FILE_BF16, EPF_FILE_F16, EPF_FILE_F32};
    for (int i = 0; i < 3; i++) {
        char name[NAME_BYTES];
        (void)snprintf(name, sizeof name, "%s.%d.%s.weight", prefix, expert, names[i]);
        add2(list, name, dtypes[i], i == 2 ? HIDDEN : INNER, i == 2 ? INNER : HIDDEN);
    }
}

static const char *const common_names[3] = {"gate_proj", "up_proj", "down_proj"};
static const char *const mixtral_names[3] = {"w1", "w3", "w2"};

static void write_config(const char *model_type, const char *more)
{
    char text[600];
    (void)snprintf(
        text, sizeof text,
        "{\"model_type\":\"%s\",\"hidden_size\":%d,\"%s\":%d,\"num_hidden_layers\":3,"
        "\"%s\":%d,\"num_experts_per_tok\":2%s}",
        model_type, HIDDEN,
        strcmp(model_type, "mixtral") == 0 ? "intermediate_size" : "moe_intermediate_size", INNER,
        strncmp(model_type, "deepseek", 8) == 0 ? "n_routed_experts" : "num_experts", EXPERTS,
        more);
    kit_write_text("config.json", text);
}

static void clear_folder(void)
{
    static const char *const names[] = {
        "config.json", "model.safetensors", "model.safetensors.index.json", "s1", "s2", "s3"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)unlink(kit_path(names[i]));
    }
}

static void check_values(const float *found, const char *name, int64_t first, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        CHECK(found[i] == value_of(name, first + i), "%s[%lld] is %g", name, (long long)(first + i),
              (double)found[i]);
    }
}

/* Packs `count` experts from `first` on as fp32 and compares each with what its tensors hold. */
static void check_pack(const epf_moe_block *block, int first, int count, const char *prefix,
                       const char *const names[3])
{
    float w13[EXPERTS * 2 * INNER * HIDDEN];
    float w2[EXPERTS * HIDDEN * INNER];
    const epf_moe_pack_args args = {first, count, EPF_DTYPE_F32, w13, w2};
    const int64_t matrix = INNER * HIDDEN;
    CHECK_OK(epf_moe_block_pack(block, &args));
    for (int e = 0; e < count; e++) {
        const float *parts[3] = {w13 + 2 * e * matrix, w13 + (2 * e + 1) * matrix, w2 + e * matrix};
        for (int i = 0; i < 3; i++) {
            char name[NAME_BYTES];
            (void)snprintf(name, sizeof name, "%s.%d.%s.weight", prefix, first + e, names[i]);
            check_values(parts[i], name, 0, matrix);
        }
    }
}

static epf_checkpoint *open_folder(void)
{
    epf_checkpoint *checkpoint;
    CHECK_OK(epf_checkpoint_open(kit_folder(), &checkpoint));
    return checkpoint;
}

static epf_checkpoint *open_block(int layer, epf_moe_block *block)
{
    epf_checkpoint *checkpoint = open_folder();
    CHECK_OK(epf_moe_block_open(checkpoint, layer, 0, -1, block));
    CHECK(block->num_experts == EXPERTS && block->first_expert == 0 && block->layer == layer,
          "block of layer %d", layer);
    return checkpoint;
}

static void test_mixtral(void)
{
    tensor_list list = {0};
    epf_moe_block block;
    epf_checkpoint *checkpoint;
    clear_folder();
    write_config("mixtral", "");
    add2(&list, "model.layers.1.block_sparse_moe.gate.weight", EPF_FILE_BF16, EXPERTS, HIDDEN);
    for (int e = 0; e < EXPERTS; e++) {
        add_expert(&list, "model.layers.1.block_sparse_moe.experts", e, mixtral_names);
    }
    write_list(&list, "model.safetensors");
    checkpoint = open_block(1, &block);
    CHECK(epf_checkpoint_num_shards(checkpoint) == 1 &&
              epf_checkpoint_num_open_shards(checkpoint) == 1,
          "shards");
    check_pack(&block, 0, EXPERTS, "model.layers.1.block_sparse_moe.experts", mixtral_names);
    CHECK(block.shared.gate.data == NULL && block.router_bias.data == NULL, "parts it has not");
    epf_moe_block_close(&block);
    kit_expect("layer 2", epf_moe_block_open(checkpoint, 2, 0, -1, &block), EPF_E_FORMAT,
               "tensor 'model.layers.2.block_sparse_moe.gate.weight' is missing");
    epf_checkpoint_close(checkpoint);
}

/* Stacked experts, without the prefix "model.". */
static void test_stacked(void)
{
    tensor_list list = {0};
    epf_moe_block block;
    epf_checkpoint *checkpoint;
    float w13[2 * INNER * HIDDEN];
    float w2[HIDDEN * INNER];
    const epf_moe_pack_args args = {2, 1, EPF_DTYPE_F32, w13, w2};
    const int64_t matrix = INNER * HIDDEN;
    clear_folder();
    write_config("qwen3_moe", "");
    add2(&list, "layers.0.mlp.gate.weight", EPF_FILE_F32, EXPERTS, HIDDEN);
    add3(&list, "layers.0.mlp.experts.gate_up_proj", EXPERTS, 2 * INNER, HIDDEN);
    add3(&list, "layers.0.mlp.experts.down_proj", EXPERTS, HIDDEN, INNER);
    write_list(&list, "model.safetensors");
    checkpoint = open_block(0, &block);
    CHECK_OK(epf_moe_block_pack(&block, &args));
    check_values(w13, "layers.0.mlp.experts.gate_up_proj", 2 * 2 * matrix, 2 * matrix);
    check_values(w2, "layers.0.mlp.experts.down_proj", 2 * matrix, matrix);
    CHECK(block.experts[1].up.shape[0] == INNER && block.experts[1].up.num_dims == 2 &&
              block.experts[1].up.num_bytes == (uint64_t)matrix * 4,
          "slice");
    epf_moe_block_close(&block);
    epf_checkpoint_close(checkpoint);
}

static void test_shared(void)
{
    tensor_list list = {0};
    epf_moe_block block;
    epf_checkpoint *checkpoint;
    float w13[2 * SHARED * HIDDEN];
    float w2[HIDDEN * SHARED];
    const epf_moe_pack_args args = {0, 0, EPF_DTYPE_F32, w13, w2};
    clear_folder();
    write_config("qwen2_moe", ",\"shared_expert_intermediate_size\":5");
    add2(&list, "model.layers.0.mlp.gate.weight", EPF_FILE_F32, EXPERTS, HIDDEN);
    for (int e = 0; e < EXPERTS; e++) {
        add_expert(&list, "model.layers.0.mlp.experts", e, common_names);
    }
    add2(&list, "model.layers.0.mlp.shared_expert.gate_proj.weight", EPF_FILE_F32, SHARED, HIDDEN);
    add2(&list, "model.layers.0.mlp.shared_expert.up_proj.weight", EPF_FILE_BF16, SHARED, HIDDEN);
    add2(&list, "model.layers.0.mlp.shared_expert.down_proj.weight", EPF_FILE_F16, HIDDEN, SHARED);
    add2(&list, "model.layers.0.mlp.shared_expert_gate.weight", EPF_FILE_BF16, 1, HIDDEN);
    write_list(&list, "model.safetensors");
    checkpoint = open_block(0, &block);
    check_pack(&block, 1, 2, "model.layers.0.mlp.experts", common_names);
    CHECK_OK(epf_moe_block_pack_shared(&block, &args));
    check_values(w13, "model.layers.0.mlp.shared_expert.gate_proj.weight", 0, SHARED * HIDDEN);
    check_values(w13 + SHARED * HIDDEN, "model.layers.0.mlp.shared_expert.up_proj.weight", 0,
                 SHARED * HIDDEN);
    check_values(w2, "model.layers.0.mlp.shared_expert.down_proj.weight", 0, SHARED * HIDDEN);
    CHECK(block.shared_gate.data != NULL && block.shared_gate.shape[1] == HIDDEN, "shared gate");
    epf_moe_block_close(&block);
    epf_checkpoint_close(checkpoint);
}

/* DeepSeek-V3 in three shards: s1 has router, shared experts and expert 0; s2 has 1, s3 has 2. */
static void write_sharded(void)
{
    static const char index[] = "{\"metadata\":{\"total_size\":123},\"weight_map\":{"
                                "\"model.layers.1.mlp.gate.weight\":\"s1\","
                                "\"model.layers.1.mlp.gate.e_score_correction_bias\":\"s1\","
                                "\"model.layers.1.mlp.shared_experts.gate_proj.weight\":\"s1\","
                                "\"model.layers.1.mlp.shared_experts.up_proj.weight\":\"s1\","
                                "\"model.layers.1.mlp.shared_experts.down_proj.weight\":\"s1\","
                                "\"model.layers.1.mlp.experts.0.gate_proj.weight\":\"s1\","
                                "\"model.layers.1.mlp.experts.0.up_proj.weight\":\"s1\","
                                "\"model.layers.1.mlp.experts.0.down_proj.weight\":\"s1\","
                                "\"model.layers.1.mlp.experts.1.gate_proj.weight\":\"s2\","
                                "\"model.layers.1.mlp.experts.1.up_proj.weight\":\"s2\","
                                "\"model.layers.1.mlp.experts.1.down_proj.weight\":\"s2\","
                                "\"model.layers.1.mlp.experts.2.gate_proj.weight\":\"s3\","
                                "\"model.layers.1.mlp.experts.2.up_proj.weight\":\"s3\","
                                "\"model.layers.1.mlp.experts.2.down_proj.weight\":\"s2\"}}";
    const int64_t bias_shape[3] = {EXPERTS, 0, 0};
    tensor_list list = {0};
    clear_folder();
    write_config("deepseek_v3", ",\"first_k_dense_replace\":1,\"n_shared_experts\":2,"
                                "\"n_group\":1,\"topk_group\":1");
    add2(&list, "model.layers.1.mlp.gate.weight", EPF_FILE_BF16, EXPERTS, HIDDEN);
    add(&list, "model.layers.1.mlp.gate.e_score_correction_bias", EPF_FILE_F32, bias_shape);
    add2(&list, "model.layers.1.mlp.shared_experts.gate_proj.weight", EPF_FILE_F32, 2 * INNER,
         HIDDEN);
    add2(&list, "model.layers.1.mlp.shared_experts.up_proj.weight", EPF_FILE_F32, 2 * INNER,
         HIDDEN);
    add2(&list, "model.layers.1.mlp.shared_experts.down_proj.weight", EPF_FILE_F32, HIDDEN,
         2 * INNER);
    add_expert(&list, "model.layers.1.mlp.experts", 0, common_names);
    write_list(&list, "s1");
    add_expert(&list, "model.layers.1.mlp.experts", 1, common_names);
    write_list(&list, "s2");
    add_expert(&list, "model.layers.1.mlp.experts", 2, common_names);
    write_list(&list, "s3");
    kit_write_text("model.safetensors.index.json", index);
}

static void test_sharded(void)
{
    epf_checkpoint *checkpoint;
    epf_moe_block block;
    epf_tensor_view view;
    bool has;
    write_sharded();
    checkpoint = open_folder();
    CHECK(strcmp(epf_checkpoint_folder(checkpoint), kit_folder()) == 0, "folder");
    CHECK(epf_checkpoint_num_shards(checkpoint) == 3 &&
              epf_checkpoint_num_open_shards(checkpoint) == 0,
          "nothing is opened early");
    CHECK_OK(epf_moe_block_open(checkpoint, 1, 0, 1, &block));
    CHECK(epf_checkpoint_num_open_shards(checkpoint) == 1, "expert 0 needs one shard");
    CHECK(block.router_bias.data != NULL && block.shared.up.shape[0] == 2 * INNER, "parts");
    check_pack(&block, 0, 1, "model.layers.1.mlp.experts", common_names);
    epf_moe_block_close(&block);
    CHECK_OK(epf_moe_block_open(checkpoint, 1, 0, 2, &block));
    CHECK(epf_checkpoint_num_open_shards(checkpoint) == 2, "experts 0 and 1 need two shards");
    epf_moe_block_close(&block);
    kit_expect("expert 2", epf_moe_block_open(checkpoint, 1, 2, 1, &block), EPF_E_FORMAT,
               "/s2: tensor 'model.layers.1.mlp.experts.2.down_proj.weight' is missing, though the "
               "index places it in this file");
    kit_expect("layer 0", epf_moe_block_open(checkpoint, 0, 0, 1, &block), EPF_E_INVALID,
               "layer 0 is not a MoE layer: first_k_dense_replace is 1");
    kit_expect("layer 2", epf_moe_block_open(checkpoint, 2, 0, 1, &block), EPF_E_FORMAT,
               "index.json: tensor 'model.layers.2.mlp.gate.weight' is missing");
    kit_expect("range", epf_moe_block_open(checkpoint, 1, 2, 2, &block), EPF_E_INVALID,
               "experts [2, 2 + 2) are not within the layer's 3");
    kit_expect("range", epf_moe_block_open(checkpoint, 1, 3, -1, &block), EPF_E_INVALID,
               "experts [3, 3 + -1) are not within");
    kit_expect("range", epf_moe_block_open(checkpoint, 1, -1, 1, &block), EPF_E_INVALID,
               "experts [-1, ");
    kit_expect("range", epf_moe_block_open(checkpoint, 1, 0, 0, &block), EPF_E_INVALID,
               "experts [0, 0 + 0)");
    kit_expect("name", epf_checkpoint_find(checkpoint, "zzz", &view), EPF_E_FORMAT,
               "tensor 'zzz' is missing");
    CHECK_OK(epf_checkpoint_has(checkpoint, "model.layers.1.mlp.gate.weight", &has));
    CHECK(has, "has");
    CHECK_OK(epf_checkpoint_has(checkpoint, "a", &has));
    CHECK(!has, "has not");
    epf_checkpoint_close(checkpoint);
    CHECK(unlink(kit_path("s1")) == 0, "unlink");
    checkpoint = open_folder();
    kit_expect("shard gone", epf_moe_block_open(checkpoint, 1, 0, 1, &block), EPF_E_FILE,
               "/s1: cannot be opened: No such file");
    epf_checkpoint_close(checkpoint);
}

static void test_pack_errors(void)
{
    epf_checkpoint *checkpoint;
    epf_moe_block block;
    uint16_t w2[2 * HIDDEN * INNER];
    epf_moe_pack_args args = {1, 1, EPF_DTYPE_BF16, NULL, w2};
    float value;
    write_sharded();
    checkpoint = open_folder();
    CHECK_OK(epf_moe_block_open(checkpoint, 1, 1, 1, &block));
    CHECK_OK(epf_moe_block_pack(&block, &args));
    value = value_of("model.layers.1.mlp.experts.1.down_proj.weight", 3);
    CHECK(w2[3] == epf_bf16_from_f32(value), "narrowed to bf16");
    args.first = 0;
    kit_expect("below", epf_moe_block_pack(&block, &args), EPF_E_INVALID,
               "experts [0, 0 + 1) to pack are not within [1, 1 + 1)");
    args.first = 1;
    args.count = 2;
    kit_expect("above", epf_moe_block_pack(&block, &args), EPF_E_INVALID, "experts [1, 1 + 2)");
    args.count = 1;
    args.dtype = EPF_DTYPE_I32;
    kit_expect("type", epf_moe_block_pack(&block, &args), EPF_E_INVALID,
               "cannot convert F32 to int32");
    epf_moe_block_close(&block);
    epf_checkpoint_close(checkpoint);
}

/* A layer with one tensor of another shape or type: what is wrong is named, with its byte. */
static void refuse_tensor(const char *bad, epf_file_dtype dtype, int64_t rows, const char *part)
{
    static const char *const tails[] = {"gate.weight", "experts.0.gate_proj.weight",
                                        "experts.0.up_proj.weight", "experts.0.down_proj.weight"};
    static const int64_t shapes[][2] = {
        {EXPERTS, HIDDEN}, {INNER, HIDDEN}, {INNER, HIDDEN}, {HIDDEN, INNER}};
    tensor_list list = {0};
    epf_checkpoint *checkpoint;
    epf_moe_block block;
    clear_folder();
    write_config("qwen3_moe", "");
    for (int i = 0; i < 4; i++) {
        char name[NAME_BYTES];
        const bool is_bad = strcmp(tails[i], bad) == 0;
        (void)snprintf(name, sizeof name, "model.layers.0.mlp.%s", tails[i]);
        add2(&list, name, is_bad ? dtype : EPF_FILE_F32, is_bad ? rows : shapes[i][0],
             shapes[i][1]);
    }
    write_list(&list, "model.safetensors");
    checkpoint = open_folder();
    kit_expect(bad, epf_moe_block_open(checkpoint, 0, 0, 1, &block), EPF_E_FORMAT, part);
    epf_checkpoint_close(checkpoint);
}

static void test_bad_tensors(void)
{
    refuse_tensor(
        "gate.weight", EPF_FILE_F32, 4,
        "tensor 'model.layers.0.mlp.gate.weight' at byte 400: shape is [4, 6]; config.json "
        "makes it [3, 6]");
    refuse_tensor("experts.0.up_proj.weight", EPF_FILE_F32, 5,
                  "shape is [5, 6]; config.json makes it [4, 6]");
    refuse_tensor("experts.0.down_proj.weight", EPF_FILE_F32, 1,
                  "shape is [1, 4]; config.json makes it [6, 4]");
    refuse_tensor("experts.0.gate_proj.weight", EPF_FILE_F8_E4M3, 4,
                  "dtype is F8_E4M3; BF16, F16 and F32 are supported");
    refuse_tensor("gate.weight", EPF_FILE_I32, 3, "dtype is I32");
}

static void refuse_index(const char *text, const char *part)
{
    epf_checkpoint *checkpoint;
    kit_write_text("model.safetensors.index.json", text);
    kit_expect(text, epf_checkpoint_open(kit_folder(), &checkpoint), EPF_E_FORMAT, part);
}

#define MAP(pairs) "{\"weight_map\":{" pairs "}}"

static void test_hostile_index(void)
{
    static const char longest[] =
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567"
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567"
        "01234567890123456789012345678901234567890123456789012345678901234567890123456789";
    char text[400];
    clear_folder();
    write_config("qwen3_moe", "");
    refuse_index("", "index.json: invalid JSON at byte 0: an object that starts with '{'");
    refuse_index("[]", "invalid JSON at byte 0");
    refuse_index("{}", "weight_map is missing");
    refuse_index("{\"weight_map\":[]}", "invalid JSON at byte 14: an object");
    refuse_index("{\"weight_map\":null}", "invalid JSON at byte 14: an object");
    refuse_index("{\"weight_map\":{},\"weight_map\":{}}", "weight_map appears twice, at byte 30");
    refuse_index("{\"metadata\":{\"a\":01},\"weight_map\":{}}", "invalid JSON at byte");
    refuse_index(MAP("\"a\":1"), "invalid JSON at byte 19: a string was expected");
    refuse_index(MAP("\"a\":\"\\q\""), "invalid JSON at byte");
    refuse_index(MAP("\"a\":\"s1\",\"a\":\"s2\""), "weight_map names tensor 'a' twice");
    refuse_index(MAP("\"a\":\"s1\",\"\\u0061\":\"s2\""), "weight_map names tensor 'a' twice");
    refuse_index(MAP("\"a\":\"../s1\""), "shard name '../s1' at byte 19 is no plain file name");
    refuse_index(MAP("\"a\":\"/etc/passwd\""), "shard name '/etc/passwd' at byte 19 is no plain");
    refuse_index(MAP("\"a\":\"sub/s1\""), "is no plain file name");
    refuse_index(MAP("\"a\":\"\\u002e\\u002e\""), "shard name '..' at byte 19 is no plain");
    refuse_index(MAP("\"a\":\"..\\u002fx\""), "shard name '../x' at byte 19 is no plain");
    refuse_index(MAP("\"a\":\".\""), "shard name '.' at byte 19 is no plain");
    refuse_index(MAP("\"a\":\"\""), "shard name '' at byte 19 is empty");
    refuse_index(MAP("\"a\":\"s\\u0000\""), "invalid JSON at byte");
    (void)snprintf(text, sizeof text, MAP("\"a\":\"%s\""), longest);
    refuse_index(text, "at byte 19 is empty or longer than 255 bytes");
}

/* 4096 shards are accepted, one more is not. */
static void test_many_shards(void)
{
    const size_t size = 5000 * 32;
    char *text = epf_test_alloc(size, 1);
    char *at = text + sprintf(text, "{\"weight_map\":{\"t0\":\"s0\"");
    int32_t num_shards = 0;
    for (int i = 1; i < 4096; i++) {
        at += sprintf(at, ",\"t%d\":\"s%d\"", i, i);
    }
    (void)strcpy(at, "}}");
    CHECK_OK(epf_checkpoint_check_index("index", text, strlen(text), &num_shards));
    CHECK(num_shards == 4096, "%d shards", num_shards);
    (void)strcpy(at, ",\"x\":\"sx\"}}");
    kit_expect("shards", epf_checkpoint_check_index("index", text, strlen(text), &num_shards),
               EPF_E_FORMAT, "index: shard name 'sx' at byte 63335 is one too many");
    free(text);
}

static void test_no_folder(void)
{
    epf_checkpoint *checkpoint;
    clear_folder();
    kit_expect("no folder", epf_checkpoint_open("/nowhere", &checkpoint), EPF_E_FILE,
               "/nowhere/config.json: cannot be opened");
    kit_expect("no config", epf_checkpoint_open(kit_folder(), &checkpoint), EPF_E_FILE,
               "config.json");
    write_config("qwen3_moe", "");
    kit_expect("no weights", epf_checkpoint_open(kit_folder(), &checkpoint), EPF_E_FILE,
               "has neither model.safetensors nor model.safetensors.index.json");
    kit_expect("NULL", epf_checkpoint_open(NULL, &checkpoint), EPF_E_INVALID, "NULL");
    epf_checkpoint_close(NULL);
}

int main(void)
{
    test_mixtral();
    test_stacked();
    test_shared();
    test_sharded();
    test_pack_errors();
    test_bad_tensors();
    test_hostile_index();
    test_many_shards();
    test_no_folder();
    return 0;
}
