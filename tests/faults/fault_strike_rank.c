/* fault_strike_rank.c: one rank that works until a peer is missing, and again afterwards. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "fault_strike.h"
#include "support/epf_check.h"

enum { MAX_TOKENS = 6, RESET_TRIES = 5 };

/* One rank's handles and its descriptors before it had any. */
typedef struct member {
    strike_scene *scene;
    strike_rank *found;
    int32_t rank;
    int32_t num_descriptors;
    epf_group *group;
    fault_rank layer;
    epf_rng own;
} member;

static void set_state(member *m, strike_state state)
{
    __atomic_store_n(&m->found->state, (int32_t)state, __ATOMIC_RELEASE);
}

/* Records the first thing that must not be, and ends the process. */
static void __attribute__((noreturn, format(printf, 2, 3)))
wrong(member *m, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(m->found->wrong, sizeof m->found->wrong, format, arguments);
    va_end(arguments);
    _exit(1);
}

static void join(member *m, uint64_t job)
{
    const strike_scene *const s = m->scene;
    const fault_seat seat = {m->rank, s->num_ranks, s->timeout_ns, job};
    const fault_knobs knobs = {MAX_TOKENS, 1, false};

    if (fault_join(&seat, &m->group) != EPF_OK ||
        fault_rank_open(&m->layer, s->pool, m->group, &knobs) != EPF_OK) {
        wrong(m, "forming: %s", epf_last_error());
    }
}

static void leave(member *m)
{
    fault_rank_close(&m->layer);
    epf_group_destroy(m->group);
    if (fault_num_descriptors() != m->num_descriptors) {
        wrong(m, "%d descriptors are left", fault_num_descriptors() - m->num_descriptors);
    }
}

/* Another operator on the group: windows made and ended while peers may die. */
static epf_status make_another(member *m)
{
    const fault_knobs knobs = {MAX_TOKENS, 1, false};
    fault_rank other;
    epf_status st = fault_rank_open(&other, m->scene->pool, m->group, &knobs);

    st = st == EPF_OK ? fault_rank_layer(&other, 0) : st;
    fault_rank_close(&other);
    return st;
}

static void work_until_error(member *m)
{
    epf_error_record record;
    epf_status st = EPF_OK;

    for (uint32_t i = 0; st == EPF_OK; i++) {
        fault_rank_draw(&m->layer, &m->own);
        st = fault_rank_layer(&m->layer, i);
        if (st == EPF_OK && fault_rank_check(&m->layer) >= 0) {
            wrong(m, "layer %u: other bits", i);
        }
        if (st == EPF_OK && m->scene->remake && i % 4 == 3) {
            st = make_another(m);
        }
    }
    m->found->error_ns = epf_now_ns();
    m->found->starved_ns = fault_starved_ns(getpid());
    m->found->status = st;
    m->found->peer = epf_op_poll_error(m->layer.op, &record) == EPF_OK ? -1 : record.peer;
    if (epf_last_error()[0] == '\0') {
        wrong(m, "status %d without words", (int)st);
    }
}

static void wait_for_others(const member *m)
{
    while (__atomic_load_n(&m->scene->after, __ATOMIC_ACQUIRE) == 0) {
        fault_sleep_ns(200000);
    }
}

/* Ranks come to the reset at different times, so that one may have to try again. */
static void reset(member *m)
{
    epf_status st = EPF_E_TIMEOUT;

    for (int32_t i = 0; i < RESET_TRIES && st != EPF_OK; i++) {
        st = epf_op_reset(m->layer.op);
    }
    if (st != EPF_OK) {
        wrong(m, "reset: %s", epf_last_error());
    }
}

static void run_identical(member *m)
{
    fault_rank_draw(&m->layer, &m->own);
    for (uint32_t i = 0; i < STRIKE_LAYERS_AFTER; i++) {
        if (fault_rank_layer(&m->layer, i) != EPF_OK) {
            wrong(m, "layer %u afterwards: %s", i, epf_last_error());
        }
        if (fault_rank_check(&m->layer) >= 0) {
            wrong(m, "layer %u afterwards: other bits", i);
        }
    }
}

void strike_rank_main(strike_scene *scene, int32_t rank, bool is_new)
{
    member m = {.scene = scene, .found = &scene->ranks[rank], .rank = rank};

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    m.own = epf_rng_make(scene->seed ^ scene->number, 20 + (uint64_t)rank + (is_new ? 50 : 0));
    m.num_descriptors = fault_num_descriptors();
    if (!is_new) {
        join(&m, 2 * scene->number);
        set_state(&m, STRIKE_WORKING);
        work_until_error(&m);
        if (!scene->stop && epf_op_reset(m.layer.op) == EPF_OK) {
            wrong(&m, "reset worked without the killed rank");
        }
        if (!scene->stop) {
            leave(&m);
        }
        set_state(&m, STRIKE_FAILED);
        wait_for_others(&m);
    }
    if (scene->stop) {
        reset(&m);
    } else {
        join(&m, 2 * scene->number + 1);
    }
    run_identical(&m);
    leave(&m);
    set_state(&m, STRIKE_DONE);
    _exit(0);
}
