/*
 * test_gemm_half: the conversions of core/epf_half.h against their definition, and the bulk ones of
 * every instruction set against those, to the bit.
 */
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/epf_half.h"
#include "cpu/gemm/epf_convert.h"
#include "cpu/gemm/epf_vector.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

/* A format of `mantissa` stored bits whose least normal is 2^least and whose largest exponent is
 * `most`. */
typedef struct format {
    int mantissa, least, most;
} format;
static const format bf16 = {7, -126, 127};
static const format f16 = {10, -14, 15};

/* The nearest value of a format, ties to even, in double; overflow gives infinity. */
static double nearest(double value, format f)
{
    int exponent;
    double unit;
    double rounded;
    if (!isfinite(value) || value == 0) {
        return value;
    }
    (void)frexp(value, &exponent);
    exponent = exponent - 1 < f.least ? f.least : exponent - 1;
    unit = ldexp(1, exponent - f.mantissa);
    rounded =
        nearbyint(value / unit) * unit; /* exact scaling; the default mode rounds ties to even */
    return fabs(rounded) >= ldexp(1, f.most + 1) ? copysign((double)INFINITY, value) : rounded;
}

static void check_one(uint32_t bits)
{
    const float value = epf_f32_from_bits(bits);
    const uint16_t b = epf_bf16_from_f32(value);
    const uint16_t h = epf_f16_from_f32(value);
    if (isnan(value)) {
        CHECK(isnan(epf_bf16_to_f32(b)) && (b & 0x40) != 0, "%08x: bf16 %04x", bits, b);
        CHECK(isnan(epf_f16_to_f32(h)) && (h & 0x200) != 0, "%08x: fp16 %04x", bits, h);
        CHECK(b >> 15 == (int)(bits >> 31) && h >> 15 == (int)(bits >> 31), "%08x: sign of NaN",
              bits);
        return;
    }
    CHECK((double)epf_bf16_to_f32(b) == nearest((double)value, bf16), "%08x: bf16 %04x", bits, b);
    CHECK((double)epf_f16_to_f32(h) == nearest((double)value, f16), "%08x: fp16 %04x", bits, h);
    CHECK(b >> 15 == (int)(bits >> 31) && h >> 15 == (int)(bits >> 31), "%08x: sign", bits);
}

static void check_bulk(const epf_vector_ops *ops, const float *value, int64_t count)
{
    enum { MOST = 4096 };
    uint16_t half[MOST];
    float back[MOST];
    CHECK(count <= MOST, "%lld", (long long)count);
    ops->bf16_from_f32(half, value, count);
    for (int64_t i = 0; i < count; i++) {
        CHECK(half[i] == epf_bf16_from_f32(value[i]), "%s bf16 of %08x: %04x", ops->name,
              epf_f32_bits(value[i]), half[i]);
    }
    ops->f16_from_f32(half, value, count);
    for (int64_t i = 0; i < count; i++) {
        CHECK(half[i] == epf_f16_from_f32(value[i]), "%s fp16 of %08x: %04x, not %04x", ops->name,
              epf_f32_bits(value[i]), half[i], epf_f16_from_f32(value[i]));
    }
    for (int64_t i = 0; i < count; i++) {
        half[i] = (uint16_t)(epf_f32_bits(value[i]) >> 7);
    }
    ops->bf16_to_f32(back, half, count);
    for (int64_t i = 0; i < count; i++) {
        CHECK(epf_f32_bits(back[i]) == epf_f32_bits(epf_bf16_to_f32(half[i])), "%s bf16 %04x",
              ops->name, half[i]);
    }
    ops->f16_to_f32(back, half, count);
    for (int64_t i = 0; i < count; i++) {
        CHECK(epf_f32_bits(back[i]) == epf_f32_bits(epf_f16_to_f32(half[i])), "%s fp16 %04x: %08x",
              ops->name, half[i], epf_f32_bits(back[i]));
    }
}

static void check_sets(const float *value, int64_t count)
{
    check_bulk(&epf_vector_base, value, count);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        check_bulk(&epf_vector_avx2, value, count);
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
        check_bulk(&epf_vector_avx512, value, count);
    }
#endif
}

/* All 65,536 halves go to fp32 and back unchanged, but for signalling NaNs, which become quiet. */
static void check_halves(void)
{
    for (uint32_t half = 0; half < 0x10000; half++) {
        const uint16_t b = epf_bf16_from_f32(epf_bf16_to_f32((uint16_t)half));
        const uint16_t h = epf_f16_from_f32(epf_f16_to_f32((uint16_t)half));
        const bool b_nan = (half & 0x7fff) > 0x7f80;
        const bool h_nan = (half & 0x7fff) > 0x7c00;
        CHECK(b == (b_nan ? half | 0x40 : half), "bf16 %04x came back as %04x", half, b);
        CHECK(h == (h_nan ? half | 0x200 : half), "fp16 %04x came back as %04x", half, h);
    }
}

int main(void)
{
    epf_rng rng = epf_rng_make(1, 1);
    float value[4093]; /* odd, so that every loop has a rest */
    const int64_t count = (int64_t)(sizeof value / sizeof value[0]);
    check_halves();
    for (uint32_t high = 0; high < 0x10000; high++) { /* every tie and its neighbours, for bf16 */
        static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
        for (int i = 0; i < 6; i++) {
            check_one(high << 16 | low[i]);
        }
    }
    for (uint32_t bits = 0; bits < 0x80000; bits++) { /* and for fp16: 13 bits fall away */
        check_one(bits << 13 | 0x1000);
        check_one(bits << 13 | 0x0fff);
        check_one(bits << 13 | 0x1001);
    }
    for (int round = 0; round < 200; round++) {
        for (int64_t i = 0; i < count; i++) {
            uint32_t bits = (uint32_t)epf_rng_next(&rng);
            if (round % 2 == 1) { /* near the range of fp16, where the cases are */
                bits = (bits & 0x807fffffu) | (uint32_t)(127 - 28 + epf_rng_below(&rng, 46)) << 23;
            }
            value[i] = epf_f32_from_bits(bits);
            check_one(bits);
        }
        check_sets(value, count - round % 17);
    }
    return 0;
}
