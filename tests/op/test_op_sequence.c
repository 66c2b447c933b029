/*
 * test_op_sequence: one operator, call after call with another routing: token counts and rows change
 * from call to call, buffers regrow on the way, sets, modes and layouts alternate, several layouts are
 * alive at once.  Whatever a call left behind, the next one is exact.
 *
 *     test_op_sequence [SEED [STEPS [MAX_DELAY_MS]]]
 *
 * With MAX_DELAY_MS every rank sleeps for a random time before each call.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

enum { NUM_CASES = 12, NUM_SETS = 2, MAX_ALIVE = 2 };

typedef struct sequence {
    uint64_t seed;
    int32_t steps;
    int32_t max_delay_ms;
    epf_data *data[NUM_CASES];
    op_case *cases[NUM_CASES];
} sequence;

static void delay(const sequence *s, epf_rng *own)
{
    if (s->max_delay_ms > 0) {
        const long ms = epf_rng_below(own, s->max_delay_ms + 1);
        const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
        (void)nanosleep(&time, NULL);
    }
}

typedef bool (*step_function)(op_rank *r);

/* One call of each of the ranks' cases in turn. */
static bool each(const sequence *s, op_rank *alive, step_function step, epf_rng *own)
{
    for (int32_t i = 0; i < MAX_ALIVE; i++) {
        delay(s, own);
        if (!step(&alive[i])) {
            return false;
        }
    }
    return true;
}

static bool check_twice(op_rank *r)
{
    return op_preprocess(r) && op_check_layout(r) && op_preprocess(r) && op_check_layout(r);
}

/* Two cases at once, each in a set and a layout of its own, their calls interleaved. */
static bool step(const sequence *s, const op_rank *owner, epf_layout **layouts, epf_rng *shared,
                 epf_rng *own)
{
    op_rank alive[MAX_ALIVE];
    bool ok = true;

    for (int32_t i = 0; i < MAX_ALIVE; i++) {
        op_borrow(&alive[i], s->cases[epf_rng_below(shared, NUM_CASES / MAX_ALIVE) * MAX_ALIVE + i],
                  owner);
        alive[i].layout = layouts[i]; /* filled again, after larger and after smaller routings */
    }
    ok = each(s, alive, epf_rng_below(shared, 4) == 0 ? check_twice : op_preprocess, own) &&
         each(s, alive, op_check_layout, own) && each(s, alive, op_dispatch, own) &&
         each(s, alive, op_combine, own) &&
         (epf_rng_below(shared, 3) > 0 || each(s, alive, op_combine, own));
    for (int32_t i = 0; i < MAX_ALIVE; i++) {
        layouts[i] = alive[i].layout;
        alive[i].layout = NULL;
        op_return(&alive[i]);
    }
    return ok;
}

static void run_rank(epf_test_rank *rank)
{
    const sequence *s = rank->user;
    epf_rng shared = epf_rng_make(s->seed, 100);
    epf_rng own = epf_rng_make(s->seed, 101 + (uint64_t)rank->rank);
    epf_layout *layouts[MAX_ALIVE] = {NULL, NULL};
    op_rank owner;
    bool ok = op_open(&owner, s->cases[0], rank);

    for (int32_t i = 0; i < s->steps && ok; i++) {
        ok = step(s, &owner, layouts, &shared, &own);
    }
    for (int32_t i = 0; i < MAX_ALIVE; i++) {
        epf_layout_destroy(layouts[i]);
    }
    op_close(&owner);
}

/* Routings of the zoo in one shape; set, mode and outputs differ from case to case. */
static void make_cases(sequence *s, int32_t num_ranks, bool processes)
{
    static const char *const routings[NUM_CASES] = {
        "one_token",   "uniform",   "uneven_T_per_rank", "some_dropped",
        "empty",       "zipf",      "duplicates",        "all_to_one_rank",
        "all_dropped", "neighbour", "empty_ranks",       "all_to_one_expert"};
    epf_rng rng = epf_rng_make(s->seed, 99);

    for (int32_t i = 0; i < NUM_CASES; i++) {
        char text[EPF_PROBLEM_TEXT];
        (void)snprintf(text, sizeof text, "W%dE%dK3T17H24N16M8C1/%s/seed%llu%s", num_ranks,
                       2 * num_ranks, routings[i], (unsigned long long)(s->seed + (uint64_t)i),
                       epf_rng_below(&rng, 2) == 0 ? "" : "/fuse_scatter");
        const epf_problem problem = epf_problem_of(text);
        const op_knobs knobs = {.num_workers = 2,
                                .num_buffers = NUM_SETS,
                                .buffer = i % NUM_SETS,
                                .block_wise = epf_rng_below(&rng, 2) == 0,
                                .own_outputs = epf_rng_below(&rng, 2) == 0,
                                .in_place = epf_rng_below(&rng, 4) == 0,
                                .gates = epf_rng_below(&rng, 2) == 0,
                                .combine_weights = epf_rng_below(&rng, 2) == 0,
                                .reversed = true,
                                .repeat = 1};
        s->data[i] = epf_data_make(&problem);
        s->cases[i] = op_case_make(s->data[i], &knobs, processes);
        s->cases[i]->user = s;
    }
}

static int32_t run(sequence s, int32_t num_ranks, bool processes)
{
    int32_t failed;
    char name[96];

    make_cases(&s, num_ranks, processes);
    (void)snprintf(name, sizeof name, "test_op_sequence %llu %d %d", (unsigned long long)s.seed,
                   s.steps, s.max_delay_ms);
    failed = op_run_function(s.cases[0], run_rank, 0, name);
    for (int32_t i = 0; i < NUM_CASES; i++) {
        op_case_free(s.cases[i]);
        epf_data_free(s.data[i]);
    }
    return failed;
}

int main(int argc, char **argv)
{
    const sequence s = {.seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1,
                        .steps = argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 20,
                        .max_delay_ms = argc > 3 ? (int32_t)strtol(argv[3], NULL, 10) : 0};
    int32_t failed = 0;

    for (int32_t num_ranks = 1; num_ranks <= 4; num_ranks++) {
        failed += run(s, num_ranks, false);
    }
    failed += run(s, 3, true);
    return op_finish(failed);
}
