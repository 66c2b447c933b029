/*
 * sim_memory.c: allocations and windows of one run.
 *
 * Takes the place of base/epf_alloc.c: what a run allocates is listed, so that a rank that never goes on
 * leaves nothing behind, and what a run forgets is seen.
 */
#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "sim_inside.h"
#include "sim_seam.h"

enum { HEADER_BYTES = 64, MAX_WINDOWS = 256 };

typedef struct block {
    struct block *previous, *next; /* NULL: not of a run */
    void *base;                    /* what free() gets */
    size_t bytes;
} block;

typedef struct window {
    uint8_t *begin;
    size_t bytes;
} window;

static block list = {&list, &list, NULL, 0};
static window windows[MAX_WINDOWS];
static int32_t num_windows;

/* A zeroed block behind its header, at a multiple of `alignment`. */
static void *take(size_t bytes, size_t alignment)
{
    const size_t ahead = alignment > HEADER_BYTES ? alignment : HEADER_BYTES;
    uint8_t *base;
    block *b;
    if (bytes > SIZE_MAX - ahead || posix_memalign((void **)&base, ahead, ahead + bytes) != 0) {
        return NULL;
    }
    memset(base, 0, ahead + bytes);
    b = (block *)(void *)(base + ahead - HEADER_BYTES);
    b->base = base;
    b->bytes = bytes;
    if (sim.is_active) {
        b->previous = &list;
        b->next = list.next;
        list.next->previous = b;
        list.next = b;
    }
    return base + ahead;
}

static void give_back(void *memory)
{
    block *const b = (block *)(void *)((uint8_t *)memory - HEADER_BYTES);
    if (sim.current != NULL) {
        sim_commit_all(sim.current);
        sim_check_no_store(memory, b->bytes);
    }
    if (b->next != NULL) {
        b->previous->next = b->next;
        b->next->previous = b->previous;
    }
    free(b->base);
}

/* Counts the rank's allocations; true for the one that is to fail. */
static bool must_fail(void)
{
    const sim_fault *const f = sim_fault_next();
    if (sim.current == NULL || f == NULL || f->kind != SIM_FAULT_MEMORY ||
        sim.current->rank != f->rank || sim.fault_ns != 0 ||
        ++sim.ranks[f->rank].allocations < f->at) {
        return false;
    }
    sim_fault_happens();
    return true;
}

void *epf_alloc(size_t count, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) || must_fail() ? NULL
                                                                      : take(bytes, HEADER_BYTES);
}

void *epf_alloc_aligned(size_t count, size_t size, size_t alignment)
{
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) || must_fail() ? NULL
                                                                      : take(bytes, alignment);
}

/* What the simulator's own fiber gives back is a dead rank's: others may be about to write to it, as they
 * would to memory that dies with its last mapping. */
void epf_free(void *memory)
{
    if (memory != NULL && (sim.current == NULL || sim.current->rank != SIM_NO_RANK)) {
        give_back(memory);
    }
}

void epf_alloc_fail_at(uint64_t nth)
{
    (void)nth;
}

uint64_t epf_alloc_count(void)
{
    return 0;
}

void *sim_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset)
{
    void *memory;
    (void)at;
    (void)protection;
    (void)flags;
    (void)file;
    (void)offset;
    memory = num_windows == MAX_WINDOWS || must_fail() ? NULL : take(bytes, 4096);
    if (memory == NULL) {
        return MAP_FAILED;
    }
    windows[num_windows].begin = memory;
    windows[num_windows++].bytes = bytes;
    return memory;
}

int sim_munmap(void *memory, size_t bytes)
{
    (void)bytes;
    for (int32_t i = 0; i < num_windows; i++) {
        if (windows[i].begin == memory) {
            windows[i] = windows[--num_windows];
            give_back(memory);
            return 0;
        }
    }
    sim_fail("memory is unmapped that is not mapped");
    return -1;
}

int sim_madvise(void *memory, size_t bytes, int advice)
{
    (void)memory;
    (void)bytes;
    (void)advice;
    return 0;
}

bool sim_is_shared(const void *address, size_t bytes)
{
    const uint8_t *const at = address;
    for (int32_t i = 0; i < num_windows; i++) {
        if (at >= windows[i].begin && at + bytes <= windows[i].begin + windows[i].bytes) {
            return true;
        }
    }
    return false;
}

void sim_memory_begin(void)
{
    num_windows = 0;
}

int64_t sim_memory_end(void)
{
    int64_t count = 0;
    while (list.next != &list) {
        give_back((uint8_t *)(void *)list.next + HEADER_BYTES);
        count++;
    }
    num_windows = 0;
    return count;
}
