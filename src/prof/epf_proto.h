/*
 * epf_proto.h: protobuf's wire format, written into and read from plain memory.
 *
 * Only what a trace needs: varints, 64-bit values, length-delimited fields. The writer's message
 * is bounded: what does not fit sets `overflow` and is dropped, so that a caller checks once at
 * the end. The reader trusts nothing.
 */
#ifndef EPF_PROTO_H
#define EPF_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EPF_PROTO_VARINT = 0, EPF_PROTO_FIXED64 = 1, EPF_PROTO_BYTES = 2, EPF_PROTO_FIXED32 = 5 };

typedef struct epf_proto_out {
    uint8_t *data;
    size_t capacity;
    size_t size;
    bool overflow;
} epf_proto_out;

void epf_proto_put_varint(epf_proto_out *out, uint32_t field, uint64_t value);
void epf_proto_put_fixed64(epf_proto_out *out, uint32_t field, uint64_t value);
void epf_proto_put_string(epf_proto_out *out, uint32_t field, const char *text);

/* Everything put between open and close becomes the submessage `field`; pass what open returned. */
size_t epf_proto_open(epf_proto_out *out, uint32_t field);
void epf_proto_close(epf_proto_out *out, size_t opened);

/* A message, or what is left of it; `base` is where the whole input starts, for error offsets. */
typedef struct epf_proto_in {
    const uint8_t *base;
    const uint8_t *at;
    const uint8_t *end;
    bool bad; /* `at` is where protobuf ended and garbage began */
} epf_proto_in;

typedef struct epf_proto_field {
    uint32_t number;
    uint32_t wire;      /* EPF_PROTO_*                                */
    uint64_t value;     /* of a varint, fixed64 or fixed32            */
    epf_proto_in bytes; /* of a length-delimited field: inside the input */
} epf_proto_field;

/* Reads the next field; false at the message's end, and at garbage, which sets in->bad. */
bool epf_proto_next(epf_proto_in *in, epf_proto_field *field);

static inline uint64_t epf_proto_offset(const epf_proto_in *in)
{
    return (uint64_t)(in->at - in->base);
}

#endif
