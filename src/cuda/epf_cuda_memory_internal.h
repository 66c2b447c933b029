/*
 * epf_cuda_memory_internal.h: what the files behind epf_cuda_memory.h share.
 *
 * A transport is a table of functions; creating a window is the same sequence for all of them:
 *
 *   own_create   local       this rank's part, zeroed
 *   offer_fill   local       what a peer needs to map it
 *                            -- all ranks exchange sizes, statuses and offers --
 *   map          NVSHMEM: collective   base[r] of every rank
 *                            -- all ranks agree, then use the window --
 *   unmap        local       peers' parts go
 *                            -- all ranks meet: nobody maps a part any more --
 *   own_destroy  NVSHMEM: collective   the own part goes
 */
#ifndef EPF_CUDA_MEMORY_INTERNAL_H
#define EPF_CUDA_MEMORY_INTERNAL_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

#include "cuda/epf_cuda_memory.h"

enum {
    /* A part is whole blocks of the driver's allocator: an IPC handle shows peers the whole block. */
    EPF_CUDA_PART_ALIGN = 2 << 20,
    EPF_CUDA_TEXT = 128 /* of an error, as peers get to read it */
};

/* What a rank brings to window_create; fits EPF_COMM_SCRATCH_BYTES. */
typedef struct epf_cuda_offer {
    uint64_t bytes;
    uint8_t *part; /* LOCAL: valid in every rank's address space */
    int32_t status;
    cudaIpcMemHandle_t handle; /* IPC */
    char text[EPF_CUDA_TEXT];  /* of status */
} epf_cuda_offer;

typedef struct epf_cuda_part {
    epf_cuda_window head;
    const struct epf_cuda_transport_ops *ops;
    uint8_t *own;  /* base[rank], as long as it has to be freed */
    bool attached; /* peers' parts are mapped, maybe in part */
    bool mapped;   /* map() was entered: by all ranks or by none */
    uint8_t *parts[];
} epf_cuda_part;

typedef struct epf_cuda_transport_ops {
    const char *name;
    epf_status (*own_create)(epf_cuda_part *part);
    epf_status (*offer_fill)(const epf_cuda_part *part, epf_cuda_offer *offer);
    epf_status (*map)(epf_cuda_part *part, const epf_cuda_offer *offers);
    void (*unmap)(epf_cuda_part *part);
    void (*own_destroy)(epf_comm *comm, epf_cuda_part *part);
} epf_cuda_transport_ops;

extern const epf_cuda_transport_ops epf_cuda_local_ops;
extern const epf_cuda_transport_ops epf_cuda_ipc_ops;
extern const epf_cuda_transport_ops epf_cuda_nvshmem_ops;

/* EPF_OK for cudaSuccess; otherwise clears CUDA's last error and records "<what>: <CUDA's text>". */
epf_status epf_cuda_check(cudaError_t error, const char *what);

/* Makes `device` current and tells which one was; the status of a failure is recorded. */
epf_status epf_cuda_enter(int32_t device, int *previous);
void epf_cuda_leave(int32_t device, int previous);

/* On the current device, zeroed, complete when it returns; counts for epf_cuda_alloc_fail_at(). */
epf_status epf_cuda_device_alloc(uint64_t bytes, const char *name, void **memory);

/* The fault injection's decision alone, for memory that comes from elsewhere. */
epf_status epf_cuda_device_ask(uint64_t bytes, const char *name);

/* On the current device, complete when they return, without the legacy stream. */
epf_status epf_cuda_zero(void *memory, uint64_t bytes);
epf_status epf_cuda_upload(void *to, const void *from, uint64_t bytes);

/* cudaMalloc, cudaFree as own_create and own_destroy. */
epf_status epf_cuda_own_create(epf_cuda_part *part);
void epf_cuda_own_destroy(epf_comm *comm, epf_cuda_part *part);

/* The calling thread's last error text, for an offer. */
void epf_cuda_text_copy(char text[EPF_CUDA_TEXT]);

/* The first bad status of an exchange, the same on all ranks, with its rank's own text. */
epf_status epf_cuda_peer_failed(int32_t rank, epf_status status, const char text[EPF_CUDA_TEXT]);

/* Loads the library and finds its functions, once for the process.  EPF_E_UNSUPPORTED where there is none. */
epf_status epf_cuda_nvshmem_load(void);

/* Collective: forms NVSHMEM's world over `comm`, PE = rank, on the current device; once more for each group. */
epf_status epf_cuda_nvshmem_join(epf_comm *comm);

/* Collective: with the last group the world ends, if all ranks are there to end it. */
void epf_cuda_nvshmem_leave(epf_comm *comm);

#endif
