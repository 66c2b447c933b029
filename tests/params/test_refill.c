/*
 * test_refill: one layout filled again and again, with more tokens, with fewer, and with an allocation that fails
 * on the way: each fill that succeeds says what a fresh layout would, in all of its arrays.
 */
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "params_world.h"
#include "support/epf_check.h"

static params_rank world;

static epf_status fill(epf_op *op, int64_t tokens, epf_layout **layout)
{
    const int64_t shape[2] = {tokens, PARAMS_K};
    epf_preprocess_args args;
    CHECK_OK(epf_preprocess_args_init(&args));
    CHECK_OK(epf_tensor_make(&args.exp_indices, world.ids, EPF_DTYPE_I32, 2, shape));
    return epf_preprocess(op, &args, layout);
}

static void check_array(const char *name, const int32_t *got, const int32_t *want, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        CHECK(got[i] == want[i], "%s[%lld] is %d, must be %d", name, (long long)i, got[i], want[i]);
    }
}

/* Everything a view shows, against a layout made for these tokens alone. */
static void check_fresh(epf_op *op, int64_t tokens, const epf_layout *layout)
{
    epf_layout *fresh = NULL;
    epf_layout_view v;
    epf_layout_view w;
    const int64_t slots = PARAMS_T * PARAMS_K;
    CHECK_OK(fill(op, tokens, &fresh));
    CHECK_OK(epf_layout_get(layout, &v));
    CHECK_OK(epf_layout_get(fresh, &w));
    CHECK(v.num_recv_rows == w.num_recv_rows && v.max_recv_rows == w.max_recv_rows &&
              v.num_dispatch_token_cur_rank == tokens && v.num_tiles_total == w.num_tiles_total &&
              v.block_m == w.block_m,
          "%lld tokens: R %d, tiles %d", (long long)tokens, v.num_recv_rows, v.num_tiles_total);
    check_array("topk_indices_tensor", v.topk_indices_tensor, w.topk_indices_tensor, slots);
    check_array("token_dst_scatter_idx", v.token_dst_scatter_idx, w.token_dst_scatter_idx, slots);
    check_array("token_sort_indices", v.token_sort_indices, w.token_sort_indices, slots);
    CHECK((v.reversed_token_scatter_idx != NULL) == (w.reversed_token_scatter_idx != NULL),
          "there");
    if (v.reversed_token_scatter_idx != NULL) {
        check_array("reversed_token_scatter_idx", v.reversed_token_scatter_idx,
                    w.reversed_token_scatter_idx, 2 * slots);
    }
    check_array("split_size", v.split_size, w.split_size, PARAMS_E);
    check_array("expert_ids", v.expert_ids, w.expert_ids, v.num_tiles_total);
    check_array("tile_num_cum", v.tile_num_cum, w.tile_num_cum, v.num_tiles_total);
    epf_layout_destroy(fresh);
}

/* Few tokens, then many with the n-th allocation failing, then few again. */
static int check_failures(epf_op *op)
{
    bool met = true;
    int n = 0;
    while (met) {
        epf_layout *layout = NULL;
        epf_status st;
        CHECK_OK(fill(op, 1, &layout));
        epf_alloc_fail_at((uint64_t)++n);
        st = fill(op, PARAMS_T, &layout);
        met = epf_alloc_count() >= (uint64_t)n;
        epf_alloc_fail_at(0);
        CHECK(st == (met ? EPF_E_NO_MEMORY : EPF_OK), "allocation %d: %d", n, st);
        CHECK_OK(fill(op, 1, &layout));
        check_fresh(op, 1, layout);
        CHECK_OK(fill(op, PARAMS_T, &layout));
        check_fresh(op, PARAMS_T, layout);
        epf_layout_destroy(layout);
    }
    return n - 1;
}

int main(void)
{
    static const int64_t tokens[] = {1, 4, 2, 0, 3, 4, 1, 0, 4};
    epf_group *group;
    int failed = 0;
    CHECK_OK(epf_group_create_threads(1, NULL, &group));
    params_open(&world, group);
    for (int reversed = 0; reversed < 2; reversed++) {
        epf_op_config config = params_op_config();
        epf_layout *layout = NULL;
        epf_op *op;
        config.need_reversed_token_scatter_idx = reversed == 1;
        CHECK_OK(epf_op_create(group, &config, &op));
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
            CHECK_OK(fill(op, tokens[i], &layout));
            check_fresh(op, tokens[i], layout);
        }
        epf_layout_destroy(layout);
        failed += check_failures(op);
        epf_op_destroy(op);
    }
    params_close(&world);
    epf_group_destroy(group);
    printf("%d allocations of a growing layout failed\n", failed);
    CHECK(failed >= 1, "none");
    return 0;
}
