/*
 * epf_trace_lane.h: walking one lane's records as properly nested slices, with all their flows.
 *
 * The one place that knows about links, records that never ended, and where a wait's flows are
 * shown. Used by the writer, the summary and the drawing, which so agree.
 */
#ifndef EPF_TRACE_LANE_H
#define EPF_TRACE_LANE_H

#include "prof/epf_trace.h"

enum { EPF_LANE_MAX_DEPTH = 32, EPF_LANE_MAX_FLOWS = 1024, EPF_LANE_NO_RECORD = -1 };

typedef struct epf_lane_slice {
    int64_t idx;         /* of the record in the lane                                  */
    int64_t waits_begin; /* records [waits_begin, idx) are waits whose flows it shows  */
    int32_t depth;       /* 0: outermost                                               */
} epf_lane_slice;

/* Called at each slice's begin and end, in order of time; `slice` lives until its end. */
typedef struct epf_lane_visitor {
    epf_status (*begin)(void *self, const epf_lane_slice *slice);
    epf_status (*end)(void *self, const epf_lane_slice *slice);
    void *self;
} epf_lane_visitor;

typedef struct epf_lane_walk {
    const epf_trace *trace;
    const epf_trace_lane *lane;
    int32_t *first_link; /* [num_records] a record's first link; a link's next one; or NO_RECORD */
    int64_t last_work;   /* the last record that is no wait, or NO_RECORD                        */
} epf_lane_walk;

/* Makes the index of links.  EPF_E_NO_MEMORY, EPF_E_INTERNAL (a record that cannot be). */
epf_status epf_lane_open(epf_lane_walk *walk, const epf_trace *trace, const epf_trace_lane *lane);
void epf_lane_close(epf_lane_walk *walk);

/* EPF_E_INTERNAL if records overlap without nesting or nest too deep, else what the visitor
   returns. */
epf_status epf_lane_visit(const epf_lane_walk *walk, const epf_lane_visitor *visitor);

/* The flows that leave a slice, and those that arrive (its own, and of the waits before it): at
   most EPF_LANE_MAX_FLOWS into `flows`; returns how many. */
uint32_t epf_lane_flows_out(const epf_lane_walk *walk, const epf_lane_slice *slice,
                            uint64_t *flows);
uint32_t epf_lane_flows_in(const epf_lane_walk *walk, const epf_lane_slice *slice, uint64_t *flows);

#endif
