/* epf_space_device.h: the device's half of epf_space.h, where it is built. */
#ifndef EPF_TEST_SPACE_DEVICE_H
#define EPF_TEST_SPACE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* False, with the reason, if there is no usable device; `touch`: also start it. */
bool epf_device_is_there(bool touch, const char **reason);

/* Device memory that is given back with the process: freeing it would wait for every kernel. */
void *epf_device_block(size_t bytes);

/* The stream of a rank, made on first use. */
void *epf_device_stream(int32_t rank);

void epf_device_put(void *stream, void *space, const void *host, size_t bytes);
void epf_device_get(void *stream, void *host, const void *space, size_t bytes);

#endif
