/*
 * onednn_cache.h: oneDNN primitives by shape.  Making one costs 0.2 to 1.4 ms, finding one some tens of
 * nanoseconds without a lock.  The cache holds a fixed number and forgets none; past that, a shape's
 * primitive is made for the call and thrown away after it (the library keeps its own cache of those).
 */
#ifndef ONEDNN_CACHE_H
#define ONEDNN_CACHE_H

#include "cpu/gemm/onednn_api.h"

/* A primitive and its operands; immutable once it can be found. */
typedef struct onednn_kernel {
    onednn_shape shape;
    int32_t rows; /* of A and C that it works on, at least shape.m */
    dnnl_primitive_t primitive;
    onednn_matrix a;
    onednn_matrix weights;
    onednn_matrix c;
    onednn_matrix scratchpad;
    uint64_t weights_bytes;
    uint64_t scratchpad_bytes;
    char implementation[48]; /* the library's name of it */
    bool cached; /* false: onednn_kernel_release() destroys it */
} onednn_kernel;

/*
 * The kernel of a shape, to be given back with onednn_kernel_release().  All kernels of one
 * (dtype, n, k) read the same packed layout and belong to the same implementation, so that a row's
 * bits do not depend on m; where the library would take another for m rows, the kernel has more rows.
 */
epf_status onednn_kernel_get(const onednn_shape *shape, const onednn_kernel **kernel);
void onednn_kernel_release(const onednn_kernel *kernel);

/* The kernel that fixes the layout of a block. */
epf_status onednn_kernel_of_block(const epf_gemm_block *block, const onednn_kernel **kernel);

#endif
