/*
 * sim.h: the simulator: every rank and every worker as a coroutine of one thread.
 *
 * One number decides everything: who runs after each access to a counter, when a store becomes visible
 * to the others, which rank is killed or stopped, and when.  Time is virtual: it passes with each
 * access, and jumps when everybody sleeps.
 *
 *   sim_world.c   fibers, who runs next, time, faults
 *   sim_store.c   what each fiber sees: stores on their way, by the rules of C11's orders
 *   sim_seam.c    the functions that the sources of the library call instead of the system's
 *   sim_memory.c  allocations and windows of one run
 */
#ifndef SIM_H
#define SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "support/epf_rng.h"

enum { SIM_MAX_RANKS = 8, SIM_MAX_FAULTS = 3, SIM_NO_RANK = -1, SIM_TEXT = 512 };

typedef enum sim_policy {
    SIM_POLICY_UNIFORM,   /* anybody, at every step                                         */
    SIM_POLICY_STICKY,    /* mostly whoever runs                                            */
    SIM_POLICY_PRIORITY,  /* the highest of random priorities, which change now and then    */
    SIM_POLICY_SLOW_RANK, /* one rank hardly ever                                           */
    SIM_NUM_POLICIES
} sim_policy;

typedef enum sim_fault_kind {
    SIM_FAULT_NONE,
    SIM_FAULT_KILL,   /* the rank never runs again                                          */
    SIM_FAULT_STALL,  /* the rank stands still for duration_ns                              */
    SIM_FAULT_PAUSE,  /* the rank's thread that is at this step stands still, its others go on */
    SIM_FAULT_MEMORY, /* one allocation of the rank fails                                  */
    SIM_NUM_FAULT_KINDS
} sim_fault_kind;

typedef struct sim_fault {
    sim_fault_kind kind;
    int32_t rank;
    uint64_t at; /* the rank's step, or allocation, since the fault before; counts from 1 */
    uint64_t duration_ns;
} sim_fault;

typedef struct sim_config {
    uint64_t seed;
    int32_t num_ranks;
    sim_policy policy;
    int32_t slow_rank;
    uint64_t step_ns;      /* virtual time of an access                                      */
    uint64_t max_delay_ns; /* a store is visible after at most this; 0: at once              */
    uint64_t max_steps;    /* more: the run hangs                                            */
    int32_t num_faults;
    sim_fault faults[SIM_MAX_FAULTS]; /* one after the other            */
    void (*on_kill)(int32_t rank);    /* runs in a fiber of its own                             */
    bool trace;
} sim_config;

/* What a run came to. */
typedef struct sim_result {
    bool failed;
    char text[SIM_TEXT];
    uint64_t steps, switches, now_ns;
    uint64_t num_faults[SIM_NUM_FAULT_KINDS]; /* that happened */
} sim_result;

void sim_begin(const sim_config *config);
/* A rank's own function; the run lasts until all of these have returned or are dead. */
void sim_spawn_rank(int32_t rank, void *(*function)(void *), void *argument);
void sim_run(sim_result *result);
/* Abandons what still stands; gives back stacks and, where `leaks_fail` and memory is left, fails. */
void sim_end(sim_result *result, bool leaks_fail);

/* ---- inside of a run ---- */

/* Ends the run. */
void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t sim_now(void);
uint64_t sim_num_steps(void);
bool sim_is_dead(int32_t rank);
/* The fault that has happened, until its consequences are over; NULL: none. */
const sim_fault *sim_fault_now(void);
uint64_t sim_fault_time(void);
/* Waits until all ranks that live are here; the same on all of them: SIM_MEET_DEAD if one had died by then, else
 * the largest `value` that any brought.  0 says that the last fault has no consequences any more: the next
 * may happen. */
enum { SIM_MEET_DEAD = 100 };
int32_t sim_meet(int32_t value);

/* A line in the trace. */
void sim_note(const char *text, int32_t status);

/* Names an address in the trace; returns false if it cannot. */
typedef bool sim_namer(const void *address, char *text, size_t size);
void sim_print_trace(sim_namer *name, int32_t count);

#endif
