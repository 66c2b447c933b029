/*
 * test_join_alloc: each allocation of two ranks that form a group fails in turn, by callback and by rendezvous:
 * both ranks come back in time, each with a group or an error of its own, and no descriptor is left.
 */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "check.h"
#include "comm/epf_join.h"

#define TIMEOUT_NS UINT64_C(300000000)

enum { NUM_RANKS = 2, MOST_ALLOCATIONS = 200 };

typedef struct formation {
    bool by_rendezvous;
    pthread_barrier_t meet; /* does not allocate, and is not part of what is tested */
    bool was_hit;
    int num_hits;
} formation;

static int gather(void *context, const void *send, void *recv, size_t bytes)
{
    return epf_comm_all_gather(context, send, recv, bytes) == EPF_OK ? 0 : 17;
}

static epf_status form(epf_comm *threads, const formation *f, uint64_t nth, epf_comm **comm)
{
    epf_comm_config config;
    char job[64];
    epf_comm_config_init(&config);
    config.rank = threads->rank;
    config.num_ranks = threads->num_ranks;
    config.timeout_ns = TIMEOUT_NS;
    if (!f->by_rendezvous) {
        return epf_comm_create_callback(&config, gather, threads, comm);
    }
    (void)snprintf(job, sizeof job, "join alloc %ld %d", (long)getpid(), (int)nth);
    return epf_comm_create_rendezvous(&config, job, comm);
}

/* Allocation `nth` of both ranks together fails. */
static void form_once(epf_comm *threads, formation *f, uint64_t nth)
{
    epf_comm *comm = NULL;
    const uint64_t begin_ns = epf_now_ns();
    const epf_status st = form(threads, f, nth, &comm);
    CHECK((comm != NULL) == (st == EPF_OK), "a group and status %d", (int)st);
    CHECK(seconds_since(begin_ns) < 3 * (double)TIMEOUT_NS * 1e-9 + TIMEOUT_SLACK, "%.3f s",
          seconds_since(begin_ns));
    (void)pthread_barrier_wait(&f->meet);
    if (threads->rank == 0) {
        f->was_hit = epf_alloc_count() >= nth;
        f->num_hits += f->was_hit ? 1 : 0;
        epf_alloc_fail_at(0);
    }
    (void)pthread_barrier_wait(&f->meet);
    CHECK(st == EPF_OK || (f->was_hit && (st == EPF_E_NO_MEMORY || st == EPF_E_PEER ||
                                          st == EPF_E_TIMEOUT || st == EPF_E_STATE)),
          "allocation %d: status %d: %s", (int)nth, (int)st, epf_error_text());
    epf_comm_destroy(comm);
}

static void body(epf_comm *threads, void *context)
{
    formation *f = context;
    for (uint64_t n = 1; n < MOST_ALLOCATIONS; n++) {
        (void)pthread_barrier_wait(&f->meet);
        if (!f->was_hit) {
            break;
        }
        if (threads->rank == 0) {
            epf_alloc_fail_at(n);
        }
        (void)pthread_barrier_wait(&f->meet);
        form_once(threads, f, n);
    }
    (void)pthread_barrier_wait(&f->meet);
    CHECK(!f->was_hit, "no end of allocations");
}

int main(void)
{
    int num_hits = 0;
    for (int i = 0; i < 2; i++) {
        formation f = {.by_rendezvous = i == 1, .was_hit = true};
        const int descriptors = count_descriptors();
        CHECK(pthread_barrier_init(&f.meet, NULL, NUM_RANKS) == 0, "barrier");
        run_threads(NUM_RANKS, TIMEOUT_NS, body, &f);
        (void)pthread_barrier_destroy(&f.meet);
        CHECK(f.num_hits > 5, "only %d allocations", f.num_hits);
        CHECK(count_descriptors() == descriptors, "descriptors left");
        num_hits += f.num_hits;
    }
    printf("%d allocations failed in turn\n", num_hits);
    return 0;
}
