/*
 * sim_run.h: one number's run, from plan to verdict.
 */
#ifndef SIM_RUN_H
#define SIM_RUN_H

#include "sim_plan.h"

typedef struct run_options {
    bool verbose;         /* the plan, and the trace of a failing run */
    int32_t trace_length; /* events shown */
} run_options;

/* What many runs have come to. */
typedef struct run_totals {
    uint64_t passed, failed, steps, switches, calls, resets;
    uint64_t faults[SIM_NUM_FAULT_KINDS]; /* that happened */
} run_totals;

/* False if the run failed; it has printed why. */
bool run_seed(uint64_t seed, const run_options *options, run_totals *totals);

#endif
