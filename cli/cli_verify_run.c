/* cli_verify_run.c: one promise in a process of its own, and the watch over it. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "cli_text.h"
#include "cli_verify.h"

enum { PATIENCE_S = 120, LOOK_NS = 20000000, DECIDING = -1 };

bool verify_more(const verify_run *run)
{
    return __atomic_load_n(&run->outcome, __ATOMIC_ACQUIRE) == VERIFY_OK &&
           __atomic_load_n(&run->done, __ATOMIC_RELAXED) < run->target &&
           epf_now_ns() < run->deadline_ns;
}

void verify_done(verify_run *run, uint64_t count)
{
    (void)__atomic_fetch_add(&run->done, count, __ATOMIC_RELAXED);
}

void verify_beat(verify_run *run)
{
    (void)__atomic_fetch_add(&run->num_beats, 1, __ATOMIC_RELAXED);
}

static void decide(verify_run *run, verify_outcome outcome, const char *format, va_list arguments)
{
    int32_t undecided = VERIFY_OK;

    if (__atomic_compare_exchange_n(&run->outcome, &undecided, DECIDING, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        (void)vsnprintf(run->reason, sizeof run->reason, format, arguments);
        __atomic_store_n(&run->outcome, (int32_t)outcome, __ATOMIC_RELEASE);
    }
}

void verify_fail(verify_run *run, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    decide(run, VERIFY_FAILED, format, arguments);
    va_end(arguments);
}

void verify_skip(verify_run *run, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    decide(run, VERIFY_SKIPPED, format, arguments);
    va_end(arguments);
}

void verify_note(verify_run *run, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(run->note, sizeof run->note, format, arguments);
    va_end(arguments);
}

/* What counts as life: anything done, and beats. */
static uint64_t life(const verify_run *run)
{
    return __atomic_load_n(&run->done, __ATOMIC_RELAXED) +
           __atomic_load_n(&run->num_beats, __ATOMIC_RELAXED);
}

static pid_t start(const verify_promise *promise, verify_run *run)
{
    pid_t pid;

    (void)fflush(NULL); /* or the child would write once more what is buffered */
    pid = fork();
    if (pid == 0) {
        /* its own group, so that all it starts can be ended together; it goes when we go */
        (void)setpgid(0, 0);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        promise->function(promise, run);
        (void)fflush(NULL);
        _exit(0);
    }
    return pid;
}

/* What its end says, unless it has spoken itself. */
static void judge(verify_run *run, int status)
{
    char count[32];

    (void)verify_number(run->done, count);
    if (WIFSIGNALED(status)) {
        verify_fail(run, "ended by signal %d after %s", WTERMSIG(status), count);
    } else if (WEXITSTATUS(status) != 0) {
        verify_fail(run, "ended with exit code %d after %s", WEXITSTATUS(status), count);
    } else if (run->done == 0 && run->outcome == VERIFY_OK) {
        verify_skip(run, "none was done in the time given");
    }
}

static void watch(const verify_promise *promise, verify_run *run, pid_t pid)
{
    const struct timespec pause = {0, LOOK_NS};
    const int32_t patience_s = promise->patience_s > 0 ? promise->patience_s : PATIENCE_S;
    uint64_t seen = life(run);
    uint64_t seen_ns = epf_now_ns();
    int status = 0;

    while (waitpid(pid, &status, WNOHANG) == 0) {
        char count[32];
        if (life(run) != seen) {
            seen = life(run);
            seen_ns = epf_now_ns();
        } else if (epf_now_ns() - seen_ns > (uint64_t)patience_s * UINT64_C(1000000000)) {
            verify_fail(run, "hangs: no sign of life for %d s after %s", patience_s,
                        verify_number(run->done, count));
            (void)kill(-pid, SIGKILL);
            (void)waitpid(pid, &status, 0);
            return;
        }
        cli_progress("verify %s: %s %s", promise->name, verify_number(run->done, count),
                     promise->unit);
        (void)nanosleep(&pause, NULL);
    }
    (void)kill(-pid, SIGKILL); /* what it may have left running */
    judge(run, status);
}

epf_status verify_one(const verify_promise *promise, const verify_options *options,
                      verify_run *result, double *seconds)
{
    const uint64_t begin_ns = epf_now_ns();
    verify_run *const run =
        mmap(NULL, sizeof *run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid;

    if (run == MAP_FAILED) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "verify: %zu shared bytes", sizeof *run);
    }
    run->seed = options->seed;
    run->is_full = options->is_full;
    run->target = options->is_full ? promise->full : promise->share;
    run->tests_dir = options->tests_dir;
    run->deadline_ns =
        options->seconds > 0 ? begin_ns + (uint64_t)(options->seconds * 1e9) : UINT64_MAX;
    if (promise->function == NULL) {
        verify_skip(run, "built without the tests (EPFUSE_BUILD_TESTS)");
    } else if ((pid = start(promise, run)) > 0) {
        watch(promise, run, pid);
        cli_progress(NULL);
    } else {
        verify_skip(run, "no process could be started: %s", strerror(errno));
    }
    *seconds = (double)(epf_now_ns() - begin_ns) * 1e-9;
    *result = *run;
    (void)munmap(run, sizeof *run);
    return EPF_OK;
}
