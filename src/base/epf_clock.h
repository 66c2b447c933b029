/* epf_clock.h: monotonic time in nanoseconds; one clock for waits, profiles and benches. */
#ifndef EPF_CLOCK_H
#define EPF_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t epf_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
