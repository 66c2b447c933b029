/* layer.c: a Mixture-of-Experts layer over 4 ranks, each a thread: 16 experts, top-2, 64 tokens a rank.
 * cc layer.c $(pkg-config --cflags --libs epfuse) -lpthread -o layer && ./layer */
#include <epfuse/epfuse.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
enum { W = 4, E = 16, L = E / W, K = 2, T = 64, H = 256, I = 128 };
#define TRY(call) \
    ((call) == EPF_OK ? (void)0 : (fprintf(stderr, "%s\n", epf_last_error()), exit(1)))
/* A tensor of small random values (fp32), or of random experts (int32). */
static epf_tensor tensor(epf_dtype dtype, int32_t ndim, int64_t a, int64_t b, int64_t c)
{
    const int64_t shape[3] = {a, b, c}, count = a * b * (ndim == 3 ? c : 1);
    epf_tensor t;
    void *data = calloc((size_t)count, 4);
    for (int64_t i = 0; i < count; i++) {
        int32_t expert = rand() % E;
        float value = (float)rand() / (float)RAND_MAX - 0.5f;
        memcpy((char *)data + 4 * i, dtype == EPF_DTYPE_I32 ? (void *)&expert : (void *)&value, 4);
    }
    TRY(epf_tensor_make(&t, data, dtype, ndim, shape));
    return t;
}

static void *rank_main(void *group)
{
    epf_op_config config;
    epf_layer_forward_args args;
    epf_op *op;
    epf_layer_context *context;
    TRY(epf_op_config_init(&config));
    config.max_tokens = T, config.hidden = H, config.topk = K, config.num_tot_experts = E;
    config.dtype = EPF_DTYPE_F32;
    TRY(epf_op_create(group, &config, &op));
    TRY(epf_layer_context_create(op, &context));
    TRY(epf_layer_forward_args_init(&args));
    args.input = tensor(EPF_DTYPE_F32, 2, T, H, 0);
    args.exp_indices = tensor(EPF_DTYPE_I32, 2, T, K, 0);
    args.weight = tensor(EPF_DTYPE_F32, 2, T, K, 0);
    args.weights.w13 = tensor(EPF_DTYPE_F32, 3, L, 2 * I, H); /* gate rows, then up rows */
    args.weights.w2 = tensor(EPF_DTYPE_F32, 3, L, H, I);
    args.output = tensor(EPF_DTYPE_F32, 2, T, H, 0);
    TRY(epf_layer_forward(op, context, &args)); /* collective: all ranks call it */
    printf("rank %d: y[0, 0] = %g\n", epf_group_rank(group), (double)*(float *)args.output.data);
    epf_layer_context_destroy(context);
    epf_op_destroy(op);
    return NULL;
}
int main(void)
{
    epf_group *groups[W];
    pthread_t threads[W];
    TRY(epf_group_create_threads(W, NULL, groups));
    for (int r = 0; r < W; r++)
        pthread_create(&threads[r], NULL, rank_main, groups[r]);
    for (int r = 0; r < W; r++)
        pthread_join(threads[r], NULL), epf_group_destroy(groups[r]);
    return 0;
}
