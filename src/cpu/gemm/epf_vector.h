/*
 * epf_vector.h: the few loops that are worth an instruction set of their own.
 *
 * vector_body.h holds them once; vector_base.c, vector_avx2.c and vector_avx512.c compile it for
 * one set each, and epf_vector_ops_get() takes the best that the processor has.
 */
#ifndef EPF_VECTOR_H
#define EPF_VECTOR_H

#include "core/epf_dtype.h"

/* c [m, n] (=) or (+=) a [m, k] x strips; strips are [ceil(n / strip_n)][k][strip_n], zero
 * padded. */
typedef struct epf_vector_product {
    int32_t m;
    int32_t n;
    int32_t k;
    bool accumulate;
    const float *a;
    int64_t lda;
    const float *strips; /* 64-byte aligned */
    float *c;
    int64_t ldc;
} epf_vector_product;

typedef struct epf_vector_ops {
    const char *name;
    int32_t strip_n; /* columns of a strip */
    void (*bf16_to_f32)(float *dst, const uint16_t *src, int64_t count);
    void (*bf16_from_f32)(uint16_t *dst, const float *src, int64_t count);
    void (*f16_to_f32)(float *dst, const uint16_t *src, int64_t count);
    void (*f16_from_f32)(uint16_t *dst, const float *src, int64_t count);
    void (*multiply)(const epf_vector_product *product);
    void (*sum_bf16)(uint16_t *dst, const void *const *rows, const float *factors, int32_t num_rows,
                     int64_t count);
    void (*add_f32)(float *sum, const float *src, float factor, int64_t count);
    void (*swiglu)(float *gate, const float *up, float weight, int64_t count);
} epf_vector_ops;

/* Never NULL.  EPFUSE_VECTOR=base|avx2 caps the choice, for tests. */
const epf_vector_ops *epf_vector_ops_get(void);

extern const epf_vector_ops epf_vector_base;
#if defined(__x86_64__)
extern const epf_vector_ops epf_vector_avx2;
extern const epf_vector_ops epf_vector_avx512;
#endif

#endif
