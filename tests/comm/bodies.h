/* bodies.h: what a group must do, whatever its provider is. */
#ifndef EPF_TEST_BODIES_H
#define EPF_TEST_BODIES_H

#include "check.h"

/* Gathers of several sizes, a barrier, agreement on statuses. */
rank_body body_gather;

/* Windows are zero, symmetric, seen both ways, and independent of each other. */
rank_body body_window;

/* Sizes that differ, are 0 or too large give the same error on all ranks, and the group goes on. */
rank_body body_window_errors;

/* Counters and payloads through a window, in a ring, with the wait loop. */
rank_body body_ring;

#endif
