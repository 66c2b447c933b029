/*
 * epf_call.h: one phase with its operands, as every backend's workers see it.  Plain data.
 */
#ifndef EPF_CALL_H
#define EPF_CALL_H

#include "core/epf_sched.h"
#include "core/epf_window.h"

enum { EPF_MAX_BUFFER_SETS = 8 };

/* A matrix by rows; stride in elements.  data NULL: not there. */
typedef struct epf_rows {
    void *data;
    int64_t stride;
} epf_rows;

/* One weight gradient: out[e] = grad_output[rows of e]^T x orig_input[rows of e]. */
typedef struct epf_grad_operands {
    epf_rows grad_output;  /* [R, N']     token type */
    epf_rows orig_input;   /* [R, K'']    token type */
    epf_rows out;          /* [L, N', K''] rows of N', stride of a row */
    int64_t expert_stride; /* elements from expert to expert of out */
    int32_t out_dtype;     /* token type or F32 */
    int32_t block_rows;    /* rows summed per step */
} epf_grad_operands;

typedef struct epf_call {
    epf_phase phase;
    epf_shape shape;
    epf_control_map control_map;
    epf_set_map set_map;
    int32_t rank;
    int32_t set_index;       /* comm_buffer_id */
    uint32_t layout_epoch;   /* of the layout's preprocess */
    int32_t dtype;           /* of tokens */
    int32_t weight_dtype;    /* of routing weights and gates */
    uint8_t *const *control; /* [W] control windows, mapped here */
    uint8_t *const *set;     /* [W] windows of the buffer set, mapped here */

    const int32_t *topk_idx;   /* [T, K] */
    const int32_t *dst_row;    /* [T, K] token_dst_scatter_idx */
    const int32_t *sort_slots; /* [num_slots] token_sort_indices */
    const int32_t *row_source; /* [R, 2] (slot, source rank) */
    int32_t num_tokens;        /* T */

    const void *gemm_weight; /* the backend's packed weight */
    int32_t gemm_kind;       /* the backend's choice of library, for weight gradients */
    int64_t gemm_k;          /* reduction length */
    int64_t gemm_n;          /* columns, both halves with SwiGLU */

    /* dispatch */
    epf_rows input;             /* [T, H] */
    epf_rows weight;            /* [T, K] routing weights */
    epf_rows dispatch_output;   /* [R, H] copy */
    void *weight_recv;          /* [R] copy */
    epf_rows gemm_output;       /* [R, N] */
    epf_rows activation_output; /* [R, N / 2]: SwiGLU where there */

    /* combine */
    epf_rows gemm_input; /* [R, K'] */
    bool has_gate;
    const void *gate_input;   /* [R]; NULL with has_gate: it is in the gate buffer */
    epf_rows output_gate;     /* [T, K] */
    epf_rows combine_weights; /* [T, K] fp32 */
    epf_rows combine_output;  /* [T, H] */
    int32_t *signal;          /* [M_grid] */
    epf_rows staged;          /* [R, H] y before SCATTER tasks bring it away */

    epf_grad_operands grads[EPF_MAX_GRADS];
} epf_call;

/* The low half of `entered`: what all ranks of a call must agree on.  Operation in 4 bits, buffer set in 4,
 * the low 24 bits of the epoch in which the layout was made. */
EPF_HD uint32_t epf_tag(int32_t kind, int32_t set_index, uint32_t layout_epoch)
{
    return (uint32_t)kind | (uint32_t)set_index << 4 | (layout_epoch & 0xffffffu) << 8;
}

EPF_HD uint32_t epf_call_tag(const epf_call *c)
{
    return epf_tag(c->phase.kind, c->set_index, c->layout_epoch);
}

/* `word` is a rank's `entered`, `own` what this rank stored as its own: both are in the same epoch, but the other
 * rank with another operation, buffer set or layout. */
EPF_HD bool epf_entered_is_mismatch(uint64_t own, uint64_t word)
{
    return epf_word_epoch(word) == epf_word_epoch(own) && word != own;
}

EPF_HD uint32_t epf_tag_kind(uint64_t word)
{
    return epf_word_low(word) & 0xfu;
}

EPF_HD uint32_t epf_tag_set(uint64_t word)
{
    return epf_word_low(word) >> 4 & 0xfu;
}

EPF_HD uint32_t epf_tag_layout(uint64_t word)
{
    return epf_word_low(word) >> 8;
}

EPF_HD uint8_t *epf_call_set_row(const epf_call *c, int32_t rank, int64_t buffer, int64_t row)
{
    return c->set[rank] + buffer + row * epf_shape_row_bytes(&c->shape);
}

EPF_HD uint64_t *epf_call_set_word(const epf_call *c, int32_t rank, int64_t buffer, int64_t index)
{
    return (uint64_t *)(void *)(c->set[rank] + buffer) + index;
}

EPF_HD uint64_t *epf_call_control_word(const epf_call *c, int32_t rank, int64_t buffer,
                                       int64_t index)
{
    return (uint64_t *)(void *)(c->control[rank] + buffer) + index;
}

#endif
