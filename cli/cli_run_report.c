/* cli_run_report.c: rank 0 at the end: output file, check, and the table. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cli_run.h"
#include "cli_run_report.h"
#include "cli_text.h"
#include "core/epf_dtype.h"
#include "prof/epf_trace.h"

/* ---- numbers that table and JSON share ---- */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of run i: the slowest rank's phase; RUN_NUM_PHASES: first begin to last end. */
static double slowest(const run_report *report, int32_t i, int phase)
{
    uint64_t most = 0, begin_ns = UINT64_MAX, end_ns = 0;
    for (int32_t r = 0; r < report->job->num_ranks; r++) {
        const run_times *times = &report->ranks[r]->times[i];
        begin_ns = times->begin_ns < begin_ns ? times->begin_ns : begin_ns;
        end_ns = times->end_ns > end_ns ? times->end_ns : end_ns;
        if (phase < RUN_NUM_PHASES && times->phase_ns[phase] > most) {
            most = times->phase_ns[phase];
        }
    }
    return 1e-9 * (double)(phase < RUN_NUM_PHASES ? most : end_ns - begin_ns);
}

static epf_status find_medians(run_report *report)
{
    const int32_t count = report->ranks[0]->num_runs;
    double *const values = epf_alloc((size_t)count, sizeof *values);

    if (values == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "report: %d times", count);
    }
    for (int phase = 0; phase <= RUN_NUM_PHASES; phase++) {
        for (int32_t i = 0; i < count; i++) {
            values[i] = slowest(report, i, phase);
        }
        qsort(values, (size_t)count, sizeof *values, compare_doubles);
        report->seconds[phase] = (values[(count - 1) / 2] + values[count / 2]) / 2;
    }
    epf_free(values);
    return EPF_OK;
}

run_load run_load_of(const run_report *report)
{
    run_load load = {.min_rank_rows = INT32_MAX};
    for (int32_t r = 0; r < report->job->num_ranks; r++) {
        const run_result *rank = report->ranks[r];
        load.num_rows += rank->num_rows;
        load.max_rank_rows =
            rank->num_rows > load.max_rank_rows ? rank->num_rows : load.max_rank_rows;
        load.min_rank_rows =
            rank->num_rows < load.min_rank_rows ? rank->num_rows : load.min_rank_rows;
        for (int32_t e = 0; e < report->job->num_local; e++) {
            load.num_idle_experts += rank->expert_rows[e] == 0;
            if (rank->expert_rows[e] > load.max_expert_rows) {
                load.max_expert_rows = rank->expert_rows[e];
                load.max_expert = r * report->job->num_local + e;
            }
        }
    }
    return load;
}

/* ---- output and --expect ---- */

/* The ranks' outputs, one after another. */
static epf_status gather_output(const run_report *report, float **output)
{
    const run_job *job = report->job;
    const size_t hidden = (size_t)job->config->hidden;

    *output = epf_alloc_aligned((size_t)job->num_tokens * hidden, sizeof **output, 64);
    if (*output == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "output: no memory for %" PRId64 " tokens",
                        job->num_tokens);
    }
    for (int32_t r = 0; r < job->num_ranks; r++) {
        memcpy(*output + (size_t)run_job_first_token(job, r) * hidden, report->ranks[r]->output,
               (size_t)run_job_rank_tokens(job, r) * hidden * sizeof **output);
    }
    return EPF_OK;
}

static epf_status compare_expected(run_report *report, const float *output)
{
    const run_job *job = report->job;
    const int64_t hidden = job->config->hidden;
    epf_array *array = NULL;
    float *const row = epf_alloc((size_t)hidden, sizeof *row);
    double error = 0, reference = 0;
    int64_t num_tokens = 0;
    epf_status st = row == NULL ? EPF_FAIL(EPF_E_NO_MEMORY, "expect: a row of %" PRId64, hidden)
                                : epf_array_open(job->options->expect, &array);

    if (st == EPF_OK) {
        st = epf_array_num_tokens(array, hidden, &num_tokens);
    }
    if (st == EPF_OK && num_tokens != job->num_tokens) {
        st = EPF_FAIL(EPF_E_FORMAT, "%s: %" PRId64 " tokens, must be %" PRId64,
                      job->options->expect, num_tokens, job->num_tokens);
    }
    for (int64_t t = 0; t < num_tokens && st == EPF_OK; t++) {
        st = epf_tensor_convert(epf_array_view(array), t * hidden, hidden, EPF_DTYPE_F32, row);
        for (int64_t i = 0; i < hidden; i++) {
            const double d = fabs((double)output[t * hidden + i] - (double)row[i]);
            error += d * d;
            reference += (double)row[i] * (double)row[i];
            report->expect_max_error = d <= report->expect_max_error ? report->expect_max_error : d;
        }
    }
    epf_array_close(array);
    epf_free(row);
    report->expect_relative = sqrt(error) / (reference > 0 ? sqrt(reference) : 1);
    report->expect_passed = report->expect_relative <= job->options->tolerance;
    return st;
}

static epf_status use_output(run_report *report)
{
    const run_job *job = report->job;
    float *output = NULL;
    epf_tensor_view view;
    epf_status st;

    if (job->options->output == NULL && job->options->expect == NULL) {
        return EPF_OK;
    }
    EPF_TRY(gather_output(report, &output));
    st = job->options->expect != NULL ? compare_expected(report, output) : EPF_OK;
    if (st == EPF_OK && job->options->output != NULL) {
        view = epf_tensor_view_of("hidden_states", EPF_FILE_F32, job->hidden->num_dims,
                                  job->hidden->shape, output);
        st = epf_array_write(job->options->output, &view);
    }
    epf_free(output);
    return st;
}

/* ---- profiles ---- */

/* The ranks' traces of one phase in one file. */
static epf_status merge_profile(const run_job *job, bool is_dispatch)
{
    enum { PATH_BYTES = 256 };
    const size_t num_ranks = (size_t)job->num_ranks;
    char name[RUN_PROFILE_BYTES];
    char merged[PATH_BYTES];
    char *const texts = epf_alloc(num_ranks, PATH_BYTES);
    const char **const paths = epf_alloc(num_ranks, sizeof(char *));
    epf_status st = EPF_OK;

    run_profile_name(job->options->profile, is_dispatch, name);
    (void)snprintf(merged, sizeof merged, EPF_PROF_FOLDER "/%s_merged.perfetto-trace", name);
    if (texts == NULL || paths == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "profile: no memory for %d names", job->num_ranks);
    }
    for (int32_t r = 0; r < job->num_ranks && st == EPF_OK; r++) {
        paths[r] = texts + (size_t)r * PATH_BYTES;
        (void)snprintf(texts + (size_t)r * PATH_BYTES, PATH_BYTES,
                       EPF_PROF_FOLDER "/%s_rank_%d.perfetto-trace", name, r);
    }
    if (st == EPF_OK) {
        st = epf_trace_merge(paths, job->num_ranks, merged);
    }
    epf_free(texts);
    epf_free(paths);
    return st;
}

static epf_status merge_profiles(const run_job *job)
{
    EPF_TRY(merge_profile(job, true));
    return merge_profile(job, false);
}

/* ---- the whole ---- */

static epf_status make(run_report *report, bool *matches)
{
    const run_job *job = report->job;
    bool is_steady = true;

    EPF_TRY(find_medians(report));
    EPF_TRY(run_find_floors(report));
    EPF_TRY(job->options->profile != NULL ? merge_profiles(job) : EPF_OK);
    if (job->options->check) {
        EPF_TRY(run_check_make(job, report->ranks, &report->check));
    }
    EPF_TRY(use_output(report));
    for (int32_t r = 0; r < job->num_ranks; r++) {
        is_steady = is_steady && report->ranks[r]->is_steady != 0;
    }
    report->is_steady = is_steady;
    *matches = is_steady && (!job->options->check || report->check.passed) &&
               (job->options->expect == NULL || report->expect_passed);
    if (job->options->json) {
        return run_report_json(report);
    }
    run_report_table(report);
    return EPF_OK;
}

epf_status run_report_make(const run_job *job, const epf_window *window, bool *matches)
{
    run_report report = {.job = job};
    epf_status st;

    report.ranks = epf_alloc((size_t)job->num_ranks, sizeof(run_result *));
    if (report.ranks == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "report: %d ranks", job->num_ranks);
    }
    for (int32_t r = 0; r < job->num_ranks; r++) {
        report.ranks[r] = run_result_at(job, window->base[r]);
    }
    st = make(&report, matches);
    epf_free(report.ranks);
    return st;
}
