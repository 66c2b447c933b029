/*
 * test_op_random: random problems with random knobs, to the bit.  A problem is a number:
 *
 *     test_op_random FIRST [COUNT] [MAX_RANKS]
 *
 * runs problems FIRST .. FIRST + COUNT - 1 (default: that one), every eighth as processes, and prints
 * the number of each that fails.
 */
#include <stdio.h>
#include <stdlib.h>

#include "op_device.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

static bool run_number(uint64_t number, int32_t max_ranks)
{
    const epf_problem problem = epf_problem_random(number, max_ranks);
    epf_data *data = epf_data_make(&problem);
    op_knobs knobs;
    op_case *c;
    char name[64];
    int32_t failed;

    if (data == NULL) {
        return true;
    }
    knobs = op_knobs_random(number, &problem);
    op_device_tame(&knobs);
    c = op_case_make(data, &knobs, number % 8 == 0 && !epf_space_is_device());
    (void)snprintf(name, sizeof name, "test_op_random %llu 1 %d", (unsigned long long)number,
                   max_ranks);
    failed = op_case_run(c, name);
    op_case_free(c);
    epf_data_free(data);
    return failed == 0;
}

int main(int argc, char **argv)
{
    const uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    const uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    const int32_t max_ranks = argc > 3 ? (int32_t)strtol(argv[3], NULL, 10) : 8;
    int32_t failed = 0;

    CHECK(max_ranks >= 1 && max_ranks <= EPF_PROBLEM_MAX_RANKS, "max_ranks is %d", max_ranks);
    for (uint64_t number = first; number < first + count; number++) {
        failed += !run_number(number, max_ranks);
    }
    printf("problems %llu..%llu of at most %d ranks: %d failed\n", (unsigned long long)first,
           (unsigned long long)(first + count - 1), max_ranks, failed);
    return op_finish(failed);
}
