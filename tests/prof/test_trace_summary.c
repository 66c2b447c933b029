/*
 * test_trace_summary: shares and statistics of a profile whose times are known, as numbers, as a table
 * and as JSON.
 */
#include <string.h>

#include "prof/epf_trace_flow.h"
#include "prof/epf_trace_summary.h"
#include "prof_fixture.h"

#include "base/epf_alloc.h"

/* Of a worker of rank 0, in fixture's nanoseconds; the trace lasts from 950000 to 1217500 or so. */
enum {
    COMPUTE = 4 * 40000 + (0 + 1 + 2 + 3) * 1000,
    MOVE = 20000 + 9000 + 12000,
    WAIT = 5000 + 2500
};

static uint64_t sum(const epf_trace_shares *shares)
{
    uint64_t total = shares->idle_ns;
    for (int i = 0; i < EPF_PROF_NUM_CATEGORIES; i++) {
        total += shares->ns[i];
    }
    return total;
}

static void check_shares(const epf_trace *trace, const epf_trace_summary *s)
{
    const uint64_t whole = s->end_ns - s->begin_ns;
    CHECK(s->begin_ns == 950000, "%llu", (unsigned long long)s->begin_ns);
    CHECK(s->num_records == 56 && s->num_lost == 1, "%llu", (unsigned long long)s->num_records);
    for (uint32_t i = 0; i < trace->num_lanes; i++) {
        CHECK(s->lanes[i].num_lanes == 1 && sum(&s->lanes[i]) == whole, "lane %u", i);
    }
    /* The host: a barrier of 20 us within a preprocess of 30.5 us. */
    CHECK(trace->lanes[0].worker == EPF_TRACE_HOST, "%d", trace->lanes[0].worker);
    CHECK(s->lanes[0].ns[EPF_PROF_WAIT] == 20000 && s->lanes[0].ns[EPF_PROF_OTHER] == 10500,
          "host");
    CHECK(s->lanes[1].ns[EPF_PROF_COMPUTE] == COMPUTE && s->lanes[1].ns[EPF_PROF_MOVE] == MOVE &&
              s->lanes[1].ns[EPF_PROF_WAIT] == WAIT,
          "worker 0 of rank 0");
    CHECK(s->ranks[0].num_lanes == 2 && s->ranks[0].ns[EPF_PROF_WAIT] == 2 * WAIT, "rank 0");
    CHECK(s->all.num_lanes == 6 && s->all.ns[EPF_PROF_COMPUTE] == 6 * COMPUTE, "all");
    CHECK(sum(&s->all) == 6 * whole, "all");
}

static void check_stats(const epf_trace_summary *s)
{
    const epf_trace_stat *const gemm = &s->stats[EPF_PROF_GROUP_GEMM_MAIN];
    CHECK(gemm->count == 24 && gemm->total_ns == 6 * COMPUTE, "%llu",
          (unsigned long long)gemm->total_ns);
    CHECK(gemm->p50_ns == 41000 && gemm->p99_ns == 43000, "%llu %llu",
          (unsigned long long)gemm->p50_ns, (unsigned long long)gemm->p99_ns);
    CHECK(s->stats[EPF_PROF_PREPROCESS].total_ns == 3 * 30500 + 0 + 1 + 2, "inner ones included");
    CHECK(s->stats[EPF_PROF_ACTIVATION].count == 0, "nothing was activated");
}

/* Of durations 1 .. 100 in no order, half are at most 50, 99 at most 99. */
static void check_percentiles(void)
{
    const epf_prof_config config = {0, 1, 100};
    epf_trace_summary *summary;
    epf_trace *trace;
    epf_prof *prof;
    uint64_t now_ns = 1;
    CHECK_OK(epf_prof_create(&config, &prof));
    for (uint64_t i = 0; i < 100; i++) {
        epf_prof_record *const rec =
            epf_prof_begin(epf_prof_worker(prof, 0), EPF_PROF_ACTIVATION, (int32_t)i);
        rec->begin_ns = now_ns;
        now_ns += 1 + i * 37 % 100;
        rec->end_ns = now_ns;
    }
    CHECK_OK(epf_trace_from_profs(&prof, 1, &trace));
    CHECK_OK(epf_trace_summarize(trace, &summary));
    CHECK(summary->stats[EPF_PROF_ACTIVATION].p50_ns == 50, "p50");
    CHECK(summary->stats[EPF_PROF_ACTIVATION].p99_ns == 99, "p99");
    CHECK(summary->stats[EPF_PROF_ACTIVATION].total_ns == 5050, "total");
    CHECK(summary->all.idle_ns == 0 && summary->all.ns[EPF_PROF_COMPUTE] == 5050, "no idle time");
    epf_trace_summary_destroy(summary);
    epf_trace_destroy(trace);
    epf_prof_destroy(prof);
}

/* Every rank's send reaches every rank's worker of the same number; the combine reaches rank 0. */
static void check_flows(const epf_trace *trace)
{
    epf_trace_flow *flows;
    uint64_t num_flows, num_lost;
    uint32_t crossing = 0;
    CHECK_OK(epf_trace_match_flows(trace, &flows, &num_flows, &num_lost));
    CHECK(num_flows == 24 && num_lost == 0, "%llu", (unsigned long long)num_flows);
    for (uint64_t i = 0; i < num_flows; i++) {
        const epf_trace_lane *const from = &trace->lanes[flows[i].from.lane_idx];
        const epf_trace_lane *const to = &trace->lanes[flows[i].to.lane_idx];
        CHECK(from->worker == to->worker && from->worker != EPF_TRACE_HOST, "flow %d", (int)i);
        CHECK(flows[i].from.begin_ns < flows[i].to.begin_ns, "flow %d goes back in time", (int)i);
        CHECK(i == 0 || flows[i].to.begin_ns >= flows[i - 1].to.begin_ns, "order");
        crossing += from->rank != to->rank;
    }
    CHECK(crossing == 16, "%u flows cross ranks", crossing);
    epf_free(flows);
}

static char *printed(epf_status (*print)(const epf_trace *, FILE *), const epf_trace *trace)
{
    static char text[16384];
    FILE *const file = tmpfile();
    size_t size;
    CHECK(file != NULL, "a temporary file");
    CHECK_OK(print(trace, file));
    rewind(file);
    size = fread(text, 1, sizeof text - 1, file);
    text[size] = '\0';
    (void)fclose(file);
    return text;
}

static void check_print(const epf_trace *trace)
{
    FILE *const full = fopen("/dev/full", "w");
    char *text = printed(epf_trace_print, trace);
    int depth = 0;
    CHECK(strstr(text, "3 ranks, 6 workers, 56 records") != NULL, "%s", text);
    CHECK(strstr(text, "1 more were lost") != NULL, "%s", text);
    CHECK(strstr(text, "group_gemm_main              compute         24") != NULL, "%s", text);
    text = printed(epf_trace_print_json, trace);
    CHECK(strstr(text,
                 "\"name\":\"group_gemm_main\",\"category\":\"compute\",\"count\":24,"
                 "\"total_ns\":996000,\"mean_ns\":41500.0,\"p50_ns\":41000,\"p99_ns\":43000}") !=
              NULL,
          "%s", text);
    for (const char *at = text; *at != '\0'; at++) {
        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        CHECK(depth > 0 || at[1] == '\n' || *at == '\n', "%s", at);
    }
    CHECK(depth == 0, "brackets");
    if (full != NULL) { /* a device that is always full: writes must not be lost in silence */
        CHECK(epf_trace_print(trace, full) == EPF_E_FILE, "a full device");
        (void)fclose(full);
    }
}

/* Records that a correct executor cannot make are refused, not drawn wrong. */
static void check_impossible(void)
{
    const epf_prof_config config = {0, 1, 8};
    epf_prof_buffer *lane;
    epf_prof_record *first, *second;
    epf_trace_summary *summary;
    epf_trace *trace;
    epf_prof *prof;
    CHECK_OK(epf_prof_create(&config, &prof));
    lane = epf_prof_worker(prof, 0);
    first = epf_prof_begin(lane, EPF_PROF_GROUP_GEMM_MAIN, 0);
    second = epf_prof_begin(lane, EPF_PROF_GROUP_GEMM_MAIN, 1);
    CHECK_OK(epf_trace_from_profs(&prof, 1, &trace));
    first->begin_ns = 100, first->end_ns = 200;
    second->begin_ns = 150, second->end_ns = 250;
    CHECK(epf_trace_summarize(trace, &summary) == EPF_E_INTERNAL, "overlap");
    CHECK(strstr(epf_error_text(), "record 1 outlasts") != NULL, "%s", epf_error_text());
    second->begin_ns = 90, second->end_ns = 95;
    CHECK(epf_trace_summarize(trace, &summary) == EPF_E_INTERNAL, "back in time");
    second->begin_ns = 150, second->end_ns = 140;
    CHECK(epf_trace_summarize(trace, &summary) == EPF_E_INTERNAL, "a negative duration");
    second->end_ns = 160, second->event = EPF_PROF_NUM_EVENTS;
    CHECK(epf_trace_summarize(trace, &summary) == EPF_E_INTERNAL, "an unknown event");
    second->event = EPF_PROF_LINK, second->begin_ns = 1;
    CHECK(epf_trace_summarize(trace, &summary) == EPF_E_INTERNAL, "a link to itself");
    epf_trace_destroy(trace);
    CHECK(epf_trace_from_profs((epf_prof *[]){prof, prof}, 2, &trace) == EPF_E_INVALID, "twice");
    CHECK(epf_trace_from_profs(&prof, 0, &trace) == EPF_E_INVALID, "none");
    epf_prof_destroy(prof);
}

/* A profile without any record is a trace without time. */
static void check_empty(void)
{
    const epf_prof_config config = {0, 2, 1};
    epf_trace_summary *summary;
    epf_trace *trace;
    epf_prof *prof;
    CHECK_OK(epf_prof_create(&config, &prof));
    CHECK_OK(epf_trace_from_profs(&prof, 1, &trace));
    CHECK_OK(epf_trace_summarize(trace, &summary));
    CHECK(summary->begin_ns == summary->end_ns && summary->num_records == 0, "empty");
    CHECK(strstr(printed(epf_trace_print, trace), "0 records over 0.000 ms") != NULL, "empty");
    CHECK(strstr(printed(epf_trace_print_json, trace), "nan") == NULL, "empty");
    epf_trace_summary_destroy(summary);
    epf_trace_destroy(trace);
    epf_prof_destroy(prof);
}

int main(void)
{
    epf_prof *profs[FIXTURE_RANKS];
    epf_trace_summary *summary;
    epf_trace *trace;
    fixture_make(profs);
    CHECK_OK(epf_trace_from_profs(profs, FIXTURE_RANKS, &trace));
    CHECK_OK(epf_trace_summarize(trace, &summary));
    check_shares(trace, summary);
    check_stats(summary);
    check_percentiles();
    check_flows(trace);
    check_print(trace);
    check_impossible();
    check_empty();
    epf_trace_summary_destroy(summary);
    epf_trace_destroy(trace);
    fixture_destroy(profs);
    return 0;
}
