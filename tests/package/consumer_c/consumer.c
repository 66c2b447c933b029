/*
 * consumer.c: a C program that knows only the installed library.  One rank, one expert whose weights are
 * the identity: dispatch, GEMM and combine give every token back, times the number of its experts (1).
 */
#include <stdint.h>
#include <stdio.h>

#include <epfuse/epfuse.h>

enum { TOKENS = 3, HIDDEN = 8 };

#define TRY(call)                                                                                  \
    do {                                                                                           \
        const epf_status try_status = (call);                                                      \
        if (try_status != EPF_OK) {                                                                \
            fprintf(stderr, "%s: %s: %s\n", #call, epf_status_name(try_status), epf_last_error()); \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static epf_tensor tensor(void *data, epf_dtype dtype, int32_t ndim, int64_t a, int64_t b, int64_t c)
{
    const int64_t shape[3] = {a, b, c};
    epf_tensor made = {0};
    if (epf_tensor_make(&made, data, dtype, ndim, shape) != EPF_OK) {
        made.data = NULL;
    }
    return made;
}

static int pass_through(epf_op *op, float *input, float *output)
{
    static float identity[HIDDEN * HIDDEN];
    int32_t experts[TOKENS] = {0, 0, 0};
    epf_layout *layout = NULL;
    epf_preprocess_args route;
    epf_dispatch_group_gemm_args first;
    epf_dispatch_group_gemm_result rows;
    epf_group_gemm_combine_args second;

    for (int i = 0; i < HIDDEN; i++) {
        identity[i * HIDDEN + i] = 1.0F;
    }
    TRY(epf_preprocess_args_init(&route));
    route.exp_indices = tensor(experts, EPF_DTYPE_I32, 2, TOKENS, 1, 0);
    TRY(epf_preprocess(op, &route, &layout));

    TRY(epf_dispatch_group_gemm_args_init(&first));
    first.layout = layout;
    first.input = tensor(input, EPF_DTYPE_F32, 2, TOKENS, HIDDEN, 0);
    first.gemm_weight = tensor(identity, EPF_DTYPE_F32, 3, 1, HIDDEN, HIDDEN);
    TRY(epf_dispatch_group_gemm(op, &first, &rows));

    TRY(epf_group_gemm_combine_args_init(&second));
    second.layout = layout;
    second.gemm_input_data = rows.gemm_output;
    second.gemm_weight = first.gemm_weight;
    second.combine_output = tensor(output, EPF_DTYPE_F32, 2, TOKENS, HIDDEN, 0);
    TRY(epf_group_gemm_combine(op, &second, NULL));
    epf_layout_destroy(layout);
    return 0;
}

int main(void)
{
    float input[TOKENS * HIDDEN];
    float output[TOKENS * HIDDEN] = {0};
    epf_group *group = NULL;
    epf_op *op = NULL;
    epf_op_config config;

    for (int i = 0; i < TOKENS * HIDDEN; i++) {
        input[i] = (float)(i - 7);
    }
    TRY(epf_group_create_threads(1, NULL, &group));
    TRY(epf_op_config_init(&config));
    config.max_tokens = TOKENS;
    config.hidden = HIDDEN;
    config.topk = 1;
    config.num_tot_experts = 1;
    config.dtype = EPF_DTYPE_F32;
    TRY(epf_op_create(group, &config, &op));
    if (pass_through(op, input, output) != 0) {
        return 1;
    }
    epf_op_destroy(op);
    epf_group_destroy(group);
    for (int i = 0; i < TOKENS * HIDDEN; i++) {
        if (output[i] != input[i]) {
            fprintf(stderr, "element %d is %g, not %g\n", i, (double)output[i], (double)input[i]);
            return 1;
        }
    }
    printf("epfuse %s: %d tokens went through\n", epf_version(), TOKENS);
    return 0;
}
