/* epf_alloc.c: checked allocation with fault injection. */
#include "base/epf_alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

static atomic_uint_fast64_t fail_at;
static atomic_uint_fast64_t num_asked;

static int must_fail(void)
{
    const uint64_t nth = 1 + atomic_fetch_add_explicit(&num_asked, 1, memory_order_relaxed);
    return nth == atomic_load_explicit(&fail_at, memory_order_relaxed);
}

static int bytes_of(size_t count, size_t size, size_t *bytes)
{
    if (__builtin_mul_overflow(count, size, bytes) || must_fail()) {
        return 0;
    }
    *bytes = *bytes == 0 ? 1 : *bytes;
    return 1;
}

void *epf_alloc(size_t count, size_t size)
{
    size_t bytes;
    return bytes_of(count, size, &bytes) ? calloc(1, bytes) : NULL;
}

void *epf_alloc_aligned(size_t count, size_t size, size_t alignment)
{
    enum { HUGE_PAGE = 2 << 20 };
    size_t bytes;
    void *memory = NULL;
    if (!bytes_of(count, size, &bytes)) {
        return NULL;
    }
    if (bytes < 2 * (size_t)HUGE_PAGE) {
        return posix_memalign(&memory, alignment, bytes) == 0 ? memory : NULL;
    }
    if (posix_memalign(&memory, HUGE_PAGE, bytes) != 0) {
        return NULL;
    }
    /* A hint: fewer misses of the address cache, and a dying process gives the memory back sooner. */
    (void)madvise(memory, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return memory;
}

void epf_free(void *memory)
{
    free(memory);
}

void epf_alloc_fail_at(uint64_t nth)
{
    atomic_store_explicit(&num_asked, 0, memory_order_relaxed);
    atomic_store_explicit(&fail_at, nth, memory_order_relaxed);
}

uint64_t epf_alloc_count(void)
{
    return atomic_load_explicit(&num_asked, memory_order_relaxed);
}
