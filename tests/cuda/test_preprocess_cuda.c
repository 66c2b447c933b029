/*
 * test_preprocess_cuda: routing to layout on the device against the CPU operator, every array to the bit.
 *
 * Ranks are threads that share one GPU, a stream each.  The whole routing zoo with and without scatter indices; bad
 * ids and bad scatter indices on a random rank; a host that refuses; too many rows; thousands of calls in a row;
 * graphs replayed with other ids; the last epoch; a rank that never comes.
 *
 *   test_preprocess_cuda [calls in a row, default 2000]
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/epf_counter.h"
#include "preprocess_world.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

enum { MAX_DATA = 32, REPLAYS = 12, TIMED_CALLS = 200, MAX_QUEUED = 200 };
#define TIMEOUT_NS ((uint64_t)5000000000u)
#define SHORT_TIMEOUT_NS ((uint64_t)50000000u)

static int32_t num_in_a_row = 2000;

/* The zoo in one shape. */
typedef struct zoo {
    epf_data *data[MAX_DATA];
    int32_t num_data;
} zoo;

static zoo make_zoo(const epf_problem *shape)
{
    zoo z = {{NULL}, 0};
    for (const char *const *name = epf_zoo_names(); *name != NULL && z.num_data < MAX_DATA;
         name++) {
        epf_problem p = *shape;
        epf_data *data;
        p.routing = *name;
        p.capacity = 1;
        data = epf_data_make(&p);
        if (data != NULL) {
            z.data[z.num_data++] = data;
        }
    }
    return z;
}

static void free_zoo(zoo *z)
{
    for (int32_t i = 0; i < z->num_data; i++) {
        epf_data_free(z->data[i]);
    }
}

static int32_t *index_at(world *w, world_indices *indices, int32_t slot)
{
    const int32_t topk = w->problem.num_topk;
    return indices->host + (int64_t)(slot / topk) * indices->stride + slot % topk;
}

/* A bad id on one rank: all ranks say where it is. */
static bool call_with_bad_id(world *w, epf_test_rank *rank, const epf_data *data, epf_rng *rng)
{
    const int32_t bad[] = {-2, INT_MIN, INT_MAX, w->problem.num_experts + 1};
    world_rank *const r = &w->ranks[rank->rank];
    const int32_t victim = epf_rng_below(rng, w->problem.num_ranks);
    const int32_t slots = data->num_tokens[victim] * w->problem.num_topk;
    const int32_t slot = slots > 0 ? epf_rng_below(rng, slots) : 0;
    const int32_t id = bad[epf_rng_below(rng, 4)];
    if (slots == 0) {
        return true;
    }
    world_take(w, rank->rank, data, false, false);
    if (rank->rank == victim) {
        *index_at(w, &r->ids, slot) = id;
    }
    if (!world_call(w, rank, EPF_E_INVALID)) {
        return false;
    }
    RANK_CHECK(rank,
               r->host_head->where == slot && r->host_head->value == id &&
                   r->host_head->rank == victim,
               "slot %d is %d on rank %d, want slot %d is %d on rank %d", r->host_head->where,
               r->host_head->value, r->host_head->rank, slot, id, victim);
    return true;
}

static bool is_kept(const world *w, int32_t id)
{
    return id >= 0 && id < w->problem.num_experts;
}

/* Scatter indices in which two slots of one rank have the same place, or one has none. */
static bool call_with_bad_order(world *w, epf_test_rank *rank, const epf_data *data, epf_rng *rng)
{
    world_rank *const r = &w->ranks[rank->rank];
    const int32_t victim = epf_rng_below(rng, w->problem.num_ranks);
    const int32_t slots = data->num_tokens[victim] * w->problem.num_topk;
    const bool local = epf_rng_below(rng, 2) == 0;
    const int32_t begin = slots > 0 ? epf_rng_below(rng, slots) : 0;
    int32_t kept[2];
    int32_t num_kept = 0;
    for (int32_t i = 0; i < slots && num_kept < 2; i++) {
        const int32_t slot = (begin + i) % slots;
        if (is_kept(w, data->topk_idx[victim][slot])) {
            kept[num_kept++] = slot;
        }
    }
    if (num_kept < 2) {
        return true;
    }
    world_take(w, rank->rank, data, local, !local);
    if (rank->rank == victim) {
        world_indices *const given = local ? &r->local : &r->full;
        *index_at(w, given, kept[0]) = *index_at(w, given, kept[1]);
    }
    if (!world_call(w, rank, EPF_E_INVALID)) {
        return false;
    }
    RANK_CHECK(rank, r->host_head->where == -1 && r->host_head->rank == victim,
               "slot %d on rank %d, want -1 on rank %d", r->host_head->where, r->host_head->rank,
               victim);
    return true;
}

/* Both backends over one routing: in slot order, by given orders, and with something wrong. */
static bool call_all_ways(world *w, epf_test_rank *rank, const epf_data *data, epf_rng *rng)
{
    world_take(w, rank->rank, data, false, false);
    if (!world_call(w, rank, EPF_OK) || !call_with_bad_id(w, rank, data, rng)) {
        return false;
    }
    world_take(w, rank->rank, data, true, false);
    if (!world_call(w, rank, EPF_OK) || !call_with_bad_order(w, rank, data, rng)) {
        return false;
    }
    world_take(w, rank->rank, data, false, true);
    return world_call(w, rank, EPF_OK);
}

/* Calls that the CPU's operator does not take part in. */
static bool call_device(world *w, epf_test_rank *rank, epf_status want)
{
    world_rank *const r = &w->ranks[rank->rank];
    RANK_OK(rank, epf_cuda_preprocess(&r->args, r->stream));
    r->num_calls++;
    if (!world_finish(w, rank)) {
        return false;
    }
    RANK_CHECK(rank, r->host_head->status == (int32_t)want, "status %d, want %d",
               r->host_head->status, (int)want);
    return true;
}

static bool refuse_on_host(world *w, epf_test_rank *rank, const epf_data *data)
{
    world_rank *const r = &w->ranks[rank->rank];
    const int32_t victim = w->problem.num_ranks - 1;
    world_take(w, rank->rank, data, false, false);
    if (!world_upload(w, rank)) {
        return false;
    }
    if (rank->rank == victim) {
        r->args.num_tokens = -1;
        r->args.refused = EPF_E_UNSUPPORTED;
    }
    if (!call_device(w, rank, EPF_E_UNSUPPORTED)) {
        return false;
    }
    RANK_CHECK(rank, r->host_head->rank == victim && r->host_head->where == -1, "rank %d, slot %d",
               r->host_head->rank, r->host_head->where);
    return true;
}

/* One row too few on all ranks, then just enough. */
static bool exceed_capacity(world *w, epf_test_rank *rank, const epf_data *data)
{
    world_rank *const r = &w->ranks[rank->rank];
    epf_cuda_preprocess_args *const a = &r->args;
    const int64_t row_capacity = a->row_capacity;
    int32_t max_rows = 0;
    bool ok;
    for (int32_t i = 0; i < w->problem.num_ranks; i++) {
        const int32_t rows = data->route.num_recv_tokens_per_rank[i];
        max_rows = rows > max_rows ? rows : max_rows;
    }
    if (max_rows == 0) {
        return true;
    }
    world_take(w, rank->rank, data, false, false);
    a->all_row_sources = false;
    a->row_capacity = max_rows - 1;
    ok = world_upload(w, rank) && call_device(w, rank, EPF_E_CAPACITY);
    RANK_CHECK(rank, !ok || r->host_head->max_rows == max_rows, "%d rows needed, want %d",
               r->host_head->max_rows, max_rows);
    a->row_capacity = max_rows;
    ok = ok && world_call(w, rank, EPF_OK);
    a->row_capacity = row_capacity;
    a->all_row_sources = true;
    return ok;
}

/* Calls that only the device orders, between two routings; the last one is compared. */
static bool call_in_a_row(world *w, epf_test_rank *rank, const zoo *z)
{
    world_rank *const r = &w->ranks[rank->rank];
    const epf_data *const other = z->data[z->num_data - 1];
    const epf_cuda_indices none = {NULL, 0};
    int32_t *const second = r->full.device; /* as large, and not needed here */
    world_take(w, rank->rank, other, false, false);
    if (!world_upload(w, rank)) {
        return false;
    }
    RANK_CUDA(rank, cudaMemcpyAsync(second, r->ids.device,
                                    (size_t)epf_shape_max_slots(&w->shape) * sizeof *second,
                                    cudaMemcpyDeviceToDevice, r->stream));
    world_take(w, rank->rank, z->data[0], false, false);
    if (!world_upload(w, rank)) {
        return false;
    }
    r->args.local_scatter = none;
    r->args.full_scatter = none;
    for (int32_t i = 0; i < num_in_a_row; i++) {
        const bool is_other = i % 3 == 1;
        r->args.exp_indices.data = is_other ? second : r->ids.device;
        r->args.num_tokens = (is_other ? other : z->data[0])->num_tokens[rank->rank];
        RANK_OK(rank, epf_cuda_preprocess(&r->args, r->stream));
        r->num_calls++;
        if (i % MAX_QUEUED ==
            MAX_QUEUED - 1) { /* a full queue could keep other ranks from theirs */
            RANK_CUDA(rank, cudaStreamSynchronize(r->stream));
        }
    }
    r->args.num_tokens = z->data[0]->num_tokens[rank->rank];
    return world_call(w, rank, EPF_OK);
}

static bool has_full_ranks(const world *w, const epf_data *data)
{
    for (int32_t r = 0; r < w->problem.num_ranks; r++) {
        if (data->num_tokens[r] != w->problem.max_tokens) {
            return false;
        }
    }
    return true;
}

/* One capture, replayed with the ids of every routing that has T_max tokens on every rank. */
static bool replay_graph(world *w, epf_test_rank *rank, const zoo *z)
{
    world_rank *const r = &w->ranks[rank->rank];
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    bool ok = true;
    world_take(w, rank->rank, z->data[0], false, false);
    if (!world_upload(w, rank)) {
        return false;
    }
    RANK_CUDA(rank, cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal));
    RANK_OK(rank, epf_cuda_preprocess(&r->args, r->stream));
    RANK_CUDA(rank, cudaStreamEndCapture(r->stream, &graph));
    RANK_CUDA(rank, cudaGraphInstantiate(&exec, graph, 0));
    RANK_CUDA(rank, cudaGraphUpload(exec, r->stream));
    RANK_CUDA(rank, cudaStreamSynchronize(r->stream));
    RANK_OK(rank, epf_op_barrier(r->op)); /* what instantiating waits for must not be spinning */
    for (int32_t i = 0; i < z->num_data && ok; i++) {
        if (!has_full_ranks(w, z->data[i])) {
            continue;
        }
        world_take(w, rank->rank, z->data[i], false, false);
        ok = world_upload(w, rank);
        for (int32_t k = 0; k < REPLAYS && ok; k++) {
            RANK_CUDA(rank, cudaGraphLaunch(exec, r->stream));
            r->num_calls++;
        }
        ok = ok && world_finish(w, rank) && world_call(w, rank, EPF_OK);
        if (ok) { /* the layout is there now to compare a replay with */
            ok = world_upload(w, rank);
            RANK_CUDA(rank, cudaGraphLaunch(exec, r->stream));
            r->num_calls++;
            ok = ok && world_finish(w, rank) && world_compare(w, rank, EPF_OK);
        }
    }
    RANK_OK(rank, epf_op_barrier(r->op));
    RANK_CUDA(rank, cudaGraphExecDestroy(exec));
    RANK_CUDA(rank, cudaGraphDestroy(graph));
    return ok;
}

/* The last epoch can be used; the one after it is refused, and said so to the host. */
static bool reach_last_epoch(world *w, epf_test_rank *rank, const epf_data *data)
{
    world_rank *const r = &w->ranks[rank->rank];
    const uint32_t before = EPF_EPOCH_LAST - 1;
    RANK_CUDA(rank, cudaMemcpyAsync(&r->args.call.state->epoch, &before, sizeof before,
                                    cudaMemcpyHostToDevice, r->stream));
    world_take(w, rank->rank, data, false, false);
    if (!world_call(w, rank, EPF_OK) || !call_device(w, rank, EPF_E_STATE)) {
        return false;
    }
    RANK_CHECK(rank, r->report->is_set == 1 && r->report->fault.status == EPF_E_STATE,
               "report %u of status %d", r->report->is_set, r->report->fault.status);
    return true;
}

static bool all_steps(world *w, epf_test_rank *rank)
{
    const zoo *const z = w->user;
    epf_rng rng = epf_rng_make(w->problem.seed, 99);
    for (int32_t i = 0; i < z->num_data; i++) {
        if (!call_all_ways(w, rank, z->data[i], &rng) || !refuse_on_host(w, rank, z->data[i]) ||
            !exceed_capacity(w, rank, z->data[i])) {
            return epf_rank_fail(rank, __FILE__, __LINE__, "%s", z->data[i]->problem.routing);
        }
    }
    return call_in_a_row(w, rank, z) && replay_graph(w, rank, z) &&
           reach_last_epoch(w, rank, z->data[0]);
}

/* Rank 0 never calls: the others give up, and say so to their hosts. */
static bool miss_a_rank(world *w, epf_test_rank *rank)
{
    const zoo *const z = w->user;
    world_rank *const r = &w->ranks[rank->rank];
    world_take(w, rank->rank, z->data[0], false, false);
    if (rank->rank == 0) {
        return true;
    }
    if (!world_upload(w, rank) || !call_device(w, rank, EPF_E_PEER) ||
        !call_device(w, rank, EPF_E_PEER)) {
        return false;
    }
    RANK_CHECK(rank,
               r->report->is_set == 1 && r->report->fault.status == EPF_E_TIMEOUT &&
                   r->report->fault.object == EPF_OBJECT_POSTED && r->report->fault.peer == 0,
               "report %u: status %d, object %d, peer %d", r->report->is_set,
               r->report->fault.status, r->report->fault.object, r->report->fault.peer);
    return true;
}

static bool run_shape(const char *problem, bool (*steps)(world *, epf_test_rank *),
                      uint64_t timeout_ns)
{
    const epf_problem p = epf_problem_of(problem);
    zoo z = make_zoo(&p);
    world *const w = world_make(problem, timeout_ns);
    bool ok;
    w->user = &z;
    ok = world_run(w, steps, problem);
    printf("%-40s %s\n", problem, ok ? "ok" : "FAILED");
    (void)fflush(stdout);
    world_free(w);
    free_zoo(&z);
    return ok;
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a;
    const float y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Each call between two events of its own: what a caller sees; and many in one go: what the device needs. */
static bool time_calls(world *w, epf_test_rank *rank)
{
    const zoo *const z = w->user;
    world_rank *const r = &w->ranks[0];
    cudaEvent_t events[2];
    float each[TIMED_CALLS];
    float all;
    world_take(w, 0, z->data[0], false, false);
    if (!world_call(w, rank, EPF_OK)) {
        return false;
    }
    RANK_CUDA(rank, cudaEventCreate(&events[0]));
    RANK_CUDA(rank, cudaEventCreate(&events[1]));
    for (int32_t i = 0; i < TIMED_CALLS; i++) {
        RANK_CUDA(rank, cudaEventRecord(events[0], r->stream));
        RANK_OK(rank, epf_cuda_preprocess(&r->args, r->stream));
        RANK_CUDA(rank, cudaEventRecord(events[1], r->stream));
        RANK_CUDA(rank, cudaEventSynchronize(events[1]));
        RANK_CUDA(rank, cudaEventElapsedTime(&each[i], events[0], events[1]));
    }
    RANK_CUDA(rank, cudaEventRecord(events[0], r->stream));
    for (int32_t i = 0; i < TIMED_CALLS; i++) {
        RANK_OK(rank, epf_cuda_preprocess(&r->args, r->stream));
    }
    RANK_CUDA(rank, cudaEventRecord(events[1], r->stream));
    RANK_CUDA(rank, cudaEventSynchronize(events[1]));
    RANK_CUDA(rank, cudaEventElapsedTime(&all, events[0], events[1]));
    qsort(each, TIMED_CALLS, sizeof each[0], by_value);
    printf(
        "%d x %d, E %d, at most %d CTAs: one call %.1f us (median of %d), in a row %.1f us each\n",
        w->problem.max_tokens, w->problem.num_topk, w->problem.num_experts, r->args.num_ctas,
        1e3 * (double)each[TIMED_CALLS / 2], TIMED_CALLS, 1e3 * (double)all / TIMED_CALLS);
    RANK_CUDA(rank, cudaEventDestroy(events[0]));
    RANK_CUDA(rank, cudaEventDestroy(events[1]));
    return true;
}

int main(int argc, char **argv)
{
    static const char *const shapes[] = {
        "W1E16K4T3000H8N8/uniform/seed1", "W2E12K3T257H8N8/uniform/seed2",
        "W4E32K8T500H8N8/uniform/seed3",  "W8E64K6T130H8N8/uniform/seed4",
        "W1E1K1T1H8N8/uniform/seed5",     "W2E1024K32T90H8N8/uniform/seed6",
        "W8E256K8T384H8N8/uniform/seed7", "W1E1024K8T2048H8N8/uniform/seed8"};
    struct cudaDeviceProp device;
    int32_t failed = 0;

    num_in_a_row = argc > 1 ? (int32_t)strtol(argv[1], NULL, 10) : num_in_a_row;
    /* a hardware queue for every stream: no rank's kernel may wait behind another's */
    CHECK(setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1) == 0, "setenv");
    if (cudaGetDeviceProperties(&device, 0) != cudaSuccess || device.major != 9) {
        printf("skipped: no Hopper GPU\n");
        return EPF_TEST_SKIPPED;
    }
    CHECK_OK(epf_cuda_preprocess_load());
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        failed += run_shape(shapes[i], all_steps, TIMEOUT_NS) ? 0 : 1;
    }
    failed += run_shape("W4E8K2T40H8N8/uniform/seed9", miss_a_rank, SHORT_TIMEOUT_NS) ? 0 : 1;
    failed += run_shape("W1E256K8T4096H8N8/uniform/seed10", time_calls, TIMEOUT_NS) ? 0 : 1;
    failed += run_shape("W1E256K8T128H8N8/uniform/seed11", time_calls, TIMEOUT_NS) ? 0 : 1;
    return failed == 0 ? 0 : 1;
}
