/*
 * epf_json.h: large JSON objects taken apart member by member, with byte offsets.
 *
 * Headers and indexes of checkpoints are one wide object of small members.  The walker finds where
 * each member begins and ends; jansson then reads the member alone, strictly.  So every message can
 * name a byte, and memory does not grow with the file.  jansson allocates with malloc: its hook for
 * another allocator is global to the process and belongs to the host program.
 */
#ifndef EPF_JSON_H
#define EPF_JSON_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "epfuse/epfuse_status.h"

enum {
    EPF_JSON_MAX_NAME = 4096,       /* bytes of a decoded key or short string, without NUL */
    EPF_JSON_MAX_VALUE = 64 * 1024, /* bytes of text of one member                         */
    EPF_PRINTABLE_BYTES = 100
};

/* A piece of a file. */
typedef struct epf_json_span {
    const char *text;
    size_t length;
} epf_json_span;

/* Where messages place a piece of text. */
typedef struct epf_json_source {
    const char *file; /* path                          */
    const char *base; /* what lies at the file's byte 0 */
} epf_json_source;

typedef struct epf_json_object {
    const epf_json_source *source;
    const char *at;
    const char *end;
    int started;
} epf_json_object;

/* Starts on `text`, which must be one object with nothing but blanks around it. */
epf_status epf_json_object_open(epf_json_object *object, const epf_json_source *source,
                                epf_json_span text);

/*
 * The next member: key with its quotes, value without blanks around; neither is checked inside.
 * key->text == NULL at the end.
 */
epf_status epf_json_object_next(epf_json_object *object, epf_json_span *key, epf_json_span *value);

/* Decodes a string of at most EPF_JSON_MAX_NAME bytes into out, NUL added; none may be inside. */
epf_status epf_json_string(const epf_json_source *source, epf_json_span span,
                           char out[EPF_JSON_MAX_NAME + 1], size_t *length);

/* Checks that span is a string, of any length. */
epf_status epf_json_check_string(const epf_json_source *source, epf_json_span span);

/* Reads a value of at most max_bytes of text with jansson: no duplicate keys, valid UTF-8, integers
 * within 64 bit.  The caller calls json_decref(). */
epf_status epf_json_load(const epf_json_source *source, epf_json_span span, size_t max_bytes,
                         json_t **value);

/* Byte offset of `at` in the file. */
uint64_t epf_json_offset(const epf_json_source *source, const char *at);

/* Text for a one-line message: control and non-ASCII bytes become '?', the tail is cut. */
const char *epf_printable(const char *text, size_t length, char out[EPF_PRINTABLE_BYTES]);

#endif
