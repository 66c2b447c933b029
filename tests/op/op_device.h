/* op_device.h: what differs where the operator runs on a device (EPFUSE_TEST_BACKEND=cuda). */
#ifndef OP_DEVICE_H
#define OP_DEVICE_H

#include "op_case.h"

/* Backend, and the stream of the calling thread's rank. */
void op_device_config(epf_op_config *config);

/* Waits for all that the rank has enqueued. */
epf_status op_device_settle(const op_rank *r);

/* How the chosen backend must refuse these knobs; EPF_OK: it takes them, as the CPU takes all. */
epf_status op_device_refuses(const op_knobs *knobs);

/* One rank of a case whose knobs are refused: the first call that sees them says so. */
void op_device_refused_rank(epf_test_rank *rank);

/* The nearest knobs that it takes; unchanged on the CPU. */
void op_device_tame(op_knobs *knobs);

/* The layout's own tables, which nobody has to compare. */
epf_tile_tables op_device_tables(const epf_layout_view *view, int64_t num_local);

#endif
