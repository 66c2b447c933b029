/*
 * epf_gemm_cuda.h: grouped GEMM on the device, as one launch on a stream.
 *
 * Letters: G experts, R rows of all of them together, N columns, K inner dimension, I = N / 2.
 * Rows of expert g are [row_offset[g], row_offset[g] + rows[g]); both arrays are read on the device.
 */
#ifndef EPF_GEMM_CUDA_H
#define EPF_GEMM_CUDA_H

#include <stdint.h>

#include "epfuse/epfuse_dtype.h"
#include "epfuse/epfuse_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What becomes of a product's rows. */
typedef enum epf_gemm_epilogue {
    EPF_GEMM_STORE = 0, /* c[r, :] = a x b                                                       */
    EPF_GEMM_SWIGLU =
        1, /* c[r, i] = silu(y[r, i]) * y[r, I + i] * row_weight[r], y = a x b rounded */
} epf_gemm_epilogue;

/* Device pointers, 16-byte aligned; n, k (and m) multiples of 8. */
typedef struct epf_gemm_cuda_args {
    int32_t dtype;       /* EPF_DTYPE_BF16 or EPF_DTYPE_F16: a, b, c, raw                   */
    int32_t c_dtype;     /* 0: dtype; weight_grad also EPF_DTYPE_F32                        */
    int32_t weight_grad; /* 0: c = a x b^T per row.  1: c[g] = a[rows of g]^T x b[rows of g] */
    int32_t b_n_major;   /* 0: b is [G, N, K].  1: [G, K, N].  Ignored by weight_grad */
    int32_t epilogue;    /* epf_gemm_epilogue; weight_grad: EPF_GEMM_STORE                  */
    int32_t num_experts; /* G, 1 .. EPF_GEMM_MAX_EXPERTS                                    */
    int32_t n;           /* N                                                               */
    int32_t k;           /* K; weight_grad: ignored                                         */
    int32_t m;           /* weight_grad: columns of a; else ignored                         */
    int64_t a_rows;      /* rows that a (and, weight_grad, b) holds; none past it is read   */
    const void *a;       /* [a_rows, K]; weight_grad [a_rows, M]                            */
    const void *b;       /* [G, N, K] or [G, K, N]; weight_grad [a_rows, N]                 */
    void *c;             /* [R, N]; SwiGLU [R, I]; weight_grad [G, M, N]; rows no expert has stay */
    void *raw;           /* SwiGLU: [R, N], the rounded product as well; or NULL            */
    void *const
        *row_ptr; /* [R] device pointers: where each row goes instead of c, or NULL; not SwiGLU */
    const void *row_weight;    /* [R] SwiGLU; NULL: 1                                             */
    const int32_t *gather;     /* [R] row of a for each row; NULL: the same row                   */
    const int32_t *rows;       /* [G]                                                             */
    const int32_t *row_offset; /* [G]; NULL: experts follow each other without gaps               */
    uint32_t *queue;           /* two words, 0 before the first launch and after each one; no two
                                  launches at a time may share them.  NULL: tiles in fixed turns  */
    int64_t expected_rows;     /* R if known, to pick a kernel; 0: a_rows                         */
    int32_t sm_margin;         /* SMs left to others                                              */
    int32_t block_n;           /* 0: picked; else 256                                             */
    int32_t cluster_m;         /* 0: picked; else 1 or 2                                          */
    int32_t cluster_n;         /* 0: picked; else 1 or 2                                          */
    int32_t group_m;           /* 0: picked                                                       */
    int32_t short_last;        /* 0: picked; 1: tiles of fewer rows last; -1: in their turn       */
    int32_t swapped;           /* 0: picked; 1: operands swapped (few rows an expert); -1: never  */
    int32_t row_weight_dtype;  /* EPF_DTYPE_F32 (also 0) or EPF_DTYPE_BF16                        */
    int64_t a_stride;          /* elements from row to row; 0: dense; a multiple of 8             */
    int64_t b_stride;          /* the same of b                                                   */
    int64_t b_expert_stride;   /* elements from expert to expert of b; 0: dense; a multiple of 8;
                                  not weight_grad                                                 */
    int64_t c_stride;          /* as a_stride, of c                                               */
    int64_t c_expert_stride;   /* weight_grad: from expert to expert of c; 0: dense; a multiple of
                                  c's stride                                                      */
    int64_t raw_stride;        /* the same of raw                                                 */
} epf_gemm_cuda_args;

/*
 * Enqueues the product on `stream` (a cudaStream_t) of the current device.  Deterministic: same inputs,
 * same bits; a row's bits do not depend on the rows around it.
 * EPF_E_INVALID: an argument is out of range; EPF_E_UNSUPPORTED: no kernel for this combination or device;
 * EPF_E_DEVICE: the launch failed.
 */
epf_status epf_gemm_cuda(const epf_gemm_cuda_args *args, void *stream);

#ifdef __cplusplus
}
#endif

#endif
