/*
 * epf_prof.h: recording what each worker does, and writing it as a Perfetto trace.
 *
 * A worker asks for its buffer once per call and brackets each task:
 *
 *     epf_prof_buffer *const lane = epf_prof_worker(prof, worker);    NULL: off
 *     epf_prof_record *rec = epf_prof_begin(lane, EPF_PROF_GROUP_GEMM_WAIT, task);
 *     ... wait ...
 *     epf_prof_recv(lane, rec, epf_prof_flow(epoch, source, EPF_PROF_FLOW_DISPATCH, index));
 *     rec = epf_prof_next(lane, rec, EPF_PROF_GROUP_GEMM_MAIN, task);
 *     epf_prof_detail(rec, expert, rows);
 *     ... multiply ...
 *     epf_prof_end(rec);
 *
 * All of these are inline and only test a pointer when profiling is off.  While it is on they take
 * no lock and no memory: a full buffer counts what it could not hold.  Records of one worker may
 * nest but not overlap otherwise.
 */
#ifndef EPF_PROF_H
#define EPF_PROF_H

#include "base/epf_clock.h"
#include "epfuse/epfuse_status.h"
#include "prof/epf_prof_record.h"

/* One rank's profile: a buffer for each worker and one for the calling thread. */
typedef struct epf_prof epf_prof;

typedef struct epf_prof_config {
    int32_t rank;                /* 0 .. 4095                                                 */
    int32_t num_workers;         /* 1 .. 4096                                                 */
    uint64_t records_per_worker; /* most tasks of one worker, times the records and links each */
} epf_prof_config;

/* EPF_E_INVALID, EPF_E_NO_MEMORY.  All memory of the profile is taken here. */
epf_status epf_prof_create(const epf_prof_config *config, epf_prof **prof);

/* Accepts NULL. */
void epf_prof_destroy(epf_prof *prof);

/* Forgets all records and keeps the memory; no worker may be recording. */
void epf_prof_reset(epf_prof *prof);

/* The buffer of worker 0 .. num_workers - 1, or with worker = num_workers the calling thread's
   ("host").  NULL, which switches recording off, when prof is NULL or there is no such worker. */
epf_prof_buffer *epf_prof_worker(epf_prof *prof, int32_t worker);

/* Records kept (links not counted) and lost, over all buffers. */
void epf_prof_counts(const epf_prof *prof, uint64_t *num_kept, uint64_t *num_lost);

/* A profile's name becomes part of a file name: 1 .. 100 characters of [A-Za-z0-9._-], not starting
   with '.' or '-', no "..".  EPF_E_INVALID says which rule `name` breaks. */
epf_status epf_prof_check_name(const char *name);

#define EPF_PROF_FOLDER "prof/mega"

/* Writes <folder>/<name>_rank_<r>.perfetto-trace, or with several profiles
   <folder>/<name>_merged.perfetto-trace, and makes missing folders; folder NULL: EPF_PROF_FOLDER.
   The file appears whole or not at all.  No worker may be recording.
   EPF_E_INVALID, EPF_E_NO_MEMORY, EPF_E_FILE. */
epf_status epf_prof_write(epf_prof *prof, const char *folder, const char *name);
epf_status epf_prof_write_merged(epf_prof *const *profs, int32_t num_profs, const char *folder,
                                 const char *name);

/* Starts a record now.  NULL when off or full: all functions below accept that. */
static inline epf_prof_record *epf_prof_begin(epf_prof_buffer *buffer, epf_prof_event event,
                                              int32_t task)
{
    epf_prof_record *rec;
    if (buffer == NULL) {
        return NULL;
    }
    if (buffer->num_records >= buffer->capacity) {
        buffer->num_lost++;
        return NULL;
    }
    rec = &buffer->records[buffer->num_records++];
    rec->flow_out = 0;
    rec->flow_in = 0;
    rec->event = (uint32_t)event;
    rec->task = task;
    rec->expert = EPF_PROF_NONE;
    rec->rows = EPF_PROF_NONE;
    rec->end_ns = 0;
    rec->begin_ns = epf_now_ns();
    return rec;
}

static inline void epf_prof_end(epf_prof_record *rec)
{
    if (rec != NULL) {
        rec->end_ns = epf_now_ns();
    }
}

/* Ends `rec` and starts the next one at the same instant. */
static inline epf_prof_record *epf_prof_next(epf_prof_buffer *buffer, epf_prof_record *rec,
                                             epf_prof_event event, int32_t task)
{
    epf_prof_record *const next = epf_prof_begin(buffer, event, task);
    if (rec != NULL) {
        rec->end_ns = next != NULL ? next->begin_ns : epf_now_ns();
    }
    return next;
}

static inline void epf_prof_detail(epf_prof_record *rec, int32_t expert, int32_t rows)
{
    if (rec != NULL) {
        rec->expert = expert;
        rec->rows = rows;
    }
}

/* One more flow for a record whose own field is taken. */
static inline void epf_prof_link(epf_prof_buffer *buffer, const epf_prof_record *rec,
                                 uint64_t flow_out, uint64_t flow_in)
{
    epf_prof_record *link;
    if (buffer->num_records >= buffer->capacity) {
        buffer->num_lost++;
        return;
    }
    link = &buffer->records[buffer->num_records++];
    link->begin_ns = (uint64_t)(rec - buffer->records);
    link->end_ns = 0;
    link->flow_out = flow_out;
    link->flow_in = flow_in;
    link->event = EPF_PROF_LINK;
    link->task = link->expert = link->rows = EPF_PROF_NONE;
}

/* Says that the task of `rec` sent or signalled `flow`; as often as needed, before the end. */
static inline void epf_prof_send(epf_prof_buffer *buffer, epf_prof_record *rec, uint64_t flow)
{
    if (rec == NULL) {
        return;
    }
    if (rec->flow_out == 0) {
        rec->flow_out = flow;
    } else {
        epf_prof_link(buffer, rec, flow, 0);
    }
}

/* Says that the task of `rec` has waited for `flow`, or reads what it brought. */
static inline void epf_prof_recv(epf_prof_buffer *buffer, epf_prof_record *rec, uint64_t flow)
{
    if (rec == NULL) {
        return;
    }
    if (rec->flow_in == 0) {
        rec->flow_in = flow;
    } else {
        epf_prof_link(buffer, rec, 0, flow);
    }
}

#endif
