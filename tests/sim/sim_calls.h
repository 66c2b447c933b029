/*
 * sim_calls.h: one rank's calls, checked against the reference, and what it may answer after a fault.
 */
#ifndef SIM_CALLS_H
#define SIM_CALLS_H

#include "sim_plan.h"

typedef struct run_rank {
    const sim_plan *plan;
    epf_test_rank rank;
    char failure[EPF_RUNNER_TEXT];
    epf_group *group;
    epf_op *op;
    op_rank cases[MAX_CASES]; /* what the caller brings and gets */
    epf_layer_context *context;
    int32_t position; /* of the call in the plan */
    uint64_t num_calls;
} run_rank;

/* Makes the operator; the status is the library's. */
epf_status rank_open(run_rank *k);
void rank_close(run_rank *k);

/* Makes the call and checks its results, its status and its time; a failure ends the run.  Returns EPF_OK
 * where the next call may be made. */
epf_status rank_call(run_rank *k, const plan_call *call);

/* epf_op_reset() after an error of any rank; all ranks that live come here together. */
epf_status rank_reset(run_rank *k);

#endif
