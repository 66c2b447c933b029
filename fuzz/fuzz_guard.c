/*
 * fuzz_guard.c: the fast build of a target: no sanitizer, but what it would have told of the input and of memory.
 *
 * The input ends where a page without access begins, so a read past its end is a fault.  Allocations are
 * counted through the linker's --wrap: what a run allocates it frees, and the bound of fuzz_watch.c holds.
 */
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

enum { MAX_INPUT = 1 << 20 };

int fuzz_target(const uint8_t *bytes, size_t num_bytes);
void *__real_malloc(size_t num_bytes);
void *__real_calloc(size_t count, size_t num_bytes);
void *__real_realloc(void *memory, size_t num_bytes);
void __real_free(void *memory);
void *__wrap_malloc(size_t num_bytes);
void *__wrap_calloc(size_t count, size_t num_bytes);
void *__wrap_realloc(void *memory, size_t num_bytes);
void __wrap_free(void *memory);

static size_t allowed;
static int64_t num_alive;

static void *note(void *memory, size_t num_bytes)
{
    FUZZ_CHECK(allowed == 0 || num_bytes <= allowed);
    num_alive += memory != NULL;
    return memory;
}

void *__wrap_malloc(size_t num_bytes)
{
    return note(__real_malloc(num_bytes), num_bytes);
}

void *__wrap_calloc(size_t count, size_t num_bytes)
{
    return note(__real_calloc(count, num_bytes), count * num_bytes);
}

void *__wrap_realloc(void *memory, size_t num_bytes)
{
    const bool had = memory != NULL;
    void *const moved = note(__real_realloc(memory, num_bytes), num_bytes);
    num_alive -= had && moved != NULL;
    return moved;
}

void __wrap_free(void *memory)
{
    num_alive -= memory != NULL;
    __real_free(memory);
}

void fuzz_watch_begin(size_t max_bytes)
{
    allowed = max_bytes + FUZZ_SLACK_BYTES;
}

void fuzz_watch_end(void)
{
    allowed = 0;
}

/* The end of a readable block. */
static uint8_t *wall(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *const block = mmap(NULL, MAX_INPUT + 2 * page, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FUZZ_CHECK(block != MAP_FAILED && mprotect(block, page, PROT_NONE) == 0 &&
               mprotect(block + page + MAX_INPUT, page, PROT_NONE) == 0);
    return block + page + MAX_INPUT;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes)
{
    static uint8_t *end;
    int64_t before;
    if (num_bytes > MAX_INPUT) {
        return -1;
    }
    end = end == NULL ? wall() : end;
    memcpy(end - num_bytes, bytes, num_bytes);
    before = num_alive;
    (void)fuzz_target(end - num_bytes, num_bytes);
    FUZZ_CHECK(num_alive == before);
    return 0;
}
