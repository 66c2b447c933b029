/* epf_unfused.c: single phases of the layer over the executor, each a call of its own. */
#include "api/epf_unfused.h"

#include <string.h>

#include "api/epf_phase_args.h"

/* What the phases have in common: the layer's tiles, and the public defaults of how tokens move. */
static void fill(epf_op *op, const epf_layout *layout, const epf_weight *weight, int32_t kind,
                 epf_call *call)
{
    epf_gemm_knobs knobs;
    memset(&knobs, 0, sizeof knobs);
    knobs.group_size_m = EPF_LAYER_GROUP_M;
    knobs.num_warps = 16;
    epf_op_fill_call(op, &op->sets[0], call);
    call->phase.kind = kind;
    epf_phase_fill(layout, weight, &knobs, call);
}

static epf_status run(epf_op *op, const epf_layout *layout, const epf_weight *weight,
                      const epf_call *call, const char *profile)
{
    epf_launch launch;
    memset(&launch, 0, sizeof launch);
    launch.call = *call;
    launch.layout = layout;
    launch.weight = weight;
    launch.profile_file_name = profile;
    launch.capacity = op->sets[0].map.rows;
    return op->backend->phase_run(op, &launch);
}

epf_status epf_unfused_dispatch(epf_op *op, epf_layout *layout, const epf_tensor *input,
                                const epf_tensor *weight, const char *profile)
{
    epf_call call;
    EPF_TRY(epf_layout_tile(layout, op->backend->layer_block_m));
    EPF_TRY(epf_op_reserve_rows(op, &op->sets[0], layout));
    EPF_TRY(epf_op_next_epoch(op));
    fill(op, layout, NULL, EPF_PHASE_DISPATCH, &call);
    call.phase.num_comm_workers = call.phase.num_workers;
    call.phase.tiles.num_n_tiles = 0; /* no GEMM task */
    call.input = epf_rows_of(input);
    call.weight = epf_rows_of(weight);
    EPF_TRY(run(op, layout, NULL, &call, profile));
    return epf_op_barrier(op);
}

epf_rows epf_unfused_recv_rows(const epf_op *op)
{
    const epf_rows rows = {op->sets[0].window.base[op->comm->rank] + op->sets[0].map.recv_tokens,
                           op->shape.hidden};
    return rows;
}

const void *epf_unfused_recv_weights(const epf_op *op)
{
    return op->sets[0].window.base[op->comm->rank] + op->sets[0].map.recv_weight;
}

epf_rows epf_unfused_combine_rows(const epf_op *op)
{
    const epf_rows rows = {op->sets[0].window.base[op->comm->rank] + op->sets[0].map.combine_rows,
                           op->shape.hidden};
    return rows;
}

epf_status epf_unfused_gemm(epf_op *op, epf_layout *layout, const epf_weight *weight,
                            epf_rows input, epf_rows output, const char *profile)
{
    epf_call call;
    EPF_TRY(epf_layout_tile(layout, op->backend->layer_block_m));
    EPF_TRY(epf_op_next_epoch(op)); /* on all ranks, though they do not talk */
    fill(op, layout, weight, EPF_PHASE_GEMM, &call);
    call.gemm_input = input;
    call.gemm_output = output;
    return run(op, layout, weight, &call, profile);
}

epf_status epf_unfused_combine(epf_op *op, epf_layout *layout, const epf_tensor *output,
                               const char *profile)
{
    epf_call call;
    EPF_TRY(epf_layout_tile(layout, op->backend->layer_block_m));
    EPF_TRY(epf_op_next_epoch(op));
    fill(op, layout, NULL, EPF_PHASE_COMBINE_SERIAL, &call);
    call.phase.tiles.num_n_tiles = 0; /* no GEMM task: worker 0 signals the barrier at once */
    call.combine_output = epf_rows_of(output);
    op->sets[0].combine_epoch = op->epoch;
    return run(op, layout, NULL, &call, profile);
}
