/*
 * test_op_many: two operators of one group used in turn, and separate groups used at once by threads of
 * their own, do not disturb each other.
 */
#include <pthread.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

/* The other operator is gone.  Freeing its memory waits for a device, where a peer's next call would wait
 * for this rank, so that all come out of it together. */
static bool go_on(op_rank *r)
{
    RANK_OK(r->rank, epf_op_barrier(r->op));
    return op_preprocess(r) && op_dispatch(r) && op_combine(r);
}

/* Two operators on one group: the second is made, used and ended while the first lives. */
static void run_in_turn(epf_test_rank *rank)
{
    op_rank first;
    op_rank second;
    bool ok = op_open(&first, rank->user, rank) && op_open(&second, rank->user, rank);

    for (int32_t i = 0; i < 3 && ok; i++) {
        ok = op_preprocess(&first) && op_preprocess(&second) && op_dispatch(&first) &&
             op_dispatch(&second) && op_combine(&second) && op_combine(&first);
    }
    op_close(&second);
    (void)(ok && go_on(&first));
    op_close(&first);
}

static void *run_alone(void *argument)
{
    return op_case_run(argument, "at once") == 0 ? NULL : argument;
}

static const char *const kTexts[] = {"W2E4K2T13H24N16M8/zipf/seed81",
                                     "W2E6K3T9H16N24M4/uniform/seed82/fuse_scatter"};

int main(void)
{
    const op_knobs knobs = {.repeat = 5, .gates = true};
    epf_data *data[2];
    op_case *cases[2];
    pthread_t threads[2];
    int32_t failed = 0;

    for (int32_t i = 0; i < 2; i++) {
        const epf_problem problem = epf_problem_of(kTexts[i]);
        data[i] = epf_data_make(&problem);
        cases[i] = op_case_make(data[i], &knobs, false);
        failed += op_run_function(cases[i], run_in_turn, 0, "in turn");
    }
    /* Two groups at once would each take all of a device, and wait for what the other keeps. */
    for (int32_t i = 0; i < 2 && !epf_space_is_device(); i++) {
        CHECK(pthread_create(&threads[i], NULL, run_alone, cases[i]) == 0, "thread %d", i);
    }
    for (int32_t i = 0; i < 2; i++) {
        void *bad = NULL;
        CHECK(epf_space_is_device() || pthread_join(threads[i], &bad) == 0, "thread %d", i);
        failed += bad != NULL;
        op_case_free(cases[i]);
        epf_data_free(data[i]);
    }
    return op_finish(failed);
}
