/*
 * test_op_lifecycle: lazy, sync, finalize and the sizes, on two ranks; every call in a wrong state is an
 * error, not a crash.
 */
#include <math.h>
#include <string.h>
#include <time.h>

#include "op_case.h"
#include "support/epf_check.h"

enum { MAX_BUFFERS = 64 };

/* The parts add up to the whole, and each has a name of its own within its set. */
static bool check_sizes(op_rank *r, uint64_t *bytes)
{
    epf_buffer_info infos[MAX_BUFFERS];
    int32_t count = 0;
    int32_t again = 0;
    uint64_t sum = 0;
    double mb = 0;
    double gb = 0;

    RANK_OK(r->rank, epf_op_symmetric_bytes(r->op, bytes));
    RANK_OK(r->rank, epf_op_symmetric_mb(r->op, &mb));
    RANK_OK(r->rank, epf_op_symmetric_gb(r->op, &gb));
    RANK_CHECK(r->rank,
               *bytes > 0 && fabs(mb * 1048576 - (double)*bytes) < 1 && fabs(gb * 1024 - mb) < 1e-6,
               "%llu bytes, %g MiB, %g GiB", (unsigned long long)*bytes, mb, gb);
    RANK_OK(r->rank, epf_op_symmetric_breakdown(r->op, NULL, 0, &count));
    RANK_CHECK(r->rank, count > 0 && count <= MAX_BUFFERS, "%d buffers", count);
    RANK_OK(r->rank, epf_op_symmetric_breakdown(r->op, infos, MAX_BUFFERS, &again));
    RANK_CHECK(r->rank, again == count, "%d buffers, then %d", count, again);
    for (int32_t i = 0; i < count; i++) {
        sum += infos[i].bytes + infos[i].padding;
        for (int32_t j = 0; j < i; j++) {
            RANK_CHECK(r->rank,
                       infos[i].buffer_set != infos[j].buffer_set ||
                           strcmp(infos[i].name, infos[j].name) != 0,
                       "two buffers are %s of set %d", infos[i].name, infos[i].buffer_set);
        }
    }
    RANK_CHECK(r->rank, sum == *bytes, "the parts are %llu bytes, the whole %llu",
               (unsigned long long)sum, (unsigned long long)*bytes);
    return true;
}

/* Nothing collective is possible before sync and after finalize. */
static bool check_refused(op_rank *r)
{
    epf_preprocess_args args;
    epf_tensor tensor;

    RANK_OK(r->rank, epf_preprocess_args_init(&args));
    args.exp_indices = r->ids.tensor;
    RANK_STATUS(r->rank, EPF_E_STATE, epf_preprocess(r->op, &args, &r->layout));
    RANK_CHECK(r->rank, r->layout == NULL, "a layout came with the error");
    RANK_STATUS(r->rank, EPF_E_STATE, epf_op_barrier(r->op));
    RANK_STATUS(r->rank, EPF_E_STATE, epf_op_send_buffer(r->op, 0, &tensor));
    RANK_STATUS(r->rank, EPF_E_STATE, epf_op_gate_buffer(r->op, 0, &tensor));
    return true;
}

static bool use(op_rank *r)
{
    return op_preprocess(r) && op_check_layout(r) && op_dispatch(r) && op_combine(r);
}

/* Tables that disagree with the layout are refused before anything is sent. */
static bool check_wrong_table(op_rank *r)
{
    static const int32_t wrong[] = {100000, 100000, 100000, 100000};
    epf_dispatch_group_gemm_args args = op_dispatch_args(r);

    args.tiles.split_size =
        op_in_space(r, op_vector(wrong, EPF_DTYPE_I32, r->c->route.num_local_experts));
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_dispatch_group_gemm(r->op, &args, NULL));
    RANK_CHECK(r->rank, strstr(epf_last_error(), "gemm_split_size[0]: 100000") != NULL, "%s",
               epf_last_error());
    return true;
}

/* Layouts of one call each, destroyed before anybody has waited for it, while peers may be in the next one. */
static bool churn(op_rank *r)
{
    epf_group_gemm_combine_result result;

    epf_layout_destroy(r->layout);
    for (int32_t i = 0; i < 24; i++) {
        const struct timespec pause = {0, (r->id * 7 + i * 3) % 5 * 400000};
        r->layout = NULL;
        if (!op_enqueue(r, &result)) {
            return false;
        }
        epf_layout_destroy(r->layout);
        (void)nanosleep(&pause, NULL);
    }
    r->layout = NULL;
    RANK_OK(r->rank, op_settle(r));
    return use(r);
}

/* One rank dispatches by an older layout than the others: all are told, none hangs, a reset brings them back. */
static bool check_other_layout(op_rank *r)
{
    epf_dispatch_group_gemm_args args;
    epf_layout *const newer = r->layout;
    epf_layout *older = NULL;
    epf_status st;

    r->layout = NULL;
    if (!op_preprocess(r)) {
        return false;
    }
    older = r->layout;
    r->layout = newer;
    if (!op_preprocess(r)) {
        return false;
    }
    r->layout = r->id == 1 ? older : newer;
    args = op_dispatch_args(r);
    st = op_try_dispatch(r, &args);
    r->layout = newer;
    RANK_CHECK(r->rank, st == EPF_E_INVALID, "layouts of two calls: %s: %s", epf_status_name(st),
               epf_last_error());
    epf_layout_destroy(older);
    RANK_OK(r->rank, epf_op_reset(r->op));
    return use(r);
}

static bool live(op_rank *r, op_case *c, epf_test_rank *rank)
{
    epf_op_config config;
    uint64_t before = 0;
    uint64_t after = 0;
    epf_error_record record;
    epf_layout *layout;

    if (!op_open(r, c, rank)) {
        return false;
    }
    epf_op_destroy(r->op);
    r->op = NULL;
    config = op_config_of(c); /* only now: it names this rank's stream */
    config.lazy = true;
    RANK_OK(rank, epf_op_create(r->group, &config, &r->op));
    if (!check_sizes(r, &before) || !check_refused(r)) {
        return false;
    }
    RANK_OK(rank, epf_op_sync(r->op));
    RANK_OK(rank, epf_op_sync(r->op));
    RANK_OK(rank, epf_op_materialize(r->op));
    if (!check_sizes(r, &after) || !use(r)) {
        return false;
    }
    RANK_CHECK(rank, before == after, "%llu bytes before sync, %llu after",
               (unsigned long long)before, (unsigned long long)after);
    RANK_OK(rank, epf_op_poll_error(r->op, &record));
    RANK_CHECK(rank, record.status == EPF_OK, "an error was found: %d", record.status);
    RANK_OK(rank, epf_op_reset(r->op));
    if (!use(r) || !check_wrong_table(r) || !churn(r) || !check_other_layout(r)) {
        return false;
    }
    layout = r->layout;
    r->layout = NULL;
    RANK_OK(rank, epf_op_finalize(r->op));
    RANK_OK(rank, epf_op_finalize(r->op));
    if (!check_refused(r)) {
        return false;
    }
    epf_op_destroy(r->op);
    r->op = NULL;
    epf_layout_destroy(layout); /* outlives its operator */
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    op_case *c = rank->user;
    op_rank r;

    memset(&r, 0, sizeof r);
    (void)live(&r, c, rank);
    op_close(&r);
}

static int32_t run(bool processes)
{
    const epf_problem problem = epf_problem_of("W2E4K2T9H16N24M8/zipf/seed31/fuse_scatter");
    const op_knobs knobs = {.num_buffers = 2, .gates = true};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, processes);
    const int32_t failed = op_run_function(c, run_rank, 0, "lifecycle");

    op_case_free(c);
    epf_data_free(data);
    return failed;
}

int main(void)
{
    epf_op_destroy(NULL);
    epf_group_destroy(NULL);
    epf_layout_destroy(NULL);
    epf_weight_destroy(NULL);
    epf_layer_context_destroy(NULL);
    CHECK(epf_group_rank(NULL) == -1 && epf_group_num_ranks(NULL) == 0, "a NULL group has ranks");
    return op_finish(run(false) + run(true));
}
