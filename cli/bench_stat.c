/* bench_stat.c: what many samples of the same piece come to. */
#include <math.h>
#include <stdlib.h>

#include "bench.h"

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

double bench_quantile(double *values, int32_t count, double p)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return values[(int32_t)(p * (count - 1) + 0.5)];
}

void bench_slowest_each(double *const *samples, int32_t num_ranks, int32_t count, double *worst)
{
    for (int32_t i = 0; i < count; i++) {
        worst[i] = 0.0;
        for (int32_t r = 0; r < num_ranks; r++) {
            worst[i] = samples[r][i] > worst[i] ? samples[r][i] : worst[i];
        }
    }
}

double bench_slowest(double *const *samples, int32_t num_ranks, int32_t repeat, double p)
{
    double worst[BENCH_MAX_SAMPLES];
    bench_slowest_each(samples, num_ranks, repeat, worst);
    return bench_quantile(worst, repeat, p);
}

bench_ratio bench_paired_ratio(const double *above, const double *below, int32_t count)
{
    double ratio[BENCH_MAX_SAMPLES];
    const double reach = 0.98 * sqrt((double)count);
    const int32_t low = (int32_t)floor(0.5 * count - reach);
    const int32_t high = (int32_t)ceil(0.5 * count + reach);
    bench_ratio r;
    for (int32_t i = 0; i < count; i++) {
        ratio[i] = above[i] / below[i];
    }
    r.median = bench_quantile(ratio, count, 0.5);
    r.low = ratio[low < 0 ? 0 : low];
    r.high = ratio[high > count - 1 ? count - 1 : high];
    return r;
}
