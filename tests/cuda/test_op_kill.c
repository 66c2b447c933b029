/*
 * test_op_kill: a process is killed at a random moment of its layers on the device.  Every other one gets an error
 * within the timeout, EPF_E_TIMEOUT of a kernel that waited or EPF_E_PEER of a call that looked; its context stays
 * usable, which an exact layer of one rank shows.
 *
 *     test_op_kill [COUNT]      kills, default 4: of 2 and of 4 ranks by turns
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/epf_clock.h"
#include "op_case.h"
#include "op_faults.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"
#include "support/epf_space.h"

/* A device that processes share without MPS runs one of them at a time: layers take most of a second. */
enum { TIMEOUT_MS = 4000, SLACK_MS = 2000, MAX_AFTER_US = 1500000 };

/* Shared by all processes of a case. */
typedef struct scene {
    op_case *c;
    int32_t victim;
    int32_t after_us; /* of its first layer's end */
    _Atomic uint64_t killed_at;
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
    RANK_CHECK(r->rank, r->id != s->victim, "%s before the death: %s", epf_status_name(st),
               epf_last_error());
    RANK_CHECK(r->rank, atomic_load(&s->killed_at) != 0, "%s, but nobody has died: %s",
               epf_status_name(st), epf_last_error());
    ms = (double)(epf_now_ns() - atomic_load(&s->killed_at)) / 1e6;
    RANK_CHECK(r->rank, st == EPF_E_TIMEOUT || st == EPF_E_PEER, "%s: %s", epf_status_name(st),
               epf_last_error());
    RANK_CHECK(r->rank, ms < TIMEOUT_MS + SLACK_MS, "%.0f ms after the death", ms);
    printf("rank %d of %d: %s %.0f ms after rank %d died\n", r->id, r->rank->num_ranks,
           epf_status_name(st), ms, s->victim);
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    static const op_knobs alone = {.own_outputs = true};
    scene *s = rank->user;
    op_rank r;
    bool ok = op_open(&r, s->c, rank) && op_preprocess(&r) && op_dispatch(&r) && op_combine(&r) &&
              until_error(&r, s);

    op_close(&r);
    if (ok && !op_run("W1E4K2T24H64N64M8/zipf/seed605", &alone, false, "survivor")) {
        (void)epf_rank_fail(rank, __FILE__, __LINE__, "its context does not work after the death");
    }
}

static int32_t run(const char *text, uint64_t number)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.own_outputs = true};
    epf_data *data = epf_data_make(&problem);
    epf_rng rng = epf_rng_make(number, 600);
    scene *s = epf_shared_alloc(sizeof *s);
    char name[64];
    int32_t failed;

    s->victim = epf_rng_below(&rng, problem.num_ranks);
    s->after_us = epf_rng_range(&rng, 1, MAX_AFTER_US);
    s->c = op_case_make(data, &knobs, true);
    s->c->processes_on_device = true;
    s->c->timeout_ns = TIMEOUT_MS * UINT64_C(1000000);
    s->c->user = s;
    (void)snprintf(name, sizeof name, "kill %llu, rank %d", (unsigned long long)number, s->victim);
    failed = op_run_function(s->c, run_rank, UINT64_C(1) << s->victim, name);
    op_case_free(s->c);
    epf_shared_free(s, sizeof *s);
    epf_data_free(data);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const problems[] = {"W2E4K2T24H64N64M8/zipf/seed601",
                                           "W4E8K2T24H64N64M8/zipf/seed602/fuse_scatter"};
    const uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 4;
    int32_t failed = 0;

    epf_space_require(true);
    for (uint64_t i = 0; i < count; i++) {
        failed += run(problems[i % 2], i);
    }
    return op_finish(failed);
}
