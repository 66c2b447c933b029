/* cli_cost.c: FLOP, bytes and floors from shapes. */
#include "cli_cost.h"

#include <math.h>

#include "core/epf_dtype.h"

const cli_rates cli_rates_h100_spec = {"H100 SXM, datasheet", 989.4e12, 3.35e12, 450e9};
/* 8192^3 by cuBLAS 766 to 798, a copy 3.0, the best public all-to-all 320 to 380. */
const cli_rates cli_rates_h100_sustained = {"H100 SXM, sustained", 782e12, 3.0e12, 350e9};

cli_work cli_work_uniform(const cli_shape *s, double tokens)
{
    const int32_t local = s->num_experts / s->num_ranks;
    const double others = s->num_ranks - 1;
    double none = 1; /* chance that no choice of a token falls on one given rank */
    double idle;     /* chance that an expert gets no row                        */

    for (int32_t k = 0; k < s->topk; k++) {
        none *= (double)(s->num_experts - local - k) / (double)(s->num_experts - k);
        none = none > 0 ? none : 0;
    }
    idle = pow(1.0 - (double)s->topk / s->num_experts, tokens * s->num_ranks);
    return (cli_work){.tokens = tokens,
                      .rows = tokens * s->topk,
                      .experts = local * (1 - idle),
                      .sent = tokens * others * (1 - none),
                      .slots = tokens * s->topk * others / s->num_ranks};
}

cli_cost cli_cost_dispatch(const cli_shape *s, const cli_work *w)
{
    const double bytes = epf_dtype_bytes(s->dtype);
    const double h = (double)s->hidden, n = (double)s->gemm1_columns, i = (double)s->intermediate;
    return (cli_cost){.flop = 2 * w->rows * n * h,
                      .memory_bytes =
                          bytes * (w->experts * n * h + w->tokens * h + w->rows * (h + i)),
                      .link_bytes = bytes * w->sent * h};
}

cli_cost cli_cost_combine(const cli_shape *s, const cli_work *w)
{
    const double bytes = epf_dtype_bytes(s->dtype);
    const double h = (double)s->hidden, i = (double)s->intermediate;
    return (cli_cost){.flop = 2 * w->rows * i * h,
                      .memory_bytes =
                          bytes * (w->experts * i * h + w->rows * (i + h) + w->tokens * h),
                      .link_bytes = bytes * w->slots * h};
}

double cli_floor(const cli_cost *cost, const cli_rates *rates, const char **limit)
{
    const double seconds[] = {
        cost->flop / rates->flop_per_s, cost->memory_bytes / rates->memory_bytes_per_s,
        rates->link_bytes_per_s > 0 ? cost->link_bytes / rates->link_bytes_per_s : 0};
    static const char *const names[] = {"FLOP", "memory", "links"};
    int most = 0;

    for (int i = 1; i < 3; i++) {
        most = seconds[i] > seconds[most] ? i : most;
    }
    if (limit != NULL) {
        *limit = names[most];
    }
    return seconds[most];
}

double cli_floor_in_turns(const cli_cost *cost, const cli_rates *rates)
{
    const cli_cost local = {cost->flop, cost->memory_bytes, 0};
    const cli_cost link = {0, 0, cost->link_bytes};
    return cli_floor(&local, rates, NULL) + cli_floor(&link, rates, NULL);
}
