/*
 * sim_plan.h: one number's run: a small problem, the calls that all ranks make, what goes wrong.
 */
#ifndef SIM_PLAN_H
#define SIM_PLAN_H

#include "op_case.h"
#include "sim.h"

enum { MAX_CASES = 3, MAX_CALLS = 12, MAX_EPISODES = 3 };

typedef enum call_kind {
    CALL_PREPROCESS,
    CALL_BAD_PREPROCESS, /* rank `rank` has an expert id that does not exist */
    CALL_DISPATCH,
    CALL_ODD_DISPATCH, /* rank `rank` uses the other buffer set */
    CALL_COMBINE,
    CALL_LAYER,
    CALL_BARRIER,
    CALL_RESET /* though nothing failed */
} call_kind;

typedef struct plan_call {
    call_kind kind;
    int32_t which; /* case */
    int32_t rank;
} plan_call;

/* Calls up to the first error; then all meet, and reset if any rank had one. */
typedef struct plan_episode {
    int32_t num_calls;
    plan_call calls[MAX_CALLS];
} plan_episode;

typedef struct sim_plan {
    uint64_t seed;
    char problem[EPF_PROBLEM_TEXT];
    sim_config config;
    uint64_t timeout_ns;
    uint32_t first_epoch; /* 0: the ordinary one */
    bool is_layer;        /* SwiGLU, and the layer's own function */
    int32_t num_cases;
    op_knobs knobs[MAX_CASES];
    epf_data *data[MAX_CASES]; /* 1 has the routing of 0 with other numbers, 2 another routing */
    op_case *cases[MAX_CASES];
    int32_t num_episodes;
    plan_episode episodes[MAX_EPISODES];
} sim_plan;

/* False: this number's routing does not fit its shape. */
bool plan_make(sim_plan *plan, uint64_t seed);
void plan_free(sim_plan *plan);
void plan_print(const sim_plan *plan);

const char *call_name(call_kind kind);

#endif
