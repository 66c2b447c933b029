/*
 * epf_phase_list.cuh: one entry of a list of compiled phases.
 */
#ifndef EPF_PHASE_LIST_CUH
#define EPF_PHASE_LIST_CUH

#include "cuda/epf_phase_sm90.cuh"
#include "epfuse/epfuse_dtype.h"

using bf16 = __nv_bfloat16;
using f16 = __half;
static const int32_t dtype_bf16 = EPF_DTYPE_BF16;
static const int32_t dtype_f16 = EPF_DTYPE_F16;

template <class T, bool kBNMajor, int kEpilogue>
using phase_gemm = gemm_config<T, 256, 1, 2, EPF_GEMM_A_ROWS, kBNMajor, kEpilogue>;
/* Stored at once: behind another pass of the math role there are no registers to keep a tile in. */
template <class T>
struct phase_grad : gemm_config<T, 256, 1, 2, EPF_GEMM_A_COLUMNS, true, EPF_GEMM_TO_C> {
    static constexpr bool kStoreLate = false;
};

#define EPF_PHASE_CONFIG(type, b, to, hooks, grad, kind) \
    phase_config<phase_gemm<type, (b) != 0, to>, hooks, grad, kind>

#define EPF_PHASE_ENTRY(type, b, to, hooks, grad, kind, with_grad)                     \
    {kind,                                                                             \
     with_grad,                                                                        \
     {dtype_##type, 256, 1, 2, EPF_GEMM_A_ROWS, b, to, 0, (int32_t)sizeof(phase_smem), \
      (const void *)phase_kernel<EPF_PHASE_CONFIG(type, b, to, hooks, grad, kind)>}},

static_assert(sizeof(phase_smem) <= kMaxSmem, "shared memory");

#endif
