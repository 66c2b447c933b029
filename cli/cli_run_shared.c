/*
 * cli_run_shared.c: shared experts, each rank on its own tokens.
 *
 * They are one more expert that every token takes with weight 1 or its gate: an operator over one
 * rank and one expert computes them with the same tasks, rounding and bounds as the routed ones.
 */
#include <math.h>
#include <string.h>

#include "api/epf_op.h"
#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cli_run.h"
#include "core/epf_dtype.h"

epf_status run_shared_gate(const epf_tensor_view *gate, const float *hidden, int64_t num_tokens,
                           int32_t width, float *weights)
{
    float *const row = epf_alloc((size_t)width, sizeof *row);
    epf_status st;

    if (row == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "shared gate: no memory for %d columns", width);
    }
    st = epf_tensor_convert(gate, 0, width, EPF_DTYPE_F32, row);
    for (int64_t t = 0; t < num_tokens && st == EPF_OK; t++) {
        double sum = 0;
        for (int32_t i = 0; i < width; i++) {
            sum += (double)hidden[t * width + i] * (double)row[i];
        }
        weights[t] = (float)(1.0 / (1.0 + exp(-sum)));
    }
    epf_free(row);
    return st;
}

static epf_status open_op(run_rank *r)
{
    const run_job *job = r->job;
    epf_group_config group_config;
    epf_op_config config;

    EPF_TRY(epf_group_config_init(&group_config));
    group_config.timeout_ns = r->comm->timeout_ns;
    EPF_TRY(epf_group_create_threads(1, &group_config, &r->shared.group));
    EPF_TRY(epf_op_config_init(&config));
    config.max_tokens = job->max_tokens;
    config.hidden = job->config->hidden;
    config.topk = 1;
    config.num_tot_experts = 1;
    config.dtype = job->dtype;
    config.num_workers = r->op->num_workers; /* alone it would take all cores */
    config.backend = r->op->config.backend;
    EPF_TRY(epf_op_create(r->shared.group, &config, &r->shared.op));
    return epf_layer_context_create(r->shared.op, &r->shared.context);
}

static epf_status load_weights(run_rank *r, void *w13, void *w2)
{
    const epf_model_config *c = r->job->config;
    const epf_moe_pack_args pack = {.dtype = (epf_dtype)r->job->dtype, .w13 = w13, .w2 = w2};
    const int64_t first[3] = {1, 2 * (int64_t)c->shared_intermediate, c->hidden};
    const int64_t second[3] = {1, c->hidden, c->shared_intermediate};
    epf_weight_config config;

    if (w13 == NULL || w2 == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "rank %d: no memory for the shared experts", r->rank);
    }
    EPF_TRY(epf_moe_block_pack_shared(&r->job->block, &pack));
    EPF_TRY(epf_weight_config_init(&config));
    config.tensor = run_tensor(w2, r->job->dtype, 3, second);
    EPF_TRY(run_pack_weight(r->shared.op, &config, &r->shared.second, &r->shared.w2));
    config.tensor = run_tensor(w13, r->job->dtype, 3, first);
    config.gate_up = true;
    return run_pack_weight(r->shared.op, &config, &r->shared.first, &r->shared.w13);
}

/* Every token's only slot names expert 0. */
static epf_status take_tensors(run_rank *r)
{
    const int32_t backend = r->op->config.backend;
    const int64_t tokens = r->num_tokens;
    const int64_t bytes = tokens * r->job->config->hidden * epf_dtype_bytes(r->job->dtype);
    int32_t *const zeros = epf_alloc((size_t)tokens, sizeof *zeros);
    epf_status st = EPF_OK;

    r->shared.host_output = epf_alloc((size_t)bytes, 1);
    if (zeros == NULL || r->shared.host_output == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "rank %d: no memory for %d tokens", r->rank, r->num_tokens);
        goto out;
    }
    EPF_TRY_GOTO(cli_device_alloc(backend, bytes, "shared experts", &r->shared.output), out);
    EPF_TRY_GOTO(cli_device_alloc(backend, tokens * 4, "shared experts", &r->shared.gate), out);
    EPF_TRY_GOTO(cli_device_alloc(backend, tokens * 4, "shared experts", &r->shared.topk_idx), out);
    st = cli_device_put(r->shared.op, r->shared.topk_idx, zeros, tokens * 4);
out:
    epf_free(zeros);
    return st;
}

epf_status run_shared_load(run_rank *r)
{
    const epf_model_config *c = r->job->config;
    const size_t elements = (size_t)c->shared_intermediate * (size_t)c->hidden;
    const size_t width = (size_t)epf_dtype_bytes(r->job->dtype);
    void *w13, *w2;
    epf_status st;

    EPF_TRY(open_op(r));
    EPF_TRY(take_tensors(r));
    w13 = epf_alloc_aligned(2 * elements, width, 64);
    w2 = epf_alloc_aligned(elements, width, 64);
    st = load_weights(r, w13, w2);
    epf_free(w13);
    epf_free(w2);
    return st;
}

epf_status run_shared_forward(run_rank *r)
{
    const int64_t tokens[3] = {r->num_tokens, r->job->config->hidden, 0};
    const int64_t slots[3] = {r->num_tokens, 1, 0};
    epf_layer_forward_args args;

    EPF_TRY(cli_device_put(r->shared.op, r->shared.gate, r->shared_gate,
                           r->num_tokens * (int64_t)sizeof *r->shared_gate));
    EPF_TRY(epf_layer_forward_args_init(&args));
    args.input = run_tensor(r->seen.tokens, r->job->dtype, 2, tokens);
    args.exp_indices = run_tensor(r->shared.topk_idx, EPF_DTYPE_I32, 2, slots);
    args.weight = run_tensor(r->shared.gate, EPF_DTYPE_F32, 2, slots);
    args.weights.packed_w13 = r->shared.w13;
    args.weights.packed_w2 = r->shared.w2;
    args.output = run_tensor(r->shared.output, r->job->dtype, 2, tokens);
    args.keep_for_backward = false;
    args.combine_mode = r->job->options->mode;
    EPF_TRY(epf_layer_forward(r->shared.op, r->shared.context, &args));
    return cli_device_settle(r->shared.op);
}

void run_shared_free(run_rank *r)
{
    void *const seen[] = {r->shared.topk_idx, r->shared.gate, r->shared.output, r->shared.first,
                          r->shared.second};

    epf_weight_destroy(r->shared.w13);
    epf_weight_destroy(r->shared.w2);
    epf_layer_context_destroy(r->shared.context);
    epf_op_destroy(r->shared.op);
    epf_group_destroy(r->shared.group);
    for (size_t i = 0; i < sizeof seen / sizeof seen[0]; i++) {
        cli_device_free(r->job->options->backend, seen[i]);
    }
    epf_free(r->shared.host_output);
    memset(&r->shared, 0, sizeof r->shared);
}
