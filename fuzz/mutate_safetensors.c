/* mutate_safetensors.c: the header as JSON, its length right again, the data as long as the offsets say. */
#include <string.h>

#include "mutate.h"

enum { LENGTH_BYTES = 8 };

/* The largest number after "data_offsets" anywhere in the header. */
static uint64_t largest_offset(const uint8_t *text, size_t size)
{
    static const char key[] = "data_offsets";
    uint64_t largest = 0;
    for (size_t i = 0; i + sizeof key <= size; i++) {
        if (memcmp(text + i, key, sizeof key - 1) != 0) {
            continue;
        }
        uint64_t value = 0;
        for (i += sizeof key; i < size && text[i] != ']'; i++) {
            const bool digit = text[i] >= '0' && text[i] <= '9';
            value = digit ? value * 10 + (uint64_t)(text[i] - '0') : 0;
            largest = value > largest ? value : largest;
        }
    }
    return largest;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    mutation m = {seed};
    uint64_t length = 0;
    size_t header;
    if (size >= LENGTH_BYTES) {
        memcpy(&length, data, LENGTH_BYTES);
    }
    if (length > (uint64_t)(size - LENGTH_BYTES) || size < LENGTH_BYTES ||
        max_size < LENGTH_BYTES || mutate_random(&m, 16) == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    /* Room for the new header: the data moves out of the way, and comes back as zeros. */
    header = mutate_text(&m, data + LENGTH_BYTES, (size_t)length, max_size - LENGTH_BYTES);
    length = mutate_random(&m, 16) == 0 ? header + mutate_random(&m, 3) - 1 : header;
    memcpy(data, &length, LENGTH_BYTES);
    size = LENGTH_BYTES + header;
    length = largest_offset(data + LENGTH_BYTES, header);
    length += mutate_random(&m, 8) == 0 ? 1 : 0;
    length = length < max_size - size ? length : max_size - size;
    memset(data + size, 0, (size_t)length);
    return size + (size_t)length;
}
