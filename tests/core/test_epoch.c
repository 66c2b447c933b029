/*
 * test_epoch: calls across the wrap of the 32-bit epoch give the same bits as before it, on all ranks
 * and in both modes, and so do calls after a reset.
 */
#include <pthread.h>
#include <string.h>

#include "api/epf_op.h"
#include "core_check.h"

enum { W = 3, L = 2, K = 2, T = 20, H = 32, I = 16, CALLS = 8 };

static epf_group *groups[W];
static float inputs[W][T * H], weights[W][T * K], w13[W][L * 2 * I * H], w2[W][L * H * I];
static int32_t ids[W][T * K];
static float first[W][T * H];

static epf_tensor tensor(void *data, epf_dtype dtype, int32_t ndim, int64_t a, int64_t b, int64_t c)
{
    const int64_t shape[3] = {a, b, c};
    return epf_tensor_of(data, (int32_t)dtype, ndim, shape);
}

static void forward(int32_t r, epf_op *op, epf_layer_context *context, int32_t mode, float *output)
{
    epf_layer_forward_args a;
    CHECK(epf_layer_forward_args_init(&a) == EPF_OK, "init");
    a.input = tensor(inputs[r], EPF_DTYPE_F32, 2, T, H, 0);
    a.exp_indices = tensor(ids[r], EPF_DTYPE_I32, 2, T, K, 0);
    a.weight = tensor(weights[r], EPF_DTYPE_F32, 2, T, K, 0);
    a.weights.w13 = tensor(w13[r], EPF_DTYPE_F32, 3, L, 2 * I, H);
    a.weights.w2 = tensor(w2[r], EPF_DTYPE_F32, 3, L, H, I);
    a.output = tensor(output, EPF_DTYPE_F32, 2, T, H, 0);
    a.combine_mode = mode;
    CHECK(epf_layer_forward(op, context, &a) == EPF_OK, "rank %d: %s", r, epf_last_error());
}

static void *rank_main(void *argument)
{
    const int32_t r = (int32_t)(intptr_t)argument;
    float output[T * H];
    epf_op_config config;
    epf_op *op;
    epf_layer_context *context;
    CHECK(epf_op_config_init(&config) == EPF_OK, "init");
    config.max_tokens = T;
    config.hidden = H;
    config.topk = K;
    config.num_tot_experts = W * L;
    config.dtype = EPF_DTYPE_F32;
    config.num_workers = 2;
    CHECK(epf_op_create(groups[r], &config, &op) == EPF_OK, "%s", epf_last_error());
    CHECK(epf_layer_context_create(op, &context) == EPF_OK, "context");
    forward(r, op, context, EPF_COMBINE_FUSE_SCATTER, first[r]);
    op->epoch = EPF_EPOCH_LAST - 7; /* each pass takes three: the wrap falls inside one */
    for (int i = 0; i < CALLS; i++) {
        memset(output, 0xff, sizeof output);
        forward(r, op, context, i % 2, output);
        CHECK(memcmp(output, first[r], sizeof output) == 0, "rank %d, pass %d differs", r, i);
    }
    CHECK(op->epoch < 100, "epoch %u: it never wrapped", op->epoch);
    CHECK(epf_op_reset(op) == EPF_OK, "%s", epf_last_error());
    forward(r, op, context, EPF_COMBINE_SERIAL, output);
    CHECK(memcmp(output, first[r], sizeof output) == 0, "rank %d differs after reset", r);
    epf_layer_context_destroy(context);
    CHECK(epf_op_finalize(op) == EPF_OK, "%s", epf_last_error());
    epf_op_destroy(op);
    return NULL;
}

int main(void)
{
    pthread_t threads[W];
    uint64_t seed = 11;
    for (int32_t r = 0; r < W; r++) {
        for (int32_t i = 0; i < T * H; i++) {
            inputs[r][i] = (float)core_pick(&seed, -2, 2);
        }
        for (int32_t i = 0; i < T * K; i++) {
            ids[r][i] = core_pick(&seed, -1, W * L);
            weights[r][i] = 0.5f;
        }
        for (int32_t i = 0; i < L * 2 * I * H; i++) {
            w13[r][i] = (float)core_pick(&seed, -1, 1);
        }
        for (int32_t i = 0; i < L * H * I; i++) {
            w2[r][i] = (float)core_pick(&seed, -1, 1);
        }
    }
    CHECK(epf_group_create_threads(W, NULL, groups) == EPF_OK, "%s", epf_last_error());
    for (int32_t r = 0; r < W; r++) {
        CHECK(pthread_create(&threads[r], NULL, rank_main, (void *)(intptr_t)r) == 0, "thread");
    }
    for (int32_t r = 0; r < W; r++) {
        pthread_join(threads[r], NULL);
    }
    for (int32_t r = 0; r < W; r++) {
        epf_group_destroy(groups[r]);
    }
    return 0;
}
