/*
 * epf_launch.h: ranks as child processes of this one, for the command line and tests.
 */
#ifndef EPF_LAUNCH_H
#define EPF_LAUNCH_H

#include <stdint.h>

#include "comm/epf_comm.h"

/* Runs in the child, as its whole life; the return value is its exit code (0 .. 255). */
typedef int epf_launch_main(epf_comm *comm, void *context);

typedef struct epf_launch_result {
    int32_t rank;
    int32_t exit_code; /* what the rank's function returned; -1 where a signal ended it */
    int32_t signal;    /* that signal; 0 where none did                                 */
} epf_launch_result;

/*
 * Forks config->num_ranks children, connects them to a group, runs `rank_main` in each and reaps
 * all. Call it before this process has threads.  When a rank fails (exit code other than 0, or a
 * signal), the others have `grace_ns` to notice and end by themselves and are killed after that.
 * Children die with this process.  results[num_ranks] is filled whenever children ran; the status
 * is EPF_OK where all returned 0, EPF_E_PEER where one did not, and the recorded text names the
 * first rank that failed and how.
 */
epf_status epf_launch(const epf_comm_config *config, uint64_t grace_ns, epf_launch_main *rank_main,
                      void *context, epf_launch_result *results);

#endif
