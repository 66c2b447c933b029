/*
 * test_op_graph: preprocess, dispatch and combine, captured in a CUDA graph once and replayed with other
 * routings, tokens and weights in the same tensors: every replay is exact, and nothing past its rows is
 * written.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

enum { NUM_CASES = 6, NUM_REPLAYS = 40 };

typedef struct graphs {
    op_case *cases[NUM_CASES]; /* of one shape, T_max tokens on every rank */
} graphs;

#define RANK_CUDA(rank, call)                                        \
    do {                                                             \
        const cudaError_t rank_error = (call);                       \
        RANK_CHECK(rank, rank_error == cudaSuccess, "%s: %s", #call, \
                   cudaGetErrorString(rank_error));                  \
    } while (0)

/* Results as large as any routing needs, in place of those of the first case. */
static void make_worst_case(op_rank *r)
{
    const epf_problem *p = &r->c->data->problem;
    const int64_t rows = (int64_t)p->num_ranks * p->max_tokens * p->num_topk;
    const op_guard none = {0, 0};

    op_matrix_free(&r->dispatched);
    op_matrix_free(&r->received);
    op_matrix_free(&r->gemm);
    r->dispatched = op_matrix_make(rows, p->hidden, p->dtype, none);
    r->received = op_matrix_make(rows, 1, p->weight_dtype, none);
    r->gemm = op_matrix_make(rows, p->num_columns, p->dtype, none);
}

/* All canaries again; what is past the case's rows must stay so. */
static void clear(op_matrix *m, int64_t rows)
{
    const size_t bytes =
        (size_t)m->tensor.shape[0] * (size_t)m->stride * epf_element_bytes(m->dtype);
    void *canaries = epf_test_alloc(bytes, 1);

    memset(canaries, 0xa5, bytes);
    op_matrix_store(m, canaries);
    free(canaries);
    m->rows = rows;
}

/* The case's inputs into the tensors that the graph reads. */
static void load(op_rank *r, op_case *c)
{
    const epf_data *d = c->data;
    const int64_t tokens = d->num_tokens[r->id];
    const int64_t rows = c->route.num_recv_tokens_per_rank[r->id];

    r->c = c;
    op_store(&r->x.tensor, d->tokens[r->id].data, tokens);
    op_store(&r->ids.tensor, d->topk_idx[r->id], tokens);
    op_store(&r->weight.tensor, d->weights[r->id].data, tokens);
    op_store(&r->combine.tensor, d->combine_weights[r->id].data, tokens);
    clear(&r->dispatched, rows);
    clear(&r->received, rows);
    clear(&r->gemm, rows);
    clear(&r->output, tokens);
}

static bool capture(op_rank *r, cudaGraphExec_t *exec, epf_group_gemm_combine_result *result)
{
    cudaStream_t stream = epf_space_stream();
    cudaGraph_t graph = NULL;
    bool ok;

    RANK_CUDA(r->rank, cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    ok = op_enqueue(r, result);
    RANK_CUDA(r->rank, cudaStreamEndCapture(stream, &graph));
    if (!ok) {
        return false;
    }
    RANK_CUDA(r->rank, cudaGraphInstantiate(exec, graph, 0));
    RANK_CUDA(r->rank, cudaGraphUpload(*exec, stream));
    RANK_CUDA(r->rank, cudaStreamSynchronize(stream));
    RANK_CUDA(r->rank, cudaGraphDestroy(graph));
    return true;
}

static bool replay(op_rank *r, const graphs *g, cudaGraphExec_t exec,
                   const epf_group_gemm_combine_result *result)
{
    for (int32_t i = 0; i < NUM_REPLAYS; i++) {
        load(r, g->cases[(i * 5 + 1) % NUM_CASES]);
        RANK_CUDA(r->rank, cudaGraphLaunch(exec, epf_space_stream()));
        if (!op_check_enqueued(r, result)) {
            return false;
        }
    }
    /* Without looking in between: the same inputs, many times. */
    for (int32_t i = 0; i < NUM_REPLAYS; i++) {
        RANK_CUDA(r->rank, cudaGraphLaunch(exec, epf_space_stream()));
    }
    return op_check_enqueued(r, result);
}

/* The same calls once outside of a graph take the memory; then all ranks capture, and only then launch. */
static bool capture_and_replay(op_rank *r, const graphs *g)
{
    epf_group_gemm_combine_result result;
    cudaGraphExec_t exec = NULL;
    bool ok;

    make_worst_case(r);
    load(r, g->cases[0]);
    if (!op_enqueue(r, &result) || !op_check_enqueued(r, &result)) {
        return false;
    }
    RANK_OK(r->rank, epf_op_barrier(r->op));
    if (!capture(r, &exec, &result)) {
        return false;
    }
    RANK_OK(r->rank, epf_op_barrier(r->op));
    ok = replay(r, g, exec, &result);
    RANK_OK(r->rank, epf_op_barrier(r->op));
    RANK_CUDA(r->rank, cudaGraphExecDestroy(exec));
    load(r, g->cases[2]);
    return ok && op_enqueue(r, &result) && op_check_enqueued(r, &result);
}

static void run_rank(epf_test_rank *rank)
{
    const graphs *g = rank->user;
    op_rank r;

    (void)(op_open(&r, g->cases[0], rank) && capture_and_replay(&r, g));
    op_close(&r);
}

static int32_t run(const char *shape, bool fuse_scatter)
{
    static const char *const routings[NUM_CASES] = {"uniform", "zipf",       "all_to_one_rank",
                                                    "self",    "duplicates", "some_dropped"};
    const op_knobs knobs = {.own_outputs = true,
                            .no_regrow = true,
                            .block_wise = fuse_scatter,
                            .combine_weights = fuse_scatter};
    epf_data *data[NUM_CASES];
    graphs g;
    int32_t failed;

    for (int32_t i = 0; i < NUM_CASES; i++) {
        char text[EPF_PROBLEM_TEXT];
        (void)snprintf(text, sizeof text, "%s/%s/seed%d%s", shape, routings[i], 601,
                       fuse_scatter ? "/fuse_scatter" : "");
        const epf_problem problem = epf_problem_of(text);
        data[i] = epf_data_make(&problem);
        CHECK(data[i] != NULL, "%s fits", text);
        g.cases[i] = op_case_make(data[i], &knobs, false);
    }
    g.cases[0]->user = &g;
    failed = op_run_function(g.cases[0], run_rank, 0, "graph");
    for (int32_t i = 0; i < NUM_CASES; i++) {
        op_case_free(g.cases[i]);
        epf_data_free(data[i]);
    }
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const shapes[] = {"W1E4K2T150H72N64", "W2E4K2T150H72N64", "W4E8K2T90H64N136",
                                         "W8E16K2T60H64N64"};
    int32_t failed = 0;

    CHECK(epf_space_is_device(), "EPFUSE_TEST_BACKEND must be cuda");
    if (argc > 1) {
        return op_finish(run(argv[1], false) + run(argv[1], true));
    }
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        failed += run(shapes[i], false) + run(shapes[i], true);
    }
    return op_finish(failed);
}
