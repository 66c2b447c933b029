/* epf_cuda_backend_internal.h: inside of an operator on a device. */
#ifndef EPF_CUDA_BACKEND_INTERNAL_H
#define EPF_CUDA_BACKEND_INTERNAL_H

#include "comm/epf_wait.h"
#include "cuda/epf_cuda_backend.h"
#include "cuda/epf_cuda_memory_internal.h"
#include "cuda/epf_cuda_profile.h"

struct epf_cuda_op {
    epf_comm *comm;
    epf_shape shape;
    epf_cuda_group group;
    epf_cuda_windows windows;
    cudaStream_t stream;      /* of calls */
    cudaStream_t own_stream;  /* where the caller has none */
    cudaStream_t side_stream; /* of what must not wait for calls */
    cudaEvent_t event;        /* between an old and a new stream */
    int32_t num_workers;
    int32_t num_ctas;
    epf_cuda_state *state;
    epf_cuda_report *report; /* host memory */
    uint64_t *tile_ready;    /* [max_tiles] */
    uint64_t *tile_done;     /* [max_tiles * EPF_CUDA_TILE_PARTS] */
    uint64_t *expert_ready;  /* [L] */
    int32_t *scratch;        /* of preprocess */
    int64_t max_tiles;
    uint32_t
        num_preprocess;  /* enqueued since the last reset; means nothing once a graph holds one */
    uint32_t generation; /* resets */
    bool has_captured;   /* a graph may hold calls of this operator */
    epf_cuda_profile *profile; /* NULL until a call is profiled */
    uint64_t role_delay_ns;    /* epf_cuda_call.h; only tests set it */
};

struct epf_cuda_layout {
    epf_layout_head *head;      /* on the device */
    epf_layout_head *host_head; /* host memory that the device writes */
    uint32_t expected;          /* num_finished when its last preprocess has ended */
    uint32_t generation;        /* in which that was enqueued */
    bool is_captured;           /* it is part of a graph: each replay makes another head */
};

epf_status epf_cuda_is_capturing(cudaStream_t stream, bool *is_capturing);
epf_status epf_cuda_refuse_capture(cudaStream_t stream, const char *function);

/* Until ready(context), watching that peers live; a few times the group's timeout at most. */
epf_wait_code epf_cuda_wait_until(epf_cuda_op *op, bool (*ready)(void *context), void *context);

#endif
