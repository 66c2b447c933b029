/*
 * epf_cuda_backend.h: the host side of an operator on a device: what it keeps there, and how calls are enqueued.
 *
 * Every function makes the operator's device current while it works.  Steady state (preprocess, phase, rows) neither
 * takes memory nor waits.
 */
#ifndef EPF_CUDA_BACKEND_H
#define EPF_CUDA_BACKEND_H

#include "cuda/epf_cuda_call.h"
#include "cuda/epf_cuda_memory.h"
#include "cuda/epf_cuda_preprocess.h"
#include "cuda/epf_rows_backward.h"

typedef struct epf_cuda_op epf_cuda_op;

typedef struct epf_cuda_op_config {
    epf_comm *comm;
    const epf_shape *shape;
    int32_t device;      /* -1: the calling thread's current one */
    int32_t num_workers; /* CTAs; 0: this rank's even share of the device */
    int32_t sm_margin;   /* of them held back */
    void *stream;        /* NULL: one of the operator's own */
    int64_t max_rows;    /* of any buffer set */
} epf_cuda_op_config;

/* Collective: the same status on all ranks.  Every kernel is loaded when it returns. */
epf_status epf_cuda_op_create(const epf_cuda_op_config *config, epf_cuda_op **op);

/* Accepts NULL; windows first.  Local, but for what epf_cuda_group_leave() says. */
void epf_cuda_op_destroy(epf_cuda_op *op);

const epf_cuda_group *epf_cuda_op_group(const epf_cuda_op *op);

/* CTAs asked for, or the share; of a launch: those less sm_margin, even. */
int32_t epf_cuda_op_num_workers(const epf_cuda_op *op);
int32_t epf_cuda_op_num_ctas(const epf_cuda_op *op);

/* Local words for sets of that many rows.  No call may be under way. */
epf_status epf_cuda_op_reserve_rows(epf_cuda_op *op, int64_t rows);

/* Waits until the stream is empty: a few times the group's timeout at most.  EPF_E_STATE while it is being captured. */
epf_status epf_cuda_op_wait(epf_cuda_op *op);

/* Copies between or from device memory that no call touches, or one word from it; complete when it returns. */
epf_status epf_cuda_op_copy(epf_cuda_op *op, void *to, const void *from, int64_t bytes);

void *epf_cuda_op_stream(const epf_cuda_op *op);
bool epf_cuda_op_is_capturing(const epf_cuda_op *op);
epf_status epf_cuda_op_set_stream(epf_cuda_op *op, void *stream);

/* Where a rank's control windows and its own buffer sets are. */
typedef struct epf_cuda_windows {
    const epf_control_map *control_map;
    uint8_t *const *control; /* [W] device pointers, host table */
    int32_t num_sets;
    uint8_t *own_set[EPF_MAX_BUFFER_SETS];
    int64_t set_bytes[EPF_MAX_BUFFER_SETS]; /* of words at its begin */
} epf_cuda_windows;

/* Told once the windows are there, and when a set was replaced. */
void epf_cuda_op_set_windows(epf_cuda_op *op, const epf_cuda_windows *windows);

/* What ended a call; leaves `fault` as it is where nothing has. */
void epf_cuda_op_poll(const epf_cuda_op *op, epf_fault *fault);

/* Some rank has given up since the last reset. */
bool epf_cuda_op_is_aborted(epf_cuda_op *op);

/* Tells every rank's kernels why this one gave up. */
void epf_cuda_op_raise(epf_cuda_op *op, const epf_fault *fault);

/* State, words and report of this rank as after creation; the stream is empty. */
epf_status epf_cuda_op_zero(epf_cuda_op *op);

/* For tests: each warp of the calls that follow begins its role late by a random time below max_ns; 0: at once. */
void epf_cuda_op_delay_roles(epf_cuda_op *op, uint64_t max_ns);

/* What a layout has beside its arrays. */
typedef struct epf_cuda_layout epf_cuda_layout;

epf_status epf_cuda_layout_create(epf_cuda_op *op, epf_cuda_layout **layout);
void epf_cuda_layout_destroy(
    epf_cuda_layout *layout); /* accepts NULL; also after the operator is gone */

/* Waits until the layout's last preprocess has ended; its head.  EPF_E_STATE: it did not end before a reset. */
epf_status epf_cuda_layout_wait(epf_cuda_op *op, const epf_cuda_layout *layout,
                                epf_layout_head *head);

/* The layout's last preprocess is part of a graph: what was learned of it holds until the next replay only. */
bool epf_cuda_layout_is_captured(const epf_cuda_layout *layout);

/* `args` with all but the call's operator, the heads and what the operator keeps. */
epf_status epf_cuda_op_preprocess(epf_cuda_op *op, epf_cuda_layout *layout, const epf_call *call,
                                  epf_cuda_preprocess_args *args);

/* One phase. */
typedef struct epf_cuda_launch {
    const epf_call *call;
    const epf_cuda_layout *layout;
    uint8_t *own_set; /* this rank's window of the buffer set */
    bool weight_n_major;
    int64_t weight_stride; /* as epf_cuda_phase.h has them */
    int64_t weight_expert_stride;
    int64_t capacity;      /* rows that every buffer of the call holds */
    int64_t expected_rows; /* R if known, else 0 */
    epf_prof_record
        *records; /* epf_cuda_call.h, set by epf_cuda_profile_begin(); NULL: not recorded */
    int64_t records_per_lane;
    epf_cuda_grain *grain;
} epf_cuda_launch;

epf_status epf_cuda_op_phase(epf_cuda_op *op, const epf_cuda_launch *launch);

/* `args` with all but the head and the CTAs. */
epf_status epf_cuda_op_rows_backward(epf_cuda_op *op, const epf_cuda_layout *layout,
                                     epf_rows_backward_args *args);

#endif
