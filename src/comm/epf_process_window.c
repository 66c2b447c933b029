/*
 * epf_process_window.c: windows of processes: sealed memory descriptors, handed to every peer.
 *
 * The memory has no name, and its size is sealed before anybody else sees it: a peer can neither
 * find it elsewhere nor pull it away under a mapping, which would end us with SIGBUS.
 *
 * Two collectives make one window: the first brings every rank's size, its status, and its
 * descriptor if it has one; the second the outcome of mapping them all.  A rank that cannot
 * allocate takes part in the first like any other, so nobody waits for it, and all draw the same
 * answer from the same offers. Descriptors are closed once mapped: a window costs none while it
 * lives.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "comm/epf_process.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u /* Linux 6.3; newer than some C libraries that we build with */
#endif

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

struct process_window {
    epf_window head;
    uint8_t *parts[];
};

static uint64_t file_bytes(uint64_t bytes)
{
    return (bytes + EPF_COMM_WINDOW_ALIGN - 1) / EPF_COMM_WINDOW_ALIGN * EPF_COMM_WINDOW_ALIGN;
}

static epf_status memory_create(const epf_comm *comm, uint64_t bytes, int *fd)
{
    *fd = memfd_create("epfuse", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (*fd < 0 && errno == EINVAL) { /* an older kernel; newer ones may insist on the flag */
        *fd = memfd_create("epfuse", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    if (*fd >= 0 && ftruncate(*fd, (off_t)file_bytes(bytes)) == 0 &&
        fcntl(*fd, F_ADD_SEALS, SEALS) == 0) {
        return EPF_OK;
    }
    const int error = errno;
    epf_link_close(fd);
    return EPF_FAIL(EPF_E_NO_MEMORY,
                    "rank %" PRId32 ": making %" PRIu64 " bytes of shared memory: %s", comm->rank,
                    bytes, strerror(error));
}

/* Maps what a peer sent, if it is what it must be. */
static epf_status peer_map(epf_process_comm *comm, int32_t r, uint64_t bytes, uint8_t **part)
{
    const epf_peer *peer = &comm->peers[r];
    struct stat status;
    if (peer->fd < 0) {
        return peer->fd_lost
                   ? EPF_FAIL(EPF_E_NO_MEMORY,
                              "rank %" PRId32 ": no descriptor left for rank %" PRId32
                              "'s window (RLIMIT_NOFILE)",
                              comm->head.rank, r)
                   : EPF_FAIL(EPF_E_PEER, "rank %" PRId32 ": rank %" PRId32 " sent no memory",
                              comm->head.rank, r);
    }
    const int seals = fcntl(peer->fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(peer->fd, &status) != 0 ||
        !S_ISREG(status.st_mode) || (uint64_t)status.st_size != file_bytes(bytes)) {
        return EPF_FAIL(EPF_E_PEER,
                        "rank %" PRId32 ": rank %" PRId32
                        " sent memory that is not sealed, or not %" PRIu64 " bytes",
                        comm->head.rank, r, file_bytes(bytes));
    }
    return epf_part_map(&comm->head, bytes, peer->fd, false, part);
}

static epf_status own_part_create(const epf_comm *comm, uint64_t bytes,
                                  struct process_window **window, int *fd)
{
    const size_t parts_bytes = (size_t)comm->num_ranks * sizeof(uint8_t *);
    EPF_TRY(epf_window_bytes_check(bytes));
    struct process_window *w = epf_alloc(1, sizeof *w + parts_bytes);
    if (w == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "rank %" PRId32 ": no memory for a window's addresses",
                        comm->rank);
    }
    w->head.bytes = bytes;
    w->head.rank = comm->rank;
    w->head.num_ranks = comm->num_ranks;
    w->head.base = w->parts;
    epf_status st;
    EPF_TRY_GOTO(memory_create(comm, bytes, fd), err);
    EPF_TRY_GOTO(epf_part_map(comm, bytes, *fd, true, &w->parts[comm->rank]), err_fd);
    *window = w;
    return EPF_OK;
err_fd:
    epf_link_close(fd);
err:
    epf_free(w);
    return st;
}

static epf_status map_all(epf_process_comm *comm, struct process_window *w)
{
    epf_status st = EPF_OK;
    for (int32_t r = 0; r < comm->head.num_ranks && st == EPF_OK; r++) {
        if (r != comm->head.rank) {
            st = peer_map(comm, r, w->head.bytes, &w->parts[r]);
        }
    }
    return st;
}

epf_status epf_process_window_create(epf_comm *head, uint64_t bytes, epf_window **window)
{
    epf_process_comm *comm = (epf_process_comm *)head;
    struct process_window *w = NULL;
    int fd = -1;
    epf_window_offer own = {.bytes = bytes};
    own.status = bytes == 0 ? EPF_OK : own_part_create(head, bytes, &w, &fd);
    const epf_exchange exchange = {.collective = EPF_COLLECTIVE_WINDOW,
                                   .send = &own,
                                   .recv = head->scratch,
                                   .bytes = sizeof own,
                                   .fd = fd};
    epf_status st = epf_process_exchange(comm, &exchange);
    epf_link_close(&fd);
    if (st == EPF_OK) {
        st = epf_window_offers_check(head->scratch, head);
    }
    const bool offered = st == EPF_OK;
    if (offered) {
        st = map_all(comm, w);
    }
    for (int32_t r = 0; r < head->num_ranks; r++) {
        epf_link_close(&comm->peers[r].fd); /* a mapping needs it no more */
    }
    if (offered) {
        st = epf_comm_agree(head, st);
    }
    if (st != EPF_OK) {
        epf_process_window_destroy(head, w == NULL ? NULL : &w->head);
        return st;
    }
    *window = &w->head;
    return EPF_OK;
}

void epf_process_window_destroy(epf_comm *comm, epf_window *window)
{
    (void)comm;
    if (window == NULL) {
        return;
    }
    for (int32_t r = 0; r < window->num_ranks; r++) {
        epf_part_unmap(window->base[r], window->bytes);
    }
    epf_free(window);
}
