/*
 * epf_env.h: what launchers tell a rank through environment variables.
 */
#ifndef EPF_ENV_H
#define EPF_ENV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_status.h"

typedef struct epf_env {
    const char *family; /* "epfuse", "torchrun", "Open MPI", "PMI", "srun"; NULL: none found */
    int32_t rank;
    int32_t num_ranks;
    char variables[160]; /* the names that decided, for people                        */
    char job[256];       /* what ranks of this job share and others' do not           */
} epf_env;

/* Looks for one family after the other, our own first, by `get` (secure_getenv but in tests).  The job is
 * EPFUSE_RENDEZVOUS where that is set, in every family.  EPF_OK with
 * family == NULL where there is none; EPF_E_INVALID where a family is incomplete or not numbers;
 * EPF_E_UNSUPPORTED where the job spans machines. */
epf_status epf_env_detect(char *(*get)(const char *name), epf_env *env);

#endif
