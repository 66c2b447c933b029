/*
 * epf_cuda_profile.h: recording a launch of an operator on a device, and writing it as a trace.
 *
 * A profiled call is waited for: its records are read when its stream has ended.  The memory is taken with the first
 * one and stays with the operator: on the device and on the host some 24 MiB each.  A lane that is full records no more.
 *
 * Times are globaltimer's, shown as the host's: CLOCK_MONOTONIC less globaltimer, measured after each profiled call.  A
 * kernel keeps writing its time to host memory, the host compares, and the least difference counts.  So it is too large
 * by the time that a store takes to the host, a microsecond or so and alike for all ranks of a machine, and by what the
 * clocks drift apart during the call.
 */
#ifndef EPF_CUDA_PROFILE_H
#define EPF_CUDA_PROFILE_H

#include "cuda/epf_cuda_backend.h"

typedef struct epf_cuda_profile epf_cuda_profile;

/* Loads the kernel, as epf_cuda_phase_max_ctas() does. */
epf_status epf_cuda_profile_load(void);

/* Accepts NULL; no call may be under way. */
void epf_cuda_profile_destroy(epf_cuda_profile *profile);

/* EPF_E_STATE: the operator's stream is being captured, and a profiled call is waited for. */
epf_status epf_cuda_op_check_profile(const epf_cuda_op *op);

/* Before the launch: memory for its records, emptied on the operator's stream.  EPF_E_UNSUPPORTED: a phase that
 * records nothing; EPF_E_NO_MEMORY, EPF_E_DEVICE: `launch` is as it was. */
epf_status epf_cuda_profile_begin(epf_cuda_op *op, epf_cuda_launch *launch);

/* After the operator's stream has ended: prof/mega/<name>_rank_<r>.perfetto-trace. */
epf_status epf_cuda_profile_write(epf_cuda_op *op, const epf_cuda_launch *launch, const char *name);

#endif
