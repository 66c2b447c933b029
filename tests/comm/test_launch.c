/* test_launch: what ranks return comes back, failures are named and contained, nothing outlives us.
 * */
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "bodies.h"
#include "comm/epf_launch.h"

#define MS ((uint64_t)1000000u)

enum { NUM_RANKS = 4 };

static epf_launch_result results[NUM_RANKS];

static epf_comm_config config_of(int32_t num_ranks)
{
    epf_comm_config config;
    epf_comm_config_init(&config);
    config.num_ranks = num_ranks;
    config.timeout_ns = 20000 * MS;
    return config;
}

static int no_children(void)
{
    int status;
    return waitpid(-1, &status, WNOHANG) < 0;
}

static int main_good(epf_comm *comm, void *context)
{
    CHECK(*(int *)context == 42, "context");
    CHECK(strstr(comm->origin, "forked") != NULL, "origin");
    CHECK(strcmp(comm->ops->name, "processes") == 0, "name");
    body_gather(comm, NULL);
    return 0;
}

static int main_fails(epf_comm *comm, void *context)
{
    (void)context;
    if (comm->rank == 1) {
        (void)EPF_FAIL(EPF_E_FILE, "weights.bin is not there");
        return 3;
    }
    return epf_comm_barrier(comm) == EPF_E_PEER ? 5 : 99;
}

/* Others that do not end by themselves are killed after the grace. */
static int main_hangs(epf_comm *comm, void *context)
{
    (void)context;
    if (comm->rank == 0) {
        abort();
    }
    while (pause() != 0) { /* for ever */
    }
    return 0;
}

static void test_failures(void)
{
    const epf_comm_config config = config_of(NUM_RANKS);
    CHECK_STATUS(epf_launch(&config, 10000 * MS, main_fails, NULL, results), EPF_E_PEER);
    CHECK(strstr(epf_error_text(), "rank 1 ended with exit code 3: weights.bin") != NULL, "text");
    for (int r = 0; r < NUM_RANKS; r++) {
        CHECK(results[r].exit_code == (r == 1 ? 3 : 5) && results[r].signal == 0, "rank %d: %d", r,
              (int)results[r].exit_code);
        CHECK(!results[r].killed && results[r].status == EPF_OK, "rank %d", r);
        CHECK(r == 1 || strstr(results[r].text, "has left") != NULL, "rank %d: %s", r,
              results[r].text);
    }
    const uint64_t begin = epf_now_ns();
    CHECK_STATUS(epf_launch(&config, 200 * MS, main_hangs, NULL, results), EPF_E_PEER);
    CHECK(strstr(epf_error_text(), "rank 0 was ended by signal 6") != NULL, "text");
    CHECK(seconds_since(begin) >= 0.2 && seconds_since(begin) < 2.0, "%.3f s",
          seconds_since(begin));
    for (int r = 1; r < NUM_RANKS; r++) {
        CHECK(results[r].killed && results[r].signal == SIGKILL && results[r].exit_code == -1,
              "rank %d", r);
    }
    CHECK(no_children(), "children left");
}

static int main_idle(epf_comm *comm, void *context)
{
    (void)comm;
    (void)context;
    while (pause() != 0) { /* for ever */
    }
    return 0;
}

/* A launcher that is killed takes its ranks along. */
static void test_parent_killed(void)
{
    int pipe_ends[2];
    CHECK(pipe(pipe_ends) == 0, "pipe");
    const pid_t launcher = fork();
    CHECK(launcher >= 0, "fork");
    if (launcher == 0) {
        const epf_comm_config config = config_of(NUM_RANKS);
        (void)close(pipe_ends[0]); /* ranks inherit the other end: its last close is their end */
        (void)epf_launch(&config, 1000 * MS, main_idle, NULL, results);
        _exit(1);
    }
    (void)close(pipe_ends[1]);
    const struct timespec nap = {.tv_sec = 0, .tv_nsec = 200000000};
    (void)nanosleep(&nap, NULL);
    CHECK(kill(launcher, SIGKILL) == 0, "kill");
    int status;
    CHECK(waitpid(launcher, &status, 0) == launcher && WIFSIGNALED(status), "launcher");
    char byte;
    const uint64_t begin = epf_now_ns();
    CHECK(read(pipe_ends[0], &byte, 1) == 0, "a rank wrote");
    CHECK(seconds_since(begin) < 1.0, "ranks outlived their launcher by %.3f s",
          seconds_since(begin));
    (void)close(pipe_ends[0]);
}

static int main_never(epf_comm *comm, void *context)
{
    (void)comm;
    (void)context;
    return 7;
}

static void test_arguments(void)
{
    epf_comm_config config = config_of(NUM_RANKS);
    CHECK_STATUS(epf_launch(NULL, 0, main_never, NULL, results), EPF_E_INVALID);
    CHECK_STATUS(epf_launch(&config, 0, NULL, NULL, results), EPF_E_INVALID);
    CHECK_STATUS(epf_launch(&config, 0, main_never, NULL, NULL), EPF_E_INVALID);
    config.num_ranks = 0;
    CHECK_STATUS(epf_launch(&config, 0, main_never, NULL, results), EPF_E_INVALID);
    config.num_ranks = EPF_COMM_MAX_RANKS + 1;
    CHECK_STATUS(epf_launch(&config, 0, main_never, NULL, results), EPF_E_INVALID);
    CHECK(no_children(), "children left");
}

/* Limits that forbid the group: said before any rank runs. */
static void test_limits(void)
{
    const epf_comm_config config = config_of(NUM_RANKS);
    const epf_comm_config large = config_of(64);
    epf_launch_result *many = calloc(64, sizeof *many);
    struct rlimit before;
    struct rlimit now;
    CHECK(many != NULL && getrlimit(RLIMIT_NOFILE, &before) == 0, "getrlimit");
    /* A low soft limit is raised. */
    const struct rlimit soft = {.rlim_cur = 50, .rlim_max = before.rlim_max};
    int context = 42;
    CHECK(setrlimit(RLIMIT_NOFILE, &soft) == 0, "setrlimit");
    CHECK_OK(epf_launch(&config, 1000 * MS, main_good, &context, results));
    CHECK(getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur > 50 &&
              now.rlim_max == before.rlim_max,
          "limit");
    /* A low hard limit is an error that says so; in a child, because it cannot be taken back. */
    const pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        const struct rlimit hard = {.rlim_cur = 100, .rlim_max = 100};
        CHECK(setrlimit(RLIMIT_NOFILE, &hard) == 0, "setrlimit");
        CHECK_STATUS(epf_launch(&large, 0, main_never, NULL, many), EPF_E_UNSUPPORTED);
        CHECK(strstr(epf_error_text(), "the hard limit is 100") != NULL, "text");
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0, "child");
    CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0, "setrlimit");
    free(many);
}

/* Every allocation of the launcher and of the ranks may fail. */
static void test_failing_allocations(void)
{
    const epf_comm_config config = config_of(NUM_RANKS);
    int context = 42;
    const int descriptors = count_descriptors();
    int num_failed = 0;
    for (uint64_t n = 1; n <= 24; n++) {
        epf_alloc_fail_at(n); /* children inherit the count, each fails on its own */
        const epf_status st = epf_launch(&config, 5000 * MS, main_good, &context, results);
        epf_alloc_fail_at(0);
        CHECK(st == EPF_OK || st == EPF_E_NO_MEMORY || st == EPF_E_PEER, "%d", (int)st);
        num_failed += st != EPF_OK;
        CHECK(no_children() && count_descriptors() == descriptors, "left behind");
    }
    CHECK(num_failed >= 10, "only %d failed", num_failed);
}

int main(void)
{
    int context = 42;
    const int descriptors = count_descriptors();
    const epf_comm_config config = config_of(NUM_RANKS);
    CHECK_OK(epf_launch(&config, 1000 * MS, main_good, &context, results));
    for (int r = 0; r < NUM_RANKS; r++) {
        CHECK(results[r].exit_code == 0 && results[r].signal == 0 && results[r].text[0] == '\0' &&
                  results[r].ended_ns != 0 && !results[r].killed,
              "rank %d", r);
    }
    test_arguments();
    test_failures();
    test_parent_killed();
    test_limits();
    test_failing_allocations();
    CHECK(no_children(), "children left");
    CHECK(count_descriptors() == descriptors, "descriptors left");
    return 0;
}
