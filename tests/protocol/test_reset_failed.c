/*
 * test_reset_failed: a reset that fails leaves the operator closed, also on a rank that had seen no error:
 * its words and its epoch may already be new while others' are old.  The next reset opens it on all.
 */
#include <pthread.h>

#include "epfuse/epfuse.h"
#include "support/epf_check.h"

enum { NUM_RANKS = 2 };

typedef struct rank {
    epf_group *group;
    epf_op *op;
    epf_status status;
    pthread_t thread;
} rank;

static void *create(void *argument)
{
    rank *const r = argument;
    epf_op_config config;
    r->status = epf_op_config_init(&config);
    config.max_tokens = 4;
    config.hidden = 8;
    config.topk = 1;
    config.num_tot_experts = NUM_RANKS;
    config.num_workers = 1;
    if (r->status == EPF_OK) {
        r->status = epf_op_create(r->group, &config, &r->op);
    }
    return NULL;
}

static void *meet(void *argument)
{
    rank *const r = argument;
    r->status = epf_op_barrier(r->op);
    return NULL;
}

static void *reset(void *argument)
{
    rank *const r = argument;
    r->status = epf_op_reset(r->op);
    return NULL;
}

static void on_all(rank *ranks, void *(*function)(void *))
{
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        CHECK(pthread_create(&ranks[r].thread, NULL, function, &ranks[r]) == 0, "no thread");
    }
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        CHECK(pthread_join(ranks[r].thread, NULL) == 0, "not joined");
        CHECK(ranks[r].status == EPF_OK, "rank %d: %s", r, epf_status_name(ranks[r].status));
    }
}

int main(void)
{
    rank ranks[NUM_RANKS] = {0};
    epf_group *groups[NUM_RANKS];
    epf_group_config config;
    epf_error_record record;
    epf_status st;

    CHECK_OK(epf_group_config_init(&config));
    config.timeout_ns = 3000000000u; /* on a busy machine all of them meet within it */
    CHECK_OK(epf_group_create_threads(NUM_RANKS, &config, groups));
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        ranks[r].group = groups[r];
    }
    on_all(ranks, create);
    on_all(ranks, meet);

    st = epf_op_reset(ranks[0].op); /* alone */
    CHECK(st == EPF_E_TIMEOUT, "a reset that only one rank makes: %s", epf_status_name(st));
    st = epf_op_barrier(ranks[0].op);
    CHECK(st == EPF_E_STATE, "a call after a reset that failed: %s", epf_status_name(st));
    CHECK_OK(epf_op_poll_error(ranks[0].op, &record));
    CHECK(record.status == EPF_E_TIMEOUT && record.rank == 0, "the record: %s on rank %d",
          epf_status_name((epf_status)record.status), record.rank);

    on_all(ranks, reset);
    on_all(ranks, meet);
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        epf_op_destroy(ranks[r].op);
        epf_group_destroy(groups[r]);
    }
    return 0;
}
