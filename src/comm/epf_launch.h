/*
 * epf_launch.h: ranks as child processes of this one, for the command line and tests.
 */
#ifndef EPF_LAUNCH_H
#define EPF_LAUNCH_H

#include <stdbool.h>
#include <stdint.h>

#include "comm/epf_comm.h"

/* Runs in the child, as its whole life; the return value is its exit code (0 .. 255).
 * Its handle is destroyed after it.  The child ends without the parent's atexit handlers. */
typedef int epf_launch_main(epf_comm *comm, void *context);

typedef struct epf_launch_result {
    int32_t exit_code; /* what the rank's function returned; -1 where it did not return    */
    int32_t signal;    /* that ended the rank; 0 where none did                            */
    int32_t status;    /* epf_status of joining the group; the function ran only if EPF_OK */
    bool killed;       /* by the launcher, after another rank had failed                   */
    uint64_t ended_ns; /* when its function returned (epf_now_ns); 0 where it did not */
    char text[256];    /* the rank's last recorded error; "" if none                       */
} epf_launch_result;

/*
 * Forks config->num_ranks children, connects them to a group, runs `rank_main` in each, reaps all.
 * Call it before this process has threads.  When a rank fails (a value other than 0, a signal, or
 * no group), the others have `grace_ns` to notice and end by themselves, and are killed after that.
 * Children die with the calling thread.  results[num_ranks] is filled whenever children ran; the
 * status is EPF_OK where all returned 0 and EPF_E_PEER where one did not; the recorded text then
 * names the rank that failed first, and how.
 */
epf_status epf_launch(const epf_comm_config *config, uint64_t grace_ns, epf_launch_main *rank_main,
                      void *context, epf_launch_result *results);

#endif
