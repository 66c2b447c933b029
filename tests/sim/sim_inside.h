/*
 * sim_inside.h: what the simulator's own files share.
 */
#ifndef SIM_INSIDE_H
#define SIM_INSIDE_H

#include <setjmp.h>
#include <ucontext.h>

#include "sim.h"

enum {
    MAX_FIBERS = 64,
    MAX_PENDING = 96, /* stores of one fiber on their way */
    STORE_BYTES = 64, /* of one; longer ones are cut      */
    STACK_BYTES = 192 << 10
};

typedef enum sim_state {
    SIM_READY,
    SIM_SLEEPING, /* until wake_ns                                                     */
    SIM_BLOCKED,  /* on blocked_on, at most until wake_ns                              */
    SIM_DONE
} sim_state;

/* A store that its fiber has done and nobody else sees yet. */
typedef struct sim_store {
    uint8_t *at;
    uint32_t bytes;
    uint64_t due_ns;
    uint8_t data[STORE_BYTES];
} sim_store;

typedef struct sim_fiber {
    ucontext_t start;
    jmp_buf jump;
    uint8_t *stack;
    int32_t index;
    int32_t rank; /* SIM_NO_RANK: the simulator's own */
    bool is_main, is_started;
    sim_state state;
    uint64_t wake_ns; /* UINT64_MAX: never */
    uint64_t paused_until_ns;
    const void *blocked_on;
    bool timed_out;
    int32_t num_held; /* mutexes */
    uint64_t priority;
    void *(*function)(void *);
    void *argument;
    int32_t num_pending;
    sim_store pending[MAX_PENDING]; /* oldest first */
    void *asan_stack;
} sim_fiber;

typedef struct sim_rank {
    bool is_dead;
    uint64_t stalled_until_ns;
    uint64_t steps;
    uint64_t allocations;
} sim_rank;

typedef enum sim_event_kind {
    SIM_EVENT_LOAD,
    SIM_EVENT_STORE,
    SIM_EVENT_UPDATE,
    SIM_EVENT_CAS,
    SIM_EVENT_COPY,
    SIM_EVENT_VISIBLE,
    SIM_EVENT_SLEEP,
    SIM_EVENT_BLOCK,
    SIM_EVENT_FAULT,
    SIM_EVENT_NOTE
} sim_event_kind;

typedef struct sim_world {
    sim_config config;
    epf_rng rng;
    bool is_active;
    uint64_t now_ns, steps, switches;
    uint64_t next_due_ns; /* no store is due before */
    int32_t fault_index;  /* of the fault that is next, or has happened */
    uint64_t fault_ns;    /* when it happened; 0: not yet               */
    sim_fiber *current;   /* NULL: not in a fiber */
    sim_fiber *fibers[MAX_FIBERS];
    int32_t num_fibers;
    int32_t num_mains; /* that still run */
    sim_rank ranks[SIM_MAX_RANKS];
    uint32_t meet_mask; /* bit r: rank r is at the meeting */
    int32_t meet_value, meet_result;
    uint64_t meet_round;
    uint64_t num_faults[SIM_NUM_FAULT_KINDS]; /* that happened */
    sim_result *result;
} sim_world;

extern sim_world sim;

/* A fiber of `rank`; it runs when chosen. */
sim_fiber *sim_spawn(int32_t rank, void *(*function)(void *), void *argument);

/* One step of the running fiber: time passes, faults happen, stores become visible, others may run. */
void sim_point(void);
/* The running fiber waits; returns when it is chosen again. */
void sim_block(const void *on, uint64_t wake_ns);
void sim_sleep(uint64_t ns);
/* Wakes one, or all, of the fibers blocked on this. */
void sim_wake(const void *on, bool all);

/* Everything the running fiber has stored is visible. */
void sim_commit_all(sim_fiber *fiber);
void sim_drain(void);
/* Ends the run if a store to this memory, which is being given back, is still under way. */
void sim_check_no_store(const void *memory, size_t bytes);
/* Stores that are due become visible. */
void sim_commit_due(void);

/* The fault that is next, or has happened; NULL: no more. */
const sim_fault *sim_fault_next(void);
/* It happens now. */
void sim_fault_happens(void);

void sim_trace(sim_event_kind kind, const void *address, uint64_t value, int order);

/* Memory. */
void sim_memory_begin(void);
/* Frees what the run left; the number of allocations that were. */
int64_t sim_memory_end(void);
bool sim_is_shared(const void *address, size_t bytes);

#endif
