/* cli_device.c: host memory, and a CUDA device's where it is built in. */
#include "cli_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/epf_op.h"
#include "base/epf_alloc.h"
#include "base/epf_error.h"

#if defined(EPF_HAS_CUDA)
#include <cuda_runtime_api.h>

static epf_status check_cuda(cudaError_t error, const char *what)
{
    return error == cudaSuccess
               ? EPF_OK
               : EPF_FAIL(error == cudaErrorMemoryAllocation ? EPF_E_NO_MEMORY : EPF_E_DEVICE,
                          "%s: %s", what, cudaGetErrorString(error));
}

/* Does not start CUDA: ranks may yet be forked. */
static epf_status check_there(void)
{
    if (access("/dev/nvidiactl", F_OK) != 0) {
        return EPF_FAIL(EPF_E_DEVICE, "--device cuda: no NVIDIA device on this machine");
    }
    /* Fewer hardware queues than ranks would order kernels that wait for each other. */
    (void)setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    return EPF_OK;
}

static epf_status enter(int32_t rank)
{
    int count = 0;
    EPF_TRY(check_cuda(cudaGetDeviceCount(&count), "--device cuda"));
    return check_cuda(cudaSetDevice(rank % count), "--device cuda");
}

static epf_status take(int64_t bytes, const char *what, void **memory)
{
    return check_cuda(cudaMalloc(memory, (size_t)bytes), what);
}

static void give_back(void *memory)
{
    (void)cudaFree(memory);
}

static epf_status copy(epf_op *op, void *to, const void *from, int64_t bytes)
{
    void *stream = NULL;
    EPF_TRY(epf_op_stream(op, &stream));
    EPF_TRY(
        check_cuda(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDefault, stream), "a copy"));
    return check_cuda(cudaStreamSynchronize(stream), "a copy");
}

bool cli_device_describe(char *text, size_t bytes)
{
    int count = 0;
    size_t used = 0;

    if (check_there() != EPF_OK || cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        (void)snprintf(text, bytes, "no NVIDIA device on this machine");
        return false;
    }
    for (int i = 0; i < count && used < bytes; i++) {
        struct cudaDeviceProp p;
        if (cudaGetDeviceProperties(&p, i) == cudaSuccess) {
            used += (size_t)snprintf(text + used, bytes - used,
                                     "%s%d: %.60s, %d SMs, %.0f GiB, compute %d.%d%s",
                                     i > 0 ? "; " : "", i, p.name, p.multiProcessorCount,
                                     (double)p.totalGlobalMem / (double)(1 << 30), p.major, p.minor,
                                     p.major == 9 ? "" : " (not Hopper: not usable)");
        }
    }
    return true;
}
#else
static epf_status check_there(void)
{
    return EPF_FAIL(EPF_E_DEVICE, "--device cuda: this build has no CUDA backend; configure with "
                                  "-DEPFUSE_CUDA=ON, where nvcc is");
}

static epf_status enter(int32_t rank)
{
    (void)rank;
    return check_there();
}

static epf_status take(int64_t bytes, const char *what, void **memory)
{
    (void)bytes;
    (void)what;
    *memory = NULL;
    return check_there();
}

static void give_back(void *memory)
{
    (void)memory;
}

static epf_status copy(epf_op *op, void *to, const void *from, int64_t bytes)
{
    (void)op;
    (void)to;
    (void)from;
    (void)bytes;
    return check_there();
}

bool cli_device_describe(char *text, size_t bytes)
{
    const bool has_driver = access("/proc/driver/nvidia/version", R_OK) == 0;
    (void)snprintf(text, bytes, "not in this build; %s",
                   has_driver ? "an NVIDIA driver is loaded" : "no NVIDIA driver on this machine");
    return false;
}
#endif

epf_status cli_device_parse(const char *text, int32_t *backend)
{
    *backend = strcmp(text, "cuda") == 0 ? EPF_BACKEND_CUDA : EPF_BACKEND_CPU;
    EPF_CHECK_ARG(*backend == EPF_BACKEND_CUDA || strcmp(text, "cpu") == 0,
                  "--device: \"%.40s\", must be cpu or cuda", text);
    return *backend == EPF_BACKEND_CUDA ? check_there() : EPF_OK;
}

epf_status cli_device_enter(int32_t backend, int32_t rank)
{
    return backend == EPF_BACKEND_CUDA ? enter(rank) : EPF_OK;
}

epf_status cli_device_alloc(int32_t backend, int64_t bytes, const char *what, void **memory)
{
    const int64_t least = bytes > 0 ? bytes : 1;

    if (backend == EPF_BACKEND_CUDA) {
        return take(least, what, memory);
    }
    *memory = epf_alloc_aligned((size_t)least, 1, 64);
    return *memory != NULL ? EPF_OK : EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory", what);
}

void cli_device_free(int32_t backend, void *memory)
{
    if (memory != NULL && backend == EPF_BACKEND_CUDA) {
        give_back(memory);
    } else {
        epf_free(memory);
    }
}

static epf_status copy_for(epf_op *op, void *to, const void *from, int64_t bytes)
{
    if (bytes == 0) {
        return EPF_OK;
    }
    if (op->config.backend == EPF_BACKEND_CUDA) {
        return copy(op, to, from, bytes);
    }
    memcpy(to, from, (size_t)bytes);
    return EPF_OK;
}

epf_status cli_device_put(epf_op *op, void *to, const void *host, int64_t bytes)
{
    return copy_for(op, to, host, bytes);
}

epf_status cli_device_get(epf_op *op, void *host, const void *from, int64_t bytes)
{
    return copy_for(op, host, from, bytes);
}

epf_status cli_device_settle(epf_op *op)
{
    return op->config.backend == EPF_BACKEND_CUDA ? epf_op_synchronize(op) : EPF_OK;
}
