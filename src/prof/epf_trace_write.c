/* epf_trace_write.c: a trace as a Perfetto file; its layout is in epf_perfetto.h. */
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "prof/epf_perfetto.h"
#include "prof/epf_prof_file.h"
#include "prof/epf_proto.h"
#include "prof/epf_trace_lane.h"
#include "prof/epf_trace_map.h"

/* The largest packet: all names interned, or one event with all its flows. */
enum {
    FLOW_BYTES = 10, /* two of tag, eight of id */
    INTERNED_BYTES = 2 * EPF_TRACE_MAX_EVENTS * (EPF_TRACE_NAME_BYTES + 16),
    PACKET_BYTES = 1 << 16
};
_Static_assert(INTERNED_BYTES < PACKET_BYTES, "room for every name");
_Static_assert(EPF_LANE_MAX_FLOWS *FLOW_BYTES + 1024 < PACKET_BYTES, "room for every flow");

typedef struct writer {
    FILE *stream;
    const epf_trace *trace;
    const epf_trace_rank *rank; /* the one being written */
    epf_lane_walk walk;
    uint64_t flows[EPF_LANE_MAX_FLOWS];
    uint8_t bytes[PACKET_BYTES];
    epf_proto_out out; /* over bytes */
    size_t packet;     /* where the open packet began */
} writer;

static void packet_open(writer *w)
{
    w->out = (epf_proto_out){w->bytes, sizeof w->bytes, 0, false};
    w->packet = epf_proto_open(&w->out, PF_TRACE_PACKET);
    epf_proto_put_varint(&w->out, PF_PACKET_SEQUENCE_ID, (uint64_t)w->rank->rank + 1);
}

static epf_status packet_close(writer *w)
{
    epf_proto_close(&w->out, w->packet);
    if (w->out.overflow) {
        return EPF_FAIL(EPF_E_INTERNAL, "trace: a packet of more than %zu bytes", sizeof w->bytes);
    }
    (void)fwrite(w->bytes, 1, w->out.size, w->stream); /* the file's commit checks the stream */
    return EPF_OK;
}

static void put_clock(writer *w, uint64_t clock, uint64_t timestamp_ns)
{
    const size_t at = epf_proto_open(&w->out, PF_SNAPSHOT_CLOCKS);
    epf_proto_put_varint(&w->out, PF_CLOCK_ID, clock);
    epf_proto_put_varint(&w->out, PF_CLOCK_TIMESTAMP, timestamp_ns);
    epf_proto_close(&w->out, at);
}

/* Clocks of all ranks are one machine's: Perfetto wants snapshots in order of time, so one will
   do. */
static epf_status write_clocks(writer *w)
{
    size_t at;
    packet_open(w);
    at = epf_proto_open(&w->out, PF_PACKET_CLOCK_SNAPSHOT);
    put_clock(w, PF_CLOCK_MONOTONIC, w->rank->monotonic_ns);
    put_clock(w, PF_CLOCK_BOOTTIME, w->rank->boottime_ns);
    epf_proto_put_varint(&w->out, PF_SNAPSHOT_PRIMARY_CLOCK, PF_CLOCK_MONOTONIC);
    epf_proto_close(&w->out, at);
    return packet_close(w);
}

static void put_name(writer *w, uint32_t field, uint64_t iid, const char *text)
{
    const size_t at = epf_proto_open(&w->out, field);
    epf_proto_put_varint(&w->out, PF_NAME_IID, iid);
    epf_proto_put_string(&w->out, PF_NAME_TEXT, text);
    epf_proto_close(&w->out, at);
}

/* Names are written once per rank and named by number afterwards: an event takes about 35 bytes. */
static epf_status write_names(writer *w)
{
    size_t at;
    packet_open(w);
    epf_proto_put_varint(&w->out, PF_PACKET_SEQUENCE_FLAGS, PF_SEQ_STATE_CLEARED);
    at = epf_proto_open(&w->out, PF_PACKET_DEFAULTS);
    epf_proto_put_varint(&w->out, PF_DEFAULTS_TIMESTAMP_CLOCK, PF_CLOCK_MONOTONIC);
    epf_proto_close(&w->out, at);
    at = epf_proto_open(&w->out, PF_PACKET_INTERNED_DATA);
    for (uint32_t i = 0; i < EPF_PROF_NUM_CATEGORIES; i++) {
        put_name(w, PF_INTERNED_CATEGORIES, i + 1, epf_prof_category_names[i]);
    }
    for (uint32_t i = 0; i < w->trace->num_events; i++) {
        put_name(w, PF_INTERNED_EVENT_NAMES, i + 1, w->trace->events[i].name);
    }
    for (uint32_t i = 0; i < EPF_TRACE_NUM_NOTES; i++) {
        put_name(w, PF_INTERNED_ANNOTATION_NAMES, i + 1, epf_trace_note_names[i]);
    }
    epf_proto_close(&w->out, at);
    return packet_close(w);
}

/* Ranks and workers in their order, instead of the order of their first event. */
static epf_status write_root_track(writer *w)
{
    size_t at;
    packet_open(w);
    at = epf_proto_open(&w->out, PF_PACKET_TRACK_DESCRIPTOR);
    epf_proto_put_varint(&w->out, PF_TRACK_UUID, 0);
    epf_proto_put_varint(&w->out, PF_TRACK_PROCESS_ORDERING, PF_ORDERING_EXPLICIT);
    epf_proto_put_varint(&w->out, PF_TRACK_THREAD_ORDERING, PF_ORDERING_EXPLICIT);
    epf_proto_close(&w->out, at);
    return packet_close(w);
}

/* A process per rank; Perfetto shows its label, and our reader finds the lost records there. */
static epf_status write_rank_track(writer *w)
{
    const int32_t rank = w->rank->rank;
    char text[64];
    size_t at, process;
    packet_open(w);
    at = epf_proto_open(&w->out, PF_PACKET_TRACK_DESCRIPTOR);
    epf_proto_put_varint(&w->out, PF_TRACK_UUID, epf_trace_rank_uuid(rank));
    epf_proto_put_varint(&w->out, PF_TRACK_ORDER_RANK, (uint64_t)rank);
    process = epf_proto_open(&w->out, PF_TRACK_PROCESS);
    epf_proto_put_varint(&w->out, PF_PROCESS_PID, epf_trace_pid(rank));
    (void)snprintf(text, sizeof text, "rank %d", rank);
    epf_proto_put_string(&w->out, PF_PROCESS_NAME, text);
    if (w->rank->on_device) {
        epf_proto_put_string(&w->out, PF_PROCESS_LABELS, EPF_TRACE_DEVICE_LABEL);
    }
    if (w->rank->num_lost > 0) {
        (void)snprintf(text, sizeof text, EPF_TRACE_LOST_LABEL "%llu",
                       (unsigned long long)w->rank->num_lost);
        epf_proto_put_string(&w->out, PF_PROCESS_LABELS, text);
    }
    epf_proto_close(&w->out, process);
    epf_proto_close(&w->out, at);
    return packet_close(w);
}

static void name_lane(const writer *w, int32_t worker, char *text, size_t size)
{
    if (worker == EPF_TRACE_HOST) {
        (void)snprintf(text, size, "host");
    } else if (w->rank->on_device) {
        (void)snprintf(text, size, "CTA %d %s", worker / EPF_TRACE_NUM_ROLES,
                       epf_trace_role_names[worker % EPF_TRACE_NUM_ROLES]);
    } else {
        (void)snprintf(text, size, "worker %d", worker);
    }
}

/* A thread per worker. */
static epf_status write_lane_track(writer *w, const epf_trace_lane *lane)
{
    char text[64];
    size_t at, thread;
    packet_open(w);
    at = epf_proto_open(&w->out, PF_PACKET_TRACK_DESCRIPTOR);
    epf_proto_put_varint(&w->out, PF_TRACK_UUID, epf_trace_lane_uuid(lane->rank, lane->worker));
    epf_proto_put_varint(&w->out, PF_TRACK_PARENT, epf_trace_rank_uuid(lane->rank));
    epf_proto_put_varint(&w->out, PF_TRACK_ORDER_RANK, (uint64_t)(lane->worker + 1));
    thread = epf_proto_open(&w->out, PF_TRACK_THREAD);
    epf_proto_put_varint(&w->out, PF_THREAD_PID, epf_trace_pid(lane->rank));
    epf_proto_put_varint(&w->out, PF_THREAD_TID, epf_trace_tid(lane->rank, lane->worker));
    name_lane(w, lane->worker, text, sizeof text);
    epf_proto_put_string(&w->out, PF_THREAD_NAME, text);
    epf_proto_close(&w->out, thread);
    epf_proto_close(&w->out, at);
    return packet_close(w);
}

static size_t event_open(writer *w, uint64_t timestamp_ns, uint64_t type)
{
    const epf_trace_lane *const lane = w->walk.lane;
    size_t at;
    packet_open(w);
    epf_proto_put_varint(&w->out, PF_PACKET_TIMESTAMP, timestamp_ns);
    epf_proto_put_varint(&w->out, PF_PACKET_SEQUENCE_FLAGS, PF_SEQ_NEEDS_STATE);
    at = epf_proto_open(&w->out, PF_PACKET_TRACK_EVENT);
    epf_proto_put_varint(&w->out, PF_EVENT_TYPE, type);
    epf_proto_put_varint(&w->out, PF_EVENT_TRACK_UUID,
                         epf_trace_lane_uuid(lane->rank, lane->worker));
    return at;
}

/* An argument of the slice, shown when it is selected. */
static void put_note(writer *w, epf_trace_note note, int32_t value)
{
    if (value != EPF_PROF_NONE) {
        const size_t at = epf_proto_open(&w->out, PF_EVENT_ANNOTATIONS);
        epf_proto_put_varint(&w->out, PF_ANNOTATION_NAME_IID, (uint64_t)note + 1);
        epf_proto_put_varint(&w->out, PF_ANNOTATION_INT, (uint64_t)(int64_t)value);
        epf_proto_close(&w->out, at);
    }
}

static epf_status write_begin(void *self, const epf_lane_slice *slice)
{
    writer *const w = self;
    const epf_prof_record *const rec = &w->walk.lane->records[slice->idx];
    const uint32_t num_flows = epf_lane_flows_out(&w->walk, slice, w->flows);
    const size_t at = event_open(w, rec->begin_ns, PF_TYPE_SLICE_BEGIN);
    epf_proto_put_varint(&w->out, PF_EVENT_CATEGORY_IIDS,
                         w->trace->events[rec->event].category + 1u);
    epf_proto_put_varint(&w->out, PF_EVENT_NAME_IID, rec->event + 1u);
    put_note(w, EPF_TRACE_NOTE_TASK, rec->task);
    put_note(w, EPF_TRACE_NOTE_EXPERT, rec->expert);
    put_note(w, EPF_TRACE_NOTE_ROWS, rec->rows);
    for (uint32_t i = 0; i < num_flows; i++) {
        epf_proto_put_fixed64(&w->out, PF_EVENT_FLOW_IDS, w->flows[i]);
    }
    epf_proto_close(&w->out, at);
    return packet_close(w);
}

/* Flows arrive at a slice's end: by then they have left, whatever the order of begins. */
static epf_status write_end(void *self, const epf_lane_slice *slice)
{
    writer *const w = self;
    const epf_prof_record *const rec = &w->walk.lane->records[slice->idx];
    const uint32_t num_flows = epf_lane_flows_in(&w->walk, slice, w->flows);
    const size_t at = event_open(w, rec->end_ns, PF_TYPE_SLICE_END);
    for (uint32_t i = 0; i < num_flows; i++) {
        epf_proto_put_fixed64(&w->out, PF_EVENT_TERMINATING_FLOW_IDS, w->flows[i]);
    }
    epf_proto_close(&w->out, at);
    return packet_close(w);
}

/* Events lane by lane: Perfetto sorts packets by time, and keeps their order where times are
   equal. */
static epf_status write_lane(writer *w, const epf_trace_lane *lane)
{
    const epf_lane_visitor visitor = {write_begin, write_end, w};
    epf_status st;
    EPF_TRY(epf_lane_open(&w->walk, w->trace, lane));
    st = epf_lane_visit(&w->walk, &visitor);
    epf_lane_close(&w->walk);
    return st;
}

/* The lanes of w->rank begin at *lane_idx, which moves past them. */
static epf_status write_rank(writer *w, uint32_t *lane_idx)
{
    const epf_trace_lane *const lanes = w->trace->lanes;
    const uint32_t first = *lane_idx;
    uint32_t end = first;
    EPF_TRY(write_names(w));
    EPF_TRY(write_root_track(w));
    EPF_TRY(write_rank_track(w));
    for (; end < w->trace->num_lanes && lanes[end].rank == w->rank->rank; end++) {
        EPF_TRY(write_lane_track(w, &lanes[end]));
    }
    for (uint32_t i = first; i < end; i++) {
        EPF_TRY(write_lane(w, &lanes[i]));
    }
    *lane_idx = end;
    return EPF_OK;
}

static epf_status write_all(writer *w)
{
    uint32_t lane_idx = 0;
    for (uint32_t i = 0; i < w->trace->num_ranks; i++) {
        w->rank = &w->trace->ranks[i];
        if (i == 0) {
            EPF_TRY(write_clocks(w));
        }
        EPF_TRY(write_rank(w, &lane_idx));
    }
    return EPF_OK;
}

epf_status epf_trace_write(const epf_trace *trace, const char *path)
{
    epf_prof_file *const file = epf_alloc(1, sizeof *file);
    writer *const w = epf_alloc(1, sizeof *w);
    epf_status st;
    if (file == NULL || w == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for buffers", path);
        goto done;
    }
    EPF_TRY_GOTO(epf_prof_file_open(file, path), done);
    w->stream = file->stream;
    w->trace = trace;
    st = write_all(w);
    if (st == EPF_OK) {
        st = epf_prof_file_commit(file);
    }
    epf_prof_file_discard(file);
done:
    epf_free(w);
    epf_free(file);
    return st;
}
