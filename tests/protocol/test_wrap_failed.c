/*
 * test_wrap_failed: what fails where all ranks start again from epoch 0 leaves them in disagreement, so the
 * error shows in epf_op_poll_error() on every rank, calls are refused until the reset, and then work again.
 * A rank that resets at once ends the waiting of those that still meet there.
 */
#include "base/epf_clock.h"
#include "pair.h"

enum { TIMEOUT_S = 2 };

static epf_backend_ops broken; /* the CPU backend but for one function */

static epf_status fails(epf_op *op)
{
    (void)op;
    return EPF_FAIL(EPF_E_DEVICE, "this rank's words cannot be reached");
}

static void check_closed(const pair_rank *r, epf_status want)
{
    epf_error_record record;
    CHECK(r->status == want, "%s, want %s", epf_status_name(r->status), epf_status_name(want));
    CHECK_OK(epf_op_poll_error(r->op, &record));
    CHECK(record.status == want && record.rank == epf_group_rank(r->group), "the record: %s",
          epf_status_name((epf_status)record.status));
    CHECK(epf_op_barrier(r->op) == EPF_E_STATE, "the operator is not closed");
}

static void before_the_wrap(pair_rank *ranks)
{
    for (int32_t r = 0; r < PAIR_SIZE; r++) {
        ranks[r].op->epoch = EPF_EPOCH_LAST;
        ranks[r].op->backend = &epf_backend_cpu;
    }
}

static void recover(pair_rank *ranks)
{
    for (int32_t r = 0; r < PAIR_SIZE; r++) {
        ranks[r].op->backend = &epf_backend_cpu;
    }
    pair_run_ok(ranks, pair_reset);
    pair_run_ok(ranks, pair_meet);
}

int main(void)
{
    pair_rank ranks[PAIR_SIZE];
    uint64_t start_ns;

    pair_create(ranks, TIMEOUT_S * UINT64_C(1000000000));
    for (int32_t kind = 0; kind < 2; kind++) { /* its own words; what it enqueued before */
        before_the_wrap(ranks);
        broken = epf_backend_cpu;
        *(kind == 0 ? &broken.zero : &broken.wait) = fails;
        ranks[0].op->backend = &broken;
        pair_run(ranks, pair_meet, pair_meet);
        check_closed(&ranks[0], EPF_E_DEVICE);
        check_closed(&ranks[1], EPF_E_TIMEOUT);
        recover(ranks);
    }

    before_the_wrap(ranks);
    start_ns = epf_now_ns();
    pair_run(ranks, pair_reset, pair_meet); /* rank 0 waits for rank 1's reset, in vain */
    CHECK(epf_now_ns() - start_ns < 2 * TIMEOUT_S * UINT64_C(1000000000), "too late");
    check_closed(&ranks[0], EPF_E_TIMEOUT);
    check_closed(&ranks[1], EPF_E_STATE);
    recover(ranks);

    pair_destroy(ranks);
    return 0;
}
