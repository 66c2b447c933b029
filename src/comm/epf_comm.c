/* epf_comm.c: the provider table's functions with checked arguments, and what providers share. */
#include "comm/epf_comm.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "comm/epf_comm_internal.h"

enum { HUGE_PAGE_BYTES = 2 << 20 };

void epf_comm_config_init(epf_comm_config *config)
{
    memset(config, 0, sizeof *config);
    config->num_ranks = 1;
    config->timeout_ns = EPF_COMM_TIMEOUT_NS;
    config->bind_memory = true;
}

epf_status epf_comm_config_check(const epf_comm_config *config)
{
    EPF_CHECK_ARG(config, "config is NULL");
    EPF_CHECK_ARG(config->num_ranks >= 1 && config->num_ranks <= EPF_COMM_MAX_RANKS,
                  "num_ranks is %" PRId32 ", must be 1..%d", config->num_ranks, EPF_COMM_MAX_RANKS);
    EPF_CHECK_ARG(config->rank >= 0 && config->rank < config->num_ranks,
                  "rank is %" PRId32 ", must be 0..%" PRId32, config->rank, config->num_ranks - 1);
    EPF_CHECK_ARG(config->timeout_ns > 0, "timeout_ns is 0, must be positive");
    return EPF_OK;
}

epf_topology *epf_comm_topology(const epf_comm_config *config)
{
    epf_topology *topology = NULL;
    if (config->bind_memory && epf_topology_read(EPF_TOPOLOGY_ROOT, &topology) == EPF_OK &&
        topology->num_nodes > 1) {
        return topology;
    }
    epf_topology_free(topology);
    return NULL;
}

static int32_t preferred_node(const epf_comm_config *config, const epf_topology *topology)
{
    epf_place place;
    if (topology == NULL ||
        epf_place_rank(topology, config->rank, config->num_ranks, &place) != EPF_OK) {
        return -1;
    }
    const int32_t node = place.node;
    epf_place_release(&place);
    return node;
}

epf_status epf_comm_head_init(epf_comm *comm, const epf_comm_ops *ops,
                              const epf_comm_config *config, const epf_topology *topology)
{
    comm->ops = ops;
    comm->rank = config->rank;
    comm->num_ranks = config->num_ranks;
    comm->timeout_ns = config->timeout_ns;
    comm->node = preferred_node(config, topology);
    comm->scratch = epf_alloc((size_t)config->num_ranks, EPF_COMM_SCRATCH_BYTES);
    if (comm->scratch == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for the handle of rank %" PRId32, comm->rank);
    }
    return EPF_OK;
}

void epf_comm_head_release(epf_comm *comm)
{
    epf_free(comm->scratch);
    comm->scratch = NULL;
}

const char *epf_collective_name(uint32_t collective)
{
    switch (collective) {
    case EPF_COLLECTIVE_GATHER:
        return "all_gather";
    case EPF_COLLECTIVE_WINDOW:
        return "window_create";
    case EPF_COLLECTIVE_RESET:
        return "reset";
    default:
        return "an unknown collective";
    }
}

uint64_t epf_deadline_ns(const epf_comm *comm)
{
    const uint64_t now = epf_now_ns();
    return comm->timeout_ns < UINT64_MAX - now ? now + comm->timeout_ns : UINT64_MAX;
}

epf_status epf_collective_timeout(const epf_comm *comm, uint32_t collective, int32_t peer,
                                  int32_t num_missing)
{
    return EPF_FAIL(EPF_E_TIMEOUT,
                    "rank %" PRId32 ": %s: rank %" PRId32 " did not come within %.3g s (%" PRId32
                    " of %" PRId32 " ranks missing)",
                    comm->rank, epf_collective_name(collective), peer,
                    (double)comm->timeout_ns * 1e-9, num_missing, comm->num_ranks);
}

epf_status epf_window_offers_check(const epf_window_offer *offers, const epf_comm *comm)
{
    for (int32_t r = 1; r < comm->num_ranks; r++) {
        EPF_CHECK_ARG(offers[r].bytes == offers[0].bytes,
                      "window_create: bytes is %" PRIu64 " on rank 0 and %" PRIu64
                      " on rank %" PRId32 ", must be equal on all ranks",
                      offers[0].bytes, offers[r].bytes, r);
    }
    EPF_CHECK_ARG(offers[0].bytes > 0, "window_create: bytes is 0, must be positive");
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        if (offers[r].status == EPF_OK) {
            continue;
        }
        if (r == comm->rank) {
            return (epf_status)offers[r].status; /* its text is already recorded */
        }
        return EPF_FAIL((epf_status)offers[r].status,
                        "window_create: rank %" PRId32 " could not take %" PRIu64 " bytes", r,
                        offers[0].bytes);
    }
    return EPF_OK;
}

epf_status epf_window_bytes_check(uint64_t bytes)
{
    struct sysinfo info;
    struct rlimit limit;
    if (sysinfo(&info) == 0) {
        const uint64_t machine = ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
        if (bytes > machine) {
            return EPF_FAIL(EPF_E_NO_MEMORY,
                            "a window part of %" PRIu64
                            " bytes is larger than the machine's %" PRIu64,
                            bytes, machine);
        }
    }
    /* A file made longer than this raises SIGXFSZ, which would end the process. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        bytes > limit.rlim_cur) {
        return EPF_FAIL(EPF_E_NO_MEMORY,
                        "a window part of %" PRIu64 " bytes is over RLIMIT_FSIZE, %" PRIu64, bytes,
                        (uint64_t)limit.rlim_cur);
    }
    return EPF_OK;
}

static size_t mapped_bytes(uint64_t bytes)
{
    return (size_t)((bytes + EPF_COMM_WINDOW_ALIGN - 1) / EPF_COMM_WINDOW_ALIGN *
                    EPF_COMM_WINDOW_ALIGN);
}

epf_status epf_part_map(const epf_comm *comm, uint64_t bytes, int fd, bool own, uint8_t **part)
{
    const size_t length = mapped_bytes(bytes);
    const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory == MAP_FAILED) {
        return EPF_FAIL(EPF_E_NO_MEMORY,
                        "rank %" PRId32 ": mapping %" PRIu64 " bytes of a window failed: %s",
                        comm->rank, bytes, strerror(errno));
    }
    if (length >= HUGE_PAGE_BYTES) {
        (void)madvise(memory, length, MADV_HUGEPAGE);
    }
    if (own && comm->node >= 0) {
        (void)epf_place_bind_memory(memory, length, comm->node); /* a preference, not a need */
    }
    *part = memory;
    return EPF_OK;
}

void epf_part_unmap(uint8_t *part, uint64_t bytes)
{
    if (part != NULL) {
        (void)munmap(part, mapped_bytes(bytes));
    }
}

epf_status epf_comm_all_gather(epf_comm *comm, const void *send, void *recv, size_t bytes)
{
    EPF_CHECK_ARG(comm, "all_gather: comm is NULL");
    EPF_CHECK_ARG(bytes <= EPF_COMM_GATHER_BYTES, "all_gather: bytes is %zu, must be at most %d",
                  bytes, EPF_COMM_GATHER_BYTES);
    EPF_CHECK_ARG(bytes == 0 || (send != NULL && recv != NULL), "all_gather: %s is NULL",
                  send == NULL ? "send" : "recv");
    return comm->ops->all_gather(comm, send, recv, bytes);
}

epf_status epf_comm_barrier(epf_comm *comm)
{
    return epf_comm_all_gather(comm, NULL, NULL, 0);
}

epf_status epf_comm_window_create(epf_comm *comm, uint64_t bytes, epf_window **window)
{
    EPF_CHECK_ARG(window, "window_create: window is NULL");
    *window = NULL;
    EPF_CHECK_ARG(comm, "window_create: comm is NULL");
    return comm->ops->window_create(comm, bytes, window);
}

void epf_comm_window_destroy(epf_comm *comm, epf_window *window)
{
    if (comm != NULL && window != NULL) {
        comm->ops->window_destroy(comm, window);
    }
}

bool epf_comm_peer_alive(epf_comm *comm, int32_t peer)
{
    return comm != NULL && peer >= 0 && peer < comm->num_ranks && comm->ops->peer_alive(comm, peer);
}

int32_t epf_comm_find_dead(epf_comm *comm)
{
    return comm == NULL ? -1 : comm->ops->find_dead(comm);
}

epf_status epf_comm_reset(epf_comm *comm)
{
    EPF_CHECK_ARG(comm, "reset: comm is NULL");
    return comm->ops->reset(comm);
}

void epf_comm_destroy(epf_comm *comm)
{
    if (comm != NULL) {
        comm->ops->destroy(comm);
    }
}

epf_status epf_comm_agree(epf_comm *comm, epf_status mine)
{
    int32_t status = mine;
    EPF_CHECK_ARG(comm, "agree: comm is NULL");
    int32_t *all = comm->scratch;
    EPF_TRY(epf_comm_all_gather(comm, &status, all, sizeof status));
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        if (all[r] == EPF_OK) {
            continue;
        }
        if (r == comm->rank) {
            return mine;
        }
        return EPF_FAIL((epf_status)all[r], "rank %" PRId32 " failed with status %" PRId32, r,
                        all[r]);
    }
    return EPF_OK;
}
