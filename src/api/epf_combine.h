/* epf_combine.h: the weight gradient's part of combine's arguments, shared with the layer. */
#ifndef EPF_COMBINE_H
#define EPF_COMBINE_H

#include "api/epf_backend.h"

/* The gradient's tensors and blocks, checked against the layout. */
epf_status epf_grad_check(const epf_op *op, const epf_layout *layout,
                          const epf_group_gemm_combine_args *args);

/* Adds the gradient to the call, if one is asked for. */
void epf_grad_fill(const epf_op *op, const epf_group_gemm_combine_args *args, epf_call *call);

#endif
