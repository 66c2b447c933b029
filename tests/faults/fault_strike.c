/*
 * fault_strike.c: ranks killed and stopped at random moments of their layers.
 *
 *   killed    every survivor gets EPF_E_PEER within 100 ms, its reset fails as well, it gives everything
 *             back; a new process takes the dead one's place and the new group runs 100 layers
 *   stopped   every other rank gets EPF_E_TIMEOUT, not before 90 % and not after 110 % of the timeout since
 *             the stop; continued, all reset and run 100 layers
 *
 * Ranks that were ready but had no core since then are given that time in addition, that of all survivors
 * together, because one may have to finish what the others then wait in: more ranks than cores are not the
 * library's delay.  How many errors needed it is told.
 */
#include "fault_strike.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "support/epf_check.h"
#include "support/epf_runner.h"

#define MS UINT64_C(1000000)

enum {
    KILL_MOST_MS = 100,
    STOP_TIMEOUT_MS = 500,
    KILL_TIMEOUT_MS = 30000,
    PHASE_MOST_US = 20000,
    STEP_MOST_MS = 60000, /* of any step of a round: far beyond what it may take */
    STOP_LANES = 3        /* stopped groups mostly wait */
};

/* A lane: one manager process and its groups, one after the other. */
typedef struct lane {
    verify_run *run;
    strike_times *times;
    strike_scene *scene;
    fault_pool *pools[FAULT_MAX_RANKS + 1]; /* by W */
    fault_place place;
    pid_t pids[FAULT_MAX_RANKS];
    uint64_t struck_ns;
    uint64_t starved_ns[FAULT_MAX_RANKS]; /* at the strike */
} lane;

/* The longest that an error may take. */
static uint64_t bound_ns(bool stop)
{
    return stop ? STOP_TIMEOUT_MS * MS * 11 / 10 : KILL_MOST_MS * MS;
}

static pid_t start_rank(strike_scene *scene, int32_t rank, bool is_new)
{
    const pid_t pid = fork();

    CHECK(pid >= 0, "fork of rank %d", rank);
    if (pid == 0) {
        strike_rank_main(scene, rank, is_new);
    }
    return pid;
}

static void end_all(lane *l)
{
    for (int32_t r = 0; r < l->scene->num_ranks; r++) {
        if (l->pids[r] > 0) {
            (void)kill(l->pids[r], SIGKILL);
            (void)waitpid(l->pids[r], NULL, 0);
            l->pids[r] = 0;
        }
    }
}

/* Says what a rank found wrong, or the text, and ends the round. */
static bool broken(lane *l, int32_t rank, const char *text)
{
    const strike_scene *const s = l->scene;
    const char *const found =
        rank >= 0 && s->ranks[rank].wrong[0] != '\0' ? s->ranks[rank].wrong : text;

    verify_fail(l->run, "round %llu (%d ranks, rank %d %s), rank %d: %s",
                (unsigned long long)s->number, s->num_ranks, s->victim,
                s->stop ? "stopped" : "killed", rank, found);
    end_all(l);
    return false;
}

/* All ranks but `except` reach the state. */
static bool wait_state(lane *l, strike_state state, int32_t except)
{
    const uint64_t deadline_ns = epf_now_ns() + STEP_MOST_MS * MS;

    for (int32_t r = 0; r < l->scene->num_ranks; r++) {
        while (r != except &&
               __atomic_load_n(&l->scene->ranks[r].state, __ATOMIC_ACQUIRE) < (int32_t)state) {
            if (l->pids[r] > 0 && waitpid(l->pids[r], NULL, WNOHANG) == l->pids[r] &&
                __atomic_load_n(&l->scene->ranks[r].state, __ATOMIC_ACQUIRE) < (int32_t)state) {
                l->pids[r] = 0;
                return broken(l, r, "ended unexpectedly");
            }
            if (epf_now_ns() > deadline_ns) {
                return broken(l, r, "hangs");
            }
            fault_sleep_ns(200000);
        }
    }
    return true;
}

static void note_time(strike_times *t, uint64_t ns, bool is_late)
{
    const uint64_t bucket = ns / MS < STRIKE_BUCKETS ? ns / MS : STRIKE_BUCKETS - 1;
    uint64_t slowest = __atomic_load_n(&t->slowest_ns, __ATOMIC_RELAXED);

    (void)__atomic_fetch_add(&t->count[bucket], 1, __ATOMIC_RELAXED);
    (void)__atomic_fetch_add(&t->num_errors, 1, __ATOMIC_RELAXED);
    (void)__atomic_fetch_add(&t->num_late, is_late ? 1 : 0, __ATOMIC_RELAXED);
    while (ns > slowest && !__atomic_compare_exchange_n(&t->slowest_ns, &slowest, ns, false,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* What all survivors lacked a core since the strike, together. */
static uint64_t starved_since(const lane *l)
{
    uint64_t sum = 0;

    for (int32_t r = 0; r < l->scene->num_ranks; r++) {
        sum += r == l->scene->victim ? 0 : l->scene->ranks[r].starved_ns - l->starved_ns[r];
    }
    return sum;
}

/* NULL, or what is wrong with a survivor's error. */
static const char *judge(const lane *l, const strike_rank *found, char text[160])
{
    const strike_scene *const s = l->scene;
    const uint64_t struck_ns = l->struck_ns;
    const uint64_t starved_ns = starved_since(l);
    const uint64_t least_ns = s->stop ? STOP_TIMEOUT_MS * MS * 9 / 10 : 0;
    const uint64_t most_ns = bound_ns(s->stop);
    const epf_status want = s->stop ? EPF_E_TIMEOUT : EPF_E_PEER;

    if (found->status != (int32_t)want) {
        (void)snprintf(text, 160, "%s, must be %s", epf_status_name((epf_status)found->status),
                       epf_status_name(want));
        return text;
    }
    if (found->error_ns < struck_ns + least_ns ||
        found->error_ns > struck_ns + most_ns + starved_ns) {
        (void)snprintf(text, 160,
                       "%.1f ms, must be %.0f..%.0f (all together %.1f ms without a core)",
                       ((double)found->error_ns - (double)struck_ns) / 1e6, (double)least_ns / 1e6,
                       (double)most_ns / 1e6, (double)starved_ns / 1e6);
        return text;
    }
    return NULL;
}

/* The same error on every survivor, in time. */
static bool check_errors(lane *l)
{
    const strike_scene *const s = l->scene;
    char text[160];

    for (int32_t r = 0; r < s->num_ranks; r++) {
        if (r == s->victim) {
            continue;
        }
        if (judge(l, &s->ranks[r], text) != NULL) {
            return broken(l, r, text);
        }
        note_time(l->times, s->ranks[r].error_ns - l->struck_ns,
                  s->ranks[r].error_ns > l->struck_ns + bound_ns(s->stop));
    }
    return true;
}

/* The stopped rank goes on; or a new process takes the killed one's place. */
static bool bring_back(lane *l)
{
    strike_scene *const s = l->scene;

    if (s->stop) {
        CHECK(kill(l->pids[s->victim], SIGCONT) == 0, "SIGCONT");
        return wait_state(l, STRIKE_FAILED, -1);
    }
    memset(&s->ranks[s->victim], 0, sizeof s->ranks[0]);
    l->pids[s->victim] = start_rank(s, s->victim, true);
    return true;
}

static bool end_well(lane *l)
{
    char text[160];

    for (int32_t r = 0; r < l->scene->num_ranks; r++) {
        int status = -1;
        if (l->pids[r] > 0 && (waitpid(l->pids[r], &status, 0) != l->pids[r] || status != 0)) {
            l->pids[r] = 0;
            return broken(l, r, "did not end in order");
        }
        l->pids[r] = 0;
    }
    return fault_place_check(&l->place, text) == NULL || broken(l, -1, text);
}

static bool strike(lane *l, epf_rng *rng)
{
    const strike_scene *const s = l->scene;

    fault_sleep_ns((uint64_t)epf_rng_below(rng, PHASE_MOST_US) * 1000);
    for (int32_t r = 0; r < s->num_ranks; r++) {
        l->starved_ns[r] = fault_starved_ns(l->pids[r]);
    }
    l->struck_ns = epf_now_ns();
    CHECK(kill(l->pids[s->victim], s->stop ? SIGSTOP : SIGKILL) == 0, "kill");
    if (!s->stop) {
        (void)waitpid(l->pids[s->victim], NULL, 0);
        l->pids[s->victim] = 0;
    }
    return wait_state(l, STRIKE_FAILED, s->victim) && check_errors(l);
}

static bool run_round(lane *l)
{
    strike_scene *const s = l->scene;
    epf_rng rng = epf_rng_make(s->seed ^ s->number, 15);

    s->num_ranks = epf_rng_range(&rng, 2, FAULT_MAX_RANKS);
    s->victim = epf_rng_below(&rng, s->num_ranks);
    s->remake = !s->stop && epf_rng_below(&rng, 4) == 0;
    s->pool = l->pools[s->num_ranks];
    s->after = 0;
    memset(s->ranks, 0, sizeof s->ranks);
    for (int32_t r = 0; r < s->num_ranks; r++) {
        l->pids[r] = start_rank(s, r, false);
    }
    if (!wait_state(l, STRIKE_WORKING, -1) || !strike(l, &rng) || !bring_back(l)) {
        return false;
    }
    __atomic_store_n(&s->after, 1, __ATOMIC_RELEASE);
    return wait_state(l, STRIKE_DONE, -1) && end_well(l);
}

static void run_lane(verify_run *run, strike_times *times, bool stop, uint64_t first, uint64_t step)
{
    lane l = {.run = run, .times = times, .scene = epf_shared_alloc(sizeof *l.scene)};
    uint64_t number = first;

    if (!fault_place_enter(&l.place)) {
        verify_skip(run, "no temp folder can be made");
        return;
    }
    l.scene->seed = run->seed;
    l.scene->stop = stop;
    l.scene->timeout_ns = (stop ? STOP_TIMEOUT_MS : KILL_TIMEOUT_MS) * MS;
    for (int32_t w = 2; w <= FAULT_MAX_RANKS; w++) {
        const fault_shape shape = {2 * w, 2, 16, 8, 48, EPF_DTYPE_BF16, 0, run->seed};
        l.pools[w] = fault_pool_make(&shape);
    }
    /* what the pools have opened for good is not the ranks' */
    l.place.num_descriptors = fault_num_descriptors();
    while (number < run->target && verify_more(run)) {
        l.scene->number = number;
        if (!run_round(&l)) {
            break;
        }
        verify_done(run, 1);
        number += step;
    }
    for (int32_t w = 2; w <= FAULT_MAX_RANKS; w++) {
        fault_pool_free(l.pools[w]);
    }
    fault_place_leave(&l.place);
    epf_shared_free(l.scene, sizeof *l.scene);
}

/* The time below which a share of the errors came, in ms. */
static uint32_t quantile_ms(const strike_times *t, double share)
{
    uint64_t seen = 0;
    uint32_t bucket = 0;

    while (bucket < STRIKE_BUCKETS - 1) {
        seen += t->count[bucket];
        if ((double)seen >= share * (double)t->num_errors) {
            break;
        }
        bucket++;
    }
    return bucket + 1;
}

static void run_lanes(verify_run *run, bool stop)
{
    strike_times *const times = epf_shared_alloc(sizeof *times);
    const int32_t num_lanes = stop ? STOP_LANES : 1;
    pid_t pids[STOP_LANES];

    for (int32_t i = 0; i < num_lanes; i++) {
        pids[i] = fork();
        CHECK(pids[i] >= 0, "fork of lane %d", i);
        if (pids[i] == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            run_lane(run, times, stop, (uint64_t)i, (uint64_t)num_lanes);
            _exit(0);
        }
    }
    for (int32_t i = 0; i < num_lanes; i++) {
        int status = 0;
        if (waitpid(pids[i], &status, 0) != pids[i] || status != 0) {
            verify_fail(run, "a lane ended with status %d", status);
        }
    }
    if (times->num_errors > 0) {
        verify_note(
            run,
            "2 to 8 processes, %llu errors%s, half within %u ms, 99 %% within %u ms, all "
            "within %.1f ms, %llu of them past %.0f ms for want of a core; %d layers after each",
            (unsigned long long)times->num_errors, stop ? " at a timeout of 500 ms" : "",
            quantile_ms(times, 0.5), quantile_ms(times, 0.99), (double)times->slowest_ns / 1e6,
            (unsigned long long)times->num_late, (double)bound_ns(stop) / 1e6, STRIKE_LAYERS_AFTER);
    }
    epf_shared_free(times, sizeof *times);
}

void verify_kills(const verify_promise *promise, verify_run *run)
{
    (void)promise;
    run_lanes(run, false);
}

void verify_stops(const verify_promise *promise, verify_run *run)
{
    (void)promise;
    run_lanes(run, true);
}
