/*
 * epf_worker.h: what the executor's files share: the executor's state and a worker's view of a call.
 */
#ifndef EPF_WORKER_H
#define EPF_WORKER_H

#include <pthread.h>

#include "comm/epf_wait.h"
#include "cpu/epf_exec.h"
#include "cpu/gemm/epf_gemm.h"
#include "prof/epf_prof_flow.h"

/* One worker thread; index 0 is the calling thread. */
typedef struct epf_worker {
    epf_exec *exec;
    int32_t index;
    int32_t cpu; /* to pin to, or -1 */
    pthread_t thread;
    epf_gemm_scratch *scratch;
    float *tile[2];        /* [block_m, panel columns] results of a tile */
    int64_t tile_floats;   /* of each */
    epf_prof_buffer *lane; /* NULL: not recording */
    epf_status status;     /* of the call that ran last */
} epf_worker;

struct epf_exec {
    epf_comm *comm;
    int32_t num_workers;
    int32_t num_threads; /* started; 1 .. num_workers - 1 */
    epf_worker *workers;

    /* Local words (epf_counter.h). */
    uint64_t tickets[EPF_NUM_TASK_CLASSES];
    uint64_t gemm_done;
    uint64_t *tile_ready;   /* [max_tiles] */
    uint64_t *tile_done;    /* [max_tiles] */
    uint64_t *expert_ready; /* [max_experts] */
    int64_t max_tiles;
    int64_t max_experts;

    /* The call under way; written before workers are woken. */
    const epf_call *call;
    epf_fault *fault;
    uint32_t failed; /* 1: this rank raised the abort itself */

    pthread_mutex_t lock; /* guards the four below */
    pthread_cond_t wake;
    pthread_cond_t idle;
    uint64_t job;       /* calls handed out */
    int32_t num_active; /* threads that take part in the job */
    int32_t num_running;
    bool quit;
};

/* Waits for `need`; `source` is the rank that signals it, or EPF_WAIT_ANY_RANK. */
epf_status epf_worker_wait(epf_worker *worker, const epf_need *need, int32_t source);

/* Gives up for all ranks with this status; returns it. */
epf_status epf_worker_raise(epf_worker *worker, epf_status status);

/* Makes room for the results of one tile. */
epf_status epf_worker_reserve(epf_worker *worker, int64_t tile_floats);

/* The tasks, one function per class. */
epf_status epf_task_dispatch(epf_worker *worker, int64_t index);
epf_status epf_task_expand(epf_worker *worker, int64_t index);
epf_status epf_task_gemm(epf_worker *worker, int64_t index);
epf_status epf_task_scatter(epf_worker *worker, int64_t index);
epf_status epf_task_grad(epf_worker *worker, int64_t index);
epf_status epf_task_reduce(epf_worker *worker, int64_t index);

/* Stores `barrier` on all ranks: this rank's tiles are done. */
void epf_signal_barrier(const epf_call *call);

/* Puts the gates of a tile's rows where their owners pull them (serial). */
void epf_show_gates(const epf_call *call, const epf_tile *tile);

/* Brings row `row`'s gate and flag to the slot that sent it; its y is in place (fuse_scatter). */
void epf_signal_row(const epf_call *call, int64_t row);

/* Element `index` of a vector of the weight type, as fp32. */
float epf_weight_value(const epf_call *call, const void *data, int64_t index);

#endif
