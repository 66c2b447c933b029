/* epf_trace_lane.c: see epf_trace_lane.h. */
#include "prof/epf_trace_lane.h"

#include "base/epf_alloc.h"
#include "base/epf_error.h"

/* No executor makes such a record: refuse, rather than show what did not happen. */
static epf_status impossible(const epf_trace_lane *lane, int64_t idx, const char *what)
{
    return EPF_FAIL(EPF_E_INTERNAL, "profile of rank %d, worker %d: record %lld %s", lane->rank,
                    lane->worker, (long long)idx, what);
}

static bool is_link(const epf_prof_record *rec)
{
    return rec->event == EPF_PROF_LINK;
}

static bool is_wait(const epf_lane_walk *walk, const epf_prof_record *rec)
{
    return walk->trace->events[rec->event].category == EPF_PROF_WAIT;
}

/* Chains record `idx` to its owner if it is a link; visited backwards, so that chains run
   forwards. */
static epf_status index_record(epf_lane_walk *walk, int64_t idx)
{
    const epf_trace_lane *const lane = walk->lane;
    const epf_prof_record *const rec = &lane->records[idx];
    if (!is_link(rec)) {
        if (rec->event >= walk->trace->num_events) {
            return impossible(lane, idx, "has an unknown event");
        }
        if (walk->last_work == EPF_LANE_NO_RECORD && rec->end_ns != 0 && !is_wait(walk, rec)) {
            walk->last_work = idx;
        }
        return EPF_OK;
    }
    if (rec->begin_ns >= (uint64_t)idx || is_link(&lane->records[rec->begin_ns])) {
        return impossible(lane, idx, "links to no earlier record");
    }
    walk->first_link[idx] = walk->first_link[rec->begin_ns];
    walk->first_link[rec->begin_ns] = (int32_t)idx;
    return EPF_OK;
}

epf_status epf_lane_open(epf_lane_walk *walk, const epf_trace *trace, const epf_trace_lane *lane)
{
    const int64_t num_records = (int64_t)lane->num_records;
    epf_status st;
    walk->trace = trace;
    walk->lane = lane;
    walk->last_work = EPF_LANE_NO_RECORD;
    walk->first_link = NULL;
    if (lane->num_records > INT32_MAX) {
        return impossible(lane, num_records, "is one too many");
    }
    walk->first_link = epf_alloc(lane->num_records, sizeof *walk->first_link);
    if (walk->first_link == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "profile of rank %d: an index of %lld records", lane->rank,
                        (long long)num_records);
    }
    for (int64_t i = 0; i < num_records; i++) {
        walk->first_link[i] = EPF_LANE_NO_RECORD;
    }
    for (int64_t i = num_records - 1; i >= 0; i--) {
        EPF_TRY_GOTO(index_record(walk, i), err_walk);
    }
    return EPF_OK;

err_walk:
    epf_lane_close(walk);
    return st;
}

void epf_lane_close(epf_lane_walk *walk)
{
    epf_free(walk->first_link);
    walk->first_link = NULL;
}

typedef struct stack {
    epf_lane_slice slices[EPF_LANE_MAX_DEPTH];
    int32_t depth;
} stack;

static uint64_t end_of(const epf_lane_walk *walk, const epf_lane_slice *slice)
{
    return walk->lane->records[slice->idx].end_ns;
}

/* Ends the slices that are over at `now_ns`, innermost first. */
static epf_status end_until(const epf_lane_walk *walk, const epf_lane_visitor *visitor, stack *open,
                            uint64_t now_ns)
{
    while (open->depth > 0 && end_of(walk, &open->slices[open->depth - 1]) <= now_ns) {
        EPF_TRY(visitor->end(visitor->self, &open->slices[--open->depth]));
    }
    return EPF_OK;
}

/* Slices of a lane nest like calls: Perfetto could not show anything else. */
static epf_status check_record(const epf_lane_walk *walk, const stack *open, int64_t idx,
                               uint64_t begun_ns)
{
    const epf_prof_record *const rec = &walk->lane->records[idx];
    if (rec->end_ns < rec->begin_ns) {
        return impossible(walk->lane, idx, "ends before it begins");
    }
    if (rec->begin_ns < begun_ns) {
        return impossible(walk->lane, idx, "begins before the one before it");
    }
    if (open->depth == EPF_LANE_MAX_DEPTH) {
        return impossible(walk->lane, idx, "is nested too deep");
    }
    if (open->depth > 0 && rec->end_ns > end_of(walk, &open->slices[open->depth - 1])) {
        return impossible(walk->lane, idx, "outlasts the one it began in");
    }
    return EPF_OK;
}

epf_status epf_lane_visit(const epf_lane_walk *walk, const epf_lane_visitor *visitor)
{
    stack open = {.depth = 0};
    int64_t waits_begin = 0;
    uint64_t begun_ns = 0;
    for (int64_t i = 0; i < (int64_t)walk->lane->num_records; i++) {
        const epf_prof_record *const rec = &walk->lane->records[i];
        epf_lane_slice *slice;
        if (is_link(rec) || rec->end_ns == 0) {
            continue;
        }
        EPF_TRY(end_until(walk, visitor, &open, rec->begin_ns));
        EPF_TRY(check_record(walk, &open, i, begun_ns));
        begun_ns = rec->begin_ns;
        slice = &open.slices[open.depth];
        slice->idx = i;
        slice->depth = open.depth++;
        slice->waits_begin = is_wait(walk, rec) ? i : waits_begin;
        if (!is_wait(walk, rec) || slice->depth > 0) {
            waits_begin = i + 1; /* waits up to here are shown: by this slice, or by themselves */
        }
        EPF_TRY(visitor->begin(visitor->self, slice));
    }
    return end_until(walk, visitor, &open, UINT64_MAX);
}

typedef struct flow_list {
    uint64_t *flows;
    uint32_t count;
} flow_list;

static void add_flow(flow_list *list, uint64_t flow)
{
    if (flow != 0 && list->count < EPF_LANE_MAX_FLOWS) {
        list->flows[list->count++] = flow;
    }
}

/* Those of one record: its own, then its links'. */
static void add_flows_in(const epf_lane_walk *walk, int64_t idx, flow_list *list)
{
    const epf_prof_record *const records = walk->lane->records;
    for (int64_t i = idx; i != EPF_LANE_NO_RECORD; i = walk->first_link[i]) {
        add_flow(list, records[i].flow_in);
    }
}

uint32_t epf_lane_flows_out(const epf_lane_walk *walk, const epf_lane_slice *slice, uint64_t *flows)
{
    flow_list list = {flows, 0};
    for (int64_t i = slice->idx; i != EPF_LANE_NO_RECORD; i = walk->first_link[i]) {
        add_flow(&list, walk->lane->records[i].flow_out);
    }
    return list.count;
}

uint32_t epf_lane_flows_in(const epf_lane_walk *walk, const epf_lane_slice *slice, uint64_t *flows)
{
    const epf_prof_record *const records = walk->lane->records;
    flow_list list = {flows, 0};
    const bool moved =
        is_wait(walk, &records[slice->idx]) && slice->depth == 0 && slice->idx < walk->last_work;
    for (int64_t i = slice->waits_begin; i < slice->idx; i++) {
        if (!is_link(&records[i]) && records[i].end_ns != 0) {
            add_flows_in(walk, i, &list);
        }
    }
    if (!moved) {
        add_flows_in(walk, slice->idx, &list);
    }
    return list.count;
}
