/*
 * epf_space.h: where the tensors of a test live: in host memory, or, with EPFUSE_TEST_BACKEND=cuda, in a
 * device's.
 *
 * A test fills tensors with put and reads them with get, whatever the backend.  Nothing here makes a device
 * wait for its other ranks' kernels: memory comes from one block that is taken before ranks start, copies go
 * through the stream of the rank that the calling thread works for.
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

/* Of the block of device memory, before it is first used; default 1 GiB.  Nothing to do on the host. */
void epf_space_reserve(size_t bytes);

/* The calling thread works for this rank from now on. */
void epf_space_enter(int32_t rank);

/* Of the calling thread's rank: a cudaStream_t; NULL on the host. */
void *epf_space_stream(void);

/* Aligned to 256; contents of no matter; never NULL. */
void *epf_space_alloc(size_t bytes);
/* Accepts NULL. */
void epf_space_free(void *memory);

/* From host memory, and back: behind all that the calling thread's rank has enqueued. */
void epf_space_put(void *space, const void *host, size_t bytes);
void epf_space_get(void *host, const void *space, size_t bytes);

#endif
