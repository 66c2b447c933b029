/*
 * epfuse_layer.h: the whole layer; included by epfuse.h, whose head holds here, too.
 */
#ifndef EPFUSE_LAYER_H
#define EPFUSE_LAYER_H

#include "epfuse/epfuse.h"

#ifdef __cplusplus
extern "C" {
#endif

/** What the backward pass needs of the forward pass; grows as needed, may serve many steps. */
typedef struct epf_layer_context epf_layer_context;

/** Not collective. */
EPF_API epf_status epf_layer_context_create(epf_op *op, epf_layer_context **context);

/** Accepts NULL.  With CUDA its memory stays with the operator, for the next context. */
EPF_API_VOID void epf_layer_context_destroy(epf_layer_context *context);

/** The layout of the context's last forward pass; NULL before it.  Owned by the context. */
EPF_API const epf_layout *epf_layer_context_layout(const epf_layer_context *context);

/** What both passes of the layer share. */
typedef struct epf_layer_weights {
    epf_tensor w13;               /* [L, 2I, H] token type: I gate rows, then I up rows, or ... */
    epf_tensor w2;                /* [L, H, I] token type, or ... */
    const epf_weight *packed_w13; /* ... packed with gate_up */
    const epf_weight *packed_w2;  /* ... packed */
} epf_layer_weights;

typedef struct epf_layer_forward_args {
    uint32_t struct_size;   /* set by epf_layer_forward_args_init() */
    epf_tensor input;       /* [T, H] token type */
    epf_tensor exp_indices; /* [T, K] int32 */
    epf_tensor weight;      /* [T, K] weight type */
    epf_layer_weights weights;
    epf_tensor output;             /* [T, H] token type, out */
    bool keep_for_backward;        /* default true: the context keeps rows and projections */
    int32_t comm_buffer_id;        /* default 0 */
    int32_t combine_mode;          /* epf_combine_mode; default AUTO */
    int32_t num_tail_sms;          /* as in dispatch; default 0 */
    bool use_block_wise_barrier;   /* default true */
    bool enable_profiler;          /* default false; CUDA: the calls are waited for */
    const char *profile_file_name; /* default "layer"; the phase's name is added */
} epf_layer_forward_args;

EPF_API epf_status epf_layer_forward_args_init_sized(epf_layer_forward_args *args,
                                                     size_t struct_size);
#define epf_layer_forward_args_init(args) epf_layer_forward_args_init_sized((args), sizeof *(args))

/**
 * preprocess, dispatch + GEMM 1 + SwiGLU with routing weights, GEMM 2 + combine.  Collective.
 *
 *     g, u = x w13[e]^T;   h = silu(g) u w;   output[t] = sum over k of h w2[e]^T
 *
 * @return as the parts it is made of
 */
EPF_API epf_status epf_layer_forward(epf_op *op, epf_layer_context *context,
                                     const epf_layer_forward_args *args);

typedef struct epf_layer_backward_args {
    uint32_t struct_size;                  /* set by epf_layer_backward_args_init() */
    epf_tensor grad_output;                /* [T, H] token type */
    epf_tensor w13;                        /* [L, 2I, H] token type */
    epf_tensor w2;                         /* [L, H, I] token type */
    const epf_weight *packed_w13_backward; /* optional: w13 packed with reduce_last_dim = false */
    const epf_weight *packed_w2_backward;  /* optional: w2 packed with reduce_last_dim = false */
    epf_tensor grad_input;                 /* [T, H] token type, out */
    epf_tensor grad_weight;                /* [T, K] weight type, out: of the routing weights */
    epf_tensor grad_w13;                   /* [L, 2I, H] token type or fp32, out, optional */
    epf_tensor grad_w2;                    /* [L, H, I] token type or fp32, out, optional */
    int32_t comm_buffer_id;                /* default 0 */
    int32_t combine_mode;                  /* epf_combine_mode; default AUTO */
} epf_layer_backward_args;

EPF_API epf_status epf_layer_backward_args_init_sized(epf_layer_backward_args *args,
                                                      size_t struct_size);
#define epf_layer_backward_args_init(args) \
    epf_layer_backward_args_init_sized((args), sizeof *(args))

/**
 * Gradients of the layer's last forward pass with this context (kept for backward).  Collective.
 *
 *     dh = dy w2[e];  dw = sum over i of dh silu(g) u;  du = dh silu(g) w;  dg = dh u w silu'(g)
 *     grad_input[t] = sum over k of (dg, du) w13[e];  grad_w2 = dy^T h;  grad_w13 = (dg, du)^T x
 *
 * dh, h, dg and du are rounded to the token type, as the GEMMs between them take it.
 *
 * @return EPF_E_STATE  the context holds no forward pass kept for backward; else as the parts
 */
EPF_API epf_status epf_layer_backward(epf_op *op, epf_layer_context *context,
                                      const epf_layer_backward_args *args);

#ifdef __cplusplus
}
#endif

#endif
