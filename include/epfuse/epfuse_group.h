/*
 * epfuse_group.h: group, the ranks; included by epfuse.h, whose head holds here, too.
 */
#ifndef EPFUSE_GROUP_H
#define EPFUSE_GROUP_H

#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** One rank's handle on its group.  Every rank has its own. */
typedef struct epf_group epf_group;

/**
 * The caller's own exchange: gather `bytes` bytes of every rank, in rank order, into recv
 * [num_ranks * bytes].  Returns 0 on success.
 */
typedef int (*epf_all_gather_fn)(void *context, const void *send, void *recv, size_t bytes);

typedef struct epf_group_config {
    uint32_t struct_size;         /* set by epf_group_config_init() */
    int32_t rank;                 /* of this process; -1 (default): from the environment */
    int32_t num_ranks;            /* W; 0 (default): from the environment */
    uint64_t timeout_ns;          /* bound on every wait; default 100 s; 0 is invalid */
    epf_all_gather_fn all_gather; /* how ranks find each other; NULL (default): the environment */
    void *all_gather_context;     /* handed to all_gather */
} epf_group_config;

EPF_API epf_status epf_group_config_init_sized(epf_group_config *config, size_t struct_size);
#define epf_group_config_init(config) epf_group_config_init_sized((config), sizeof *(config))

/**
 * Make a group of W ranks in this process, one handle for each; each is then used by a thread of its own.
 *
 * @param config  NULL for defaults; rank, num_ranks and all_gather are not looked at
 * @param groups  [W] out; on failure all NULL
 * @return EPF_E_INVALID    num_ranks outside 1..1024, groups NULL, timeout_ns 0
 * @return EPF_E_NO_MEMORY
 */
EPF_API epf_status epf_group_create_threads(int32_t num_ranks, const epf_group_config *config,
                                            epf_group **groups);

/**
 * Join a group of processes on this machine, one rank each, over shared memory.  Collective.
 *
 * Ranks find each other through config->all_gather, or through the variables of torchrun, Open MPI, MPICH
 * or srun, or EPFUSE_RANK, EPFUSE_NUM_RANKS and EPFUSE_RENDEZVOUS.  Only processes of the same user that
 * hold the group's random token are let in.  Nothing named is created, so nothing stays behind.
 *
 * @return EPF_E_INVALID      rank or num_ranks out of range, no usable environment, more than one machine
 * @return EPF_E_TIMEOUT      a rank did not show up
 * @return EPF_E_PEER         a rank died or was refused
 * @return EPF_E_DEVICE       a system call failed
 */
EPF_API epf_status epf_group_create(const epf_group_config *config, epf_group **group);

/** Rank of this handle, 0 .. W-1; -1 if group is NULL. */
EPF_API int32_t epf_group_rank(const epf_group *group);

/** W; 0 if group is NULL. */
EPF_API int32_t epf_group_num_ranks(const epf_group *group);

/** Not collective; accepts NULL.  Its operators must have been destroyed before. */
EPF_API_VOID void epf_group_destroy(epf_group *group);

#ifdef __cplusplus
}
#endif

#endif
