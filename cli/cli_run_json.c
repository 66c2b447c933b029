/* cli_run_json.c: the report as one JSON object. */
#include "cli_json.h"
#include "cli_run_report.h"
#include "core/epf_dtype.h"

static json_t *model_json(const run_job *job)
{
    const epf_model_config *c = job->config;
    return json_pack("{s:o, s:I, s:s, s:i, s:i, s:i, s:i, s:i}", "checkpoint",
                     cli_json_text(job->options->checkpoint), "layer",
                     (json_int_t)job->options->layer, "type", epf_model_type_name(c->type),
                     "hidden", c->hidden, "intermediate", c->intermediate, "num_experts",
                     c->routing.num_experts, "topk", c->routing.topk, "shared_intermediate",
                     c->shared_intermediate);
}

static json_t *ranks_json(const run_report *report)
{
    json_t *ranks = json_array();
    for (int32_t r = 0; r < report->job->num_ranks; r++) {
        const run_result *rank = report->ranks[r];
        json_t *rows = json_array();
        for (int32_t e = 0; e < report->job->num_local; e++) {
            (void)json_array_append_new(rows, json_integer(rank->expert_rows[e]));
        }
        (void)json_array_append_new(
            ranks,
            json_pack("{s:i, s:i, s:i, s:i, s:I, s:f, s:o}", "rank", r, "tokens",
                      run_job_rank_tokens(report->job, r), "rows", rank->num_rows, "workers",
                      rank->num_workers, "symmetric_bytes", (json_int_t)rank->symmetric_bytes,
                      "load_seconds", 1e-9 * (double)rank->load_ns, "expert_rows", rows));
    }
    return ranks;
}

static json_t *phases_json(const run_report *report)
{
    json_t *phases = json_array();
    for (int phase = 0; phase <= RUN_NUM_PHASES; phase++) {
        json_t *item = json_pack("{s:s, s:f}", "name", run_phase_name(phase), "seconds",
                                 report->seconds[phase]);
        if (report->floor_seconds[phase] > 0) {
            (void)json_object_set_new(item, "floor_seconds",
                                      json_real(report->floor_seconds[phase]));
            (void)json_object_set_new(
                item, "floor_percent",
                json_real(100 * report->floor_seconds[phase] / report->seconds[phase]));
        }
        (void)json_array_append_new(phases, item);
    }
    return phases;
}

static json_t *check_json(const run_report *report)
{
    const run_check *c = &report->check;
    if (!report->job->options->check) {
        return json_null();
    }
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "passed", c->passed,
                     "tokens", (json_int_t)c->num_tokens, "routed_same", (json_int_t)c->num_same,
                     "routed_ties", (json_int_t)c->num_ties, "misrouted",
                     (json_int_t)c->num_misrouted, "max_weight_error",
                     cli_json_real(c->max_weight_error), "max_error", cli_json_real(c->max_error),
                     "relative_error", cli_json_real(c->relative_error), "max_error_over_bound",
                     cli_json_real(c->max_ratio), "error_there", cli_json_real(c->error_at_max),
                     "bound_there", cli_json_real(c->bound_at_max));
}

static json_t *expect_json(const run_report *report)
{
    const run_options *o = report->job->options;
    if (o->expect == NULL) {
        return json_null();
    }
    return json_pack("{s:o, s:b, s:o, s:o, s:f}", "file", cli_json_text(o->expect), "passed",
                     report->expect_passed, "max_error", cli_json_real(report->expect_max_error),
                     "relative_error", cli_json_real(report->expect_relative), "tolerance",
                     o->tolerance);
}

epf_status run_report_json(const run_report *report)
{
    const run_job *job = report->job;
    const run_options *o = job->options;
    json_t *machine = json_pack("{s:i, s:f, s:f}", "threads", report->num_threads,
                                "flop_per_second", report->rates.flop_per_s,
                                "memory_bytes_per_second", report->rates.memory_bytes_per_s);
    json_t *run = json_pack(
        "{s:o, s:I, s:i, s:s, s:s, s:s, s:s, s:i}", "input", cli_json_text(o->input), "tokens",
        (json_int_t)job->num_tokens, "ranks", job->num_ranks, "started", job->started, "device",
        o->backend == EPF_BACKEND_CUDA ? "cuda" : "cpu", "dtype", epf_dtype_name(job->dtype),
        "mode", o->mode == EPF_COMBINE_SERIAL ? "serial" : "fuse_scatter", "repeat",
        report->ranks[0]->num_runs);

    return cli_json_print(
        json_pack("{s:s, s:o, s:o, s:o, s:o, s:f, s:b, s:f, s:f, s:o, s:o, s:o, s:o}", "version",
                  epf_version(), "model", model_json(job), "run", run, "per_rank",
                  ranks_json(report), "phases", phases_json(report), "tokens_per_second",
                  (double)job->num_tokens / report->seconds[RUN_NUM_PHASES], "same_bits",
                  report->is_steady, "tokens_sent", report->sent, "tokens_sent_without_saving",
                  report->slots, "machine", machine, "check", check_json(report), "expect",
                  expect_json(report), "output", cli_json_text(o->output)));
}
