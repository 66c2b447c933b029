/*
 * epf_mesh.h: from "everybody listens somewhere" to a link between every two ranks.
 *
 * All ways to form a group of processes end here: each rank has a listener, and knows everybody's
 * number and the group's token.  A rank connects to those below it and is connected to by those
 * above.
 */
#ifndef EPF_MESH_H
#define EPF_MESH_H

#include "comm/epf_comm.h"
#include "comm/epf_link.h"

enum { EPF_TOKEN_BYTES = 16, EPF_RECEPTION_GUESTS = 64 };

/* What all ranks of a group hold and nobody else does. */
typedef struct epf_token {
    uint8_t bytes[EPF_TOKEN_BYTES];
} epf_token;

typedef struct epf_roster {
    epf_token token;
    uint64_t *ids; /* [num_ranks] of listeners (epf_link_name_of) */
} epf_roster;

/* A listener and those who connected but have not yet said who they are.  Strangers who stay silent
 * lose their place, those who talk nonsense too; neither holds up the others. */
typedef struct epf_guest {
    int fd;
    uint64_t until_ns;
} epf_guest;

typedef struct epf_reception {
    int listener;
    int32_t num_guests;
    epf_guest guests[EPF_RECEPTION_GUESTS];
} epf_reception;

void epf_reception_init(epf_reception *reception, int listener);

/* The next guest who has spoken: its link, its first frame and that frame's payload.  Waits no
 * longer than `wait_ns`; AGAIN where nobody did. */
epf_link_result epf_reception_next(epf_reception *reception, uint64_t wait_ns, int *fd,
                                   epf_frame *frame, void *payload);

/* Shows out all guests; the listener stays the caller's. */
void epf_reception_close(epf_reception *reception);

/* links[r] is the link to rank r afterwards, links[rank] is -1.  On failure all are -1.  The
 * listener is used up either way. */
epf_status epf_mesh_connect(const epf_comm_config *config, const epf_roster *roster, int *listener,
                            int *links);

/* Raises the soft limit on descriptors where num_ranks ranks need more. */
epf_status epf_mesh_reserve_descriptors(int32_t num_ranks);

#endif
