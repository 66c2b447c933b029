/*
 * epf_prof_flow.h: which flow a task of a call sends or waits for; one statement for every backend.
 *
 * A row sent is named by where it lands, a tile by its number, a row that comes back by the rank that had it.
 */
#ifndef EPF_PROF_FLOW_H
#define EPF_PROF_FLOW_H

#include "core/epf_call.h"
#include "prof/epf_prof_record.h"

/* One per carried row of a dispatch. */
EPF_HD uint64_t epf_flow_of_row(uint32_t epoch, int32_t source, int32_t destination, int64_t row)
{
    const uint32_t index = ((uint32_t)destination << 20) ^ (uint32_t)row;
    return epf_prof_flow(epoch, source, EPF_PROF_FLOW_DISPATCH, index);
}

/* One per (M-tile, N-tile), within this rank. */
EPF_HD uint64_t epf_flow_of_tile(const epf_call *call, epf_prof_object object, int32_t m_tile,
                                 int32_t n_tile)
{
    return epf_prof_flow(call->phase.epoch, call->rank, object,
                         (uint32_t)m_tile * (uint32_t)call->phase.tiles.num_n_tiles +
                             (uint32_t)n_tile);
}

/* One per row of a combine that `from` brings back to the slot that sent it. */
EPF_HD uint64_t epf_flow_of_slot(uint32_t epoch, int32_t from, int64_t row)
{
    return epf_prof_flow(epoch, from, EPF_PROF_FLOW_COMBINE, (uint32_t)row);
}

#endif
