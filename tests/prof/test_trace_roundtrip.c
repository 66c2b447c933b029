/*
 * test_trace_roundtrip: what is written is what is read: every record, flow and number; the merged
 * file of all profiles is, byte for byte, the merge of the ranks' files.
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
    CHECK(epf_trace_merge(list, FIXTURE_RANKS, again) == EPF_E_FORMAT, "a rank twice");
    CHECK(strstr(epf_error_text(), "rank 2") != NULL, "%s", epf_error_text());
    fixture_destroy(profs);
    return 0;
}
