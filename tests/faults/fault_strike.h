/*
 * fault_strike.h: a group of real processes in the midst of layers, one of which is killed or stopped from
 * outside.
 */
#ifndef FAULT_STRIKE_H
#define FAULT_STRIKE_H

#include "cli_verify.h"
#include "fault_pool.h"
#include "fault_world.h"

enum { STRIKE_BUCKETS = 2000, STRIKE_LAYERS_AFTER = 100 };

/* How long errors took, one bucket a millisecond; shared by all lanes. */
typedef struct strike_times {
    uint32_t count[STRIKE_BUCKETS];
    uint64_t slowest_ns;
    uint64_t num_errors;
    uint64_t num_late; /* late by the clock, in time without the waits for a core */
} strike_times;

typedef enum strike_state {
    STRIKE_FORMING = 0,
    STRIKE_WORKING,
    STRIKE_FAILED, /* has its error, and has given back what it must */
    STRIKE_DONE    /* has run the layers afterwards */
} strike_state;

/* What one rank found. */
typedef struct strike_rank {
    int32_t state; /* atomic */
    int32_t status;
    int32_t peer;        /* of the record: whom it missed */
    uint64_t error_ns;   /* when its call returned */
    uint64_t starved_ns; /* of its process until then: ready, without a core */
    char wrong[200];     /* what must not be; "" if nothing */
} strike_rank;

/* Shared by the processes of one group. */
typedef struct strike_scene {
    const fault_pool *pool;
    uint64_t seed, number;
    uint64_t timeout_ns;
    int32_t num_ranks, victim;
    int32_t after; /* atomic: the survivors may go on */
    bool stop;     /* else: kill */
    bool remake;   /* operators are made and ended between layers */
    strike_rank ranks[FAULT_MAX_RANKS];
} strike_scene;

/* What a rank's process does; `is_new`: it takes the place of the killed one. */
void strike_rank_main(strike_scene *scene, int32_t rank, bool is_new) __attribute__((noreturn));

#endif
