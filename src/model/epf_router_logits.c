/*
 * epf_router_logits.c: one body, compiled for the widest vectors that the machine has.
 *
 * The body is portable C on GCC's vector type; a target attribute lets the compiler use AVX2 or
 * AVX-512 for it.  Multiply and add stay apart (the build sets no contraction, and they are two
 * statements), so all versions give the same bits.
 */
#include "model/epf_router_logits.h"

enum { CHUNK = 64 /* neighbours summed in fp32 */ };

typedef float vector __attribute__((vector_size(EPF_LOGITS_EXPERTS * sizeof(float)), aligned(4)));

__attribute__((always_inline)) static inline void chunk_body(
    const float *panel, const float *const x[EPF_LOGITS_TOKENS], int64_t count, double *logits,
    int64_t row_stride)
{
    vector sums[EPF_LOGITS_TOKENS] = {{0}};
    for (int64_t h = 0; h < count; h++) {
        const vector w = *(const vector *)(panel + h * EPF_LOGITS_EXPERTS);
        for (int t = 0; t < EPF_LOGITS_TOKENS; t++) {
            const vector product = w * x[t][h];
            sums[t] += product;
        }
    }
    for (int t = 0; t < EPF_LOGITS_TOKENS; t++) {
        for (int e = 0; e < EPF_LOGITS_EXPERTS; e++) {
            logits[t * row_stride + e] += (double)sums[t][e];
        }
    }
}

__attribute__((always_inline)) static inline void logits_body(
    const epf_logits_weight *weight, const float *const x[EPF_LOGITS_TOKENS], double *logits)
{
    const int64_t row_stride = weight->num_panels * EPF_LOGITS_EXPERTS;
    for (int64_t i = 0; i < EPF_LOGITS_TOKENS * row_stride; i++) {
        logits[i] = 0.0;
    }
    for (int64_t p = 0; p < weight->num_panels; p++) {
        const float *panel = weight->panels + p * weight->hidden * EPF_LOGITS_EXPERTS;
        for (int64_t h = 0; h < weight->hidden; h += CHUNK) {
            const float *const rows[EPF_LOGITS_TOKENS] = {x[0] + h, x[1] + h, x[2] + h, x[3] + h,
                                                          x[4] + h, x[5] + h, x[6] + h, x[7] + h};
            const int64_t left = weight->hidden - h;
            chunk_body(panel + h * EPF_LOGITS_EXPERTS, rows, left < CHUNK ? left : CHUNK,
                       logits + p * EPF_LOGITS_EXPERTS, row_stride);
        }
    }
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void logits_avx512(
    const epf_logits_weight *weight, const float *const x[EPF_LOGITS_TOKENS], double *logits)
{
    logits_body(weight, x, logits);
}

__attribute__((target("avx2"))) static void logits_avx2(const epf_logits_weight *weight,
                                                        const float *const x[EPF_LOGITS_TOKENS],
                                                        double *logits)
{
    logits_body(weight, x, logits);
}
#endif

static void logits_plain(const epf_logits_weight *weight, const float *const x[EPF_LOGITS_TOKENS],
                         double *logits)
{
    logits_body(weight, x, logits);
}

/* AVX-512 comes after AVX2: no machine has it alone. */
int epf_router_logits_num_versions(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return __builtin_cpu_supports("avx512f") ? 3 : 2;
    }
#endif
    return 1;
}

void epf_router_logits_version(int version, const epf_logits_weight *weight,
                               const float *const x[EPF_LOGITS_TOKENS], double *logits)
{
    switch (version) {
#if defined(__x86_64__)
    case 2:
        logits_avx512(weight, x, logits);
        break;
    case 1:
        logits_avx2(weight, x, logits);
        break;
#endif
    default:
        logits_plain(weight, x, logits);
        break;
    }
}

void epf_router_logits(const epf_logits_weight *weight, const float *const x[EPF_LOGITS_TOKENS],
                       double *logits)
{
    epf_router_logits_version(epf_router_logits_num_versions() - 1, weight, x, logits);
}
