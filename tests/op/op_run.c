/* op_run.c: groups of ranks, and whole cases run on them. */
#include "op_case.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op_device.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

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

/* ---- what is left out on a device ---- */

static atomic_int num_run, num_fp32, num_processes;

bool op_leaves_out(const epf_problem *problem, bool processes)
{
    if (epf_space_is_device() && problem->dtype == EPF_DTYPE_F32) {
        atomic_fetch_add(&num_fp32, 1);
        return true;
    }
    if (epf_space_is_device() && processes) {
        atomic_fetch_add(&num_processes, 1);
        return true;
    }
    return false;
}

int op_finish(int32_t failed)
{
    const int32_t left_out = atomic_load(&num_fp32) + atomic_load(&num_processes);

    if (epf_space_is_device()) {
        printf("groups run: %d; left out: %d of fp32, %d of processes\n", atomic_load(&num_run),
               atomic_load(&num_fp32), atomic_load(&num_processes));
    }
    return failed != 0 ? 1 : atomic_load(&num_run) == 0 && left_out > 0 ? EPF_TEST_SKIPPED : 0;
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
                         .timeout_s = c->processes_on_device ? 240 : 0,
                         .may_die = may_die,
                         .function = function,
                         .user = c->user != NULL ? c->user : c};
    epf_group_config config;
    char problem[EPF_PROBLEM_TEXT];
    char full_name[2 * EPF_PROBLEM_TEXT];
    int32_t failed;

    if (op_leaves_out(&c->data->problem, c->processes && !c->processes_on_device)) {
        return 0;
    }
    epf_space_require(c->processes);
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
    atomic_fetch_add(&num_run, 1);
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
    const bool is_refused = op_device_refuses(&c->knobs) != EPF_OK;

    return op_run_function(c, is_refused ? op_device_refused_rank : run_rank, 0, name);
}

bool op_run(const char *problem_text, const op_knobs *knobs, bool processes, const char *name)
{
    const epf_problem problem = epf_problem_of(problem_text);
    epf_data *data;
    op_case *c;
    int32_t failed;

    if (op_leaves_out(&problem, processes)) {
        return true;
    }
    data = epf_data_make(&problem);
    if (data == NULL) {
        return true;
    }
    c = op_case_make(data, knobs, processes);
    failed = op_case_run(c, name);
    op_case_free(c);
    epf_data_free(data);
    return failed == 0;
}

op_rows op_rows_of(const epf_data *data, void *const *outputs)
{
    const epf_problem *p = &data->problem;
    const size_t row = (size_t)p->hidden * epf_element_bytes(p->dtype);
    op_rows all = {.cols = p->hidden, .dtype = p->dtype};
    char *at;

    for (int32_t r = 0; r < p->num_ranks; r++) {
        all.rows += data->num_tokens[r];
    }
    all.data = at = epf_test_alloc((size_t)all.rows, row);
    for (int32_t r = 0; r < p->num_ranks; r++) {
        memcpy(at, outputs[r], (size_t)data->num_tokens[r] * row);
        at += (size_t)data->num_tokens[r] * row;
    }
    return all;
}

bool op_rows_equal(const char *name, const op_rows *got, const op_rows *want)
{
    const epf_compare what = {name, want->rows, want->cols, NULL};
    char text[EPF_COMPARE_TEXT];

    CHECK(got->rows == want->rows && got->cols == want->cols, "%s: %lld rows of %lld, want %lld",
          name, (long long)got->rows, (long long)got->cols, (long long)want->rows);
    if (epf_compare_bits(&what, want->dtype, got->data, want->data, text)) {
        return true;
    }
    (void)fprintf(stderr, "%s: %s\n", name, text);
    return false;
}
