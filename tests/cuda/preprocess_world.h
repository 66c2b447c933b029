/*
 * preprocess_world.h: ranks of one GPU that preprocess beside each other, each with an operator on the CPU whose layout
 * is what the device must find, to the bit.
 */
#ifndef PREPROCESS_WORLD_H
#define PREPROCESS_WORLD_H

#include <cuda_runtime_api.h>

#include "cuda/epf_cuda_preprocess.h"
#include "epfuse/epfuse.h"
#include "support/epf_data.h"
#include "support/epf_runner.h"

enum { WORLD_MAX_RANKS = 8, WORLD_MAX_MEMORY = 64 };

/* What a call gets, on host and device; [T_max, K] with rows `stride` apart. */
typedef struct world_indices {
    int32_t *host;
    int32_t *device;
    int32_t stride;
    bool is_given;
} world_indices;

typedef struct world_rank {
    cudaStream_t stream;
    epf_cuda_preprocess_args args;
    epf_layout_head *host_head;
    epf_cuda_report *report;
    world_indices ids, local, full;
    int32_t *landing; /* host, room for the largest array */
    void *memory[WORLD_MAX_MEMORY];
    int32_t num_memory;
    uint32_t num_calls;
    /* of the rank's thread */
    epf_op *op;
    epf_layout *layout;
} world_rank;

typedef struct world {
    epf_problem problem;
    epf_shape shape;
    epf_group *groups[WORLD_MAX_RANKS];
    uint8_t *windows[WORLD_MAX_RANKS];
    world_rank ranks[WORLD_MAX_RANKS];
    bool (*steps)(struct world *, epf_test_rank *);
    void *user;
} world;

/* Shape and token counts of the problem; its routing is not used.  timeout_ns: of waits on the device. */
world *world_make(const char *problem, uint64_t timeout_ns);
void world_free(world *w);

/* Runs steps on every rank's thread, between the making and the end of its CPU operator; true: all went well. */
bool world_run(world *w, bool (*steps)(world *, epf_test_rank *), const char *name);

/* The arrays of this rank's next call from the data. */
void world_take(world *w, int32_t rank, const epf_data *data, bool local, bool full);

/* To the device, in the rank's stream; outputs are spoiled. */
bool world_upload(world *w, epf_test_rank *rank);

/* One preprocess on CPU and device; the same status, and where that is EPF_OK the same layout.  Collective. */
bool world_call(world *w, epf_test_rank *rank, epf_status want);

/* The same in two halves, for calls that are enqueued in other ways. */
bool world_finish(world *w, epf_test_rank *rank);
bool world_compare(world *w, epf_test_rank *rank, epf_status want);

#define RANK_CUDA(rank, call)                                        \
    do {                                                             \
        const cudaError_t cuda_error = (call);                       \
        RANK_CHECK(rank, cuda_error == cudaSuccess, "%s: %s", #call, \
                   cudaGetErrorString(cuda_error));                  \
    } while (0)

#endif
