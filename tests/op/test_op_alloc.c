/*
 * test_op_alloc: each allocation of the library fails once in turn; the call says EPF_E_NO_MEMORY, and
 * the same call works when asked again.  Leaks and stale pointers are the sanitizers' to find.
 *
 * One rank: a refused call leaves nobody waiting.  Then two ranks, where one's failure is everyone's, and
 * nobody waits for the timeout to learn of it.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
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

static epf_status step_profile(op_rank *r)
{
    epf_dispatch_group_gemm_args args = op_dispatch_args(r);

    args.enable_profiler = true;
    args.profile_file_name = "alloc";
    return epf_dispatch_group_gemm(r->op, &args, &r->first);
}

static epf_status step_reset(op_rank *r)
{
    return epf_op_reset(r->op);
}

static epf_layer_forward_args forward_args(op_rank *r)
{
    const int64_t local = r->c->route.num_local_experts;
    const epf_problem *p = &r->c->data->problem;
    epf_layer_forward_args args;

    CHECK_OK(epf_layer_forward_args_init(&args));
    args.input = r->x.tensor;
    args.exp_indices = r->ids.tensor;
    args.weight = r->weight.tensor;
    args.output = r->output.tensor;
    args.weights.w13 =
        op_tensor3(r->c->data->b1[0].data, p->dtype, local, p->num_columns, p->hidden);
    args.weights.w2 =
        op_tensor3(r->c->data->b2[0].data, p->dtype, local, p->hidden, p->num_columns / 2);
    return args;
}

/* Gradients of everything; results go where the forward pass had its output, or nowhere. */
static epf_layer_backward_args backward_args(op_rank *r)
{
    static float grad_weights[2][1024];
    static float grad_inputs[2][1024];
    static float grad_w13[2][8192];
    static float grad_w2[2][8192];
    const epf_layer_forward_args forward = forward_args(r);
    const epf_problem *p = &r->c->data->problem;
    const int64_t local = r->c->route.num_local_experts;
    const int64_t tokens = r->x.rows;
    epf_layer_backward_args args;

    CHECK(tokens * p->hidden <= 1024 && local * p->num_columns * p->hidden <= 8192, "room");
    CHECK_OK(epf_layer_backward_args_init(&args));
    args.grad_output = r->x.tensor;
    args.w13 = forward.weights.w13;
    args.w2 = forward.weights.w2;
    args.grad_input = op_tensor(grad_inputs[r->id], p->dtype, tokens, p->hidden);
    args.grad_weight = op_tensor(grad_weights[r->id], p->weight_dtype, tokens, p->num_topk);
    args.grad_w13 = op_tensor3(grad_w13[r->id], EPF_DTYPE_F32, local, p->num_columns, p->hidden);
    args.grad_w2 = op_tensor3(grad_w2[r->id], EPF_DTYPE_F32, local, p->hidden, p->num_columns / 2);
    return args;
}

static epf_status step_layer(op_rank *r)
{
    const epf_layer_forward_args forward = forward_args(r);
    const epf_layer_backward_args backward = backward_args(r);
    epf_layer_context *context = NULL;
    epf_status st = epf_layer_context_create(r->op, &context);

    if (st == EPF_OK) {
        st = epf_layer_forward(r->op, context, &forward);
    }
    if (st == EPF_OK) {
        st = epf_layer_backward(r->op, context, &backward);
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
           fail_each(r, "profile", step_profile) && fail_each(r, "reset", step_reset) &&
           op_preprocess(r) && fail_each(r, "layer", step_layer) && op_preprocess(r) &&
           op_check_layout(r) && op_dispatch(r) && op_combine(r);
}

static void run_one(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && fail_all(&r));
    op_close(&r);
}

/* ---- two ranks ---- */

enum { MET_MS = 5000 }; /* far below the 20 s of the group's timeout */

static pthread_barrier_t meeting;
static atomic_int statuses[2];
static atomic_bool met_failure;

static void meet(void)
{
    (void)pthread_barrier_wait(&meeting);
}

/* What two ranks do together: what comes before the allocations that fail, and those. */
typedef struct pair_step {
    const char *name;
    bool (*prepare)(op_rank *r);
    step_function step;
    bool together; /* both end with the same status */
} pair_step;

static epf_layer_context *contexts[2];

static bool make_op(op_rank *r, bool lazy, double capacity)
{
    epf_op_config config = op_config_of(r->c);

    config.lazy = lazy;
    config.capacity = capacity > 0 ? capacity : config.capacity;
    RANK_OK(r->rank, epf_op_create(r->group, &config, &r->op));
    return true;
}

static bool prepare_nothing(op_rank *r)
{
    (void)r;
    return true;
}

static bool prepare_op(op_rank *r)
{
    return make_op(r, false, 0);
}

static bool prepare_lazy(op_rank *r)
{
    return make_op(r, true, 0);
}

static bool prepare_layout(op_rank *r)
{
    return prepare_op(r) && op_preprocess(r);
}

static bool prepare_rows(op_rank *r)
{
    return prepare_layout(r) && op_dispatch(r);
}

/* Fewer rows than come. */
static bool prepare_small(op_rank *r)
{
    return make_op(r, false, 0.1) && op_preprocess(r);
}

static bool prepare_context(op_rank *r)
{
    if (!prepare_op(r)) {
        return false;
    }
    RANK_OK(r->rank, epf_layer_context_create(r->op, &contexts[r->id]));
    return true;
}

static bool prepare_forward(op_rank *r)
{
    const epf_layer_forward_args args = forward_args(r);

    if (!prepare_context(r)) {
        return false;
    }
    RANK_OK(r->rank, epf_layer_forward(r->op, contexts[r->id], &args));
    return true;
}

static epf_status step_sync(op_rank *r)
{
    return epf_op_sync(r->op);
}

static epf_status step_ordered(op_rank *r)
{
    epf_preprocess_args args;

    CHECK_OK(epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    args.local_scatter_indices = r->local.tensor;
    return epf_preprocess(r->op, &args, &r->layout);
}

static epf_status step_regrow(op_rank *r)
{
    epf_tensor rows;
    epf_tensor weights;
    return epf_init_output_buffer(r->op, r->layout, 0, &rows, &weights);
}

static epf_status step_forward(op_rank *r)
{
    const epf_layer_forward_args args = forward_args(r);
    return epf_layer_forward(r->op, contexts[r->id], &args);
}

static epf_status step_backward(op_rank *r)
{
    const epf_layer_backward_args args = backward_args(r);
    return epf_layer_backward(r->op, contexts[r->id], &args);
}

static void drop(op_rank *r)
{
    epf_layer_context_destroy(contexts[r->id]);
    contexts[r->id] = NULL;
    epf_layout_destroy(r->layout);
    r->layout = NULL;
    meet(); /* nobody reads our memory any more */
    epf_op_destroy(r->op);
    r->op = NULL;
}

/* Both know: with the same status where all agree first, else at the latest in the next call.  A profile
 * that one rank cannot take is its own affair. */
static bool check_statuses(op_rank *r, const pair_step *s, uint64_t nth, bool is_broken)
{
    const int mine = atomic_load(&statuses[r->id]);
    const int theirs = atomic_load(&statuses[1 - r->id]);

    RANK_CHECK(r->rank, mine == EPF_OK || (mine == EPF_E_NO_MEMORY && atomic_load(&met_failure)),
               "%s, allocation %llu: status %d: %s", s->name, (unsigned long long)nth, mine,
               epf_last_error());
    RANK_CHECK(r->rank, mine == theirs || !s->together,
               "%s, allocation %llu: status %d on rank %d, %d on the other: %s", s->name,
               (unsigned long long)nth, mine, r->id, theirs, epf_last_error());
    RANK_CHECK(r->rank, mine == theirs || is_broken || s->step == step_profile,
               "%s, allocation %llu: status %d on rank %d, %d on the other, who says it works",
               s->name, (unsigned long long)nth, mine, r->id, theirs);
    if (mine == EPF_OK && theirs != EPF_OK && is_broken) {
        RANK_STATUS(r->rank, EPF_E_NO_MEMORY, epf_op_barrier(r->op));
    }
    return true;
}

/* The same call works when asked again. */
static bool try_again(op_rank *r, const pair_step *s, bool is_broken)
{
    if (is_broken) {
        RANK_OK(r->rank, epf_op_reset(r->op));
        if (r->layout != NULL) {
            RANK_OK(r->rank, step_preprocess(r));
        }
    }
    if (s->step == step_backward) {
        RANK_OK(r->rank, step_forward(r));
    }
    RANK_OK(r->rank, s->step(r));
    return true;
}

static bool check_together(op_rank *r, const pair_step *s, uint64_t nth, double ms)
{
    static atomic_int records[2];
    epf_error_record record = {0};
    bool is_broken;

    if (r->op != NULL) {
        RANK_OK(r->rank, epf_op_poll_error(r->op, &record));
    }
    atomic_store(&records[r->id], record.status);
    meet();
    is_broken = atomic_load(&records[0]) != EPF_OK || atomic_load(&records[1]) != EPF_OK;
    RANK_CHECK(r->rank, ms < MET_MS, "%s, allocation %llu: after %.0f ms", s->name,
               (unsigned long long)nth, ms);
    if (!check_statuses(r, s, nth, is_broken)) {
        return false;
    }
    return (atomic_load(&statuses[0]) == EPF_OK && atomic_load(&statuses[1]) == EPF_OK) ||
           try_again(r, s, is_broken);
}

static bool fail_together(op_rank *r, const pair_step *s, uint64_t nth)
{
    uint64_t begin;
    bool ok;

    if (!s->prepare(r)) {
        return false;
    }
    meet();
    if (r->id == 0) {
        epf_alloc_fail_at(nth);
    }
    meet();
    begin = epf_now_ns();
    atomic_store(&statuses[r->id], (int)s->step(r));
    const double ms = (double)(epf_now_ns() - begin) / 1e6;
    meet();
    if (r->id == 0) {
        atomic_store(&met_failure, epf_alloc_count() >= nth);
        epf_alloc_fail_at(0);
    }
    meet();
    ok = check_together(r, s, nth, ms);
    if (ok) {
        drop(r);
    }
    return ok;
}

static void run_two(epf_test_rank *rank)
{
    static const pair_step steps[] = {
        {"create", prepare_nothing, step_create, true},
        {"sync", prepare_lazy, step_sync, true},
        {"preprocess", prepare_op, step_preprocess, true},
        {"preprocess in order", prepare_op, step_ordered, true},
        {"dispatch", prepare_layout, step_dispatch, false},
        {"combine", prepare_rows, step_combine, false},
        {"profile", prepare_layout, step_profile, false},
        {"regrow", prepare_small, step_regrow, true},
        {"regrowing dispatch", prepare_small, step_dispatch, false},
        {"reset", prepare_layout, step_reset, false},
        {"forward", prepare_context, step_forward, false},
        {"backward", prepare_forward, step_backward, false},
    };
    op_rank r;
    bool ok = op_open(&r, rank->user, rank);

    if (ok) {
        drop(&r); /* each attempt makes its own */
    }
    for (size_t i = 0; i < sizeof steps / sizeof *steps && ok; i++) {
        uint64_t n = 1;
        do {
            ok = fail_together(&r, &steps[i], n++);
        } while (ok && atomic_load(&met_failure));
        if (r.id == 0) {
            num_sites += (int32_t)n - 2;
        }
        meet();
    }
    op_close(&r);
}

static int32_t run(const char *text, epf_rank_function function)
{
    const epf_problem problem = epf_problem_of(text);
    const op_knobs knobs = {.num_workers = 2, .gates = true, .local_scatter = true};
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

    CHECK(pthread_barrier_init(&meeting, NULL, 2) == 0, "barrier");
    fail_group();
    failed = run("W1E3K2T6H16N32M4/zipf/seed131", run_one);
    printf("%d allocations failed in turn\n", num_sites);
    num_sites = 0;
    failed += run("W2E4K2T6H16N32M4/zipf/seed132", run_two);
    printf("%d allocations of two ranks failed in turn\n", num_sites);
    return failed == 0 ? 0 : 1;
}
