/*
 * test_sim_twins: a broken twin of the protocol (twins.cmake) must be caught by one of the first seeds.
 *
 *     test_sim_twins NAME [COUNT]          default 20000 seeds
 *     test_sim_twins NAME seed SEED [N]    that run of the twin, as test_sim prints it
 *     test_sim_twins none [COUNT]          the copy itself, not broken: nothing may be caught
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim_run.h"
#include "sim_seam.h"
#include "support/epf_check.h"

typedef struct twin {
    const char *name;
    const char *file;
    bool found; /* its text stands in the file */
} twin;

static const twin twins[] = {
#include "sim_twins.inc"
};

enum { NUM_TWINS = sizeof twins / sizeof twins[0], DEFAULT_COUNT = 20000 };

int32_t sim_twin;

/* 0: what runs is not broken. */
static int32_t number_of(const char *name)
{
    for (int32_t i = 0; i < NUM_TWINS; i++) {
        if (strcmp(twins[i].name, name) == 0) {
            CHECK(twins[i].found, "%s: the text it edits does not stand in %s exactly once",
                  twins[i].name, twins[i].file);
            return i + 1;
        }
    }
    CHECK(strcmp(name, "none") == 0, "no twin %s", name);
    return 0;
}

/* Seeds until one fails; the number of seeds run, negative if the last failed. */
static int64_t search(uint64_t count)
{
    const run_options options = {false, 0};
    run_totals totals = {0};
    for (uint64_t seed = 1; seed <= count; seed++) {
        if (!run_seed(seed, &options, &totals)) {
            return -(int64_t)seed;
        }
    }
    return (int64_t)count;
}

/* In a process of its own: a broken protocol may also break memory. */
static bool is_caught(const char *name, uint64_t count)
{
    int status = 0;
    pid_t child;
    (void)fflush(stdout);
    child = fork();
    CHECK(child >= 0, "fork");
    if (child == 0) {
        const int64_t ran = search(count);
        (void)fflush(stdout);
        _exit(ran < 0 ? 1 : 0);
    }
    CHECK(waitpid(child, &status, 0) == child, "waitpid");
    if (WIFSIGNALED(status)) {
        printf("%s: signal %d\n", name, WTERMSIG(status));
    }
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

int main(int argc, char **argv)
{
    const char *const name = argc > 1 ? argv[1] : "none";
    sim_twin = number_of(name);
    if (argc > 3 && strcmp(argv[2], "seed") == 0) {
        const run_options options = {true, argc > 4 ? (int32_t)strtol(argv[4], NULL, 10) : 0};
        run_totals totals = {0};
        return run_seed(strtoull(argv[3], NULL, 10), &options, &totals) ? 0 : 1;
    }
    const uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : DEFAULT_COUNT;
    const bool caught = is_caught(name, count);
    printf("%s: %s\n", name, caught ? "caught" : "not caught");
    return caught == (sim_twin != 0) ? 0 : 1;
}
