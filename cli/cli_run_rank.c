/* cli_run_rank.c: one rank's life: load, meet, repeat, leave its results. */
#include <stdio.h>
#include <string.h>

#include "api/epf_group.h"
#include "api/epf_op.h"
#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "cli_run.h"
#include "cli_text.h"
#include "core/epf_dtype.h"
#include "cpu/gemm/epf_convert.h"

epf_tensor run_tensor(void *data, int32_t dtype, int32_t ndim, const int64_t shape[3])
{
    epf_tensor tensor = {.data = data, .dtype = dtype, .ndim = ndim};
    int64_t stride = 1;
    for (int32_t i = ndim - 1; i >= 0; i--) {
        tensor.shape[i] = shape[i];
        tensor.stride[i] = stride;
        stride *= shape[i];
    }
    return tensor;
}

#define SHORT_NS ((uint64_t)250000000u)

static int32_t max_runs(const run_job *job)
{
    return job->options->repeat > 0 ? job->options->repeat : RUN_AUTO_REPEAT;
}

/* ---- the window of results ---- */

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Lays the part out from `base`; with base NULL only counts. */
static size_t lay_out(const run_job *job, uint8_t *base, run_result *part)
{
    const size_t tokens = (size_t)job->max_tokens;
    const size_t slots = tokens * (size_t)job->config->routing.topk;
    const size_t bytes[] = {
        sizeof *part,
        (size_t)max_runs(job) * sizeof *part->times,
        (size_t)job->num_local * sizeof *part->expert_rows,
        slots * sizeof *part->topk_idx,
        slots * sizeof *part->topk_weight,
        tokens * sizeof *part->shared_gate,
        tokens * (size_t)job->config->hidden * sizeof *part->output,
    };
    enum { NUM_PARTS = sizeof bytes / sizeof bytes[0] };
    size_t offset[NUM_PARTS + 1] = {0};

    for (int i = 0; i < NUM_PARTS; i++) {
        offset[i + 1] = offset[i] + aligned(bytes[i]);
    }
    if (base != NULL) {
        part->times = (run_times *)(base + offset[1]);
        part->expert_rows = (int32_t *)(base + offset[2]);
        part->topk_idx = (int32_t *)(base + offset[3]);
        part->topk_weight = (float *)(base + offset[4]);
        part->shared_gate = (float *)(base + offset[5]);
        part->output = (float *)(base + offset[6]);
    }
    return offset[NUM_PARTS];
}

uint64_t run_result_bytes(const run_job *job)
{
    return lay_out(job, NULL, NULL);
}

run_result *run_result_at(const run_job *job, uint8_t *base)
{
    run_result *const part = (run_result *)(void *)base;
    (void)lay_out(job, base, part);
    return part;
}

/* ---- loading: no peer is needed, so each failure can be told to all ---- */

static epf_status load_tokens(run_rank *r)
{
    const run_job *job = r->job;
    const int64_t hidden = job->config->hidden;
    const size_t elements = (size_t)(r->num_tokens * hidden);
    const size_t slots = (size_t)r->num_tokens * (size_t)job->config->routing.topk;
    const size_t width = (size_t)epf_dtype_bytes(job->dtype);

    r->hidden = epf_alloc(elements, sizeof *r->hidden);
    r->tokens = epf_alloc(elements, width);
    r->output = epf_alloc(elements, width);
    r->topk_idx = epf_alloc(slots, sizeof *r->topk_idx);
    r->topk_weight = epf_alloc(slots, sizeof *r->topk_weight);
    r->shared_gate = epf_alloc((size_t)r->num_tokens, sizeof *r->shared_gate);
    if (r->hidden == NULL || r->tokens == NULL || r->output == NULL || r->topk_idx == NULL ||
        r->topk_weight == NULL || r->shared_gate == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "rank %d: no memory for %d tokens of %lld", r->rank,
                        r->num_tokens, (long long)hidden);
    }
    EPF_TRY(epf_tensor_convert(job->hidden, run_job_first_token(job, r->rank) * hidden,
                               (int64_t)elements, EPF_DTYPE_F32, r->hidden));
    epf_convert_from_f32(r->tokens, r->hidden, (epf_dtype)job->dtype, (int64_t)elements);
    return EPF_OK;
}

/* The same arrays where the operator sees them; on the CPU copies, as on a device. */
static epf_status take_tensors(run_rank *r)
{
    const int64_t elements = (int64_t)r->num_tokens * r->job->config->hidden;
    const int64_t slots = (int64_t)r->num_tokens * r->job->config->routing.topk;
    const int64_t width = epf_dtype_bytes(r->job->dtype);
    const int32_t backend = r->job->options->backend;

    EPF_TRY(cli_device_alloc(backend, elements * width, "tokens", &r->seen.tokens));
    EPF_TRY(cli_device_alloc(backend, elements * width, "output", &r->seen.output));
    EPF_TRY(cli_device_alloc(backend, slots * (int64_t)sizeof(int32_t), "expert ids",
                             &r->seen.topk_idx));
    EPF_TRY(cli_device_alloc(backend, slots * (int64_t)sizeof(float), "routing weights",
                             &r->seen.topk_weight));
    return run_put_tokens(r);
}

epf_status run_put_tokens(run_rank *r)
{
    const int64_t elements = (int64_t)r->num_tokens * r->job->config->hidden;
    return cli_device_put(r->op, r->seen.tokens, r->tokens,
                          elements * epf_dtype_bytes(r->job->dtype));
}

epf_status run_put_routing(run_rank *r)
{
    const int64_t slots = (int64_t)r->num_tokens * r->job->config->routing.topk;
    EPF_TRY(cli_device_put(r->op, r->seen.topk_idx, r->topk_idx, slots * (int64_t)sizeof(int32_t)));
    return cli_device_put(r->op, r->seen.topk_weight, r->topk_weight,
                          slots * (int64_t)sizeof(float));
}

epf_status run_pack_weight(epf_op *op, epf_weight_config *config, void **kept, epf_weight **weight)
{
    const int64_t *n = config->tensor.shape;
    const int64_t bytes = n[0] * n[1] * n[2] * epf_dtype_bytes(config->tensor.dtype);

    if (op->config.backend != EPF_BACKEND_CPU) {
        EPF_TRY(cli_device_alloc(op->config.backend, bytes, "weights", kept));
        EPF_TRY(cli_device_put(op, *kept, config->tensor.data, bytes));
        config->tensor.data = *kept;
    }
    return epf_weight_create(op, config, weight);
}

/* Packs [L, 2I, H] (gate_up) or [L, H, I] of this rank's experts. */
static epf_status load_weight(run_rank *r, bool gate_up, epf_weight **weight)
{
    const run_job *job = r->job;
    const int64_t h = job->config->hidden;
    const int64_t i = job->config->intermediate;
    const int64_t shape[3] = {job->num_local, gate_up ? 2 * i : h, gate_up ? h : i};
    void *const copy = epf_alloc_aligned((size_t)(shape[0] * shape[1] * shape[2]),
                                         (size_t)epf_dtype_bytes(job->dtype), 64);
    const epf_moe_pack_args pack = {.first = r->rank * job->num_local,
                                    .count = job->num_local,
                                    .dtype = (epf_dtype)job->dtype,
                                    .w13 = gate_up ? copy : NULL,
                                    .w2 = gate_up ? NULL : copy};
    epf_weight_config config;
    epf_status st;

    if (copy == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "rank %d: no memory for the weights of %d experts",
                        r->rank, job->num_local);
    }
    EPF_TRY_GOTO(epf_moe_block_pack(&job->block, &pack), out);
    EPF_TRY_GOTO(epf_weight_config_init(&config), out);
    config.tensor = run_tensor(copy, job->dtype, 3, shape);
    config.gate_up = gate_up;
    st = run_pack_weight(r->op, &config, gate_up ? &r->seen.first : &r->seen.second, weight);
out:
    epf_free(copy);
    return st;
}

/* Finds NaN before any rank waits for another; only we know which file it came from. */
static epf_status first_route(run_rank *r)
{
    char text[512];
    const epf_status st = run_step_router(r);

    if (st != EPF_E_FORMAT) {
        return st;
    }
    (void)snprintf(text, sizeof text, "%s", epf_error_text());
    return EPF_FAIL(st, "%s: %s", r->job->options->input, text);
}

static epf_status load(run_rank *r)
{
    const uint64_t begin_ns = epf_now_ns();

    EPF_TRY(load_tokens(r));
    EPF_TRY(take_tensors(r));
    EPF_TRY(load_weight(r, true, &r->w13));
    EPF_TRY(load_weight(r, false, &r->w2));
    if (r->job->config->shared_intermediate > 0) {
        EPF_TRY(run_shared_load(r));
    }
    r->result->load_ns = epf_now_ns() - begin_ns;
    EPF_TRY(first_route(r));
    return run_put_routing(r);
}

/* The rows are known after the first preprocess. */
static epf_status reserve_rows(run_rank *r)
{
    epf_layout_view view;

    EPF_TRY(epf_layout_get(r->layout, &view));
    r->num_rows = view.num_recv_rows;
    EPF_TRY(cli_device_alloc(r->job->options->backend,
                             r->num_rows * r->job->config->intermediate *
                                 epf_dtype_bytes(r->job->dtype),
                             "rows", &r->seen.activation));
    r->result->num_rows = view.num_recv_rows;
    return cli_device_get(r->op, r->result->expert_rows, view.split_size,
                          r->job->num_local * (int64_t)sizeof *view.split_size);
}

/* ---- the life ---- */

/* What a rank may fail in alone, before it meets the others. */
static epf_status enter(run_rank *r)
{
    EPF_TRY(epf_group_adopt(r->comm, &r->group));
    return cli_device_enter(r->job->options->backend, r->rank);
}

static epf_status open_op(run_rank *r)
{
    const run_job *job = r->job;
    epf_op_config config;

    EPF_TRY(run_agree(r, enter(r)));
    EPF_TRY(epf_op_config_init(&config));
    config.max_tokens = job->max_tokens;
    config.hidden = job->config->hidden;
    config.topk = job->config->routing.topk;
    config.num_tot_experts = job->config->routing.num_experts;
    config.dtype = job->dtype;
    config.capacity = job->options->capacity;
    config.num_workers = job->options->num_workers;
    config.backend = job->options->backend;
    EPF_TRY(epf_op_create(r->group, &config, &r->op));
    EPF_TRY(epf_comm_window_create(r->comm, run_result_bytes(job), &r->window));
    r->result = run_result_at(job, r->window->base[r->rank]);
    r->result->num_workers = r->op->num_workers;
    r->result->node = r->comm->node;
    r->result->is_steady = 1;
    return epf_op_symmetric_bytes(r->op, &r->result->symmetric_bytes);
}

static void set_end(run_end *end, epf_status st)
{
    const char *text = epf_error_text();
    /* Files are read by now: what is unsupported here is so on this machine. */
    end->code = st == EPF_E_UNSUPPORTED ? (int32_t)CLI_NO_DEVICE : (int32_t)cli_exit_of(st);
    (void)snprintf(end->text, sizeof end->text, "%s",
                   st == EPF_OK      ? ""
                   : text[0] != '\0' ? text
                                     : epf_status_text(st));
}

epf_status run_agree(run_rank *r, epf_status mine)
{
    if (mine != EPF_OK) {
        set_end(r->end, mine);
        r->end->is_own = true;
    }
    return epf_comm_agree(r->comm, mine);
}

/* Whether all ranks' first run was so short that more of them cost nothing. */
static epf_status is_short(run_rank *r, bool *answer)
{
    const uint64_t took_ns = r->result->times[0].end_ns - r->result->times[0].begin_ns;
    const int32_t num_ranks = r->comm->num_ranks;
    uint64_t *const all = epf_alloc((size_t)num_ranks, sizeof *all);
    epf_status st = EPF_OK;

    EPF_TRY(run_agree(r, all != NULL ? EPF_OK : EPF_FAIL(EPF_E_NO_MEMORY, "%d times", num_ranks)));
    st = epf_comm_all_gather(r->comm, &took_ns, all, sizeof took_ns);
    *answer = true;
    for (int32_t i = 0; i < num_ranks && st == EPF_OK; i++) {
        *answer = *answer && all[i] < SHORT_NS;
    }
    epf_free(all);
    return st;
}

static epf_status repeat(run_rank *r)
{
    const run_options *o = r->job->options;
    int32_t times = max_runs(r->job);
    run_times unused;

    EPF_TRY(run_step(r, &r->result->times[0])); /* the warm-up, where more follow */
    if (o->repeat == 0) {
        bool go_on = false;
        EPF_TRY(is_short(r, &go_on));
        times = go_on ? times : 1;
    }
    for (int32_t i = 0; i < times && times > 1; i++) {
        if (r->rank == 0) {
            cli_progress("run %d of %d", i + 1, times);
        }
        EPF_TRY(run_step(r, &r->result->times[i]));
    }
    r->result->num_runs = times;
    r->is_profiling = o->profile != NULL;
    return r->is_profiling ? run_step(r, &unused) : EPF_OK;
}

static epf_status live(run_rank *r)
{
    EPF_TRY(open_op(r));
    if (r->rank == 0) {
        cli_progress("loading %d experts on each of %d ranks", r->job->num_local,
                     r->job->num_ranks);
    }
    EPF_TRY(run_agree(r, load(r)));
    EPF_TRY(run_step_preprocess(r));
    EPF_TRY(run_agree(r, reserve_rows(r)));
    EPF_TRY(repeat(r));
    memcpy(r->result->topk_idx, r->topk_idx,
           (size_t)r->num_tokens * (size_t)r->job->config->routing.topk * sizeof *r->topk_idx);
    memcpy(r->result->topk_weight, r->topk_weight,
           (size_t)r->num_tokens * (size_t)r->job->config->routing.topk * sizeof *r->topk_weight);
    memcpy(r->result->shared_gate, r->shared_gate, (size_t)r->num_tokens * sizeof *r->shared_gate);
    return epf_comm_barrier(r->comm);
}

/* Everything but the window, which the report still reads. */
static void free_rank(run_rank *r)
{
    void *const seen[] = {r->seen.tokens, r->seen.topk_idx, r->seen.topk_weight, r->seen.activation,
                          r->seen.output, r->seen.first,    r->seen.second};

    run_shared_free(r);
    epf_weight_destroy(r->w13);
    epf_weight_destroy(r->w2);
    epf_layout_destroy(r->layout);
    epf_op_destroy(r->op);
    epf_free(r->group); /* without its comm, which is the caller's */
    epf_free(r->hidden);
    epf_free(r->tokens);
    epf_free(r->topk_idx);
    epf_free(r->topk_weight);
    epf_free(r->shared_gate);
    epf_free(r->output);
    for (size_t i = 0; i < sizeof seen / sizeof seen[0]; i++) {
        cli_device_free(r->job->options->backend, seen[i]);
    }
}

int run_rank_main(const run_job *job, epf_comm *comm, run_end *end)
{
    run_rank r = {.job = job,
                  .comm = comm,
                  .rank = comm->rank,
                  .num_tokens = run_job_rank_tokens(job, comm->rank),
                  .end = end};
    epf_status st = live(&r);
    bool matches = true;

    if (!end->is_own) {
        set_end(end, st);
    }
    free_rank(&r);
    if (r.rank == 0) {
        cli_progress(NULL);
    }
    if (r.rank == 0 && st == EPF_OK) {
        st = run_report_make(job, r.window, &matches);
        set_end(end, st);
        end->is_own = st != EPF_OK || !matches;
        end->code = st == EPF_OK && !matches ? (int32_t)CLI_MISMATCH : end->code;
    }
    epf_comm_window_destroy(comm, r.window);
    return end->code;
}
