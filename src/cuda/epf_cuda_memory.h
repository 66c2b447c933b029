/*
 * epf_cuda_memory.h: device memory: a rank's own, and windows that all ranks of a group map.
 *
 * Nothing here is called in steady state: each function may wait for the device.
 */
#ifndef EPF_CUDA_MEMORY_H
#define EPF_CUDA_MEMORY_H

#include "comm/epf_comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What an operator needs to know of the devices that its group's ranks use. */
typedef struct epf_cuda_group {
    int32_t device;      /* of this rank: CUDA's ordinal */
    int32_t num_sharing; /* ranks of the group on this same device, this one included */
    int32_t share_index; /* this rank's number among them, by rank */
    int32_t num_sms;     /* of the device */
    int32_t transport;   /* epf_cuda_transport */
} epf_cuda_group;

typedef enum epf_cuda_transport {
    EPF_CUDA_TRANSPORT_LOCAL =
        1, /* ranks are threads: pointers are passed as they are, with peer access */
    EPF_CUDA_TRANSPORT_IPC = 2, /* ranks are processes: CUDA IPC handles */
    EPF_CUDA_TRANSPORT_NVSHMEM = 3
} epf_cuda_transport;

/*
 * Collective.  Chooses `device` (-1: the calling thread's current one) for this rank, checks that it is a Hopper
 * GPU and that every pair of ranks on different devices can reach each other, and counts who shares one.  The
 * environment variable EPFUSE_CUDA_TRANSPORT (local, ipc, nvshmem) overrides the choice of transport.
 * The same error on all ranks.  EPF_E_UNSUPPORTED: no such device or no way between two; EPF_E_DEVICE: CUDA failed.
 */
epf_status epf_cuda_group_join(epf_comm *comm, int32_t device, epf_cuda_group *group);

/* Collective, as comm->ops->window_create, in device memory: zeroed, base[r] valid on this rank's device.  base_table is
 * the same table in device memory, for kernels. */
typedef struct epf_cuda_window {
    uint64_t bytes;
    int32_t rank;
    int32_t num_ranks;
    uint8_t **base;       /* [num_ranks] host table of device pointers */
    uint8_t **base_table; /* the same in device memory */
} epf_cuda_window;

epf_status epf_cuda_window_create(epf_comm *comm, const epf_cuda_group *group, uint64_t bytes,
                                  epf_cuda_window **window);

/* Local; accepts NULL.  With NVSHMEM collective. */
void epf_cuda_window_destroy(epf_comm *comm, const epf_cuda_group *group, epf_cuda_window *window);

/* Own memory, zeroed; NULL and a recorded EPF_E_NO_MEMORY where there is none. */
epf_status epf_cuda_alloc(const epf_cuda_group *group, int64_t bytes, const char *name,
                          void **memory);
void epf_cuda_free(void *memory);

/* Host memory that the device writes while its kernels run, zeroed. */
epf_status epf_cuda_host_alloc(const epf_cuda_group *group, int64_t bytes, const char *name,
                               void **memory);
void epf_cuda_host_free(void *memory);

#ifdef __cplusplus
}
#endif

#endif
