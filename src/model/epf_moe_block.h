/*
 * epf_moe_block.h: the weights of one MoE layer, as views into a checkpoint's mappings.
 *
 *     y = sum over chosen e of weight[e] * down_e (silu(gate_e x) * up_e x)
 *         + [sigmoid(shared_gate . x) *] down_s (silu(gate_s x) * up_s x)   shared experts, if any
 *
 * Opening checks names, shapes and types, and touches no page of weights.
 */
#ifndef EPF_MOE_BLOCK_H
#define EPF_MOE_BLOCK_H

#include "model/epf_checkpoint.h"

/* One gated MLP; types are F32, F16 or BF16, each tensor its own.  data == NULL: no such MLP. */
typedef struct epf_mlp_weights {
    epf_tensor_view gate; /* [I, H] */
    epf_tensor_view up;   /* [I, H] */
    epf_tensor_view down; /* [H, I] */
} epf_mlp_weights;

typedef struct epf_moe_block {
    const epf_model_config *config; /* the checkpoint's */
    int32_t layer;
    int32_t first_expert; /* experts [first_expert, first_expert + num_experts) are here */
    int32_t num_experts;
    epf_mlp_weights *experts;      /* [num_experts] */
    epf_tensor_view router_weight; /* [E, H] */
    epf_tensor_view router_bias;   /* [E] e_score_correction_bias; data == NULL if none */
    epf_mlp_weights shared;        /* I is shared_intermediate */
    epf_tensor_view shared_gate;   /* [1, H]; data == NULL if none */
} epf_moe_block;

/*
 * Finds the layer's tensors; only shards with the router, the shared experts and experts
 * [first_expert, first_expert + num_experts) are opened.  num_experts = -1 means all from
 * first_expert on.  EPF_E_INVALID: not a MoE layer, or an empty or wrong range; EPF_E_FORMAT: a
 * tensor is missing, has another shape or type.  The block borrows from `checkpoint`.
 */
epf_status epf_moe_block_open(epf_checkpoint *checkpoint, int64_t layer, int32_t first_expert,
                              int32_t num_experts, epf_moe_block *block);

/* Frees the table; the mappings are the checkpoint's.  Accepts a zeroed block. */
void epf_moe_block_close(epf_moe_block *block);

/*
 * Copies experts [first, first + count), numbered over the whole layer, into
 *     w13 [count, 2I, H]   gate rows, then up rows        (NULL: not wanted)
 *     w2  [count, H, I]                                   (NULL: not wanted)
 * as `dtype` (fp32, fp16 or bf16; see epf_tensor_convert()).  Reads these experts' pages only.
 * Const: threads may pack different experts of one block at the same time.
 */
typedef struct epf_moe_pack_args {
    int32_t first;
    int32_t count;
    epf_dtype dtype;
    void *w13;
    void *w2;
} epf_moe_pack_args;
epf_status epf_moe_block_pack(const epf_moe_block *block, const epf_moe_pack_args *args);

/* The same layout for the shared experts as one MLP: w13 [2 Is, H], w2 [H, Is]; first and count are
 * ignored.  EPF_E_INVALID if the block has none. */
epf_status epf_moe_block_pack_shared(const epf_moe_block *block, const epf_moe_pack_args *args);

#endif
