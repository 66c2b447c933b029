/*
 * epf_alloc.h: the library's only way to host memory, so that a test can make the n-th allocation fail.
 */
#ifndef EPF_ALLOC_H
#define EPF_ALLOC_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed memory for count * size bytes (overflow checked), or NULL; count * size == 0 gives a valid pointer. */
void *epf_alloc(size_t count, size_t size);

/* As epf_alloc, at a multiple of `alignment` (a power of two, at most 4096); not zeroed. */
void *epf_alloc_aligned(size_t count, size_t size, size_t alignment);

/* Accepts NULL; frees memory of both functions above. */
void epf_free(void *memory);

/* Test hook: from now on the n-th allocation (1 = the next) of any thread fails, once; 0 switches off. */
void epf_alloc_fail_at(uint64_t nth);

/* Test hook: allocations asked for since epf_alloc_fail_at() was last called. */
uint64_t epf_alloc_count(void);

#endif
