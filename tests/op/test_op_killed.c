/*
 * test_op_killed: a process that dies at any moment gives every other one EPF_E_PEER, long before the
 * timeout; a stopped one gives EPF_E_TIMEOUT, and when it goes on and all reset, everything works.
 *
 *     test_op_killed [COUNT]      kills, default 12
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "op_case.h"
#include "op_faults.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

enum { MAX_DELAY_MS = 1000, STOP_TIMEOUT_MS = 400 };

/* Shared by all processes of a case. */
typedef struct scene {
    op_case *c;
    int32_t victim;
    int32_t after_us; /* of the layers' start */
    _Atomic uint64_t killed_at;
    atomic_int pid_of_stopped;
    atomic_int num_ready;
} scene;

static bool until_error(op_rank *r, scene *s)
{
    epf_status st = EPF_OK;
    double ms;

    if (r->id == s->victim) {
        op_die_after(s->after_us, &s->killed_at);
    }
    while (st == EPF_OK) {
        st = op_try_calls(r, OP_ALL_CALLS);
    }
    ms = (double)(epf_now_ns() - atomic_load(&s->killed_at)) / 1e6;
    RANK_CHECK(r->rank, st == EPF_E_PEER, "status %d: %s", st, epf_last_error());
    RANK_CHECK(r->rank, ms < MAX_DELAY_MS, "%.0f ms after the death", ms);
    return true;
}

static void run_killed(epf_test_rank *rank)
{
    scene *s = rank->user;
    op_rank r;

    (void)(op_open(&r, s->c, rank) && until_error(&r, s));
    op_close(&r);
}

static bool stop_and_go_on(op_rank *r, scene *s)
{
    const struct timespec pause = {0, 1000000};
    epf_status st = EPF_OK;

    if (r->id == s->victim) {
        atomic_store(&s->pid_of_stopped, getpid());
        (void)raise(SIGSTOP);
        st = op_try_calls(r, OP_ALL_CALLS); /* the others have given up: an error, whichever */
        RANK_CHECK(r->rank, st != EPF_OK, "the stopped rank found nobody missing");
    } else {
        st = op_try_calls(r, OP_ALL_CALLS);
        RANK_CHECK(r->rank, st == EPF_E_TIMEOUT, "status %d: %s", st, epf_last_error());
        if (atomic_fetch_add(&s->num_ready, 1) == r->rank->num_ranks - 2) {
            (void)kill(atomic_load(&s->pid_of_stopped), SIGCONT);
        }
    }
    while (atomic_load(&s->num_ready) < r->rank->num_ranks - 1) {
        (void)nanosleep(&pause, NULL);
    }
    RANK_OK(r->rank, epf_op_reset(r->op));
    for (int32_t i = 0; i < 20; i++) {
        if (!(op_preprocess(r) && op_dispatch(r) && op_combine(r))) {
            return false;
        }
    }
    return true;
}

static void run_stopped(epf_test_rank *rank)
{
    scene *s = rank->user;
    op_rank r;

    (void)(op_open(&r, s->c, rank) && op_preprocess(&r) && stop_and_go_on(&r, s));
    op_close(&r);
}

static int32_t run(const char *text, uint64_t number, bool stop)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.own_outputs = true};
    epf_data *data = epf_data_make(&problem);
    epf_rng rng = epf_rng_make(number, 5);
    scene *s = epf_shared_alloc(sizeof *s);
    char name[64];
    int32_t failed;

    s->victim = epf_rng_below(&rng, problem.num_ranks);
    s->after_us = epf_rng_range(&rng, 1, 20000);
    s->c = op_case_make(data, &knobs, true);
    s->c->timeout_ns = stop ? STOP_TIMEOUT_MS * UINT64_C(1000000) : UINT64_C(20000000000);
    s->c->user = s;
    (void)snprintf(name, sizeof name, "%s %llu, rank %d", stop ? "stopped" : "killed",
                   (unsigned long long)number, s->victim);
    failed = op_run_function(s->c, stop ? run_stopped : run_killed,
                             stop ? 0 : UINT64_C(1) << s->victim, name);
    op_case_free(s->c);
    epf_shared_free(s, sizeof *s);
    epf_data_free(data);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const problems[] = {"W2E4K2T24H64N64M8/zipf/seed71",
                                           "W4E8K2T24H64N64M8/zipf/seed72/fuse_scatter",
                                           "W8E8K2T24H64N64M8/uniform/seed73/fuse_scatter"};
    const uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 12;
    int32_t failed = 0;

    for (uint64_t i = 0; i < count; i++) {
        failed += run(problems[i % 3], i, false);
    }
    failed += run(problems[0], 1, true);
    failed += run(problems[1], 2, true);
    return op_finish(failed);
}
