/* sim_world.c: fibers, who runs next, time and faults. */
/* The C library's hardening, which some systems put on by default, takes a jump between stacks for an error. */
#undef _FORTIFY_SOURCE

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "sim_inside.h"
#include "support/epf_check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

sim_world sim;

static jmp_buf home; /* of sim_run() */
static sim_fiber *pool[MAX_FIBERS];

/* ---- switching ---- */

static void leave(sim_fiber *from, const void *stack, size_t bytes)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(
        from == NULL || from->state == SIM_DONE ? NULL : &from->asan_stack, stack, bytes);
#else
    (void)from;
    (void)stack;
    (void)bytes;
#endif
}

static const void *home_stack;
static size_t home_bytes;

static void arrive(sim_fiber *fiber, bool from_home)
{
#if defined(__SANITIZE_ADDRESS__)
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fiber == NULL ? NULL : fiber->asan_stack, &stack, &bytes);
    if (from_home) {
        home_stack = stack;
        home_bytes = bytes;
    }
#else
    (void)fiber;
    (void)from_home;
#endif
}

static void go_home(void)
{
    leave(NULL, home_stack, home_bytes);
    sim.current = NULL;
    _longjmp(home, 1);
}

static bool entered_from_home;

/* Never returns. */
static void enter(sim_fiber *to)
{
    sim.current = to;
    if (to->is_started) {
        _longjmp(to->jump, 1);
    }
    to->is_started = true;
    (void)setcontext(&to->start);
    abort();
}

static __attribute__((noinline)) void switch_to(sim_fiber *to)
{
    sim_fiber *const from = sim.current;
    sim.switches++;
    leave(from, to->stack, STACK_BYTES);
    entered_from_home = false;
    if (_setjmp(from->jump) == 0) {
        enter(to);
    }
    arrive(from, false);
}

/* ---- who runs ---- */

/* A fault keeps it from running until then. */
static uint64_t held_until(const sim_fiber *f)
{
    const uint64_t rank_ns = f->rank == SIM_NO_RANK ? 0 : sim.ranks[f->rank].stalled_until_ns;
    return rank_ns > f->paused_until_ns ? rank_ns : f->paused_until_ns;
}

static bool is_gone(const sim_fiber *f)
{
    return f->state == SIM_DONE || (f->rank != SIM_NO_RANK && sim.ranks[f->rank].is_dead);
}

static bool can_run(const sim_fiber *f)
{
    return !is_gone(f) && held_until(f) <= sim.now_ns &&
           (f->state == SIM_READY || f->wake_ns <= sim.now_ns);
}

/* The time at which somebody can run who now cannot; UINT64_MAX: never. */
static uint64_t next_time(void)
{
    uint64_t next = UINT64_MAX;
    for (int32_t i = 0; i < sim.num_fibers; i++) {
        const sim_fiber *f = sim.fibers[i];
        if (!is_gone(f)) {
            uint64_t at = f->state == SIM_READY ? 0 : f->wake_ns;
            at = held_until(f) > at ? held_until(f) : at;
            next = at < next ? at : next;
        }
    }
    return next;
}

static int32_t runnable(sim_fiber **list)
{
    int32_t count = 0;
    for (int32_t i = 0; i < sim.num_fibers; i++) {
        if (can_run(sim.fibers[i])) {
            list[count++] = sim.fibers[i];
        }
    }
    return count;
}

static sim_fiber *by_priority(sim_fiber **list, int32_t count)
{
    sim_fiber *best = list[0];
    for (int32_t i = 1; i < count; i++) {
        best = list[i]->priority > best->priority ? list[i] : best;
    }
    if (epf_rng_below(&sim.rng, 64) == 0) {
        best->priority = epf_rng_next(&sim.rng) >> 1;
    }
    return best;
}

static sim_fiber *choose(sim_fiber **list, int32_t count)
{
    sim_fiber *pick = list[epf_rng_below(&sim.rng, count)];
    switch (sim.config.policy) {
    case SIM_POLICY_STICKY:
        return sim.current != NULL && can_run(sim.current) && epf_rng_below(&sim.rng, 16) != 0
                   ? sim.current
                   : pick;
    case SIM_POLICY_PRIORITY:
        return by_priority(list, count);
    case SIM_POLICY_SLOW_RANK:
        if (pick->rank == sim.config.slow_rank && epf_rng_below(&sim.rng, 32) != 0) {
            pick = list[epf_rng_below(&sim.rng, count)];
        }
        return pick;
    default:
        return pick;
    }
}

static sim_fiber *next_fiber(void)
{
    sim_fiber *list[MAX_FIBERS];
    int32_t count = runnable(list);
    while (count == 0) {
        const uint64_t time = next_time();
        if (time == UINT64_MAX) {
            sim_fail("everybody waits for ever");
        }
        sim.now_ns = time > sim.now_ns ? time : sim.now_ns;
        sim_commit_due();
        count = runnable(list);
    }
    return choose(list, count);
}

static void run_next(void)
{
    sim_fiber *const next = next_fiber();
    if (next->state != SIM_READY) {
        next->timed_out = next->state == SIM_BLOCKED;
        next->state = SIM_READY;
    }
    if (next != sim.current) {
        switch_to(next);
    }
}

/* ---- faults ---- */

const sim_fault *sim_fault_next(void)
{
    return sim.fault_index < sim.config.num_faults ? &sim.config.faults[sim.fault_index] : NULL;
}

void sim_fault_happens(void)
{
    const sim_fault *const f = sim_fault_next();
    sim.fault_ns = sim.now_ns;
    sim.num_faults[f->kind]++;
    sim_trace(SIM_EVENT_FAULT, NULL, f->duration_ns, (int)f->kind);
}

static bool holds_mutex(int32_t rank)
{
    for (int32_t i = 0; i < sim.num_fibers; i++) {
        if (sim.fibers[i]->rank == rank && sim.fibers[i]->num_held > 0) {
            return true;
        }
    }
    return false;
}

static void *report_death(void *argument)
{
    sim.config.on_kill((int32_t)(intptr_t)argument);
    return NULL;
}

static void kill_rank(int32_t rank)
{
    sim.ranks[rank].is_dead = true;
    for (int32_t i = 0; i < sim.num_fibers; i++) {
        if (sim.fibers[i]->rank == rank && sim.fibers[i]->is_main &&
            sim.fibers[i]->state != SIM_DONE) {
            sim.num_mains--;
        }
    }
    (void)sim_spawn(SIM_NO_RANK, report_death, (void *)(intptr_t)rank);
    sim_wake(&sim.meet_round, true); /* who met may be all there are now */
}

/* A process has no lock that its death would leave closed: not while one is held. */
static void maybe_fault(void)
{
    const sim_fault *const f = sim_fault_next();
    const bool is_step = f != NULL && f->kind != SIM_FAULT_NONE && f->kind != SIM_FAULT_MEMORY;
    if (!is_step || sim.fault_ns != 0 || sim.current->rank != f->rank ||
        ++sim.ranks[f->rank].steps < f->at || holds_mutex(f->rank)) {
        return;
    }
    sim_fault_happens();
    if (f->kind == SIM_FAULT_PAUSE) {
        sim.current->paused_until_ns = sim.now_ns + f->duration_ns;
        return;
    }
    if (f->kind == SIM_FAULT_STALL) {
        sim.ranks[f->rank].stalled_until_ns = sim.now_ns + f->duration_ns;
        return;
    }
    kill_rank(f->rank);
    if (sim.num_mains == 0) {
        go_home();
    }
}

/* ---- steps of a fiber ---- */

void sim_point(void)
{
    if (sim.current == NULL) {
        return;
    }
    sim.steps++;
    sim.now_ns += sim.config.step_ns;
    if (sim.steps > sim.config.max_steps) {
        sim_fail("more than %llu steps: nothing gets on", (unsigned long long)sim.config.max_steps);
    }
    maybe_fault();
    sim_commit_due();
    run_next();
}

void sim_block(const void *on, uint64_t wake_ns)
{
    sim_fiber *const f = sim.current;
    f->blocked_on = on;
    f->wake_ns = wake_ns;
    f->timed_out = false;
    f->state = SIM_BLOCKED;
    sim_trace(SIM_EVENT_BLOCK, on, wake_ns, 0);
    run_next();
    f->blocked_on = NULL;
}

void sim_sleep(uint64_t ns)
{
    sim_fiber *const f = sim.current;
    f->wake_ns = sim.now_ns + ns;
    f->state = SIM_SLEEPING;
    f->priority = epf_rng_next(&sim.rng) >> 2; /* who waits lets others pass */
    sim_trace(SIM_EVENT_SLEEP, NULL, ns, 0);
    maybe_fault();
    run_next();
}

void sim_wake(const void *on, bool all)
{
    sim_fiber *waiting[MAX_FIBERS];
    int32_t count = 0;
    for (int32_t i = 0; i < sim.num_fibers; i++) {
        if (sim.fibers[i]->state == SIM_BLOCKED && sim.fibers[i]->blocked_on == on) {
            waiting[count++] = sim.fibers[i];
        }
    }
    if (!all && count > 1) {
        waiting[0] = waiting[epf_rng_below(&sim.rng, count)];
    }
    for (int32_t i = 0; i < (all ? count : count > 0 ? 1 : 0); i++) {
        waiting[i]->state = SIM_READY;
        waiting[i]->blocked_on = NULL;
    }
}

/* ---- life of a fiber ---- */

static void fiber_main(void)
{
    sim_fiber *const f = sim.current;
    arrive(f, entered_from_home);
    (void)f->function(f->argument);
    sim_commit_all(f);
    f->state = SIM_DONE;
    sim_wake(f, true);
    sim.num_mains -= f->is_main ? 1 : 0;
    if (sim.num_mains == 0) {
        go_home();
    }
    {
        sim_fiber *const next = next_fiber();
        next->timed_out = next->state == SIM_BLOCKED;
        next->state = SIM_READY;
        leave(f, next->stack, STACK_BYTES);
        entered_from_home = false;
        enter(next);
    }
}

static sim_fiber *take_fiber(int32_t index)
{
    sim_fiber *f = pool[index];
    if (f == NULL) {
        f = epf_test_alloc(1, sizeof *f);
        f->stack =
            mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(f->stack != MAP_FAILED, "a stack");
        pool[index] = f;
    }
    return f;
}

/* Apart from its caller: getcontext() returns twice as far as compilers know. */
static __attribute__((noinline)) void make_context(sim_fiber *f)
{
    CHECK(getcontext(&f->start) == 0, "getcontext");
    f->start.uc_stack.ss_sp = f->stack;
    f->start.uc_stack.ss_size = STACK_BYTES;
    f->start.uc_link = NULL;
    makecontext(&f->start, fiber_main, 0);
}

sim_fiber *sim_spawn(int32_t rank, void *(*function)(void *), void *argument)
{
    sim_fiber *f;
    CHECK(sim.num_fibers < MAX_FIBERS, "more than %d fibers", (int)MAX_FIBERS);
    f = take_fiber(sim.num_fibers);
    f->index = sim.num_fibers;
    f->rank = rank;
    f->is_main = false;
    f->is_started = false;
    f->state = SIM_READY;
    f->wake_ns = UINT64_MAX;
    f->paused_until_ns = 0;
    f->blocked_on = NULL;
    f->num_held = 0;
    f->num_pending = 0;
    f->priority = epf_rng_next(&sim.rng) >> 1;
    f->function = function;
    f->argument = argument;
    f->asan_stack = NULL;
    make_context(f);
    sim.fibers[sim.num_fibers++] = f;
    return f;
}

void sim_spawn_rank(int32_t rank, void *(*function)(void *), void *argument)
{
    sim_spawn(rank, function, argument)->is_main = true;
    sim.num_mains++;
}

/* ---- a run ---- */

void sim_begin(const sim_config *config)
{
    memset(&sim, 0, sizeof sim);
    sim.config = *config;
    sim.rng = epf_rng_make(config->seed, 200);
    sim.next_due_ns = UINT64_MAX;
    sim.now_ns = 1000000000u;
    sim.is_active = true;
    sim_memory_begin();
}

void sim_run(sim_result *result)
{
    memset(result, 0, sizeof *result);
    sim.result = result;
    if (_setjmp(home) == 0) {
        sim_fiber *const first = next_fiber();
#if defined(__SANITIZE_ADDRESS__)
        static void *own_stack;
        __sanitizer_start_switch_fiber(&own_stack, first->stack, STACK_BYTES);
#endif
        entered_from_home = true;
        enter(first);
    }
    arrive(NULL, false);
    sim.current = NULL;
    result->steps = sim.steps;
    result->switches = sim.switches;
    result->now_ns = sim.now_ns;
    memcpy(result->num_faults, sim.num_faults, sizeof result->num_faults);
}

void sim_end(sim_result *result, bool leaks_fail)
{
    int64_t left;
    sim.current = NULL;
    left = sim_memory_end();
    sim.is_active = false;
    if (left > 0 && leaks_fail && !result->failed) {
        result->failed = true;
        (void)snprintf(result->text, sizeof result->text, "%lld allocations were not freed",
                       (long long)left);
    }
}

void sim_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    sim.result->failed = true;
    (void)vsnprintf(sim.result->text, sizeof sim.result->text, format, arguments);
    va_end(arguments);
    go_home();
    abort();
}

uint64_t sim_now(void)
{
    return sim.now_ns;
}

uint64_t sim_num_steps(void)
{
    return sim.steps;
}

bool sim_is_dead(int32_t rank)
{
    return sim.ranks[rank].is_dead;
}

uint64_t sim_fault_time(void)
{
    return sim.fault_ns;
}

const sim_fault *sim_fault_now(void)
{
    return sim.fault_ns == 0 ? NULL : sim_fault_next();
}

/* After a fault without consequences any more. */
static void settle(void)
{
    const sim_fault *const f = sim_fault_now();
    if (f == NULL || f->kind == SIM_FAULT_KILL) {
        return;
    }
    for (int32_t i = 0; i < sim.num_fibers; i++) {
        if (!is_gone(sim.fibers[i]) && held_until(sim.fibers[i]) > sim.now_ns) {
            return; /* a paused thread is needed again in the next call */
        }
    }
    sim.fault_index++;
    sim.fault_ns = 0;
    for (int32_t r = 0; r < SIM_MAX_RANKS; r++) {
        sim.ranks[r].steps = 0;
        sim.ranks[r].allocations = 0;
    }
}

/* Bit r: rank r lives and its own function still runs. */
static uint32_t present(void)
{
    uint32_t mask = 0;
    for (int32_t i = 0; i < sim.num_fibers; i++) {
        if (sim.fibers[i]->is_main && !is_gone(sim.fibers[i])) {
            mask |= 1u << sim.fibers[i]->rank;
        }
    }
    return mask;
}

static bool anybody_dead(void)
{
    bool dead = false;
    for (int32_t r = 0; r < sim.config.num_ranks; r++) {
        dead = dead || sim.ranks[r].is_dead;
    }
    return dead;
}

int32_t sim_meet(int32_t value)
{
    const uint64_t round = sim.meet_round;
    sim_commit_all(sim.current);
    sim.meet_value = sim.meet_mask == 0 || value > sim.meet_value ? value : sim.meet_value;
    sim.meet_mask |= 1u << sim.current->rank;
    while (sim.meet_round == round) {
        if ((present() & ~sim.meet_mask) == 0) {
            sim.meet_mask = 0;
            sim.meet_result = anybody_dead() ? SIM_MEET_DEAD : sim.meet_value;
            sim.meet_round++;
            if (sim.meet_result == 0) {
                settle();
            }
            sim_wake(&sim.meet_round, true);
            break;
        }
        sim_block(&sim.meet_round, UINT64_MAX);
    }
    return sim.meet_result;
}
