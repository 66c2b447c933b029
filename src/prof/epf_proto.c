/* epf_proto.c: see epf_proto.h. */
#include "prof/epf_proto.h"

#include <string.h>

enum { MAX_VARINT_BYTES = 10, MAX_FIELD = (1 << 29) - 1 };

static size_t varint_bytes(uint64_t value)
{
    size_t bytes = 1;
    for (; value >= 0x80; value >>= 7) {
        bytes++;
    }
    return bytes;
}

/* Room for `bytes` more at the end, or NULL once anything did not fit. */
static uint8_t *take(epf_proto_out *out, size_t bytes)
{
    uint8_t *const at = out->data + out->size;
    if (out->overflow || bytes > out->capacity - out->size) {
        out->overflow = true;
        return NULL;
    }
    out->size += bytes;
    return at;
}

static void store_varint(uint8_t *at, uint64_t value)
{
    for (; value >= 0x80; value >>= 7) {
        *at++ = (uint8_t)(value | 0x80);
    }
    *at = (uint8_t)value;
}

static void put_raw(epf_proto_out *out, uint64_t value)
{
    uint8_t *const at = take(out, varint_bytes(value));
    if (at != NULL) {
        store_varint(at, value);
    }
}

static void put_tag(epf_proto_out *out, uint32_t field, uint32_t wire)
{
    put_raw(out, (uint64_t)field << 3 | wire);
}

void epf_proto_put_varint(epf_proto_out *out, uint32_t field, uint64_t value)
{
    put_tag(out, field, EPF_PROTO_VARINT);
    put_raw(out, value);
}

void epf_proto_put_fixed64(epf_proto_out *out, uint32_t field, uint64_t value)
{
    uint8_t *at;
    put_tag(out, field, EPF_PROTO_FIXED64);
    at = take(out, 8);
    for (int i = 0; at != NULL && i < 8; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

void epf_proto_put_string(epf_proto_out *out, uint32_t field, const char *text)
{
    const size_t bytes = strlen(text);
    uint8_t *at;
    put_tag(out, field, EPF_PROTO_BYTES);
    put_raw(out, bytes);
    at = take(out, bytes);
    if (at != NULL) {
        memcpy(at, text, bytes);
    }
}

size_t epf_proto_open(epf_proto_out *out, uint32_t field)
{
    put_tag(out, field, EPF_PROTO_BYTES);
    return out->size;
}

/* The length goes before the body, whose size only now is known: move the body up. */
void epf_proto_close(epf_proto_out *out, size_t opened)
{
    const size_t bytes = out->size - opened;
    const size_t shift = varint_bytes(bytes);
    if (take(out, shift) != NULL) {
        memmove(out->data + opened + shift, out->data + opened, bytes);
        store_varint(out->data + opened, bytes);
    }
}

/* At most ten bytes, of which the last holds one bit; leaves `in` as it was if that does not
   fit. */
static bool get_varint(epf_proto_in *in, uint64_t *value)
{
    const uint8_t *at = in->at;
    uint64_t result = 0;
    for (unsigned i = 0; i < MAX_VARINT_BYTES && at < in->end; i++) {
        const uint8_t byte = *at++;
        if (i == MAX_VARINT_BYTES - 1 && byte > 1) {
            return false; /* more than 64 bits */
        }
        result |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            in->at = at;
            *value = result;
            return true;
        }
    }
    return false;
}

static bool get_fixed(epf_proto_in *in, unsigned bytes, uint64_t *value)
{
    if ((size_t)(in->end - in->at) < bytes) {
        return false;
    }
    *value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        *value |= (uint64_t)in->at[i] << (8 * i);
    }
    in->at += bytes;
    return true;
}

/* The length is checked against what is left, never added to a pointer before. */
static bool get_bytes(epf_proto_in *in, epf_proto_in *bytes)
{
    const uint8_t *const start = in->at;
    uint64_t size;
    if (!get_varint(in, &size)) {
        return false;
    }
    if (size > (uint64_t)(in->end - in->at)) {
        in->at = start;
        return false;
    }
    bytes->base = in->base;
    bytes->at = in->at;
    bytes->end = in->at + size;
    bytes->bad = false;
    in->at += size;
    return true;
}

bool epf_proto_next(epf_proto_in *in, epf_proto_field *field)
{
    const uint8_t *const start = in->at;
    uint64_t tag;
    if (in->at == in->end || in->bad) {
        return false;
    }
    if (!get_varint(in, &tag) || tag >> 3 == 0 || tag >> 3 > MAX_FIELD) {
        in->at = start;
        in->bad = true;
        return false;
    }
    field->number = (uint32_t)(tag >> 3);
    field->wire = (uint32_t)(tag & 7);
    field->value = 0;
    field->bytes = (epf_proto_in){in->base, in->at, in->at, false};
    switch (field->wire) {
    case EPF_PROTO_VARINT:
        in->bad = !get_varint(in, &field->value);
        break;
    case EPF_PROTO_FIXED64:
        in->bad = !get_fixed(in, 8, &field->value);
        break;
    case EPF_PROTO_FIXED32:
        in->bad = !get_fixed(in, 4, &field->value);
        break;
    case EPF_PROTO_BYTES:
        in->bad = !get_bytes(in, &field->bytes);
        break;
    default: /* groups and the two unused wire types: nobody writes them into a trace */
        in->bad = true;
        in->at = start;
        break;
    }
    return !in->bad;
}
