/* cli_run_job.c: what all ranks of a process read, opened and checked before the work. */
#include <inttypes.h>
#include <string.h>

#include "base/epf_error.h"
#include "cli_run.h"
#include "core/epf_dtype.h"

int64_t run_job_first_token(const run_job *job, int32_t rank)
{
    const int64_t each = job->num_tokens / job->num_ranks;
    const int64_t more = job->num_tokens % job->num_ranks;
    return rank * each + (rank < more ? rank : more);
}

int32_t run_job_rank_tokens(const run_job *job, int32_t rank)
{
    return (int32_t)(run_job_first_token(job, rank + 1) - run_job_first_token(job, rank));
}

static epf_status open_layer(const run_options *o, run_job *job)
{
    const epf_model_config *c;

    EPF_TRY(epf_checkpoint_open(o->checkpoint, &job->checkpoint));
    c = epf_checkpoint_config(job->checkpoint);
    job->config = c;
    EPF_TRY(epf_model_config_check_layer(c, o->layer));
    EPF_CHECK_ARG(c->routing.num_experts % job->num_ranks == 0,
                  "--ranks: %d does not divide the %d experts of %s", job->num_ranks,
                  c->routing.num_experts, o->checkpoint);
    job->num_local = c->routing.num_experts / job->num_ranks;
    EPF_TRY(epf_moe_block_open(job->checkpoint, o->layer, 0, -1, &job->block));
    job->dtype = o->dtype != 0 ? o->dtype
                               : (int32_t)epf_file_dtype_to_dtype(job->block.experts[0].gate.dtype);
    return epf_router_create(c, &job->block.router_weight, &job->block.router_bias, &job->router);
}

static epf_status open_input(const run_options *o, run_job *job)
{
    EPF_TRY(epf_array_open(o->input, &job->input));
    job->hidden = epf_array_view(job->input);
    EPF_TRY(epf_array_num_tokens(job->input, job->config->hidden, &job->num_tokens));
    EPF_CHECK_ARG(job->num_tokens <= INT32_MAX / job->config->routing.topk,
                  "%s: %" PRId64 " tokens, must be at most %d", o->input, job->num_tokens,
                  INT32_MAX / job->config->routing.topk);
    job->max_tokens = run_job_rank_tokens(job, 0);
    job->max_tokens += job->max_tokens == 0;
    return EPF_OK;
}

static epf_status check_output(const run_options *o)
{
    if (o->output == NULL) {
        return EPF_OK;
    }
    EPF_TRY(epf_array_check_apart(o->output, o->input));
    if (o->expect != NULL) {
        EPF_TRY(epf_array_check_apart(o->output, o->expect));
    }
    return epf_array_check_writable(o->output);
}

epf_status run_job_open(const run_options *options, int32_t num_ranks, run_job *job)
{
    epf_status st;

    memset(job, 0, sizeof *job);
    job->options = options;
    job->num_ranks = num_ranks;
    job->started = options->join        ? "joined processes"
                   : options->processes ? "processes"
                                        : "threads";
    EPF_TRY(check_output(options));
    EPF_TRY_GOTO(open_layer(options, job), err_job);
    EPF_TRY_GOTO(open_input(options, job), err_job);
    return EPF_OK;

err_job:
    run_job_close(job);
    return st;
}

void run_job_close(run_job *job)
{
    epf_array_close(job->input);
    epf_router_destroy(job->router);
    epf_moe_block_close(&job->block);
    epf_checkpoint_close(job->checkpoint);
    memset(job, 0, sizeof *job);
}
