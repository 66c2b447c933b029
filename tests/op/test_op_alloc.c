/*
 * test_op_alloc: each allocation of the library fails once in turn; the call says EPF_E_NO_MEMORY, and
 * the same call works when asked again.  Leaks and stale pointers are the sanitizers' to find.
 *
 * One rank: a refused call leaves nobody waiting.  Then the making of an operator on two ranks, where
 * one's failure is everyone's.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "op_case.h"
#include "support/epf_check.h"

enum { MAX_SITES = 2000 };

static int32_t num_sites;

typedef epf_status (*step_function)(op_rank *r);

static epf_status step_create(op_rank *r)
{
    const epf_op_config config = op_config_of(r->c);
    return epf_op_create(r->group, &config, &r->op);
}

static epf_status step_preprocess(op_rank *r)
{
    epf_preprocess_args args;
    CHECK_OK(epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    return epf_preprocess(r->op, &args, &r->layout);
}

static epf_status step_weight(op_rank *r)
{
    epf_weight_config config;
    CHECK_OK(epf_weight_config_init(&config));
    config.tensor = op_dispatch_args(r).gemm_weight;
    return epf_weight_create(r->op, &config, &r->w1);
}

static epf_status step_dispatch(op_rank *r)
{
    const epf_dispatch_group_gemm_args args = op_dispatch_args(r);
    return epf_dispatch_group_gemm(r->op, &args, &r->first);
}

static epf_status step_combine(op_rank *r)
{
    const epf_group_gemm_combine_args args = op_combine_args(r);
    return epf_group_gemm_combine(r->op, &args, NULL);
}

static epf_status step_layer(op_rank *r)
{
    const int64_t local = r->c->route.num_local_experts;
    const epf_problem *p = &r->c->data->problem;
    epf_layer_context *context = NULL;
    epf_layer_forward_args args;
    epf_status st;

    CHECK_OK(epf_layer_forward_args_init(&args));
    args.input = r->x.tensor;
    args.exp_indices = r->ids.tensor;
    args.weight = r->weight.tensor;
    args.output = r->output.tensor;
    args.weights.w13 =
        op_tensor3(r->c->data->b1[0].data, p->dtype, local, p->num_columns, p->hidden);
    args.weights.w2 =
        op_tensor3(r->c->data->b2[0].data, p->dtype, local, p->hidden, p->num_columns / 2);
    st = epf_layer_context_create(r->op, &context);
    if (st == EPF_OK) {
        st = epf_layer_forward(r->op, context, &args);
    }
    epf_layer_context_destroy(context);
    return st;
}

/* A failure inside a collective call has to be reset, one before it does not. */
static bool recover(op_rank *r)
{
    epf_error_record record = {0};

    if (r->op == NULL) {
        return true;
    }
    RANK_OK(r->rank, epf_op_poll_error(r->op, &record));
    RANK_CHECK(r->rank, record.status == EPF_OK || record.status == EPF_E_NO_MEMORY,
               "the record says %s", epf_status_name((epf_status)record.status));
    if (record.status != EPF_OK) {
        RANK_OK(r->rank, epf_op_reset(r->op));
    }
    return true;
}

/* The step with its n-th allocation failing, n = 1, 2, ...; until one run meets no failure. */
static bool fail_each(op_rank *r, const char *name, step_function step)
{
    for (uint64_t n = 1; n < MAX_SITES; n++) {
        epf_status st;
        epf_alloc_fail_at(n);
        st = step(r);
        const bool met = epf_alloc_count() >= n;
        epf_alloc_fail_at(0);
        RANK_CHECK(r->rank, st == EPF_OK || (met && st == EPF_E_NO_MEMORY),
                   "%s, allocation %llu: status %d: %s", name, (unsigned long long)n, st,
                   epf_last_error());
        if (st == EPF_OK && !met) {
            num_sites += (int32_t)n - 1;
            return true;
        }
        if (st != EPF_OK && !recover(r)) {
            return false;
        }
        if (st == EPF_OK && step == step_create) { /* went well without it: start again */
            epf_op_destroy(r->op);
            r->op = NULL;
        } else if (st == EPF_OK && step == step_weight) {
            epf_weight_destroy(r->w1);
            r->w1 = NULL;
        }
    }
    return epf_rank_fail(r->rank, __FILE__, __LINE__, "%s: more than %d allocations", name,
                         (int)MAX_SITES);
}

static bool fail_all(op_rank *r)
{
    epf_op_destroy(r->op); /* op_open() made one */
    r->op = NULL;
    return fail_each(r, "create", step_create) && fail_each(r, "preprocess", step_preprocess) &&
           op_preprocess(r) && op_check_layout(r) && fail_each(r, "weight", step_weight) &&
           fail_each(r, "dispatch", step_dispatch) && fail_each(r, "combine", step_combine) &&
           fail_each(r, "layer", step_layer) && op_preprocess(r) && op_check_layout(r) &&
           op_dispatch(r) && op_combine(r);
}

static void run_one(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && fail_all(&r));
    op_close(&r);
}

/* Which allocation of both ranks' failed is chance; that both see the same outcome is not. */
static bool create_together(op_rank *r, uint64_t nth)
{
    static atomic_int statuses[2];
    const epf_op_config config = op_config_of(r->c);
    epf_op *op = NULL;

    RANK_OK(r->rank, epf_op_barrier(r->op));
    if (r->id == 0) {
        epf_alloc_fail_at(nth);
    }
    RANK_OK(r->rank, epf_op_barrier(r->op));
    atomic_store(&statuses[r->id], (int)epf_op_create(r->group, &config, &op));
    RANK_OK(r->rank, epf_op_barrier(r->op));
    epf_alloc_fail_at(0);
    RANK_CHECK(r->rank, atomic_load(&statuses[0]) == atomic_load(&statuses[1]),
               "allocation %llu: status %d on rank 0, %d on rank 1", (unsigned long long)nth,
               atomic_load(&statuses[0]), atomic_load(&statuses[1]));
    RANK_CHECK(r->rank,
               atomic_load(&statuses[0]) == EPF_OK || atomic_load(&statuses[0]) == EPF_E_NO_MEMORY,
               "allocation %llu: status %d", (unsigned long long)nth, atomic_load(&statuses[0]));
    RANK_CHECK(r->rank, (op != NULL) == (atomic_load(&statuses[r->id]) == EPF_OK), "op and status");
    epf_op_destroy(op);
    return true;
}

static void run_two(epf_test_rank *rank)
{
    op_rank r;
    bool ok = op_open(&r, rank->user, rank);

    for (uint64_t n = 1; n < 120 && ok; n++) {
        ok = create_together(&r, n);
    }
    op_close(&r);
}

static int32_t run(const char *text, epf_rank_function function)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.num_workers = 2, .gates = true};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, false);
    const int32_t failed = op_run_function(c, function, 0, "alloc");

    op_case_free(c);
    epf_data_free(data);
    return failed;
}

/* A group of threads, and nothing else. */
static void fail_group(void)
{
    for (uint64_t n = 1; n < MAX_SITES; n++) {
        epf_group *groups[3] = {NULL, NULL, NULL};
        epf_status st;
        epf_alloc_fail_at(n);
        st = epf_group_create_threads(3, NULL, groups);
        const bool met = epf_alloc_count() >= n;
        epf_alloc_fail_at(0);
        CHECK(st == EPF_OK || (met && st == EPF_E_NO_MEMORY), "group, allocation %llu: status %d",
              (unsigned long long)n, st);
        for (int32_t r = 0; r < 3; r++) {
            CHECK((groups[r] != NULL) == (st == EPF_OK), "rank %d of a failed group", r);
            epf_group_destroy(groups[r]);
        }
        if (!met) {
            num_sites += (int32_t)n - 1;
            return;
        }
    }
}

int main(void)
{
    int32_t failed;

    fail_group();
    failed = run("W1E3K2T6H16N32M4/zipf/seed131", run_one);
    printf("%d allocations failed in turn\n", num_sites);
    failed += run("W2E4K2T6H16N32M4/zipf/seed132", run_two);
    return failed == 0 ? 0 : 1;
}
