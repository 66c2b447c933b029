/*
 * epf_backend.h: what the API needs of a backend.
 *
 * Above this table: argument checks, struct versions, composition of the layer.  Below: where memory is,
 * how a call is run, how its end is seen.  An operator's backend is chosen once, by config.backend.
 */
#ifndef EPF_BACKEND_H
#define EPF_BACKEND_H

#include "api/epf_layout.h"
#include "api/epf_weight.h"

/* A phase with all that its backend may want to know. */
typedef struct epf_launch {
    epf_call call;
    const epf_layout *layout;
    const epf_weight *weight;      /* NULL: no GEMM */
    const char *profile_file_name; /* NULL: no profile */
    int64_t capacity;              /* rows that every buffer of the call holds */
} epf_launch;

/* The knobs that a backend may refuse. */
typedef struct epf_gemm_knobs {
    bool input_reduce_last_dim;
    int32_t block_size_m;
    int32_t group_size_m;
    int32_t num_stages;
    int32_t num_warps;
    const char *profile_file_name; /* NULL: no profile */
} epf_gemm_knobs;

/* One preprocess; `refused` is what is wrong with the call itself, which all ranks are told. */
typedef struct epf_exchange {
    epf_op *op;
    epf_layout *layout; /* NULL: none to be had, which `refused` says */
    epf_preprocess_args args;
    epf_status refused;
} epf_exchange;

/* h = silu(g) u w backwards, row by row: dh, g, u, w -> dg, du, dw.  Dense. */
typedef struct epf_activation_rows {
    const epf_layout *layout; /* whose rows */
    int64_t capacity;         /* rows that the buffers hold */
    int64_t intermediate;     /* I */
    const void *grad_hidden;  /* [R, I]   dh */
    const void *projected;    /* [R, 2 I] g | u */
    const void *weight;       /* [R]      w */
    void *grad_projected;     /* [R, 2 I] dg | du */
    void *grad_weight;        /* [R]      dw */
} epf_activation_rows;

struct epf_backend_ops {
    bool on_device;        /* tensors are out of the host's reach, calls are enqueued */
    int32_t row_align;     /* bytes: rows of matrices start at multiples of it */
    int32_t layer_block_m; /* gemm_block_size_m in the layer */
    int32_t grad_block_n;  /* EPF_AUTO of grad_block_size_m: along N' */
    int32_t grad_block_k;  /* EPF_AUTO of grad_block_size_n: along K'' */
    int32_t grad_rows;     /* EPF_AUTO of grad_block_size_k: rows summed per step */

    /* Fields that this backend cannot honour. */
    epf_status (*check_config)(const epf_op_config *config);
    /* Local, before ranks have agreed on their configs; sets num_workers if it can. */
    epf_status (*create)(epf_op *op);
    /* Collective, after that; the same status on all ranks. */
    epf_status (*join)(epf_op *op);
    /* Local; of what create and join made, if anything. */
    void (*destroy)(epf_op *op);

    /* Collective; zeroed. */
    epf_status (*window_create)(epf_op *op, int64_t bytes, epf_op_window *window);
    /* Local; of a window that may not be there: this rank touches peers' parts no more.  On a device all ranks meet
     * between detaching and destroying. */
    void (*window_detach)(epf_op *op, epf_op_window *window);
    /* Local; of a window that may not be there. */
    void (*window_destroy)(epf_op *op, epf_op_window *window);
    /* Local: whatever else grows with a set's rows. */
    epf_status (*set_grown)(epf_op *op, int64_t rows);

    /* Tensors' memory: grows, contents lost; freed also after the operator is gone. */
    epf_status (*memory_reserve)(epf_op *op, epf_memory *memory, int64_t bytes, const char *name);
    void (*memory_free)(void *memory);
    /* Between buffers that no call under way touches. */
    epf_status (*copy)(epf_op *op, void *to, const void *from, int64_t bytes);

    epf_status (*check_knobs)(const epf_op *op, const epf_gemm_knobs *knobs);
    /* What of a weight, whose fields but these are set, this backend cannot read. */
    epf_status (*weight_check)(const epf_op *op, const epf_weight_config *config,
                               const epf_weight *weight);
    /* Makes w->data and w->num_n_tiles from the tensor. */
    epf_status (*weight_make)(epf_op *op, const epf_weight_config *config, epf_weight *weight);
    void (*weight_free)(epf_weight *weight);

    /* What a layout has beside its arrays; sets row_source and tables. */
    epf_status (*layout_create)(epf_layout *layout);
    void (*layout_destroy)(epf_layout *layout);
    epf_status (*layout_tile)(epf_layout *layout, int32_t block_m);
    /* Waits until the row counts are known; why preprocess refused the routing, if it did. */
    epf_status (*layout_wait)(epf_layout *layout);
    /* Of a layout whose row counts the host does not know: a graph holds its preprocess, or will hold the next call. */
    bool (*layout_is_captured)(const epf_layout *layout);

    epf_status (*preprocess)(epf_exchange *exchange);
    /* Enters the call, except EPF_PHASE_GRAD, which no peer takes part in, and runs it. */
    epf_status (*phase_run)(epf_op *op, const epf_launch *launch);
    epf_status (*activation_backward)(epf_op *op, const epf_activation_rows *rows);
    epf_status (*barrier)(epf_op *op);

    /* All that was enqueued is done. */
    epf_status (*wait)(epf_op *op);
    /* What ended a call without the host having been told yet; status EPF_OK: nothing.  Never waits. */
    void (*poll)(const epf_op *op, epf_fault *fault);
    /* Some rank has given up since the last reset. */
    bool (*is_aborted)(const epf_op *op);
    /* Tells every rank why this one gave up. */
    void (*raise)(epf_op *op, const epf_fault *fault);
    /* Words of this rank start again from 0; no call is running. */
    epf_status (*zero)(epf_op *op);

    epf_status (*set_stream)(epf_op *op, void *stream);
    void *(*stream)(const epf_op *op);
};

extern const epf_backend_ops epf_backend_cpu;
#if defined(EPF_HAS_CUDA)
extern const epf_backend_ops epf_backend_cuda;
#endif

/* The backend of that number. */
epf_status epf_backend_find(int32_t backend, const epf_backend_ops **found);

/* The CPU's exchange (epf_preprocess.c). */
epf_status epf_preprocess_on_host(epf_exchange *exchange);

#endif
