/*
 * epf_reference.h: what every backend must compute, in double precision and without any schedule.
 *
 * Used by tests and by --check only.  All ranks are computed in one place, one rank's rows after the
 * other, by the plainest loops that say what docs/SEMANTICS.md says.
 *
 * Every matrix carries, beside its values, a bound on how far a correct backend may be from them.  The
 * bound follows from three facts, with u the largest relative error of one rounding (2^-24 for fp32,
 * 2^-8 for bf16, 2^-11 for fp16) and eps = 2^-23 the spacing of fp32 numbers at 1:
 *
 *   1. A sum of K products, each added once in fp32 in any order, by rounding or by truncation, has
 *      an error of at most  K * eps * sum |a||b|.  (K additions and at most K products err by at most
 *      eps each, by u if they round; u = eps / 2 leaves the second-order terms room.)
 *   2. Storing a value in the token type errs by half a unit in its last place.
 *   3. An error of d in an input moves a sum by |d||b|, and silu(g) by at most 1.1 |d|, its
 *      derivative by at most 0.5 |d|.
 *
 * In mode EPF_REF_ROUNDED the values are rounded wherever a backend must round, so that integer inputs,
 * whose fp32 sums are exact, give the very bits of a backend.  In mode EPF_REF_EXACT nothing is.
 */
#ifndef EPF_REFERENCE_H
#define EPF_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "epfuse/epfuse_dtype.h"
#include "epfuse/epfuse_status.h"
#include "reference/epf_ref_route.h"

typedef enum epf_ref_mode {
    EPF_REF_EXACT,  /* double throughout                                          */
    EPF_REF_ROUNDED /* rounded at the points where semantics demand a rounding    */
} epf_ref_mode;

/* Someone else's array of fp32, bf16 or fp16 elements. */
typedef struct epf_ref_tensor {
    const void *data;
    epf_dtype dtype;
} epf_ref_tensor;

/* [rows, cols]; value and bound have rows * cols elements each. */
typedef struct epf_ref_matrix {
    int64_t rows, cols;
    double *value;
    double *bound; /* >= 0 */
} epf_ref_matrix;

/* Zeroed. */
epf_status epf_ref_matrix_make(int64_t rows, int64_t cols, epf_ref_matrix *matrix);
/* Accepts a zeroed or already freed matrix. */
void epf_ref_matrix_free(epf_ref_matrix *matrix);

/* Element i as a double. */
double epf_ref_load(epf_ref_tensor tensor, int64_t i);
/* To fp32, then to `dtype`: what storing an fp32 accumulator does. */
double epf_ref_round(epf_dtype dtype, double value);
/* Half a unit in the last place of a number of this size. */
double epf_ref_half_ulp(epf_dtype dtype, double value);
/* Takes account of the store of a value that has been computed: bound, and value when mode says so. */
void epf_ref_store(epf_ref_mode mode, epf_dtype dtype, double *value, double *bound);

/* ---- the parts; every matrix argument named `out` is made here and freed by the caller ---- */

/* Row r of rank `rank`: token slot / K of its source.  inputs: [W] of [T_r, cols]. */
epf_status epf_ref_dispatch(const epf_ref_route *route, int32_t rank, const epf_ref_tensor *inputs,
                            int64_t cols, epf_ref_matrix *out);

/* [R, 1]: the weight of the row's slot.  weights: [W] of [T_r, K]; NULL gives ones. */
epf_status epf_ref_dispatch_weights(const epf_ref_route *route, int32_t rank,
                                    const epf_ref_tensor *weights, epf_ref_matrix *out);

typedef struct epf_ref_gemm {
    const epf_ref_route *route;
    int32_t rank;
    const epf_ref_matrix *a; /* [R, k]                                                        */
    epf_ref_tensor b;        /* [L, n, k], or [L, k, n]; the experts of `rank`                */
    bool b_reduce_last_dim;  /* true: [L, n, k]                                               */
    int64_t n;
    epf_ref_mode mode;
    epf_dtype dtype; /* of the result                                                 */
} epf_ref_gemm;

/* out[r, :] = a[r, :] x B[expert(r)], [R, n]. */
epf_status epf_ref_grouped_gemm(const epf_ref_gemm *gemm, epf_ref_matrix *out);

typedef struct epf_ref_combine_args {
    const epf_ref_route *route;
    int32_t rank;                  /* whose tokens are summed                                   */
    const epf_ref_matrix *y;       /* [W] of [R_r, cols]                                        */
    const epf_ref_tensor *weights; /* [T, K] of this rank, or NULL: the plain sum               */
    epf_ref_mode mode;
    epf_dtype dtype; /* of the result                                             */
} epf_ref_combine_args;

/* out[token, :] = sum over k of (weight *) y[row(token, k), :], [T, cols]. */
epf_status epf_ref_combine(const epf_ref_combine_args *args, epf_ref_matrix *out);

/* [T, K]: the gate of each slot's row, 0 for a dropped slot.  gates: [W] of [R_r, 1]. */
epf_status epf_ref_output_gate(const epf_ref_route *route, int32_t rank,
                               const epf_ref_matrix *gates, epf_ref_matrix *out);

typedef struct epf_ref_weight_grad_args {
    const epf_ref_route *route;
    int32_t rank;
    const epf_ref_matrix *grad_output; /* [R, n]                                                */
    const epf_ref_matrix *orig_input;  /* [R, k]                                                */
    epf_ref_mode mode;
    epf_dtype dtype; /* of the result                                         */
} epf_ref_weight_grad_args;

/* out[g] = grad_output[rows of g]^T x orig_input[rows of g]; [L * n, k]. */
epf_status epf_ref_weight_grad(const epf_ref_weight_grad_args *args, epf_ref_matrix *out);

/* h = silu(g) * u * w with gu = [g | u], [R, 2I]; weights [R, 1]; out [R, I]. */
epf_status epf_ref_swiglu(const epf_ref_matrix *gu, const epf_ref_matrix *weights,
                          epf_ref_mode mode, epf_dtype dtype, epf_ref_matrix *out);

/* ---- the whole layer ---- */

typedef struct epf_ref_layer {
    const epf_ref_route *route;
    int64_t hidden;       /* H                                                         */
    int64_t intermediate; /* I                                                         */
    epf_ref_mode mode;
    bool gate_up_rounded;          /* to dtype before the activation reads them, as CUDA does   */
    epf_dtype dtype;               /* tokens, activations and results                           */
    epf_dtype weight_dtype;        /* routing weights and their gradient                        */
    const epf_ref_tensor *input;   /* [W] of [T_r, H]                                           */
    const epf_ref_tensor *weights; /* [W] of [T_r, K] routing weights, or NULL: ones            */
    const epf_ref_tensor *w13;     /* [W] of [L, 2I, H]: gate rows, then up rows                */
    const epf_ref_tensor *w2;      /* [W] of [L, H, I]                                          */
} epf_ref_layer;

/* Of one rank; the names are those of the formulas in epf_ref_layer.c. */
typedef struct epf_ref_forward {
    epf_ref_matrix x;      /* [R, H]   received rows        */
    epf_ref_matrix weight; /* [R, 1]                        */
    epf_ref_matrix gu;     /* [R, 2I]  first GEMM           */
    epf_ref_matrix h;      /* [R, I]   activation           */
    epf_ref_matrix y;      /* [R, H]   second GEMM          */
    epf_ref_matrix output; /* [T, H]                        */
} epf_ref_forward;

typedef struct epf_ref_backward {
    epf_ref_matrix dy;           /* [R, H]       received rows of the output's gradient         */
    epf_ref_matrix dh;           /* [R, I]                                                      */
    epf_ref_matrix dgu;          /* [R, 2I]                                                     */
    epf_ref_matrix dweight;      /* [R, 1]                                                      */
    epf_ref_matrix dx;           /* [R, H]                                                      */
    epf_ref_matrix grad_input;   /* [T, H]                                                      */
    epf_ref_matrix grad_weights; /* [T, K]                                                      */
    epf_ref_matrix grad_w13;     /* [L * 2I, H]                                                 */
    epf_ref_matrix grad_w2;      /* [L * H, I]                                                  */
} epf_ref_backward;

/* ranks: [W]; freed by the caller with epf_ref_forward_free(), also after an error. */
epf_status epf_ref_layer_forward(const epf_ref_layer *layer, epf_ref_forward *ranks);
void epf_ref_forward_free(epf_ref_forward *ranks, int32_t num_ranks);

/* grad_output: [W] of [T_r, H], gradient of each rank's output; forward: [W], of the same layer. */
epf_status epf_ref_layer_backward(const epf_ref_layer *layer, const epf_ref_forward *forward,
                                  const epf_ref_tensor *grad_output, epf_ref_backward *ranks);
void epf_ref_backward_free(epf_ref_backward *ranks, int32_t num_ranks);

#endif
