/*
 * epf_cuda_preprocess.h: routing to layout on the device, as one launch.
 */
#ifndef EPF_CUDA_PREPROCESS_H
#define EPF_CUDA_PREPROCESS_H

#include "cuda/epf_cuda_call.h"
#include "epfuse/epfuse_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An index tensor [T, K] of the caller; data NULL: not given.  Stride in elements. */
typedef struct epf_cuda_indices {
    const int32_t *data;
    int64_t stride;
} epf_cuda_indices;

/* Device pointers; the arrays of a layout as epf_layout_view (epfuse.h) describes them. */
typedef struct epf_cuda_preprocess_args {
    epf_cuda_call call; /* shape, rank, control windows, state, report, timeout; no phase */
    int32_t
        num_tokens;  /* T of this rank: 0 .. T_max; -1: the host refused the call's arguments ... */
    int32_t refused; /* ... with this epf_status, to be told to all ranks */
    epf_cuda_indices exp_indices;   /* expert ids */
    epf_cuda_indices full_scatter;  /* optional */
    epf_cuda_indices local_scatter; /* optional */
    int32_t *topk_idx;              /* [T_max, K]   -1 past T */
    int32_t *dst_row;               /* [T_max, K]   -1 dropped, past T */
    int32_t *sort_slots;            /* [T_max * K]  -1 past the last */
    int32_t *row_source;            /* [row_capacity, 2] */
    int64_t row_capacity; /* W * T_max * K where all_row_sources, else rows of the buffer sets */
    bool all_row_sources; /* need_reversed_token_scatter_idx: -1 past R, up to row_capacity */
    int32_t *counts;      /* [W, E] */
    int32_t *tokens;      /* [W, L] */
    int32_t *offset;      /* [W, L, W] */
    int32_t *recv;        /* [W] */
    int32_t *input;       /* [W] */
    int32_t *row_offset;  /* [L + 1] */
    int32_t *tile_offset; /* [L + 1] of tiles of EPF_CUDA_BLOCK_M rows */
    int32_t
        *tables[4]; /* [epf_cuda_max_tiles()] expert_ids, split_size_cum, tile_num, tile_num_cum */
    epf_layout_head *head;      /* device */
    epf_layout_head *host_head; /* host memory that the device writes */
    int32_t *scratch;           /* epf_cuda_preprocess_scratch() bytes, contents of no matter */
    int32_t num_ctas; /* resident at a time for sure; the launch takes fewer where few are enough */
} epf_cuda_preprocess_args;

/* Bytes of working memory for this shape. */
int64_t epf_cuda_preprocess_scratch(const epf_shape *shape);

/*
 * Enqueues the exchange of docs/DESIGN.md ("Preprocess"): counts, posted, rows and order, row sources, sourced.  All
 * ranks get the same head->status: EPF_OK; EPF_E_INVALID for a bad id or bad scatter indices on any rank; what a
 * host refused.  A refusal is not a failure of the operator: the next call works.  Rows beyond row_capacity:
 * EPF_E_CAPACITY on all ranks.  Never waits for the device.
 */
epf_status epf_cuda_preprocess(const epf_cuda_preprocess_args *args, void *stream);

/* Loads the kernels, as epf_cuda_phase_max_ctas() does. */
epf_status epf_cuda_preprocess_load(void);

#ifdef __cplusplus
}
#endif

#endif
