/* epf_trace_summary.c: see epf_trace_summary.h. */
#include "prof/epf_trace_summary.h"

#include <stdlib.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "prof/epf_trace_lane.h"

/* One pass over a lane: its shares, and each slice's duration. */
typedef struct pass {
    const epf_trace_lane *lane;
    const epf_trace *trace;
    epf_trace_shares *shares;
    uint64_t *const *durations; /* [num_events] where the next duration of an event goes... */
    epf_trace_stat *stats;      /* ... its count so far                                    */
    uint32_t open[EPF_LANE_MAX_DEPTH]; /* categories, outermost first */
    int32_t depth;
    uint64_t now_ns;
} pass;

/* Time goes on to `to_ns`; it belongs to the innermost open slice. */
static void advance(pass *p, uint64_t to_ns)
{
    if (p->depth > 0) {
        p->shares->ns[p->open[p->depth - 1]] += to_ns - p->now_ns;
    }
    p->now_ns = to_ns;
}

static epf_status slice_begin(void *self, const epf_lane_slice *slice)
{
    pass *const p = self;
    const epf_prof_record *const rec = &p->lane->records[slice->idx];
    epf_trace_stat *const stat = &p->stats[rec->event];
    advance(p, rec->begin_ns);
    p->open[p->depth++] = p->trace->events[rec->event].category;
    p->durations[rec->event][stat->count++] = rec->end_ns - rec->begin_ns;
    return EPF_OK;
}

static epf_status slice_end(void *self, const epf_lane_slice *slice)
{
    pass *const p = self;
    advance(p, p->lane->records[slice->idx].end_ns);
    p->depth--;
    return EPF_OK;
}

static bool ended(const epf_prof_record *rec)
{
    return rec->event != EPF_PROF_LINK && rec->end_ns != 0;
}

/* The trace's bounds, and how many records of each event it has. */
static epf_status survey(const epf_trace *trace, epf_trace_summary *summary, uint64_t *counts)
{
    summary->begin_ns = UINT64_MAX;
    for (uint32_t i = 0; i < trace->num_lanes; i++) {
        for (uint64_t j = 0; j < trace->lanes[i].num_records; j++) {
            const epf_prof_record *const rec = &trace->lanes[i].records[j];
            if (!ended(rec)) {
                continue;
            }
            if (rec->event >= trace->num_events) {
                return EPF_FAIL(EPF_E_INTERNAL, "trace: a record of unknown event %u", rec->event);
            }
            counts[rec->event]++;
            summary->num_records++;
            if (rec->begin_ns < summary->begin_ns) {
                summary->begin_ns = rec->begin_ns;
            }
            if (rec->end_ns > summary->end_ns) {
                summary->end_ns = rec->end_ns;
            }
        }
    }
    if (summary->num_records == 0) {
        summary->begin_ns = 0;
    }
    for (uint32_t i = 0; i < trace->num_ranks; i++) {
        summary->num_lost += trace->ranks[i].num_lost;
    }
    return EPF_OK;
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Sorts, and takes nearest-rank percentiles. */
static void finish_stat(epf_trace_stat *stat, uint64_t *durations)
{
    if (stat->count == 0) {
        return;
    }
    qsort(durations, stat->count, sizeof *durations, by_value);
    stat->p50_ns = durations[(stat->count * 50 + 99) / 100 - 1];
    stat->p99_ns = durations[(stat->count * 99 + 99) / 100 - 1];
    for (uint64_t i = 0; i < stat->count; i++) {
        stat->total_ns += durations[i];
    }
}

void epf_trace_shares_add(epf_trace_shares *to, const epf_trace_shares *from)
{
    to->num_lanes += from->num_lanes;
    to->idle_ns += from->idle_ns;
    for (int i = 0; i < EPF_PROF_NUM_CATEGORIES; i++) {
        to->ns[i] += from->ns[i];
    }
}

/* What no record covers, from the first begin to the last end of the whole trace, is idle. */
static epf_status sum_lane(const epf_trace *trace, epf_trace_summary *summary, uint32_t lane_idx,
                           uint64_t *const *durations)
{
    epf_trace_shares *const shares = &summary->lanes[lane_idx];
    pass p = {.lane = &trace->lanes[lane_idx],
              .trace = trace,
              .shares = shares,
              .durations = durations,
              .stats = summary->stats};
    const epf_lane_visitor visitor = {slice_begin, slice_end, &p};
    epf_lane_walk walk;
    epf_status st;
    EPF_TRY(epf_lane_open(&walk, trace, p.lane));
    st = epf_lane_visit(&walk, &visitor);
    epf_lane_close(&walk);
    shares->num_lanes = 1;
    shares->idle_ns = summary->end_ns - summary->begin_ns;
    for (int i = 0; i < EPF_PROF_NUM_CATEGORIES; i++) {
        shares->idle_ns -= shares->ns[i];
    }
    return st;
}

/* Hosts mostly wait for their workers: they count for themselves only. */
static epf_status sum_lanes(const epf_trace *trace, epf_trace_summary *summary,
                            uint64_t *const *durations)
{
    uint32_t rank_idx = 0;
    for (uint32_t i = 0; i < trace->num_lanes; i++) {
        EPF_TRY(sum_lane(trace, summary, i, durations));
        while (trace->ranks[rank_idx].rank != trace->lanes[i].rank) {
            rank_idx++;
        }
        if (trace->lanes[i].worker != EPF_TRACE_HOST) {
            epf_trace_shares_add(&summary->ranks[rank_idx], &summary->lanes[i]);
            epf_trace_shares_add(&summary->all, &summary->lanes[i]);
        }
    }
    return EPF_OK;
}

/* `durations`: room for all records, cut into one piece per event by `counts`. */
static epf_status sum_up(const epf_trace *trace, epf_trace_summary *summary, const uint64_t *counts,
                         uint64_t *durations)
{
    uint64_t *of_event[EPF_TRACE_MAX_EVENTS];
    for (uint32_t i = 0; i < trace->num_events; i++) {
        of_event[i] = durations;
        durations += counts[i];
    }
    EPF_TRY(sum_lanes(trace, summary, of_event));
    for (uint32_t i = 0; i < trace->num_events; i++) {
        finish_stat(&summary->stats[i], of_event[i]);
    }
    return EPF_OK;
}

epf_status epf_trace_summarize(const epf_trace *trace, epf_trace_summary **summary)
{
    uint64_t counts[EPF_TRACE_MAX_EVENTS] = {0};
    uint64_t *durations = NULL;
    epf_trace_summary *const made = epf_alloc(1, sizeof *made);
    epf_status st = EPF_OK;
    *summary = NULL;
    if (made != NULL) {
        made->ranks = epf_alloc(trace->num_ranks, sizeof *made->ranks);
        made->lanes = epf_alloc(trace->num_lanes, sizeof *made->lanes);
        made->stats = epf_alloc(trace->num_events, sizeof *made->stats);
    }
    if (made == NULL || made->ranks == NULL || made->lanes == NULL || made->stats == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "trace: a summary of %u lanes", trace->num_lanes);
        goto done;
    }
    EPF_TRY_GOTO(survey(trace, made, counts), done);
    durations = epf_alloc(made->num_records, sizeof *durations);
    if (durations == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "trace: %llu durations",
                      (unsigned long long)made->num_records);
        goto done;
    }
    st = sum_up(trace, made, counts, durations);
done:
    epf_free(durations);
    if (st != EPF_OK) {
        epf_trace_summary_destroy(made);
        return st;
    }
    *summary = made;
    return EPF_OK;
}

void epf_trace_summary_destroy(epf_trace_summary *summary)
{
    if (summary != NULL) {
        epf_free(summary->stats);
        epf_free(summary->lanes);
        epf_free(summary->ranks);
        epf_free(summary);
    }
}
