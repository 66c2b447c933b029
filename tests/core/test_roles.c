/* test_roles: which queue each worker starts with, in every kind of phase, and where it goes from there. */
#include <string.h>

#include "core/epf_sched.h"
#include "core_check.h"

static epf_phase phase_of(int32_t kind, int32_t num_comm, int32_t num_tail)
{
    epf_phase p;
    memset(&p, 0, sizeof p);
    p.kind = kind;
    p.num_workers = 6;
    p.num_comm_workers = num_comm;
    p.num_tail_workers = num_tail;
    return p;
}

/* Workers [0, 2) communicate, [2, 3) finish, [3, 6) multiply. */
static void check_split(int32_t kind, int32_t comm_queue, int32_t tail_queue)
{
    const epf_phase p = phase_of(kind, 2, 1);
    for (int32_t w = 0; w < 6; w++) {
        const int32_t want = w < 2 ? comm_queue : w < 3 ? tail_queue : EPF_TASK_GEMM;
        CHECK(epf_phase_first_queue(&p, w) == want, "kind %d, worker %d", kind, w);
    }
}

static void check_all_multiply(int32_t kind, int32_t queue)
{
    const epf_phase p = phase_of(kind, 2, 1);
    for (int32_t w = 0; w < 6; w++) {
        CHECK(epf_phase_first_queue(&p, w) == queue, "kind %d, worker %d", kind, w);
    }
}

int main(void)
{
    const epf_phase none = phase_of(EPF_PHASE_COMBINE_SCATTER, 0, 0);
    check_split(EPF_PHASE_DISPATCH, EPF_TASK_DISPATCH, EPF_TASK_EXPAND);
    check_split(EPF_PHASE_COMBINE_SCATTER, EPF_TASK_SCATTER, EPF_TASK_REDUCE);
    check_all_multiply(EPF_PHASE_COMBINE_SERIAL, EPF_TASK_GEMM);
    check_all_multiply(EPF_PHASE_GEMM, EPF_TASK_GEMM);
    check_all_multiply(EPF_PHASE_GRAD, EPF_TASK_GRAD);
    CHECK(epf_phase_first_queue(&none, 0) == EPF_TASK_GEMM, "no roles");
    for (int32_t step = 0; step < 8; step++) { /* queues ascend from the first, then none */
        const int32_t queue = EPF_TASK_GEMM + step;
        CHECK(epf_phase_queue(&none, 0, step) ==
                  (queue < EPF_NUM_TASK_CLASSES ? queue : EPF_TASK_NONE),
              "step %d", step);
    }
    return 0;
}
