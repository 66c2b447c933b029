/* epf_space_device.h: the device's half of epf_space.h, where it is built. */
#ifndef EPF_TEST_SPACE_DEVICE_H
#define EPF_TEST_SPACE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* False, with the reason, if there is no usable device; `touch`: also start it. */
bool epf_device_is_there(bool touch, const char **reason);

enum { EPF_DEVICE_MAX = 16 };

/* The device of a rank, below EPF_DEVICE_MAX: its number modulo the devices there are.  It is current from then on. */
int32_t epf_device_enter(int32_t rank);

/* Memory of the current device that is given back with the process: freeing it would wait for every kernel. */
void *epf_device_block(size_t bytes);

/* The stream of a rank, made on first use on the current device. */
void *epf_device_stream(int32_t rank);

void epf_device_put(void *stream, void *space, const void *host, size_t bytes);
void epf_device_get(void *stream, void *host, const void *space, size_t bytes);

#endif
