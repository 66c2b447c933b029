/* cli_run_report.h: what rank 0 tells: numbers once, shown as a table or as JSON. */
#ifndef EPF_CLI_RUN_REPORT_H
#define EPF_CLI_RUN_REPORT_H

#include "cli_cost.h"
#include "cli_run.h"

typedef struct run_report {
    const run_job *job;
    run_result **ranks;                 /* [W]                                          */
    double seconds[RUN_NUM_PHASES + 1]; /* medians of the slowest rank; last: the whole  */
    cli_rates rates;                    /* of this machine with num_threads             */
    int32_t num_threads;
    double floor_seconds[RUN_NUM_PHASES + 1]; /* 0: none is known                       */
    const char *limits[RUN_NUM_PHASES];
    double sent, slots; /* of all ranks, as in cli_work                                 */
    bool is_steady;     /* all repetitions gave the same bits            */
    run_check check;    /* with --check                                 */
    double expect_max_error, expect_relative; /* with --expect                          */
    bool expect_passed;
} run_report;

/* How even the routing is. */
typedef struct run_load {
    int64_t num_rows;
    int32_t max_rank_rows, min_rank_rows;
    int32_t max_expert, max_expert_rows;
    int32_t num_idle_experts;
} run_load;

run_load run_load_of(const run_report *report);

/* Measures the machine and fills rates, floors, limits, and what was sent. */
epf_status run_find_floors(run_report *report);

const char *run_phase_name(int phase);

void run_report_table(const run_report *report);
epf_status run_report_json(const run_report *report);

#endif
