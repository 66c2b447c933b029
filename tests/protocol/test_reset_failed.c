/*
 * test_reset_failed: a reset that fails leaves the operator closed, also on a rank that had seen no error:
 * its words and its epoch may already be new while others' are old.  The next reset opens it on all.
 */
#include "pair.h"

int main(void)
{
    pair_rank ranks[PAIR_SIZE];
    epf_error_record record;
    epf_status st;

    pair_create(ranks, 3000000000u); /* on a busy machine all of them meet within it */
    pair_run_ok(ranks, pair_meet);

    st = epf_op_reset(ranks[0].op); /* alone */
    CHECK(st == EPF_E_TIMEOUT, "a reset that only one rank makes: %s", epf_status_name(st));
    st = epf_op_barrier(ranks[0].op);
    CHECK(st == EPF_E_STATE, "a call after a reset that failed: %s", epf_status_name(st));
    CHECK_OK(epf_op_poll_error(ranks[0].op, &record));
    CHECK(record.status == EPF_E_TIMEOUT && record.rank == 0, "the record: %s on rank %d",
          epf_status_name((epf_status)record.status), record.rank);

    pair_run_ok(ranks, pair_reset);
    pair_run_ok(ranks, pair_meet);
    pair_destroy(ranks);
    return 0;
}
