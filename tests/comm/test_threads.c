/* test_threads: groups of threads do all that a group must, alone and many at once. */
#include <pthread.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "bodies.h"

#define SECOND ((uint64_t)1000000000u)

static void test_arguments(void)
{
    epf_comm *comms[2];
    epf_comm_config config;
    epf_comm_config_init(&config);
    CHECK(config.num_ranks == 1 && config.timeout_ns == EPF_COMM_TIMEOUT_NS, "defaults");
    CHECK_STATUS(epf_comm_create_threads(NULL, comms), EPF_E_INVALID);
    CHECK_STATUS(epf_comm_create_threads(&config, NULL), EPF_E_INVALID);
    const int32_t bad[] = {0, -1, EPF_COMM_MAX_RANKS + 1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        config.num_ranks = bad[i];
        CHECK_STATUS(epf_comm_create_threads(&config, comms), EPF_E_INVALID);
        CHECK(strstr(epf_error_text(), "num_ranks") != NULL, "text");
    }
    config.num_ranks = 2;
    config.timeout_ns = 0;
    CHECK_STATUS(epf_comm_create_threads(&config, comms), EPF_E_INVALID);
    CHECK_STATUS(epf_comm_all_gather(NULL, comms, comms, 1), EPF_E_INVALID);
    CHECK_STATUS(epf_comm_reset(NULL), EPF_E_INVALID);
    epf_comm_destroy(NULL);
    config.timeout_ns = UINT64_MAX; /* must not wrap */
    config.num_ranks = 1;
    CHECK_OK(epf_comm_create_threads(&config, comms));
    CHECK_OK(epf_comm_barrier(comms[0]));
    epf_comm_destroy(comms[0]);
}

/* Every allocation of creation may fail; nothing is left and nothing is half made. */
static void test_failing_creation(void)
{
    epf_comm *comms[3];
    epf_comm_config config;
    epf_comm_config_init(&config);
    config.num_ranks = 3;
    epf_alloc_fail_at(0);
    CHECK_OK(epf_comm_create_threads(&config, comms));
    const uint64_t num_sites = epf_alloc_count();
    for (int r = 0; r < 3; r++) {
        epf_comm_destroy(comms[r]);
    }
    CHECK(num_sites >= 7, "a group, and per rank a handle and its scratch");
    int num_failed = 0;
    for (uint64_t n = 1; n <= num_sites; n++) {
        epf_alloc_fail_at(n);
        const epf_status st = epf_comm_create_threads(&config, comms);
        epf_alloc_fail_at(0);
        CHECK(st == EPF_OK || st == EPF_E_NO_MEMORY, "status %d", (int)st);
        num_failed += st != EPF_OK;
        for (int r = 0; r < 3; r++) {
            CHECK((comms[r] != NULL) == (st == EPF_OK), "all or nothing");
            epf_comm_destroy(comms[r]);
        }
    }
    CHECK(num_failed >= 7, "only %d failed", num_failed);
}

/* Whichever of the window's allocations fails, on whichever rank: all ranks get NO_MEMORY. */
static void body_failing_window(epf_comm *comm, void *context)
{
    epf_window *window;
    (void)context;
    const uint64_t num_sites = (uint64_t)comm->num_ranks + 1;
    for (uint64_t n = 1; n <= num_sites; n++) {
        CHECK_OK(epf_comm_barrier(comm));
        if (comm->rank == 0) {
            epf_alloc_fail_at(n);
        }
        CHECK_OK(epf_comm_barrier(comm));
        CHECK_STATUS(epf_comm_window_create(comm, 4096, &window), EPF_E_NO_MEMORY);
        CHECK(window == NULL, "left behind");
    }
    CHECK_OK(epf_comm_barrier(comm));
    epf_alloc_fail_at(0);
    CHECK_OK(epf_comm_window_create(comm, 4096, &window));
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_window_destroy(comm, window);
}

/* A rank that never comes: a timeout at the configured time; it can come later and all goes on. */
static void body_late(epf_comm *comm, void *context)
{
    (void)context;
    const uint64_t begin = epf_now_ns();
    if (comm->rank == 1) {
        const struct timespec nap = {.tv_sec = 0, .tv_nsec = 600000000};
        (void)nanosleep(&nap, NULL);
    } else {
        CHECK_STATUS(epf_comm_barrier(comm), EPF_E_TIMEOUT);
        CHECK(strstr(epf_error_text(), "rank 1 did not come") != NULL, "text");
        const double waited = seconds_since(begin);
        CHECK(waited >= 0.4 && waited < 0.4 + TIMEOUT_SLACK, "waited %.3f s", waited);
        const struct timespec nap = {.tv_sec = 0, .tv_nsec = 200000000};
        (void)nanosleep(&nap, NULL);
    }
    CHECK_OK(epf_comm_reset(comm));
    for (int i = 0; i < 100; i++) {
        CHECK_OK(epf_comm_barrier(comm));
    }
}

/* A rank that leaves: those who need it learn it at once. */
static void body_leave(epf_comm *comm, void *context)
{
    (void)context;
    const uint64_t begin = epf_now_ns();
    if (comm->rank == 2) {
        return;
    }
    CHECK_STATUS(epf_comm_barrier(comm), EPF_E_PEER);
    CHECK(strstr(epf_error_text(), "has left the group") != NULL, "text");
    CHECK(!epf_comm_peer_alive(comm, 2), "gone");
    CHECK(epf_comm_find_dead(comm) == -1, "left in order");
    CHECK(seconds_since(begin) < 1.0, "%.3f s", seconds_since(begin));
}

/* Ranks in different collectives are told so. */
static void body_crossed(epf_comm *comm, void *context)
{
    unsigned char mine = 0;
    unsigned char all[8];
    epf_window *window;
    (void)context;
    CHECK_STATUS(comm->rank == 0 ? epf_comm_all_gather(comm, &mine, all, sizeof mine)
                                 : epf_comm_window_create(comm, 4096, &window),
                 EPF_E_INVALID);
    CHECK(strstr(epf_error_text(), "window_create") != NULL, "text");
    CHECK_OK(epf_comm_barrier(comm));
}

/* A rank that resets ends at once what others are in, or come to, and waits for their reset. */
static void body_reset_ahead(epf_comm *comm, void *context)
{
    const struct timespec nap = {.tv_sec = 0, .tv_nsec = 50000000};
    const uint64_t begin = epf_now_ns();
    (void)context;
    if (comm->rank == 2) {
        (void)nanosleep(&nap, NULL); /* others most likely wait */
        (void)nanosleep(&nap, NULL);
    } else {
        if (comm->rank == 1) {
            (void)nanosleep(&nap, NULL);
        }
        CHECK_STATUS(epf_comm_barrier(comm), EPF_E_STATE);
        CHECK(strstr(epf_error_text(), "rank 2 is resetting the group") != NULL, "text: %s",
              epf_error_text());
    }
    CHECK_OK(epf_comm_reset(comm));
    CHECK(seconds_since(begin) < 30.0, "%.3f s", seconds_since(begin));
    CHECK_OK(epf_comm_barrier(comm));
}

static void *group_beside(void *argument)
{
    (void)argument;
    run_threads(3, 60 * SECOND, body_window, NULL);
    run_threads(3, 60 * SECOND, body_ring, NULL);
    return NULL;
}

static void test_groups_side_by_side(void)
{
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_create(&threads[i], NULL, group_beside, NULL) == 0, "thread");
    }
    for (int i = 0; i < 3; i++) {
        (void)pthread_join(threads[i], NULL);
    }
}

int main(void)
{
    static const int32_t sizes[] = {1, 2, 3, 8, 64};
    const int before = count_descriptors();
    test_arguments();
    test_failing_creation();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        run_threads(sizes[i], 60 * SECOND, body_gather, NULL);
        run_threads(sizes[i], 60 * SECOND, body_window, NULL);
        run_threads(sizes[i], 60 * SECOND, body_window_errors, NULL);
        run_threads(sizes[i], 60 * SECOND, body_ring, NULL);
    }
    run_threads(3, 60 * SECOND, body_failing_window, NULL);
    run_threads(3, 2 * SECOND / 5, body_late, NULL);
    run_threads(3, 60 * SECOND, body_leave, NULL);
    run_threads(4, 60 * SECOND, body_crossed, NULL);
    run_threads(3, 60 * SECOND, body_reset_ahead, NULL);
    test_groups_side_by_side();
    CHECK(count_descriptors() == before, "descriptors left behind");
    return 0;
}
