/*
 * op_nan.h: routing weights, gates and weights of the sum are data: a NaN among them makes NaN of what is
 * computed with it, and of nothing else; for the operator's tests and for the reliability promises.
 */
#ifndef OP_NAN_H
#define OP_NAN_H

#include "op_case.h"
#include "support/epf_rng.h"

/*
 * The layer, forward and backward, without NaN and then with NaN as the routing weights of some slots of one
 * rank, which all ranks draw from `rng`.  The second time NaN must be, in all their elements, exactly
 *
 *     output and grad_input   the tokens of those slots, if not dropped
 *     grad_w13 and grad_w2    the experts of those slots: they sum over the expert's rows
 *     grad_weight             nothing: a weight's gradient does not depend on the weight
 *
 * and all other bits those of the first time.  The case is one with N a multiple of 16.
 */
bool op_nan_layer(op_rank *r, epf_rng *rng, int32_t combine_mode);

/*
 * The two operations, without NaN and then with NaN as weights of the sum and as gates: exactly the tokens of
 * those slots are NaN, and exactly those gates.
 */
bool op_nan_combine(op_rank *r, epf_rng *rng);

#endif
