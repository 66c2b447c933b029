/*
 * epf_cuda_phase.h: dispatch + grouped GEMM and grouped GEMM + combine on a Hopper device: one launch each.
 */
#ifndef EPF_CUDA_PHASE_H
#define EPF_CUDA_PHASE_H

#include "cuda/epf_cuda_call.h"
#include "epfuse/epfuse_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * call.call holds the operands, all in device memory: input, weight, outputs, gates, gradients, and
 *   gemm_weight     the weight itself: [L, N, K], or [L, K, N] where weight_n_major
 *   gemm_n, gemm_k  N and K of this rank's experts
 *   phase           kind, num_ranks, block_wise, slots_per_task, tokens_per_task, num_tokens, num_grads and grads,
 *                   num_comm_workers (CTAs that dispatch before they expand; fuse_scatter: that only bring rows back
 *                   and sum, from `staged` where not `direct`), num_tail_workers (CTAs that start with what comes
 *                   after; fuse_scatter: that only sum; pairs of both together, not all), tiles.group_m, num_n_tiles,
 *                   tiles.rows, row_offset, tile_offset (device pointers, of tiles of EPF_CUDA_BLOCK_M rows)
 * Rows start at multiples of 16 bytes: pointers are aligned to 16, strides are multiples of 8 elements.
 */
typedef struct epf_cuda_phase_args {
    epf_cuda_call call;
    uint8_t *
        own_set; /* this rank's own window of the buffer set: call.call.set[rank], which the host cannot read */
    bool weight_n_major;
    int64_t
        weight_stride; /* elements from row to row of the weight, and from expert to expert; 0: dense */
    int64_t weight_expert_stride;
    int32_t num_ctas; /* CTAs of the launch, one per SM; epf_cuda_phase_max_ctas() at most; even */
    int64_t expected_rows; /* R if known, to pick a tile; 0: not known */
} epf_cuda_phase_args;

/*
 * Enqueues the phase of call.call.phase.kind: EPF_PHASE_DISPATCH, EPF_PHASE_COMBINE_SERIAL,
 * EPF_PHASE_COMBINE_SCATTER.  Never waits for the device.
 * EPF_E_UNSUPPORTED: no kernel for this combination; EPF_E_DEVICE: the launch failed.
 */
epf_status epf_cuda_phase_run(const epf_cuda_phase_args *args, void *stream);

/* CTAs of a phase's kernels that can be resident at a time on the current device (even; 0: not a Hopper GPU).  Loads
 * every kernel, so that no later launch has to while another rank's kernel waits for it. */
epf_status epf_cuda_phase_max_ctas(int32_t *max_ctas);

#ifdef __cplusplus
}
#endif

#endif
