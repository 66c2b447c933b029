/*
 * epf_swiglu.c: silu(gate) * up * weight on a row of fp32 sums, in a form compilers vectorize.
 *
 * exp(x) = 2^n * exp(r), x = n ln 2 + r, |r| <= ln 2 / 2, with a Taylor polynomial of degree 7 for
 * exp(r): its remainder is below 0.35^8 / 8! = 6e-9, so the error is a few fp32 roundings.
 */
#include "core/epf_half.h"
#include "cpu/epf_worker.h"

/* 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits. */
static const float rounder = 12582912.0f;

static inline float exp_of(float x)
{
    const float clamped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
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

void epf_swiglu_row(float *gate, const float *up, float weight, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const float g = gate[i];
        const float silu = g / (1.0f + exp_of(-g));
        gate[i] = silu * up[i] * weight;
    }
}
