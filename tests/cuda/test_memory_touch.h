/* test_memory_touch.h: a kernel that writes to every part of a window. */
#ifndef EPF_TEST_MEMORY_TOUCH_H
#define EPF_TEST_MEMORY_TOUCH_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct test_memory_touch_args {
    uint8_t *const *base_table; /* [num_ranks], device */
    int32_t num_ranks;
    uint64_t offset;    /* in every part */
    uint32_t num_words; /* word i of rank r's part becomes seed + r * 2^24 + i */
    uint32_t seed;
} test_memory_touch_args;

/* A cudaError_t; waits for the kernel. */
int test_memory_touch(const test_memory_touch_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
