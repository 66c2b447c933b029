/*
 * fuzz.h: what the fuzz targets share.
 *
 * A target parses the bytes and, where they were accepted, checks what the reader promised.  It is
 * built with libFuzzer (EPFUSE_FUZZ), or with fuzz_replay.c, which runs it once over each file of a
 * corpus.
 */
#ifndef EPF_FUZZ_H
#define EPF_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes);

/* What a target defines; in the guarded build libFuzzer calls fuzz_guard.c, which calls the target. */
#ifdef FUZZ_GUARD
#define FUZZ_TARGET fuzz_target
#else
#define FUZZ_TARGET LLVMFuzzerTestOneInput
#endif
int FUZZ_TARGET(const uint8_t *bytes, size_t num_bytes);

/* A broken promise is a finding: stop where a debugger or the fuzzer sees it. */
#define FUZZ_CHECK(condition) \
    do {                      \
        if (!(condition)) {   \
            __builtin_trap(); \
        }                     \
    } while (0)

/* Between these two calls no single allocation may exceed max_bytes and a slack for the readers' own objects,
 * in builds that can watch malloc (by a sanitizer, or fuzz_guard.c); jansson's are seen, too. */
enum { FUZZ_SLACK_BYTES = 8 * 1024 };
void fuzz_watch_begin(size_t max_bytes);
void fuzz_watch_end(void);

#endif
