/*
 * epf_space.h: where the tensors of a test live: in host memory, or, with EPFUSE_TEST_BACKEND=cuda, in a
 * device's.
 *
 * A test fills tensors with put and reads them with get, whatever the backend.  Nothing here makes a device
 * wait for its other ranks' kernels: memory comes from a block of each device that is taken on first use, copies
 * go through the stream of the rank that the calling thread works for.  Ranks are spread over the devices there are.
 */
#ifndef EPF_TEST_SPACE_H
#define EPF_TEST_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The environment's choice. */
bool epf_space_is_device(void);

/* Ends the program as skipped, with the reason, where the chosen backend is not in this build or machine.
 * Forked ranks may not inherit a device in use: `processes` only looks. */
void epf_space_require(bool processes);

/* Of each device's block, before it is first used; default 1 GiB.  Nothing to do on the host. */
void epf_space_reserve(size_t bytes);

/* The calling thread works for this rank from now on. */
void epf_space_enter(int32_t rank);

/* Of the calling thread's rank, whose device is current from then on: a cudaStream_t; NULL on the host. */
void *epf_space_stream(void);

/* Aligned to 256; contents of no matter; never NULL. */
void *epf_space_alloc(size_t bytes);
/* Accepts NULL. */
void epf_space_free(void *memory);

/* From host memory, and back: behind all that the calling thread's rank has enqueued. */
void epf_space_put(void *space, const void *host, size_t bytes);
void epf_space_get(void *host, const void *space, size_t bytes);

#endif
