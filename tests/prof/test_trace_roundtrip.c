/*
 * test_trace_roundtrip: what is written is what is read: every record, flow and number; the merged
 * file of all profiles is, byte for byte, the merge of the ranks' files; files of two calls join.
 */
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "prof_fixture.h"

/* Records of a lane that a trace shows: those that ended, without links. */
static uint32_t shown(const epf_trace_lane *lane, const epf_prof_record **list)
{
    uint32_t count = 0;
    for (uint64_t i = 0; i < lane->num_records; i++) {
        const epf_prof_record *const rec = &lane->records[i];
        if (rec->event != EPF_PROF_LINK && rec->end_ns != 0) {
            list[count++] = rec;
        }
    }
    return count;
}

static void compare_lanes(const epf_trace *a, const epf_trace_lane *x, const epf_trace *b,
                          const epf_trace_lane *y)
{
    const epf_prof_record *of_x[64], *of_y[64];
    const uint32_t count = shown(x, of_x);
    CHECK(x->rank == y->rank && x->worker == y->worker, "rank %d worker %d", y->rank, y->worker);
    CHECK(count == shown(y, of_y), "rank %d worker %d", x->rank, x->worker);
    CHECK(count > 0, "rank %d worker %d", x->rank, x->worker);
    for (uint32_t i = 0; i < count; i++) {
        const epf_prof_record *const r = of_x[i], *const s = of_y[i];
        CHECK(r->begin_ns == s->begin_ns && r->end_ns == s->end_ns, "record %u", i);
        CHECK(r->task == s->task && r->expert == s->expert && r->rows == s->rows, "record %u", i);
        CHECK(strcmp(a->events[r->event].name, b->events[s->event].name) == 0, "record %u", i);
        CHECK(a->events[r->event].category == b->events[s->event].category, "record %u", i);
    }
}

static void compare(const epf_trace *a, const epf_trace *b)
{
    CHECK(a->num_ranks == b->num_ranks && a->num_lanes == b->num_lanes, "%u %u", b->num_ranks,
          b->num_lanes);
    for (uint32_t i = 0; i < a->num_ranks; i++) {
        CHECK(a->ranks[i].rank == b->ranks[i].rank, "rank %u", i);
        CHECK(a->ranks[i].num_lost == b->ranks[i].num_lost, "rank %u", i);
    }
    for (uint32_t i = 0; i < a->num_lanes; i++) {
        compare_lanes(a, &a->lanes[i], b, &b->lanes[i]);
    }
}

static uint64_t sum_of_flows(const epf_trace *trace, bool leaving)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < trace->num_lanes; i++) {
        for (uint64_t j = 0; j < trace->lanes[i].num_records; j++) {
            const epf_prof_record *const rec = &trace->lanes[i].records[j];
            sum += leaving ? rec->flow_out : rec->flow_in;
        }
    }
    return sum;
}

static void check_same_file(const char *path_a, const char *path_b)
{
    size_t size_a, size_b;
    unsigned char *const a = fixture_load(path_a, &size_a);
    unsigned char *const b = fixture_load(path_b, &size_b);
    CHECK(size_a == size_b && memcmp(a, b, size_a) == 0, "%s and %s differ", path_a, path_b);
    free(a);
    free(b);
}

/* Two calls one after the other: each worker's records of the second follow those of the first. */
static void check_two_calls(epf_prof **profs, const char *folder)
{
    enum { LATER_NS = 1000000 };
    char first[PATH_MAX], second[PATH_MAX];
    const char *const paths[] = {second, first};
    epf_trace *a, *b, *both;
    CHECK_OK(epf_prof_write_merged(profs, FIXTURE_RANKS, folder, "first"));
    CHECK_OK(epf_trace_from_profs(profs, FIXTURE_RANKS, &a));
    for (uint32_t i = 0; i < a->num_lanes; i++) {
        for (uint64_t j = 0; j < a->lanes[i].num_records; j++) {
            epf_prof_record *const rec = &a->lanes[i].records[j];
            const bool is_link = rec->event == EPF_PROF_LINK;
            rec->begin_ns += is_link ? 0 : LATER_NS;
            rec->end_ns += is_link || rec->end_ns == 0 ? 0 : LATER_NS;
            rec->flow_out += rec->flow_out != 0; /* another epoch's */
            rec->flow_in += rec->flow_in != 0;
        }
    }
    CHECK_OK(epf_prof_write_merged(profs, FIXTURE_RANKS, folder, "second"));
    (void)snprintf(first, sizeof first, "%s/first_merged.perfetto-trace", folder);
    (void)snprintf(second, sizeof second, "%s/second_merged.perfetto-trace", folder);
    CHECK_OK(epf_trace_read(first, &b));
    CHECK_OK(epf_trace_read_all(paths, 2, &both));
    CHECK(both->num_ranks == FIXTURE_RANKS && both->num_lanes == b->num_lanes, "%u lanes",
          both->num_lanes);
    CHECK(both->ranks[2].num_lost == 2, "lost in each");
    CHECK(sum_of_flows(both, false) == sum_of_flows(a, false) + sum_of_flows(b, false), "flows");
    for (uint32_t i = 0; i < both->num_lanes; i++) {
        const epf_trace_lane *const lane = &both->lanes[i];
        const uint64_t half = b->lanes[i].num_records;
        CHECK(lane->num_records == 2 * half, "lane %u", i);
        CHECK(lane->records[half].begin_ns == lane->records[0].begin_ns + LATER_NS, "lane %u", i);
        for (uint64_t j = 0; j < half; j++) {
            const epf_prof_record *const rec = &lane->records[half + j];
            CHECK(rec->event != EPF_PROF_LINK || rec->begin_ns == lane->records[j].begin_ns + half,
                  "the link at %d", (int)j);
        }
    }
    epf_trace_destroy(both);
    epf_trace_destroy(b);
    epf_trace_destroy(a);
}

int main(void)
{
    const char *const base = fixture_folder("test_trace_roundtrip");
    char folder[PATH_MAX], paths[FIXTURE_RANKS][PATH_MAX + 64], merged[PATH_MAX + 64];
    char again[PATH_MAX + 64];
    const char *list[FIXTURE_RANKS];
    epf_prof *profs[FIXTURE_RANKS];
    epf_trace *view, *read;
    fixture_make(profs);
    (void)snprintf(folder, sizeof folder, "%s/made/deeper", base); /* folders that do not exist */
    for (int32_t rank = 0; rank < FIXTURE_RANKS; rank++) {
        /* From the last to the first: reading puts them in order. */
        char *const path = paths[FIXTURE_RANKS - 1 - rank];
        CHECK_OK(epf_prof_write(profs[rank], folder, "round"));
        (void)snprintf(path, sizeof paths[0], "%s/round_rank_%d.perfetto-trace", folder, rank);
        list[FIXTURE_RANKS - 1 - rank] = path;
        CHECK_OK(epf_trace_from_profs(&profs[rank], 1, &view));
        CHECK_OK(epf_trace_read(path, &read));
        compare(view, read);
        epf_trace_destroy(read);
        epf_trace_destroy(view);
    }
    CHECK_OK(epf_prof_write_merged(profs, FIXTURE_RANKS, folder, "round"));
    (void)snprintf(merged, sizeof merged, "%s/round_merged.perfetto-trace", folder);
    CHECK_OK(epf_trace_from_profs(profs, FIXTURE_RANKS, &view));
    CHECK_OK(epf_trace_read(merged, &read));
    compare(view, read);
    CHECK(sum_of_flows(view, true) == sum_of_flows(read, true), "flows that leave");
    CHECK(sum_of_flows(view, false) == sum_of_flows(read, false), "flows that arrive");
    epf_trace_destroy(read);
    epf_trace_destroy(view);

    (void)snprintf(again, sizeof again, "%s/again.perfetto-trace", base);
    CHECK_OK(epf_trace_merge(list, FIXTURE_RANKS, again));
    check_same_file(merged, again);
    list[1] = list[0];
    CHECK(epf_trace_merge(list, FIXTURE_RANKS, again) == EPF_E_FORMAT, "the same time twice");
    CHECK(strstr(epf_error_text(), "rank 2") != NULL, "%s", epf_error_text());
    check_two_calls(profs, base);
    fixture_destroy(profs);
    return 0;
}
