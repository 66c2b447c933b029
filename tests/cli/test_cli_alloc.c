/*
 * test_cli_alloc: allocations of a verb fail one at a time, each in a process of its own: the first one from each
 * place that asks for memory, told apart by its callers.  The command says so in one line and ends with its code for
 * it, whatever it was doing; it never crashes or hangs.
 *
 *     test_cli_alloc SAMPLE_FOLDER [EVERY]    every so many places (default 1), where programs are slow
 */
#include <execinfo.h>
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
#include "support/epf_runner.h"

enum { MAX_ARGUMENTS = 20, CHILD_SECONDS = 60, MAX_ALLOCATIONS = 1 << 14, CALLERS = 4 };

typedef struct command {
    cli_verb_main *verb;
    const char *arguments[MAX_ARGUMENTS];
    uint64_t every; /* so many places, where a run takes its time */
} command;

/* Where each allocation of a run came from, written by the child. */
typedef struct record {
    uint64_t count; /* atomic */
    uint64_t site[MAX_ALLOCATIONS];
} record;

static record *recording; /* NULL in a child whose allocation fails */
static char hidden[4096], expected[4096];

/* The linker sends the library's calls here (--wrap); they arrive at the functions themselves. */
void *__real_epf_alloc(size_t count, size_t size);
void *__real_epf_alloc_aligned(size_t count, size_t size, size_t alignment);
void *__wrap_epf_alloc(size_t count, size_t size);
void *__wrap_epf_alloc_aligned(size_t count, size_t size, size_t alignment);

static void note(void)
{
    enum { OWN = 2 }; /* this function and the one that the linker put between */
    void *frames[OWN + CALLERS];
    uint64_t at;
    uint64_t site = 0;
    int depth;
    if (recording == NULL) {
        return;
    }
    depth = backtrace(frames, OWN + CALLERS);
    for (int i = OWN; i < depth; i++) {
        site = (site ^ (uint64_t)(uintptr_t)frames[i]) * UINT64_C(0x9e3779b97f4a7c15);
    }
    at = __atomic_fetch_add(&recording->count, 1, __ATOMIC_RELAXED);
    if (at < MAX_ALLOCATIONS) {
        recording->site[at] = site;
    }
}

void *__wrap_epf_alloc(size_t count, size_t size)
{
    note();
    return __real_epf_alloc(count, size);
}

void *__wrap_epf_alloc_aligned(size_t count, size_t size, size_t alignment)
{
    note();
    return __real_epf_alloc_aligned(count, size, alignment);
}

static void run_child(const command *c, uint64_t nth)
{
    char *argv[MAX_ARGUMENTS + 1] = {NULL};
    int argc = 0;
    const int nowhere = open("/dev/null", O_WRONLY);
    for (; argc < MAX_ARGUMENTS && c->arguments[argc] != NULL; argc++) {
        argv[argc] = strdup(c->arguments[argc]);
    }
    CHECK(nowhere >= 0 && dup2(nowhere, 1) == 1 && dup2(nowhere, 2) == 2, "no /dev/null");
    (void)alarm(CHILD_SECONDS);
    optind = 1;
    epf_alloc_fail_at(nth);
    exit(cli_finish(c->verb(argc, argv)));
}

/* The verb's exit code; nth 0: nothing fails. */
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

static bool is_new(const record *r, uint64_t at)
{
    uint64_t i = 0;
    while (r->site[i] != r->site[at]) {
        i++;
    }
    return i == at;
}

static void run_command(const command *c, uint64_t every, record *r)
{
    uint64_t num_places = 0;
    uint64_t num_tried = 0;
    int code;
    memset(r, 0, sizeof *r);
    recording = r;
    code = run(c, 0);
    recording = NULL;
    CHECK(code == CLI_OK, "%s: exit code %d without a failure", c->arguments[0], code);
    CHECK(r->count > 0 && r->count <= MAX_ALLOCATIONS, "%s: %llu allocations", c->arguments[0],
          (unsigned long long)r->count);
    for (uint64_t n = 0; n < r->count; n++) {
        if (is_new(r, n) && num_places++ % (c->every * every) == 0) {
            code = run(c, n + 1);
            CHECK(code == CLI_INTERNAL || code == CLI_OK || code == CLI_BAD_FILE,
                  "%s, allocation %llu of %llu: exit code %d", c->arguments[0],
                  (unsigned long long)n + 1, (unsigned long long)r->count, code);
            num_tried++;
        }
    }
    printf("%-6s %llu places, %llu allocations\n", c->arguments[0], (unsigned long long)num_tried,
           (unsigned long long)r->count);
}

int main(int argc, char **argv)
{
    const char *const sample = argc > 1 ? argv[1] : "examples/sample";
    const uint64_t every = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    const command commands[] = {
        {cli_info, {"info"}, 1},
        {cli_plan, {"plan", "--preset", "dsv3", "--ranks", "4"}, 1},
        {cli_plan, {"plan", "--preset", "example", "--json"}, 1},
        {cli_run,
         {"run", sample, "--layer", "2", "--input", hidden, "--workers", "1", "--repeat", "2",
          "--check", "--check-tokens", "5", "--expect", expected, "--json"},
         1},
        {cli_run,
         {"run", sample, "--layer", "2", "--input", hidden, "--workers", "1", "--ranks", "2",
          "--profile", "seen", "--output", "y.npy"},
         1},
        {cli_bench,
         {"bench", "--preset", "test", "--ranks", "1", "--tokens", "4", "--workers", "1",
          "--repeat", "1", "--experts", "2", "--memory", "0.01", "--svg", "y.svg"},
         4},
    };
    record *const r = epf_shared_alloc(sizeof *r);
    (void)snprintf(hidden, sizeof hidden, "%s/hidden.npy", sample);
    (void)snprintf(expected, sizeof expected, "%s/expected.npy", sample);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        run_command(&commands[i], every, r);
    }
    epf_shared_free(r, sizeof *r);
    return 0;
}
