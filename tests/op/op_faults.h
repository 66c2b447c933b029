/*
 * op_faults.h: calls that all ranks must refuse, and what must hold afterwards; for the operator's tests and
 * for the reliability promises.
 */
#ifndef OP_FAULTS_H
#define OP_FAULTS_H

#include <stdatomic.h>

#include "op_case.h"
#include "support/epf_rng.h"

/*
 * Preprocess with a bad expert id, or scatter indices that are no permutation, on one rank: all ranks draw
 * the same victim from `rng` and all must get EPF_E_INVALID.  Every rank has at least two slots.
 */
bool op_call_badly(op_rank *r, epf_rng *rng);

/*
 * A routing that does not fit where buffers may not grow (capacity_plus_one, own outputs, a type of two
 * bytes): EPF_E_CAPACITY, nothing written; then a call that fits works.
 */
bool op_refuse_then_work(op_rank *r);

/* One token of each rank to that rank's own first expert, a layer: it fits anywhere, and works. */
bool op_run_one_token(op_rank *r);

/* This process is killed `after_us` from now, and has written down when; called once in a process. */
void op_die_after(int32_t after_us, _Atomic uint64_t *died_at);

#endif
