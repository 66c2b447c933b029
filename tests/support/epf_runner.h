/*
 * epf_runner.h: runs a function once for each rank, as threads of this process or as forked processes.
 */
#ifndef EPF_TEST_RUNNER_H
#define EPF_TEST_RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EPF_RUNNER_TEXT = 512 };

typedef struct epf_test_rank {
    int32_t rank;
    int32_t num_ranks;
    bool processes;
    void *user;    /* of epf_run                                                     */
    char *failure; /* [EPF_RUNNER_TEXT] the first failure's text; "" if there is none */
} epf_test_rank;

typedef void (*epf_rank_function)(epf_test_rank *rank);

typedef struct epf_run {
    int32_t num_ranks;
    bool processes;   /* false: threads                                            */
    double timeout_s; /* of processes, which are then killed; 0: 60 s              */
    uint64_t may_die; /* bit r: that process r is killed by a signal is no failure */
    epf_rank_function function;
    void *user; /* processes get a copy, unless it is epf_shared_alloc()'s   */
} epf_run;

/* Waits for all ranks; the number that failed, each printed to stderr as "<name>: rank r: ...". */
int32_t epf_run_ranks(const epf_run *run, const char *name);

/* Records the first failure of a rank, with place; returns false. */
bool epf_rank_fail(epf_test_rank *rank, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* In a function that returns false on failure. */
#define RANK_CHECK(rank, condition, ...)                                   \
    do {                                                                   \
        if (!(condition)) {                                                \
            return epf_rank_fail((rank), __FILE__, __LINE__, __VA_ARGS__); \
        }                                                                  \
    } while (0)

/* The library call must give this status; shows the library's own text if not. */
#define RANK_STATUS(rank, want, call)                                                             \
    do {                                                                                          \
        const int rank_status = (int)(call);                                                      \
        if (rank_status != (int)(want)) {                                                         \
            return epf_rank_fail((rank), __FILE__, __LINE__, "%s: status %d, want %d: %s", #call, \
                                 rank_status, (int)(want), epf_rank_library_text());              \
        }                                                                                         \
    } while (0)

#define RANK_OK(rank, call) RANK_STATUS(rank, 0, call)

const char *epf_rank_library_text(void);

/* Zeroed memory that this process and those it forks share. */
void *epf_shared_alloc(size_t bytes);
/* Accepts NULL. */
void epf_shared_free(void *memory, size_t bytes);

#endif
