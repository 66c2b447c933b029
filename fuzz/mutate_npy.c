/* mutate_npy.c: the dict as text, its length right again, now and then another version. */
#include <string.h>

#include "mutate.h"

enum { PREFIX_BYTES = 8 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    mutation m = {seed};
    const size_t field = size > 6 && data[6] != 1 ? 4 : 2;
    const size_t begin = PREFIX_BYTES + field;
    uint32_t length = 0;
    size_t tail;
    uint8_t data_copy[1024];
    if (size < begin || mutate_random(&m, 8) == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    memcpy(&length, data + PREFIX_BYTES, field);
    if (length > size - begin) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    tail = size - begin - length < sizeof data_copy ? size - begin - length : sizeof data_copy;
    if (max_size < begin + tail) {
        return size;
    }
    memcpy(data_copy, data + begin + length, tail);
    length = (uint32_t)mutate_text(&m, data + begin, length, max_size - begin - tail);
    memcpy(data + begin + length, data_copy, tail);
    memcpy(data + PREFIX_BYTES, &length, field);
    if (mutate_random(&m, 8) == 0 && tail > 0) {
        tail = (size_t)mutate_random(&m, tail + 1);
    }
    return begin + length + tail;
}
