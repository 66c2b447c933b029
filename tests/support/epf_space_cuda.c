/* epf_space_cuda.c: device memory of the tests, through the CUDA runtime. */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/epf_check.h"
#include "support/epf_space_device.h"

enum { MAX_STREAMS = 64 };

#define CHECK_CUDA(call)                                                                     \
    do {                                                                                     \
        const cudaError_t check_error = (call);                                              \
        CHECK(check_error == cudaSuccess, "%s: %s", #call, cudaGetErrorString(check_error)); \
    } while (0)

bool epf_device_is_there(bool touch, const char **reason)
{
    int count = 0;
    int major = 0;

    if (access("/dev/nvidiactl", F_OK) != 0) {
        *reason = "no NVIDIA device";
        return false;
    }
    if (!touch) {
        return true;
    }
    /* Fewer hardware queues than streams would order the kernels of ranks that wait for each other. */
    (void)setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        *reason = "no CUDA device";
        return false;
    }
    CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    if (major != 9) {
        *reason = "the device is no Hopper GPU";
        return false;
    }
    return true;
}

int32_t epf_device_enter(int32_t rank)
{
    int count = 0;
    int device;

    CHECK_CUDA(cudaGetDeviceCount(&count));
    device = rank % (count < EPF_DEVICE_MAX ? count : EPF_DEVICE_MAX);
    CHECK_CUDA(cudaSetDevice(device));
    return device;
}

void *epf_device_block(size_t bytes)
{
    void *memory = NULL;

    CHECK_CUDA(cudaMalloc(&memory, bytes));
    return memory;
}

void *epf_device_stream(int32_t rank)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static cudaStream_t streams[MAX_STREAMS];
    cudaStream_t stream;

    CHECK(rank >= 0 && rank < MAX_STREAMS, "rank %d", rank);
    (void)pthread_mutex_lock(&lock);
    if (streams[rank] == NULL) {
        CHECK_CUDA(cudaStreamCreateWithFlags(&streams[rank], cudaStreamNonBlocking));
    }
    stream = streams[rank];
    (void)pthread_mutex_unlock(&lock);
    return stream;
}

void epf_device_put(void *stream, void *space, const void *host, size_t bytes)
{
    CHECK_CUDA(cudaMemcpyAsync(space, host, bytes, cudaMemcpyHostToDevice, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
}

void epf_device_get(void *stream, void *host, const void *space, size_t bytes)
{
    CHECK_CUDA(cudaMemcpyAsync(host, space, bytes, cudaMemcpyDeviceToHost, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
}
