/* epf_convert.c: bulk conversion, and which instruction set it and the portable product use. */
#include "cpu/gemm/epf_convert.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/gemm/epf_vector.h"

#if defined(__x86_64__)
static const epf_vector_ops *choose(void)
{
    const char *cap = secure_getenv("EPFUSE_VECTOR");
    const bool base_only = cap != NULL && strcmp(cap, "base") == 0;
    const bool avx2_only = cap != NULL && strcmp(cap, "avx2") == 0;
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("avx");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (avx512 && !base_only && !avx2_only) {
        return &epf_vector_avx512;
    }
    return avx2 && !base_only ? &epf_vector_avx2 : &epf_vector_base;
}
#else
static const epf_vector_ops *choose(void)
{
    return &epf_vector_base;
}
#endif

/* Chosen once: packed strips depend on it.  Threads that choose at the same time choose the
 * same. */
const epf_vector_ops *epf_vector_ops_get(void)
{
    static _Atomic(const epf_vector_ops *) chosen;
    const epf_vector_ops *ops = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (ops == NULL) {
        ops = choose();
        atomic_store_explicit(&chosen, ops, memory_order_relaxed);
    }
    return ops;
}

void epf_convert_to_f32(float *dst, const void *src, epf_dtype dtype, int64_t count)
{
    if (dtype == EPF_DTYPE_F32) {
        memcpy(dst, src, (size_t)count * sizeof *dst);
    } else if (dtype == EPF_DTYPE_BF16) {
        epf_vector_ops_get()->bf16_to_f32(dst, src, count);
    } else {
        epf_vector_ops_get()->f16_to_f32(dst, src, count);
    }
}

void epf_convert_from_f32(void *dst, const float *src, epf_dtype dtype, int64_t count)
{
    if (dtype == EPF_DTYPE_F32) {
        memcpy(dst, src, (size_t)count * sizeof *src);
    } else if (dtype == EPF_DTYPE_BF16) {
        epf_vector_ops_get()->bf16_from_f32(dst, src, count);
    } else {
        epf_vector_ops_get()->f16_from_f32(dst, src, count);
    }
}

/* Columns summed at a time: the sum stays in the first cache. */
enum { SUM_COLUMNS = 512 };

static void sum_columns(void *dst, const void *const *rows, const float *factors, int32_t num_rows,
                        epf_dtype dtype, int64_t first, int64_t count)
{
    const int64_t bytes = epf_dtype_bytes((int32_t)dtype);
    float sum[SUM_COLUMNS] = {0};
    float part[SUM_COLUMNS];
    for (int32_t r = 0; r < num_rows; r++) {
        epf_convert_to_f32(part, (const uint8_t *)rows[r] + first * bytes, dtype, count);
        epf_vector_ops_get()->add_f32(sum, part, factors[r], count);
    }
    epf_convert_from_f32((uint8_t *)dst + first * bytes, sum, dtype, count);
}

void epf_sum_rows(void *dst, const void *const *rows, const float *factors, int32_t num_rows,
                  epf_dtype dtype, int64_t count)
{
    if (dtype == EPF_DTYPE_BF16) {
        epf_vector_ops_get()->sum_bf16(dst, rows, factors, num_rows, count);
        return;
    }
    for (int64_t first = 0; first < count; first += SUM_COLUMNS) {
        const int64_t left = count - first;
        sum_columns(dst, rows, factors, num_rows, dtype, first,
                    left < SUM_COLUMNS ? left : SUM_COLUMNS);
    }
}

void epf_swiglu(float *gate, const float *up, float weight, int64_t count)
{
    epf_vector_ops_get()->swiglu(gate, up, weight, count);
}
