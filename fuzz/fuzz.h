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

/* A broken promise is a finding: stop where a debugger or the fuzzer sees it. */
#define FUZZ_CHECK(condition) \
    do {                      \
        if (!(condition)) {   \
            __builtin_trap(); \
        }                     \
    } while (0)

/* Between these two calls no single allocation may exceed max_bytes and a slack of 8 KiB for the
 * readers' own objects, in builds whose sanitizer can watch malloc; jansson's are seen, too. */
void fuzz_watch_begin(size_t max_bytes);
void fuzz_watch_end(void);

#endif
