/* cli_verify_programs.c: promises that programs of the build tree show, run by themselves. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli_verify.h"

enum { COMMAND_BYTES = 8192, SEEDS_A_RUN = 500, EXECUTIONS_A_RUN = 500000, NOT_HERE = 77 };

/* What a program printed, as far as it is told. */
typedef struct outcome {
    unsigned long long passed, failed; /* of its last line, "N passed, M failed"  */
    unsigned long long executed;       /* of libFuzzer                            */
    char first[VERIFY_TEXT / 2];       /* its first line                          */
    char summary[VERIFY_TEXT / 2];     /* a sanitizer's or libFuzzer's finding    */
    int status;                        /* as waitpid() has it                     */
    bool is_cut;                       /* the time was over before the end        */
} outcome;

/* False, and skipped, where the build tree has no such program. */
static bool has_program(verify_run *run, const char *program)
{
    char path[COMMAND_BYTES];

    if (run->tests_dir == NULL) {
        verify_skip(run, "no build tree with test programs beside the command (--tests-dir)");
        return false;
    }
    (void)snprintf(path, sizeof path, "%s/%.*s", run->tests_dir, (int)strcspn(program, " "),
                   program);
    if (strchr(run->tests_dir, '\'') != NULL || access(path, X_OK) != 0) {
        verify_skip(run, "no %.*s in %s", (int)strcspn(program, " "), program, run->tests_dir);
        return false;
    }
    return true;
}

/* In the build tree: `prefix`, the program with its arguments, and both its outputs in one. */
static bool run_program(verify_run *run, const char *prefix, const char *program, outcome *out)
{
    char command[COMMAND_BYTES];
    char line[VERIFY_LINE];
    const int name = (int)strcspn(program, " ");
    FILE *pipe;

    memset(out, 0, sizeof *out);
    (void)snprintf(command, sizeof command, "cd '%s' && %s './%.*s'%s 2>&1", run->tests_dir, prefix,
                   name, program, program + name);
    pipe = popen(command, "r");
    if (pipe == NULL) {
        verify_skip(run, "%s cannot be started", program);
        return false;
    }
    while (verify_next_line(run, pipe, line, &out->is_cut)) {
        line[strcspn(line, "\n")] = '\0';
        if (out->first[0] == '\0') {
            (void)snprintf(out->first, sizeof out->first, "%.*s", (int)sizeof out->first - 1, line);
        }
        (void)sscanf(line, "%llu passed, %llu failed", &out->passed, &out->failed);
        (void)sscanf(line, "stat::number_of_executed_units: %llu", &out->executed);
        if (strstr(line, "SUMMARY: ") != NULL || strstr(line, "CHECK(") != NULL) {
            (void)snprintf(out->summary, sizeof out->summary, "%.*s", (int)sizeof out->summary - 1,
                           line);
        }
        verify_beat(run);
    }
    if (!out->is_cut) {
        out->status = pclose(pipe);
    } /* else it ends with this process's group */
    return true;
}

void verify_simulator(const verify_promise *promise, verify_run *run)
{
    uint64_t seed = run->seed;
    char program[128];

    (void)promise;
    if (!has_program(run, "tests/sim/test_sim")) {
        return;
    }
    verify_wake_every_second();
    while (verify_more(run)) {
        const uint64_t left = run->target - run->done;
        const uint64_t count = left < SEEDS_A_RUN ? left : SEEDS_A_RUN;
        outcome out;
        (void)snprintf(program, sizeof program, "tests/sim/test_sim %llu %llu",
                       (unsigned long long)seed, (unsigned long long)count);
        if (!run_program(run, "exec", program, &out) || out.is_cut) {
            break;
        }
        if (out.status != 0 || out.failed > 0 || out.passed != count) {
            verify_fail(run, "%s: %llu failed: %s", program, out.failed, out.first);
            break;
        }
        verify_done(run, count);
        seed += count;
    }
    if (run->done > 0) {
        verify_note(run, "up to 4 ranks and 3 workers, kills, stops and failing allocations");
    }
}

static const char *const fuzz_targets[] = {"safetensors", "index", "config",
                                           "npy",         "trace", "frames"};

/* One target; false where it did not do its executions.  New inputs go where the next run finds them. */
static bool fuzz_one(verify_run *run, const char *target, uint64_t seed, uint64_t count)
{
    char program[512];
    char prefix[128];
    outcome out;

    (void)snprintf(program, sizeof program,
                   "fuzz/fuzz_%s -seed=%llu -runs=%llu -max_len=1024 -timeout=20 "
                   "-print_final_stats=1 fuzz/grown/%s fuzz/corpus/%s",
                   target, (unsigned long long)seed, (unsigned long long)count, target, target);
    /* A run's freed memory is kept, not 256 MB of it: half the time is saved. */
    (void)snprintf(prefix, sizeof prefix,
                   "mkdir -p fuzz/grown/%s && ASAN_OPTIONS=quarantine_size_mb=1 exec", target);
    if (!has_program(run, program) || !run_program(run, prefix, program, &out) || out.is_cut) {
        return false;
    }
    if (out.status != 0 || out.executed < count) {
        verify_fail(run, "%s: %s", target, out.summary[0] != '\0' ? out.summary : out.first);
        return false;
    }
    return true;
}

void verify_fuzz(const verify_promise *promise, verify_run *run)
{
    enum { NUM_TARGETS = sizeof fuzz_targets / sizeof fuzz_targets[0] };
    uint64_t seed = run->seed;

    (void)promise;
    verify_wake_every_second();
    while (verify_more(run)) {
        const uint64_t left = run->target - run->done;
        const uint64_t count = left < EXECUTIONS_A_RUN ? left : EXECUTIONS_A_RUN;
        for (int32_t i = 0; i < NUM_TARGETS; i++) {
            if (!fuzz_one(run, fuzz_targets[i], seed, count)) {
                return;
            }
        }
        verify_done(run, count);
        verify_note(run, "%d readers under ASan and UBSan", (int)NUM_TARGETS);
        seed++;
    }
}

/* What is quick comes first: CI's share. */
static const char *const memory_programs[VERIFY_CLEAN_FULL] = {
    "tests/model/test_array",           "tests/prof/test_prof_buffer",
    "tests/hostile/test_hostile_npy",   "tests/hostile/test_hostile_config",
    "tests/hostile/test_hostile_index", "tests/hostile/test_hostile_safetensors",
    "tests/hostile/test_hostile_trace", "tests/model/test_checkpoint",
    "tests/model/test_safetensors",     "tests/prof/test_trace_summary",
    "tests/prof/test_trace_svg",        "tests/params/test_params",
    "tests/op/test_op_random 0 5",      "tests/op/test_op_bits",
    "tests/op/test_op_nan 1",           "tests/op/test_op_layer",
    "tests/op/test_op_alloc",
};

void verify_clean(const verify_promise *promise, verify_run *run)
{
    /* The portable product: generated kernels are invisible to Valgrind. */
    static const char valgrind[] =
        "EPFUSE_GEMM=portable exec valgrind -q --error-exitcode=9 --leak-check=full "
        "--errors-for-leak-kinds=definite";

    (void)promise;
    if (system("command -v valgrind >/dev/null 2>&1") != 0) {
        verify_skip(run, "no valgrind here; .ci/run runs the sanitizers (asan-ubsan, tsan)");
        return;
    }
    verify_wake_every_second();
    for (int32_t i = 0; i < VERIFY_CLEAN_FULL && verify_more(run); i++) {
        outcome out;
        if (!has_program(run, memory_programs[i]) ||
            !run_program(run, valgrind, memory_programs[i], &out) || out.is_cut) {
            break;
        }
        if (!WIFEXITED(out.status) ||
            (WEXITSTATUS(out.status) != 0 && WEXITSTATUS(out.status) != NOT_HERE)) {
            verify_fail(run, "%s: %s", memory_programs[i], out.first);
            break;
        }
        verify_done(run, 1);
    }
    if (run->done > 0) {
        verify_note(run, "with the portable product; .ci/run has ASan, UBSan and TSan");
    }
}
