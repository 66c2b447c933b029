/*
 * test_trace_independent: our files against the public format, by a second decoder that shares no
 * line with the writer: field numbers below are read off Perfetto's .proto files once more.
 *
 * Per file: every packet has a sequence whose state was first cleared; every event's track, name,
 * category and annotation names were declared before it; per track, time never goes back and slices
 * nest and all end; a flow that ends somewhere in the merged file began earlier.
 */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "prof_fixture.h"

enum { MAX_TRACKS = 64, MAX_FLOWS = 256, MAX_DEPTH = 8, MAX_NAMES = 64 };

typedef struct message {
    const unsigned char *at, *end;
} message;

typedef struct field {
    unsigned number, wire;
    uint64_t value;
    message body;
} field;

static uint64_t varint(message *m)
{
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
        CHECK(m->at < m->end && shift < 70, "a varint that does not end");
        value |= (uint64_t)(*m->at & 0x7f) << shift;
        if ((*m->at++ & 0x80) == 0) {
            return value;
        }
    }
}

static int next(message *m, field *f)
{
    uint64_t key;
    if (m->at == m->end) {
        return 0;
    }
    key = varint(m);
    f->value = 0;
    f->body.at = f->body.end = m->at;
    f->number = (unsigned)(key >> 3);
    f->wire = (unsigned)(key & 7);
    if (f->wire == 0) {
        f->value = varint(m);
    } else if (f->wire == 1) {
        CHECK(m->end - m->at >= 8, "a fixed64 that does not end");
        memcpy(&f->value, m->at, 8); /* the tests' machines are little-endian */
        m->at += 8;
    } else {
        uint64_t length;
        CHECK(f->wire == 2, "wire type %u", f->wire);
        length = varint(m);
        CHECK(length <= (uint64_t)(m->end - m->at), "a message that does not end");
        f->body.at = m->at;
        f->body.end = m->at + length;
        m->at += length;
    }
    return 1;
}

/* The last field `number` of `m`; 0 if there is none. */
static int find(message m, unsigned number, field *found)
{
    field f;
    int any = 0;
    memset(found, 0, sizeof *found);
    while (next(&m, &f)) {
        if (f.number == number) {
            *found = f;
            any = 1;
        }
    }
    return any;
}

static uint64_t value_of(message m, unsigned number, uint64_t otherwise)
{
    field f;
    return find(m, number, &f) ? f.value : otherwise;
}

typedef struct track {
    uint64_t uuid, parent, pid, tid;
    uint64_t last_ns;
    int depth, num_slices;
} track;

typedef struct flow {
    uint64_t id, time_ns;
} flow;

typedef struct state {
    track tracks[MAX_TRACKS];
    int num_tracks;
    uint64_t processes[MAX_TRACKS]; /* uuids */
    int num_processes;
    uint64_t sequence; /* whose names these are: */
    uint64_t num_names[4];
    int default_clock_is_monotonic;
    int num_snapshots;
    flow departures[MAX_FLOWS], arrivals[MAX_FLOWS];
    int num_departures, num_arrivals;
    int num_notes;
} state;

static track *track_of(state *s, uint64_t uuid)
{
    for (int i = 0; i < s->num_tracks; i++) {
        if (s->tracks[i].uuid == uuid) {
            return &s->tracks[i];
        }
    }
    return NULL;
}

static void on_descriptor(state *s, message m)
{
    const uint64_t uuid = value_of(m, 1, 0);
    field f;
    if (uuid == 0) {
        return; /* the root */
    }
    if (find(m, 3, &f)) { /* process */
        CHECK(value_of(f.body, 1, 0) > 0, "a process without a pid");
        for (int i = 0; i < s->num_processes; i++) {
            CHECK(s->processes[i] != uuid, "process %" PRIu64 " twice", uuid);
        }
        s->processes[s->num_processes++] = uuid;
    } else {
        track *const t = &s->tracks[s->num_tracks];
        CHECK(find(m, 4, &f), "a track that is neither a process nor a thread");
        CHECK(track_of(s, uuid) == NULL, "track %" PRIu64 " twice", uuid);
        t->uuid = uuid;
        t->parent = value_of(m, 5, 0);
        t->pid = value_of(f.body, 1, 0);
        t->tid = value_of(f.body, 2, 0);
        for (int i = 0; i < s->num_tracks; i++) {
            CHECK(s->tracks[i].tid != t->tid, "thread %" PRIu64 " twice", t->tid);
            CHECK((s->tracks[i].pid == t->pid) == (s->tracks[i].parent == t->parent), "parents");
        }
        CHECK(t->parent == s->processes[s->num_processes - 1], "a thread of no process");
        s->num_tracks++;
    }
}

static void on_interned(state *s, message m)
{
    field f;
    while (next(&m, &f)) {
        CHECK(f.number >= 1 && f.number <= 3, "interned kind %u", f.number);
        s->num_names[f.number]++;
        CHECK(value_of(f.body, 1, 0) == s->num_names[f.number], "interned ids count up");
    }
}

static void add_flow(flow *list, int *count, uint64_t id, uint64_t time_ns)
{
    CHECK(*count < MAX_FLOWS && id != 0, "flows");
    list[*count].id = id;
    list[(*count)++].time_ns = time_ns;
}

static void on_event_field(state *s, const field *f, uint64_t time_ns)
{
    uint64_t name;
    switch (f->number) {
    case 4: /* debug_annotations */
        name = value_of(f->body, 1, 0);
        CHECK(name >= 1 && name <= s->num_names[3], "annotation %" PRIu64, name);
        s->num_notes++;
        break;
    case 47: /* flow_ids */
        CHECK(f->wire == 1, "flow_ids are fixed64");
        add_flow(s->departures, &s->num_departures, f->value, time_ns);
        break;
    case 48: /* terminating_flow_ids */
        CHECK(f->wire == 1, "terminating_flow_ids are fixed64");
        add_flow(s->arrivals, &s->num_arrivals, f->value, time_ns);
        break;
    default:
        break;
    }
}

static void on_event(state *s, message m, uint64_t time_ns, uint64_t flags)
{
    const uint64_t type = value_of(m, 9, 0);
    const uint64_t name = value_of(m, 10, 0);
    const uint64_t category = value_of(m, 3, 0);
    track *const t = track_of(s, value_of(m, 11, 0));
    field f;
    CHECK((flags & 2) != 0, "interned names need SEQ_NEEDS_INCREMENTAL_STATE");
    CHECK(t != NULL, "track %" PRIu64 " was not described", value_of(m, 11, 0));
    CHECK(time_ns > 0 && time_ns >= t->last_ns, "no time, or it goes back");
    t->last_ns = time_ns;
    if (type == 1) {
        CHECK(name >= 1 && name <= s->num_names[2], "name %" PRIu64, name);
        CHECK(category >= 1 && category <= s->num_names[1], "category %" PRIu64, category);
        CHECK(++t->depth <= MAX_DEPTH, "nested too deep");
        t->num_slices++;
    } else {
        CHECK(type == 2, "event type %" PRIu64, type);
        CHECK(--t->depth >= 0, "an end without a begin");
    }
    while (next(&m, &f)) {
        on_event_field(s, &f, time_ns);
    }
}

static void on_packet(state *s, message m)
{
    const uint64_t flags = value_of(m, 13, 0);
    const uint64_t sequence = value_of(m, 10, 0);
    field f;
    CHECK(sequence > 0, "a packet without a sequence");
    if (find(m, 6, &f)) { /* clock_snapshot */
        CHECK(value_of(f.body, 2, 0) == 3, "the primary clock is not MONOTONIC");
        s->num_snapshots++;
        return;
    }
    if ((flags & 1) != 0) {
        memset(s->num_names, 0, sizeof s->num_names);
        s->sequence = sequence;
        CHECK(find(m, 59, &f), "no defaults");
        CHECK(value_of(f.body, 58, 0) == 3, "timestamps are not MONOTONIC");
    }
    CHECK(sequence == s->sequence, "a sequence whose state was not cleared");
    if (find(m, 12, &f)) {
        on_interned(s, f.body);
    }
    if (find(m, 60, &f)) {
        on_descriptor(s, f.body);
    }
    if (find(m, 11, &f)) {
        on_event(s, f.body, value_of(m, 8, 0), flags);
    }
}

static void decode(state *s, const char *path)
{
    size_t size;
    unsigned char *const bytes = fixture_load(path, &size);
    message m = {bytes, bytes + size};
    field f;
    memset(s, 0, sizeof *s);
    while (next(&m, &f)) {
        CHECK(f.number == 1 && f.wire == 2, "not a packet: field %u", f.number);
        on_packet(s, f.body);
    }
    CHECK(s->num_snapshots == 1, "%d clock snapshots", s->num_snapshots);
    for (int i = 0; i < s->num_tracks; i++) {
        CHECK(s->tracks[i].depth == 0, "slices that do not end");
    }
    free(bytes);
}

int main(void)
{
    /* Of one rank: host 2; each worker dispatch, wait, tiles, scatter, reduce. */
    enum { HOST_SLICES = 2, WORKER_SLICES = 4 + FIXTURE_TILES };
    const char *const folder = fixture_folder("test_trace_independent");
    epf_prof *profs[FIXTURE_RANKS];
    char path[PATH_MAX];
    static state s;
    int num_slices = 0;
    fixture_make(profs);
    for (int32_t rank = 0; rank < FIXTURE_RANKS; rank++) {
        CHECK_OK(epf_prof_write(profs[rank], folder, "own"));
        (void)snprintf(path, sizeof path, "%s/own_rank_%d.perfetto-trace", folder, rank);
        decode(&s, path);
        CHECK(s.num_processes == 1 && s.num_tracks == 1 + FIXTURE_WORKERS, "rank %d", rank);
        CHECK(s.tracks[0].num_slices == HOST_SLICES, "rank %d", rank);
    }
    CHECK_OK(epf_prof_write_merged(profs, FIXTURE_RANKS, folder, "own"));
    (void)snprintf(path, sizeof path, "%s/own_merged.perfetto-trace", folder);
    decode(&s, path);
    CHECK(s.num_processes == FIXTURE_RANKS, "%d", s.num_processes);
    for (int i = 0; i < s.num_tracks; i++) {
        num_slices += s.tracks[i].num_slices;
    }
    /* Rank 0 also waits for the combine; what never ended is not there. */
    CHECK(num_slices ==
              FIXTURE_RANKS * (HOST_SLICES + FIXTURE_WORKERS * WORKER_SLICES) + FIXTURE_WORKERS,
          "%d slices", num_slices);
    CHECK(s.num_departures == FIXTURE_RANKS * FIXTURE_WORKERS * (FIXTURE_RANKS + 1), "%d",
          s.num_departures);
    CHECK(s.num_arrivals == s.num_departures, "%d", s.num_arrivals);
    for (int i = 0; i < s.num_arrivals; i++) {
        int from = 0;
        for (int j = 0; j < s.num_departures; j++) {
            from += s.departures[j].id == s.arrivals[i].id &&
                    s.departures[j].time_ns <= s.arrivals[i].time_ns;
        }
        CHECK(from == 1, "flow %" PRIx64 " has %d origins", s.arrivals[i].id, from);
    }
    fixture_destroy(profs);
    return 0;
}
