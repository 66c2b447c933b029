/* cli_run.c: epfuse run: starts the ranks, and says what went wrong with them. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cli_run.h"
#include "comm/epf_env.h"
#include "comm/epf_launch.h"

#define GRACE_NS ((uint64_t)5000000000u) /* for ranks to end by themselves after one has failed */

/* All ranks of a run that this process starts; `ends` is shared with forked ranks. */
typedef struct crew {
    const run_job *job;
    run_end *ends; /* [W] mapped */
} crew;

typedef struct seat {
    crew *crew;
    epf_comm *comm;
    pthread_t thread;
} seat;

static void *thread_main(void *argument)
{
    seat *s = argument;
    (void)run_rank_main(s->crew->job, s->comm, &s->crew->ends[s->comm->rank]);
    return NULL;
}

static int process_main(epf_comm *comm, void *context)
{
    crew *c = context;
    return run_rank_main(c->job, comm, &c->ends[comm->rank]);
}

static epf_comm_config comm_config(const run_options *o, int32_t num_ranks)
{
    epf_comm_config config;
    epf_comm_config_init(&config);
    config.num_ranks = num_ranks;
    config.timeout_ns = (uint64_t)(o->timeout_s * 1e9);
    return config;
}

/* Threads that were started are always waited for: they cannot outlast their timeouts. */
static epf_status run_threads(crew *c, int32_t num_ranks)
{
    const epf_comm_config config = comm_config(c->job->options, num_ranks);
    seat *const seats = epf_alloc((size_t)num_ranks, sizeof *seats);
    epf_comm **const comms = epf_alloc((size_t)num_ranks, sizeof(epf_comm *));
    int32_t started = 0;
    epf_status st = EPF_OK;

    if (seats == NULL || comms == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "%d ranks", num_ranks);
        goto out;
    }
    EPF_TRY_GOTO(epf_comm_create_threads(&config, comms), out);
    for (; started < num_ranks; started++) {
        seats[started] = (seat){.crew = c, .comm = comms[started]};
        if (pthread_create(&seats[started].thread, NULL, thread_main, &seats[started]) != 0) {
            st = EPF_FAIL(EPF_E_DEVICE, "starting the thread of rank %d failed", started);
            break;
        }
    }
    for (int32_t r = started; r < num_ranks; r++) {
        epf_comm_destroy(comms[r]); /* the ranks that run notice */
    }
    for (int32_t r = 0; r < started; r++) {
        (void)pthread_join(seats[r].thread, NULL);
        epf_comm_destroy(comms[r]);
    }
out:
    epf_free(seats);
    epf_free(comms);
    return st;
}

/* A rank that was ended leaves nothing in its place: the launcher knows how it went. */
static epf_status run_processes(crew *c, int32_t num_ranks)
{
    const epf_comm_config config = comm_config(c->job->options, num_ranks);
    epf_launch_result *const results = epf_alloc((size_t)num_ranks, sizeof *results);
    epf_status st;

    if (results == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%d ranks", num_ranks);
    }
    st = epf_launch(&config, GRACE_NS, process_main, c, results);
    for (int32_t r = 0; r < num_ranks && st != EPF_OK; r++) {
        run_end *end = &c->ends[r];
        if (results[r].signal != 0 && !results[r].killed) {
            end->code = CLI_LOST;
            end->is_own = true;
            (void)snprintf(end->text, sizeof end->text, "rank %d was ended by signal %d (%s)", r,
                           results[r].signal, strsignal(results[r].signal));
        } else if (end->code == CLI_OK && results[r].status != EPF_OK) {
            end->code = (int)cli_exit_of((epf_status)results[r].status);
            (void)snprintf(end->text, sizeof end->text, "%s", results[r].text);
        }
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        st = c->ends[r].code != CLI_OK ? EPF_OK : st; /* the ends say it better */
    }
    epf_free(results);
    return st;
}

/* The end that explains the others: a rank's own failure first, a lost peer last. */
static const run_end *worst_end(const run_end *ends, int32_t num_ranks)
{
    const run_end *worst = NULL;
    int best_weight = 0;
    for (int32_t r = 0; r < num_ranks; r++) {
        const int weight = ends[r].code == CLI_OK     ? 0
                           : ends[r].is_own           ? 3
                           : ends[r].code != CLI_LOST ? 2
                                                      : 1;
        if (weight > best_weight) {
            worst = &ends[r];
            best_weight = weight;
        }
    }
    return worst;
}

static int tell(const run_end *end)
{
    if (end == NULL) {
        return CLI_OK;
    }
    return end->text[0] == '\0' ? end->code : cli_fail((cli_exit)end->code, "%s", end->text);
}

static int run_crew(const run_job *job)
{
    const size_t bytes = (size_t)job->num_ranks * sizeof(run_end);
    crew c = {.job = job};
    epf_status st;
    int code;

    c.ends = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (c.ends == MAP_FAILED) {
        return cli_fail(CLI_INTERNAL, "no memory for %d ranks", job->num_ranks);
    }
    st = job->options->processes ? run_processes(&c, job->num_ranks)
                                 : run_threads(&c, job->num_ranks);
    code = tell(worst_end(c.ends, job->num_ranks));
    (void)munmap(c.ends, bytes);
    return code == CLI_OK && st != EPF_OK ? cli_fail_status(st) : code;
}

/* W as the launcher says; ranks of a launcher are started by it, one process each. */
static epf_status launcher_ranks(const run_options *o, int32_t *num_ranks)
{
    epf_env env;
    EPF_TRY(epf_env_detect(getenv, &env));
    EPF_CHECK_ARG(env.family != NULL, "--join: no variables of torchrun, mpirun or srun, nor "
                                      "EPFUSE_RANK, EPFUSE_NUM_RANKS and EPFUSE_RENDEZVOUS");
    EPF_CHECK_ARG(o->num_ranks == 0 || o->num_ranks == env.num_ranks,
                  "--ranks: %d, but %s started %d", o->num_ranks, env.family, env.num_ranks);
    *num_ranks = env.num_ranks;
    return EPF_OK;
}

static int run_joined(const run_job *job)
{
    const epf_comm_config config = comm_config(job->options, job->num_ranks);
    epf_comm *comm = NULL;
    run_end end = {.code = CLI_OK};
    epf_status st = epf_comm_create_env(&config, &comm);

    if (st != EPF_OK) {
        return cli_fail_status(st);
    }
    (void)run_rank_main(job, comm, &end);
    epf_comm_destroy(comm);
    return tell(&end);
}

int cli_run(int argc, char **argv)
{
    run_options options;
    run_job job;
    bool done;
    int code = run_options_parse(argc, argv, &options, &done);
    int32_t num_ranks = options.num_ranks;
    epf_status st;

    if (code != CLI_OK || done) {
        return code;
    }
    st = options.join ? launcher_ranks(&options, &num_ranks) : EPF_OK;
    if (st == EPF_OK) {
        st = run_job_open(&options, num_ranks, &job);
    }
    if (st != EPF_OK) {
        return cli_fail_status(st);
    }
    code = options.join ? run_joined(&job) : run_crew(&job);
    run_job_close(&job);
    return code;
}
