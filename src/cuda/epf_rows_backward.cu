/*
 * epf_rows_backward.cu: dh, g, u, w -> dg, du, dw, a row per CTA and step.
 *
 * Launch   any number of CTAs of 256 threads; a thread takes 8 columns (16 bytes of g, u and dh) at a time.
 * Bits     fp32 per element with the operations of the CPU in its order, none fused; dw in fp64, by thread, then by lane
 *          and warp in a fixed order.
 */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "core/epf_half.h"
#include "cuda/epf_rows_backward.h"
#include "epfuse/epfuse_dtype.h"

static constexpr int kRowThreads = 256;
static constexpr int kRowWarps = kRowThreads / 32;

template <int kDtype> static __device__ __forceinline__ float to_f32(uint16_t half)
{
    return kDtype == EPF_DTYPE_BF16 ? __bfloat162float(__ushort_as_bfloat16(half))
                                    : __half2float(__ushort_as_half(half));
}

template <int kDtype> static __device__ __forceinline__ uint16_t from_f32(float value)
{
    return kDtype == EPF_DTYPE_BF16 ? __bfloat16_as_ushort(__float2bfloat16_rn(value))
                                    : __half_as_ushort(__float2half_rn(value));
}

struct eight {
    uint16_t at[8];
};

static __device__ __forceinline__ eight load_eight(const void *from, int64_t index)
{
    const uint4 piece = ((const uint4 *)from)[index];
    return *(const eight *)&piece;
}

static __device__ __forceinline__ void store_eight(void *to, int64_t index, const eight &values)
{
    ((uint4 *)to)[index] = *(const uint4 *)&values;
}

/* The CTA's sum, in thread 0: lanes, then warps, each pair in the same order every time. */
static __device__ __forceinline__ double sum_cta(double own)
{
    __shared__ double of_warp[kRowWarps];
    double sum = 0.0;
    for (int step = 16; step > 0; step /= 2) {
        own += __shfl_down_sync(~0u, own, step);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = own;
    }
    __syncthreads();
    for (int warp = 0; warp < kRowWarps; warp++) {
        sum += of_warp[warp];
    }
    return sum;
}

/* 8 columns: dg and du; returns their part of dw. */
template <int kDtype>
static __device__ __forceinline__ double eight_backward(const eight &dh8, eight &g8, eight &u8,
                                                        float weight)
{
    double dw = 0.0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float g = to_f32<kDtype>(g8.at[i]);
        const float u = to_f32<kDtype>(u8.at[i]);
        const float dh = to_f32<kDtype>(dh8.at[i]);
        const float sigmoid = __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-g)));
        const float silu = __fmul_rn(g, sigmoid);
        const float slope =
            __fmul_rn(sigmoid, __fadd_rn(1.0f, __fmul_rn(g, __fsub_rn(1.0f, sigmoid))));
        dw = __dadd_rn(dw, __dmul_rn(__dmul_rn((double)dh, (double)silu), (double)u));
        u8.at[i] = from_f32<kDtype>(__fmul_rn(__fmul_rn(dh, silu), weight));
        g8.at[i] = from_f32<kDtype>(__fmul_rn(__fmul_rn(__fmul_rn(dh, u), weight), slope));
    }
    return dw;
}

template <int kDtype>
static __global__ void __launch_bounds__(kRowThreads)
    rows_backward_kernel(const __grid_constant__ epf_rows_backward_args a)
{
    const int64_t rows = epf_min64(a.head->num_rows, a.capacity);
    const int64_t pieces = a.intermediate / 8;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float weight = a.weight_dtype == EPF_DTYPE_F32
                                 ? ((const float *)a.weight)[row]
                                 : to_f32<EPF_DTYPE_BF16>(((const uint16_t *)a.weight)[row]);
        double dw = 0.0;
        for (int64_t i = threadIdx.x; i < pieces; i += kRowThreads) {
            const eight dh = load_eight(a.grad_hidden, row * pieces + i);
            eight g = load_eight(a.projected, 2 * row * pieces + i);
            eight u = load_eight(a.projected, (2 * row + 1) * pieces + i);
            dw = __dadd_rn(dw, eight_backward<kDtype>(dh, g, u, weight));
            store_eight(a.grad_projected, 2 * row * pieces + i, g);
            store_eight(a.grad_projected, (2 * row + 1) * pieces + i, u);
        }
        dw = sum_cta(dw);
        if (threadIdx.x == 0 && a.weight_dtype == EPF_DTYPE_F32) {
            ((float *)a.grad_weight)[row] = (float)dw;
        } else if (threadIdx.x == 0) {
            ((uint16_t *)a.grad_weight)[row] = from_f32<EPF_DTYPE_BF16>((float)dw);
        }
    }
}

extern "C" const void *epf_rows_backward_kernel(int32_t dtype)
{
    return dtype == EPF_DTYPE_BF16 ? (const void *)rows_backward_kernel<EPF_DTYPE_BF16>
                                   : (const void *)rows_backward_kernel<EPF_DTYPE_F16>;
}
