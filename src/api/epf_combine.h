/* epf_combine.h: what the layer takes from combine: its mode's check, the weight gradient's part of the arguments. */
#ifndef EPF_COMBINE_H
#define EPF_COMBINE_H

#include "api/epf_backend.h"

/* Refuses what is none of epf_combine_mode. */
epf_status epf_combine_check_mode(int32_t mode);

/* The gradient's tensors and blocks, checked against the layout. */
epf_status epf_grad_check(epf_op *op, const epf_layout *layout,
                          const epf_group_gemm_combine_args *args);

/* Adds the gradient to the call, if one is asked for. */
void epf_grad_fill(const epf_op *op, const epf_group_gemm_combine_args *args, epf_call *call);

#endif
