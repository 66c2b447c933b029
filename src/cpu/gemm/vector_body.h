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

/* Loads and stores need the alignment of a float only. */
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

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

static void add_bf16(float *sum, const uint16_t *src, float factor, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        sum[i] += factor * epf_bf16_to_f32(src[i]);
    }
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
    .add_bf16 = add_bf16,
    .add_f32 = add_f32,
    .swiglu = swiglu,
};
