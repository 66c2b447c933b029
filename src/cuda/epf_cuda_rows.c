/* epf_cuda_rows.c: the host side of epf_rows_backward.h. */
#include "base/epf_error.h"
#include "cuda/epf_cuda_memory_internal.h"
#include "cuda/epf_rows_backward.h"
#include "epfuse/epfuse_dtype.h"

enum { ROW_THREADS = 256 };

epf_status epf_rows_backward_load(void)
{
    const int32_t dtypes[] = {EPF_DTYPE_BF16, EPF_DTYPE_F16};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        struct cudaFuncAttributes attributes;
        EPF_TRY(
            epf_cuda_check(cudaFuncGetAttributes(&attributes, epf_rows_backward_kernel(dtypes[i])),
                           "loading the layer's backward kernels"));
    }
    return EPF_OK;
}

epf_status epf_rows_backward(const epf_rows_backward_args *args, void *stream)
{
    epf_rows_backward_args copy = *args;
    void *params[] = {&copy};
    cudaLaunchConfig_t config = {0};
    EPF_CHECK_ARG(args->dtype == EPF_DTYPE_BF16 || args->dtype == EPF_DTYPE_F16,
                  "dtype: %d, must be bf16 or fp16", args->dtype);
    EPF_CHECK_ARG(args->intermediate > 0 && args->intermediate % 8 == 0,
                  "intermediate: %lld, must be a positive multiple of 8",
                  (long long)args->intermediate);
    config.gridDim = (dim3){(unsigned)args->num_ctas, 1, 1};
    config.blockDim = (dim3){ROW_THREADS, 1, 1};
    config.stream = (cudaStream_t)stream;
    return epf_cuda_check(
        cudaLaunchKernelExC(&config, epf_rows_backward_kernel(args->dtype), params),
        "launching the layer's backward kernel");
}
