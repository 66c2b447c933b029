/*
 * epf_process.h: ranks that are processes, once they are connected.
 */
#ifndef EPF_PROCESS_H
#define EPF_PROCESS_H

#include "comm/epf_comm_internal.h"
#include "comm/epf_link.h"
#include "comm/epf_mesh.h"

/* What a rank knows of another; the fields of a collective are its caller's, `dead` is any
 * thread's. */
typedef struct epf_peer {
    int link;            /* -1: ourselves                                            */
    uint32_t dead;       /* atomic: closed its link without leaving in order         */
    uint64_t generation; /* highest reset heard of                                   */
    uint64_t num_sent;   /* bytes of the running collective                          */
    uint64_t num_received;
    bool sent; /* all of it, the last frame included                       */
    bool received;
    int fd;       /* descriptor that came with it, or -1                      */
    bool fd_lost; /* one came, and our own limit did not let it in            */
} epf_peer;

typedef struct epf_process_comm {
    epf_comm head;
    epf_window *control; /* each part begins with a word: not 0 once the rank left   */
    uint64_t generation;
    uint64_t sequence;
    uint64_t next_look_ns; /* atomic: nobody polls the links before                    */
    void *payload;         /* one frame's                                              */
    struct pollfd *polls;  /* [num_ranks]                                              */
    epf_peer peers[];      /* [num_ranks]                                              */
} epf_process_comm;

/* One collective: the same `bytes` from every rank to every rank. */
typedef struct epf_exchange {
    epf_collective collective;
    const void *send;
    void *recv; /* [num_ranks * bytes]                                      */
    size_t bytes;
    int fd; /* travels to every peer and arrives in peers[].fd; -1: none */
} epf_exchange;

/* Collective.  Descriptors that arrived are the caller's to close, whatever the status. */
epf_status epf_process_exchange(epf_process_comm *comm, const epf_exchange *exchange);

/* Collective: epf_comm_ops.reset. */
epf_status epf_process_reset(epf_comm *comm);

/* EPF_E_PEER, naming how rank `peer` went. */
epf_status epf_process_gone(epf_process_comm *comm, epf_collective collective, int32_t peer);

/* The peer's link was seen closed: decides whether it died or left. */
void epf_process_closed(epf_process_comm *comm, int32_t peer);

/* epf_comm_ops.window_create, window_destroy. */
epf_status epf_process_window_create(epf_comm *comm, uint64_t bytes, epf_window **window);
void epf_process_window_destroy(epf_comm *comm, epf_window *window);

/* Collective, the last step of every bootstrap: a group from listeners and a roster.  The listener
 * is used up either way. */
epf_status epf_process_create(const epf_comm_config *config, const epf_roster *roster,
                              int *listener, epf_comm **comm);

#endif
