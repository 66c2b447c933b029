/*
 * prof_fixture.h: small profiles with known content, and the checks that tests of this folder share.
 */
#ifndef PROF_FIXTURE_H
#define PROF_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>

#include "base/epf_error.h"
#include "prof/epf_trace.h"

#define CHECK(condition, ...)                                      \
    do {                                                           \
        if (!(condition)) {                                        \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            printf(__VA_ARGS__);                                   \
            printf("\n");                                          \
            exit(1);                                               \
        }                                                          \
    } while (0)

#define CHECK_OK(expression)                                                                 \
    do {                                                                                     \
        const epf_status check_status = (expression);                                        \
        CHECK(check_status == EPF_OK, "status %d: %s", (int)check_status, epf_error_text()); \
    } while (0)

enum { FIXTURE_RANKS = 3, FIXTURE_WORKERS = 2, FIXTURE_TILES = 4 };

/*
 * One call of FIXTURE_RANKS ranks, at made-up times.  Each rank's host preprocesses, with a barrier
 * nested in that; each worker sends to every rank, waits for what every rank sent, multiplies its
 * tiles, returns rows, and sums.  Rank 1 has one record that never ended, rank 2 has lost one.
 */
void fixture_make(epf_prof *profs[FIXTURE_RANKS]);
void fixture_destroy(epf_prof *profs[FIXTURE_RANKS]);

/* A new folder under the build's; the name is valid until the next call. */
const char *fixture_folder(const char *test);

/* The whole file; the caller frees. */
unsigned char *fixture_load(const char *path, size_t *num_bytes);

#endif
