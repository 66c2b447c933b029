/* epf_trace_flow.c: see epf_trace_flow.h. */
#include "prof/epf_trace_flow.h"

#include <stdlib.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "prof/epf_trace_lane.h"

typedef struct end_list {
    epf_trace_flow_end *ends;
    uint64_t count;
    uint64_t capacity;
} end_list;

/* One pass over all lanes; counts only, until the lists have capacity. */
typedef struct pass {
    const epf_trace *trace;
    epf_lane_walk walk;
    end_list departures, arrivals;
    uint64_t flows[EPF_LANE_MAX_FLOWS];
} pass;

static void add(pass *p, end_list *list, const epf_lane_slice *slice, uint32_t num_flows)
{
    const epf_prof_record *const rec = &p->walk.lane->records[slice->idx];
    for (uint32_t i = 0; i < num_flows; i++) {
        if (list->count < list->capacity) {
            epf_trace_flow_end *const end = &list->ends[list->count];
            end->flow = p->flows[i];
            end->lane_idx = (uint32_t)(p->walk.lane - p->trace->lanes);
            end->begin_ns = rec->begin_ns;
            end->end_ns = rec->end_ns;
        }
        list->count++;
    }
}

static epf_status slice_begin(void *self, const epf_lane_slice *slice)
{
    pass *const p = self;
    add(p, &p->departures, slice, epf_lane_flows_out(&p->walk, slice, p->flows));
    return EPF_OK;
}

static epf_status slice_end(void *self, const epf_lane_slice *slice)
{
    pass *const p = self;
    add(p, &p->arrivals, slice, epf_lane_flows_in(&p->walk, slice, p->flows));
    return EPF_OK;
}

/* Run twice: the first pass learns how much room the second one needs. */
static epf_status visit_lanes(pass *p)
{
    const epf_lane_visitor visitor = {slice_begin, slice_end, p};
    p->departures.count = p->arrivals.count = 0;
    for (uint32_t i = 0; i < p->trace->num_lanes; i++) {
        epf_status st;
        EPF_TRY(epf_lane_open(&p->walk, p->trace, &p->trace->lanes[i]));
        st = epf_lane_visit(&p->walk, &visitor);
        epf_lane_close(&p->walk);
        EPF_TRY(st);
    }
    return EPF_OK;
}

static int compare(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

static int by_flow_and_begin(const void *a, const void *b)
{
    const epf_trace_flow_end *const x = a, *const y = b;
    const int order = compare(x->flow, y->flow);
    return order != 0 ? order : compare(x->begin_ns, y->begin_ns);
}

static int by_arrival(const void *a, const void *b)
{
    const epf_trace_flow *const x = a, *const y = b;
    const int order = compare(x->to.begin_ns, y->to.begin_ns);
    return order != 0 ? order : by_flow_and_begin(&x->to, &y->to);
}

/* The last departure of `to`'s id that began before it ended; NULL if there is none. */
static const epf_trace_flow_end *departure_of(const end_list *departures,
                                              const epf_trace_flow_end *to)
{
    uint64_t low = 0, high = departures->count;
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        const epf_trace_flow_end *const end = &departures->ends[middle];
        if (end->flow < to->flow || (end->flow == to->flow && end->begin_ns < to->end_ns)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 && departures->ends[low - 1].flow == to->flow ? &departures->ends[low - 1]
                                                                 : NULL;
}

/* Several arrivals may have one departure; of several departures the latest in time counts. */
static void match(const pass *p, epf_trace_flow *flows, uint64_t *num_flows, uint64_t *num_lost)
{
    *num_flows = *num_lost = 0;
    for (uint64_t i = 0; i < p->arrivals.count; i++) {
        const epf_trace_flow_end *const to = &p->arrivals.ends[i];
        const epf_trace_flow_end *const from = departure_of(&p->departures, to);
        if (from == NULL) {
            ++*num_lost;
            continue;
        }
        flows[*num_flows].from = *from;
        flows[(*num_flows)++].to = *to;
    }
    qsort(flows, *num_flows, sizeof *flows, by_arrival);
}

static epf_status collect(pass *p)
{
    EPF_TRY(visit_lanes(p));
    p->departures.capacity = p->departures.count;
    p->arrivals.capacity = p->arrivals.count;
    p->departures.ends = epf_alloc(p->departures.count, sizeof *p->departures.ends);
    p->arrivals.ends = epf_alloc(p->arrivals.count, sizeof *p->arrivals.ends);
    if (p->departures.ends == NULL || p->arrivals.ends == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "trace: a list of %llu flows",
                        (unsigned long long)(p->departures.count + p->arrivals.count));
    }
    EPF_TRY(visit_lanes(p));
    qsort(p->departures.ends, p->departures.count, sizeof *p->departures.ends, by_flow_and_begin);
    return EPF_OK;
}

epf_status epf_trace_match_flows(const epf_trace *trace, epf_trace_flow **flows,
                                 uint64_t *num_flows, uint64_t *num_lost)
{
    pass *const p = epf_alloc(1, sizeof *p);
    epf_status st;
    *flows = NULL;
    if (p == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "trace: %zu bytes to match flows", sizeof *p);
    }
    p->trace = trace;
    EPF_TRY_GOTO(collect(p), done);
    *flows = epf_alloc(p->arrivals.count, sizeof **flows);
    if (*flows == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "trace: %llu flows", (unsigned long long)p->arrivals.count);
        goto done;
    }
    match(p, *flows, num_flows, num_lost);
done:
    epf_free(p->departures.ends);
    epf_free(p->arrivals.ends);
    epf_free(p);
    return st;
}
