/*
 * epf_trace.h: a trace in memory: made of recorded profiles or read from files, then written as a
 * Perfetto file, summed up, or drawn.
 *
 * A trace has ranks, a rank has lanes (its workers, and the calling thread), a lane has the records
 * of epf_prof_record.h in order of begin, and each record names an event of the trace's own list.
 */
#ifndef EPF_TRACE_H
#define EPF_TRACE_H

#include <stdio.h>

#include "epfuse/epfuse_status.h"
#include "prof/epf_prof.h"

enum {
    EPF_TRACE_HOST = -1, /* the calling thread's lane, among workers 0, 1, ... */
    EPF_TRACE_MAX_RANKS = 4096,
    EPF_TRACE_MAX_WORKERS = 4096,
    EPF_TRACE_MAX_LANES = 16384, /* of all ranks together */
    EPF_TRACE_MAX_EVENTS = 256,
    EPF_TRACE_NAME_BYTES = 64
};

typedef struct epf_trace_event {
    char name[EPF_TRACE_NAME_BYTES];
    uint32_t category; /* epf_prof_category */
} epf_trace_event;

typedef struct epf_trace_lane {
    int32_t rank;
    int32_t worker; /* or EPF_TRACE_HOST */
    uint64_t num_records;
    epf_prof_record
        *records; /* [num_records]; .event: index of epf_trace.events, or EPF_PROF_LINK */
} epf_trace_lane;

/* What of a CTA records on a device: worker = CTA * EPF_TRACE_NUM_ROLES + role. */
#define EPF_TRACE_ROLE_MAP(X)                                             \
    X(EPF_TRACE_ROLE_PLAN, "plan")     /* what tiles wait for          */ \
    X(EPF_TRACE_ROLE_COMM_0, "comm 0") /* the warps that communicate   */ \
    X(EPF_TRACE_ROLE_COMM_1, "comm 1")                                    \
    X(EPF_TRACE_ROLE_MATH, "math") /* its first warp stands for all    */

typedef enum epf_trace_role {
#define X(id, name) id,
    EPF_TRACE_ROLE_MAP(X)
#undef X
        EPF_TRACE_NUM_ROLES
} epf_trace_role;

typedef struct epf_trace_rank {
    int32_t rank;
    uint64_t num_lost;     /* records that its buffers could not hold; of a device: at least */
    uint64_t monotonic_ns; /* two clocks read at the same time, at start  */
    uint64_t boottime_ns;
    bool on_device; /* its workers are roles of CTAs */
} epf_trace_rank;

typedef struct epf_trace {
    uint32_t num_events;
    uint32_t num_ranks;
    uint32_t num_lanes;
    epf_trace_event *events; /* [num_events]                             */
    epf_trace_rank *ranks;   /* [num_ranks] by ascending rank            */
    epf_trace_lane *lanes;   /* [num_lanes] by ascending (rank, worker)  */
    bool owns_records;
} epf_trace;

/* The events that this library records, and the categories' names; from the lists of
   epf_prof_record.h; and the roles'. */
extern const epf_trace_event epf_prof_events[EPF_PROF_NUM_EVENTS];
extern const char *const epf_prof_category_names[EPF_PROF_NUM_CATEGORIES];
extern const char *const epf_trace_role_names[EPF_TRACE_NUM_ROLES];

/* An empty trace with room for so many of each; the counts start at 0.  EPF_E_NO_MEMORY. */
epf_status epf_trace_create(uint32_t max_events, uint32_t max_ranks, uint32_t max_lanes,
                            epf_trace **trace);

/* Sets the pair of clocks. */
void epf_trace_read_clocks(epf_trace_rank *rank);

/* A view of recorded profiles of different ranks, which must outlive it and record nothing
   meanwhile. EPF_E_INVALID (no profile, a rank twice, too many lanes), EPF_E_NO_MEMORY. */
epf_status epf_trace_from_profs(epf_prof *const *profs, int32_t num_profs, epf_trace **trace);

/* Reads what epf_trace_write() wrote, and trusts none of it: memory stays within a small
   multiple of the input. EPF_E_FORMAT names the byte offset; EPF_E_FILE, EPF_E_NO_MEMORY.
   `source` names the bytes in error texts. */
epf_status epf_trace_read(const char *path, epf_trace **trace);
epf_status epf_trace_parse(const void *data, size_t num_bytes, const char *source,
                           epf_trace **trace);

/* Reads several files into one trace: of several ranks, and of calls one after the other (two
   files of one rank that overlap in time are EPF_E_FORMAT). */
epf_status epf_trace_read_all(const char *const *paths, int32_t num_paths, epf_trace **trace);

/* The same, written to one file. */
epf_status epf_trace_merge(const char *const *paths, int32_t num_paths, const char *out_path);

/* Writes the file whole or not at all, and makes missing folders. What a wait waited for is
   shown at the work that follows it: Perfetto draws a flow from the earlier to the later begin.
   At most 1024 flows of each direction are kept per record; records that never ended are left
   out. EPF_E_FILE, EPF_E_NO_MEMORY, EPF_E_INTERNAL (records overlap without nesting). */
epf_status epf_trace_write(const epf_trace *trace, const char *path);

/* The same of a trace of one rank, to the file that epf_prof_write() would write. */
epf_status epf_trace_write_rank(const epf_trace *trace, const char *folder, const char *name);

/* Accepts NULL. */
void epf_trace_destroy(epf_trace *trace);

#endif
