/*
 * test_sim: the schedule and the protocol under a scheduler that one number drives.
 *
 *     test_sim SEED            that run: its plan, and if it fails the last steps
 *     test_sim SEED trace N    that run and its last N steps
 *     test_sim FIRST COUNT     runs FIRST .. FIRST + COUNT - 1
 */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim_run.h"
#include "sim_seam.h"

int32_t sim_twin;

static volatile uint64_t running; /* for the signal handler */

static void crashed(int signal_number)
{
    char text[64] = "seed ";
    char digits[24];
    size_t length = strlen(text);
    size_t count = 0;
    uint64_t seed = running;
    do {
        digits[count++] = (char)('0' + seed % 10);
        seed /= 10;
    } while (seed > 0);
    while (count > 0) {
        text[length++] = digits[--count];
    }
    text[length++] = ' ';
    memcpy(text + length, "crashed\n", 8);
    (void)!write(STDOUT_FILENO, text, length + 8);
    (void)signal(signal_number, SIG_DFL);
    (void)raise(signal_number);
}

static void catch_crashes(void)
{
#if !defined(__SANITIZE_ADDRESS__)
    static char stack[1 << 16];
    const stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = crashed;
    action.sa_flags = SA_ONSTACK;
    (void)sigaltstack(&alternative, NULL);
    (void)sigaction(SIGSEGV, &action, NULL);
    (void)sigaction(SIGBUS, &action, NULL);
    (void)sigaction(SIGABRT, &action, NULL);
#else
    (void)crashed;
#endif
}

static void print_totals(const run_totals *t)
{
    printf("%llu calls, %llu steps, %llu switches, %llu resets; %llu ranks killed, %llu stopped, "
           "%llu threads paused, %llu allocations failed\n",
           (unsigned long long)t->calls, (unsigned long long)t->steps,
           (unsigned long long)t->switches, (unsigned long long)t->resets,
           (unsigned long long)t->faults[SIM_FAULT_KILL],
           (unsigned long long)t->faults[SIM_FAULT_STALL],
           (unsigned long long)t->faults[SIM_FAULT_PAUSE],
           (unsigned long long)t->faults[SIM_FAULT_MEMORY]);
    printf("%llu passed, %llu failed\n", (unsigned long long)t->passed,
           (unsigned long long)t->failed);
}

int main(int argc, char **argv)
{
    const uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    const bool is_range = argc > 2 && strcmp(argv[2], "trace") != 0;
    const uint64_t count = is_range ? strtoull(argv[2], NULL, 10) : 1;
    const run_options options = {.verbose = !is_range,
                                 .trace_length = argc > 3 ? (int32_t)strtol(argv[3], NULL, 10) : 0};
    run_totals totals = {0};

    (void)mallopt(M_MMAP_THRESHOLD, 1 << 30); /* memory of one run serves the next */
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    catch_crashes();
    for (uint64_t seed = first; seed < first + count; seed++) {
        running = seed;
        (void)run_seed(seed, &options, &totals);
    }
    print_totals(&totals);
    return totals.failed == 0 ? 0 : 1;
}
