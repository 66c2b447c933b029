/* core_check.h: CHECK for the tests of src/core, and a generator of numbers. */
#ifndef CORE_CHECK_H
#define CORE_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition, ...)                                      \
    do {                                                           \
        if (!(condition)) {                                        \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            printf(__VA_ARGS__);                                   \
            printf("\n");                                          \
            exit(1);                                               \
        }                                                          \
    } while (0)

/* SplitMix64 (Steele, Lea, Flood, 2014). */
static inline uint64_t core_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline int32_t core_pick(uint64_t *state, int32_t low, int32_t high)
{
    return low + (int32_t)(core_random(state) % (uint64_t)(high - low + 1));
}

#endif
