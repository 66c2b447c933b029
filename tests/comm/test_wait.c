/* test_wait: every way a wait can end, when, and what it reports. */
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/epf_clock.h"
#include "check.h"
#include "comm/epf_wait.h"

#define MS ((uint64_t)1000000u)

/* A provider of which rank 2 can be told to die and rank 1 to leave. */
static int32_t dead_rank;
static uint32_t left_rank;

static bool fake_alive(epf_comm *comm, int32_t peer)
{
    (void)comm;
    return (uint32_t)peer != epf_load_relaxed_u32(&left_rank);
}

static int32_t fake_dead(epf_comm *comm)
{
    (void)comm;
    return dead_rank;
}

static const epf_comm_ops fake_ops = {
    .name = "fake", .peer_alive = fake_alive, .find_dead = fake_dead};
static epf_comm fake = {.ops = &fake_ops, .rank = 0, .num_ranks = 3};

struct signal {
    uint64_t counter;
    uint32_t counter_u32;
    uint32_t abort_word;
    uint64_t payload;
    uint64_t after_ns;
    int what; /* 0: counters, 1: abort */
};

static void *signaller(void *argument)
{
    struct signal *s = argument;
    const struct timespec nap = {.tv_sec = 0, .tv_nsec = (long)s->after_ns};
    (void)nanosleep(&nap, NULL);
    s->payload = 42; /* plain: the release below publishes it, and a race would be reported */
    if (s->what == 0) {
        epf_store_release_u64(&s->counter, 7);
        epf_store_release_u32(&s->counter_u32, 3);
    } else {
        epf_store_release_u32(&s->abort_word, 1);
    }
    return NULL;
}

static void test_satisfied(void)
{
    const uint64_t counter = 5;
    const uint32_t wrapped = 2;
    const uint32_t raised = 1;
    const epf_wait_watch watch = {.abort_word = &raised, .timeout_ns = 0};
    CHECK(epf_wait_u64(&watch, &counter, 5, -1, NULL) == EPF_WAIT_READY, "equal");
    CHECK(epf_wait_u64(&watch, &counter, 0, -1, NULL) == EPF_WAIT_READY, "past");
    CHECK(epf_wait_u32(&watch, &wrapped, UINT32_MAX - 3, -1, NULL) == EPF_WAIT_READY, "wrapped");
    CHECK(epf_wait_u64(&watch, &counter, 6, -1, NULL) == EPF_WAIT_ABORTED, "abort");
}

static void test_signals(void)
{
    for (uint64_t after = 0; after <= 40 * MS; after = after == 0 ? MS / 100 : after * 4) {
        struct signal s = {.after_ns = after};
        const epf_wait_watch watch = {.timeout_ns = 20000 * MS, .abort_word = &s.abort_word};
        pthread_t thread;
        s.counter_u32 = UINT32_MAX - 1;
        CHECK(pthread_create(&thread, NULL, signaller, &s) == 0, "thread");
        CHECK(epf_wait_u64(&watch, &s.counter, 7, -1, NULL) == EPF_WAIT_READY, "u64");
        CHECK(s.payload == 42, "payload");
        CHECK(epf_wait_u32(&watch, &s.counter_u32, 3, -1, NULL) == EPF_WAIT_READY, "u32");
        (void)pthread_join(thread, NULL);

        struct signal a = {.after_ns = after, .what = 1};
        const epf_wait_watch watch_a = {.timeout_ns = 20000 * MS, .abort_word = &a.abort_word};
        CHECK(pthread_create(&thread, NULL, signaller, &a) == 0, "thread");
        CHECK(epf_wait_u64(&watch_a, &a.counter, 7, -1, NULL) == EPF_WAIT_ABORTED, "abort");
        CHECK(a.payload == 42, "what came before the abort is seen");
        (void)pthread_join(thread, NULL);
    }
}

static void test_timeout(void)
{
    const uint64_t counter = 3;
    const uint32_t counter_u32 = 4;
    static const uint64_t timeouts[] = {1, 5 * MS, 100 * MS, 500 * MS};
    for (size_t i = 0; i < sizeof timeouts / sizeof timeouts[0]; i++) {
        epf_wait_report report;
        struct rusage before;
        struct rusage after;
        const epf_wait_watch watch = {.timeout_ns = timeouts[i]};
        (void)getrusage(RUSAGE_THREAD, &before);
        CHECK(epf_wait_u64(&watch, &counter, 9, -1, &report) == EPF_WAIT_TIMEOUT, "timeout");
        (void)getrusage(RUSAGE_THREAD, &after);
        CHECK(report.peer == -1 && report.seen == 3 && report.expected == 9, "report");
        CHECK(report.waited_ns >= timeouts[i], "too early");
        CHECK(report.waited_ns < timeouts[i] + timeouts[i] / 10 + 20 * MS, "waited %zu ns of %zu",
              (size_t)report.waited_ns, (size_t)timeouts[i]);
        const double cpu = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec +
                                    after.ru_stime.tv_sec - before.ru_stime.tv_sec) +
                           (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec +
                                    after.ru_stime.tv_usec - before.ru_stime.tv_usec) *
                               1e-6;
        CHECK(timeouts[i] < 500 * MS || cpu < 0.1, "%.3f s of CPU burnt", cpu);
    }
    epf_wait_report report;
    const epf_wait_watch watch = {.timeout_ns = MS};
    CHECK(epf_wait_u32(&watch, &counter_u32, 5, -1, &report) == EPF_WAIT_TIMEOUT, "u32");
    CHECK(report.seen == 4 && report.expected == 5, "report");
}

static void test_peers(void)
{
    const uint64_t counter = 0;
    const epf_wait_watch watch = {.comm = &fake, .timeout_ns = 5000 * MS};
    epf_wait_report report;
    dead_rank = 2;
    epf_store_relaxed_u32(&left_rank, 99);
    CHECK(epf_wait_u64(&watch, &counter, 1, 1, &report) == EPF_WAIT_PEER_DEAD, "dead");
    CHECK(report.peer == 2 && report.waited_ns < 100 * MS, "peer %d, %zu ns", (int)report.peer,
          (size_t)report.waited_ns);
    dead_rank = -1;
    epf_store_relaxed_u32(&left_rank, 1);
    CHECK(epf_wait_u64(&watch, &counter, 1, 1, &report) == EPF_WAIT_PEER_DEAD, "left");
    CHECK(report.peer == 1, "peer %d", (int)report.peer);
    const epf_wait_watch brief = {.comm = &fake, .timeout_ns = 50 * MS};
    CHECK(epf_wait_u64(&brief, &counter, 1, 2, &report) == EPF_WAIT_TIMEOUT, "others may leave");
    CHECK(epf_wait_u64(&brief, &counter, 1, EPF_WAIT_ANY_RANK, &report) == EPF_WAIT_TIMEOUT, "any");
    CHECK(report.peer == -1, "nobody in particular");
}

static bool third_time(void *context)
{
    return ++*(int *)context >= 200;
}

static bool never(void *context)
{
    (void)context;
    return false;
}

int main(void)
{
    int calls = 0;
    const epf_wait_watch watch = {.timeout_ns = 2000 * MS};
    const epf_wait_watch brief = {.timeout_ns = 10 * MS};
    test_satisfied();
    test_signals();
    test_timeout();
    test_peers();
    CHECK(epf_wait_until(&watch, third_time, &calls, NULL) == EPF_WAIT_READY && calls == 200, "%d",
          calls);
    CHECK(epf_wait_until(&brief, never, NULL, NULL) == EPF_WAIT_TIMEOUT, "never");
    CHECK(epf_wait_status(EPF_WAIT_READY) == EPF_OK, "status");
    CHECK(epf_wait_status(EPF_WAIT_TIMEOUT) == EPF_E_TIMEOUT, "status");
    CHECK(epf_wait_status(EPF_WAIT_ABORTED) == EPF_E_PEER, "status");
    CHECK(epf_wait_status(EPF_WAIT_PEER_DEAD) == EPF_E_PEER, "status");
    return 0;
}
