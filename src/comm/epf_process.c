/*
 * epf_process.c: the provider of groups of processes: who lives, and the life of a handle.
 *
 * A link closes when its process ends, however it ends; the kernel sees to that.  So a closed link
 * means a death, unless the rank's word in the control window says that it left in order.  The word
 * is written before the link is closed, and read after it was seen closed: a rank that leaves is
 * never taken for dead.  A process that fork()s without exec while it holds a handle keeps copies
 * of the links open and hides its own death for as long as the child lives.
 *
 * The kernel frees a dying process's private memory before it closes its links: measured, 3 to 5 ms
 * for each GB in huge pages and 40 to 60 in small ones come on top of a notice within 10 ms.
 */
#include "comm/epf_process.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "core/epf_atomic.h"

#define LOOK_NS ((uint64_t)2000000u) /* between polls of the links, by whatever thread */

enum { POLL_CHUNK = 64, CONTROL_BYTES = 64 };

static const uint32_t *left_word(const epf_process_comm *comm, int32_t rank)
{
    return (const void *)comm->control->base[rank];
}

static void look_at(epf_process_comm *comm, int32_t first, int32_t end)
{
    struct pollfd polls[POLL_CHUNK];
    for (int32_t r = first; r < end; r++) {
        /* No events asked for: hang-ups are always told.  A negative link is skipped. */
        polls[r - first] = (struct pollfd){.fd = comm->peers[r].link, .events = 0};
    }
    if (poll(polls, (nfds_t)(end - first), 0) <= 0) {
        return;
    }
    for (int32_t r = first; r < end; r++) {
        if ((polls[r - first].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
            epf_process_closed(comm, r);
        }
    }
}

/* All links, unless a thread of this rank looked a moment ago. */
static void look(epf_process_comm *comm)
{
    const uint64_t now = epf_now_ns();
    const uint64_t next = epf_load_relaxed_u64(&comm->next_look_ns);
    if (now < next || epf_cas_acq_rel_u64(&comm->next_look_ns, next, now + LOOK_NS) != next) {
        return;
    }
    for (int32_t first = 0; first < comm->head.num_ranks; first += POLL_CHUNK) {
        const int32_t end = first + POLL_CHUNK;
        look_at(comm, first, end < comm->head.num_ranks ? end : comm->head.num_ranks);
    }
}

static bool process_peer_alive(epf_comm *head, int32_t peer)
{
    epf_process_comm *comm = (epf_process_comm *)head;
    look(comm);
    return epf_load_acquire_u32(&comm->peers[peer].dead) == 0 &&
           epf_load_acquire_u32(left_word(comm, peer)) == 0;
}

static int32_t process_find_dead(epf_comm *head)
{
    epf_process_comm *comm = (epf_process_comm *)head;
    look(comm);
    for (int32_t r = 0; r < head->num_ranks; r++) {
        if (epf_load_acquire_u32(&comm->peers[r].dead) != 0) {
            return r;
        }
    }
    return -1;
}

static epf_status process_all_gather(epf_comm *head, const void *send, void *recv, size_t bytes)
{
    const epf_exchange exchange = {
        .collective = EPF_COLLECTIVE_GATHER, .send = send, .recv = recv, .bytes = bytes, .fd = -1};
    return epf_process_exchange((epf_process_comm *)head, &exchange);
}

static void comm_free(epf_process_comm *comm)
{
    epf_process_window_destroy(&comm->head, comm->control);
    for (int32_t r = 0; r < comm->head.num_ranks; r++) {
        epf_link_close(&comm->peers[r].link);
    }
    epf_comm_head_release(&comm->head);
    epf_free(comm->payload);
    epf_free(comm->polls);
    epf_free(comm);
}

static void process_destroy(epf_comm *head)
{
    epf_process_comm *comm = (epf_process_comm *)head;
    /* Before the links close, so that who sees them closed knows that we did not die. */
    epf_store_release_u32((void *)comm->control->base[head->rank], 1);
    comm_free(comm);
}

static const epf_comm_ops process_ops = {
    .name = "processes",
    .all_gather = process_all_gather,
    .window_create = epf_process_window_create,
    .window_destroy = epf_process_window_destroy,
    .peer_alive = process_peer_alive,
    .find_dead = process_find_dead,
    .reset = epf_process_reset,
    .destroy = process_destroy,
};

static epf_status comm_allocate(const epf_comm_config *config, epf_process_comm **comm)
{
    const size_t num_ranks = (size_t)config->num_ranks;
    epf_process_comm *c = epf_alloc(1, sizeof *c + num_ranks * sizeof c->peers[0]);
    if (c == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for the handle of rank %" PRId32, config->rank);
    }
    epf_topology *topology = epf_comm_topology(config);
    epf_status st = epf_comm_head_init(&c->head, &process_ops, config, topology);
    epf_topology_free(topology);
    for (size_t r = 0; r < num_ranks; r++) {
        c->peers[r].link = -1;
        c->peers[r].fd = -1;
    }
    c->payload = epf_alloc(1, EPF_FRAME_PAYLOAD_BYTES);
    c->polls = epf_alloc(num_ranks, sizeof *c->polls);
    if (st == EPF_OK && (c->payload == NULL || c->polls == NULL)) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "no memory for the messages of rank %" PRId32, config->rank);
    }
    if (st != EPF_OK) {
        comm_free(c);
        return st;
    }
    *comm = c;
    return EPF_OK;
}

epf_status epf_process_create(const epf_comm_config *config, const epf_roster *roster,
                              int *listener, epf_comm **comm)
{
    epf_process_comm *c = NULL;
    epf_status st;
    EPF_TRY_GOTO(epf_mesh_reserve_descriptors(config->num_ranks), err);
    EPF_TRY_GOTO(comm_allocate(config, &c), err);
    int *links = epf_alloc((size_t)config->num_ranks, sizeof *links);
    if (links == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "no memory for the links of rank %" PRId32, config->rank);
        goto err_comm;
    }
    st = epf_mesh_connect(config, roster, listener, links);
    for (int32_t r = 0; r < config->num_ranks && st == EPF_OK; r++) {
        c->peers[r].link = links[r];
    }
    epf_free(links);
    EPF_TRY_GOTO(st, err_comm);
    EPF_TRY_GOTO(epf_process_window_create(&c->head, CONTROL_BYTES, &c->control), err_comm);
    *comm = &c->head;
    return EPF_OK;
err_comm:
    comm_free(c);
err:
    epf_link_close(listener);
    return st;
}
