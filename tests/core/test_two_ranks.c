/*
 * test_two_ranks: what one of two ranks does wrong, seen from both.
 *   bad_weight   rank 1 hands the layer a weight of another type: it is refused before the first
 *                exchange, so its second try meets rank 0's first one
 *   other_set    ranks use different buffer sets: both learn it at once, and work again after reset
 *   huge_group   the largest group of M-tiles times very many N-tiles stays in range
 */
#include <pthread.h>
#include <string.h>

#include "api/epf_op.h"
#include "core_check.h"

enum { W = 2, T = 4, H = 8, I = 8, K = 2 };

typedef struct rank {
    int32_t id;
    epf_op *op;
    epf_layer_context *context;
    float input[T * H], output[T * H], weight[T * K];
    float w13[2 * I * H], w2[H * I];
    int32_t ids[T * K];
} rank;

static epf_group *groups[W];
static void (*scenario)(rank *);

static epf_layer_forward_args args_of(rank *r)
{
    const int64_t tokens[2] = {T, H};
    const int64_t slots[2] = {T, K};
    const int64_t w13[3] = {1, 2 * I, H};
    const int64_t w2[3] = {1, H, I};
    epf_layer_forward_args a;
    CHECK(epf_layer_forward_args_init(&a) == EPF_OK, "init");
    a.input = epf_tensor_of(r->input, EPF_DTYPE_F32, 2, tokens);
    a.output = epf_tensor_of(r->output, EPF_DTYPE_F32, 2, tokens);
    a.exp_indices = epf_tensor_of(r->ids, EPF_DTYPE_I32, 2, slots);
    a.weight = epf_tensor_of(r->weight, EPF_DTYPE_F32, 2, slots);
    a.weights.w13 = epf_tensor_of(r->w13, EPF_DTYPE_F32, 3, w13);
    a.weights.w2 = epf_tensor_of(r->w2, EPF_DTYPE_F32, 3, w2);
    return a;
}

static void bad_weight(rank *r)
{
    epf_layer_forward_args a = args_of(r);
    if (r->id == 1) {
        a.weights.w13.dtype = EPF_DTYPE_BF16;
        CHECK(epf_layer_forward(r->op, r->context, &a) == EPF_E_INVALID, "bf16 weights taken");
        CHECK(strstr(epf_last_error(), "w13") != NULL, "%s", epf_last_error());
        a.weights.w13.dtype = EPF_DTYPE_F32;
    }
    CHECK(epf_layer_forward(r->op, r->context, &a) == EPF_OK, "rank %d: %s", r->id,
          epf_last_error());
}

static void other_set(rank *r)
{
    epf_layer_forward_args a = args_of(r);
    a.comm_buffer_id = r->id;
    CHECK(epf_layer_forward(r->op, r->context, &a) == EPF_E_INVALID, "rank %d: %s", r->id,
          epf_last_error());
    CHECK(strstr(epf_last_error(), "buffer set") != NULL, "%s", epf_last_error());
    CHECK(epf_layer_forward(r->op, r->context, &a) == EPF_E_STATE, "not sticky");
    CHECK(epf_op_reset(r->op) == EPF_OK, "%s", epf_last_error());
    a.comm_buffer_id = 0;
    CHECK(epf_layer_forward(r->op, r->context, &a) == EPF_OK, "rank %d: %s", r->id,
          epf_last_error());
}

static void huge_group(rank *r)
{
    enum { N = 524288 };
    const int64_t slots[2] = {T, K};
    const int64_t tokens[2] = {T, H};
    const int64_t shape[3] = {1, N, H};
    float *const b = calloc((size_t)N * H, sizeof *b);
    epf_preprocess_args p;
    epf_dispatch_group_gemm_args a;
    epf_layout *layout = NULL;
    CHECK(b != NULL && epf_preprocess_args_init(&p) == EPF_OK, "init");
    p.exp_indices = epf_tensor_of(r->ids, EPF_DTYPE_I32, 2, slots);
    CHECK(epf_preprocess(r->op, &p, &layout) == EPF_OK, "%s", epf_last_error());
    CHECK(epf_dispatch_group_gemm_args_init(&a) == EPF_OK, "init");
    a.layout = layout;
    a.input = epf_tensor_of(r->input, EPF_DTYPE_F32, 2, tokens);
    a.gemm_weight = epf_tensor_of(b, EPF_DTYPE_F32, 3, shape);
    a.gemm_group_size_m = 65536;
    a.gemm_block_size_n = 8;
    CHECK(epf_dispatch_group_gemm(r->op, &a, NULL) == EPF_OK, "%s", epf_last_error());
    a.optional_sm = INT32_MAX;
    a.num_tail_sms = 1;
    CHECK(epf_dispatch_group_gemm(r->op, &a, NULL) == EPF_E_INVALID, "that many workers");
    epf_layout_destroy(layout);
    free(b);
}

static void *rank_main(void *argument)
{
    static rank ranks[W];
    rank *const r = &ranks[(intptr_t)argument];
    epf_op_config config;
    memset(r, 0, sizeof *r);
    r->id = (int32_t)(intptr_t)argument;
    for (int32_t i = 0; i < T * K; i++) {
        r->ids[i] = i % 2;
        r->weight[i] = 1.0f;
    }
    CHECK(epf_op_config_init(&config) == EPF_OK, "init");
    config.max_tokens = T;
    config.hidden = H;
    config.topk = K;
    config.num_tot_experts = W;
    config.dtype = EPF_DTYPE_F32;
    config.duplicate_comm_buffer = 2;
    config.num_workers = 2;
    config.gemm_library = EPF_GEMM_LIBRARY_PORTABLE;
    CHECK(epf_op_create(groups[r->id], &config, &r->op) == EPF_OK, "%s", epf_last_error());
    CHECK(epf_layer_context_create(r->op, &r->context) == EPF_OK, "%s", epf_last_error());
    scenario(r);
    epf_layer_context_destroy(r->context);
    CHECK(epf_op_finalize(r->op) == EPF_OK, "%s", epf_last_error());
    epf_op_destroy(r->op);
    return NULL;
}

static void play(void (*which)(rank *))
{
    pthread_t threads[W];
    epf_group_config config;
    CHECK(epf_group_config_init(&config) == EPF_OK, "init");
    config.timeout_ns = 20000000000u;
    CHECK(epf_group_create_threads(W, &config, groups) == EPF_OK, "%s", epf_last_error());
    scenario = which;
    for (int32_t r = 0; r < W; r++) {
        CHECK(pthread_create(&threads[r], NULL, rank_main, (void *)(intptr_t)r) == 0, "thread");
    }
    for (int32_t r = 0; r < W; r++) {
        pthread_join(threads[r], NULL);
    }
    for (int32_t r = 0; r < W; r++) {
        epf_group_destroy(groups[r]);
    }
}

int main(void)
{
    play(bad_weight);
    play(other_set);
    play(huge_group);
    return 0;
}
