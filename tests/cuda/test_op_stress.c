/*
 * test_op_stress: layers back to back, none of them waited for, each rank late by random times, and on a device each
 * role of each CTA: several layouts and results are under way at once, and every one of them is exact.
 *
 *     test_op_stress [SEED [BATCHES [MAX_DELAY_US]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/epf_op.h"
#include "cuda/epf_cuda_backend.h"
#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"
#include "support/epf_space.h"

enum { NUM_CASES = 5, ROLE_DELAY_NS = 500 /* at most, for each us of the ranks' */ };

typedef struct stress {
    uint64_t seed;
    int32_t batches;
    int32_t max_delay_us;
    op_case *cases[NUM_CASES];
} stress;

static void delay(const stress *s, epf_rng *own)
{
    if (epf_rng_below(own, 3) == 0) {
        const struct timespec time = {0, 1000L * epf_rng_below(own, s->max_delay_us + 1)};
        (void)nanosleep(&time, NULL);
    }
}

/* Each case at most once a batch: its tensors hold one call's results. */
static bool batch(const stress *s, op_rank *ranks, epf_rng *shared, epf_rng *own)
{
    epf_group_gemm_combine_result results[NUM_CASES];
    const int32_t first = epf_rng_below(shared, NUM_CASES);
    const int32_t count = epf_rng_range(shared, 1, NUM_CASES);
    bool ok = true;

    for (int32_t i = 0; i < count && ok; i++) {
        delay(s, own);
        ok = op_enqueue(&ranks[(first + i) % NUM_CASES], &results[i]);
    }
    delay(s, own);
    for (int32_t i = 0; i < count && ok; i++) {
        ok = op_check_enqueued(&ranks[(first + i) % NUM_CASES], &results[i]);
    }
    return ok;
}

static void run_rank(epf_test_rank *rank)
{
    const stress *s = rank->user;
    epf_rng shared = epf_rng_make(s->seed, 300);
    epf_rng own = epf_rng_make(s->seed, 301 + (uint64_t)rank->rank);
    op_rank ranks[NUM_CASES];
    bool ok;

    memset(ranks, 0, sizeof ranks);
    ok = op_open(&ranks[0], s->cases[0], rank);
    if (ok && epf_space_is_device()) {
        epf_cuda_op_delay_roles(ranks[0].op->cuda, (uint64_t)s->max_delay_us * ROLE_DELAY_NS);
    }
    for (int32_t i = 1; i < NUM_CASES && ok; i++) {
        op_borrow(&ranks[i], s->cases[i], &ranks[0]);
    }
    for (int32_t i = 0; i < s->batches && ok; i++) {
        ok = batch(s, ranks, &shared, &own);
    }
    for (int32_t i = NUM_CASES - 1; i > 0; i--) {
        op_return(&ranks[i]);
    }
    op_close(&ranks[0]);
}

/* One shape and one set, worst-case buffers; routings, numbers, modes and gates differ. */
static int32_t run(stress s, const char *shape)
{
    static const char *const routings[NUM_CASES] = {"uniform", "uneven_T_per_rank",
                                                    "all_to_one_rank", "some_dropped", "zipf"};
    epf_data *data[NUM_CASES];
    char name[96];
    int32_t failed;

    for (int32_t i = 0; i < NUM_CASES; i++) {
        const op_knobs knobs = {.own_outputs = true,
                                .no_regrow = true,
                                .block_wise = i % 2 == 0,
                                .gates = i < 2,
                                .combine_weights = i == 3};
        char text[EPF_PROBLEM_TEXT];
        (void)snprintf(text, sizeof text, "%s/%s/seed%llu%s", shape, routings[i],
                       (unsigned long long)s.seed + (unsigned long long)i,
                       i % 2 == 0 ? "/fuse_scatter" : "");
        const epf_problem problem = epf_problem_of(text);
        data[i] = epf_data_make(&problem);
        s.cases[i] = op_case_make(data[i], &knobs, false);
    }
    s.cases[0]->user = &s;
    (void)snprintf(name, sizeof name, "test_op_stress %llu %d %d", (unsigned long long)s.seed,
                   s.batches, s.max_delay_us);
    failed = op_run_function(s.cases[0], run_rank, 0, name);
    for (int32_t i = 0; i < NUM_CASES; i++) {
        op_case_free(s.cases[i]);
        epf_data_free(data[i]);
    }
    return failed;
}

int main(int argc, char **argv)
{
    const stress s = {.seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1,
                      .batches = argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 120,
                      .max_delay_us = argc > 3 ? (int32_t)strtol(argv[3], NULL, 10) : 300};

    return op_finish(run(s, "W1E4K2T64H128N64") + run(s, "W2E4K2T64H128N64") +
                     run(s, "W4E8K3T48H64N72") + run(s, "W8E16K2T40H64N64"));
}
