/*
 * epf_trace_summary.h: where the time of a trace went, for those who do not open it.
 */
#ifndef EPF_TRACE_SUMMARY_H
#define EPF_TRACE_SUMMARY_H

#include "prof/epf_trace.h"

/* Nanoseconds of some lanes by what they did; sums to num_lanes * (end_ns - begin_ns). A record
   in a record counts as what the inner one is. */
typedef struct epf_trace_shares {
    uint32_t num_lanes;
    uint64_t ns[EPF_PROF_NUM_CATEGORIES];
    uint64_t idle_ns;
} epf_trace_shares;

void epf_trace_shares_add(epf_trace_shares *to, const epf_trace_shares *from);

/* One event's records, from begin to end, inner ones included. */
typedef struct epf_trace_stat {
    uint64_t count;
    uint64_t total_ns;
    uint64_t p50_ns; /* the least duration that half of them do not exceed */
    uint64_t p99_ns;
} epf_trace_stat;

typedef struct epf_trace_summary {
    uint64_t begin_ns, end_ns; /* of the whole trace: the first begin, the last end      */
    uint64_t num_records;      /* that ended                                             */
    uint64_t num_lost;
    epf_trace_shares all;    /* all workers, without hosts                             */
    epf_trace_shares *ranks; /* [num_ranks] the rank's workers, without its host       */
    epf_trace_shares *lanes; /* [num_lanes]                                            */
    epf_trace_stat *stats;   /* [num_events]                                           */
} epf_trace_summary;

/* EPF_E_NO_MEMORY, EPF_E_INTERNAL (records overlap without nesting). */
epf_status epf_trace_summarize(const epf_trace *trace, epf_trace_summary **summary);

/* Accepts NULL. */
void epf_trace_summary_destroy(epf_trace_summary *summary);

/* Sums up and prints: a table for people, or one JSON object.  Also EPF_E_FILE. */
epf_status epf_trace_print(const epf_trace *trace, FILE *out);
epf_status epf_trace_print_json(const epf_trace *trace, FILE *out);

#endif
