/* epf_trace.c: traces in memory: made, joined, destroyed. */
#include "prof/epf_trace.h"

#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"

epf_status epf_trace_create(uint32_t max_events, uint32_t max_ranks, uint32_t max_lanes,
                            epf_trace **trace)
{
    epf_trace *const made = epf_alloc(1, sizeof *made);
    *trace = NULL;
    if (made == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "trace: %zu bytes", sizeof *made);
    }
    made->events = epf_alloc(max_events, sizeof *made->events);
    made->ranks = epf_alloc(max_ranks, sizeof *made->ranks);
    made->lanes = epf_alloc(max_lanes, sizeof *made->lanes);
    if (made->events == NULL || made->ranks == NULL || made->lanes == NULL) {
        epf_trace_destroy(made);
        return EPF_FAIL(EPF_E_NO_MEMORY, "trace: %u events, %u ranks, %u lanes", max_events,
                        max_ranks, max_lanes);
    }
    *trace = made;
    return EPF_OK;
}

void epf_trace_read_clocks(epf_trace_rank *rank)
{
    struct timespec now;
    rank->monotonic_ns = epf_now_ns();
    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    rank->boottime_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void epf_trace_destroy(epf_trace *trace)
{
    if (trace == NULL) {
        return;
    }
    for (uint32_t i = 0; trace->owns_records && i < trace->num_lanes; i++) {
        epf_free(trace->lanes[i].records);
    }
    epf_free(trace->lanes);
    epf_free(trace->ranks);
    epf_free(trace->events);
    epf_free(trace);
}

/* The index of `event` in the trace's list, which grows if it is new; room for it was made. */
static uint32_t intern(epf_trace *trace, const epf_trace_event *event)
{
    for (uint32_t i = 0; i < trace->num_events; i++) {
        if (strcmp(trace->events[i].name, event->name) == 0 &&
            trace->events[i].category == event->category) {
            return i;
        }
    }
    trace->events[trace->num_events] = *event;
    return trace->num_events++;
}

/* Moves all of `from` behind what `into` has, renumbering its events. */
static void append(epf_trace *into, epf_trace *from)
{
    uint32_t renumber[EPF_TRACE_MAX_EVENTS];
    for (uint32_t i = 0; i < from->num_events; i++) {
        renumber[i] = intern(into, &from->events[i]);
    }
    for (uint32_t i = 0; i < from->num_ranks; i++) {
        into->ranks[into->num_ranks++] = from->ranks[i];
    }
    for (uint32_t i = 0; i < from->num_lanes; i++) {
        epf_trace_lane *const lane = &from->lanes[i];
        for (uint64_t j = 0; j < lane->num_records; j++) {
            epf_prof_record *const rec = &lane->records[j];
            rec->event = rec->event == EPF_PROF_LINK ? rec->event : renumber[rec->event];
        }
        into->lanes[into->num_lanes++] = *lane;
        lane->records = NULL;
    }
}

static int by_rank(const void *a, const void *b)
{
    return ((const epf_trace_rank *)a)->rank - ((const epf_trace_rank *)b)->rank;
}

static uint64_t first_begin(const epf_trace_lane *lane)
{
    return lane->num_records > 0 ? lane->records[0].begin_ns : 0;
}

static int by_rank_worker_and_time(const void *a, const void *b)
{
    const epf_trace_lane *const x = a, *const y = b;
    if (x->rank != y->rank || x->worker != y->worker) {
        return x->rank != y->rank ? x->rank - y->rank : x->worker - y->worker;
    }
    return first_begin(x) < first_begin(y) ? -1 : first_begin(x) > first_begin(y);
}

/* Lanes of one worker, in order of time, become the first of them. */
static epf_status fold_lanes(epf_trace_lane *lanes, uint32_t num_lanes)
{
    epf_prof_record *records;
    uint64_t num_records = 0, end_ns = 0;
    for (uint32_t i = 0; i < num_lanes; i++) {
        num_records += lanes[i].num_records;
    }
    records = epf_alloc(num_records, sizeof *records);
    if (records == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "traces: %llu records", (unsigned long long)num_records);
    }
    num_records = 0;
    for (uint32_t i = 0; i < num_lanes; i++) {
        const uint64_t before = num_records;
        for (uint64_t j = 0; j < lanes[i].num_records; j++) {
            epf_prof_record *const rec = &records[num_records++];
            *rec = lanes[i].records[j];
            if (rec->event == EPF_PROF_LINK) {
                rec->begin_ns += before;
            } else if (rec->begin_ns < end_ns && num_records == before + 1) {
                epf_free(records);
                return EPF_FAIL(EPF_E_FORMAT, "traces: two of the files overlap in rank %d's time",
                                lanes[i].rank);
            } else if (rec->end_ns > end_ns) {
                end_ns = rec->end_ns;
            }
        }
    }
    for (uint32_t i = 0; i < num_lanes; i++) {
        epf_free(lanes[i].records);
        lanes[i].records = NULL;
    }
    lanes[0].records = records;
    lanes[0].num_records = num_records;
    return EPF_OK;
}

/* Lanes are in order, so those of one worker stand together. */
static epf_status fold_all_lanes(epf_trace *trace)
{
    const uint32_t num_lanes = trace->num_lanes;
    epf_trace_lane *const lanes = trace->lanes;
    uint32_t kept = 0;
    for (uint32_t i = 0, end; i < num_lanes; i = end) {
        for (end = i + 1; end < num_lanes && lanes[end].rank == lanes[i].rank &&
                          lanes[end].worker == lanes[i].worker;) {
            end++;
        }
        if (end - i > 1) {
            EPF_TRY(fold_lanes(lanes + i, end - i));
        }
        if (kept != i) {
            lanes[kept] = lanes[i];
            lanes[i].records = NULL;
        }
        kept++;
    }
    trace->num_lanes = kept;
    return EPF_OK;
}

/* Likewise ranks; the earliest pair of clocks stays, as in a file of all. */
static void fold_ranks(epf_trace *trace)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < trace->num_ranks; i++) {
        const epf_trace_rank *const rank = &trace->ranks[i];
        epf_trace_rank *const last = kept > 0 ? &trace->ranks[kept - 1] : NULL;
        if (last == NULL || last->rank != rank->rank) {
            trace->ranks[kept++] = *rank;
            continue;
        }
        last->num_lost += rank->num_lost;
        last->on_device = last->on_device || rank->on_device;
        if (rank->monotonic_ns < last->monotonic_ns) {
            last->monotonic_ns = rank->monotonic_ns;
            last->boottime_ns = rank->boottime_ns;
        }
    }
    trace->num_ranks = kept;
}

/* Puts ranks and lanes in order; what several files say of one rank becomes one. */
static epf_status fold(epf_trace *trace)
{
    qsort(trace->ranks, trace->num_ranks, sizeof *trace->ranks, by_rank);
    qsort(trace->lanes, trace->num_lanes, sizeof *trace->lanes, by_rank_worker_and_time);
    fold_ranks(trace);
    return fold_all_lanes(trace);
}

static epf_status join(epf_trace *const *parts, int32_t num_parts, epf_trace **trace)
{
    uint32_t num_events = 0, num_ranks = 0, num_lanes = 0;
    epf_trace *made;
    epf_status st;
    for (int32_t i = 0; i < num_parts; i++) {
        num_events += parts[i]->num_events;
        num_ranks += parts[i]->num_ranks;
        num_lanes += parts[i]->num_lanes;
    }
    EPF_CHECK_ARG(num_lanes <= EPF_TRACE_MAX_LANES, "traces: %u lanes in all, must be at most %d",
                  num_lanes, EPF_TRACE_MAX_LANES);
    EPF_TRY(epf_trace_create(num_events, num_ranks, num_lanes, &made));
    made->owns_records = true;
    for (int32_t i = 0; i < num_parts; i++) {
        append(made, parts[i]);
    }
    if (made->num_events > EPF_TRACE_MAX_EVENTS) {
        st = EPF_FAIL(EPF_E_FORMAT, "traces: %u different events, must be at most %d",
                      made->num_events, EPF_TRACE_MAX_EVENTS);
    } else {
        st = fold(made);
    }
    if (st != EPF_OK) {
        epf_trace_destroy(made);
        return st;
    }
    *trace = made;
    return EPF_OK;
}

epf_status epf_trace_read_all(const char *const *paths, int32_t num_paths, epf_trace **trace)
{
    epf_trace **parts;
    epf_status st = EPF_OK;
    *trace = NULL;
    EPF_CHECK_ARG(num_paths >= 1 && num_paths <= EPF_TRACE_MAX_RANKS,
                  "traces: %d files, must be 1 .. %d", num_paths, EPF_TRACE_MAX_RANKS);
    parts = epf_alloc((size_t)num_paths, sizeof *parts);
    if (parts == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "traces: a list of %d files", num_paths);
    }
    for (int32_t i = 0; i < num_paths && st == EPF_OK; i++) {
        st = epf_trace_read(paths[i], &parts[i]);
    }
    if (st == EPF_OK) {
        st = join(parts, num_paths, trace);
    }
    for (int32_t i = 0; i < num_paths; i++) {
        epf_trace_destroy(parts[i]);
    }
    epf_free(parts);
    return st;
}

epf_status epf_trace_merge(const char *const *paths, int32_t num_paths, const char *out_path)
{
    epf_trace *trace;
    epf_status st;
    EPF_TRY(epf_trace_read_all(paths, num_paths, &trace));
    st = epf_trace_write(trace, out_path);
    epf_trace_destroy(trace);
    return st;
}
