/*
 * test_ref_errors: the reference refuses sizes that it cannot have, and says so when any of its allocations
 * fails; a test that compares with it would else compare with nonsense.
 */
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "support/epf_check.h"
#include "support/epf_data.h"

enum { MOST_ALLOCATIONS = 1000 };

static void check_sizes(const epf_data *d)
{
    static const struct {
        const char *text;
        int32_t num_ranks, num_experts, num_topk, max_tokens, block_m, num_tokens;
    } bad[] = {
        {"num_ranks is 0", 0, 4, 2, 3, 8, 3},   {"num_ranks is -1", -1, 4, 2, 3, 8, 3},
        {"num_experts is 0", 2, 0, 2, 3, 8, 3}, {"num_experts is 5", 2, 5, 2, 3, 8, 3},
        {"num_topk is 0", 2, 4, 0, 3, 8, 3},    {"max_tokens is -1", 2, 4, 2, -1, 8, 3},
        {"block_m is 0", 2, 4, 2, 3, 0, 3},     {"32-bit", 2, 4, 2, INT32_MAX, 8, 3},
        {"num_tokens is 4", 2, 4, 2, 3, 8, 4},  {"num_tokens is -1", 2, 4, 2, 3, 8, -1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const int32_t num_tokens[] = {bad[i].num_tokens, 3};
        const epf_ref_routing routing = {
            .num_ranks = bad[i].num_ranks,
            .num_experts = bad[i].num_experts,
            .num_topk = bad[i].num_topk,
            .max_tokens = bad[i].max_tokens,
            .block_m = bad[i].block_m,
            .num_tokens = num_tokens,
            .topk_idx = (const int32_t *const *)d->topk_idx,
        };
        epf_ref_route route;
        const epf_status st = epf_ref_route_make(&routing, &route);
        CHECK(st == EPF_E_INVALID && strstr(epf_error_text(), bad[i].text) != NULL,
              "%s: status %d: %s", bad[i].text, (int)st, epf_error_text());
    }
}

/* One of everything that the reference offers. */
static epf_status run_all(const epf_data *d, const epf_ref_routing *routing)
{
    epf_ref_route route;
    epf_ref_forward forward[EPF_PROBLEM_MAX_RANKS];
    epf_ref_backward backward[EPF_PROBLEM_MAX_RANKS];
    const int32_t num_ranks = d->problem.num_ranks;
    const epf_ref_layer layer = {.route = &route,
                                 .hidden = d->problem.hidden,
                                 .intermediate = d->problem.num_columns / 2,
                                 .mode = EPF_REF_EXACT,
                                 .dtype = d->problem.dtype,
                                 .weight_dtype = d->problem.weight_dtype,
                                 .input = d->tokens,
                                 .weights = d->weights,
                                 .w13 = d->b1,
                                 .w2 = d->b2};
    epf_status st = epf_ref_route_make(routing, &route);

    if (st != EPF_OK) {
        return st;
    }
    st = epf_ref_layer_forward(&layer, forward);
    if (st == EPF_OK) {
        st = epf_ref_layer_backward(&layer, forward, d->tokens, backward);
        epf_ref_backward_free(backward, num_ranks);
    }
    epf_ref_forward_free(forward, num_ranks);
    epf_ref_route_free(&route);
    return st;
}

static int32_t check_allocations(const epf_data *d, bool local, bool full)
{
    const epf_ref_routing routing = {
        .num_ranks = d->problem.num_ranks,
        .num_experts = d->problem.num_experts,
        .num_topk = d->problem.num_topk,
        .max_tokens = d->problem.max_tokens,
        .block_m = d->problem.block_m,
        .num_tokens = d->num_tokens,
        .topk_idx = (const int32_t *const *)d->topk_idx,
        .local_scatter = local ? (const int32_t *const *)d->local_scatter : NULL,
        .full_scatter = full ? (const int32_t *const *)d->full_scatter : NULL,
    };
    for (int32_t n = 1; n < MOST_ALLOCATIONS; n++) {
        epf_status st;
        bool was_asked;
        epf_alloc_fail_at((uint64_t)n);
        st = run_all(d, &routing);
        was_asked = epf_alloc_count() >= (uint64_t)n;
        epf_alloc_fail_at(0);
        CHECK(st == (was_asked ? EPF_E_NO_MEMORY : EPF_OK), "allocation %d: status %d: %s", n,
              (int)st, epf_error_text());
        if (!was_asked) {
            return n - 1;
        }
    }
    CHECK(false, "no end of allocations");
    return 0;
}

int main(void)
{
    const epf_problem problem = epf_problem_of("W2E4K2T3H8N16M8/uniform/seed7/normal");
    epf_data *data = epf_data_make(&problem);
    int32_t num_failed;

    check_sizes(data);
    num_failed = check_allocations(data, false, false);
    num_failed += check_allocations(data, true, false) + check_allocations(data, false, true);
    epf_data_free(data);
    printf("%d allocations failed in turn\n", num_failed);
    return 0;
}
