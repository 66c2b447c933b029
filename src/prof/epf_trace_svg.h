/*
 * epf_trace_svg.h: traces as a picture: one lane per worker, coloured by what it did, over time.
 *
 * Several traces stand one above the other on one time axis, so that their lengths compare. A
 * slice narrower than half a pixel is not drawn by itself: each half pixel shows what took most
 * of it.
 */
#ifndef EPF_TRACE_SVG_H
#define EPF_TRACE_SVG_H

#include "prof/epf_trace.h"

typedef struct epf_trace_panel {
    const epf_trace *trace;
    const char *title; /* or NULL                                                     */
    uint64_t from_ns;  /* what to show, counted from the trace's first begin; ...     */
    uint64_t to_ns;    /* ... 0: to its end                                           */
} epf_trace_panel;

typedef struct epf_trace_svg_config {
    const char *title;  /* or NULL                                                */
    int32_t width_px;   /* 400 .. 4000; 0: 1200                                   */
    int32_t max_flows;  /* flows drawn per panel, chosen evenly; 0: none          */
    bool show_hosts;    /* also the lanes of the calling threads                  */
    uint64_t max_bytes; /* the file is drawn coarser until it fits; 0: 300 000    */
} epf_trace_svg_config;

enum { EPF_TRACE_SVG_MAX_PANELS = 8 };

/* Writes the file whole or not at all.  EPF_E_INVALID, EPF_E_NO_MEMORY, EPF_E_FILE, EPF_E_INTERNAL;
   EPF_E_CAPACITY if not even a coarse picture fits max_bytes. */
epf_status epf_trace_svg(const epf_trace_panel *panels, int32_t num_panels,
                         const epf_trace_svg_config *config, const char *path);

#endif
