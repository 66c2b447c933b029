/*
 * epf_rows_backward.h: the elementwise part of the layer's backward pass, as one launch.
 */
#ifndef EPF_ROWS_BACKWARD_H
#define EPF_ROWS_BACKWARD_H

#include "cuda/epf_cuda_call.h"
#include "epfuse/epfuse_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * h = silu(g) u w backwards, row by row:
 *
 *     dw = sum over i of dh silu(g) u;   du = dh silu(g) w;   dg = dh u w silu'(g)
 *
 * Device pointers, 16-byte aligned and dense; intermediate is a multiple of 8.
 */
typedef struct epf_rows_backward_args {
    const epf_layout_head *head; /* R = head->num_rows */
    int64_t capacity;            /* rows that the buffers hold; none past it is touched */
    int32_t dtype;               /* EPF_DTYPE_BF16 or EPF_DTYPE_F16 */
    int32_t weight_dtype;        /* EPF_DTYPE_F32 or EPF_DTYPE_BF16 */
    int64_t intermediate;        /* I */
    const void *grad_hidden;     /* [R, I]   dh */
    const void *projected;       /* [R, 2 I] g | u */
    const void *weight;          /* [R]      w */
    void *grad_projected;        /* [R, 2 I] dg | du, rounded once */
    void *grad_weight;           /* [R]      dw, rounded once */
    int32_t num_ctas;
} epf_rows_backward_args;

/* Enqueues it.  Deterministic: a row's bits depend on that row alone.  Never waits for the device. */
epf_status epf_rows_backward(const epf_rows_backward_args *args, void *stream);

/* The kernel, of one epf_rows_backward_args. */
const void *epf_rows_backward_kernel(int32_t dtype);

/* Loads the kernels, as epf_cuda_phase_max_ctas() does. */
epf_status epf_rows_backward_load(void);

#ifdef __cplusplus
}
#endif

#endif
