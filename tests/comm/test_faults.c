/* test_faults: a rank that is killed or stopped at any moment becomes an error on all others, in time. */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "bodies.h"
#include "comm/epf_launch.h"
#include "comm/epf_wait.h"
#include "core/epf_atomic.h"

#define MS ((uint64_t)1000000u)

enum { NUM_RANKS = 4, VICTIM = 2 };

static void sleep_ms(uint64_t ms)
{
    const struct timespec nap = {.tv_sec = (time_t)(ms / 1000),
                                 .tv_nsec = (long)(ms % 1000 * 1000000)};
    (void)nanosleep(&nap, NULL);
}

/* How the victim goes, and what the others are doing meanwhile. */
enum activity { IN_GATHER, IN_WAIT, IN_WINDOWS, IN_NOTHING };

struct plan {
    enum activity activity;
    int32_t victim;
};

/* Repeats the activity until it fails; returns the error and how long the last try took. */
static epf_status work_until_error(epf_comm *comm, enum activity activity, double *seconds)
{
    static const uint64_t never;
    const epf_wait_watch watch = {.comm = comm, .timeout_ns = comm->timeout_ns};
    epf_wait_report report;
    epf_wait_code code;
    epf_window *window;
    for (;;) {
        const uint64_t begin = epf_now_ns();
        epf_status st = EPF_OK;
        switch (activity) {
        case IN_WAIT:
            code = epf_wait_u64(&watch, &never, 1, EPF_WAIT_ANY_RANK, &report);
            st = epf_wait_status(code);
            CHECK(code != EPF_WAIT_PEER_DEAD || report.peer == VICTIM, "%d", (int)report.peer);
            break;
        case IN_WINDOWS:
            st = epf_comm_window_create(comm, 1 << 16, &window);
            if (st == EPF_OK) {
                st = epf_comm_barrier(comm);
                epf_comm_window_destroy(comm, window);
            }
            break;
        default:
            st = epf_comm_barrier(comm);
        }
        *seconds = seconds_since(begin);
        if (st != EPF_OK) {
            return st;
        }
    }
}

static int main_killed(epf_comm *comm, void *context)
{
    const struct plan *plan = context;
    const int descriptors = count_descriptors();
    epf_window *window; /* the time of death, on the one clock of this machine */
    double seconds;
    CHECK_OK(epf_comm_window_create(comm, 64, &window));
    uint64_t *died_ns = (void *)window->base[0];
    CHECK_OK(epf_comm_barrier(comm));
    if (comm->rank == VICTIM) {
        sleep_ms(20 + 7 * (uint64_t)plan->activity);
        if (plan->activity == IN_WINDOWS || plan->activity == IN_GATHER) {
            /* in the midst of it: another thread's signal would do the same */
            const struct timespec soon = {.tv_sec = 0, .tv_nsec = 3000000};
            timer_t timer;
            struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
            const struct itimerspec when = {.it_value = soon};
            epf_store_release_u64(died_ns, epf_now_ns() + 3 * MS);
            CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer");
            CHECK(timer_settime(timer, 0, &when, NULL) == 0, "timer");
            (void)work_until_error(comm, plan->activity, &seconds);
        }
        epf_store_release_u64(died_ns, epf_now_ns());
        (void)kill(getpid(), SIGKILL);
    }
    const epf_status st = work_until_error(comm, plan->activity, &seconds);
    const double noticed = seconds_since(epf_load_acquire_u64(died_ns));
    CHECK(st == EPF_E_PEER, "status %d", (int)st);
    CHECK(noticed < 0.1, "noticed after %.3f s", noticed);
    while (epf_comm_find_dead(comm) != VICTIM) { /* looks are 2 ms apart */
        CHECK(seconds_since(epf_load_acquire_u64(died_ns)) < 1.0, "not found dead");
        sleep_ms(1);
    }
    CHECK(!epf_comm_peer_alive(comm, VICTIM), "alive");
    CHECK_STATUS(epf_comm_reset(comm), EPF_E_PEER);
    epf_comm_window_destroy(comm, window);
    CHECK(count_descriptors() == descriptors, "descriptors left");
    return 0;
}

static void test_killed(void)
{
    for (int activity = IN_GATHER; activity <= IN_WINDOWS; activity++) {
        for (int repeat = 0; repeat < 4; repeat++) {
            struct plan plan = {.activity = (enum activity)activity};
            epf_launch_result results[NUM_RANKS];
            epf_comm_config config;
            epf_comm_config_init(&config);
            config.num_ranks = NUM_RANKS;
            config.timeout_ns = 20000 * MS;
            CHECK_STATUS(epf_launch(&config, 5000 * MS, main_killed, &plan, results), EPF_E_PEER);
            CHECK(strstr(epf_error_text(), "rank 2 was ended by signal 9") != NULL, "text");
            for (int r = 0; r < NUM_RANKS; r++) {
                CHECK(results[r].killed == false, "rank %d did not end by itself", r);
                CHECK(r == VICTIM ? results[r].signal == SIGKILL : results[r].exit_code == 0,
                      "rank %d", r);
            }
        }
    }
}

/*
 * A stopped rank: a timeout at the configured time; continued, it and the others meet in reset() and
 * all goes on.
 */
static int main_stopped(epf_comm *comm, void *context)
{
    const struct plan *plan = context;
    epf_window *window;
    double seconds;
    CHECK_OK(epf_comm_window_create(comm, 64, &window));
    uint64_t *pid = (void *)window->base[0];
    if (comm->rank == VICTIM) {
        epf_store_release_u64(pid, (uint64_t)getpid());
    }
    CHECK_OK(epf_comm_barrier(comm));
    if (comm->rank == VICTIM) {
        const epf_status st = work_until_error(comm, plan->activity, &seconds);
        CHECK(st == EPF_E_TIMEOUT || st == EPF_E_STATE, "status %d", (int)st);
    } else {
        if (comm->rank == 0) {
            sleep_ms(30);
            CHECK(kill((pid_t)epf_load_acquire_u64(pid), SIGSTOP) == 0, "stop");
        }
        const epf_status st = work_until_error(comm, plan->activity, &seconds);
        CHECK(st == EPF_E_TIMEOUT, "status %d", (int)st);
        CHECK(seconds >= 0.5 && seconds < 0.55, "timed out after %.3f s", seconds);
        CHECK(epf_comm_peer_alive(comm, VICTIM), "stopped is not dead");
        CHECK(plan->activity != IN_GATHER ||
                  strstr(epf_error_text(), "rank 2 did not come") != NULL,
              "text");
        if (comm->rank == 0) {
            sleep_ms(100);
            CHECK(kill((pid_t)epf_load_acquire_u64(pid), SIGCONT) == 0, "continue");
        }
    }
    /* Ranks come here at different times, and may have to try again. */
    for (int tries = 0; epf_comm_reset(comm) != EPF_OK; tries++) {
        CHECK(tries < 4, "no reset");
    }
    for (int i = 0; i < 100; i++) {
        CHECK_OK(epf_comm_barrier(comm));
    }
    body_window(comm, NULL);
    epf_comm_window_destroy(comm, window);
    return 0;
}

static void test_stopped(void)
{
    for (int activity = IN_GATHER; activity <= IN_WAIT; activity++) {
        struct plan plan = {.activity = (enum activity)activity};
        epf_launch_result results[NUM_RANKS];
        epf_comm_config config;
        epf_comm_config_init(&config);
        config.num_ranks = NUM_RANKS;
        config.timeout_ns = 500 * MS;
        CHECK_OK(epf_launch(&config, 5000 * MS, main_stopped, &plan, results));
    }
}

/* Leaving in order is no death, but those who still need the rank are told. */
static int main_leaves(epf_comm *comm, void *context)
{
    static const uint64_t never;
    (void)context;
    CHECK_OK(epf_comm_barrier(comm));
    if (comm->rank == VICTIM) {
        return 0;
    }
    const epf_wait_watch watch = {.comm = comm, .timeout_ns = 60000 * MS};
    const epf_wait_watch brief = {.comm = comm, .timeout_ns = 100 * MS};
    epf_wait_report report;
    CHECK(epf_wait_u64(&watch, &never, 1, VICTIM, &report) == EPF_WAIT_PEER_DEAD, "left");
    CHECK(report.peer == VICTIM && report.waited_ns < 1000 * MS, "report");
    CHECK(epf_wait_u64(&brief, &never, 1, EPF_WAIT_ANY_RANK, &report) == EPF_WAIT_TIMEOUT, "any");
    CHECK(epf_comm_find_dead(comm) == -1, "nobody died");
    CHECK_STATUS(epf_comm_barrier(comm), EPF_E_PEER);
    CHECK(strstr(epf_error_text(), "has left the group") != NULL, "text");
    return 0;
}

/* Many workers poll at once, as in an operator: 2 ms between looks is for all of them together. */
static void *poll_peers(void *argument)
{
    epf_comm *comm = argument;
    while (epf_comm_find_dead(comm) < 0) {
        sleep_ms(1);
    }
    return NULL;
}

static int main_workers(epf_comm *comm, void *context)
{
    pthread_t threads[4];
    (void)context;
    CHECK_OK(epf_comm_barrier(comm));
    if (comm->rank == VICTIM) {
        sleep_ms(50);
        (void)kill(getpid(), SIGKILL);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, poll_peers, comm) == 0, "thread");
    }
    CHECK_STATUS(epf_comm_barrier(comm), EPF_E_PEER);
    for (int i = 0; i < 4; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    return 0;
}

int main(void)
{
    epf_launch_result results[NUM_RANKS];
    epf_comm_config config;
    const int descriptors = count_descriptors();
    test_killed();
    test_stopped();
    epf_comm_config_init(&config);
    config.num_ranks = NUM_RANKS;
    config.timeout_ns = 20000 * MS;
    CHECK_OK(epf_launch(&config, 5000 * MS, main_leaves, NULL, results));
    CHECK_STATUS(epf_launch(&config, 5000 * MS, main_workers, NULL, results), EPF_E_PEER);
    CHECK(strstr(epf_error_text(), "rank 2 was ended by signal 9") != NULL, "text");
    for (int r = 0; r < NUM_RANKS; r++) {
        CHECK(r == VICTIM || results[r].exit_code == 0, "rank %d", r);
    }
    CHECK(count_descriptors() == descriptors, "descriptors left behind");
    return 0;
}
