/*
 * epf_trace_parse.h: what the two files of the trace reader share.
 *
 * Invariants while parsing: every lane's open slices are a stack of its records; a lane's time
 * never goes back; memory grows only with bytes read (a record of 48 bytes stands for 10 or more
 * of input).
 */
#ifndef EPF_TRACE_PARSE_H
#define EPF_TRACE_PARSE_H

#include "prof/epf_proto.h"
#include "prof/epf_trace_lane.h"
#include "prof/epf_trace_map.h"

enum { EPF_PARSE_MAX_IIDS = EPF_TRACE_MAX_EVENTS };

typedef struct epf_parse_track {
    uint64_t uuid;
    epf_prof_record *records;
    uint32_t num_records;
    uint32_t max_records;
    uint64_t last_ns;
    int32_t depth;
    uint32_t open[EPF_LANE_MAX_DEPTH]; /* records begun and not ended, outermost first */
} epf_parse_track;

/* Interned names of the packet sequence being read, by id - 1. */
typedef struct epf_parse_names {
    uint64_t sequence;
    uint32_t num_categories, num_events, num_notes;
    uint32_t categories[EPF_PARSE_MAX_IIDS]; /* epf_prof_category            */
    uint32_t notes[EPF_PARSE_MAX_IIDS];      /* epf_trace_note               */
    char events[EPF_PARSE_MAX_IIDS][EPF_TRACE_NAME_BYTES];
    uint32_t resolved[EPF_PARSE_MAX_IIDS]; /* index in epf_parser.events, plus 1 */
} epf_parse_names;

typedef struct epf_parser {
    const char *source;
    epf_proto_in in;
    epf_parse_names names;
    epf_trace_event events[EPF_TRACE_MAX_EVENTS];
    uint32_t num_events;
    epf_trace_rank *ranks; /* ascending */
    uint32_t num_ranks, max_ranks;
    epf_parse_track *tracks; /* ascending by uuid */
    uint32_t num_tracks, max_tracks;
    uint32_t last_track; /* the one found last */
    uint64_t monotonic_ns, boottime_ns;
} epf_parser;

/* EPF_E_FORMAT with the text "<source>: byte <where>: <what>". */
epf_status epf_parse_malformed(const epf_parser *p, const epf_proto_in *where, const char *what);

/* After the last field of a message: was it the end, or garbage? */
epf_status epf_parse_end(const epf_parser *p, const epf_proto_in *in);

/* A packet sequence begins anew: its names are to come. */
void epf_parse_forget_names(epf_parser *p, uint64_t sequence);

/* Reads an InternedData message: categories, events, annotations, each numbered 1, 2, ... */
epf_status epf_parse_interned(epf_parser *p, epf_proto_in in);

/* The trace's index of the event with these interned ids. */
epf_status epf_parse_event_idx(epf_parser *p, const epf_proto_in *where, uint64_t name_iid,
                               uint64_t category_iid, uint32_t *event);

#endif
