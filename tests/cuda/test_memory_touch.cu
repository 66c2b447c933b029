/* test_memory_touch.cu: how test_memory_cuda writes to peers: from the device, by the table on the device. */
#include "test_memory_touch.h"

/* Block (x, peer): word i of the writer's place in the peer's part becomes seed + i. */
static __global__ void touch(uint8_t *const *base_table, uint64_t offset, uint32_t num_words,
                             uint32_t seed)
{
    uint32_t *to = (uint32_t *)(base_table[blockIdx.y] + offset);
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < num_words;
         i += gridDim.x * blockDim.x) {
        to[i] = seed + blockIdx.y * 0x01000000u + i;
    }
}

int test_memory_touch(const test_memory_touch_args *args, cudaStream_t stream)
{
    const dim3 grid(8, (unsigned int)args->num_ranks);
    touch<<<grid, 128, 0, stream>>>(args->base_table, args->offset, args->num_words, args->seed);
    const cudaError_t error = cudaGetLastError();
    return (int)(error == cudaSuccess ? cudaStreamSynchronize(stream) : error);
}
