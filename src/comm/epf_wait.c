/*
 * epf_wait.c: the bounded wait loop.
 *
 *   waited so far    what it does                       why
 *   up to ~2 us      looks again after a pause          a signal under way arrives now
 *   up to 50 us      looks again after sched_yield()    whoever must signal may want this core
 *   longer           sleeps an eighth of that time,     at most 12 % late, and idle ranks cost
 *                    20 us .. 1 ms                      next to nothing
 *
 * Looks at peers are 5 ms apart, so a death is noticed within that and the time of a sleep.
 */
#include "comm/epf_wait.h"

#include <sched.h>
#include <time.h>

#include "base/epf_clock.h"

#if defined(EPFUSE_SIM)
enum { SPINS = 1 }; /* a pause is a choice of who runs: more of them choose nothing new */
#else
enum { SPINS = 64 }; /* about 2 us of pauses */
#endif

enum {
    YIELD_NS = 50000,       /* then yields, free where nobody else wants the core   */
    SLEEP_LEAST_NS = 20000, /* then sleeps of an eighth of the time waited so far   */
    SLEEP_MOST_NS = 1000000,
    LIVENESS_NS = 5000000 /* between looks at the peers                           */
};

struct wait {
    const epf_wait_watch *watch;
    bool (*ready)(void *context);
    void *context;
    int32_t source;
    int32_t dead; /* the peer that ended the wait, or -1 */
    uint64_t begin_ns;
    uint64_t look_ns; /* next look at the peers              */
};

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool aborted(const epf_wait_watch *watch)
{
    return watch->abort_word != NULL && epf_load_acquire_sys_u32(watch->abort_word) != 0;
}

static int32_t find_gone(const struct wait *wait)
{
    epf_comm *comm = wait->watch->comm;
    if (comm == NULL) {
        return -1;
    }
    if (wait->source >= 0 && !epf_comm_peer_alive(comm, wait->source)) {
        return wait->source;
    }
    return epf_comm_find_dead(comm);
}

/* Gives the core away for a time that grows with the wait. */
static void rest(uint64_t waited_ns, uint64_t left_ns)
{
    uint64_t sleep_ns = waited_ns / 8;
    if (waited_ns < YIELD_NS) {
        (void)sched_yield();
        return;
    }
    sleep_ns = sleep_ns < SLEEP_LEAST_NS ? SLEEP_LEAST_NS : sleep_ns;
    sleep_ns = sleep_ns > SLEEP_MOST_NS ? SLEEP_MOST_NS : sleep_ns;
    sleep_ns = sleep_ns > left_ns ? left_ns : sleep_ns;
    const struct timespec duration = {.tv_sec = 0, .tv_nsec = (long)sleep_ns};
    (void)nanosleep(&duration, NULL); /* an interrupted sleep is a short one */
}

static epf_wait_code wait_loop(struct wait *wait, uint64_t *waited_ns)
{
    const epf_wait_watch *watch = wait->watch;
    *waited_ns = 0;
    for (int spin = 0; spin < SPINS; spin++) {
        if (wait->ready(wait->context)) {
            return EPF_WAIT_READY;
        }
        if (aborted(watch)) {
            return EPF_WAIT_ABORTED;
        }
        cpu_pause();
    }
    for (;;) {
        epf_wait_code verdict = EPF_WAIT_READY;
        const uint64_t now = epf_now_ns();
        *waited_ns = now - wait->begin_ns;
        if (aborted(watch)) {
            verdict = EPF_WAIT_ABORTED;
        } else if (*waited_ns >= watch->timeout_ns) {
            verdict = EPF_WAIT_TIMEOUT;
        } else if (now >= wait->look_ns) {
            wait->look_ns = now + LIVENESS_NS;
            wait->dead = find_gone(wait);
            verdict = wait->dead >= 0 ? EPF_WAIT_PEER_DEAD : EPF_WAIT_READY;
        }
        /* After the verdict: what came before an abort, a death or the deadline counts. */
        if (wait->ready(wait->context)) {
            return EPF_WAIT_READY;
        }
        if (verdict != EPF_WAIT_READY) {
            return verdict;
        }
        rest(*waited_ns, watch->timeout_ns - *waited_ns);
    }
}

static epf_wait_code wait_run(struct wait *wait, epf_wait_report *report)
{
    uint64_t waited_ns;
    wait->dead = -1;
    wait->begin_ns = epf_now_ns();
    wait->look_ns = wait->begin_ns + LIVENESS_NS;
    const epf_wait_code code = wait_loop(wait, &waited_ns);
    if (code != EPF_WAIT_READY && report != NULL) {
        report->peer = code == EPF_WAIT_PEER_DEAD ? wait->dead : -1;
        report->seen = 0;
        report->expected = 0;
        report->waited_ns = waited_ns;
    }
    return code;
}

struct probe_u32 {
    const uint32_t *counter;
    uint32_t at_least;
    uint32_t seen;
};

struct probe_u64 {
    const uint64_t *counter;
    uint64_t at_least;
    uint64_t seen;
};

static bool ready_u32(void *context)
{
    struct probe_u32 *probe = context;
    probe->seen = epf_load_acquire_sys_u32(probe->counter);
    return (int32_t)(probe->seen - probe->at_least) >= 0;
}

static bool ready_u64(void *context)
{
    struct probe_u64 *probe = context;
    probe->seen = epf_load_acquire_sys_u64(probe->counter);
    return probe->seen >= probe->at_least;
}

epf_wait_code epf_wait_slow_u32(const epf_wait_watch *watch, const uint32_t *counter,
                                uint32_t at_least, int32_t source, epf_wait_report *report)
{
    struct probe_u32 probe = {.counter = counter, .at_least = at_least};
    struct wait wait = {.watch = watch, .ready = ready_u32, .context = &probe, .source = source};
    const epf_wait_code code = wait_run(&wait, report);
    if (code != EPF_WAIT_READY && report != NULL) {
        report->seen = probe.seen;
        report->expected = at_least;
    }
    return code;
}

epf_wait_code epf_wait_slow_u64(const epf_wait_watch *watch, const uint64_t *counter,
                                uint64_t at_least, int32_t source, epf_wait_report *report)
{
    struct probe_u64 probe = {.counter = counter, .at_least = at_least};
    struct wait wait = {.watch = watch, .ready = ready_u64, .context = &probe, .source = source};
    const epf_wait_code code = wait_run(&wait, report);
    if (code != EPF_WAIT_READY && report != NULL) {
        report->seen = probe.seen;
        report->expected = at_least;
    }
    return code;
}

epf_wait_code epf_wait_until(const epf_wait_watch *watch, bool (*ready)(void *context),
                             void *context, epf_wait_report *report)
{
    struct wait wait = {
        .watch = watch, .ready = ready, .context = context, .source = EPF_WAIT_ANY_RANK};
    return wait_run(&wait, report);
}

epf_status epf_wait_status(epf_wait_code code)
{
    switch (code) {
    case EPF_WAIT_READY:
        return EPF_OK;
    case EPF_WAIT_TIMEOUT:
        return EPF_E_TIMEOUT;
    default:
        return EPF_E_PEER;
    }
}
