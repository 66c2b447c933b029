/* mutate_frames.c: scripts of messages (length, switches, bytes): whole ones are doubled, changed, left out. */
#include <string.h>

#include "mutate.h"

enum { MAX_MESSAGES = 256 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    mutation m = {seed};
    size_t begins[MAX_MESSAGES];
    uint8_t copy[2 + UINT8_MAX];
    size_t count = 0;
    size_t at = 0;
    size_t i;
    size_t length;
    while (at + 2 <= size && count < MAX_MESSAGES) {
        begins[count++] = at;
        at += 2 + (size_t)data[at];
    }
    if (count == 0 || mutate_random(&m, 4) == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    i = (size_t)mutate_random(&m, count);
    length = size - begins[i] < 2 + (size_t)data[begins[i]] ? size - begins[i]
                                                            : 2 + (size_t)data[begins[i]];
    memcpy(copy, data + begins[i], length);
    switch (mutate_random(&m, 4)) {
    case 0:
        return mutate_splice(data, size, max_size, begins[mutate_random(&m, count)], 0, copy,
                             length);
    case 1:
        return mutate_splice(data, size, max_size, begins[i], length, "", 0);
    case 2: /* one switch: a descriptor, bad memory, a reset, a window, a cut */
        data[begins[i] + 1] ^= (uint8_t)(1u << mutate_random(&m, 6));
        return size;
    default: /* where in the frame the bytes go: a field's beginning */
        if (length > 2) {
            data[begins[i] + 2] = (uint8_t)(4 * mutate_random(&m, 16));
        }
        return size;
    }
}
