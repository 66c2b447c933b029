/*
 * mutate_trace.c: protobuf fields: packets are doubled, exchanged and left out; inside one, a number changes
 * or a field is doubled, and the lengths of all that is around it are made right again.
 */
#include <string.h>

#include "mutate.h"

enum { MAX_FIELDS = 2048, COPY_BYTES = 8192, MAX_DEPTH = 6 };

typedef struct field {
    size_t at, body, end; /* tag, value or first byte of it, one past it */
    int wire;
} field;

static bool get_varint(const uint8_t *data, size_t end, size_t *at, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && *at < end; shift += 7) {
        const uint8_t byte = data[(*at)++];
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return true;
        }
    }
    return false;
}

static size_t put_varint(uint8_t *out, uint64_t value)
{
    size_t used = 0;
    for (; value >= 0x80; value >>= 7) {
        out[used++] = (uint8_t)(value | 0x80);
    }
    out[used++] = (uint8_t)value;
    return used;
}

/* The fields of a message; 0 where its bytes are none. */
static size_t split(const uint8_t *data, size_t begin, size_t end, field *fields)
{
    size_t count = 0;
    while (begin < end && count < MAX_FIELDS) {
        field *const f = &fields[count++];
        uint64_t value;
        f->at = begin;
        if (!get_varint(data, end, &begin, &value)) {
            return 0;
        }
        f->wire = (int)(value & 7);
        f->body = begin;
        if (f->wire == 0 || f->wire == 2) {
            if (!get_varint(data, end, &begin, &value)) {
                return 0;
            }
            f->body = f->wire == 2 ? begin : f->body;
            value = f->wire == 2 ? value : 0;
        } else {
            value = f->wire == 1 ? 8 : f->wire == 5 ? 4 : UINT64_MAX;
        }
        if (value > end - begin) {
            return 0;
        }
        begin += (size_t)value;
        f->end = begin;
    }
    return count;
}

static size_t change_message(mutation *m, uint8_t *data, size_t size, size_t max_size, size_t begin,
                             size_t end, int depth);

/* The message in field f changes, then its length before it. */
static size_t change_inside(mutation *m, uint8_t *data, size_t size, size_t max_size,
                            const field *f, int depth)
{
    const size_t changed = change_message(m, data, size, max_size, f->body, f->end, depth + 1);
    const uint64_t length = f->end - f->body + changed - size;
    uint8_t bytes[10];
    size_t tag = f->at;
    uint64_t ignored;
    (void)get_varint(data, f->body, &tag, &ignored);
    return mutate_splice(data, changed, max_size, tag, f->body - tag, bytes,
                         put_varint(bytes, length));
}

static size_t change_number(mutation *m, uint8_t *data, size_t size, size_t max_size,
                            const field *f)
{
    static const uint64_t values[] = {
        0,     1,     2,      3,          5,         65535,      65536,
        65537, 65538, 131072, UINT32_MAX, INT64_MAX, UINT64_MAX, (uint64_t)1 << 63};
    uint8_t bytes[10];
    uint64_t value;
    size_t at = f->body;
    (void)get_varint(data, f->end, &at, &value);
    value = mutate_random(m, 2) == 0 ? value + mutate_random(m, 5) - 2
                                     : values[mutate_random(m, sizeof values / sizeof *values)];
    return mutate_splice(data, size, max_size, f->body, f->end - f->body, bytes,
                         put_varint(bytes, value));
}

static size_t change_message(mutation *m, uint8_t *data, size_t size, size_t max_size, size_t begin,
                             size_t end, int depth)
{
    static field all[MAX_DEPTH + 1][MAX_FIELDS];
    field *const fields = all[depth];
    const size_t count = split(data, begin, end, fields);
    uint8_t copy[COPY_BYTES];
    const field *f;
    const field *other;
    size_t length;
    if (count == 0) {
        return size;
    }
    f = &fields[mutate_random(m, count)];
    other = &fields[mutate_random(m, count)];
    if (f->wire == 2 && depth < MAX_DEPTH && mutate_random(m, 4) != 0) {
        return change_inside(m, data, size, max_size, f, depth);
    }
    if (f->wire == 0 && mutate_random(m, 2) == 0) {
        return change_number(m, data, size, max_size, f);
    }
    length = f->end - f->at < sizeof copy ? f->end - f->at : sizeof copy;
    memcpy(copy, data + f->at, length);
    switch (mutate_random(m, 3)) {
    case 0: /* a second one, elsewhere */
        return mutate_splice(data, size, max_size, other->at, 0, copy, length);
    case 1: /* instead of another */
        return mutate_splice(data, size, max_size, other->at, other->end - other->at, copy, length);
    default:
        return mutate_splice(data, size, max_size, f->at, f->end - f->at, "", 0);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    mutation m = {seed};
    const size_t changed =
        mutate_random(&m, 8) == 0 ? size : change_message(&m, data, size, max_size, 0, size, 0);
    return changed == size && mutate_random(&m, 2) == 0 ? LLVMFuzzerMutate(data, size, max_size)
                                                        : changed;
}
