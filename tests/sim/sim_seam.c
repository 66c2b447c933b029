/* sim_seam.c: threads, locks, time and the machine, as the simulated sources see them. */
#include "sim_seam.h"

#include <errno.h>

#include "base/epf_error.h"
#include "comm/epf_place.h"
#include "sim_inside.h"

/* ---- locks: the owner's index + 1 in the first word of the system's own struct ---- */

static int32_t *owner_of(pthread_mutex_t *mutex)
{
    return (int32_t *)(void *)mutex;
}

int sim_mutex_init(pthread_mutex_t *mutex, const void *attributes)
{
    (void)attributes;
    *owner_of(mutex) = 0;
    return 0;
}

int sim_mutex_destroy(pthread_mutex_t *mutex)
{
    return *owner_of(mutex) == 0 ? 0 : EBUSY;
}

int sim_mutex_lock(pthread_mutex_t *mutex)
{
    sim_point();
    while (sim.current != NULL && *owner_of(mutex) != 0) {
        sim_block(mutex, UINT64_MAX);
    }
    if (sim.current != NULL) {
        *owner_of(mutex) = sim.current->index + 1;
        sim.current->num_held++;
    }
    return 0;
}

static void unlock(pthread_mutex_t *mutex)
{
    if (sim.current == NULL) {
        return;
    }
    if (*owner_of(mutex) != sim.current->index + 1) {
        sim_fail("a mutex is unlocked by who did not lock it");
    }
    sim_drain();
    *owner_of(mutex) = 0;
    sim.current->num_held--;
    sim_wake(mutex, true);
}

int sim_mutex_unlock(pthread_mutex_t *mutex)
{
    unlock(mutex);
    sim_point();
    return 0;
}

int sim_cond_init(pthread_cond_t *cond, const void *attributes)
{
    (void)cond;
    (void)attributes;
    return 0;
}

int sim_cond_destroy(pthread_cond_t *cond)
{
    (void)cond;
    return 0;
}

static int wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns)
{
    bool timed_out;
    if (sim.current == NULL) {
        return EINVAL;
    }
    unlock(mutex);
    sim_block(cond, until_ns);
    timed_out = sim.current->timed_out;
    (void)sim_mutex_lock(mutex);
    return timed_out ? ETIMEDOUT : 0;
}

int sim_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    return wait_until(cond, mutex, UINT64_MAX);
}

int sim_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
{
    return wait_until(cond, mutex,
                      (uint64_t)until->tv_sec * 1000000000u + (uint64_t)until->tv_nsec);
}

int sim_cond_signal(pthread_cond_t *cond)
{
    sim_wake(cond, false);
    return 0;
}

int sim_cond_broadcast(pthread_cond_t *cond)
{
    sim_wake(cond, true);
    return 0;
}

/* ---- threads: belong to the rank of who starts them ---- */

int sim_thread_create(pthread_t *thread, const void *attributes, void *(*function)(void *),
                      void *argument)
{
    (void)attributes;
    *thread = (pthread_t)sim_spawn(sim.current->rank, function, argument)->index;
    sim_commit_all(sim.current);
    sim_point();
    return 0;
}

int sim_thread_join(pthread_t thread, void **result)
{
    sim_fiber *const f = sim.fibers[thread];
    (void)result;
    while (f->state != SIM_DONE) {
        sim_block(f, UINT64_MAX);
    }
    return 0;
}

/* ---- time ---- */

int sim_clock_gettime(clockid_t clock, struct timespec *time)
{
    (void)clock;
    time->tv_sec = (time_t)(sim.now_ns / 1000000000u);
    time->tv_nsec = (long)(sim.now_ns % 1000000000u);
    return 0;
}

int sim_nanosleep(const struct timespec *duration, struct timespec *left)
{
    uint64_t ns = (uint64_t)duration->tv_sec * 1000000000u + (uint64_t)duration->tv_nsec;
    (void)left;
    if (epf_rng_below(&sim.rng, 2) == 0) {
        ns >>= epf_rng_below(&sim.rng, 12); /* a signal came */
    }
    sim_sleep(ns);
    return 0;
}

enum { PAUSE_NS = 1000, YIELD_NS = 20000 };

int sim_yield(void)
{
    const int32_t most_ns = YIELD_NS >> epf_rng_below(&sim.rng, 8);
    sim_sleep((uint64_t)epf_rng_range(&sim.rng, 0, most_ns));
    return 0;
}

void sim_pause(void)
{
    sim_sleep((uint64_t)epf_rng_range(&sim.rng, 0, PAUSE_NS));
}

/* ---- the machine: one CPU of one node; nothing is read, nothing is pinned ---- */

epf_status epf_topology_read(const char *root, epf_topology **topology)
{
    static epf_topology one;
    (void)root;
    one.num_nodes = 1;
    *topology = &one;
    return EPF_OK;
}

void epf_topology_free(epf_topology *topology)
{
    (void)topology;
}

epf_status epf_place_rank(const epf_topology *topology, int32_t rank, int32_t num_ranks,
                          epf_place *place)
{
    static int32_t cpu;
    (void)topology;
    (void)rank;
    (void)num_ranks;
    place->node = 0;
    place->num_cores = 1;
    place->num_cpus = 1;
    place->cpus = &cpu;
    return EPF_OK;
}

void epf_place_release(epf_place *place)
{
    (void)place;
}

epf_status epf_place_pin(int32_t cpu)
{
    (void)cpu;
    return EPF_OK;
}

epf_status epf_place_bind_memory(void *memory, uint64_t bytes, int32_t node)
{
    (void)memory;
    (void)bytes;
    (void)node;
    return EPF_OK;
}
