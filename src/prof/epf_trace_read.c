/* epf_trace_read.c: our own Perfetto files, read back without trust. */
#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "prof/epf_perfetto.h"
#include "prof/epf_proto.h"
#include "prof/epf_trace_parse.h"

enum { MAX_FILE_BYTES = INT32_MAX, FIRST_CAPACITY = 16 };

/* Makes room for one more element of `bytes` bytes. */
static epf_status grow(void **array, uint32_t count, uint32_t *capacity, size_t bytes)
{
    uint32_t larger;
    void *moved;
    if (count < *capacity) {
        return EPF_OK;
    }
    larger = *capacity == 0 ? FIRST_CAPACITY : 2 * *capacity;
    moved = epf_alloc(larger, bytes);
    if (moved == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "trace: %u elements of %zu bytes", larger, bytes);
    }
    if (count > 0) {
        memcpy(moved, *array, count * bytes);
    }
    epf_free(*array);
    *array = moved;
    *capacity = larger;
    return EPF_OK;
}

/* Tracks -------------------------------------------------------------------------------------- */

/* The place of `uuid` among the tracks, where it is or would be. */
static uint32_t track_place(const epf_parser *p, uint64_t uuid)
{
    uint32_t low = 0, high = p->num_tracks;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (p->tracks[middle].uuid < uuid) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static epf_parse_track *find_track(epf_parser *p, uint64_t uuid)
{
    uint32_t i = p->last_track;
    if (i >= p->num_tracks || p->tracks[i].uuid != uuid) {
        i = track_place(p, uuid);
        p->last_track = i;
    }
    return i < p->num_tracks && p->tracks[i].uuid == uuid ? &p->tracks[i] : NULL;
}

static uint32_t rank_place(const epf_parser *p, int32_t rank)
{
    uint32_t i = p->num_ranks;
    while (i > 0 && p->ranks[i - 1].rank >= rank) {
        i--;
    }
    return i;
}

static bool has_rank(const epf_parser *p, int32_t rank)
{
    const uint32_t i = rank_place(p, rank);
    return i < p->num_ranks && p->ranks[i].rank == rank;
}

/* A file that describes a rank or a worker twice would have two answers to one question. */
static epf_status add_rank(epf_parser *p, const epf_proto_in *where, const epf_trace_rank *rank)
{
    const uint32_t i = rank_place(p, rank->rank);
    if (has_rank(p, rank->rank)) {
        return epf_parse_malformed(p, where, "a rank is described twice");
    }
    EPF_TRY(grow((void **)&p->ranks, p->num_ranks, &p->max_ranks, sizeof *p->ranks));
    memmove(p->ranks + i + 1, p->ranks + i, (p->num_ranks - i) * sizeof *p->ranks);
    p->ranks[i] = *rank;
    p->ranks[i].monotonic_ns = p->monotonic_ns;
    p->ranks[i].boottime_ns = p->boottime_ns;
    p->num_ranks++;
    return EPF_OK;
}

static epf_status add_track(epf_parser *p, const epf_proto_in *where, uint64_t uuid)
{
    const uint32_t i = track_place(p, uuid);
    if (i < p->num_tracks && p->tracks[i].uuid == uuid) {
        return epf_parse_malformed(p, where, "a worker is described twice");
    }
    if (p->num_tracks == EPF_TRACE_MAX_LANES) {
        return epf_parse_malformed(p, where, "more workers than a trace may have");
    }
    EPF_TRY(grow((void **)&p->tracks, p->num_tracks, &p->max_tracks, sizeof *p->tracks));
    memmove(p->tracks + i + 1, p->tracks + i, (p->num_tracks - i) * sizeof *p->tracks);
    memset(&p->tracks[i], 0, sizeof *p->tracks);
    p->tracks[i].uuid = uuid;
    p->num_tracks++;
    return EPF_OK;
}

/* The count in a process label that says how many records were lost; 0 in any other. */
static uint64_t lost_in_label(const epf_proto_in *label)
{
    const size_t prefix = sizeof EPF_TRACE_LOST_LABEL - 1;
    const size_t size = (size_t)(label->end - label->at);
    char digits[24] = "";
    if (size <= prefix || size - prefix >= sizeof digits ||
        memcmp(label->at, EPF_TRACE_LOST_LABEL, prefix) != 0) {
        return 0;
    }
    memcpy(digits, label->at + prefix, size - prefix);
    return strtoull(digits, NULL, 10);
}

static bool is_device_label(const epf_proto_in *label)
{
    const size_t size = sizeof EPF_TRACE_DEVICE_LABEL - 1;
    return (size_t)(label->end - label->at) == size &&
           memcmp(label->at, EPF_TRACE_DEVICE_LABEL, size) == 0;
}

static epf_status read_process(const epf_parser *p, epf_proto_in in, epf_trace_rank *rank)
{
    epf_proto_field field;
    while (epf_proto_next(&in, &field)) {
        if (field.number == PF_PROCESS_LABELS && field.wire == EPF_PROTO_BYTES) {
            const uint64_t num_lost = lost_in_label(&field.bytes);
            rank->num_lost = num_lost > 0 ? num_lost : rank->num_lost;
            rank->on_device = rank->on_device || is_device_label(&field.bytes);
        }
    }
    return epf_parse_end(p, &in);
}

/* A track's uuid says whose it is; names and ids of processes and threads are for people. */
static epf_status read_descriptor(epf_parser *p, epf_proto_in in)
{
    const epf_proto_in where = in;
    epf_proto_field field;
    epf_trace_rank described = {0};
    uint64_t uuid = 0;
    uint64_t rank, lane;
    while (epf_proto_next(&in, &field)) {
        if (field.number == PF_TRACK_UUID && field.wire == EPF_PROTO_VARINT) {
            uuid = field.value;
        } else if (field.number == PF_TRACK_PROCESS && field.wire == EPF_PROTO_BYTES) {
            EPF_TRY(read_process(p, field.bytes, &described));
        }
    }
    EPF_TRY(epf_parse_end(p, &in));
    if (uuid == 0) {
        return EPF_OK; /* the root: only how to order the others */
    }
    rank = (uuid >> 16) - 1;
    lane = uuid & 0xffff;
    if (uuid >> 16 == 0 || rank >= EPF_TRACE_MAX_RANKS || lane > EPF_TRACE_MAX_WORKERS + 1) {
        return epf_parse_malformed(p, &where, "a track that is no rank's and no worker's");
    }
    if (lane == 0) {
        described.rank = (int32_t)rank;
        return add_rank(p, &where, &described);
    }
    if (!has_rank(p, (int32_t)rank)) {
        return epf_parse_malformed(p, &where, "a worker of a rank that was not described");
    }
    return add_track(p, &where, uuid);
}

/* Slices -------------------------------------------------------------------------------------- */

typedef struct event_packet {
    epf_proto_in where;
    uint64_t timestamp_ns;
    uint64_t type, uuid, name_iid, category_iid;
    int32_t notes[EPF_TRACE_NUM_NOTES];
} event_packet;

/* Pointers to earlier records of the track do not outlive this: it may move them. */
static epf_status add_record(epf_parse_track *t, epf_prof_record **rec)
{
    EPF_TRY(grow((void **)&t->records, t->num_records, &t->max_records, sizeof *t->records));
    *rec = &t->records[t->num_records++];
    memset(*rec, 0, sizeof **rec);
    (*rec)->task = (*rec)->expert = (*rec)->rows = EPF_PROF_NONE;
    return EPF_OK;
}

/* Gives record `idx` one more flow. */
static epf_status add_flow(epf_parse_track *t, uint32_t idx, uint64_t flow, bool leaves)
{
    epf_prof_record *const owner = &t->records[idx];
    uint64_t *const own = leaves ? &owner->flow_out : &owner->flow_in;
    epf_prof_record *link;
    if (*own == 0) {
        *own = flow;
        return EPF_OK;
    }
    EPF_TRY(add_record(t, &link));
    link->event = EPF_PROF_LINK;
    link->begin_ns = idx;
    *(leaves ? &link->flow_out : &link->flow_in) = flow;
    return EPF_OK;
}

static epf_status read_note(const epf_parser *p, epf_proto_in in, event_packet *event)
{
    const epf_proto_in where = in;
    epf_proto_field field;
    uint64_t iid = 0;
    int64_t value = 0;
    while (epf_proto_next(&in, &field)) {
        if (field.number == PF_ANNOTATION_NAME_IID && field.wire == EPF_PROTO_VARINT) {
            iid = field.value;
        } else if (field.number == PF_ANNOTATION_INT && field.wire == EPF_PROTO_VARINT) {
            value = (int64_t)field.value;
        }
    }
    EPF_TRY(epf_parse_end(p, &in));
    if (iid == 0 || iid > p->names.num_notes || value < INT32_MIN || value > INT32_MAX) {
        return epf_parse_malformed(p, &where,
                                   "an annotation without a known name and a 32-bit value");
    }
    event->notes[p->names.notes[iid - 1]] = (int32_t)value;
    return EPF_OK;
}

static epf_status read_event_fields(const epf_parser *p, event_packet *event)
{
    epf_proto_in in = event->where;
    epf_proto_field field;
    for (int i = 0; i < EPF_TRACE_NUM_NOTES; i++) {
        event->notes[i] = EPF_PROF_NONE;
    }
    while (epf_proto_next(&in, &field)) {
        if (field.number == PF_EVENT_ANNOTATIONS && field.wire == EPF_PROTO_BYTES) {
            EPF_TRY(read_note(p, field.bytes, event));
        } else if (field.wire == EPF_PROTO_VARINT) {
            switch (field.number) {
            case PF_EVENT_TYPE:
                event->type = field.value;
                break;
            case PF_EVENT_TRACK_UUID:
                event->uuid = field.value;
                break;
            case PF_EVENT_NAME_IID:
                event->name_iid = field.value;
                break;
            case PF_EVENT_CATEGORY_IIDS:
                event->category_iid = field.value;
                break;
            default:
                break;
            }
        }
    }
    return epf_parse_end(p, &in);
}

/* Adds the flows of `event` to record `idx`: those that leave at a begin, that arrive at an end. */
static epf_status read_flows(const epf_parser *p, const event_packet *event, epf_parse_track *t,
                             uint32_t idx)
{
    const bool leaves = event->type == PF_TYPE_SLICE_BEGIN;
    const uint32_t number = leaves ? PF_EVENT_FLOW_IDS : PF_EVENT_TERMINATING_FLOW_IDS;
    epf_proto_in in = event->where;
    epf_proto_field field;
    while (epf_proto_next(&in, &field)) {
        if (field.number == number && field.wire == EPF_PROTO_FIXED64 && field.value != 0) {
            EPF_TRY(add_flow(t, idx, field.value, leaves));
        }
    }
    return epf_parse_end(p, &in);
}

static epf_status begin_slice(epf_parser *p, const event_packet *event, epf_parse_track *t)
{
    epf_prof_record *rec;
    uint32_t number;
    if (t->depth == EPF_LANE_MAX_DEPTH) {
        return epf_parse_malformed(p, &event->where, "slices nested too deep");
    }
    EPF_TRY(epf_parse_event_idx(p, &event->where, event->name_iid, event->category_iid, &number));
    t->open[t->depth++] = t->num_records;
    EPF_TRY(add_record(t, &rec));
    rec->begin_ns = event->timestamp_ns;
    rec->event = number;
    rec->task = event->notes[EPF_TRACE_NOTE_TASK];
    rec->expert = event->notes[EPF_TRACE_NOTE_EXPERT];
    rec->rows = event->notes[EPF_TRACE_NOTE_ROWS];
    return read_flows(p, event, t, t->open[t->depth - 1]);
}

/* Ends the innermost open slice: an end has no name of its own. */
static epf_status end_slice(epf_parser *p, const event_packet *event, epf_parse_track *t)
{
    uint32_t idx;
    if (t->depth == 0) {
        return epf_parse_malformed(p, &event->where, "a slice ends that did not begin");
    }
    idx = t->open[--t->depth];
    t->records[idx].end_ns = event->timestamp_ns;
    return read_flows(p, event, t, idx);
}

/* Checks what every event must keep: a known track, its rank's sequence, time that does not go
   back. */
static epf_status read_event(epf_parser *p, epf_proto_in in, uint64_t timestamp_ns,
                             uint64_t sequence)
{
    event_packet event = {.where = in, .timestamp_ns = timestamp_ns};
    epf_parse_track *t;
    EPF_TRY(read_event_fields(p, &event));
    t = find_track(p, event.uuid);
    if (t == NULL) {
        return epf_parse_malformed(p, &in, "an event on a track that was not described");
    }
    if (sequence != p->names.sequence || sequence != event.uuid >> 16) {
        return epf_parse_malformed(p, &in, "an event outside of its rank's packet sequence");
    }
    if (timestamp_ns == 0 || timestamp_ns < t->last_ns || timestamp_ns > INT64_MAX) {
        return epf_parse_malformed(p, &in, "an event without a time, or before the one before it");
    }
    t->last_ns = timestamp_ns;
    if (event.type == PF_TYPE_SLICE_BEGIN) {
        return begin_slice(p, &event, t);
    }
    if (event.type == PF_TYPE_SLICE_END) {
        return end_slice(p, &event, t);
    }
    return epf_parse_malformed(p, &in, "an event that neither begins nor ends a slice");
}

/* Packets ------------------------------------------------------------------------------------- */

static epf_status read_clock(epf_parser *p, epf_proto_in in)
{
    epf_proto_field field;
    uint64_t clock = 0, timestamp_ns = 0;
    while (epf_proto_next(&in, &field)) {
        if (field.number == PF_CLOCK_ID && field.wire == EPF_PROTO_VARINT) {
            clock = field.value;
        } else if (field.number == PF_CLOCK_TIMESTAMP && field.wire == EPF_PROTO_VARINT) {
            timestamp_ns = field.value;
        }
    }
    EPF_TRY(epf_parse_end(p, &in));
    if (clock == PF_CLOCK_MONOTONIC) {
        p->monotonic_ns = timestamp_ns;
    } else if (clock == PF_CLOCK_BOOTTIME) {
        p->boottime_ns = timestamp_ns;
    }
    return EPF_OK;
}

static epf_status read_snapshot(epf_parser *p, epf_proto_in in)
{
    epf_proto_field field;
    while (epf_proto_next(&in, &field)) {
        if (field.number == PF_SNAPSHOT_CLOCKS && field.wire == EPF_PROTO_BYTES) {
            EPF_TRY(read_clock(p, field.bytes));
        }
    }
    return epf_parse_end(p, &in);
}

/* The scalars of a packet, which the reading of its submessages needs, wherever they stand. */
typedef struct packet_head {
    uint64_t timestamp_ns;
    uint64_t sequence;
    uint64_t flags;
} packet_head;

static epf_status read_head(const epf_parser *p, epf_proto_in in, packet_head *head)
{
    epf_proto_field field;
    memset(head, 0, sizeof *head);
    while (epf_proto_next(&in, &field)) {
        if (field.wire == EPF_PROTO_VARINT) {
            if (field.number == PF_PACKET_TIMESTAMP) {
                head->timestamp_ns = field.value;
            } else if (field.number == PF_PACKET_SEQUENCE_ID) {
                head->sequence = field.value;
            } else if (field.number == PF_PACKET_SEQUENCE_FLAGS) {
                head->flags = field.value;
            }
        }
    }
    return epf_parse_end(p, &in);
}

static epf_status read_part(epf_parser *p, const packet_head *head, const epf_proto_field *field)
{
    switch (field->number) {
    case PF_PACKET_CLOCK_SNAPSHOT:
        return read_snapshot(p, field->bytes);
    case PF_PACKET_INTERNED_DATA:
        return epf_parse_interned(p, field->bytes);
    case PF_PACKET_TRACK_DESCRIPTOR:
        return read_descriptor(p, field->bytes);
    case PF_PACKET_TRACK_EVENT:
        return read_event(p, field->bytes, head->timestamp_ns, head->sequence);
    default:
        return EPF_OK;
    }
}

/* Two passes: the scalars first, since protobuf fields may come in any order. */
static epf_status read_packet(epf_parser *p, epf_proto_in in)
{
    packet_head head;
    epf_proto_field field;
    EPF_TRY(read_head(p, in, &head));
    if ((head.flags & PF_SEQ_STATE_CLEARED) != 0) {
        epf_parse_forget_names(p, head.sequence);
    }
    while (epf_proto_next(&in, &field)) {
        if (field.wire == EPF_PROTO_BYTES) {
            EPF_TRY(read_part(p, &head, &field));
        }
    }
    return epf_parse_end(p, &in);
}

static epf_status read_packets(epf_parser *p)
{
    epf_proto_field field;
    while (epf_proto_next(&p->in, &field)) {
        if (field.number != PF_TRACE_PACKET || field.wire != EPF_PROTO_BYTES) {
            return epf_parse_malformed(p, &p->in, "before it stands no trace packet");
        }
        EPF_TRY(read_packet(p, field.bytes));
    }
    EPF_TRY(epf_parse_end(p, &p->in));
    if (p->num_ranks == 0) {
        return epf_parse_malformed(p, &p->in, "the file ends before any rank was described");
    }
    for (uint32_t i = 0; i < p->num_tracks; i++) {
        if (p->tracks[i].depth > 0) {
            return epf_parse_malformed(p, &p->in, "the file ends inside a slice");
        }
    }
    return EPF_OK;
}

/* Hands everything over to a trace. */
static epf_status finish(epf_parser *p, epf_trace **trace)
{
    epf_trace *made;
    EPF_TRY(epf_trace_create(p->num_events, p->num_ranks, p->num_tracks, &made));
    made->owns_records = true;
    made->num_events = p->num_events;
    made->num_ranks = p->num_ranks;
    made->num_lanes = p->num_tracks;
    memcpy(made->events, p->events, p->num_events * sizeof *p->events);
    memcpy(made->ranks, p->ranks, p->num_ranks * sizeof *p->ranks);
    for (uint32_t i = 0; i < p->num_tracks; i++) {
        epf_parse_track *const t = &p->tracks[i];
        epf_trace_lane *const lane = &made->lanes[i];
        lane->rank = (int32_t)(t->uuid >> 16) - 1;
        lane->worker = (int32_t)(t->uuid & 0xffff) - 2;
        lane->num_records = t->num_records;
        lane->records = t->records;
        t->records = NULL;
    }
    *trace = made;
    return EPF_OK;
}

epf_status epf_trace_parse(const void *data, size_t num_bytes, const char *source,
                           epf_trace **trace)
{
    epf_parser *const p = epf_alloc(1, sizeof *p);
    const uint8_t *const bytes = data;
    epf_status st;
    *trace = NULL;
    if (p == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: %zu bytes to parse with", source, sizeof *p);
    }
    p->source = source;
    memcpy(p->events, epf_prof_events, sizeof epf_prof_events); /* others follow as they are met */
    p->num_events = EPF_PROF_NUM_EVENTS;
    p->in = (epf_proto_in){bytes, bytes, bytes + num_bytes, false};
    st = num_bytes > MAX_FILE_BYTES ? epf_parse_malformed(p, &p->in, "more than 2 GiB")
                                    : read_packets(p);
    if (st == EPF_OK) {
        st = finish(p, trace);
    }
    for (uint32_t i = 0; i < p->num_tracks; i++) {
        epf_free(p->tracks[i].records);
    }
    epf_free(p->tracks);
    epf_free(p->ranks);
    epf_free(p);
    return st;
}
