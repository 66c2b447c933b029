/*
 * onednn_api.h: the little of oneDNN's C API that the provider needs, the same over 2.x and 3.x.
 *
 * Each call does its work on the calling thread: where the library was built over OpenMP, a scope
 * sets this thread's team to one and restores it (a setting of the thread, not of the process).
 */
#ifndef ONEDNN_API_H
#define ONEDNN_API_H

#include <oneapi/dnnl/dnnl.h>

#include "cpu/gemm/epf_gemm_internal.h"

/* Memory of a matrix: a struct in 2.x, a handle in 3.x. */
typedef struct onednn_matrix {
    dnnl_memory_desc_t desc;
} onednn_matrix;

#if DNNL_VERSION_MAJOR >= 3
#define ONEDNN_DESC(matrix) ((matrix)->desc)
#else
#define ONEDNN_DESC(matrix) (&(matrix)->desc)
#endif

/* What makes a product: c [m, n] fp32 (=) or (+=) a [m, k] x b [k, n]; a and c dense, b packed. */
typedef struct onednn_shape {
    int32_t dtype; /* epf_dtype of a and b */
    int32_t m;
    int32_t n;
    int32_t k;
    int32_t accumulate;
} onednn_shape;

/* The process's engine and stream; the first caller makes them. */
typedef struct onednn_context {
    epf_status status; /* of making them; the text is in `why` */
    const char *why;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
} onednn_context;

const onednn_context *onednn_context_get(void);

/* One-thread scope around every call that makes or runs primitives. */
int onednn_scope_enter(void);
void onednn_scope_leave(int saved);

/* Maps a library status to ours and records the text. */
epf_status onednn_fail(dnnl_status_t status, const char *what);

#define ONEDNN_TRY_GOTO(call, label)                \
    do {                                            \
        const dnnl_status_t onednn_status = (call); \
        if (onednn_status != dnnl_success) {        \
            st = onednn_fail(onednn_status, #call); \
            goto label;                             \
        }                                           \
    } while (0)

/* [rows, columns] with these strides, in elements. */
dnnl_status_t onednn_matrix_strided(onednn_matrix *matrix, int32_t dtype, const int64_t size[2],
                                    const int64_t stride[2]);
void onednn_matrix_destroy(onednn_matrix *matrix);
size_t onednn_matrix_bytes(const onednn_matrix *matrix);

/* The primitive descriptor of a shape.  `weights` NULL: the library chooses b's layout. */
epf_status onednn_matmul_desc(const onednn_shape *shape, const onednn_matrix *weights,
                              dnnl_primitive_desc_t *made);
/* A primitive that copies `from` to `to`, which differ in layout. */
epf_status onednn_reorder_make(const onednn_matrix *from, const onednn_matrix *to,
                               dnnl_primitive_t *made);
/* A copy of what the descriptor wants of an argument: dnnl_query_weights_md, ... */
dnnl_status_t onednn_matrix_query(const_dnnl_primitive_desc_t desc, dnnl_query_t what,
                                  onednn_matrix *matrix);
/* The name of the implementation behind a descriptor; "" if it has none. */
const char *onednn_implementation(const_dnnl_primitive_desc_t desc);

#endif
