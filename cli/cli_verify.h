/*
 * cli_verify.h: `epfuse verify`: the reliability promises and how each is run.
 *
 * A promise runs in a process of its own, whose progress the command watches: one that crashes, exits
 * or stands still is a failure with words, and takes no other promise with it.  What it finds it
 * writes into the verify_run, which both processes see.
 */
#ifndef CLI_VERIFY_H
#define CLI_VERIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "epfuse/epfuse_status.h"

enum { VERIFY_TEXT = 400, VERIFY_LINE = 1024, VERIFY_CLEAN_FULL = 17, VERIFY_CLEAN_SHARE = 3 };

typedef enum verify_outcome { VERIFY_OK = 0, VERIFY_FAILED, VERIFY_SKIPPED } verify_outcome;

/* One run of a promise, in memory that its processes share. */
typedef struct verify_run {
    uint64_t seed;
    uint64_t target;          /* how many are to be run                                     */
    uint64_t deadline_ns;     /* of epf_now_ns(); UINT64_MAX: none                          */
    const char *tests_dir;    /* the build tree whose CTest programs may be run; NULL: none */
    bool is_full;             /* --all                                                      */
    uint64_t done;            /* how many were run; written and read with atomics           */
    uint64_t num_beats;       /* signs of life between two of them                          */
    int32_t outcome;          /* verify_outcome, by the first to decide on one              */
    char note[VERIFY_TEXT];   /* what was measured beside the count: "max 12 ms"          */
    char reason[VERIFY_TEXT]; /* why it failed or was skipped                             */
} verify_run;

typedef struct verify_promise verify_promise;
typedef void verify_function(const verify_promise *promise, verify_run *run);

struct verify_promise {
    const char *name;
    const char *claim;         /* the promise, one sentence                                       */
    const char *unit;          /* what is counted                                                 */
    uint64_t full;             /* with --all                                                      */
    uint64_t share;            /* without: what CI runs                                           */
    verify_function *function; /* NULL: needs a build with tests                          */
    const char *tests;         /* CTest names (a regular expression), for verify_tests()  */
    int32_t patience_s;        /* without a sign of life; 0: the default                  */
};

typedef struct verify_options {
    bool is_full;
    bool only_list;
    const char *only[16]; /* names; none: all */
    int32_t num_only;
    double seconds; /* a promise; 0: no limit                   */
    uint64_t seed;
    const char *json_path; /* appended to; NULL: none */
    const char *tests_dir; /* NULL: beside the command, if there is one */
} verify_options;

/* ---- for the functions of promises ---- */

/* Whether another one is to be run: neither is the target reached nor the time over nor did any fail. */
bool verify_more(const verify_run *run);
/* `count` more were run. */
void verify_done(verify_run *run, uint64_t count);
/* It still moves, though nothing is done yet. */
void verify_beat(verify_run *run);
/* From any of its processes and threads; the first text stays. */
void verify_fail(verify_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
void verify_skip(verify_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Replaces the note. */
void verify_note(verify_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Interrupts reads, so that a program without words does not outlast the time given. */
void verify_wake_every_second(void);
/* A program's next line; false at its end, or when the time is over, which *is_cut says. */
bool verify_next_line(const verify_run *run, FILE *pipe, char line[VERIFY_LINE], bool *is_cut);

/* Runs the promise's CTest programs; each that passes counts as one. */
verify_function verify_tests;
/* Runs the simulator of the build tree from the seed onwards. */
verify_function verify_simulator;
/* Runs the fuzz targets of the build tree, piece by piece, where clang made some (EPFUSE_FUZZ). */
verify_function verify_fuzz;
/* Runs programs of the build tree under Valgrind, where there is one. */
verify_function verify_clean;

/* ---- for the command ---- */

typedef struct verify_report {
    int32_t num_passed, num_failed, num_skipped;
    double seconds;
} verify_report;

/* Runs what the options choose of `promises`, a line each to `out`, and the sum. */
epf_status verify_all(const verify_promise *promises, int32_t count, const verify_options *options,
                      FILE *out, verify_report *report);

/* Runs one; on return *run holds what it found. */
epf_status verify_one(const verify_promise *promise, const verify_options *options, verify_run *run,
                      double *seconds);

/* Appends the run as a line of JSON. */
epf_status verify_write_json(const char *path, const verify_promise *promise, const verify_run *run,
                             double seconds);

/* "123,456". */
const char *verify_number(uint64_t value, char out[32]);

extern const verify_promise verify_promises[];
extern const int32_t verify_num_promises;

#endif
