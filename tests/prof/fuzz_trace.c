/*
 * fuzz_trace.c: fuzz target of the trace reader, and of all that works on what it lets through.
 *
 * A trace that is read must also be summed up, matched and written without an error, since the reader
 * promises lanes that nest.
 */
#include <stdlib.h>

#include "base/epf_alloc.h"
#include "prof/epf_trace.h"
#include "prof/epf_trace_flow.h"
#include "prof/epf_trace_summary.h"

/* As in fuzz/fuzz.h, which the other tests with this file have not. */
void fuzz_watch_begin(size_t max_bytes) __attribute__((weak));
void fuzz_watch_end(void) __attribute__((weak));
#ifdef FUZZ_GUARD
#define LLVMFuzzerTestOneInput fuzz_target
#endif
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    epf_trace_summary *summary;
    epf_trace_flow *flows;
    uint64_t num_flows, num_lost;
    epf_trace *trace;
    epf_status st;
    if (fuzz_watch_begin !=
        NULL) { /* a lane and its open slices from a few bytes; the parser's own tables */
        fuzz_watch_begin(64 * size + 64 * 1024);
    }
    st = epf_trace_parse(data, size, "fuzz", &trace);
    if (fuzz_watch_end != NULL) {
        fuzz_watch_end();
    }
    if (st != EPF_OK) {
        return 0;
    }
    if (epf_trace_summarize(trace, &summary) != EPF_OK ||
        epf_trace_match_flows(trace, &flows, &num_flows, &num_lost) != EPF_OK) {
        abort();
    }
    epf_free(flows);
    epf_trace_summary_destroy(summary);
    epf_trace_destroy(trace);
    return 0;
}
