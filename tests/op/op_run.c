/* op_run.c: groups of ranks, and whole cases run on them. */
#include "op_case.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "support/epf_check.h"

/* ---- groups ---- */

struct op_gather {
    pthread_barrier_t barrier;
    int32_t num_ranks;
    unsigned char bytes[];
};

typedef struct gather_seat {
    op_gather *gather;
    int32_t rank;
} gather_seat;

op_gather *op_gather_make(int32_t num_ranks)
{
    op_gather *g = epf_shared_alloc(sizeof *g + (size_t)num_ranks * OP_GATHER_BYTES);
    pthread_barrierattr_t shared;

    CHECK(pthread_barrierattr_init(&shared) == 0 &&
              pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED) == 0 &&
              pthread_barrier_init(&g->barrier, &shared, (unsigned)num_ranks) == 0,
          "a barrier of %d", num_ranks);
    (void)pthread_barrierattr_destroy(&shared);
    g->num_ranks = num_ranks;
    return g;
}

void op_gather_free(op_gather *gather)
{
    if (gather != NULL) {
        epf_shared_free(gather, sizeof *gather + (size_t)gather->num_ranks * OP_GATHER_BYTES);
    }
}

static int all_gather(void *context, const void *send, void *recv, size_t bytes)
{
    const gather_seat *seat = context;
    op_gather *g = seat->gather;

    if (bytes > OP_GATHER_BYTES) {
        return 1;
    }
    memcpy(g->bytes + (size_t)seat->rank * OP_GATHER_BYTES, send, bytes);
    (void)pthread_barrier_wait(&g->barrier);
    for (int32_t r = 0; r < g->num_ranks; r++) {
        memcpy((char *)recv + (size_t)r * bytes, g->bytes + (size_t)r * OP_GATHER_BYTES, bytes);
    }
    (void)pthread_barrier_wait(&g->barrier);
    return 0;
}

bool op_open_group(epf_test_rank *rank, op_case *c, epf_group **group)
{
    gather_seat seat = {c->gather, rank->rank};
    epf_group_config config;

    if (!c->processes) {
        *group = c->groups[rank->rank];
        return true;
    }
    RANK_OK(rank, epf_group_config_init(&config));
    config.rank = rank->rank;
    config.num_ranks = rank->num_ranks;
    config.timeout_ns = c->timeout_ns;
    config.all_gather = all_gather;
    config.all_gather_context = &seat;
    RANK_OK(rank, epf_group_create(&config, group));
    return true;
}

void op_close_group(op_case *c, epf_group *group)
{
    if (c->processes) {
        epf_group_destroy(group);
    }
}

/* ---- the whole case ---- */

static bool run_steps(op_rank *r)
{
    for (int32_t i = 0; i < (r->c->knobs.repeat > 0 ? r->c->knobs.repeat : 1); i++) {
        if (!op_preprocess(r) || !op_check_layout(r) || !op_dispatch(r) || !op_combine(r)) {
            return false;
        }
    }
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && run_steps(&r));
    op_close(&r);
}

int32_t op_run_function(op_case *c, epf_rank_function function, uint64_t may_die, const char *name)
{
    const int32_t ranks = c->data->problem.num_ranks;
    const epf_run run = {.num_ranks = ranks,
                         .processes = c->processes,
                         .may_die = may_die,
                         .function = function,
                         .user = c->user != NULL ? c->user : c};
    epf_group_config config;
    char problem[EPF_PROBLEM_TEXT];
    char full_name[2 * EPF_PROBLEM_TEXT];
    int32_t failed;

    (void)snprintf(full_name, sizeof full_name, "%s [%s%s]", name,
                   epf_problem_print(&c->data->problem, problem),
                   c->processes ? ", processes" : "");
    CHECK_OK(epf_group_config_init(&config));
    config.timeout_ns = c->timeout_ns;
    if (c->processes) {
        c->gather = op_gather_make(ranks);
    } else {
        CHECK_OK(epf_group_create_threads(ranks, &config, c->groups));
    }
    failed = epf_run_ranks(&run, full_name);
    for (int32_t r = 0; r < ranks && !c->processes; r++) {
        epf_group_destroy(c->groups[r]);
    }
    op_gather_free(c->gather);
    c->gather = NULL;
    return failed;
}

int32_t op_case_run(op_case *c, const char *name)
{
    return op_run_function(c, run_rank, 0, name);
}

bool op_run(const char *problem_text, const op_knobs *knobs, bool processes, const char *name)
{
    const epf_problem problem = epf_problem_of(problem_text);
    epf_data *data = epf_data_make(&problem);
    op_case *c;
    int32_t failed;

    if (data == NULL) {
        return true;
    }
    c = op_case_make(data, knobs, processes);
    failed = op_case_run(c, name);
    op_case_free(c);
    epf_data_free(data);
    return failed == 0;
}
