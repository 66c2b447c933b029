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
 * GPU and that every pair of ranks on different devices can reach each other (peer access, native atomics), and
 * counts who shares one.  The environment variable EPFUSE_CUDA_TRANSPORT (local, ipc, nvshmem) overrides the
 * choice of transport.
 * The same error on all ranks.  EPF_E_UNSUPPORTED: no such device or no way between two; EPF_E_DEVICE: CUDA failed;
 * EPF_E_INVALID: an ordinal that is not there, or the variable is something else, or not the same everywhere.
 *
 * NVSHMEM (3.x) is loaded at run time: EPFUSE_NVSHMEM_LIB, or libnvshmem_host.so.3 as the loader finds it.  NVSHMEM_*
 * variables that are not set are set to keep it on this machine and without multicast.  It ends the process by itself
 * where its own start fails, on a broken driver say.
 *
 * This and every other function makes the caller's device current again before it returns.  Changing devices
 * gives both a CUDA context: a caller that wants none on another device makes `device` current beforehand.
 */
epf_status epf_cuda_group_join(epf_comm *comm, int32_t device, epf_cuda_group *group);

/* Accepts NULL.  With NVSHMEM collective, after the last window: the last group to leave ends NVSHMEM's world, unless
 * a rank does not come.  Nothing to do otherwise. */
void epf_cuda_group_leave(epf_comm *comm, const epf_cuda_group *group);

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

/*
 * A window ends in three steps: every rank has done its last access and detaches; all ranks meet (epf_comm_barrier); every
 * rank destroys.  Where a rank has died and the others cannot meet, they destroy all the same.
 *
 * detach: local, accepts NULL.  Peers' parts go: CUDA wants no importer left when an exported part is freed.
 * base[r] of other ranks is not to be used any more.
 *
 * destroy: local, accepts NULL; detaches if that was not done.  With NVSHMEM collective, and the memory stays taken
 * where a rank does not come.
 */
void epf_cuda_window_detach(const epf_cuda_group *group, epf_cuda_window *window);
void epf_cuda_window_destroy(epf_comm *comm, const epf_cuda_group *group, epf_cuda_window *window);

/* Own memory, zeroed; NULL and a recorded EPF_E_NO_MEMORY where there is none. */
epf_status epf_cuda_alloc(const epf_cuda_group *group, int64_t bytes, const char *name,
                          void **memory);
void epf_cuda_free(void *memory); /* accepts NULL; any device may be current */

/* Host memory that the device writes while its kernels run, zeroed: one address, valid here and on every device. */
epf_status epf_cuda_host_alloc(const epf_cuda_group *group, int64_t bytes, const char *name,
                               void **memory);
void epf_cuda_host_free(void *memory); /* accepts NULL */

/* Test hook: from now on the n-th allocation through this header (1 = the next) of any thread of this process fails,
 * once; 0 switches off.  A window asks twice on every rank: for its table and for its part. */
void epf_cuda_alloc_fail_at(uint64_t nth);

/* Test hook: allocations asked for since epf_cuda_alloc_fail_at() was last called. */
uint64_t epf_cuda_alloc_count(void);

#ifdef __cplusplus
}
#endif

#endif
