/* mutate_json.c: config.json and the index: one JSON text. */
#include "mutate.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    mutation m = {seed};
    return mutate_text(&m, data, size, max_size);
}
