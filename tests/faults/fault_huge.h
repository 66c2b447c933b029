/* fault_huge.h: what the huge shapes share. */
#ifndef FAULT_HUGE_H
#define FAULT_HUGE_H

#include <stdbool.h>
#include <stddef.h>

#include "cli_verify.h"

/* Zero memory that exists only where it is touched; NULL where the address space has no room. */
void *fault_far_alloc(size_t bytes);

/* The operator's own buffers past 2^31 and 2^32 elements: shape 0, 1 or 2.  False where it cannot be run, which
 * the note says. */
bool fault_huge_buffers(verify_run *run, int which);

#endif
