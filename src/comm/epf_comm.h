/*
 * epf_comm.h: ranks, and memory that all of them see, behind one small table of functions.
 *
 * A group is num_ranks ranks on one machine; an epf_comm is one rank's handle on it.  Ranks are
 * threads of one process or processes of one user; what is above this header cannot tell.  The
 * table serves the slow path only: forming windows, creating, resetting and ending operators.
 * Everything fast goes through plain memory of a window and the counters in it (epf_wait.h).
 *
 * Calls marked "collective" are made by every rank in the same order, one at a time per group. Each
 * is bounded by timeout_ns and ends early with EPF_E_PEER when a rank that it still needs has died
 * or left, and with EPF_E_STATE when one resets.  After EPF_E_TIMEOUT, EPF_E_PEER or EPF_E_STATE
 * ranks may disagree on how far they got: reset() brings those that live back in step.
 */
#ifndef EPF_COMM_H
#define EPF_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_status.h"

enum {
    EPF_COMM_MAX_RANKS = 1024,
    EPF_COMM_WINDOW_ALIGN = 4096, /* alignment of every base[r]; bytes need not be a multiple */
    EPF_COMM_SCRATCH_BYTES = 256,
    EPF_COMM_GATHER_BYTES = 1 << 24 /* most that one rank may bring to one all_gather           */
};

typedef struct epf_comm epf_comm;

/* One rank's view of a symmetric allocation: a part per rank, every part mapped here. */
typedef struct epf_window {
    uint64_t bytes; /* usable bytes of each part, as asked for                     */
    int32_t rank;   /* base[rank] is our own part                                  */
    int32_t num_ranks;
    uint8_t **base; /* [num_ranks]; zero when the window was made                  */
} epf_window;

typedef struct epf_comm_ops {
    const char *name; /* "threads", "processes" */

    /* Collective: recv[r * bytes ...] = what rank r sent.  EPF_E_INVALID where ranks bring
     * different sizes. Also a barrier: nobody leaves with EPF_OK before all have entered. Allocates
     * nothing. */
    epf_status (*all_gather)(epf_comm *comm, const void *send, void *recv, size_t bytes);

    /* Collective.  On all ranks EPF_OK, or on all the same error and nothing is left: EPF_E_INVALID
     * where sizes differ or are 0, EPF_E_NO_MEMORY where one rank cannot allocate or map. */
    epf_status (*window_create)(epf_comm *comm, uint64_t bytes, epf_window **window);

    /* Local: this rank's mappings go; the memory goes with the last mapping.  Accepts NULL. */
    void (*window_destroy)(epf_comm *comm, epf_window *window);

    /* Any thread, cheap enough for every few ms: false once `peer` died, or left in order. */
    bool (*peer_alive)(epf_comm *comm, int32_t peer);

    /* Any thread: the lowest rank known to have died without destroy(), or -1.  Ranks that left in
     * order do not count: a rank may go while others still finish what it has already done its part
     * of. */
    int32_t (*find_dead)(epf_comm *comm);

    /* Collective: forgets half-done collectives of the past.  EPF_OK on all means: in step again.
     */
    epf_status (*reset)(epf_comm *comm);

    /* Leaves the group and frees the handle; windows first.  Local, never waits. */
    void (*destroy)(epf_comm *comm);
} epf_comm_ops;

/* The head of every provider's handle; all fields are constant after creation. */
struct epf_comm {
    const epf_comm_ops *ops;
    int32_t rank;
    int32_t num_ranks;
    int32_t node; /* NUMA node of this rank's memory; -1: no preference */
    uint64_t timeout_ns;
    void *scratch;    /* [num_ranks * EPF_COMM_SCRATCH_BYTES] for collectives built on all_gather */
    char origin[192]; /* how the group was formed, for people: "torchrun (RANK, WORLD_SIZE)" */
};

typedef struct epf_comm_config {
    int32_t rank; /* not used where the launcher or the creator knows it             */
    int32_t num_ranks;
    uint64_t timeout_ns; /* of each collective; default EPF_COMM_TIMEOUT_NS; > 0            */
    bool bind_memory;    /* put a rank's part on its NUMA node (epf_place.h); default true;
                               nothing happens on a machine of one node                        */
} epf_comm_config;

#define EPF_COMM_TIMEOUT_NS ((uint64_t)100000000000u)

/* Rank 0 of 1, default timeout. */
void epf_comm_config_init(epf_comm_config *config);

/* W = config->num_ranks handles comms[0 .. W-1] on one group inside this process, each to be used
 * by one caller thread at a time and destroyed separately.  config->rank is not read.  Not
 * collective: one call. */
epf_status epf_comm_create_threads(const epf_comm_config *config, epf_comm **comms);

/* The caller's own all-gather over the same ranks: recv[r * bytes ...] = rank r's send; 0 on
 * success. */
typedef int epf_gather_callback(void *context, const void *send, void *recv, size_t bytes);

/* Collective: processes that already have a way to talk (MPI, torch.distributed, ...). */
epf_status epf_comm_create_callback(const epf_comm_config *config, epf_gather_callback *all_gather,
                                    void *context, epf_comm **comm);

/* Collective: processes that a launcher started; rank and size come from its variables (epf_env.h).
 * config->rank and num_ranks are not read. */
epf_status epf_comm_create_env(const epf_comm_config *config, epf_comm **comm);

/* The table's functions by name, with their arguments checked. */
epf_status epf_comm_all_gather(epf_comm *comm, const void *send, void *recv, size_t bytes);
epf_status epf_comm_barrier(epf_comm *comm);
epf_status epf_comm_window_create(epf_comm *comm, uint64_t bytes, epf_window **window);
void epf_comm_window_destroy(epf_comm *comm, epf_window *window);
bool epf_comm_peer_alive(epf_comm *comm, int32_t peer);
int32_t epf_comm_find_dead(epf_comm *comm);
epf_status epf_comm_reset(epf_comm *comm);
void epf_comm_destroy(epf_comm *comm);

/* Collective: every rank brings a status, every rank gets the same one back: EPF_OK, or that of the
 * lowest rank that has another, whose number the recorded text names unless it is our own. */
epf_status epf_comm_agree(epf_comm *comm, epf_status mine);

#endif
