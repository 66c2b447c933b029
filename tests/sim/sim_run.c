/* sim_run.c: one number's run: ranks, episodes, verdict. */
#include "sim_run.h"

#include <stdio.h>
#include <string.h>

#include "api/epf_group.h"
#include "api/epf_op.h"
#include "comm/epf_comm.h"
#include "cpu/epf_worker.h"
#include "sim_calls.h"
#include "support/epf_check.h"

enum { MAX_RESETS = 3 };

static sim_plan plan;
static run_rank ranks[SIM_MAX_RANKS];
static epf_comm *comms[SIM_MAX_RANKS];
static uint64_t num_resets;

/* ---- a group whose ranks can die: the threads' own, but for who is dead ---- */

static int32_t find_dead(epf_comm *comm)
{
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        if (sim_is_dead(r)) {
            return r;
        }
    }
    return -1;
}

static epf_comm_ops mortal_ops;

static void make_group(void)
{
    epf_comm_config config;
    epf_comm_config_init(&config);
    config.num_ranks = plan.config.num_ranks;
    config.timeout_ns = plan.timeout_ns;
    CHECK_OK(epf_comm_create_threads(&config, comms));
    mortal_ops = *comms[0]->ops;
    mortal_ops.find_dead = find_dead;
    for (int32_t r = 0; r < config.num_ranks; r++) {
        comms[r]->ops = &mortal_ops;
        CHECK_OK(epf_group_adopt(comms[r], &ranks[r].group));
    }
}

/* Collectives of the threads wait for who has not left: the dead has. */
static void leave_group(int32_t rank)
{
    epf_comm_destroy(comms[rank]);
}

/* op_case.c knows groups of its own; these ranks have theirs. */
bool op_open_group(epf_test_rank *rank, op_case *c, epf_group **group)
{
    (void)rank;
    (void)c;
    (void)group;
    return false;
}

void op_close_group(op_case *c, epf_group *group)
{
    (void)c;
    (void)group;
}

/* ---- a rank ---- */

/* After an episode: together, reset if any rank had an error.  False: the run is over. */
static bool recover(run_rank *k, epf_status st)
{
    int32_t worst = sim_meet(st != EPF_OK ? 1 : 0);
    for (int32_t i = 0; (i < MAX_RESETS || worst == SIM_MEET_DEAD) && worst != 0; i++) {
        st = rank_reset(k);
        if (worst == SIM_MEET_DEAD && st != EPF_E_PEER) {
            sim_fail("rank %d: a reset with a dead rank gave status %d", k->rank.rank, (int)st);
        }
        num_resets += st == EPF_OK ? 1 : 0;
        if (worst == SIM_MEET_DEAD) {
            return false;
        }
        worst = sim_meet(st != EPF_OK ? 1 : 0);
    }
    if (worst != 0) {
        sim_fail("rank %d: %d resets did not help", k->rank.rank, (int)MAX_RESETS);
    }
    return true;
}

/* Where nothing can go wrong, ranks may part after their last call: who is first ends its operator while others
 * still read from it. */
static bool is_last(int32_t episode)
{
    const plan_episode *const last = &plan.episodes[plan.num_episodes - 1];
    return episode == plan.num_episodes - 1 && plan.seed % 2 == 0 && plan.config.num_faults == 0 &&
           last->calls[last->num_calls - 1].kind != CALL_ODD_DISPATCH;
}

static void *rank_main(void *argument)
{
    run_rank *const k = argument;
    epf_status st = rank_open(k);
    if (st != EPF_OK && sim_fault_now() == NULL) {
        sim_fail("rank %d: create: status %d: %s", k->rank.rank, (int)st, epf_last_error());
    }
    if (sim_meet(st != EPF_OK ? 1 : 0) == 0) {
        for (int32_t e = 0; e < plan.num_episodes; e++) {
            const plan_episode *const episode = &plan.episodes[e];
            st = EPF_OK;
            for (int32_t i = 0; i < episode->num_calls && st == EPF_OK; i++) {
                k->position = e * MAX_CALLS + i;
                st = rank_call(k, &episode->calls[i]);
            }
            if (is_last(e) || !recover(k, st)) {
                break;
            }
        }
    }
    rank_close(k);
    return NULL;
}

/* ---- names in the trace ---- */

static bool name_control(const epf_op *op, int32_t owner, int64_t at, char *text, size_t size)
{
#define X(name, bytes, alignment)                                                  \
    if (at >= op->control_map.name && at < op->control_map.name + (bytes)) {       \
        (void)snprintf(text, size, "%d:%s[%lld]", owner, #name,                    \
                       (long long)((at - op->control_map.name) / EPF_WORD_BYTES)); \
        return true;                                                               \
    }
    EPF_CONTROL_MAP(X, &op->shape)
#undef X
    return false;
}

static bool name_set(const epf_op *op, const epf_buffer_set *set, int64_t at, char *text,
                     size_t size)
{
#define X(name, bytes, alignment)                                                  \
    if (at >= set->map.name && at < set->map.name + (bytes)) {                     \
        (void)snprintf(text, size, "set%d.%s[%lld]", (int)(set - op->sets), #name, \
                       (long long)((at - set->map.name) / EPF_WORD_BYTES));        \
        return true;                                                               \
    }
    EPF_SET_MAP(X, &op->shape, set->map.rows)
#undef X
    return false;
}

static bool name_local(const epf_exec *exec, const void *address, char *text, size_t size)
{
    const uint64_t *const word = address;
    if (word >= exec->tickets && word < exec->tickets + EPF_NUM_TASK_CLASSES) {
        (void)snprintf(text, size, "tickets[%d]", (int)(word - exec->tickets));
    } else if (word == &exec->gemm_done) {
        (void)snprintf(text, size, "gemm_done");
    } else if (word >= exec->tile_ready && word < exec->tile_ready + exec->max_tiles) {
        (void)snprintf(text, size, "tile_ready[%d]", (int)(word - exec->tile_ready));
    } else if (word >= exec->tile_done && word < exec->tile_done + exec->max_tiles) {
        (void)snprintf(text, size, "tile_done[%d]", (int)(word - exec->tile_done));
    } else if (word >= exec->expert_ready && word < exec->expert_ready + exec->max_experts) {
        (void)snprintf(text, size, "expert_ready[%d]", (int)(word - exec->expert_ready));
    } else if (address == &exec->failed || address == &exec->lock || address == &exec->wake ||
               address == &exec->idle) {
        (void)snprintf(text, size, address == &exec->failed ? "failed" : "executor");
    } else {
        return false;
    }
    return true;
}

static bool is_in(const epf_op_window *window, int64_t bytes, int32_t owner, const uint8_t *at)
{
    return window->base != NULL && at >= window->base[owner] && at < window->base[owner] + bytes;
}

static bool name_address(const void *address, char *text, size_t size)
{
    for (int32_t r = 0; r < plan.config.num_ranks; r++) {
        const epf_op *const op = ranks[r].op;
        const uint8_t *const at = address;
        if (op == NULL) {
            continue;
        }
        if (op->exec != NULL && name_local(op->exec, address, text, size)) {
            return true;
        }
        if (is_in(&op->control, op->control_map.total_bytes, r, at) &&
            name_control(op, r, at - op->control.base[r], text, size)) {
            return true;
        }
        for (int32_t s = 0; s < op->config.duplicate_comm_buffer; s++) {
            const epf_buffer_set *const set = &op->sets[s];
            if (is_in(&set->window, set->map.total_bytes, r, at)) {
                const int used = snprintf(text, size, "%d:", r);
                return name_set(op, set, at - set->window.base[r], text + used,
                                size - (size_t)used);
            }
        }
    }
    return false;
}

/* ---- the run ---- */

static void prepare_ranks(void)
{
    memset(ranks, 0, sizeof ranks);
    for (int32_t r = 0; r < plan.config.num_ranks; r++) {
        run_rank *const k = &ranks[r];
        k->plan = &plan;
        k->rank.rank = r;
        k->rank.num_ranks = plan.config.num_ranks;
        k->rank.failure = k->failure;
    }
}

/* What ranks that did not come to their end have left to the test itself. */
static void clean_up(bool is_whole)
{
    for (int32_t r = 0; r < plan.config.num_ranks; r++) {
        for (int32_t c = 0; c < plan.num_cases; c++) {
            ranks[r].cases[c].layout = NULL;
            op_return(&ranks[r].cases[c]);
        }
        if (is_whole) {
            epf_group_destroy(ranks[r].group);
        }
    }
}

static void add_totals(run_totals *t, const sim_result *result)
{
    t->passed += result->failed ? 0 : 1;
    t->failed += result->failed ? 1 : 0;
    t->steps += result->steps;
    t->switches += result->switches;
    t->resets += num_resets;
    for (int32_t r = 0; r < plan.config.num_ranks; r++) {
        t->calls += ranks[r].num_calls;
    }
    for (int32_t i = 0; i < SIM_NUM_FAULT_KINDS; i++) {
        t->faults[i] += result->num_faults[i];
    }
}

bool run_seed(uint64_t seed, const run_options *options, run_totals *totals)
{
    sim_result result;
    bool is_whole;
    if (!plan_make(&plan, seed)) {
        totals->passed++;
        return true;
    }
    if (options->verbose) {
        plan_print(&plan);
    }
    plan.config.on_kill = leave_group;
    plan.config.trace = options->verbose;
    num_resets = 0;
    prepare_ranks();
    sim_begin(&plan.config);
    make_group();
    for (int32_t r = 0; r < plan.config.num_ranks; r++) {
        sim_spawn_rank(r, rank_main, &ranks[r]);
    }
    sim_run(&result);
    if (options->verbose && (result.failed || options->trace_length > 0)) {
        sim_print_trace(name_address, options->trace_length > 0 ? options->trace_length : 60);
    }
    is_whole = result.num_faults[SIM_FAULT_KILL] == 0;
    clean_up(!result.failed && is_whole);
    sim_end(&result, is_whole);
    add_totals(totals, &result);
    if (result.failed) {
        printf("seed %llu: %s\n", (unsigned long long)seed, result.text);
    }
    plan_free(&plan);
    return !result.failed;
}
