/*
 * test_wrap_failed: what fails where all ranks start again from epoch 0 leaves them in disagreement, so the
 * error shows in epf_op_poll_error() on every rank, calls are refused until the reset, and then work again.
 * A rank that resets at once ends the waiting of those that still meet there.
 */
#include <pthread.h>
#include <string.h>

#include "api/epf_backend.h"
#include "base/epf_clock.h"
#include "support/epf_check.h"

enum { NUM_RANKS = 2, TIMEOUT_S = 2 };

typedef struct rank {
    epf_group *group;
    epf_op *op;
    epf_status status;
    pthread_t thread;
} rank;

static epf_backend_ops broken; /* the CPU backend but for one function */

static epf_status fails(epf_op *op)
{
    (void)op;
    return EPF_FAIL(EPF_E_DEVICE, "this rank's words cannot be reached");
}

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

static void on_all(rank *ranks, void *(*first)(void *), void *(*second)(void *))
{
    CHECK(pthread_create(&ranks[0].thread, NULL, first, &ranks[0]) == 0, "no thread");
    CHECK(pthread_create(&ranks[1].thread, NULL, second, &ranks[1]) == 0, "no thread");
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        CHECK(pthread_join(ranks[r].thread, NULL) == 0, "not joined");
    }
}

/* All well on both. */
static void on_all_ok(rank *ranks, void *(*function)(void *))
{
    on_all(ranks, function, function);
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        CHECK(ranks[r].status == EPF_OK, "rank %d: %s", r, epf_status_name(ranks[r].status));
    }
}

static void check_closed(const rank *r, epf_status want)
{
    epf_error_record record;
    CHECK(r->status == want, "%s, want %s", epf_status_name(r->status), epf_status_name(want));
    CHECK_OK(epf_op_poll_error(r->op, &record));
    CHECK(record.status == want && record.rank == epf_group_rank(r->group), "the record: %s",
          epf_status_name((epf_status)record.status));
    CHECK(epf_op_barrier(r->op) == EPF_E_STATE, "the operator is not closed");
}

static void before_the_wrap(rank *ranks)
{
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        ranks[r].op->epoch = EPF_EPOCH_LAST;
        ranks[r].op->backend = &epf_backend_cpu;
    }
}

static void recover(rank *ranks)
{
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        ranks[r].op->backend = &epf_backend_cpu;
    }
    on_all_ok(ranks, reset);
    on_all_ok(ranks, meet);
}

int main(void)
{
    rank ranks[NUM_RANKS] = {0};
    epf_group *groups[NUM_RANKS];
    epf_group_config config;
    uint64_t start_ns;

    CHECK_OK(epf_group_config_init(&config));
    config.timeout_ns = TIMEOUT_S * UINT64_C(1000000000);
    CHECK_OK(epf_group_create_threads(NUM_RANKS, &config, groups));
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        ranks[r].group = groups[r];
    }
    on_all_ok(ranks, create);

    for (int32_t kind = 0; kind < 2; kind++) { /* its own words; what it enqueued before */
        before_the_wrap(ranks);
        broken = epf_backend_cpu;
        *(kind == 0 ? &broken.zero : &broken.wait) = fails;
        ranks[0].op->backend = &broken;
        on_all(ranks, meet, meet);
        check_closed(&ranks[0], EPF_E_DEVICE);
        check_closed(&ranks[1], EPF_E_TIMEOUT);
        recover(ranks);
    }

    before_the_wrap(ranks);
    start_ns = epf_now_ns();
    on_all(ranks, reset, meet); /* rank 0 waits for rank 1's reset, in vain */
    CHECK(epf_now_ns() - start_ns < 2 * TIMEOUT_S * UINT64_C(1000000000), "too late");
    check_closed(&ranks[0], EPF_E_TIMEOUT);
    check_closed(&ranks[1], EPF_E_STATE);
    recover(ranks);

    for (int32_t r = 0; r < NUM_RANKS; r++) {
        epf_op_destroy(ranks[r].op);
        epf_group_destroy(groups[r]);
    }
    return 0;
}
