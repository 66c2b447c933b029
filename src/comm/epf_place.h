/*
 * epf_place.h: which CPUs and which NUMA node a rank gets.
 *
 * Reading the machine and deciding are apart: epf_place_rank() is a pure function of a topology, so
 * that machines nobody has can be tested.
 */
#ifndef EPF_PLACE_H
#define EPF_PLACE_H

#include <stdint.h>

#include "epfuse/epfuse_status.h"

#define EPF_TOPOLOGY_ROOT "/sys/devices/system"

typedef struct epf_cpu {
    int32_t cpu;  /* the kernel's number                                           */
    int32_t node; /* NUMA node                                                     */
    int32_t core; /* a number that hardware threads of one core share: their lowest CPU */
} epf_cpu;

typedef struct epf_topology {
    int32_t num_nodes; /* nodes that have a CPU of the list                        */
    int32_t num_cpus;
    epf_cpu cpus[]; /* [num_cpus] those this process may run on, ascending      */
} epf_topology;

typedef struct epf_place {
    int32_t node;      /* where the rank's memory belongs; -1: it has several nodes */
    int32_t num_cores; /* cpus[0 .. num_cores) sit on as many different cores      */
    int32_t num_cpus;  /* the rest are their second hardware threads               */
    int32_t *cpus;     /* [num_cpus] >= 1                                          */
} epf_place;

/* The machine, cut to this process's affinity mask; `root` is EPF_TOPOLOGY_ROOT
 * but in tests. */
epf_status epf_topology_read(const char *root, epf_topology **topology);
void epf_topology_free(epf_topology *topology);

/* Ranks are dealt to nodes in blocks, in proportion to the nodes' cores; a node's cores are divided
 * evenly among its ranks, and shared round robin where ranks outnumber them.  epf_place_release()
 * frees `place`. */
epf_status epf_place_rank(const epf_topology *topology, int32_t rank, int32_t num_ranks,
                          epf_place *place);
void epf_place_release(epf_place *place);

/* Pins the calling thread to one CPU. */
epf_status epf_place_pin(int32_t cpu);

/* Asks that pages of [memory, memory + bytes), page aligned, come from `node`, where they are not
 * there yet. A preference: a full node spills over.  Does nothing on a machine of one node. */
epf_status epf_place_bind_memory(void *memory, uint64_t bytes, int32_t node);

#endif
