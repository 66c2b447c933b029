/*
 * vector_body.h: the body of vector_*.c.  Included once per file, which defines before
 *
 *   VECTOR_OPS    name of the table         VECTOR_NAME   its text
 *   LANES         floats of a vector        ROWS          rows of the register tile
 *
 * The register tile is ROWS x 2 vectors.  Every element of C is one chain of multiply-adds in
 * ascending k that starts from C or zero, whatever the tile it falls into: a row's bits do not
 * depend on m.  These files are compiled with -ffp-contract=fast, so a chain is fused where the set
 * has FMA, and then it is fused in every tile size.
 */
#include <string.h>

#include "core/epf_half.h"
#include "cpu/gemm/epf_vector.h"

enum { STRIP_N = 2 * LANES };

/* Loads and stores need the alignment of an element only. */
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t vec_u32 __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t vec_u16 __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

static void bf16_to_f32(float *dst, const uint16_t *src, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        dst[i] = epf_bf16_to_f32(src[i]);
    }
}

/* epf_bf16_from_f32 without a branch, so that it becomes vectors. */
static void bf16_from_f32(uint16_t *dst, const float *src, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = epf_f32_bits(src[i]);
        const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const uint32_t quiet = (bits >> 16) | 0x40u;
        dst[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
    }
}

#if defined(__F16C__)
#include <immintrin.h>

static void f16_to_f32(float *dst, const uint16_t *src, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(src + i));
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(half));
    }
    for (; i < count; i++) {
        dst[i] = epf_f16_to_f32(src[i]);
    }
}

static void f16_from_f32(uint16_t *dst, const float *src, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(dst + i), half);
    }
    for (; i < count; i++) {
        dst[i] = epf_f16_from_f32(src[i]);
    }
}
#else
static void f16_to_f32(float *dst, const uint16_t *src, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        dst[i] = epf_f16_to_f32(src[i]);
    }
}

static void f16_from_f32(uint16_t *dst, const float *src, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        dst[i] = epf_f16_from_f32(src[i]);
    }
}
#endif

/* `rows` is a constant wherever this is inlined, so that acc lives in registers. */
static inline __attribute__((always_inline)) void tile(const epf_vector_product *p, const float *a,
                                                       const float *strip, float *c, int64_t ldc,
                                                       const int rows)
{
    vec acc[ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        const vec zero = {0};
        acc[i][0] = p->accumulate ? *(const vec *)(c + i * ldc) : zero;
        acc[i][1] = p->accumulate ? *(const vec *)(c + i * ldc + LANES) : zero;
    }
    for (int32_t k = 0; k < p->k; k++) {
        const vec b0 = *(const vec *)(strip + (int64_t)k * STRIP_N);
        const vec b1 = *(const vec *)(strip + (int64_t)k * STRIP_N + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            const float value = a[i * p->lda + k];
            acc[i][0] += value * b0;
            acc[i][1] += value * b1;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        *(vec *)(c + i * ldc) = acc[i][0];
        *(vec *)(c + i * ldc + LANES) = acc[i][1];
    }
}

#define TILE_CASE(r)                                      \
    case (r):                                             \
        if ((r) <= ROWS) {                                \
            tile(p, a, strip, c, ldc, r <= ROWS ? r : 1); \
        }                                                 \
        break;

static void tile_any(const epf_vector_product *p, const float *a, const float *strip, float *c,
                     int64_t ldc, int rows)
{
    switch (rows) {
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
        TILE_CASE(4)
        TILE_CASE(5)
        TILE_CASE(6)
        TILE_CASE(7)
        TILE_CASE(8)
        TILE_CASE(9)
        TILE_CASE(10)
        TILE_CASE(11)
        TILE_CASE(12)
    default:
        break;
    }
}

/* A strip narrower than STRIP_N goes through a full tile beside C, so that C's neighbours are
 * not touched. */
static void tile_narrow(const epf_vector_product *p, const float *a, const float *strip, float *c,
                        int columns, int rows)
{
    float full[ROWS * STRIP_N] = {0};
    for (int i = 0; i < rows && p->accumulate; i++) {
        memcpy(full + i * STRIP_N, c + i * p->ldc, (size_t)columns * sizeof(float));
    }
    tile_any(p, a, strip, full, STRIP_N, rows);
    for (int i = 0; i < rows; i++) {
        memcpy(c + i * p->ldc, full + i * STRIP_N, (size_t)columns * sizeof(float));
    }
}

/* Strip outside, rows inside: a strip of 256 steps of k stays in the first-level cache. */
static void multiply(const epf_vector_product *p)
{
    for (int32_t n0 = 0; n0 < p->n; n0 += STRIP_N) {
        const float *strip = p->strips + (int64_t)n0 * p->k;
        const int columns = p->n - n0 < STRIP_N ? p->n - n0 : STRIP_N;
        for (int32_t m0 = 0; m0 < p->m; m0 += ROWS) {
            const int rows = p->m - m0 < ROWS ? p->m - m0 : ROWS;
            const float *a = p->a + (int64_t)m0 * p->lda;
            float *c = p->c + (int64_t)m0 * p->ldc + n0;
            if (columns == STRIP_N) {
                tile_any(p, a, strip, c, p->ldc, rows);
            } else {
                tile_narrow(p, a, strip, c, columns, rows);
            }
        }
    }
}

static inline vec load_bf16(const uint16_t *src)
{
    return (vec)(__builtin_convertvector(*(const vec_u16 *)src, vec_u32) << 16);
}

/* epf_bf16_from_f32, as in bf16_from_f32. */
static inline void store_bf16(uint16_t *dst, vec value)
{
    const vec_u32 bits = (vec_u32)value;
    const vec_u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const vec_u32 quiet = (bits >> 16) | 0x40u;
    const vec_u32 is_nan = (vec_u32)((bits & 0x7fffffffu) > 0x7f800000u);
    *(vec_u16 *)dst = __builtin_convertvector((quiet & is_nan) | (rounded & ~is_nan), vec_u16);
}

/* The sums of SUM_VECTORS vectors of columns stay in registers while the rows go by: memory is read once and
 * written once, and each row is a stream that the processor fetches ahead. */
enum { SUM_VECTORS = 4, SUM_WIDTH = SUM_VECTORS * LANES };

static void sum_bf16_tail(uint16_t *dst, const void *const *rows, const float *factors,
                          int32_t num_rows, int64_t first, int64_t count)
{
    for (int64_t i = first; i < count; i++) {
        float sum = 0.0f;
        for (int32_t r = 0; r < num_rows; r++) {
            sum += factors[r] * epf_bf16_to_f32(((const uint16_t *)rows[r])[i]);
        }
        bf16_from_f32(dst + i, &sum, 1);
    }
}

static void sum_bf16(uint16_t *dst, const void *const *rows, const float *factors, int32_t num_rows,
                     int64_t count)
{
    int64_t i = 0;
    for (; i + SUM_WIDTH <= count; i += SUM_WIDTH) {
        vec sum[SUM_VECTORS] = {{0}};
        for (int32_t r = 0; r < num_rows; r++) {
            const uint16_t *const from = (const uint16_t *)rows[r] + i;
#pragma GCC unroll 4
            for (int v = 0; v < SUM_VECTORS; v++) {
                sum[v] += factors[r] * load_bf16(from + v * LANES);
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < SUM_VECTORS; v++) {
            store_bf16(dst + i + v * LANES, sum[v]);
        }
    }
    sum_bf16_tail(dst, rows, factors, num_rows, i, count);
}

static void add_f32(float *sum, const float *src, float factor, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        sum[i] += factor * src[i];
    }
}

/*
 * exp(x) = 2^n exp(r), x = n ln 2 + r, |r| <= ln 2 / 2, with a Taylor polynomial of degree 7 for
 * exp(r): its remainder is below 0.35^8 / 8! = 6e-9, so the error is a few fp32 roundings.  x is
 * cut to -87 .. 88.
 */
static inline float exp_of(float x)
{
    const float rounder =
        12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    const float low = x < -87.0f ? -87.0f : x;
    const float clamped = low > 88.0f ? 88.0f : low;
    const float shifted = clamped * 1.44269504f + rounder;
    const float n = shifted - rounder;
    /* ln 2 in two parts, so that n ln 2 is taken away almost exactly */
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    /* A NaN leaves n = 0 there and stays a NaN. */
    return epf_f32_from_bits(epf_f32_bits(p) + ((epf_f32_bits(shifted) - 0x4b400000u) << 23));
}

static void swiglu(float *gate, const float *up, float weight, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        gate[i] = gate[i] / (1.0f + exp_of(-gate[i])) * up[i] * weight;
    }
}

const epf_vector_ops VECTOR_OPS = {
    .name = VECTOR_NAME,
    .strip_n = STRIP_N,
    .bf16_to_f32 = bf16_to_f32,
    .bf16_from_f32 = bf16_from_f32,
    .f16_to_f32 = f16_to_f32,
    .f16_from_f32 = f16_from_f32,
    .multiply = multiply,
    .sum_bf16 = sum_bf16,
    .add_f32 = add_f32,
    .swiglu = swiglu,
};
