/*
 * epf_exec.h: the CPU executor: a rank's worker threads, which run a call by the schedule of epf_sched.h.
 */
#ifndef EPF_EXEC_H
#define EPF_EXEC_H

#include "comm/epf_comm.h"
#include "core/epf_call.h"
#include "prof/epf_prof.h"

typedef struct epf_exec epf_exec;

typedef struct epf_exec_config {
    epf_comm *comm;      /* whose peers must live, and whose timeout bounds every wait */
    int32_t num_workers; /* the calling thread included */
    const int32_t *cpus; /* [num_cpus] to pin workers 1.. to, round robin; NULL: no pinning */
    int32_t num_cpus;
} epf_exec_config;

epf_status epf_exec_create(const epf_exec_config *config, epf_exec **exec);
/* Accepts NULL. */
void epf_exec_destroy(epf_exec *exec);

int32_t epf_exec_num_workers(const epf_exec *exec);

/*
 * Runs the call on call->phase.num_workers workers, the calling thread as worker 0, and returns when all
 * have ended.  On failure `fault` says who waited for what; every rank's abort word is raised.
 */
epf_status epf_exec_run(epf_exec *exec, const epf_call *call, epf_prof *prof, epf_fault *fault);

/*
 * Waits on the calling thread until all words of `need` are there.  On failure as epf_exec_run().  Serves
 * the exchanges outside a phase (preprocess, barrier).
 */
epf_status epf_exec_wait(epf_exec *exec, const epf_call *call, const epf_need *need,
                         epf_fault *fault);

/* Tells every rank why this one gave up: faults[rank] and abort, in all control windows. */
void epf_exec_raise(const epf_call *call, const epf_fault *fault);

/* Local words start again from 0, as after creation; no call may be running. */
void epf_exec_zero(epf_exec *exec);

#endif
