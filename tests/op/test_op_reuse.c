/*
 * test_op_reuse: calls back to back on one set and one layout, nothing between them that would bring
 * the ranks together, each rank late by a random time: no rank may write where a slower one still reads.
 *
 *     test_op_reuse [SEED [STEPS [MAX_DELAY_US]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

enum { NUM_CASES = 3 };

typedef struct reuse {
    uint64_t seed;
    int32_t steps;
    int32_t max_delay_us;
    op_case *cases[NUM_CASES]; /* the same routing, other numbers */
} reuse;

static void delay(const reuse *u, epf_rng *own)
{
    if (epf_rng_below(own, 2) == 0) {
        const struct timespec time = {0, 1000L * epf_rng_below(own, u->max_delay_us + 1)};
        (void)nanosleep(&time, NULL);
    }
}

/* One to three dispatches of one case or another, then as many combines of the last one. */
static bool step(const reuse *u, op_rank *ranks, epf_rng *shared, epf_rng *own)
{
    op_rank *r = NULL;

    for (int32_t i = epf_rng_below(shared, 3); i >= 0; i--) {
        r = &ranks[epf_rng_below(shared, NUM_CASES)];
        delay(u, own);
        if (!op_dispatch(r)) {
            return false;
        }
        delay(u, own);
        if (!op_check_dispatch(r)) { /* what it gave stays until this rank's next call */
            return false;
        }
    }
    for (int32_t i = epf_rng_below(shared, 3); i >= 0; i--) {
        delay(u, own);
        if (!op_combine(r)) {
            return false;
        }
    }
    return true;
}

static bool steps(const reuse *u, op_rank *ranks, epf_test_rank *rank)
{
    epf_rng shared = epf_rng_make(u->seed, 200);
    epf_rng own = epf_rng_make(u->seed, 201 + (uint64_t)rank->rank);

    if (!op_preprocess(&ranks[0])) {
        return false;
    }
    for (int32_t i = 1; i < NUM_CASES; i++) {
        op_borrow(&ranks[i], u->cases[i], &ranks[0]);
        ranks[i].layout = ranks[0].layout;
    }
    for (int32_t i = 0; i < u->steps; i++) {
        if (!step(u, ranks, &shared, &own)) {
            return false;
        }
    }
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    const reuse *u = rank->user;
    op_rank ranks[NUM_CASES];

    memset(ranks, 0, sizeof ranks);
    (void)(op_open(&ranks[0], u->cases[0], rank) && steps(u, ranks, rank));
    for (int32_t i = NUM_CASES - 1; i > 0; i--) {
        ranks[i].layout = NULL;
        op_return(&ranks[i]);
    }
    op_close(&ranks[0]);
}

static int32_t run(reuse u, const char *text, bool processes)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.num_workers = 2, .block_wise = true, .gates = true};
    epf_data *data[NUM_CASES];
    char name[96];
    int32_t failed;

    for (int32_t i = 0; i < NUM_CASES; i++) {
        data[i] = i == 0 ? epf_data_make(&problem)
                         : epf_data_again(data[0], problem.seed + 1000 + (uint64_t)i);
        u.cases[i] = op_case_make(data[i], &knobs, processes);
    }
    u.cases[0]->user = &u;
    (void)snprintf(name, sizeof name, "test_op_reuse %llu %d %d", (unsigned long long)u.seed,
                   u.steps, u.max_delay_us);
    failed = op_run_function(u.cases[0], run_rank, 0, name);
    for (int32_t i = 0; i < NUM_CASES; i++) {
        op_case_free(u.cases[i]);
        epf_data_free(data[i]);
    }
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const texts[] = {"W3E6K2T16H128N16M8/zipf/seed161",
                                        "W3E6K2T16H128N16M8/zipf/seed161/fuse_scatter",
                                        "W4E4K3T12H256N8M8/uniform/seed162/fuse_scatter"};
    const reuse u = {.seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1,
                     .steps = argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 60,
                     .max_delay_us = argc > 3 ? (int32_t)strtol(argv[3], NULL, 10) : 1000};
    int32_t failed = 0;

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        failed += run(u, texts[i], false) + run(u, texts[i], true);
    }
    return op_finish(failed);
}
