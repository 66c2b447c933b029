/*
 * epf_trace_flow.h: the flows of a trace, matched: which slice sent what another one had waited
 * for.
 */
#ifndef EPF_TRACE_FLOW_H
#define EPF_TRACE_FLOW_H

#include "prof/epf_trace.h"

/* One end of a flow: a slice, and the flow's id. */
typedef struct epf_trace_flow_end {
    uint64_t flow;
    uint32_t lane_idx;
    uint64_t begin_ns, end_ns; /* of the slice */
} epf_trace_flow_end;

typedef struct epf_trace_flow {
    epf_trace_flow_end from, to;
} epf_trace_flow;

/* Every arrival, with the last departure of its id that began before it ended; arrivals without one
   are counted in *num_lost.  Ordered by arrival.  The caller frees *flows with epf_free().
   EPF_E_NO_MEMORY, EPF_E_INTERNAL. */
epf_status epf_trace_match_flows(const epf_trace *trace, epf_trace_flow **flows,
                                 uint64_t *num_flows, uint64_t *num_lost);

#endif
