/*
 * test_op_processes: ranks as processes, spread over the devices there are: routings of the zoo, one operator for
 * all of them, to the bit.  EPFUSE_CUDA_TRANSPORT says how they reach each other's memory (ipc, nvshmem).
 *
 *     test_op_processes [W]      2, 4 or 8: every routing in both combine modes
 *
 * By default 2, then 4 ranks, each routing in one mode, of 4 ranks some: a device that processes share without
 * MPS runs one of them at a time, which takes most of a second for each layer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

enum { MAX_CASES = 64 };

/* Shared by the forked ranks. */
typedef struct zoo {
    op_case *cases[MAX_CASES];
    int32_t num_cases;
    int32_t is_unsupported; /* the transport is not on this machine */
    char why[EPF_RUNNER_TEXT];
} zoo;

static bool open_or_skip(op_rank *r, zoo *z, epf_test_rank *rank)
{
    epf_op_config config;
    epf_status st;

    if (!op_prepare(r, z->cases[0], rank)) {
        return false;
    }
    config = op_config_of(z->cases[0]);
    st = epf_op_create(r->group, &config, &r->op);
    if (st == EPF_E_UNSUPPORTED && getenv("EPFUSE_CUDA_TRANSPORT") != NULL) {
        z->is_unsupported = 1;
        if (rank->rank == 0) {
            (void)snprintf(z->why, sizeof z->why, "%s", epf_last_error());
        }
        return false;
    }
    RANK_OK(rank, st);
    return true;
}

static bool run_case(const op_rank *owner, op_case *c, epf_layout **layout)
{
    op_rank r;
    bool ok;

    op_borrow(&r, c, owner);
    r.layout = *layout;
    ok = op_preprocess(&r) && op_check_layout(&r) && op_dispatch(&r) && op_combine(&r);
    *layout = r.layout;
    r.layout = NULL;
    op_return(&r);
    if (!ok) {
        char problem[EPF_PROBLEM_TEXT];
        (void)fprintf(stderr, "rank %d failed in %s\n", owner->id,
                      epf_problem_print(&c->data->problem, problem));
    }
    return ok;
}

static void run_rank(epf_test_rank *rank)
{
    zoo *z = rank->user;
    epf_layout *layout = NULL;
    op_rank owner;
    bool ok = open_or_skip(&owner, z, rank);

    for (int32_t i = 0; i < z->num_cases && ok; i++) {
        ok = run_case(&owner, z->cases[i], &layout);
    }
    epf_layout_destroy(layout);
    op_close(&owner);
}

/* Of how many routings one is taken, and of how many modes. */
typedef struct share {
    int32_t routings, modes;
} share;

static void make_cases(zoo *z, const char *shape, share one_in, epf_data **data)
{
    int32_t number = 0;

    for (const char *const *name = epf_zoo_names(); *name != NULL; name++, number++) {
        for (int32_t mode = 0; mode < 2; mode++) {
            if (number % one_in.routings != 0 ||
                (number / one_in.routings + mode) % one_in.modes != 0) {
                continue;
            }
            const op_knobs knobs = {
                .block_wise = mode == 1, .own_outputs = mode == 1, .gates = true};
            char text[EPF_PROBLEM_TEXT];
            (void)snprintf(text, sizeof text, "%s/%s/seed%d%s", shape, *name, z->num_cases,
                           mode == 1 ? "/fuse_scatter" : "");
            const epf_problem problem = epf_problem_of(text);
            epf_data *made = epf_data_make(&problem);
            if (made != NULL) {
                CHECK(z->num_cases < MAX_CASES, "more than %d cases", (int)MAX_CASES);
                data[z->num_cases] = made;
                z->cases[z->num_cases] = op_case_make(made, &knobs, true);
                z->cases[z->num_cases++]->processes_on_device = true;
            }
        }
    }
}

static int32_t run(const char *shape, share one_in, bool *is_skipped)
{
    epf_data *data[MAX_CASES];
    zoo *z = epf_shared_alloc(sizeof *z);
    int32_t failed;

    make_cases(z, shape, one_in, data);
    z->cases[0]->user = z;
    failed = op_run_function(z->cases[0], run_rank, 0, "processes");
    if (z->is_unsupported) {
        printf("skipped: %s\n", z->why);
    } else {
        printf("%d routings of %s\n", z->num_cases, shape);
    }
    *is_skipped = *is_skipped || z->is_unsupported;
    for (int32_t i = 0; i < z->num_cases; i++) {
        op_case_free(z->cases[i]);
        epf_data_free(data[i]);
    }
    epf_shared_free(z, sizeof *z);
    return failed;
}

int main(int argc, char **argv)
{
    const share all = {1, 1};
    const share each_once = {1, 2};
    const share some = {3, 2};
    const long only = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    bool is_skipped = false;
    int32_t failed = 0;

    epf_space_require(true);
    if (only == 0 || only == 2) {
        failed += run("W2E6K2T90H72N64", only == 2 ? all : each_once, &is_skipped);
    }
    if (only == 8) { /* for machines with as many devices */
        failed += run("W8E16K4T40H64N72", all, &is_skipped);
    }
    if ((only == 0 && !is_skipped) || only == 4) {
        failed += run("W4E8K3T50H64N72", only == 4 ? all : some, &is_skipped);
    }
    return failed == 0 && is_skipped ? EPF_TEST_SKIPPED : op_finish(failed);
}
