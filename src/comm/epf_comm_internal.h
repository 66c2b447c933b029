/*
 * epf_comm_internal.h: what the providers of this folder share, and nobody else includes.
 */
#ifndef EPF_COMM_INTERNAL_H
#define EPF_COMM_INTERNAL_H

#include "base/epf_error.h"
#include "comm/epf_comm.h"
#include "comm/epf_place.h"

/* What collectives exchange is tagged, so that ranks which call different ones are told so. */
typedef enum epf_collective {
    EPF_COLLECTIVE_GATHER = 1,
    EPF_COLLECTIVE_WINDOW = 2,
    EPF_COLLECTIVE_RESET = 3
} epf_collective;

const char *epf_collective_name(uint32_t collective);

epf_status epf_comm_config_check(const epf_comm_config *config);

/* The machine, where memory is to be placed on it; NULL where not, or where there is one node only.
 * Placement is a preference: a machine that cannot be read is taken for one of a single node. */
epf_topology *epf_comm_topology(const epf_comm_config *config);

/* The head: rank, size, timeout, scratch, and the node, by `topology` (may be NULL). */
epf_status epf_comm_head_init(epf_comm *comm, const epf_comm_ops *ops,
                              const epf_comm_config *config, const epf_topology *topology);
void epf_comm_head_release(epf_comm *comm);

/* One rank's part of window_create's exchange. */
typedef struct epf_window_offer {
    uint64_t bytes;
    int32_t status; /* of the rank's own allocation */
    int32_t reserved;
    void *part;   /* threads: the memory; processes: NULL (a descriptor travels beside it) */
    void *shared; /* threads: rank 0's reference count */
} epf_window_offer;

/* The one answer that all ranks draw from the same offers. */
epf_status epf_window_offers_check(const epf_window_offer *offers, const epf_comm *comm);

/* EPF_E_NO_MEMORY, with the reason, for sizes that no mapping on this machine can serve. */
epf_status epf_window_bytes_check(uint64_t bytes);

/* `bytes` in whole pages; `fd` -1: private to this process.  Placed as comm->node asks where it is
 * this rank's own part. */
epf_status epf_part_map(const epf_comm *comm, uint64_t bytes, int fd, bool own, uint8_t **part);
void epf_part_unmap(uint8_t *part, uint64_t bytes);

/* When a collective that begins now must have ended. */
uint64_t epf_deadline_ns(const epf_comm *comm);

/* The error of a collective for which `peer` did not come in time. */
epf_status epf_collective_timeout(const epf_comm *comm, uint32_t collective, int32_t peer,
                                  int32_t num_missing);

#endif
