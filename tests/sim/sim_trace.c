/* sim_trace.c: the last events of a run, for people. */
#include <stdio.h>
#include <string.h>

#include "sim_inside.h"

enum { RING = 1 << 14, NAME_BYTES = 96 };

typedef struct event {
    sim_event_kind kind;
    int32_t fiber, rank, order;
    uint64_t step, now_ns, value;
    const void *address;
} event;

static event ring[RING];
static uint64_t num_events;

void sim_trace(sim_event_kind kind, const void *address, uint64_t value, int order)
{
    event *e;
    if (!sim.config.trace) {
        return;
    }
    if (sim.steps <= 1 && kind == SIM_EVENT_LOAD) {
        num_events = 0;
    }
    e = &ring[num_events++ % RING];
    e->kind = kind;
    e->fiber = sim.current == NULL ? -1 : sim.current->index;
    e->rank = sim.current == NULL ? SIM_NO_RANK : sim.current->rank;
    e->order = order;
    e->step = sim.steps;
    e->now_ns = sim.now_ns;
    e->value = value;
    e->address = address;
}

void sim_note(const char *text, int32_t status)
{
    sim_trace(SIM_EVENT_NOTE, text, (uint64_t)(int64_t)status, 0);
}

static const char *kind_name(sim_event_kind kind)
{
    static const char *const names[] = {"load",    "store", "update", "cas",   "copy",
                                        "visible", "sleep", "block",  "fault", "note"};
    return names[kind];
}

static const char *order_name(const event *e)
{
    if (e->kind > SIM_EVENT_CAS) {
        return "";
    }
    switch (e->order) {
    case __ATOMIC_RELAXED:
        return " relaxed";
    case __ATOMIC_ACQUIRE:
        return " acquire";
    case __ATOMIC_RELEASE:
        return " release";
    default:
        return " acq_rel";
    }
}

void sim_print_trace(sim_namer *name, int32_t count)
{
    const uint64_t kept = num_events < RING ? num_events : RING;
    const uint64_t shown = kept < (uint64_t)count ? kept : (uint64_t)count;
    for (uint64_t i = num_events - shown; i < num_events; i++) {
        const event *const e = &ring[i % RING];
        char text[NAME_BYTES] = "";
        if (e->kind == SIM_EVENT_NOTE) {
            printf("%7llu %10.3f us  rank %2d fiber %2d  %s, status %d\n",
                   (unsigned long long)e->step, (double)e->now_ns * 1e-3, e->rank, e->fiber,
                   (const char *)e->address, (int)e->value);
            continue;
        }
        if (e->address != NULL && !name(e->address, text, sizeof text)) {
            (void)snprintf(text, sizeof text, "%p", e->address);
        }
        printf("%7llu %10.3f us  rank %2d fiber %2d  %-7s %s %x.%x%s\n",
               (unsigned long long)e->step, (double)e->now_ns * 1e-3, e->rank, e->fiber,
               kind_name(e->kind), text, (unsigned)(e->value >> 32), (unsigned)e->value,
               order_name(e));
    }
}
