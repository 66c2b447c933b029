#include "support/epf_space.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/epf_check.h"
#include "support/epf_space_device.h"

enum { ALIGN = 256, MAX_PIECES = 1 << 14 };
#define DEFAULT_BYTES ((size_t)1 << 30)

/* A piece of the block, free or not; pieces lie side by side in order of their place. */
typedef struct piece {
    size_t offset, bytes;
    bool used;
} piece;

typedef struct space {
    unsigned char *base; /* NULL until used */
    piece pieces[MAX_PIECES];
    int32_t num_pieces;
} space;

static space spaces[EPF_DEVICE_MAX]; /* one on each device */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t wanted = DEFAULT_BYTES; /* of each */
static _Thread_local int32_t my_rank;

#if !defined(EPFUSE_TEST_CUDA)
/* Unreachable: epf_space_require() has ended the program. */
bool epf_device_is_there(bool touch, const char **reason)
{
    (void)touch;
    *reason = "this build has no CUDA backend";
    return false;
}

int32_t epf_device_enter(int32_t rank)
{
    (void)rank;
    return 0;
}

void *epf_device_block(size_t bytes)
{
    CHECK(bytes == 0, "no device");
    return NULL;
}

void *epf_device_stream(int32_t rank)
{
    (void)rank;
    return NULL;
}

void epf_device_put(void *stream, void *to, const void *host, size_t bytes)
{
    (void)stream;
    (void)to;
    (void)host;
    CHECK(bytes == 0, "no device");
}

void epf_device_get(void *stream, void *host, const void *from, size_t bytes)
{
    epf_device_put(stream, host, from, bytes);
}
#endif

bool epf_space_is_device(void)
{
    const char *name = getenv("EPFUSE_TEST_BACKEND");

    if (name == NULL || name[0] == '\0' || strcmp(name, "cpu") == 0) {
        return false;
    }
    CHECK(strcmp(name, "cuda") == 0, "EPFUSE_TEST_BACKEND is %s, must be cpu or cuda", name);
    return true;
}

void epf_space_require(bool processes)
{
    const char *reason = "";

    if (epf_space_is_device() && !epf_device_is_there(!processes, &reason)) {
        printf("skipped: %s\n", reason);
        (void)fflush(stdout);
        exit(EPF_TEST_SKIPPED);
    }
}

void epf_space_reserve(size_t bytes)
{
    for (int32_t i = 0; i < EPF_DEVICE_MAX; i++) {
        CHECK(spaces[i].base == NULL, "the block is in use already");
    }
    wanted = bytes;
}

void epf_space_enter(int32_t rank)
{
    my_rank = rank;
}

void *epf_space_stream(void)
{
    if (!epf_space_is_device()) {
        return NULL;
    }
    (void)epf_device_enter(my_rank);
    return epf_device_stream(my_rank);
}

/* First fit: tests take few pieces and give most of them back in turn. */
static void *take(space *s, size_t bytes)
{
    for (int32_t i = 0; i < s->num_pieces; i++) {
        piece *p = &s->pieces[i];
        if (p->used || p->bytes < bytes) {
            continue;
        }
        if (p->bytes > bytes) {
            CHECK(s->num_pieces < MAX_PIECES, "%d pieces of device memory", s->num_pieces);
            memmove(p + 2, p + 1, (size_t)(s->num_pieces - i - 1) * sizeof *p);
            p[1] = (piece){p->offset + bytes, p->bytes - bytes, false};
            s->num_pieces++;
        }
        p->bytes = bytes;
        p->used = true;
        return s->base + p->offset;
    }
    epf_check_failed(__FILE__, __LINE__, "space", "%zu bytes do not fit: of %zu", bytes, wanted);
}

/* Joins piece i + 1 to piece i if both are free. */
static void join(space *s, int32_t i)
{
    if (i < 0 || i + 1 >= s->num_pieces || s->pieces[i].used || s->pieces[i + 1].used) {
        return;
    }
    s->pieces[i].bytes += s->pieces[i + 1].bytes;
    memmove(&s->pieces[i + 1], &s->pieces[i + 2], (size_t)(s->num_pieces - i - 2) * sizeof(piece));
    s->num_pieces--;
}

/* For checkers of addresses: each tensor is an allocation of its own, and none is given back. */
static bool takes_single_tensors(void)
{
    return getenv("EPFUSE_TEST_DEVICE_MALLOC") != NULL;
}

static void *device_alloc(size_t bytes)
{
    const size_t rounded = (bytes / ALIGN + 1) * ALIGN;
    space *s = &spaces[epf_device_enter(my_rank)];
    void *memory;

    if (takes_single_tensors()) {
        return epf_device_block(rounded);
    }
    (void)pthread_mutex_lock(&lock);
    if (s->base == NULL) {
        s->base = epf_device_block(wanted);
        s->pieces[0] = (piece){0, wanted, false};
        s->num_pieces = 1;
    }
    memory = take(s, rounded);
    (void)pthread_mutex_unlock(&lock);
    return memory;
}

/* False if the memory is not of this space. */
static bool give_back(space *s, const unsigned char *memory)
{
    for (int32_t i = 0; i < s->num_pieces; i++) {
        if (s->pieces[i].used && s->base + s->pieces[i].offset == memory) {
            s->pieces[i].used = false;
            join(s, i);
            join(s, i - 1);
            return true;
        }
    }
    return false;
}

/* By whatever thread: tensors of all ranks may be freed by one. */
static void device_free(const unsigned char *memory)
{
    bool found = takes_single_tensors();

    (void)pthread_mutex_lock(&lock);
    for (int32_t i = 0; i < EPF_DEVICE_MAX && !found; i++) {
        found = give_back(&spaces[i], memory);
    }
    (void)pthread_mutex_unlock(&lock);
    CHECK(found, "%p is no piece", (const void *)memory);
}

void *epf_space_alloc(size_t bytes)
{
    void *memory = NULL;

    if (epf_space_is_device()) {
        return device_alloc(bytes);
    }
    CHECK(posix_memalign(&memory, ALIGN, bytes == 0 ? 1 : bytes) == 0, "%zu bytes", bytes);
    return memory;
}

void epf_space_free(void *memory)
{
    if (memory != NULL && epf_space_is_device()) {
        device_free(memory);
    } else {
        free(memory);
    }
}

void epf_space_put(void *to, const void *host, size_t bytes)
{
    if (bytes == 0) {
        return;
    }
    if (epf_space_is_device()) {
        epf_device_put(epf_space_stream(), to, host, bytes);
    } else {
        memcpy(to, host, bytes);
    }
}

void epf_space_get(void *host, const void *from, size_t bytes)
{
    if (bytes == 0) {
        return;
    }
    if (epf_space_is_device()) {
        epf_device_get(epf_space_stream(), host, from, bytes);
    } else {
        memcpy(host, from, bytes);
    }
}
