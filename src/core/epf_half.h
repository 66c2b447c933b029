/*
 * epf_half.h: bf16 and fp16 to and from fp32, the one rounding all backends share.
 *
 * Rounding is to nearest, ties to even.  Overflow gives infinity; a NaN stays a NaN, keeps its sign
 * and the top of its payload, and comes out quiet.  Subnormals are kept.  Integer arithmetic only,
 * so the result depends neither on the rounding mode nor on flush-to-zero.
 */
#ifndef EPF_HALF_H
#define EPF_HALF_H

#include <string.h>

#include "core/epf_base.h"

EPF_HD uint32_t epf_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

EPF_HD float epf_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

EPF_HD float epf_bf16_to_f32(uint16_t half)
{
    return epf_f32_from_bits((uint32_t)half << 16);
}

EPF_HD uint16_t epf_bf16_from_f32(float value)
{
    const uint32_t bits = epf_f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u);
    }
    /* Half of the lowest kept bit, less one unless that bit is set: a tie goes to even. */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

EPF_HD float epf_f16_to_f32(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = ((uint32_t)half >> 10) & 0x1fu;
    uint32_t mantissa = (uint32_t)half & 0x3ffu;
    uint32_t shift = 0;
    if (exponent == 0x1fu) { /* infinity, or NaN made quiet */
        return epf_f32_from_bits(sign | 0x7f800000u | (mantissa << 13) |
                                 (mantissa != 0 ? 0x400000u : 0u));
    }
    if (exponent != 0) { /* the biases differ by 127 - 15 */
        return epf_f32_from_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    }
    if (mantissa == 0) {
        return epf_f32_from_bits(sign);
    }
    while ((mantissa & 0x400u) == 0) { /* subnormal: at most 10 steps to a leading one */
        mantissa <<= 1;
        shift++;
    }
    return epf_f32_from_bits(sign | ((113u - shift) << 23) | ((mantissa & 0x3ffu) << 13));
}

EPF_HD uint16_t epf_f16_from_f32(float value)
{
    const uint32_t bits = epf_f32_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t mantissa;
    uint32_t shift;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u | ((bits >> 13) & 0x3ffu));
    }
    if (magnitude >= 0x477ff000u) { /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude >= 0x38800000u) { /* normal: 2^-14 and above; a carry moves into the exponent */
        const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
        return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
    }
    if (magnitude <= 0x33000000u) { /* 2^-25, half of the least subnormal, ties to zero */
        return (uint16_t)sign;
    }
    mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    shift = 126u - (magnitude >> 23); /* 14 .. 24 bits below the unit 2^-24 */
    mantissa += (1u << (shift - 1u)) - 1u + ((mantissa >> shift) & 1u);
    return (uint16_t)(sign | (mantissa >> shift));
}

#endif
