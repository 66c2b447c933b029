/*
 * pair.h: two ranks of this process, each with a small operator, and a thread each for what both call.
 */
#ifndef EPF_TEST_PAIR_H
#define EPF_TEST_PAIR_H

#include <pthread.h>

#include "api/epf_backend.h"
#include "support/epf_check.h"

enum { PAIR_SIZE = 2 };

typedef struct pair_rank {
    epf_group *group;
    epf_op *op;
    epf_status status; /* of the last call */
    pthread_t thread;
} pair_rank;

/* For pair_run(): a thread's function, over a pair_rank. */
void *pair_meet(void *rank);
void *pair_reset(void *rank);

/* Fills both, or ends the test. */
void pair_create(pair_rank *ranks, uint64_t timeout_ns);
void pair_destroy(pair_rank *ranks);

/* A function on each rank, at once; joined. */
void pair_run(pair_rank *ranks, void *(*first)(void *), void *(*second)(void *));

/* The same on both, where all must be well. */
void pair_run_ok(pair_rank *ranks, void *(*function)(void *));

#endif
