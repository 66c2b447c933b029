/* check.h: the checks of this folder's tests, and ranks to run them on. */
#ifndef EPF_TEST_CHECK_H
#define EPF_TEST_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "base/epf_error.h"
#include "comm/epf_comm.h"

/* The test ends at once, from whatever thread or process: other ranks see it as a failure. */
#define CHECK(condition, ...)                                                             \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: CHECK(%s) failed: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                                 \
            fprintf(stderr, " [%s]\n", epf_error_text());                                 \
            _Exit(1);                                                                     \
        }                                                                                 \
    } while (0)

#define CHECK_OK(expression)                                           \
    do {                                                               \
        const epf_status check_status = (expression);                  \
        CHECK(check_status == EPF_OK, "status %d", (int)check_status); \
    } while (0)

#define CHECK_STATUS(expression, wanted)                                                           \
    do {                                                                                           \
        const epf_status check_status = (expression);                                              \
        CHECK(check_status == (wanted), "status %d, wanted %d", (int)check_status, (int)(wanted)); \
    } while (0)

/* How late, in seconds, a timeout of some hundred milliseconds may come: other tests run beside. */
#ifdef EPF_TEST_SANITIZED
#define TIMEOUT_SLACK 0.5
#else
#define TIMEOUT_SLACK 0.15
#endif

typedef void rank_body(epf_comm *comm, void *context);

/* Runs `body` on num_ranks threads, each with its handle, and destroys the handles that are left.
 * */
void run_threads(int32_t num_ranks, uint64_t timeout_ns, rank_body *body, void *context);

/* As run_threads, on forked processes; every one must end with success. */
void run_processes(int32_t num_ranks, uint64_t timeout_ns, rank_body *body, void *context);

/* Descriptors that this process has open. */
int count_descriptors(void);

/* Mappings of memfds in this process. */
int count_memfd_mappings(void);

double seconds_since(uint64_t begin_ns);

#endif
