/*
 * test_ref_route: the reference routing on a case worked out by hand, with and without scatter indices,
 * its refusals, and the facts that must hold for every routing of the zoo.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/epf_check.h"
#include "support/epf_data.h"

/* W = 2, E = 4 (experts 0, 1 on rank 0; 2, 3 on rank 1), K = 2, T_max = 3. */
static const int32_t kIds0[] = {3, 0, 0, 2, 1, 4}; /* three tokens; the last slot is dropped  */
static const int32_t kIds1[] = {0, 3, -1, 3};      /* two tokens; the third slot is dropped   */
static const int32_t kTokens[] = {3, 2};
static const int32_t *const kIds[] = {kIds0, kIds1};

static epf_ref_routing hand_routing(void)
{
    const epf_ref_routing routing = {.num_ranks = 2,
                                     .num_experts = 4,
                                     .num_topk = 2,
                                     .max_tokens = 3,
                                     .block_m = 2,
                                     .num_tokens = kTokens,
                                     .topk_idx = kIds};
    return routing;
}

#define CHECK_ARRAY(got, ...)                                                             \
    do {                                                                                  \
        static const int32_t want[] = {__VA_ARGS__};                                      \
        for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {                       \
            CHECK((got)[i] == want[i], "entry %zu is %d, want %d", i, (got)[i], want[i]); \
        }                                                                                 \
    } while (0)

static void test_by_hand(void)
{
    const epf_ref_routing routing = hand_routing();
    epf_ref_route route;

    CHECK_OK(epf_ref_route_make(&routing, &route));
    /* Rank 0 holds expert 0: slots 1, 2 of rank 0, slot 0 of rank 1; expert 1: slot 4 of rank 0. */
    CHECK_ARRAY(route.recv_buf_tokens_per_expert, 3, 1, 1, 3);
    CHECK_ARRAY(route.recv_buf_offset_per_expert, 0, 2, 3, 4, 0, 1, 1, 2);
    CHECK_ARRAY(route.num_recv_tokens_per_rank, 4, 4);
    CHECK_ARRAY(route.num_input_tokens_per_rank, 3, 2);
    CHECK_ARRAY(route.ranks[0].token_dst_scatter_idx, 1, 0, 1, 0, 3, -1);
    CHECK_ARRAY(route.ranks[1].token_dst_scatter_idx, 2, 2, -1, 3, -1, -1);
    CHECK_ARRAY(route.ranks[0].topk_indices, 3, 0, 0, 2, 1, 4);
    CHECK_ARRAY(route.ranks[1].topk_indices, 0, 3, -1, 3, -1, -1);
    /* Local expert 0 of both ranks first (experts 0, then 2), then local expert 1 (1, then 3). */
    CHECK_ARRAY(route.ranks[0].token_sort_indices, 1, 2, 3, 4, 0, -1);
    CHECK_ARRAY(route.ranks[1].token_sort_indices, 0, 1, 3, -1, -1, -1);
    CHECK_ARRAY(route.ranks[0].reversed_token_scatter_idx, 1, 0, 2, 0, 0, 1, 4, 0, -1, -1);
    CHECK_ARRAY(route.ranks[1].reversed_token_scatter_idx, 3, 0, 0, 0, 1, 1, 3, 1, -1, -1);
    /* Tiles of two rows: rank 0 has two of expert 0 and one of expert 1. */
    CHECK(route.ranks[0].num_tiles_total == 3, "%d tiles", route.ranks[0].num_tiles_total);
    CHECK_ARRAY(route.ranks[0].split_size, 3, 1);
    CHECK_ARRAY(route.ranks[0].split_size_cum_per_expert, 0, 3);
    CHECK_ARRAY(route.ranks[0].expert_tile_offset, 0, 2);
    CHECK_ARRAY(route.ranks[0].expert_ids, 0, 0, 1);
    CHECK_ARRAY(route.ranks[0].split_size_cum, 0, 0, 3);
    CHECK_ARRAY(route.ranks[0].tile_num, 2, 2, 1);
    CHECK_ARRAY(route.ranks[0].tile_num_cum, 2, 2, 3);
    epf_ref_route_free(&route);
}

static void test_scatter(void)
{
    /* Expert 0 of rank 0 takes slot 2 before slot 1; the global rows do the same on rank 1's expert 3. */
    static const int32_t local0[] = {4, 1, 0, 3, 2, 5};
    static const int32_t local1[] = {1, 2, 0, 3};
    static const int32_t full0[] = {5, 0, 1, 4, 3, -7};
    static const int32_t full1[] = {2, 7, 99, 6};
    static const int32_t twice1[] = {2, 7, 99, 7};
    const int32_t *const local[] = {local0, local1};
    const int32_t *full[] = {full0, full1};
    epf_ref_routing routing = hand_routing();
    epf_ref_route route;

    routing.local_scatter = local;
    CHECK_OK(epf_ref_route_make(&routing, &route));
    CHECK_ARRAY(route.ranks[0].token_dst_scatter_idx, 1, 1, 0, 0, 3, -1);
    CHECK_ARRAY(route.ranks[1].token_dst_scatter_idx, 2, 2, -1, 3);
    epf_ref_route_free(&route);
    routing.local_scatter = NULL;
    routing.full_scatter = full;
    CHECK_OK(epf_ref_route_make(&routing, &route));
    CHECK_ARRAY(route.ranks[0].token_dst_scatter_idx, 1, 0, 1, 0, 3, -1);
    CHECK_ARRAY(route.ranks[1].token_dst_scatter_idx, 2, 3, -1, 2);
    epf_ref_route_free(&route);
    full[1] = twice1;
    CHECK(epf_ref_route_make(&routing, &route) == EPF_E_INVALID, "a row given twice was accepted");
}

static void test_refusals(void)
{
    static const int32_t bad0[] = {3, 0, 0, 5, 1, 4};
    const int32_t *const bad[] = {bad0, kIds1};
    static const int32_t many[] = {3, 4};
    epf_ref_routing routing = hand_routing();
    epf_ref_route route;

    routing.topk_idx = bad;
    CHECK(epf_ref_route_make(&routing, &route) == EPF_E_INVALID, "expert 5 of 4");
    CHECK(strstr(epf_check_library_text(), "token 1, k 1 is 5") != NULL, "text: %s",
          epf_check_library_text());
    routing = hand_routing();
    routing.num_tokens = many;
    CHECK(epf_ref_route_make(&routing, &route) == EPF_E_INVALID, "4 tokens of at most 3");
    routing = hand_routing();
    routing.num_experts = 3;
    CHECK(epf_ref_route_make(&routing, &route) == EPF_E_INVALID, "3 experts on 2 ranks");
}

/* Every slot that is not dropped has one row, where its offset says, and every row one slot. */
static void check_rows(const epf_data *data, const char *text)
{
    const epf_ref_route *route = &data->route;
    const int32_t ranks = route->num_ranks;
    const int32_t local = route->num_local_experts;
    int64_t sent = 0;
    int64_t received = 0;

    for (int32_t r = 0; r < ranks; r++) {
        for (int32_t s = 0; s < data->num_tokens[r] * route->num_topk; s++) {
            const int32_t id = data->topk_idx[r][s];
            const int32_t row = route->ranks[r].token_dst_scatter_idx[s];
            const epf_ref_row *at;
            if (id < 0 || id == route->num_experts) {
                CHECK(row == -1, "%s: dropped slot %d of rank %d has row %d", text, s, r, row);
                continue;
            }
            CHECK(row >= route->recv_buf_offset_per_expert[id * ranks + r],
                  "%s: row %d lies before its segment", text, row);
            at = &route->ranks[id / local].rows[row];
            CHECK(at->expert == id && at->source == r && at->slot == s,
                  "%s: slot %d of rank %d is not in its row %d", text, s, r, row);
            sent++;
        }
    }
    for (int32_t r = 0; r < ranks; r++) {
        received += route->num_recv_tokens_per_rank[r];
    }
    CHECK(sent == received, "%s: %lld slots sent, %lld rows", text, (long long)sent,
          (long long)received);
}

static void test_zoo(void)
{
    static const char *const shapes[] = {"W1E4K2T24H8N8M8C1", "W2E4K2T24H8N8M8C1",
                                         "W3E6K3T16H8N8M8C1", "W8E16K4T12H8N8M8C1"};
    int32_t made = 0;

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (const char *const *name = epf_zoo_names(); *name != NULL; name++) {
            char text[EPF_PROBLEM_TEXT];
            epf_problem problem;
            epf_data *data;
            (void)snprintf(text, sizeof text, "%s/%s/seed%zu", shapes[i], *name, i);
            problem = epf_problem_of(text);
            data = epf_data_make(&problem);
            if (data != NULL) {
                check_rows(data, text);
                made++;
            }
            epf_data_free(data);
        }
    }
    CHECK(made > 60, "only %d routings were made", made);
}

int main(void)
{
    test_by_hand();
    test_scatter();
    test_refusals();
    test_zoo();
    return 0;
}
