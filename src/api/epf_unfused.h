/*
 * epf_unfused.h: the phases of the layer one after another, from the same kernels, for comparison only.
 *
 *     dispatch | barrier | GEMM 1 | SwiGLU | GEMM 2 | barrier | pull and sum
 *
 * Each function is collective and returns when this rank's part is done; with `profile` it also leaves a
 * trace of that name, as the fused operations do.  The bench times them beside the
 * fused operations; results are the fused ones' to the bit, but for SwiGLU, which here reads what GEMM 1
 * has rounded.
 */
#ifndef EPF_UNFUSED_H
#define EPF_UNFUSED_H

#include "api/epf_layout.h"
#include "api/epf_weight.h"

/* Sends and expands the tokens into the window's receive rows; ends with a barrier over all ranks. */
epf_status epf_unfused_dispatch(epf_op *op, epf_layout *layout, const epf_tensor *input,
                                const epf_tensor *weight, const char *profile);

/* The receive rows of the layout, as dispatch left them, and their routing weights. */
epf_rows epf_unfused_recv_rows(const epf_op *op);
const void *epf_unfused_recv_weights(const epf_op *op);

/* The rows that epf_unfused_combine() lets the owners pull. */
epf_rows epf_unfused_combine_rows(const epf_op *op);

/* output[r, :] = input[r, :] x weight[expert(r)]; this rank alone. */
epf_status epf_unfused_gemm(epf_op *op, epf_layout *layout, const epf_weight *weight,
                            epf_rows input, epf_rows output, const char *profile);

/* A barrier over all ranks, then the sum of each token's rows. */
epf_status epf_unfused_combine(epf_op *op, epf_layout *layout, const epf_tensor *output,
                               const char *profile);

#endif
