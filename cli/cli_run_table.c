/* cli_run_table.c: the report as a table. */
#include <inttypes.h>
#include <stdio.h>

#include "cli_run_report.h"
#include "cli_text.h"
#include "core/epf_dtype.h"
#include "prof/epf_prof.h"

enum { BAR_COLUMNS = 24 };

const char *run_phase_name(int phase)
{
    static const char *const names[] = {
#define X(name, text) text,
        RUN_PHASE_MAP(X)
#undef X
    };
    return phase < RUN_NUM_PHASES ? names[phase] : "whole layer";
}

static void print_head(const run_report *report)
{
    const run_job *job = report->job;
    const epf_model_config *c = job->config;
    const run_options *o = job->options;

    printf("%sepfuse %s%s  %s, layer %" PRId64 " (%s): H %d, I %d, E %d, K %d", cli_bold(),
           epf_version(), cli_plain(), o->checkpoint, o->layer, epf_model_type_name(c->type),
           c->hidden, c->intermediate, c->routing.num_experts, c->routing.topk);
    if (c->shared_intermediate > 0) {
        printf(", shared %d%s", c->shared_intermediate, c->has_shared_gate ? " gated" : "");
    }
    printf("\n%" PRId64 " tokens of %s as %s on %d rank%s (%s%s, %d worker%s each), %s\n\n",
           job->num_tokens, o->input, epf_dtype_name(job->dtype), job->num_ranks,
           job->num_ranks == 1 ? "" : "s", job->started,
           o->backend == EPF_BACKEND_CUDA ? " on CUDA" : "", report->ranks[0]->num_workers,
           report->ranks[0]->num_workers == 1 ? "" : "s",
           o->mode == EPF_COMBINE_SERIAL ? "serial" : "fuse_scatter");
}

static void print_ranks(const run_report *report)
{
    const run_job *job = report->job;
    const run_load load = run_load_of(report);
    const double num_experts = job->config->routing.num_experts;
    char bar[CLI_BAR_BYTES], spark[CLI_BAR_BYTES], summary[160];

    printf("%s%5s %8s %9s  %-*s  rows of experts%s\n", cli_bold(), "rank", "tokens", "rows",
           BAR_COLUMNS, "load", cli_plain());
    for (int32_t r = 0; r < job->num_ranks; r++) {
        const run_result *rank = report->ranks[r];
        cli_line("%5d %8d %9d  %s  %s", r, run_job_rank_tokens(job, r), rank->num_rows,
                 cli_bar(rank->num_rows, load.max_rank_rows, BAR_COLUMNS, bar),
                 cli_spark(rank->expert_rows, job->num_local, load.max_expert_rows, spark));
    }
    summary[0] = '\0';
    if (load.num_rows > 0) {
        (void)snprintf(summary, sizeof summary,
                       "busiest rank %.2f x the mean, expert %d %.2f x (%d rows), %d of %d idle",
                       load.max_rank_rows * (double)job->num_ranks / (double)load.num_rows,
                       load.max_expert, load.max_expert_rows * num_experts / (double)load.num_rows,
                       load.max_expert_rows, load.num_idle_experts,
                       job->config->routing.num_experts);
    }
    cli_line("%5s %8" PRId64 " %9" PRId64 "  %s", "all", job->num_tokens, load.num_rows, summary);
    if (job->num_ranks > 1) {
        char bytes[CLI_NUMBER_BYTES];
        const double width = epf_dtype_bytes(job->dtype) * (double)job->config->hidden;
        printf(
            "      %s of tokens cross between ranks, %.0f %% saved by sending each once per rank\n",
            cli_bytes(report->sent * width, bytes),
            report->slots > 0 ? 100 * (1 - report->sent / report->slots) : 0);
    }
    printf("\n");
}

static void print_phase(const run_report *report, int phase)
{
    const double seconds = report->seconds[phase];
    const double floor_seconds = report->floor_seconds[phase];
    char time[CLI_NUMBER_BYTES], floor_time[CLI_NUMBER_BYTES], bar[CLI_BAR_BYTES];
    char of_floor[96] = "";

    if (floor_seconds > 0) {
        (void)snprintf(of_floor, sizeof of_floor, "%10s %8.1f %%  %s",
                       cli_time(floor_seconds, floor_time), 100 * floor_seconds / seconds,
                       phase < RUN_NUM_PHASES ? report->limits[phase] : "");
    }
    cli_line("%-19s %10s  %s %s", run_phase_name(phase), cli_time(seconds, time),
             cli_bar(phase == RUN_NUM_PHASES ? 0 : seconds, report->seconds[RUN_NUM_PHASES],
                     BAR_COLUMNS, bar),
             of_floor);
}

static void print_times(const run_report *report)
{
    const int32_t repeat = report->ranks[0]->num_runs;
    char flop[CLI_NUMBER_BYTES], memory[CLI_NUMBER_BYTES];

    printf("%s%-19s %10s  %-*s %10s %10s%s\n", cli_bold(), "phase, slowest rank", "time",
           BAR_COLUMNS, "share", "floor", "of floor", cli_plain());
    for (int phase = 0; phase <= RUN_NUM_PHASES; phase++) {
        if (phase != RUN_SHARED || report->job->config->shared_intermediate > 0) {
            print_phase(report, phase);
        }
    }
    if (report->num_threads > 0) {
        printf("floor: the larger of FLOP at %s and memory bytes at %s, measured here just now "
               "with %d "
               "thread%s\n\n",
               cli_si(report->rates.flop_per_s, "FLOP/s", flop),
               cli_si(report->rates.memory_bytes_per_s, "B/s", memory), report->num_threads,
               report->num_threads == 1 ? "" : "s");
    }
    printf("%s%.0f tokens/s", report->num_threads > 0 ? "" : "\n",
           (double)report->job->num_tokens / report->seconds[RUN_NUM_PHASES]);
    if (repeat > 1) {
        printf(", median of %d runs after a warm-up, %s", repeat,
               report->is_steady ? "all with the same bits" : "WITH DIFFERENT BITS");
    } else {
        printf(", of the first and only run");
    }
    printf("\n");
}

static void print_verdict(bool passed)
{
    printf("  %s%s%s\n", passed ? cli_green() : cli_red(), passed ? "ok" : "MISMATCH", cli_plain());
}

static void print_check(const run_report *report)
{
    const run_check *check = &report->check;

    printf("check   routing  %" PRId64 " of %" PRId64 " tokens as in double precision",
           check->num_same, check->num_tokens);
    if (check->num_ties + check->num_misrouted > 0) {
        printf(", %" PRId64 " within rounding of a tie, %" PRId64 " wrong", check->num_ties,
               check->num_misrouted);
    }
    printf("; weights within %.1e", check->max_weight_error);
    print_verdict(check->num_misrouted == 0 && check->max_weight_ratio <= 1);
    printf("check   output   max error %.2e, relative %.2e; nearest to a bound: %.2e of %.2e at "
           "[%" PRId64 ", %" PRId64 "]",
           check->max_error, check->relative_error, check->error_at_max, check->bound_at_max,
           check->worst_token, check->worst_column);
    print_verdict(check->max_ratio <= 1);
}

void run_report_table(const run_report *report)
{
    const run_options *o = report->job->options;

    print_head(report);
    print_ranks(report);
    print_times(report);
    if (o->check) {
        print_check(report);
    }
    if (o->expect != NULL) {
        printf("expect  %s  max error %.2e, relative %.2e of %.2e", o->expect,
               report->expect_max_error, report->expect_relative, o->tolerance);
        print_verdict(report->expect_passed);
    }
    if (o->profile != NULL) {
        printf("profile " EPF_PROF_FOLDER "/%s_*: open in ui.perfetto.dev, or epfuse trace\n",
               o->profile);
    }
    if (o->output != NULL) {
        printf("output  %s\n", o->output);
    }
}
