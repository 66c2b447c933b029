/* epf_prof.c: the buffers that workers record into. */
#include "prof/epf_prof.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "prof/epf_trace.h"

enum { NAME_BYTES_MAX = 100, CACHE_LINE = 64, LIKELY_AT_LEAST = 1024 };

/* Records and buffers are read across compilers, and one day across devices. */
_Static_assert(sizeof(epf_prof_record) == 48, "fixed layout");
_Static_assert(sizeof(epf_prof_buffer) == CACHE_LINE, "workers do not share a cache line");

/* Four records are three cache lines: with capacities of fours, so are whole buffers. */
enum { RECORDS_UNIT = 4 };
_Static_assert(RECORDS_UNIT * sizeof(epf_prof_record) % CACHE_LINE == 0, "whole lines");

struct epf_prof {
    epf_trace_rank rank;
    int32_t num_workers;
    epf_prof_buffer *buffers; /* [num_workers + 1], the last one is the host's */
    epf_prof_record *records; /* all buffers' memory, end to end               */
};

const epf_trace_event epf_prof_events[EPF_PROF_NUM_EVENTS] = {
#define X(id, name, category) {name, category},
    EPF_PROF_EVENT_MAP(X)
#undef X
};

const char *const epf_prof_category_names[EPF_PROF_NUM_CATEGORIES] = {
#define X(id, name) name,
    EPF_PROF_CATEGORY_MAP(X)
#undef X
};

const char *const epf_trace_role_names[EPF_TRACE_NUM_ROLES] = {
#define X(id, name) name,
    EPF_TRACE_ROLE_MAP(X)
#undef X
};

/*
 * Any worker may turn out to do all tasks, so each buffer has room for all; but what it will likely
 * fill is twice its share.  Those pages are touched now, so that recording does not wait for them.
 */
static epf_status allocate(epf_prof *prof, uint64_t capacity)
{
    const size_t num_buffers = (size_t)prof->num_workers + 1;
    const uint64_t likely = 2 * capacity / (uint64_t)prof->num_workers + LIKELY_AT_LEAST;
    const uint64_t touched = likely < capacity ? likely : capacity;
    size_t bytes;
    if (__builtin_mul_overflow(capacity * sizeof(epf_prof_record), num_buffers, &bytes)) {
        bytes = SIZE_MAX;
    }
    prof->buffers = epf_alloc_aligned(num_buffers, sizeof(epf_prof_buffer), CACHE_LINE);
    prof->records = epf_alloc_aligned(bytes, 1, CACHE_LINE);
    if (prof->buffers == NULL || prof->records == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY,
                        "profile of rank %d: %zu bytes for %zu buffers of %llu records",
                        prof->rank.rank, bytes, num_buffers, (unsigned long long)capacity);
    }
    memset(prof->buffers, 0, num_buffers * sizeof(epf_prof_buffer));
    for (size_t i = 0; i < num_buffers; i++) {
        prof->buffers[i].records = prof->records + i * capacity;
        prof->buffers[i].capacity = capacity;
        memset(prof->buffers[i].records, 0, touched * sizeof(epf_prof_record));
    }
    return EPF_OK;
}

epf_status epf_prof_create(const epf_prof_config *config, epf_prof **prof)
{
    epf_prof *made;
    epf_status st;
    *prof = NULL;
    EPF_CHECK_ARG(config->rank >= 0 && config->rank < EPF_TRACE_MAX_RANKS,
                  "profile: rank is %d, must be 0 .. %d", config->rank, EPF_TRACE_MAX_RANKS - 1);
    EPF_CHECK_ARG(config->num_workers >= 1 && config->num_workers <= EPF_TRACE_MAX_WORKERS,
                  "profile: num_workers is %d, must be 1 .. %d", config->num_workers,
                  EPF_TRACE_MAX_WORKERS);
    EPF_CHECK_ARG(config->records_per_worker >= 1 && config->records_per_worker <= INT32_MAX,
                  "profile: records_per_worker is %llu, must be 1 .. %d",
                  (unsigned long long)config->records_per_worker, INT32_MAX);
    made = epf_alloc(1, sizeof *made);
    if (made == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "profile: %zu bytes", sizeof *made);
    }
    made->num_workers = config->num_workers;
    made->rank.rank = config->rank;
    epf_trace_read_clocks(&made->rank);
    EPF_TRY_GOTO(
        allocate(made, (uint64_t)epf_round_up((int64_t)config->records_per_worker, RECORDS_UNIT)),
        err_made);
    *prof = made;
    return EPF_OK;

err_made:
    epf_prof_destroy(made);
    return st;
}

void epf_prof_destroy(epf_prof *prof)
{
    if (prof != NULL) {
        epf_free(prof->records);
        epf_free(prof->buffers);
        epf_free(prof);
    }
}

void epf_prof_reset(epf_prof *prof)
{
    for (int32_t i = 0; i <= prof->num_workers; i++) {
        prof->buffers[i].num_records = 0;
        prof->buffers[i].num_lost = 0;
    }
}

epf_prof_buffer *epf_prof_worker(epf_prof *prof, int32_t worker)
{
    if (prof == NULL || worker < 0 || worker > prof->num_workers) {
        return NULL;
    }
    return &prof->buffers[worker];
}

void epf_prof_counts(const epf_prof *prof, uint64_t *num_kept, uint64_t *num_lost)
{
    *num_kept = 0;
    *num_lost = 0;
    for (int32_t i = 0; i <= prof->num_workers; i++) {
        const epf_prof_buffer *const buffer = &prof->buffers[i];
        *num_lost += buffer->num_lost;
        for (uint64_t j = 0; j < buffer->num_records; j++) {
            *num_kept += buffer->records[j].event != EPF_PROF_LINK;
        }
    }
}

epf_status epf_prof_check_name(const char *name)
{
    const size_t bytes = name == NULL ? 0 : strnlen(name, NAME_BYTES_MAX + 1);
    EPF_CHECK_ARG(bytes > 0, "profile_file_name: empty");
    EPF_CHECK_ARG(bytes <= NAME_BYTES_MAX, "profile_file_name: longer than %d characters",
                  NAME_BYTES_MAX);
    EPF_CHECK_ARG(name[0] != '.' && name[0] != '-', "profile_file_name: starts with '%c'", name[0]);
    EPF_CHECK_ARG(strstr(name, "..") == NULL, "profile_file_name: contains \"..\"");
    for (size_t i = 0; i < bytes; i++) {
        const char c = name[i];
        const int good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
        EPF_CHECK_ARG(good,
                      "profile_file_name: byte %zu is 0x%02x, must be one of A-Z a-z 0-9 . _ -", i,
                      (unsigned)(unsigned char)c);
    }
    return EPF_OK;
}

/* The host's lane first: workers are ordered by number, and it is number -1. */
static void view_rank(const epf_prof *prof, epf_trace *trace)
{
    epf_trace_rank *const rank = &trace->ranks[trace->num_ranks++];
    *rank = prof->rank;
    rank->num_lost = 0;
    for (int32_t worker = EPF_TRACE_HOST; worker < prof->num_workers; worker++) {
        const int32_t i = worker == EPF_TRACE_HOST ? prof->num_workers : worker;
        const epf_prof_buffer *const buffer = &prof->buffers[i];
        epf_trace_lane *const lane = &trace->lanes[trace->num_lanes];
        rank->num_lost += buffer->num_lost;
        if (worker == EPF_TRACE_HOST && buffer->num_records == 0) {
            continue;
        }
        lane->rank = rank->rank;
        lane->worker = worker;
        lane->num_records = buffer->num_records;
        lane->records = buffer->records;
        trace->num_lanes++;
    }
}

/* The profile of the lowest rank above `above`; NULL if there is none. */
static const epf_prof *next_rank(epf_prof *const *profs, int32_t num_profs, int32_t above)
{
    const epf_prof *next = NULL;
    for (int32_t i = 0; i < num_profs; i++) {
        const epf_prof *const prof = profs[i];
        if (prof->rank.rank > above && (next == NULL || prof->rank.rank < next->rank.rank)) {
            next = prof;
        }
    }
    return next;
}

epf_status epf_trace_from_profs(epf_prof *const *profs, int32_t num_profs, epf_trace **trace)
{
    size_t num_lanes = 0;
    int32_t above = -1;
    epf_trace *made;
    *trace = NULL;
    EPF_CHECK_ARG(num_profs >= 1 && num_profs <= EPF_TRACE_MAX_RANKS,
                  "trace: %d profiles, must be 1 .. %d", num_profs, EPF_TRACE_MAX_RANKS);
    for (int32_t i = 0; i < num_profs; i++) {
        num_lanes += (size_t)profs[i]->num_workers + 1;
    }
    EPF_CHECK_ARG(num_lanes <= EPF_TRACE_MAX_LANES, "trace: %zu workers in all, must be at most %d",
                  num_lanes, EPF_TRACE_MAX_LANES);
    EPF_TRY(epf_trace_create(EPF_PROF_NUM_EVENTS, (uint32_t)num_profs, (uint32_t)num_lanes, &made));
    memcpy(made->events, epf_prof_events, sizeof epf_prof_events);
    made->num_events = EPF_PROF_NUM_EVENTS;
    for (int32_t i = 0; i < num_profs; i++) {
        const epf_prof *const prof = next_rank(profs, num_profs, above);
        if (prof == NULL) {
            epf_trace_destroy(made);
            return EPF_FAIL(EPF_E_INVALID, "trace: two of %d profiles are of the same rank",
                            num_profs);
        }
        above = prof->rank.rank;
        view_rank(prof, made);
    }
    *trace = made;
    return EPF_OK;
}

static epf_status write_to(epf_prof *const *profs, int32_t num_profs, const char *path)
{
    epf_trace *trace;
    epf_status st;
    EPF_TRY(epf_trace_from_profs(profs, num_profs, &trace));
    st = epf_trace_write(trace, path);
    epf_trace_destroy(trace);
    return st;
}

static epf_status make_path(char *path, const char *folder, const char *name, const char *suffix)
{
    int length;
    EPF_TRY(epf_prof_check_name(name));
    length = snprintf(path, PATH_MAX, "%s/%s_%s.perfetto-trace",
                      folder != NULL ? folder : EPF_PROF_FOLDER, name, suffix);
    EPF_CHECK_ARG(length > 0 && length < PATH_MAX, "profile folder: path of %d bytes is too long",
                  length);
    return EPF_OK;
}

epf_status epf_prof_write(epf_prof *prof, const char *folder, const char *name)
{
    char path[PATH_MAX];
    char suffix[32];
    (void)snprintf(suffix, sizeof suffix, "rank_%d", prof->rank.rank);
    EPF_TRY(make_path(path, folder, name, suffix));
    return write_to(&prof, 1, path);
}

epf_status epf_trace_write_rank(const epf_trace *trace, const char *folder, const char *name)
{
    char path[PATH_MAX];
    char suffix[32];
    (void)snprintf(suffix, sizeof suffix, "rank_%d", trace->ranks[0].rank);
    EPF_TRY(make_path(path, folder, name, suffix));
    return epf_trace_write(trace, path);
}

epf_status epf_prof_write_merged(epf_prof *const *profs, int32_t num_profs, const char *folder,
                                 const char *name)
{
    char path[PATH_MAX];
    EPF_TRY(make_path(path, folder, name, "merged"));
    return write_to(profs, num_profs, path);
}
