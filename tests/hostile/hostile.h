/*
 * hostile.h: files that attack a reader, written as text in a table, one line each.
 *
 * In a template "~5{ab}" stands for "ab" five times (no nesting), "~x00" for the byte 0, "~~" for "~".
 * Each case says with which status and which words it must be refused: its own reason, and the byte.
 * The file is read from a block of exactly its size, so that a sanitizer sees reads past the end; under one
 * that can watch malloc no single allocation may exceed `factor` times the file and `fixed_bytes`.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_status.h"

typedef struct hostile_case {
    const char *name;
    const char *text; /* a template */
    const char *says; /* in the error's text */
    epf_status status;
} hostile_case;

/* A reader: EPF_OK, or the status with which it refused. */
typedef epf_status (*hostile_reader)(const void *bytes, size_t num_bytes);

typedef struct hostile_suite {
    const char *reader_name;
    hostile_reader read;
    size_t factor;
    size_t fixed_bytes; /* of the reader's own objects, whatever the file */
    /* Makes the file of an expanded template, in memory the caller frees; NULL: it is the file. */
    unsigned char *(*wrap)(const unsigned char *text, size_t num_bytes, size_t *size);
} hostile_suite;

/* The template's bytes, exactly so many; the caller frees. */
unsigned char *hostile_expand(const char *text, size_t *num_bytes);

/* Checks one file, counted. */
void hostile_check(const hostile_suite *suite, const hostile_case *c, const unsigned char *bytes,
                   size_t num_bytes);

/* All cases of a table; equal reasons for different attacks are the table's, not the reader's, fault. */
void hostile_run(const hostile_suite *suite, const hostile_case *cases, size_t count);

/* Prints the count, and fails below `least`. */
int hostile_end(const hostile_suite *suite, int least);

#endif
