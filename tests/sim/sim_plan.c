/* sim_plan.c: everything that a run's number decides, but the order of steps. */
#include "sim_plan.h"

#include <stdio.h>
#include <string.h>

#include "core/epf_counter.h"
#include "support/epf_check.h"

static bool one_in(epf_rng *rng, int32_t n)
{
    return epf_rng_below(rng, n) == 0;
}

static int32_t pick(epf_rng *rng, const int32_t *values, int32_t count)
{
    return values[epf_rng_below(rng, count)];
}

#define PICK(rng, ...)                          \
    pick((rng), (const int32_t[]){__VA_ARGS__}, \
         (int32_t)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

static const char *routing_name(epf_rng *rng)
{
    static const char *const names[] = {
        "uniform",   "uniform",     "zipf",        "uneven_T_per_rank", "some_dropped",
        "empty",     "one_token",   "duplicates",  "all_to_one_rank",   "all_dropped",
        "neighbour", "empty_ranks", "some_dropped"};
    return names[epf_rng_below(rng, (int32_t)(sizeof names / sizeof names[0]))];
}

static void random_problem(sim_plan *p, epf_rng *rng, const char *routing, uint64_t seed)
{
    const int32_t ranks = PICK(rng, 1, 2, 2, 2, 3, 3, 4);
    const int32_t topk = PICK(rng, 1, 2, 2, 3);
    const int32_t experts = ranks * PICK(rng, 1, 2, 2, 3);
    const int32_t capacity = PICK(rng, ranks, ranks, 1);
    const int32_t tokens = PICK(rng, 1, 2, 4, 6, 9);
    const int32_t hidden = PICK(rng, 8, 16);
    const int32_t columns = p->is_layer ? 16 : PICK(rng, 8, 16, 24);
    const int32_t block_m = PICK(rng, 1, 2, 4, 8);
    const bool is_fp32 = one_in(rng, 3);
    const bool is_scatter = one_in(rng, 2);
    (void)snprintf(p->problem, sizeof p->problem, "W%dE%dK%dT%dH%dN%dM%dC%d/%s/seed%llu%s%s", ranks,
                   experts < topk ? ranks * topk : experts, topk, tokens, hidden, columns, block_m,
                   capacity, routing, (unsigned long long)seed, is_fp32 ? "/fp32" : "",
                   is_scatter ? "/fuse_scatter" : "");
}

/* Workers that move, expand, scatter or reduce: whatever the library allows. */
static void random_workers(epf_rng *rng, op_knobs *k)
{
    int32_t senders;
    k->num_workers = PICK(rng, 1, 2, 2, 3);
    k->optional_sm = epf_rng_range(rng, 0, k->num_workers);
    senders = k->optional_sm > 0 ? k->optional_sm : 1;
    k->num_tail_sms = epf_rng_range(rng, 0, k->num_workers - senders);
    k->combine_sm = epf_rng_range(rng, 0, k->num_workers - 1);
    k->num_reduce_sms = epf_rng_range(rng, 0, k->num_workers - 1 - k->combine_sm);
}

static op_knobs random_knobs(const sim_plan *p, epf_rng *rng)
{
    op_knobs k = {.repeat = 1};
    random_workers(rng, &k);
    k.gemm_library = EPF_GEMM_LIBRARY_PORTABLE;
    k.block_n = 8;
    if (one_in(rng, 6)) {
        const op_knobs mixed = {.repeat = 1, .mixed = true, .gemm_library = k.gemm_library};
        k = mixed;
    }
    k.group_m = PICK(rng, 1, 2, 3);
    k.num_warps = PICK(rng, 1, 2, 3, 16);
    k.num_buffers = PICK(rng, 1, 2);
    k.block_wise = one_in(rng, 2);
    k.combine_weights = !p->is_layer && one_in(rng, 3);
    k.reversed = one_in(rng, 4);
    k.swiglu = p->is_layer;
    k.own_outputs = p->is_layer || one_in(rng, 2);
    k.no_weights = !p->is_layer && one_in(rng, 4);
    k.gates = one_in(rng, 2);
    k.gates_in_place = k.gates && one_in(rng, 3);
    k.in_place = one_in(rng, 5);
    k.signal = !k.mixed && one_in(rng, 8);
    k.grad_dtype = !p->is_layer && one_in(rng, 4) ? EPF_DTYPE_F32 : 0;
    return k;
}

/* Data and expectations of case `which`. */
static bool make_case(sim_plan *p, epf_rng *rng, int32_t which)
{
    epf_problem problem;
    char text[EPF_PROBLEM_TEXT];
    if (which == 0) {
        problem = epf_problem_of(p->problem);
        p->data[0] = epf_data_make(&problem);
    } else if (which == 1) {
        p->data[1] = epf_data_again(p->data[0], p->seed + 1000000007u);
    } else {
        problem = p->data[0]->problem;
        problem.seed += 77;
        problem.routing = routing_name(rng);
        problem.fuse_scatter = one_in(rng, 2);
        problem = epf_problem_of(epf_problem_print(&problem, text));
        p->data[2] = epf_data_make(&problem);
    }
    if (p->data[which] == NULL) {
        return false;
    }
    p->knobs[which] = p->knobs[0];
    p->knobs[which].buffer = epf_rng_below(rng, p->knobs[0].num_buffers);
    if (which > 0) {
        p->knobs[which].gates = one_in(rng, 2);
        p->knobs[which].gates_in_place = p->knobs[which].gates && one_in(rng, 3);
        p->knobs[which].in_place = one_in(rng, 5);
        p->knobs[which].block_wise = one_in(rng, 2);
    }
    p->cases[which] = op_case_make(p->data[which], &p->knobs[which], false);
    return true;
}

/* What is there to use at some point of an episode. */
typedef struct progress {
    bool has_layout[MAX_CASES];
    bool has_rows[MAX_CASES]; /* of dispatch, to combine */
} progress;

static int32_t layout_of(int32_t which)
{
    return which == 1 ? 0 : which;
}

/* A dispatch into a set ends what another one left there, unless outputs are the callers' own. */
static void note_dispatch(const sim_plan *p, progress *g, int32_t which)
{
    for (int32_t c = 0; c < p->num_cases; c++) {
        if (!p->knobs[c].own_outputs && p->knobs[c].buffer == p->knobs[which].buffer) {
            g->has_rows[c] = false;
        }
    }
    g->has_rows[which] = true;
}

static void note_preprocess(progress *g, int32_t which)
{
    for (int32_t c = 0; c < MAX_CASES; c++) {
        if (layout_of(c) == layout_of(which)) {
            g->has_layout[c] = true;
            g->has_rows[c] = false;
        }
    }
}

static plan_call random_call(const sim_plan *p, epf_rng *rng, progress *g)
{
    plan_call call = {.which = epf_rng_below(rng, p->num_cases)};
    const int32_t chance = epf_rng_below(rng, 16);
    call.rank = epf_rng_below(rng, p->config.num_ranks);
    if (chance == 0) {
        call.kind = one_in(rng, 4) ? CALL_RESET : CALL_BARRIER;
        if (call.kind == CALL_RESET) {
            memset(g, 0, sizeof *g); /* layouts live on, but that is not promised */
        }
    } else if (chance == 1) {
        call.kind = CALL_BAD_PREPROCESS;
        call.which = layout_of(call.which);
        note_preprocess(g, call.which);
        for (int32_t c = 0; c < MAX_CASES; c++) {
            g->has_layout[c] = g->has_layout[c] && layout_of(c) != call.which;
        }
    } else if (chance < 4 && p->is_layer) {
        call.kind = CALL_LAYER;
        note_dispatch(p, g, call.which);
        g->has_rows[call.which] = false;
    } else if (!g->has_layout[call.which] || chance == 4) {
        call.kind = CALL_PREPROCESS;
        call.which = layout_of(call.which);
        note_preprocess(g, call.which);
    } else if (chance == 5 && p->knobs[0].num_buffers > 1 &&
               p->data[0]->problem.capacity >= p->config.num_ranks) { /* nobody has to regrow */
        call.kind = p->knobs[call.which].in_place ? CALL_DISPATCH : CALL_ODD_DISPATCH;
        note_dispatch(p, g, call.which);
    } else if (!g->has_rows[call.which] || chance < 8) {
        call.kind = CALL_DISPATCH;
        note_dispatch(p, g, call.which);
    } else {
        call.kind = CALL_COMBINE;
    }
    return call;
}

static void random_calls(sim_plan *p, epf_rng *rng)
{
    p->num_episodes = PICK(rng, 1, 1, 2, 3);
    for (int32_t e = 0; e < p->num_episodes; e++) {
        progress g = {{false}, {false}};
        p->episodes[e].num_calls = epf_rng_range(rng, 3, MAX_CALLS);
        for (int32_t i = 0; i < p->episodes[e].num_calls; i++) {
            p->episodes[e].calls[i] = random_call(p, rng, &g);
            if (p->episodes[e].calls[i].kind == CALL_ODD_DISPATCH) {
                p->episodes[e].num_calls = i + 1; /* some ranks need a reset, some may not */
            }
        }
    }
}

static sim_fault random_fault(const sim_plan *p, epf_rng *rng)
{
    sim_fault f = {.rank = epf_rng_below(rng, p->config.num_ranks)};
    f.at = epf_rng_next(rng) >> 52;
    f.at = 1 + (f.at >> epf_rng_below(rng, 12));
    f.kind = one_in(rng, 3) ? SIM_FAULT_PAUSE : SIM_FAULT_STALL;
    switch (epf_rng_below(rng, 4)) {
    case 0:
        f.kind = SIM_FAULT_KILL;
        break;
    case 3:
        f.kind = SIM_FAULT_MEMORY;
        f.at = (uint64_t)epf_rng_range(rng, 1, 80);
        break;
    case 1: /* shorter than the timeout */
        f.duration_ns = (uint64_t)(epf_rng_uniform(rng) * 0.5 * (double)p->timeout_ns);
        break;
    default:
        f.duration_ns = (uint64_t)((1 + 4 * epf_rng_uniform(rng)) * (double)p->timeout_ns);
    }
    return f;
}

/* Half of the runs have none; nothing comes after a death. */
static void random_faults(sim_plan *p, epf_rng *rng)
{
    sim_config *const c = &p->config;
    const int32_t wanted = PICK(rng, 0, 0, 0, 1, 2, 3);
    while (c->num_faults < wanted) {
        c->faults[c->num_faults] = random_fault(p, rng);
        if (c->faults[c->num_faults++].kind == SIM_FAULT_KILL) {
            break;
        }
    }
}

static void random_scheduling(sim_plan *p, epf_rng *rng)
{
    sim_config *const c = &p->config;
    c->seed = p->seed;
    c->policy = (sim_policy)epf_rng_below(rng, SIM_NUM_POLICIES);
    c->slow_rank = epf_rng_below(rng, c->num_ranks);
    c->step_ns = (uint64_t)PICK(rng, 10, 50, 200);
    c->max_delay_ns = c->step_ns * (uint64_t)PICK(rng, 0, 4, 40, 400, 4000);
    c->max_steps = 4000000;
    /* A call's tasks may each wait for late stores; its peers wait for all of them. */
    p->timeout_ns = 30000000 + 200 * c->max_delay_ns;
    p->first_epoch = one_in(rng, 4) ? EPF_EPOCH_LAST - (uint32_t)epf_rng_below(rng, 12) : 0;
}

bool plan_make(sim_plan *p, uint64_t seed)
{
    epf_rng rng = epf_rng_make(seed, 201);
    const char *routing;
    memset(p, 0, sizeof *p);
    p->seed = seed;
    p->is_layer = one_in(&rng, 4);
    routing = routing_name(&rng);
    random_problem(p, &rng, routing, 1 + seed % 1000);
    p->config.num_ranks = epf_problem_of(p->problem).num_ranks;
    random_scheduling(p, &rng);
    random_faults(p, &rng);
    p->knobs[0] = random_knobs(p, &rng);
    p->num_cases = PICK(&rng, 1, 2, 3);
    for (int32_t c = 0; c < p->num_cases; c++) {
        if (!make_case(p, &rng, c)) {
            p->num_cases = c;
            break;
        }
    }
    random_calls(p, &rng);
    return p->num_cases > 0;
}

void plan_free(sim_plan *p)
{
    for (int32_t c = 0; c < MAX_CASES; c++) {
        op_case_free(p->cases[c]);
        epf_data_free(p->data[c]);
    }
}

const char *call_name(call_kind kind)
{
    static const char *const names[] = {"preprocess", "preprocess of bad ids",
                                        "dispatch",   "dispatch of an odd set",
                                        "combine",    "layer",
                                        "barrier",    "reset"};
    return names[kind];
}

void plan_print(const sim_plan *p)
{
    static const char *const policies[] = {"uniform", "sticky", "priority", "slow rank"};
    static const char *const faults[] = {"no fault", "kill", "stall", "pause", "allocation fails"};
    const op_knobs *const k = &p->knobs[0];
    printf("seed %llu: %s\n", (unsigned long long)p->seed, p->problem);
    printf("  %s, %llu ns a step, stores up to %llu ns late, first epoch %x\n",
           policies[p->config.policy], (unsigned long long)p->config.step_ns,
           (unsigned long long)p->config.max_delay_ns, p->first_epoch);
    for (int32_t i = 0; i < p->config.num_faults; i++) {
        const sim_fault *const f = &p->config.faults[i];
        printf("  %s: rank %d at %llu for %llu ns\n", faults[f->kind], f->rank,
               (unsigned long long)f->at, (unsigned long long)f->duration_ns);
    }
    printf("  %d workers, dispatch %d + %d, combine %d + %d, %d sets%s%s\n", k->num_workers,
           k->optional_sm, k->num_tail_sms, k->combine_sm, k->num_reduce_sms, k->num_buffers,
           k->own_outputs ? ", own outputs" : "", p->is_layer ? ", swiglu" : "");
    for (int32_t c = 0; c < p->num_cases; c++) {
        char text[EPF_PROBLEM_TEXT];
        printf("  case %d: %s, set %d%s%s\n", c, epf_problem_print(&p->data[c]->problem, text),
               p->knobs[c].buffer, p->knobs[c].gates ? ", gates" : "",
               p->knobs[c].block_wise ? ", block-wise" : "");
    }
    for (int32_t e = 0; e < p->num_episodes; e++) {
        printf("  episode %d:", e);
        for (int32_t i = 0; i < p->episodes[e].num_calls; i++) {
            printf(" %s(%d)", call_name(p->episodes[e].calls[i].kind),
                   p->episodes[e].calls[i].which);
        }
        printf("\n");
    }
}
