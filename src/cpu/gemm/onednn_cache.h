/*
 * onednn_cache.h: oneDNN primitives by shape, such that a row's bits do not depend on m.
 *
 * The library cuts K by heuristics that look at m, and a sum cut elsewhere has other bits (seen
 * with AMX from K = 2048 on).  So rows are taken in strips: all kernels of one (dtype, n, k) have
 * the bits of its strip kernel, which one trial run shows when a kernel is made: the order of a sum
 * does not depend on the numbers, and with random ones another order gives other bits.  A number of
 * rows that fails the trial is served by a kernel of more rows.
 *
 * Making a kernel costs one to some milliseconds, finding one some tens of nanoseconds without a
 * lock. The cache holds a fixed number and forgets none; past that, a kernel is made for the call
 * and thrown away after it.
 */
#ifndef ONEDNN_CACHE_H
#define ONEDNN_CACHE_H

#include "cpu/gemm/onednn_api.h"

/* Kernels exist for powers of two below this, for multiples of it up to the strip; with AMX only
 * those. */
enum { ONEDNN_ROWS_MULTIPLE = 16 };

/* A primitive and its operands; immutable once it can be found. */
typedef struct onednn_kernel {
    onednn_shape shape; /* as asked for                                       */
    int32_t rows;       /* of A and C that it works on, at least shape.m      */
    int32_t strip;      /* most rows of a kernel of this (dtype, n, k)        */
    bool amx;
    dnnl_primitive_t primitive;
    onednn_matrix a;
    onednn_matrix weights;
    onednn_matrix c;
    onednn_matrix scratchpad;
    dnnl_primitive_t pack_kn; /* packs a dense [k, n] source; only in the kernel of a block */
    onednn_matrix source_kn;
    uint64_t weights_bytes;
    uint64_t scratchpad_bytes;
    bool cached; /* false: onednn_kernel_release() destroys it */
} onednn_kernel;

/* The kernel for shape->m rows, at most a strip; kernels for a few more rows serve several m. */
epf_status onednn_kernel_get(const onednn_shape *shape, const onednn_kernel **kernel);
/* The strip kernel of a block, which also fixes its packed layout. */
epf_status onednn_kernel_of_block(const epf_gemm_block *block, const onednn_kernel **kernel);
void onednn_kernel_release(const onednn_kernel *kernel);

/* What a kernel works on; all dense. */
typedef struct onednn_operands {
    const void *a;
    const void *packed;
    float *c;
    void *scratchpad;
} onednn_operands;

epf_status onednn_kernel_run(const onednn_kernel *kernel, const onednn_operands *operands);

/* EPF_OK if each row of `kernel` has the bits that the strip kernel gives it; EPF_E_UNSUPPORTED
 * if not. */
epf_status onednn_kernel_try(const onednn_kernel *kernel, const onednn_kernel *strip);

#endif
