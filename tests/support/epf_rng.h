/* epf_rng.h: splitmix64; a test is replayed from its seed, so that no other source of chance exists. */
#ifndef EPF_TEST_RNG_H
#define EPF_TEST_RNG_H

#include <math.h>
#include <stdint.h>

typedef struct epf_rng {
    uint64_t state;
} epf_rng;

static inline uint64_t epf_rng_next(epf_rng *rng)
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A generator of its own for each (seed, stream). */
static inline epf_rng epf_rng_make(uint64_t seed, uint64_t stream)
{
    epf_rng rng = {seed ^ (stream * 0xd1342543de82ef95u)};
    (void)epf_rng_next(&rng);
    return rng;
}

/* 0 .. count - 1; the bias of the remainder is below 2^-32 for the counts tests use. */
static inline int32_t epf_rng_below(epf_rng *rng, int32_t count)
{
    return (int32_t)((epf_rng_next(rng) >> 16) % (uint64_t)count);
}

/* low .. high, both included. */
static inline int32_t epf_rng_range(epf_rng *rng, int32_t low, int32_t high)
{
    return low + epf_rng_below(rng, high - low + 1);
}

/* [0, 1) */
static inline double epf_rng_uniform(epf_rng *rng)
{
    return (double)(epf_rng_next(rng) >> 11) * 0x1p-53;
}

/* Mean 0, variance 1. */
static inline double epf_rng_normal(epf_rng *rng)
{
    const double radius = sqrt(-2 * log(1 - epf_rng_uniform(rng)));
    return radius * cos(6.283185307179586 * epf_rng_uniform(rng));
}

#endif
