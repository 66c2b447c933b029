/*
 * epf_convert.h: many elements between a token type and fp32, with the machine's widest vectors.
 * The bits are those of core/epf_half.h.
 */
#ifndef EPF_CONVERT_H
#define EPF_CONVERT_H

#include "core/epf_dtype.h"

/* dst[i] = src[i] for i in [0, count); dtype is the type of src: F32, BF16 or F16.  No overlap. */
void epf_convert_to_f32(float *dst, const void *src, epf_dtype dtype, int64_t count);

/* dst[i] = src[i], rounded once; dtype is the type of dst: F32, BF16 or F16.  No overlap. */
void epf_convert_from_f32(void *dst, const float *src, epf_dtype dtype, int64_t count);

/* dst[i] = sum over r in [0, num_rows) of factors[r] * rows[r][i], in fp32 and in this order from zero,
 * rounded once.  A multiply-add is one rounding or two: with factors of 1 the bits are the same.  dtype is
 * the type of dst and of the rows.  No overlap. */
void epf_sum_rows(void *dst, const void *const *rows, const float *factors, int32_t num_rows,
                  epf_dtype dtype, int64_t count);

/* gate[i] = silu(gate[i]) * up[i] * weight, silu(x) = x / (1 + exp(-x)).  No overlap. */
void epf_swiglu(float *gate, const float *up, float weight, int64_t count);

#endif
