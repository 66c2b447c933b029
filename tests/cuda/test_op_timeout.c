/*
 * test_op_timeout: again and again one rank does not come to one of the calls.  The others find out within
 * the timeout and know whom they waited for; memory and device stay usable; a reset on all ranks brings the
 * operator back, and the next layer is exact.
 *
 *     test_op_timeout [COUNT]      default 100
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/epf_clock.h"
#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

enum { TIMEOUT_MS = 40, SLACK_MS = 1500, NUM_CALLS = OP_ALL_CALLS };

typedef struct meeting {
    op_case *c;
    int32_t count;
    atomic_int num_done; /* over all rounds */
} meeting;

static void meet(meeting *m, int32_t round, int32_t num_ranks)
{
    const struct timespec pause = {0, 200000};

    atomic_fetch_add(&m->num_done, 1);
    while (atomic_load(&m->num_done) < (round + 1) * num_ranks) {
        (void)nanosleep(&pause, NULL);
    }
}

static bool check_record(op_rank *r, int32_t absent, double ms)
{
    epf_error_record record;

    RANK_CHECK(r->rank, ms < TIMEOUT_MS + SLACK_MS, "after %.0f ms", ms);
    RANK_OK(r->rank, epf_op_poll_error(r->op, &record));
    RANK_CHECK(r->rank, record.status == EPF_E_TIMEOUT && record.peer == absent,
               "the record says %s of rank %d, worker %d, object %s",
               epf_status_name((epf_status)record.status), record.peer, record.worker,
               record.object == NULL ? "-" : record.object);
    return true;
}

/* Of this round rank `absent` makes `calls` - 1 calls, the others `calls`. */
static bool round_of(op_rank *r, meeting *m, int32_t round, epf_rng *shared)
{
    const int32_t calls = epf_rng_range(shared, 1, NUM_CALLS);
    const int32_t absent = epf_rng_below(shared, r->rank->num_ranks);
    const uint64_t begin = epf_now_ns();
    epf_status st = EPF_OK;

    if (r->id != absent) {
        st = op_try_calls(r, calls);
        RANK_CHECK(r->rank, st == EPF_E_TIMEOUT, "round %d, call %d without rank %d: %s: %s", round,
                   calls, absent, epf_status_name(st), epf_last_error());
        if (!check_record(r, absent, (double)(epf_now_ns() - begin) / 1e6)) {
            return false;
        }
    } else if (calls > 1) {
        (void)op_try_calls(r, calls - 1); /* an error if the others have given up meanwhile */
    }
    meet(m, round, r->rank->num_ranks);
    RANK_OK(r->rank, epf_op_reset(r->op));
    return op_preprocess(r) && op_check_layout(r) && op_dispatch(r) && op_combine(r);
}

static void run_rank(epf_test_rank *rank)
{
    meeting *m = rank->user;
    epf_rng shared = epf_rng_make(m->c->data->problem.seed, 400);
    op_rank r;
    bool ok = op_open(&r, m->c, rank);

    for (int32_t i = 0; i < m->count && ok; i++) {
        ok = round_of(&r, m, i, &shared);
        if (!ok) {
            atomic_fetch_add(&m->num_done, 1 << 20); /* nobody waits for this rank */
        }
    }
    op_close(&r);
}

static int32_t run(const char *text, int32_t count)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.gates = true, .own_outputs = true};
    epf_data *data = epf_data_make(&problem);
    meeting m = {.c = op_case_make(data, &knobs, false), .count = count};
    int32_t failed;

    m.c->timeout_ns = TIMEOUT_MS * UINT64_C(1000000);
    m.c->user = &m;
    failed = op_run_function(m.c, run_rank, 0, "timeout");
    op_case_free(m.c);
    epf_data_free(data);
    return failed;
}

int main(int argc, char **argv)
{
    const int32_t count = argc > 1 ? (int32_t)strtol(argv[1], NULL, 10) : 100;

    return op_finish(run("W2E4K2T40H64N64/zipf/seed501", count / 2) +
                     run("W4E8K2T40H64N64/uniform/seed502/fuse_scatter", count - count / 2));
}
