/*
 * test_op_profile: the traces of profiled calls on a device: every tile of the layout and of a weight gradient once,
 * every M-tile that a combine flags once, times within the call's on the host's clock, flows that meet, also between
 * ranks; results stay exact.  The first profiled call takes the memory, a later one none; without memory a call runs
 * unrecorded and says so; in a stream that is being captured it is refused.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "cuda/epf_cuda_memory.h"
#include "op_case.h"
#include "prof/epf_trace_flow.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

enum { CLOCK_ERROR_NS = 20000, BLOCK_M = 128, BLOCK_N = 256, PATH_BYTES = 128 };

/* A profiled call as the host saw it. */
typedef struct seen_call {
    const char *name;
    uint64_t begin_ns, end_ns;
    const epf_trace *trace; /* this rank's */
} seen_call;

/* Tasks of an event in some of the roles. */
typedef struct task_set {
    epf_prof_event event;
    bool math, others; /* roles that count */
    int64_t num;       /* tasks 0 .. num - 1, each once */
} task_set;

static void path_of(char path[PATH_BYTES], const char *name, int32_t rank)
{
    (void)snprintf(path, PATH_BYTES, EPF_PROF_FOLDER "/%s_rank_%d.perfetto-trace", name, rank);
}

static bool is_event(const epf_trace *trace, const epf_prof_record *rec, epf_prof_event event)
{
    return rec->event != EPF_PROF_LINK &&
           strcmp(trace->events[rec->event].name, epf_prof_events[event].name) == 0;
}

static bool check_window(const op_rank *r, const seen_call *call)
{
    const epf_trace *const trace = call->trace;

    RANK_CHECK(r->rank, trace->num_ranks == 1 && trace->ranks[0].on_device, "%s: a device's",
               call->name);
    RANK_CHECK(r->rank, trace->ranks[0].num_lost == 0, "%s: records lost", call->name);
    for (uint32_t i = 0; i < trace->num_lanes; i++) {
        for (uint64_t j = 0; j < trace->lanes[i].num_records; j++) {
            const epf_prof_record *const rec = &trace->lanes[i].records[j];
            RANK_CHECK(r->rank,
                       rec->event == EPF_PROF_LINK ||
                           (rec->begin_ns + CLOCK_ERROR_NS >= call->begin_ns &&
                            rec->begin_ns <= rec->end_ns &&
                            rec->end_ns <= call->end_ns + CLOCK_ERROR_NS),
                       "%s: a record from %lld to %lld ns of the call's %llu", call->name,
                       (long long)(rec->begin_ns - call->begin_ns),
                       (long long)(rec->end_ns - call->begin_ns),
                       (unsigned long long)(call->end_ns - call->begin_ns));
        }
    }
    return true;
}

static bool count_tasks(const op_rank *r, const seen_call *call, const task_set *set,
                        int32_t *counts)
{
    for (uint32_t i = 0; i < call->trace->num_lanes; i++) {
        const epf_trace_lane *const lane = &call->trace->lanes[i];
        const bool is_math = lane->worker % EPF_TRACE_NUM_ROLES == EPF_TRACE_ROLE_MATH;
        for (uint64_t j = 0; j < lane->num_records; j++) {
            const epf_prof_record *const rec = &lane->records[j];
            if (!is_event(call->trace, rec, set->event) || !(is_math ? set->math : set->others)) {
                continue;
            }
            RANK_CHECK(r->rank, rec->task >= 0 && rec->task < set->num, "%s: %s %d of %lld",
                       call->name, epf_prof_events[set->event].name, rec->task,
                       (long long)set->num);
            counts[rec->task]++;
        }
    }
    return true;
}

static bool check_tasks(const op_rank *r, const seen_call *call, const task_set *set)
{
    int32_t *const counts = epf_test_alloc((size_t)set->num + 1, sizeof *counts);
    bool ok = count_tasks(r, call, set, counts);

    for (int64_t t = 0; t < set->num && ok; t++) {
        if (counts[t] != 1) {
            ok = epf_rank_fail(r->rank, __FILE__, __LINE__, "%s: %s %lld of %lld: %d times",
                               call->name, epf_prof_events[set->event].name, (long long)t,
                               (long long)set->num, counts[t]);
        }
    }
    free(counts);
    return ok;
}

/* Tiles of 256 columns; clusters of two, so there is an even number of them. */
static int64_t num_n(int64_t columns)
{
    return (columns + 2 * BLOCK_N - 1) / (2 * BLOCK_N) * 2;
}

static bool check_dispatch(const op_rank *r, const seen_call *call)
{
    const int64_t tiles = r->view.num_tiles_total * num_n(r->c->data->problem.num_columns);
    const task_set gemm = {EPF_PROF_GROUP_GEMM_MAIN, true, false, tiles};
    const task_set wait = {EPF_PROF_GROUP_GEMM_WAIT, false, true, tiles};

    return check_window(r, call) && check_tasks(r, call, &gemm) && check_tasks(r, call, &wait);
}

static bool check_combine(const op_rank *r, const seen_call *call)
{
    const epf_problem *const p = &r->c->data->problem;
    const int64_t m_tiles = r->view.num_tiles_total;
    const int64_t grads = r->c->knobs.grad_dtype == 0
                              ? 0
                              : r->c->route.num_local_experts *
                                    ((p->num_columns + BLOCK_M - 1) / BLOCK_M) * num_n(p->hidden);
    const bool brings = r->c->knobs.combine_sm > 0; /* CTAs of their own, 16 rows at a time */
    const int64_t flagged = p->fuse_scatter && !brings ? m_tiles : 0;
    const task_set gemm = {EPF_PROF_GROUP_GEMM_MAIN, true, false, m_tiles * num_n(p->hidden)};
    const task_set wait = {EPF_PROF_COMBINE_WAIT, false, true, flagged};
    const task_set notify = {EPF_PROF_GROUP_GEMM_TAIL_NOTIFY, false, true, flagged};
    const task_set grad = {EPF_PROF_WEIGHT_GRAD_MAIN, true, false, grads};

    return check_window(r, call) && check_tasks(r, call, &gemm) &&
           (brings || check_tasks(r, call, &wait)) && check_tasks(r, call, &notify) &&
           check_tasks(r, call, &grad);
}

/* Reads this rank's file and hands it to `check`. */
static bool check_file(const op_rank *r, seen_call *call,
                       bool (*check)(const op_rank *, const seen_call *))
{
    char path[PATH_BYTES];
    epf_trace *trace;
    bool ok;

    path_of(path, call->name, r->id);
    RANK_OK(r->rank, epf_trace_read(path, &trace));
    call->trace = trace;
    ok = check(r, call);
    epf_trace_destroy(trace);
    return ok;
}

static bool profile_dispatch(op_rank *r, const char *name)
{
    seen_call call = {.name = name};
    epf_dispatch_group_gemm_args args = op_dispatch_args(r);

    args.enable_profiler = true;
    args.profile_file_name = name;
    call.begin_ns = epf_now_ns();
    RANK_OK(r->rank, epf_dispatch_group_gemm(r->op, &args, &r->first));
    call.end_ns = epf_now_ns();
    return op_check_dispatch(r) && check_file(r, &call, check_dispatch);
}

static bool profile_combine(op_rank *r, const char *name)
{
    seen_call call = {.name = name};
    epf_group_gemm_combine_args args = op_combine_args(r);
    epf_group_gemm_combine_result result;

    args.enable_profiler = true;
    args.profile_file_name = name;
    call.begin_ns = epf_now_ns();
    RANK_OK(r->rank, epf_group_gemm_combine(r->op, &args, &result));
    call.end_ns = epf_now_ns();
    return op_check_combine(r, &result) && check_file(r, &call, check_combine);
}

/* Flows of all ranks together; those of tiles that are scattered have both ends. */
static bool check_flows(const op_rank *r, const char *name)
{
    char paths[EPF_PROBLEM_MAX_RANKS][PATH_BYTES];
    const char *list[EPF_PROBLEM_MAX_RANKS];
    uint64_t num = 0, num_lost = 0, across = 0, tiles = 0;
    epf_trace_flow *flows = NULL;
    epf_trace *trace;

    for (int32_t i = 0; i < r->rank->num_ranks; i++) {
        path_of(paths[i], name, i);
        list[i] = paths[i];
    }
    RANK_OK(r->rank, epf_trace_read_all(list, r->rank->num_ranks, &trace));
    RANK_OK(r->rank, epf_trace_match_flows(trace, &flows, &num, &num_lost));
    for (uint64_t i = 0; i < num; i++) {
        tiles += flows[i].to.flow >> 60 == EPF_PROF_FLOW_GEMM;
        across +=
            trace->lanes[flows[i].from.lane_idx].rank != trace->lanes[flows[i].to.lane_idx].rank;
    }
    printf("%-28s %5llu flows, %llu between ranks, %llu of tiles; %llu with one end\n", name,
           (unsigned long long)num, (unsigned long long)across, (unsigned long long)tiles,
           (unsigned long long)num_lost);
    epf_free(flows);
    epf_trace_destroy(trace);
    RANK_CHECK(r->rank, num > 0 || strstr(name, "serial") != NULL, "%s: no flows", name);
    RANK_CHECK(r->rank, strstr(name, "scatter") == NULL || tiles > 0, "%s: no tiles", name);
    return true;
}

/* What only one rank alone can try: others would wait for it. */
static bool try_refusals(op_rank *r)
{
    epf_dispatch_group_gemm_args args = op_dispatch_args(r);
    cudaStream_t stream = epf_space_stream();
    cudaGraph_t graph = NULL;

    args.enable_profiler = true;
    args.profile_file_name = "refused";
    for (uint64_t nth = 1; nth <= 2; nth++) { /* the records, the clock */
        epf_cuda_alloc_fail_at(nth);
        RANK_STATUS(r->rank, EPF_E_NO_MEMORY, epf_dispatch_group_gemm(r->op, &args, &r->first));
        RANK_OK(r->rank, op_settle(r));
    }
    epf_cuda_alloc_fail_at(0);
    RANK_CHECK(r->rank,
               cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess,
               "capture");
    RANK_STATUS(r->rank, EPF_E_STATE, epf_dispatch_group_gemm(r->op, &args, &r->first));
    RANK_CHECK(r->rank, strstr(epf_last_error(), "captured") != NULL, "%s", epf_last_error());
    RANK_CHECK(r->rank, cudaStreamEndCapture(stream, &graph) == cudaSuccess, "capture ends");
    RANK_CHECK(r->rank, cudaGraphDestroy(graph) == cudaSuccess, "graph");
    return profile_dispatch(r, "first");
}

static bool run_calls(op_rank *r)
{
    const char *const combined = r->c->data->problem.fuse_scatter ? "scatter" : "serial";

    if (!op_preprocess(r) || !op_check_layout(r) || !op_dispatch(r)) {
        return false;
    }
    if (r->rank->num_ranks == 1 && !try_refusals(r)) {
        return false;
    }
    if (!profile_dispatch(r, "dispatch") || !profile_combine(r, combined)) {
        return false;
    }
    RANK_OK(r->rank, epf_op_barrier(r->op));
    if (r->id == 0 && (!check_flows(r, "dispatch") || !check_flows(r, combined))) {
        return false;
    }
    epf_cuda_alloc_fail_at(0); /* of all ranks, which meet on both sides */
    RANK_OK(r->rank, epf_op_barrier(r->op));
    if (!profile_dispatch(r, "dispatch") || !profile_combine(r, combined)) {
        return false;
    }
    RANK_CHECK(r->rank, epf_cuda_alloc_count() == 0, "%d allocations in later calls",
               (int)epf_cuda_alloc_count());
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && run_calls(&r));
    op_close(&r);
}

static int32_t run(const char *text, const op_knobs *knobs)
{
    const epf_problem problem = epf_problem_of(text);
    epf_data *const data = epf_data_make(&problem);
    op_case *const c = op_case_make(data, knobs, false);
    const int32_t failed = op_run_function(c, run_rank, 0, "profile");

    op_case_free(c);
    epf_data_free(data);
    return failed;
}

int main(void)
{
    const op_knobs plain = {.own_outputs = true};
    const op_knobs grad = {.own_outputs = true, .grad_dtype = EPF_DTYPE_BF16, .block_wise = true};
    const op_knobs bring = {.own_outputs = true, .combine_sm = 2, .num_reduce_sms = 2};
    char folder[] = "/tmp/epfuse-profile-XXXXXX";
    int32_t failed = 0;

    CHECK(epf_space_is_device(), "EPFUSE_TEST_BACKEND must be cuda");
    CHECK(mkdtemp(folder) != NULL && chdir(folder) == 0, "%s", folder);
    failed += run("W1E4K2T300H520N1032/uniform/seed41", &plain);
    failed += run("W1E4K2T300H264N520/zipf/seed42/fuse_scatter", &grad);
    failed += run("W2E4K2T300H520N264/zipf/seed43", &grad);
    failed += run("W2E4K2T400H264N1032/uniform/seed44/fuse_scatter", &plain);
    failed += run("W2E4K2T300H264N264/uniform/seed45/fuse_scatter", &bring);
    return op_finish(failed);
}
