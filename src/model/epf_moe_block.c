/*
 * epf_moe_block.c: names of a layer's tensors, checks of their shapes, and packing.
 *
 * Three ways to name and store the experts are known: Mixtral's (w1, w3, w2), the common one
 * (gate_proj, up_proj, down_proj), and transformers' in-memory form, in which all experts of a
 * layer are stacked in two tensors, gate_up_proj [E, 2I, H] and down_proj [E, H, I].
 */
#include "model/epf_moe_block.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "core/epf_dtype.h"

enum { NAME_BYTES = 160 };

typedef struct naming {
    const char *router;                 /* after "layers.N." */
    const char *gate, *up, *down;       /* with one %d: the expert; NULL where stacked */
    const char *gate_up, *down_stacked; /* NULL where not */
} naming;

static const naming namings[] = {
    {.router = "block_sparse_moe.gate.weight",
     .gate = "block_sparse_moe.experts.%d.w1.weight",
     .up = "block_sparse_moe.experts.%d.w3.weight",
     .down = "block_sparse_moe.experts.%d.w2.weight"},
    {.router = "mlp.gate.weight",
     .gate = "mlp.experts.%d.gate_proj.weight",
     .up = "mlp.experts.%d.up_proj.weight",
     .down = "mlp.experts.%d.down_proj.weight"},
    {.router = "mlp.gate.weight",
     .gate_up = "mlp.experts.gate_up_proj",
     .down_stacked = "mlp.experts.down_proj"},
};

/* A whole model, or one saved without its head. */
static const char *const prefixes[] = {"model.layers.", "layers."};

typedef struct finder {
    epf_checkpoint *checkpoint;
    epf_moe_block *block;
    const naming *names;
    const char *prefix;
} finder;

typedef struct shape {
    int32_t num_dims;
    int64_t dims[3];
} shape;

static shape shape2(int64_t a, int64_t b)
{
    const shape s = {2, {a, b, 0}};
    return s;
}

static void full_name(const finder *f, const char *tail, char out[NAME_BYTES])
{
    (void)snprintf(out, NAME_BYTES, "%s%d.%s", f->prefix, f->block->layer, tail);
}

static void print_shape(const int64_t *dims, int32_t num_dims, char out[NAME_BYTES])
{
    int used = snprintf(out, NAME_BYTES, "[");
    for (int32_t i = 0; i < num_dims; i++) {
        used += snprintf(out + used, NAME_BYTES - (size_t)used, "%s%" PRId64, i == 0 ? "" : ", ",
                         dims[i]);
    }
    (void)snprintf(out + used, NAME_BYTES - (size_t)used, "]");
}

static epf_status check_tensor(const epf_tensor_view *view, shape want)
{
    char found_text[EPF_TENSOR_MAX_DIMS * 24];
    char want_text[NAME_BYTES];
    if (view->num_dims != want.num_dims ||
        memcmp(view->shape, want.dims, (size_t)want.num_dims * sizeof want.dims[0]) != 0) {
        print_shape(view->shape, view->num_dims, found_text);
        print_shape(want.dims, want.num_dims, want_text);
        return EPF_FAIL(EPF_E_FORMAT,
                        "%s: tensor '%s' at byte %" PRIu64 ": shape is %s; config.json makes it %s",
                        view->file, view->name, view->file_offset, found_text, want_text);
    }
    if (epf_file_dtype_to_dtype(view->dtype) == 0) {
        return EPF_FAIL(
            EPF_E_FORMAT,
            "%s: tensor '%s' at byte %" PRIu64 ": dtype is %s; BF16, F16 and F32 are supported",
            view->file, view->name, view->file_offset, epf_file_dtype_name(view->dtype));
    }
    return EPF_OK;
}

static epf_status find_tensor(const finder *f, const char *tail, shape want, epf_tensor_view *view)
{
    char name[NAME_BYTES];
    full_name(f, tail, name);
    EPF_TRY(epf_checkpoint_find(f->checkpoint, name, view));
    return check_tensor(view, want);
}

/* The tensor of one expert; `pattern` holds one %d. */
static epf_status find_of_expert(const finder *f, const char *pattern, int32_t expert, shape want,
                                 epf_tensor_view *view)
{
    const char *number = strstr(pattern, "%d");
    char tail[NAME_BYTES];
    (void)snprintf(tail, sizeof tail, "%.*s%d%s", (int)(number - pattern), pattern, expert,
                   number + 2);
    return find_tensor(f, tail, want, view);
}

/* Rows [first, first + rows) of the matrix `index` of a stack [E, R, C], as a [rows, C] tensor. */
static epf_tensor_view slice(const epf_tensor_view *stack, int32_t index, int64_t first,
                             int64_t rows)
{
    const int64_t columns = stack->shape[2];
    const uint64_t row_bytes = (uint64_t)columns * epf_file_dtype_bits(stack->dtype) / 8;
    const uint64_t skip = (uint64_t)(index * stack->shape[1] + first) * row_bytes;
    epf_tensor_view view = *stack;
    view.num_dims = 2;
    view.shape[0] = rows;
    view.shape[1] = columns;
    view.data = (const unsigned char *)stack->data + skip;
    view.num_bytes = (uint64_t)rows * row_bytes;
    view.file_offset += skip;
    return view;
}

static epf_status find_stacked(const finder *f)
{
    const epf_model_config *config = f->block->config;
    const int64_t hidden = config->hidden;
    const int64_t inner = config->intermediate;
    const int64_t num_experts = config->routing.num_experts;
    const shape gate_up_shape = {3, {num_experts, 2 * inner, hidden}};
    const shape down_shape = {3, {num_experts, hidden, inner}};
    epf_tensor_view gate_up;
    epf_tensor_view down;
    EPF_TRY(find_tensor(f, f->names->gate_up, gate_up_shape, &gate_up));
    EPF_TRY(find_tensor(f, f->names->down_stacked, down_shape, &down));
    for (int32_t i = 0; i < f->block->num_experts; i++) {
        const int32_t expert = f->block->first_expert + i;
        f->block->experts[i].gate = slice(&gate_up, expert, 0, inner);
        f->block->experts[i].up = slice(&gate_up, expert, inner, inner);
        f->block->experts[i].down = slice(&down, expert, 0, hidden);
    }
    return EPF_OK;
}

static epf_status find_experts(const finder *f)
{
    const shape in_shape = shape2(f->block->config->intermediate, f->block->config->hidden);
    const shape out_shape = shape2(f->block->config->hidden, f->block->config->intermediate);
    if (f->names->gate == NULL) {
        return find_stacked(f);
    }
    for (int32_t i = 0; i < f->block->num_experts; i++) {
        const int32_t expert = f->block->first_expert + i;
        epf_mlp_weights *mlp = &f->block->experts[i];
        EPF_TRY(find_of_expert(f, f->names->gate, expert, in_shape, &mlp->gate));
        EPF_TRY(find_of_expert(f, f->names->up, expert, in_shape, &mlp->up));
        EPF_TRY(find_of_expert(f, f->names->down, expert, out_shape, &mlp->down));
    }
    return EPF_OK;
}

static epf_status find_shared(const finder *f)
{
    const epf_model_config *config = f->block->config;
    const shape in_shape = shape2(config->shared_intermediate, config->hidden);
    const shape out_shape = shape2(config->hidden, config->shared_intermediate);
    const bool qwen = config->type == EPF_MODEL_QWEN2_MOE;
    epf_mlp_weights *shared = &f->block->shared;
    if (config->shared_intermediate == 0) {
        return EPF_OK;
    }
    EPF_TRY(find_tensor(
        f, qwen ? "mlp.shared_expert.gate_proj.weight" : "mlp.shared_experts.gate_proj.weight",
        in_shape, &shared->gate));
    EPF_TRY(find_tensor(
        f, qwen ? "mlp.shared_expert.up_proj.weight" : "mlp.shared_experts.up_proj.weight",
        in_shape, &shared->up));
    EPF_TRY(find_tensor(
        f, qwen ? "mlp.shared_expert.down_proj.weight" : "mlp.shared_experts.down_proj.weight",
        out_shape, &shared->down));
    return config->has_shared_gate ? find_tensor(f, "mlp.shared_expert_gate.weight",
                                                 shape2(1, config->hidden), &f->block->shared_gate)
                                   : EPF_OK;
}

static epf_status find_router(const finder *f)
{
    const epf_model_config *config = f->block->config;
    const shape bias_shape = {1, {config->routing.num_experts, 0, 0}};
    EPF_TRY(find_tensor(f, f->names->router, shape2(config->routing.num_experts, config->hidden),
                        &f->block->router_weight));
    return config->routing.has_bias ? find_tensor(f, "mlp.gate.e_score_correction_bias", bias_shape,
                                                  &f->block->router_bias)
                                    : EPF_OK;
}

static epf_status has_tail(const finder *f, const char *tail, bool *has)
{
    char name[NAME_BYTES];
    full_name(f, tail, name);
    return epf_checkpoint_has(f->checkpoint, name, has);
}

/*
 * Picks prefix and naming.  The router's name decides, and for the stacked form the stack's.  If
 * nothing fits, the family's usual names are kept, so that the search fails naming what is missing.
 */
static epf_status choose_names(finder *f)
{
    const bool mixtral = f->block->config->type == EPF_MODEL_MIXTRAL;
    const size_t num_namings = sizeof namings / sizeof namings[0];
    bool has = false;
    for (size_t p = 0; p < sizeof prefixes / sizeof prefixes[0]; p++) {
        f->prefix = prefixes[p];
        for (size_t n = num_namings; n-- > (mixtral ? 0u : 1u);) {
            const naming *names = &namings[n];
            EPF_TRY(has_tail(f, names->gate_up != NULL ? names->gate_up : names->router, &has));
            if (has) {
                f->names = names;
                return EPF_OK;
            }
        }
    }
    f->prefix = prefixes[0];
    f->names = &namings[mixtral ? 0 : 1];
    return EPF_OK;
}

static epf_status check_range(const epf_model_config *config, int32_t first, int32_t *count)
{
    const int32_t num_experts = config->routing.num_experts;
    if (*count == -1 && first >= 0 && first < num_experts) {
        *count = num_experts - first;
    }
    EPF_CHECK_ARG(first >= 0 && *count >= 1 && first <= num_experts - *count,
                  "experts [%d, %d + %d) are not within the layer's %d", first, first, *count,
                  num_experts);
    return EPF_OK;
}

epf_status epf_moe_block_open(epf_checkpoint *checkpoint, int64_t layer, int32_t first_expert,
                              int32_t num_experts, epf_moe_block *block)
{
    const epf_model_config *config;
    epf_moe_block made = {.first_expert = first_expert};
    finder f = {.checkpoint = checkpoint, .block = &made};
    epf_status st;
    EPF_CHECK_ARG(checkpoint != NULL && block != NULL, "MoE block: NULL argument");
    config = epf_checkpoint_config(checkpoint);
    EPF_TRY(epf_model_config_check_layer(config, layer));
    EPF_TRY(check_range(config, first_expert, &num_experts));
    made.config = config;
    made.layer = (int32_t)layer;
    made.num_experts = num_experts;
    EPF_TRY(choose_names(&f));
    EPF_TRY(find_router(&f));
    EPF_TRY(find_shared(&f));
    made.experts = epf_alloc((size_t)num_experts, sizeof made.experts[0]);
    if (made.experts == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for %d experts", num_experts);
    }
    st = find_experts(&f);
    if (st != EPF_OK) {
        epf_free(made.experts);
        return st;
    }
    *block = made;
    return EPF_OK;
}

void epf_moe_block_close(epf_moe_block *block)
{
    epf_free(block->experts);
    memset(block, 0, sizeof *block);
}

/* One MLP into w13 [2I, H] and w2 [H, I], of which either may be NULL. */
static epf_status pack_mlp(const epf_mlp_weights *mlp, epf_dtype dtype, void *w13, void *w2)
{
    const int64_t count = epf_tensor_num_elements(&mlp->gate);
    if (w13 != NULL) {
        unsigned char *up = (unsigned char *)w13 + count * epf_dtype_bytes((int32_t)dtype);
        EPF_TRY(epf_tensor_convert(&mlp->gate, 0, count, dtype, w13));
        EPF_TRY(epf_tensor_convert(&mlp->up, 0, count, dtype, up));
    }
    return w2 != NULL ? epf_tensor_convert(&mlp->down, 0, count, dtype, w2) : EPF_OK;
}

epf_status epf_moe_block_pack(const epf_moe_block *block, const epf_moe_pack_args *args)
{
    const int32_t begin = args->first - block->first_expert;
    const int64_t matrix_bytes = (int64_t)block->config->intermediate * block->config->hidden *
                                 epf_dtype_bytes((int32_t)args->dtype);
    unsigned char *w13 = args->w13;
    unsigned char *w2 = args->w2;
    EPF_CHECK_ARG(args->first >= block->first_expert && args->count >= 0 &&
                      args->count <= block->num_experts - begin,
                  "experts [%d, %d + %d) to pack are not within [%d, %d + %d) of the block",
                  args->first, args->first, args->count, block->first_expert, block->first_expert,
                  block->num_experts);
    for (int32_t i = 0; i < args->count; i++) {
        EPF_TRY(pack_mlp(&block->experts[begin + i], args->dtype,
                         w13 == NULL ? NULL : w13 + 2 * i * matrix_bytes,
                         w2 == NULL ? NULL : w2 + i * matrix_bytes));
    }
    return EPF_OK;
}

epf_status epf_moe_block_pack_shared(const epf_moe_block *block, const epf_moe_pack_args *args)
{
    EPF_CHECK_ARG(block->shared.gate.data != NULL, "layer %d has no shared experts", block->layer);
    return pack_mlp(&block->shared, args->dtype, args->w13, args->w2);
}
