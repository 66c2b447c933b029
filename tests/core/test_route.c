/*
 * test_route: counts to rows and carriers, against the plainest statement of each: rows of a rank are a
 * permutation-free run in (local expert, source, slot) order, and a token has one carrier per rank.
 */
#include "core/epf_route.h"
#include "core_check.h"

enum { MAX_RANKS = 5, MAX_LOCAL = 4, MAX_TOPK = 6, MAX_EXPERTS = MAX_RANKS * MAX_LOCAL };

static void check_rows(uint64_t seed)
{
    uint64_t state = seed;
    const int32_t num_ranks = core_pick(&state, 1, MAX_RANKS);
    const int32_t num_local = core_pick(&state, 1, MAX_LOCAL);
    const int32_t num_experts = num_ranks * num_local;
    int32_t counts[MAX_RANKS * MAX_EXPERTS], tokens[MAX_EXPERTS], offset[MAX_EXPERTS * MAX_RANKS];
    int32_t recv[MAX_RANKS];
    const epf_route_tables tables = {num_ranks, num_local, counts, tokens, offset, recv};
    for (int32_t i = 0; i < num_ranks * num_experts; i++) {
        counts[i] = core_pick(&state, 0, 2) == 0 ? core_pick(&state, 0, 1000) : 0;
    }
    CHECK(epf_route_fill(&tables), "overflow");
    for (int32_t r = 0; r < num_ranks; r++) {
        int32_t next = 0;
        for (int32_t j = 0; j < num_local; j++) {
            const int32_t first = next;
            for (int32_t k = 0; k < num_ranks; k++) {
                CHECK(offset[(r * num_local + j) * num_ranks + k] == next,
                      "rank %d expert %d from %d", r, j, k);
                next += counts[k * num_experts + r * num_local + j];
            }
            CHECK(tokens[r * num_local + j] == next - first, "rows of rank %d expert %d", r, j);
        }
        CHECK(recv[r] == next, "rows of rank %d", r);
    }
}

static void check_carriers(uint64_t seed)
{
    uint64_t state = seed;
    const int32_t num_local = core_pick(&state, 1, MAX_LOCAL);
    const int32_t num_experts = num_local * core_pick(&state, 1, MAX_RANKS);
    const int32_t topk = core_pick(&state, 1, MAX_TOPK);
    int32_t ids[MAX_TOPK];
    for (int32_t k = 0; k < topk; k++) {
        ids[k] = core_pick(&state, -1, num_experts);
    }
    for (int32_t k = 0; k < topk; k++) {
        int32_t carrier;
        if (epf_route_is_dropped(ids[k], num_experts)) {
            continue;
        }
        carrier = epf_route_carrier(ids, topk, num_experts, num_local, k);
        CHECK(ids[carrier] / num_local == ids[k] / num_local, "carrier on another rank");
        for (int32_t other = 0; other < topk; other++) {
            if (!epf_route_is_dropped(ids[other], num_experts) &&
                ids[other] / num_local == ids[k] / num_local) {
                CHECK(epf_route_carrier(ids, topk, num_experts, num_local, other) == carrier,
                      "two carriers for one rank");
                CHECK(ids[carrier] < ids[other] || (ids[carrier] == ids[other] && carrier <= other),
                      "slot %d goes before its carrier %d", other, carrier);
            }
        }
    }
}

int main(void)
{
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        check_rows(seed);
        check_carriers(seed);
    }
    CHECK(epf_route_is_dropped(-1, 8) && epf_route_is_dropped(8, 8), "both ids drop");
    CHECK(!epf_route_is_valid(9, 8) && !epf_route_is_valid(-2, 8), "ids out of range");
    return 0;
}
