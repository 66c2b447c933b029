/*
 * cli_device.h: where the operator's tensors are: host memory, or a CUDA device's.
 */
#ifndef EPF_CLI_DEVICE_H
#define EPF_CLI_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "epfuse/epfuse.h"

/* --device: "cpu" or "cuda"; EPF_E_DEVICE where this build or machine has none. */
epf_status cli_device_parse(const char *text, int32_t *backend);

/* The calling thread's device from now on: ranks take turns over those there are.  Nothing on the CPU. */
epf_status cli_device_enter(int32_t backend, int32_t rank);

/* One line about each device: "0: NVIDIA H100, 132 SMs, 79 GiB, compute 9.0, ...".  False: none usable. */
bool cli_device_describe(char *text, size_t bytes);

/* `what` names it in an error. */
epf_status cli_device_alloc(int32_t backend, int64_t bytes, const char *what, void **memory);
/* Accepts NULL. */
void cli_device_free(int32_t backend, void *memory);

/* Between host memory and the operator's, in the order of its stream; done on return. */
epf_status cli_device_put(epf_op *op, void *to, const void *host, int64_t bytes);
epf_status cli_device_get(epf_op *op, void *host, const void *from, int64_t bytes);

/* What the operator's calls have come to, once all of them are done. */
epf_status cli_device_settle(epf_op *op);

#endif
