/*
 * test_cli_alloc: each allocation of a verb fails once in turn, in a process of its own.  The command says so
 * in one line and ends with its code for it, whatever it was doing; it never crashes or hangs.
 *
 *     test_cli_alloc SAMPLE_FOLDER [MOST]    MOST allocations of each verb, spread evenly (default 60)
 */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "cli.h"
#include "support/epf_check.h"

enum { MAX_ARGUMENTS = 16, CHILD_SECONDS = 60, NOT_MET = 64 };

typedef struct command {
    cli_verb_main *verb;
    const char *arguments[MAX_ARGUMENTS];
} command;

static char hidden[4096];

/* The child: exit code of the verb, or NOT_MET added where it asked for fewer allocations. */
static void run_child(const command *c, uint64_t nth)
{
    char *argv[MAX_ARGUMENTS + 1] = {NULL};
    int argc = 0;
    int code;
    const int nowhere = open("/dev/null", O_WRONLY);
    for (; argc < MAX_ARGUMENTS && c->arguments[argc] != NULL; argc++) {
        argv[argc] = strdup(c->arguments[argc]);
    }
    CHECK(nowhere >= 0 && dup2(nowhere, 1) == 1 && dup2(nowhere, 2) == 2, "no /dev/null");
    (void)alarm(CHILD_SECONDS);
    optind = 1;
    epf_alloc_fail_at(nth);
    code = cli_finish(c->verb(argc, argv));
    exit(code + (epf_alloc_count() < nth ? NOT_MET : 0));
}

static int run(const command *c, uint64_t nth)
{
    int status;
    const pid_t child = fork();
    CHECK(child >= 0, "fork");
    if (child == 0) {
        run_child(c, nth);
    }
    CHECK(waitpid(child, &status, 0) == child, "waitpid");
    CHECK(WIFEXITED(status), "%s, allocation %llu: ended by signal %d", c->arguments[0],
          (unsigned long long)nth, WTERMSIG(status));
    return WEXITSTATUS(status);
}

/* How many allocations the verb makes: doubling, then halving. */
static uint64_t count_allocations(const command *c)
{
    uint64_t high = 1;
    uint64_t low = 0;
    while (run(c, high) < NOT_MET) {
        low = high;
        high *= 2;
    }
    while (low + 1 < high) {
        const uint64_t middle = low + (high - low) / 2;
        *(run(c, middle) < NOT_MET ? &low : &high) = middle;
    }
    return low;
}

int main(int argc, char **argv)
{
    const char *const sample = argc > 1 ? argv[1] : "examples/sample";
    const uint64_t most = argc > 2 ? strtoull(argv[2], NULL, 10) : 60;
    const command commands[] = {
        {cli_info, {"info"}},
        {cli_plan, {"plan", "--preset", "dsv3", "--ranks", "4"}},
        {cli_plan, {"plan", "--preset", "example", "--json"}},
        {cli_bench,
         {"bench", "--preset", "example", "--ranks", "1", "--tokens", "8", "--workers", "1",
          "--repeat", "1", "--experts", "2", "--svg", "y.svg"}},
        {cli_run, {"run", sample, "--layer", "2", "--input", hidden, "--workers", "1"}},
        {cli_run,
         {"run", sample, "--layer", "2", "--input", hidden, "--workers", "1", "--check", "--json"}},
    };
    (void)snprintf(hidden, sizeof hidden, "%s/hidden.npy", sample);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const command *const c = &commands[i];
        const uint64_t count = count_allocations(c);
        uint64_t tried = 0;
        const uint64_t step =
            1 + count / (c->verb == cli_bench ? 1 + most / 4 : most); /* seconds each */
        for (uint64_t n = 1; n <= count; n += step, tried++) {
            const int code = run(c, n) % NOT_MET;
            CHECK(code == CLI_INTERNAL || code == CLI_OK || code == CLI_BAD_FILE,
                  "%s, allocation %llu of %llu: exit code %d", c->arguments[0],
                  (unsigned long long)n, (unsigned long long)count, code);
        }
        printf("%-6s %llu of %llu allocations failed\n", c->arguments[0], (unsigned long long)tried,
               (unsigned long long)count);
    }
    return 0;
}
