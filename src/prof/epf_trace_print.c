/* epf_trace_print.c: a trace's summary as a table and as JSON. */
#include <errno.h>
#include <string.h>

#include "base/epf_error.h"
#include "prof/epf_trace_summary.h"

typedef struct report {
    const epf_trace *trace;
    const epf_trace_summary *summary;
    FILE *out;
} report;

static double fraction(uint64_t part_ns, const report *r, const epf_trace_shares *shares)
{
    const double whole =
        (double)shares->num_lanes * (double)(r->summary->end_ns - r->summary->begin_ns);
    return whole > 0 ? (double)part_ns / whole : 0;
}

/* Events by falling total time; those that never happened are left out.  Returns how many. */
static uint32_t order_events(const report *r, uint32_t *order)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < r->trace->num_events; i++) {
        const epf_trace_stat *const stats = r->summary->stats;
        uint32_t at = count;
        if (stats[i].count == 0) {
            continue;
        }
        for (; at > 0 && stats[order[at - 1]].total_ns < stats[i].total_ns; at--) {
            order[at] = order[at - 1];
        }
        order[at] = i;
        count++;
    }
    return count;
}

static epf_status check_stream(FILE *out)
{
    if (fflush(out) != 0 || ferror(out)) {
        return EPF_FAIL(EPF_E_FILE, "summary: cannot write: %s", strerror(errno));
    }
    return EPF_OK;
}

/* Table --------------------------------------------------------------------------------------- */

static void print_shares(const report *r, const epf_trace_shares *shares)
{
    for (int i = 0; i < EPF_PROF_NUM_CATEGORIES; i++) {
        fprintf(r->out, "%9.1f%%", 100 * fraction(shares->ns[i], r, shares));
    }
    fprintf(r->out, "%9.1f%%\n", 100 * fraction(shares->idle_ns, r, shares));
}

/* A device has too many workers for a row each: those of a role share one. */
static void print_roles(const report *r, uint32_t first, uint32_t end)
{
    epf_trace_shares roles[EPF_TRACE_NUM_ROLES];
    memset(roles, 0, sizeof roles);
    for (uint32_t i = first; i < end; i++) {
        const int32_t worker = r->trace->lanes[i].worker;
        if (worker != EPF_TRACE_HOST) {
            epf_trace_shares_add(&roles[worker % EPF_TRACE_NUM_ROLES], &r->summary->lanes[i]);
        }
    }
    for (int role = 0; role < EPF_TRACE_NUM_ROLES; role++) {
        if (roles[role].num_lanes > 0) {
            fprintf(r->out, "%5d %7s", r->trace->lanes[first].rank, epf_trace_role_names[role]);
            print_shares(r, &roles[role]);
        }
    }
}

static void print_lanes(const report *r, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        const int32_t worker = r->trace->lanes[i].worker;
        char name[16];
        (void)snprintf(name, sizeof name, "%d", worker);
        fprintf(r->out, "%5d %7s", r->trace->lanes[i].rank,
                worker == EPF_TRACE_HOST ? "host" : name);
        print_shares(r, &r->summary->lanes[i]);
    }
}

static void print_lane_rows(const report *r)
{
    uint32_t lane_idx = 0;
    fprintf(r->out, "\n%5s %7s", "rank", "worker");
    for (int i = 0; i < EPF_PROF_NUM_CATEGORIES; i++) {
        fprintf(r->out, "%10s", epf_prof_category_names[i]);
    }
    fprintf(r->out, "%10s\n", "idle");
    for (uint32_t i = 0; i < r->trace->num_ranks; i++) {
        const int32_t rank = r->trace->ranks[i].rank;
        const uint32_t first = lane_idx;
        while (lane_idx < r->trace->num_lanes && r->trace->lanes[lane_idx].rank == rank) {
            lane_idx++;
        }
        (r->trace->ranks[i].on_device ? print_roles : print_lanes)(r, first, lane_idx);
        if (r->summary->ranks[i].num_lanes > 1) {
            fprintf(r->out, "%5d %7s", rank, "all");
            print_shares(r, &r->summary->ranks[i]);
        }
    }
    fprintf(r->out, "%5s %7s", "all", "all");
    print_shares(r, &r->summary->all);
}

static void print_event_rows(const report *r)
{
    uint32_t order[EPF_TRACE_MAX_EVENTS];
    const uint32_t count = order_events(r, order);
    fprintf(r->out, "\n%-28s %-8s %9s %11s %10s %10s %10s\n", "event", "kind", "count", "total ms",
            "mean us", "p50 us", "p99 us");
    for (uint32_t i = 0; i < count; i++) {
        const epf_trace_event *const event = &r->trace->events[order[i]];
        const epf_trace_stat *const stat = &r->summary->stats[order[i]];
        fprintf(r->out, "%-28s %-8s %9llu %11.3f %10.2f %10.2f %10.2f\n", event->name,
                epf_prof_category_names[event->category], (unsigned long long)stat->count,
                (double)stat->total_ns / 1e6, (double)stat->total_ns / (double)stat->count / 1e3,
                (double)stat->p50_ns / 1e3, (double)stat->p99_ns / 1e3);
    }
}

epf_status epf_trace_print(const epf_trace *trace, FILE *out)
{
    epf_trace_summary *summary;
    report r = {trace, NULL, out};
    EPF_TRY(epf_trace_summarize(trace, &summary));
    r.summary = summary;
    fprintf(out, "%u rank%s, %u worker%s, %llu records over %.3f ms", trace->num_ranks,
            trace->num_ranks == 1 ? "" : "s", summary->all.num_lanes,
            summary->all.num_lanes == 1 ? "" : "s", (unsigned long long)summary->num_records,
            (double)(summary->end_ns - summary->begin_ns) / 1e6);
    if (summary->num_lost > 0) {
        fprintf(out, "; %llu more were lost", (unsigned long long)summary->num_lost);
    }
    fprintf(out, "\n");
    print_lane_rows(&r);
    print_event_rows(&r);
    epf_trace_summary_destroy(summary);
    return check_stream(out);
}

/* JSON ---------------------------------------------------------------------------------------- */

/* Event names come from files: the reader lets only printable ASCII through. */
static void print_json_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            fputc('\\', out);
        }
        fputc(*text, out);
    }
    fputc('"', out);
}

static void print_json_shares(const report *r, const epf_trace_shares *shares)
{
    for (int i = 0; i < EPF_PROF_NUM_CATEGORIES; i++) {
        fprintf(r->out, ",\"%s\":%.6f", epf_prof_category_names[i],
                fraction(shares->ns[i], r, shares));
    }
    fprintf(r->out, ",\"idle\":%.6f}", fraction(shares->idle_ns, r, shares));
}

static void print_json_lanes(const report *r)
{
    fprintf(r->out, ",\"all\":{\"workers\":%u", r->summary->all.num_lanes);
    print_json_shares(r, &r->summary->all);
    fprintf(r->out, ",\"ranks\":[");
    for (uint32_t i = 0; i < r->trace->num_ranks; i++) {
        fprintf(r->out, "%s{\"rank\":%d,\"workers\":%u", i == 0 ? "" : ",", r->trace->ranks[i].rank,
                r->summary->ranks[i].num_lanes);
        print_json_shares(r, &r->summary->ranks[i]);
    }
    fprintf(r->out, "],\"workers\":[");
    for (uint32_t i = 0; i < r->trace->num_lanes; i++) {
        const epf_trace_lane *const lane = &r->trace->lanes[i];
        fprintf(r->out, "%s{\"rank\":%d,\"host\":%s,\"worker\":%d", i == 0 ? "" : ",", lane->rank,
                lane->worker == EPF_TRACE_HOST ? "true" : "false", lane->worker);
        print_json_shares(r, &r->summary->lanes[i]);
    }
    fprintf(r->out, "]");
}

static void print_json_events(const report *r)
{
    uint32_t order[EPF_TRACE_MAX_EVENTS];
    const uint32_t count = order_events(r, order);
    fprintf(r->out, ",\"events\":[");
    for (uint32_t i = 0; i < count; i++) {
        const epf_trace_event *const event = &r->trace->events[order[i]];
        const epf_trace_stat *const stat = &r->summary->stats[order[i]];
        fprintf(r->out, "%s{\"name\":", i == 0 ? "" : ",");
        print_json_text(r->out, event->name);
        fprintf(r->out,
                ",\"category\":\"%s\",\"count\":%llu,\"total_ns\":%llu,\"mean_ns\":%.1f,"
                "\"p50_ns\":%llu,\"p99_ns\":%llu}",
                epf_prof_category_names[event->category], (unsigned long long)stat->count,
                (unsigned long long)stat->total_ns, (double)stat->total_ns / (double)stat->count,
                (unsigned long long)stat->p50_ns, (unsigned long long)stat->p99_ns);
    }
    fprintf(r->out, "]");
}

epf_status epf_trace_print_json(const epf_trace *trace, FILE *out)
{
    epf_trace_summary *summary;
    report r = {trace, NULL, out};
    EPF_TRY(epf_trace_summarize(trace, &summary));
    r.summary = summary;
    fprintf(out, "{\"duration_ns\":%llu,\"records\":%llu,\"records_lost\":%llu",
            (unsigned long long)(summary->end_ns - summary->begin_ns),
            (unsigned long long)summary->num_records, (unsigned long long)summary->num_lost);
    print_json_lanes(&r);
    print_json_events(&r);
    fprintf(out, "}\n");
    epf_trace_summary_destroy(summary);
    return check_stream(out);
}
