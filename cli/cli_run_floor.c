/* cli_run_floor.c: what the run had at least to do, and how fast this machine could. */
#include <math.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cli_run_report.h"
#include "core/epf_dtype.h"

/* Shared experts: a gated MLP on every token of the rank. */
static cli_cost shared_cost(const run_job *job, double tokens)
{
    const double h = job->config->hidden, i = job->config->shared_intermediate;
    const double bytes = epf_dtype_bytes(job->dtype);
    return i > 0 ? (cli_cost){6 * tokens * h * i, bytes * (3 * h * i + 2 * tokens * h), 0}
                 : (cli_cost){0};
}

static cli_work work_of(const run_report *report, int32_t rank)
{
    const run_job *job = report->job;
    const run_result *result = report->ranks[rank];
    const int32_t topk = job->config->routing.topk;
    cli_work work = {.tokens = run_job_rank_tokens(job, rank), .rows = result->num_rows};

    for (int32_t e = 0; e < job->num_local; e++) {
        work.experts += result->expert_rows[e] > 0;
    }
    for (int32_t t = 0; t < run_job_rank_tokens(job, rank); t++) {
        const int32_t *ids = result->topk_idx + (int64_t)t * topk;
        for (int32_t k = 0; k < topk; k++) {
            bool is_first = ids[k] / job->num_local != rank;
            work.slots += is_first;
            for (int32_t other = 0; other < k && is_first; other++) {
                is_first = ids[other] / job->num_local != ids[k] / job->num_local;
            }
            work.sent += is_first;
        }
    }
    return work;
}

/* All ranks share this machine; but a rank can use no more than its own workers. */
static double phase_floor(const run_report *report, const cli_cost *costs, const char **limit)
{
    const double num_threads = report->num_threads;
    cli_cost total = {0};
    double most = 0;

    for (int32_t r = 0; r < report->job->num_ranks; r++) {
        const double own = costs[r].flop / (report->rates.flop_per_s / num_threads *
                                            fmin(report->ranks[r]->num_workers, num_threads));
        total.flop += costs[r].flop;
        total.memory_bytes += costs[r].memory_bytes;
        most = fmax(most, own);
    }
    *limit = "FLOP";
    return fmax(most, cli_floor(&total, &report->rates, most > 0 ? limit : NULL));
}

epf_status run_find_floors(run_report *report)
{
    const run_job *job = report->job;
    const epf_model_config *c = job->config;
    const int32_t num_cpus = cli_num_cpus();
    const cli_shape shape = {c->hidden,       2 * (int64_t)c->intermediate,
                             c->intermediate, c->routing.num_experts,
                             c->routing.topk, job->num_ranks,
                             job->dtype};
    cli_cost *const costs = epf_alloc((size_t)job->num_ranks * RUN_NUM_PHASES, sizeof *costs);
    int64_t num_workers = 0;
    double touched = 0;
    epf_status st = EPF_OK;

    for (int32_t r = 0; r < job->num_ranks; r++) {
        num_workers += report->ranks[r]->num_workers;
    }
    report->num_threads = (int32_t)(num_workers < num_cpus ? num_workers : num_cpus);
    if (costs == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "report: %d ranks", job->num_ranks);
    }
    for (int32_t r = 0; r < job->num_ranks; r++) {
        const cli_work work = work_of(report, r);
        costs[RUN_DISPATCH * job->num_ranks + r] = cli_cost_dispatch(&shape, &work);
        costs[RUN_COMBINE * job->num_ranks + r] = cli_cost_combine(&shape, &work);
        costs[RUN_SHARED * job->num_ranks + r] = shared_cost(job, work.tokens);
        report->sent += work.sent;
        report->slots += work.slots;
        touched += costs[RUN_DISPATCH * job->num_ranks + r].memory_bytes +
                   costs[RUN_COMBINE * job->num_ranks + r].memory_bytes;
    }
    if (job->options->backend != EPF_BACKEND_CPU) { /* the rates are this machine's cores' */
        report->num_threads = 0;
        goto out;
    }
    EPF_TRY_GOTO(cli_rates_measure(job->dtype, report->num_threads, touched, &report->rates), out);
    for (int phase = RUN_DISPATCH; phase < RUN_NUM_PHASES; phase++) {
        report->floor_seconds[phase] =
            phase_floor(report, costs + phase * job->num_ranks, &report->limits[phase]);
        report->floor_seconds[RUN_NUM_PHASES] += report->floor_seconds[phase];
    }
out:
    epf_free(costs);
    return st;
}
