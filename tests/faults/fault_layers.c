/*
 * fault_layers.c: layers of random batches on groups of 1 to 8 ranks, in every type and with every
 * tile product: each token has the bits that one rank with one worker gives it.
 */
#include <stdio.h>

#include "cli_verify.h"
#include "fault_pool.h"
#include "fault_world.h"
#include "support/epf_check.h"
#include "support/epf_runner.h"

enum { LAYERS_PER_GROUP = 400, MAX_TOKENS = 12, NUM_POOLS = 6, PROCESSES_EVERY = 10 };

/* One group's life. */
typedef struct round {
    verify_run *run;
    const fault_pool *pool;
    epf_group *groups[FAULT_MAX_RANKS]; /* of threads */
    uint64_t number;
    uint32_t num_layers;
    bool packed;
} round_plan;

static bool run_layers(epf_test_rank *rank, round_plan *plan, epf_group *group)
{
    epf_rng own = epf_rng_make(plan->run->seed ^ plan->number, 10 + (uint64_t)rank->rank);
    const fault_knobs knobs = {MAX_TOKENS, 1 + epf_rng_below(&own, 3), plan->packed};
    fault_rank r;
    bool ok = true;
    epf_status st = fault_rank_open(&r, plan->pool, group, &knobs);

    for (uint32_t i = 0; i < plan->num_layers && st == EPF_OK && ok; i++) {
        int32_t wrong;
        fault_rank_draw(&r, &own);
        st = fault_rank_layer(&r, i);
        wrong = st == EPF_OK ? fault_rank_check(&r) : -1;
        ok = wrong < 0;
        if (!ok) {
            verify_fail(plan->run,
                        "round %llu, layer %u: token %d of rank %d of %d (%d workers) has other "
                        "bits than alone",
                        (unsigned long long)plan->number, i, wrong, rank->rank, rank->num_ranks,
                        knobs.num_workers);
        } else if (rank->rank == 0 && st == EPF_OK) {
            verify_done(plan->run, 1);
        }
    }
    if (st != EPF_OK) {
        verify_fail(plan->run, "round %llu: rank %d of %d: %s", (unsigned long long)plan->number,
                    rank->rank, rank->num_ranks, epf_last_error());
    }
    fault_rank_close(&r);
    return ok && st == EPF_OK;
}

static void run_thread(epf_test_rank *rank)
{
    round_plan *const plan = rank->user;

    (void)run_layers(rank, plan, plan->groups[rank->rank]);
}

static void run_process(epf_test_rank *rank)
{
    round_plan *const plan = rank->user;
    epf_group *group = NULL;

    if (fault_join(&(fault_seat){rank->rank, rank->num_ranks, 0, plan->number}, &group) != EPF_OK) {
        verify_fail(plan->run, "rank %d: %s", rank->rank, epf_last_error());
        return;
    }
    (void)run_layers(rank, plan, group);
    epf_group_destroy(group);
}

/* False after a failure. */
static bool run_group(round_plan *plan, int32_t num_ranks, bool processes)
{
    const epf_run run = {.num_ranks = num_ranks,
                         .processes = processes,
                         .timeout_s = 600,
                         .function = processes ? run_process : run_thread,
                         .user = plan};
    int32_t failed;

    if (!processes) {
        CHECK_OK(epf_group_create_threads(num_ranks, NULL, plan->groups));
    }
    failed = epf_run_ranks(&run, "layers");
    for (int32_t r = 0; r < num_ranks && !processes; r++) {
        epf_group_destroy(plan->groups[r]);
    }
    if (failed > 0) {
        verify_fail(plan->run, "round %llu: %d of %d ranks ended early",
                    (unsigned long long)plan->number, failed, num_ranks);
    }
    return failed == 0;
}

/* Every type with the library's choice of product and with the portable one. */
static void make_pools(uint64_t seed, fault_pool *pools[NUM_POOLS])
{
    static const int32_t types[] = {EPF_DTYPE_BF16, EPF_DTYPE_F32, EPF_DTYPE_F16};

    for (int32_t i = 0; i < NUM_POOLS; i++) {
        const fault_shape shape = {.num_experts = 24,
                                   .topk = 1 + i % 4,
                                   .hidden = 8 * (1 + i),
                                   .intermediate = 8 * (NUM_POOLS - i),
                                   .num_tokens = 96,
                                   .dtype = types[i / 2],
                                   .gemm_library = i % 2 == 0 ? EPF_GEMM_LIBRARY_AUTO
                                                              : EPF_GEMM_LIBRARY_PORTABLE,
                                   .seed = seed + (uint64_t)i};
        pools[i] = fault_pool_make(&shape);
    }
}

void verify_layers(const verify_promise *promise, verify_run *run)
{
    static const int32_t sizes[] = {1, 2, 3, 4, 8};
    fault_pool *pools[NUM_POOLS];
    round_plan plan = {.run = run};
    const uint64_t fair = run->target / (sizeof sizes / sizeof sizes[0] * NUM_POOLS);

    (void)promise;
    make_pools(run->seed, pools);
    while (verify_more(run)) {
        const uint64_t left = run->target - run->done;
        const uint64_t most = fair < LAYERS_PER_GROUP ? fair + 1 : LAYERS_PER_GROUP;
        const int32_t num_ranks = sizes[plan.number % 5];
        plan.pool = pools[plan.number / 5 % NUM_POOLS];
        plan.packed = plan.number / 30 % 2 == 0;
        plan.num_layers = (uint32_t)(left < most ? left : most);
        if (!run_group(&plan, num_ranks, plan.number % PROCESSES_EVERY == PROCESSES_EVERY - 1)) {
            break;
        }
        plan.number++;
    }
    verify_note(run,
                "groups of 1, 2, 3, 4 and 8 ranks in turn, %llu groups, every tenth of processes",
                (unsigned long long)plan.number);
    for (int32_t i = 0; i < NUM_POOLS; i++) {
        fault_pool_free(pools[i]);
    }
}
