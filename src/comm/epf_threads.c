/*
 * epf_threads.c: ranks that are threads of one process.
 *
 * All collectives are one kind of round: a rank puts what it brings into its slot, and the last to
 * arrive copies for everybody.  A rank that gives up takes its slot back under the same lock, so a
 * round happens for all ranks or for none, and no half-done round is ever left behind.  A rank that
 * resets sends those home that wait in any other round, and who comes later does not begin to wait:
 * their peer has given up what they are in, and they are to reset as well.
 *
 * Invariants, under the lock:
 *   num_arrived = number of slots with `arrived` < num_ranks: the last to arrive ends the round;
 *   send and recv of a slot are valid while it has arrived: their rank is inside of its call;
 *   a slot that has not arrived is written by its own rank only;
 *   either all slots that have arrived are resetting, or none is.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "comm/epf_comm_internal.h"
#include "core/epf_atomic.h"

struct slot {
    const void *send;
    void *recv;
    size_t bytes;
    uint32_t collective;
    bool gave_up;      /* the last round, at its deadline            */
    bool arrived;      /* entered a round that is not complete yet   */
    epf_status status; /* of the round; valid once `arrived` is gone */
    int32_t odd_rank;  /* whose size or collective differs from ours */
    size_t odd_bytes;
    uint32_t odd_collective;
    uint32_t left; /* atomic, read without the lock by waits     */
};

struct group {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t num_ranks;
    int32_t num_handles; /* not yet destroyed */
    int32_t num_arrived;
    struct slot slots[];
};

struct thread_comm {
    epf_comm head;
    struct group *group;
};

/* What all ranks' windows of one creation have in common. */
struct shared_parts {
    uint32_t num_windows; /* atomic */
};

struct thread_window {
    epf_window head;
    struct shared_parts *shared;
    uint8_t *parts[];
};

static struct group *group_of(epf_comm *comm)
{
    return ((struct thread_comm *)comm)->group;
}

/* The whole round, by its last rank, under the lock. */
static void round_complete(struct group *group)
{
    const struct slot *first = &group->slots[0];
    int32_t odd = -1;
    for (int32_t r = 1; r < group->num_ranks && odd < 0; r++) {
        const struct slot *slot = &group->slots[r];
        odd = slot->bytes != first->bytes || slot->collective != first->collective ? r : -1;
    }
    for (int32_t r = 0; r < group->num_ranks; r++) {
        struct slot *slot = &group->slots[r];
        const bool as_first = slot->bytes == first->bytes && slot->collective == first->collective;
        const struct slot *seen = odd >= 0 && as_first ? &group->slots[odd] : first;
        slot->arrived = false;
        slot->status = odd < 0 ? EPF_OK : EPF_E_INVALID;
        slot->odd_rank = (int32_t)(seen - group->slots);
        slot->odd_bytes = seen->bytes;
        slot->odd_collective = seen->collective;
        for (int32_t s = 0; odd < 0 && first->bytes > 0 && s < group->num_ranks; s++) {
            memcpy((uint8_t *)slot->recv + (size_t)s * first->bytes, group->slots[s].send,
                   first->bytes);
        }
    }
    group->num_arrived = 0;
    (void)pthread_cond_broadcast(&group->changed);
}

/* Under the lock: the lowest rank that this round misses and that has left; -1 if none. */
static int32_t missing_for_ever(const struct group *group)
{
    for (int32_t r = 0; r < group->num_ranks; r++) {
        if (!group->slots[r].arrived && epf_load_relaxed_u32(&group->slots[r].left) != 0) {
            return r;
        }
    }
    return -1;
}

/* Under the lock, after a deadline: the missing rank to name, best one that did not itself come and
 * give up before. */
static int32_t never_came(const struct group *group, int32_t self)
{
    int32_t named = -1;
    for (int32_t r = 0; r < group->num_ranks; r++) {
        const struct slot *slot = &group->slots[r];
        if (!slot->arrived && r != self && (named < 0 || !slot->gave_up)) {
            named = r;
            if (!slot->gave_up) {
                break;
            }
        }
    }
    return named;
}

/* Under the lock, which the wait gives up: until the round is complete, or cannot be. */
static epf_status round_wait(epf_comm *comm, struct slot *own)
{
    struct group *group = group_of(comm);
    const uint64_t deadline_ns = epf_deadline_ns(comm);
    const struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                                      .tv_nsec = (long)(deadline_ns % 1000000000u)};
    int rc = 0;
    while (own->arrived) {
        const int32_t gone = missing_for_ever(group);
        if (gone < 0 && rc == 0) {
            rc = pthread_cond_timedwait(&group->changed, &group->lock, &deadline);
            continue;
        }
        own->arrived = false;
        group->num_arrived--;
        if (gone >= 0) {
            return EPF_FAIL(EPF_E_PEER, "rank %" PRId32 ": %s: rank %" PRId32 " has left the group",
                            comm->rank, epf_collective_name(own->collective), gone);
        }
        own->gave_up = true;
        return epf_collective_timeout(comm, own->collective, never_came(group, comm->rank),
                                      group->num_ranks - group->num_arrived - 1);
    }
    return own->status;
}

/* Under the lock: a rank that waits in a reset; -1 if none. */
static int32_t resetting(const struct group *group)
{
    for (int32_t r = 0; r < group->num_ranks; r++) {
        if (group->slots[r].arrived && group->slots[r].collective == EPF_COLLECTIVE_RESET) {
            return r;
        }
    }
    return -1;
}

/* Under the lock, for rank `self` that resets. */
static void send_others_home(struct group *group, int32_t self)
{
    for (int32_t r = 0; r < group->num_ranks; r++) {
        struct slot *slot = &group->slots[r];
        if (slot->arrived && slot->collective != EPF_COLLECTIVE_RESET) {
            slot->arrived = false;
            slot->status = EPF_E_STATE;
            slot->odd_rank = self;
            group->num_arrived--;
        }
    }
    (void)pthread_cond_broadcast(&group->changed);
}

static epf_status is_resetting(const epf_comm *comm, int32_t peer)
{
    return EPF_FAIL(EPF_E_STATE,
                    "rank %" PRId32 ": rank %" PRId32 " is resetting the group; reset it here",
                    comm->rank, peer);
}

static epf_status exchange(epf_comm *comm, uint32_t collective, const void *send, void *recv,
                           size_t bytes)
{
    struct group *group = group_of(comm);
    struct slot *own = &group->slots[comm->rank];
    (void)pthread_mutex_lock(&group->lock);
    const int32_t ahead = resetting(group);
    if (ahead >= 0 && collective != EPF_COLLECTIVE_RESET) {
        (void)pthread_mutex_unlock(&group->lock);
        return is_resetting(comm, ahead);
    }
    if (collective == EPF_COLLECTIVE_RESET) {
        send_others_home(group, comm->rank);
    }
    own->send = send;
    own->recv = recv;
    own->bytes = bytes;
    own->collective = collective;
    own->gave_up = false;
    own->arrived = true;
    group->num_arrived++;
    if (group->num_arrived == group->num_ranks) {
        round_complete(group);
    }
    const epf_status st = round_wait(comm, own);
    const struct slot seen = *own;
    (void)pthread_mutex_unlock(&group->lock);
    if (st == EPF_E_STATE) {
        return is_resetting(comm, seen.odd_rank);
    }
    if (st != EPF_E_INVALID) {
        return st;
    }
    return EPF_FAIL(EPF_E_INVALID,
                    "rank %" PRId32 " is in %s with %zu bytes while rank %" PRId32
                    " is in %s with %zu, must be equal on all ranks",
                    comm->rank, epf_collective_name(collective), bytes, seen.odd_rank,
                    epf_collective_name(seen.odd_collective), seen.odd_bytes);
}

static epf_status threads_all_gather(epf_comm *comm, const void *send, void *recv, size_t bytes)
{
    return exchange(comm, EPF_COLLECTIVE_GATHER, send, recv, bytes);
}

/* Rounds that failed were taken back, so meeting is all there is to do. */
static epf_status threads_reset(epf_comm *comm)
{
    return exchange(comm, EPF_COLLECTIVE_RESET, NULL, NULL, 0);
}

static epf_status window_allocate(const epf_comm *comm, uint64_t bytes,
                                  struct thread_window **window)
{
    const size_t parts_bytes = (size_t)comm->num_ranks * sizeof(uint8_t *);
    struct thread_window *w = epf_alloc(1, sizeof *w + parts_bytes);
    if (w == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "rank %" PRId32 ": no memory for a window's addresses",
                        comm->rank);
    }
    epf_status st;
    EPF_TRY_GOTO(epf_window_bytes_check(bytes), err);
    if (comm->rank == 0) {
        w->shared = epf_alloc(1, sizeof *w->shared);
        if (w->shared == NULL) {
            st = EPF_FAIL(EPF_E_NO_MEMORY, "rank 0: no memory for a window's reference count");
            goto err;
        }
        epf_store_relaxed_u32(&w->shared->num_windows, (uint32_t)comm->num_ranks);
    }
    EPF_TRY_GOTO(epf_part_map(comm, bytes, -1, true, &w->parts[comm->rank]), err);
    *window = w;
    return EPF_OK;
err:
    epf_free(w->shared);
    epf_free(w);
    return st;
}

static epf_status threads_window_create(epf_comm *comm, uint64_t bytes, epf_window **window)
{
    struct thread_window *w = NULL;
    epf_window_offer *offers = comm->scratch;
    epf_window_offer own = {.bytes = bytes};
    own.status = bytes == 0 ? EPF_OK : window_allocate(comm, bytes, &w);
    own.part = w == NULL ? NULL : w->parts[comm->rank];
    own.shared = w == NULL ? NULL : w->shared;

    epf_status st;
    EPF_TRY_GOTO(exchange(comm, EPF_COLLECTIVE_WINDOW, &own, offers, sizeof own), err);
    EPF_TRY_GOTO(epf_window_offers_check(offers, comm), err);

    for (int32_t r = 0; r < comm->num_ranks; r++) {
        w->parts[r] = offers[r].part;
    }
    w->shared = offers[0].shared;
    w->head.bytes = bytes;
    w->head.rank = comm->rank;
    w->head.num_ranks = comm->num_ranks;
    w->head.base = w->parts;
    *window = &w->head;
    return EPF_OK;
err:
    if (w != NULL) {
        epf_part_unmap(w->parts[comm->rank], bytes);
        epf_free(w->shared);
        epf_free(w);
    }
    return st;
}

static void threads_window_destroy(epf_comm *comm, epf_window *window)
{
    struct thread_window *w = (struct thread_window *)window;
    (void)comm;
    if (w == NULL) {
        return;
    }
    /* 2^32 - 1 is minus one: every window's last use comes before the last one unmaps. */
    if (epf_add_acq_rel_u32(&w->shared->num_windows, UINT32_MAX) == 1) {
        for (int32_t r = 0; r < w->head.num_ranks; r++) {
            epf_part_unmap(w->parts[r], w->head.bytes);
        }
        epf_free(w->shared);
    }
    epf_free(w);
}

static bool threads_peer_alive(epf_comm *comm, int32_t peer)
{
    return epf_load_acquire_u32(&group_of(comm)->slots[peer].left) == 0;
}

/* A thread does not die alone. */
static int32_t threads_find_dead(epf_comm *comm)
{
    (void)comm;
    return -1;
}

static void group_free(struct group *group)
{
    (void)pthread_cond_destroy(&group->changed);
    (void)pthread_mutex_destroy(&group->lock);
    epf_free(group);
}

static void threads_destroy(epf_comm *comm)
{
    struct group *group = group_of(comm);
    (void)pthread_mutex_lock(&group->lock);
    epf_store_release_u32(&group->slots[comm->rank].left, 1);
    const int32_t num_left = --group->num_handles;
    (void)pthread_cond_broadcast(&group->changed);
    (void)pthread_mutex_unlock(&group->lock);
    if (num_left == 0) {
        group_free(group);
    }
    epf_comm_head_release(comm);
    epf_free(comm);
}

static const epf_comm_ops threads_ops = {
    .name = "threads",
    .all_gather = threads_all_gather,
    .window_create = threads_window_create,
    .window_destroy = threads_window_destroy,
    .peer_alive = threads_peer_alive,
    .find_dead = threads_find_dead,
    .reset = threads_reset,
    .destroy = threads_destroy,
};

static epf_status group_create(int32_t num_ranks, struct group **group)
{
    struct group *g = epf_alloc(1, sizeof *g + (size_t)num_ranks * sizeof(struct slot));
    pthread_condattr_t attributes;
    if (g == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for a group of %" PRId32 " ranks", num_ranks);
    }
    int rc = pthread_condattr_init(&attributes);
    if (rc == 0) {
        (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        rc = pthread_cond_init(&g->changed, &attributes);
        (void)pthread_condattr_destroy(&attributes);
    }
    if (rc == 0) {
        rc = pthread_mutex_init(&g->lock, NULL);
        if (rc != 0) {
            (void)pthread_cond_destroy(&g->changed);
        }
    }
    if (rc != 0) {
        epf_free(g);
        return EPF_FAIL(EPF_E_DEVICE, "a mutex or condition cannot be made: %s", strerror(rc));
    }
    g->num_ranks = num_ranks;
    *group = g;
    return EPF_OK;
}

static epf_status handle_create(struct group *group, const epf_comm_config *config,
                                const epf_topology *topology, epf_comm **comm)
{
    struct thread_comm *c = epf_alloc(1, sizeof *c);
    if (c == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for the handle of rank %" PRId32, config->rank);
    }
    const epf_status st = epf_comm_head_init(&c->head, &threads_ops, config, topology);
    if (st != EPF_OK) {
        epf_free(c);
        return st;
    }
    (void)strcpy(c->head.origin, "threads of one process");
    c->group = group;
    group->num_handles++;
    *comm = &c->head;
    return EPF_OK;
}

epf_status epf_comm_create_threads(const epf_comm_config *config, epf_comm **comms)
{
    EPF_CHECK_ARG(comms, "comms is NULL");
    EPF_CHECK_ARG(config, "config is NULL");
    epf_comm_config own = *config;
    own.rank = 0;
    EPF_TRY(epf_comm_config_check(&own));
    memset(comms, 0, (size_t)own.num_ranks * sizeof *comms);

    struct group *group = NULL;
    EPF_TRY(group_create(own.num_ranks, &group));
    epf_topology *topology = epf_comm_topology(&own); /* once: it is many files */
    epf_status st = EPF_OK;
    for (own.rank = 0; own.rank < own.num_ranks && st == EPF_OK; own.rank++) {
        st = handle_create(group, &own, topology, &comms[own.rank]);
    }
    epf_topology_free(topology);
    if (st == EPF_OK) {
        return EPF_OK;
    }
    if (group->num_handles == 0) {
        group_free(group);
    }
    for (int32_t r = 0; r < own.num_ranks; r++) {
        epf_comm_destroy(comms[r]);
        comms[r] = NULL;
    }
    return st;
}
