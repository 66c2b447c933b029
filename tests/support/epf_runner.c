#include "support/epf_runner.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "support/epf_check.h"

enum { MAX_RANKS = 64 };

typedef struct job {
    const epf_run *run;
    epf_test_rank rank;
} job;

void *epf_shared_alloc(size_t bytes)
{
    void *memory = mmap(NULL, bytes == 0 ? 1 : bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(memory != MAP_FAILED, "%zu shared bytes", bytes);
    return memory;
}

void epf_shared_free(void *memory, size_t bytes)
{
    if (memory != NULL) {
        CHECK(munmap(memory, bytes == 0 ? 1 : bytes) == 0, "munmap of %zu bytes", bytes);
    }
}

const char *epf_rank_library_text(void)
{
    return epf_error_text();
}

bool epf_rank_fail(epf_test_rank *rank, const char *file, int line, const char *format, ...)
{
    va_list arguments;
    int length;

    if (rank->failure[0] != '\0') {
        return false;
    }
    length = snprintf(rank->failure, EPF_RUNNER_TEXT, "%s:%d: ", file, line);
    va_start(arguments, format);
    (void)vsnprintf(rank->failure + length, (size_t)(EPF_RUNNER_TEXT - length), format, arguments);
    va_end(arguments);
    return false;
}

static void *thread_main(void *argument)
{
    job *j = argument;
    j->run->function(&j->rank);
    return NULL;
}

static void run_threads(const epf_run *run, job *jobs)
{
    pthread_t threads[MAX_RANKS];

    for (int32_t r = 0; r < run->num_ranks; r++) {
        CHECK(pthread_create(&threads[r], NULL, thread_main, &jobs[r]) == 0, "thread %d", r);
    }
    for (int32_t r = 0; r < run->num_ranks; r++) {
        CHECK(pthread_join(threads[r], NULL) == 0, "thread %d", r);
    }
}

static pid_t start_process(job *j)
{
    const pid_t pid = fork();

    CHECK(pid >= 0, "fork of rank %d", j->rank.rank);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        j->run->function(&j->rank);
        exit(j->rank.failure[0] == '\0' ? 0 : 1);
    }
    return pid;
}

/* A process that failed without words, or died, gets some. */
static void explain(const epf_run *run, epf_test_rank *rank, int status)
{
    if (WIFSIGNALED(status)) {
        if ((run->may_die >> rank->rank & 1u) == 0) {
            (void)epf_rank_fail(rank, __FILE__, __LINE__, "killed by signal %d", WTERMSIG(status));
        }
    } else if (WEXITSTATUS(status) != 0) {
        (void)epf_rank_fail(rank, __FILE__, __LINE__, "exit status %d", WEXITSTATUS(status));
    }
}

static void run_processes(const epf_run *run, job *jobs)
{
    const double timeout_s = run->timeout_s > 0 ? run->timeout_s : 60;
    const uint64_t deadline = epf_now_ns() + (uint64_t)(timeout_s * 1e9);
    const struct timespec pause = {0, 1000000};
    pid_t pids[MAX_RANKS];
    int32_t left = run->num_ranks;

    (void)fflush(NULL); /* or each process would print what is buffered once more */
    for (int32_t r = 0; r < run->num_ranks; r++) {
        pids[r] = start_process(&jobs[r]);
    }
    while (left > 0) {
        for (int32_t r = 0; r < run->num_ranks; r++) {
            int status;
            if (pids[r] > 0 && waitpid(pids[r], &status, WNOHANG) == pids[r]) {
                explain(run, &jobs[r].rank, status);
                pids[r] = 0;
                left--;
            } else if (pids[r] > 0 && epf_now_ns() > deadline) {
                (void)epf_rank_fail(&jobs[r].rank, __FILE__, __LINE__, "still running after %g s",
                                    timeout_s);
                (void)kill(pids[r], SIGKILL);
            }
        }
        (void)nanosleep(&pause, NULL);
    }
}

int32_t epf_run_ranks(const epf_run *run, const char *name)
{
    const size_t text_bytes = (size_t)run->num_ranks * EPF_RUNNER_TEXT;
    char *texts = epf_shared_alloc(text_bytes);
    job jobs[MAX_RANKS];
    int32_t failed = 0;

    CHECK(run->num_ranks > 0 && run->num_ranks <= MAX_RANKS, "%d ranks", run->num_ranks);
    for (int32_t r = 0; r < run->num_ranks; r++) {
        jobs[r] = (job){run, {r, run->num_ranks, run->processes, run->user, NULL}};
        jobs[r].rank.failure = texts + (size_t)r * EPF_RUNNER_TEXT;
    }
    if (run->processes) {
        run_processes(run, jobs);
    } else {
        run_threads(run, jobs);
    }
    for (int32_t r = 0; r < run->num_ranks; r++) {
        if (jobs[r].rank.failure[0] != '\0') {
            (void)fprintf(stderr, "%s: rank %d: %s\n", name, r, jobs[r].rank.failure);
            failed++;
        }
    }
    epf_shared_free(texts, text_bytes);
    return failed;
}
