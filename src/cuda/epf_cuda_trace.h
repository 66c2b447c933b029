/*
 * epf_cuda_trace.h: what a recorded launch has left behind, as a trace.
 *
 * Host code without CUDA: every pointer is one of the host's.  The trace has a lane for each role of each CTA that has
 * recorded anything; names are those of the CPU's workers.  What the numbers of a record mean:
 *
 *   event                      task                                        expert, rows
 *   dispatch_token_main        DISPATCH task                               -, slots
 *   dispatch_expand_*          part of an M-tile, counted over all         the part's
 *   group_gemm_wait, _main     M-tile x N-tiles + N-tile of 256 columns,   the M-tile's
 *                              of which each M-tile has an even number
 *   combine_wait before either of the next two: M-tile                     its
 *   group_gemm_tail_notify     M-tile                                      its
 *   combine_scatter_token      16 rows of an M-tile, counted over all      the part's
 *   combine_topk_reduce, combine_wait before it: token                     -, 1
 *   weight_grad_main           tile, counted over all experts; -1 where    the expert, its rows
 *                              the launch has more than one gradient
 *
 * Flows are the CPU's (epf_prof_flow.h), as far as both ends are known.  Seven of a CTA's eight math warps record
 * nothing: rows that they have sent, filled or summed have one end only, or none.  A part of a tile that a recorded
 * warp filled last stands for all of the tile's parts.
 */
#ifndef EPF_CUDA_TRACE_H
#define EPF_CUDA_TRACE_H

#include "cuda/epf_cuda_call.h"
#include "prof/epf_trace.h"

typedef struct epf_cuda_recording {
    const epf_call *
        call; /* phase with epoch and num_slots; tiles' tables; and of a dispatch topk_idx, dst_row,
                             sort_slots, row_source, of a combine that scatters topk_idx, dst_row */
    const epf_prof_record *records; /* [num_ctas * EPF_CUDA_PROF_LANES, records_per_lane] */
    int64_t records_per_lane;
    int32_t num_ctas;
    epf_cuda_grain grain;
    const uint64_t *recv_flag;    /* [R] dispatch: words of the rows */
    int64_t host_minus_device_ns; /* CLOCK_MONOTONIC less globaltimer */
} epf_cuda_recording;

/* A trace of one rank that owns its records.  EPF_E_NO_MEMORY; EPF_E_INTERNAL: a record that the call cannot have. */
epf_status epf_cuda_trace_make(const epf_cuda_recording *recording, epf_trace **trace);

#endif
