/* cli_run_step.c: one repetition: router, preprocess, the two fused operations, shared experts. */
#include <stdio.h>
#include <string.h>

#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "cli_run.h"
#include "core/epf_dtype.h"
#include "cpu/gemm/epf_convert.h"

void run_profile_name(const char *name, bool is_dispatch, char out[RUN_PROFILE_BYTES])
{
    (void)snprintf(out, RUN_PROFILE_BYTES, "%s_%s", name,
                   is_dispatch ? "dispatch_group_gemm" : "group_gemm_combine");
}

/* Lap times of one repetition. */
typedef struct lap_clock {
    run_times times;
    uint64_t last_ns;
} lap_clock;

static void lap(lap_clock *clock, run_phase phase)
{
    const uint64_t now_ns = epf_now_ns();
    clock->times.phase_ns[phase] = now_ns - clock->last_ns;
    clock->last_ns = now_ns;
}

/* sigmoid(gate . x) per token, in double: how much of the shared experts a token takes. */
static epf_status route_shared(run_rank *r)
{
    const int32_t hidden = r->job->config->hidden;
    const epf_tensor_view *gate = &r->job->block.shared_gate;

    for (int32_t t = 0; t < r->num_tokens; t++) {
        r->shared_gate[t] = 1.0f;
    }
    return gate->data == NULL
               ? EPF_OK
               : run_shared_gate(gate, r->hidden, r->num_tokens, hidden, r->shared_gate);
}

epf_status run_step_router(run_rank *r)
{
    const epf_router_args args = {.hidden = r->hidden,
                                  .num_tokens = r->num_tokens,
                                  .first_token = run_job_first_token(r->job, r->rank),
                                  .topk_idx = r->topk_idx,
                                  .topk_weight = r->topk_weight};
    EPF_TRY(epf_router_run(r->job->router, &args));
    return r->job->config->shared_intermediate > 0 ? route_shared(r) : EPF_OK;
}

epf_status run_step_preprocess(run_rank *r)
{
    const int64_t shape[3] = {r->num_tokens, r->job->config->routing.topk, 0};
    epf_preprocess_args args;

    EPF_TRY(epf_preprocess_args_init(&args));
    args.exp_indices = run_tensor(r->seen.topk_idx, EPF_DTYPE_I32, 2, shape);
    EPF_TRY(epf_preprocess(r->op, &args, &r->layout));
    return cli_device_settle(r->op);
}

static epf_status dispatch(run_rank *r)
{
    const epf_model_config *c = r->job->config;
    const int64_t tokens[3] = {r->num_tokens, c->hidden, 0};
    const int64_t slots[3] = {r->num_tokens, c->routing.topk, 0};
    const int64_t rows[3] = {r->num_rows, c->intermediate, 0};
    epf_dispatch_group_gemm_args args;
    char name[RUN_PROFILE_BYTES];

    EPF_TRY(epf_dispatch_group_gemm_args_init(&args));
    args.layout = r->layout;
    args.input = run_tensor(r->seen.tokens, r->job->dtype, 2, tokens);
    args.weight = run_tensor(r->seen.topk_weight, EPF_DTYPE_F32, 2, slots);
    args.packed_weight = r->w13;
    args.use_block_wise_barrier = true;
    args.activation = EPF_ACTIVATION_SWIGLU;
    args.activation_output = run_tensor(r->seen.activation, r->job->dtype, 2, rows);
    args.keep_gemm_output = false;
    if (!r->is_profiling) {
        EPF_TRY(epf_dispatch_group_gemm(r->op, &args, NULL));
        return cli_device_settle(r->op);
    }
    run_profile_name(r->job->options->profile, true, name);
    args.enable_profiler = true;
    args.profile_file_name = name;
    /* A file that cannot be written is no reason for others to wait. */
    return run_agree(r, epf_dispatch_group_gemm(r->op, &args, NULL));
}

static epf_status combine(run_rank *r)
{
    const epf_model_config *c = r->job->config;
    const int64_t tokens[3] = {r->num_tokens, c->hidden, 0};
    const int64_t rows[3] = {r->num_rows, c->intermediate, 0};
    epf_group_gemm_combine_args args;
    char name[RUN_PROFILE_BYTES];

    EPF_TRY(epf_group_gemm_combine_args_init(&args));
    args.layout = r->layout;
    args.gemm_input_data = run_tensor(r->seen.activation, r->job->dtype, 2, rows);
    args.packed_weight = r->w2;
    args.combine_mode = r->job->options->mode;
    args.combine_output = run_tensor(r->seen.output, r->job->dtype, 2, tokens);
    if (!r->is_profiling) {
        EPF_TRY(epf_group_gemm_combine(r->op, &args, NULL));
        return cli_device_settle(r->op);
    }
    run_profile_name(r->job->options->profile, false, name);
    args.enable_profiler = true;
    args.profile_file_name = name;
    /* A file that cannot be written is no reason for others to wait. */
    return run_agree(r, epf_group_gemm_combine(r->op, &args, NULL));
}

/* Widens the output, adds the shared experts, and notes whether an earlier run gave other bits. */
static void keep_output(run_rank *r)
{
    const int64_t hidden = r->job->config->hidden;
    const epf_dtype dtype = (epf_dtype)r->job->dtype;
    const size_t width = (size_t)epf_dtype_bytes(r->job->dtype);
    float routed[RUN_CHUNK], shared[RUN_CHUNK];

    for (int64_t at = 0; at < r->num_tokens * hidden; at += RUN_CHUNK) {
        const int64_t left = r->num_tokens * hidden - at;
        const int64_t count = left < RUN_CHUNK ? left : RUN_CHUNK;
        const size_t byte = (size_t)at * width;
        epf_convert_to_f32(routed, (const uint8_t *)r->output + byte, dtype, count);
        if (r->shared.host_output != NULL) {
            epf_convert_to_f32(shared, (const uint8_t *)r->shared.host_output + byte, dtype, count);
            for (int64_t i = 0; i < count; i++) {
                routed[i] += shared[i];
            }
        }
        if (r->has_output &&
            memcmp(r->result->output + at, routed, (size_t)count * sizeof routed[0]) != 0) {
            r->result->is_steady = 0;
        }
        memcpy(r->result->output + at, routed, (size_t)count * sizeof routed[0]);
    }
    r->has_output = true;
}

/* Both outputs back to the host. */
static epf_status get_outputs(run_rank *r)
{
    const int64_t bytes =
        (int64_t)r->num_tokens * r->job->config->hidden * epf_dtype_bytes(r->job->dtype);

    EPF_TRY(cli_device_get(r->op, r->output, r->seen.output, bytes));
    return r->shared.op == NULL
               ? EPF_OK
               : cli_device_get(r->shared.op, r->shared.host_output, r->shared.output, bytes);
}

static epf_status route(run_rank *r)
{
    EPF_TRY(run_step_router(r));
    return run_put_routing(r);
}

/* Where a rank may fail alone, all agree, or the others would wait for it. */
epf_status run_step(run_rank *r, run_times *times)
{
    lap_clock clock = {0};
    epf_status st = EPF_OK;

    EPF_TRY(epf_comm_barrier(r->comm));
    clock.times.begin_ns = clock.last_ns = epf_now_ns();
    EPF_TRY(run_agree(r, route(r)));
    lap(&clock, RUN_ROUTER);
    EPF_TRY(run_step_preprocess(r));
    lap(&clock, RUN_PREPROCESS);
    EPF_TRY(dispatch(r));
    lap(&clock, RUN_DISPATCH);
    EPF_TRY(combine(r));
    lap(&clock, RUN_COMBINE);
    if (r->job->config->shared_intermediate > 0) {
        st = run_shared_forward(r);
        lap(&clock, RUN_SHARED);
    }
    clock.times.end_ns = clock.last_ns;
    *times = clock.times;
    EPF_TRY(run_agree(r, st == EPF_OK ? get_outputs(r) : st));
    keep_output(r);
    return EPF_OK;
}
