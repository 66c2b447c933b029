/*
 * epf_trace_map.h: how ranks, workers and a record's numbers are named in a trace file; one
 * statement for the writer and the reader.
 */
#ifndef EPF_TRACE_MAP_H
#define EPF_TRACE_MAP_H

#include "prof/epf_trace.h"

/* Annotations of a slice; the interned id of each is its number plus one. */
#define EPF_TRACE_NOTE_MAP(X)          \
    X(EPF_TRACE_NOTE_TASK, "task")     \
    X(EPF_TRACE_NOTE_EXPERT, "expert") \
    X(EPF_TRACE_NOTE_ROWS, "rows")

typedef enum epf_trace_note {
#define X(id, name) id,
    EPF_TRACE_NOTE_MAP(X)
#undef X
        EPF_TRACE_NUM_NOTES
} epf_trace_note;

static const char *const epf_trace_note_names[EPF_TRACE_NUM_NOTES] = {
#define X(id, name) name,
    EPF_TRACE_NOTE_MAP(X)
#undef X
};

/* Labels of a rank's process. */
#define EPF_TRACE_LOST_LABEL "records lost: "
#define EPF_TRACE_DEVICE_LABEL "on a device"

/* Track uuids: rank + 1 above 16 bits of lane; lane 0 is the rank itself, 1 the host, 2 worker
   0. */
static inline uint64_t epf_trace_rank_uuid(int32_t rank)
{
    return ((uint64_t)rank + 1) << 16;
}

static inline uint64_t epf_trace_lane_uuid(int32_t rank, int32_t worker)
{
    return epf_trace_rank_uuid(rank) + (uint64_t)(worker + 2);
}

/* Perfetto wants process and thread ids that are different all over the trace. */
static inline uint64_t epf_trace_pid(int32_t rank)
{
    return ((uint64_t)rank + 1) * 10000;
}

static inline uint64_t epf_trace_tid(int32_t rank, int32_t worker)
{
    return epf_trace_pid(rank) + (uint64_t)(worker + 2);
}

#endif
