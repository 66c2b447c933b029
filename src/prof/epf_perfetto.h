/*
 * epf_perfetto.h: the part of Perfetto's trace format that our traces use: field numbers and
 * values.
 *
 * Source: protos/perfetto/trace/ of https://github.com/google/perfetto (trace_packet.proto and
 * the files it names). Message M, field f is PF_M_F here. Writer and reader share this one
 * statement.
 *
 * What a file holds, in order, for each rank (one packet sequence, id rank + 1):
 *   ClockSnapshot     primary_trace_clock = MONOTONIC, so that ranks of one machine line up
 *   defaults, names   timestamps are MONOTONIC; interned event, category and annotation names
 *   TrackDescriptors  root (ordering), one process per rank, one thread per worker
 *   TrackEvents       lane by lane, ascending in time: SLICE_BEGIN with the flows that leave,
 *                     SLICE_END with the flows that arrive
 */
#ifndef EPF_PERFETTO_H
#define EPF_PERFETTO_H

enum { PF_TRACE_PACKET = 1 };

enum {
    PF_PACKET_CLOCK_SNAPSHOT = 6,
    PF_PACKET_TIMESTAMP = 8,
    PF_PACKET_SEQUENCE_ID = 10,
    PF_PACKET_TRACK_EVENT = 11,
    PF_PACKET_INTERNED_DATA = 12,
    PF_PACKET_SEQUENCE_FLAGS = 13,
    PF_PACKET_DEFAULTS = 59,
    PF_PACKET_TRACK_DESCRIPTOR = 60
};
enum { PF_SEQ_STATE_CLEARED = 1, PF_SEQ_NEEDS_STATE = 2 };

enum { PF_SNAPSHOT_CLOCKS = 1, PF_SNAPSHOT_PRIMARY_CLOCK = 2 };
enum { PF_CLOCK_ID = 1, PF_CLOCK_TIMESTAMP = 2 };
enum { PF_CLOCK_MONOTONIC = 3, PF_CLOCK_BOOTTIME = 6 };
enum { PF_DEFAULTS_TIMESTAMP_CLOCK = 58 };

enum { PF_INTERNED_CATEGORIES = 1, PF_INTERNED_EVENT_NAMES = 2, PF_INTERNED_ANNOTATION_NAMES = 3 };
enum { PF_NAME_IID = 1, PF_NAME_TEXT = 2 }; /* the same in all three */

enum {
    PF_TRACK_UUID = 1,
    PF_TRACK_NAME = 2,
    PF_TRACK_PROCESS = 3,
    PF_TRACK_THREAD = 4,
    PF_TRACK_PARENT = 5,
    PF_TRACK_ORDER_RANK = 12,
    PF_TRACK_PROCESS_ORDERING = 19,
    PF_TRACK_THREAD_ORDERING = 20
};
enum { PF_ORDERING_EXPLICIT = 1 };
enum { PF_PROCESS_PID = 1, PF_PROCESS_NAME = 6, PF_PROCESS_LABELS = 8 };
enum { PF_THREAD_PID = 1, PF_THREAD_TID = 2, PF_THREAD_NAME = 5 };

enum {
    PF_EVENT_CATEGORY_IIDS = 3,
    PF_EVENT_ANNOTATIONS = 4,
    PF_EVENT_TYPE = 9,
    PF_EVENT_NAME_IID = 10,
    PF_EVENT_TRACK_UUID = 11,
    PF_EVENT_FLOW_IDS = 47,
    PF_EVENT_TERMINATING_FLOW_IDS = 48
};
enum { PF_TYPE_SLICE_BEGIN = 1, PF_TYPE_SLICE_END = 2 };
enum { PF_ANNOTATION_NAME_IID = 1, PF_ANNOTATION_INT = 4 };

#endif
