/*
 * test_phase_cuda: the fused phases on the device, without the operator around them, bit for bit.
 *
 * All ranks of a problem live on one GPU, each on a stream of its own with its share of the SMs; one host thread
 * enqueues for all.  Layouts come from the reference routing, so that nothing but the two phases is under test.
 * Integer inputs make every sum exact.
 *
 *   test_phase_cuda [problem ...]
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/epf_cuda_phase.h"
#include "support/epf_check.h"
#include "support/epf_compare.h"
#include "support/epf_data.h"

enum { MAX_RANKS = 8, NUM_CALLS = 3, LAYOUT_EPOCH = 77 };

#define CUDA_OK(call)                                                           \
    do {                                                                        \
        const cudaError_t cuda_error = (call);                                  \
        CHECK(cuda_error == cudaSuccess, "%s", cudaGetErrorString(cuda_error)); \
    } while (0)

typedef struct rank_memory {
    cudaStream_t stream;
    uint8_t *control, *set;
    uint8_t **control_table, **set_table;
    epf_cuda_state *state;
    epf_layout_head *head;
    epf_cuda_report *report; /* host memory */
    uint64_t *tile_ready, *expert_ready, *tile_done;
    int32_t *topk_idx, *dst_row, *sort_slots, *row_source, *rows, *row_offset, *tile_offset;
    void *tokens, *weights, *combine_weights, *b1, *b2;
    void *gemm_output, *dispatch_copy, *weight_copy, *output, *output_gate, *grad;
    epf_ref_matrix x, weight, gemm, y, sum, gate, wgrad;
} rank_memory;

typedef struct setting {
    const epf_data *data;
    epf_shape shape;
    epf_control_map control_map;
    epf_set_map set_map;
    int32_t num_ctas;
    int32_t max_rows;
    bool with_grad;
    rank_memory ranks[MAX_RANKS];
} setting;

static void *device_alloc(size_t bytes)
{
    void *memory = NULL;
    CUDA_OK(cudaMalloc(&memory, bytes + 256));
    CUDA_OK(cudaMemset(memory, 0, bytes + 256));
    return memory;
}

static void *device_copy(const void *from, size_t bytes)
{
    void *const to = device_alloc(bytes);
    if (bytes > 0) {
        CUDA_OK(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
    }
    return to;
}

static size_t bytes_of(epf_ref_tensor tensor, int64_t count)
{
    return (size_t)count * epf_element_bytes(tensor.dtype);
}

/* [L + 1] prefix sums, as preprocess leaves them on the device. */
static int32_t *with_end(const int32_t *begin, int32_t num, int32_t end)
{
    int32_t *const all = epf_test_alloc((size_t)num + 1, sizeof *all);
    int32_t *device;
    memcpy(all, begin, (size_t)num * sizeof *all);
    all[num] = end;
    device = device_copy(all, ((size_t)num + 1) * sizeof *all);
    free(all);
    return device;
}

static void make_layout(setting *s, int32_t r)
{
    const epf_ref_rank *const from = &s->data->route.ranks[r];
    const int32_t num_local = s->shape.num_local;
    const size_t slots = (size_t)epf_shape_max_slots(&s->shape) * sizeof(int32_t);
    rank_memory *const m = &s->ranks[r];
    epf_layout_head head;
    memset(&head, 0, sizeof head);
    head.epoch = LAYOUT_EPOCH;
    head.num_tokens = s->data->num_tokens[r];
    head.num_rows = from->num_rows;
    head.max_rows = s->max_rows;
    head.num_tiles = from->num_tiles_total;
    while (head.num_slots < epf_shape_max_slots(&s->shape) &&
           from->token_sort_indices[head.num_slots] >= 0) {
        head.num_slots++;
    }
    m->head = device_copy(&head, sizeof head);
    m->topk_idx = device_copy(from->topk_indices, slots);
    m->dst_row = device_copy(from->token_dst_scatter_idx, slots);
    m->sort_slots = device_copy(from->token_sort_indices, slots);
    m->row_source =
        device_copy(from->reversed_token_scatter_idx, (size_t)from->num_rows * 2 * sizeof(int32_t));
    m->rows = device_copy(from->split_size, (size_t)num_local * sizeof(int32_t));
    m->row_offset = with_end(from->split_size_cum_per_expert, num_local, from->num_rows);
    m->tile_offset = with_end(from->expert_tile_offset, num_local, from->num_tiles_total);
}

static void make_memory(setting *s, int32_t r)
{
    const epf_data *const d = s->data;
    const epf_problem *const p = &d->problem;
    const int64_t tokens = d->num_tokens[r];
    const int64_t rows = s->set_map.rows;
    const int64_t weights = (int64_t)s->shape.num_local * p->num_columns * p->hidden;
    const size_t tiles = (size_t)epf_cuda_max_tiles(rows, s->shape.num_local);
    rank_memory *const m = &s->ranks[r];
    CUDA_OK(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking));
    CUDA_OK(cudaHostAlloc((void **)&m->report, sizeof *m->report, cudaHostAllocMapped));
    memset(m->report, 0, sizeof *m->report);
    m->control = device_alloc((size_t)s->control_map.total_bytes);
    m->set = device_alloc((size_t)s->set_map.total_bytes);
    m->state = device_alloc(sizeof *m->state);
    m->tile_ready = device_alloc(tiles * 8);
    m->tile_done = device_alloc(tiles * EPF_CUDA_TILE_PARTS * 8);
    m->expert_ready = device_alloc((size_t)s->shape.num_local * 8);
    m->tokens = device_copy(d->tokens[r].data, bytes_of(d->tokens[r], tokens * p->hidden));
    m->weights = device_copy(d->weights[r].data, bytes_of(d->weights[r], tokens * p->num_topk));
    m->combine_weights = device_copy(d->combine_weights[r].data,
                                     bytes_of(d->combine_weights[r], tokens * p->num_topk));
    m->b1 = device_copy(d->b1[r].data, bytes_of(d->b1[r], weights));
    m->b2 = device_copy(d->b2[r].data, bytes_of(d->b2[r], weights));
    m->gemm_output = device_alloc((size_t)(rows * p->num_columns) * 2);
    m->dispatch_copy = device_alloc((size_t)(rows * p->hidden) * 2);
    m->weight_copy = device_alloc((size_t)rows * 4);
    m->output = device_alloc((size_t)(tokens * p->hidden) * 2);
    m->output_gate = device_alloc((size_t)(tokens * p->num_topk) * 4);
    m->grad = device_alloc((size_t)weights * 2);
}

static void make_tables(setting *s)
{
    uint8_t *control[MAX_RANKS];
    uint8_t *set[MAX_RANKS];
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        control[r] = s->ranks[r].control;
        set[r] = s->ranks[r].set;
    }
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        s->ranks[r].control_table = device_copy(control, sizeof control);
        s->ranks[r].set_table = device_copy(set, sizeof set);
    }
}

static void expect(setting *s)
{
    const epf_data *const d = s->data;
    epf_ref_matrix y[MAX_RANKS];
    epf_ref_matrix gates[MAX_RANKS];
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        rank_memory *const m = &s->ranks[r];
        epf_ref_gemm gemm = {
            &d->route,       r, &m->x, d->b1[r], true, d->problem.num_columns, EPF_REF_ROUNDED,
            d->problem.dtype};
        epf_ref_weight_grad_args grad = {&d->route,       r, &m->gemm, &m->x, EPF_REF_ROUNDED,
                                         d->problem.dtype};
        CHECK_OK(epf_ref_dispatch(&d->route, r, d->tokens, d->problem.hidden, &m->x));
        CHECK_OK(epf_ref_dispatch_weights(&d->route, r, d->weights, &m->weight));
        CHECK_OK(epf_ref_grouped_gemm(&gemm, &m->gemm));
        gemm.a = &m->gemm;
        gemm.b = d->b2[r];
        gemm.n = d->problem.hidden;
        CHECK_OK(epf_ref_grouped_gemm(&gemm, &m->y));
        CHECK_OK(epf_ref_weight_grad(&grad, &m->wgrad));
        y[r] = m->y;
        gates[r] = m->weight;
    }
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        const epf_ref_combine_args args = {
            &d->route, r, y, &d->combine_weights[r], EPF_REF_ROUNDED, d->problem.dtype};
        CHECK_OK(epf_ref_combine(&args, &s->ranks[r].sum));
        CHECK_OK(epf_ref_output_gate(&d->route, r, gates, &s->ranks[r].gate));
    }
}

static void fill_common(const setting *s, int32_t r, epf_cuda_phase_args *a)
{
    const epf_data *const d = s->data;
    const rank_memory *const m = &s->ranks[r];
    epf_call *const c = &a->call.call;
    memset(a, 0, sizeof *a);
    a->call.state = m->state;
    a->call.head = m->head;
    a->call.tile_ready = m->tile_ready;
    a->call.expert_ready = m->expert_ready;
    a->call.tile_done = m->tile_done;
    a->call.report = m->report;
    a->call.timeout_ns = 2000000000u;
    a->call.capacity = s->set_map.rows;
    a->own_set = m->set;
    a->num_ctas = s->num_ctas;
    c->shape = s->shape;
    c->control_map = s->control_map;
    c->set_map = s->set_map;
    c->rank = r;
    c->dtype = (int32_t)d->problem.dtype;
    c->weight_dtype = (int32_t)d->problem.weight_dtype;
    c->control = m->control_table;
    c->set = m->set_table;
    c->topk_idx = m->topk_idx;
    c->dst_row = m->dst_row;
    c->sort_slots = m->sort_slots;
    c->row_source = m->row_source;
    c->num_tokens = d->num_tokens[r];
    c->phase.num_ranks = s->shape.num_ranks;
    c->phase.slots_per_task = 16;
    c->phase.tokens_per_task = 4;
    c->phase.num_tokens = d->num_tokens[r];
    c->phase.tiles.num_experts = s->shape.num_local;
    c->phase.tiles.block_m = EPF_CUDA_BLOCK_M;
    c->phase.tiles.group_m = 8;
    c->phase.tiles.rows = m->rows;
    c->phase.tiles.row_offset = m->row_offset;
    c->phase.tiles.tile_offset = m->tile_offset;
}

static void enqueue_dispatch(const setting *s, int32_t r, bool block_wise)
{
    const epf_data *const d = s->data;
    const rank_memory *const m = &s->ranks[r];
    epf_cuda_phase_args a;
    epf_call *const c = &a.call.call;
    fill_common(s, r, &a);
    c->phase.kind = EPF_PHASE_DISPATCH;
    c->phase.num_comm_workers = s->num_ctas;
    c->phase.block_wise = block_wise;
    c->input = (epf_rows){m->tokens, d->problem.hidden};
    c->weight = (epf_rows){m->weights, d->problem.num_topk};
    c->dispatch_output = (epf_rows){m->dispatch_copy, d->problem.hidden};
    c->weight_recv = m->weight_copy;
    c->gemm_weight = m->b1;
    c->gemm_n = d->problem.num_columns;
    c->gemm_k = d->problem.hidden;
    c->gemm_output = (epf_rows){m->gemm_output, d->problem.num_columns};
    CHECK_OK(epf_cuda_phase_run(&a, m->stream));
}

static void enqueue_combine(const setting *s, int32_t r, int32_t kind)
{
    const epf_data *const d = s->data;
    const rank_memory *const m = &s->ranks[r];
    epf_cuda_phase_args a;
    epf_call *const c = &a.call.call;
    fill_common(s, r, &a);
    c->phase.kind = kind;
    c->phase.direct = true;
    c->gemm_weight = m->b2;
    c->gemm_n = d->problem.hidden;
    c->gemm_k = d->problem.num_columns;
    c->gemm_input = (epf_rows){m->gemm_output, d->problem.num_columns};
    c->has_gate = true;
    c->gate_input = m->weight_copy;
    c->output_gate = (epf_rows){m->output_gate, d->problem.num_topk};
    c->combine_weights = (epf_rows){m->combine_weights, d->problem.num_topk};
    c->combine_output = (epf_rows){m->output, d->problem.hidden};
    if (s->with_grad) {
        const epf_grad_map map = {d->problem.num_columns, d->problem.hidden, 128, 256, 8};
        c->phase.num_grads = 1;
        c->phase.grads[0] = map;
        c->grads[0].grad_output = c->gemm_input;
        c->grads[0].orig_input = (epf_rows){m->dispatch_copy, d->problem.hidden};
        c->grads[0].out = (epf_rows){m->grad, d->problem.hidden};
        c->grads[0].out_dtype = c->dtype;
    }
    CHECK_OK(epf_cuda_phase_run(&a, m->stream));
}

static void compare(const setting *s, int32_t r, const char *name, const void *device,
                    const epf_ref_matrix *want, epf_dtype dtype)
{
    const bool is_rows = want->rows == s->data->route.ranks[r].num_rows;
    const epf_compare what = {name, want->rows, want->cols,
                              is_rows ? &s->data->route.ranks[r] : NULL};
    const size_t bytes = (size_t)(want->rows * want->cols) * epf_element_bytes(dtype);
    const epf_ref_tensor got = {epf_test_alloc(bytes + 1, 1), dtype};
    char text[EPF_COMPARE_TEXT];
    CUDA_OK(cudaMemcpy((void *)(uintptr_t)got.data, device, bytes, cudaMemcpyDeviceToHost));
    CHECK(epf_compare_exact(&what, got, want, text), "rank %d: %s", r, text);
    free((void *)(uintptr_t)got.data);
}

static void wait_all(const setting *s)
{
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        const epf_fault *const f = &s->ranks[r].report->fault;
        CUDA_OK(cudaStreamSynchronize(s->ranks[r].stream));
        CHECK(
            s->ranks[r].report->is_set == 0,
            "rank %d reports status %d by rank %d: object %d[%lld] of %d, expected %llx, saw %llx",
            r, f->status, f->rank, f->object, (long long)f->index, f->peer,
            (unsigned long long)f->expected, (unsigned long long)f->seen);
    }
}

static void compare_all(const setting *s)
{
    const epf_problem *const p = &s->data->problem;
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        const rank_memory *const m = &s->ranks[r];
        compare(s, r, "dispatch_output", m->dispatch_copy, &m->x, p->dtype);
        compare(s, r, "weight_recv", m->weight_copy, &m->weight, p->weight_dtype);
        compare(s, r, "gemm_output", m->gemm_output, &m->gemm, p->dtype);
        compare(s, r, "combine_output", m->output, &m->sum, p->dtype);
        compare(s, r, "output_gate", m->output_gate, &m->gate, p->weight_dtype);
        if (s->with_grad) {
            compare(s, r, "grad_weight", m->grad, &m->wgrad, p->dtype);
        }
    }
}

static void forget_results(const setting *s)
{
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        const rank_memory *const m = &s->ranks[r];
        const size_t tokens = (size_t)s->data->num_tokens[r];
        CUDA_OK(cudaMemset(m->output, 0xff, tokens * (size_t)s->shape.hidden * 2));
        CUDA_OK(cudaMemset(m->gemm_output, 0xff,
                           (size_t)(s->set_map.rows * s->data->problem.num_columns) * 2));
    }
    CUDA_OK(cudaDeviceSynchronize());
}

static void make_setting(const epf_data *data, int32_t max_ctas, setting *s)
{
    const epf_problem *const p = &data->problem;
    memset(s, 0, sizeof *s);
    s->data = data;
    s->shape = (epf_shape){p->num_ranks,
                           p->num_experts,
                           p->num_experts / p->num_ranks,
                           p->num_topk,
                           p->hidden,
                           p->max_tokens,
                           2,
                           (int32_t)epf_element_bytes(p->weight_dtype)};
    s->num_ctas = max_ctas / p->num_ranks / 2 * 2;
    for (int32_t r = 0; r < p->num_ranks; r++) {
        s->max_rows = data->route.ranks[r].num_rows > s->max_rows ? data->route.ranks[r].num_rows
                                                                  : s->max_rows;
    }
    epf_control_map_make(&s->shape, &s->control_map);
    epf_set_map_make(&s->shape, s->max_rows + 5, &s->set_map);
    for (int32_t r = 0; r < p->num_ranks; r++) {
        make_memory(s, r);
        make_layout(s, r);
    }
    make_tables(s);
}

static void free_setting(setting *s)
{
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        rank_memory *const m = &s->ranks[r];
        epf_ref_matrix *const matrices[] = {&m->x,   &m->weight, &m->gemm, &m->y,
                                            &m->sum, &m->gate,   &m->wgrad};
        void *const device[] = {m->control,
                                m->set,
                                (void *)m->control_table,
                                (void *)m->set_table,
                                m->state,
                                m->head,
                                m->tile_ready,
                                m->expert_ready,
                                m->tile_done,
                                m->topk_idx,
                                m->dst_row,
                                m->sort_slots,
                                m->row_source,
                                m->rows,
                                m->row_offset,
                                m->tile_offset,
                                m->tokens,
                                m->weights,
                                m->combine_weights,
                                m->b1,
                                m->b2,
                                m->gemm_output,
                                m->dispatch_copy,
                                m->weight_copy,
                                m->output,
                                m->output_gate,
                                m->grad};
        for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
            epf_ref_matrix_free(matrices[i]);
        }
        for (size_t i = 0; i < sizeof device / sizeof device[0]; i++) {
            CUDA_OK(cudaFree(device[i]));
        }
        CUDA_OK(cudaFreeHost(m->report));
        CUDA_OK(cudaStreamDestroy(m->stream));
    }
}

static void run_calls(setting *s, bool with_grad)
{
    s->with_grad = with_grad;
    for (int32_t call = 0; call < NUM_CALLS; call++) {
        const int32_t kind = call % 2 == 0 ? EPF_PHASE_COMBINE_SCATTER : EPF_PHASE_COMBINE_SERIAL;
        forget_results(s);
        for (int32_t r = 0; r < s->shape.num_ranks; r++) {
            enqueue_dispatch(s, r, call != 1);
        }
        for (int32_t r = 0; r < s->shape.num_ranks; r++) {
            enqueue_combine(s, r, kind);
        }
        wait_all(s);
        compare_all(s);
    }
}

/* Without and with weight gradients: the reference costs more than the device. */
static void run_problem(const char *text, int32_t max_ctas)
{
    const epf_problem p = epf_problem_of(text);
    epf_data *const data = epf_data_make(&p);
    setting s;
    CHECK(data != NULL, "%s: the routing does not fit", text);
    CHECK(p.num_ranks <= MAX_RANKS, "%s: at most %d ranks", text, (int)MAX_RANKS);
    make_setting(data, max_ctas, &s);
    expect(&s);
    run_calls(&s, false);
    run_calls(&s, true);
    free_setting(&s);
    epf_data_free(data);
    printf("ok %s\n", text);
}

/* One rank of two does not come: the other ends by itself and says whom it waited for. */
static void run_absent(int32_t max_ctas)
{
    const epf_problem p = epf_problem_of("W2E8K2T64H128N256/uniform/seed5");
    epf_data *const data = epf_data_make(&p);
    const epf_fault *fault;
    setting s;
    make_setting(data, max_ctas, &s);
    enqueue_dispatch(&s, 0, true);
    CUDA_OK(cudaStreamSynchronize(s.ranks[0].stream));
    fault = &s.ranks[0].report->fault;
    CHECK(s.ranks[0].report->is_set == 1, "no report");
    CHECK(fault->status == EPF_E_TIMEOUT && fault->rank == 0, "status %d of rank %d", fault->status,
          fault->rank);
    enqueue_dispatch(&s, 1, true);
    CUDA_OK(cudaStreamSynchronize(s.ranks[1].stream));
    CHECK(s.ranks[1].report->is_set == 1 && s.ranks[1].report->fault.rank == 0,
          "the rank that came late was not told");
    free_setting(&s);
    epf_data_free(data);
    printf("ok a rank that does not come\n");
}

int main(int argc, char **argv)
{
    static const char *const problems[] = {
        "W1E8K2T64H128N256/uniform/seed1",   "W1E16K4T200H512N384/zipf/seed2",
        "W2E8K2T64H128N256/uniform/seed3",   "W2E16K8T130H264N136/zipf/seed4/wbf16",
        "W4E8K4T100H256N512/uniform/seed5",  "W8E16K6T32H256N512/zipf/seed7",
        "W8E64K8T24H1024N128/uniform/seed8", "W4E8K3T77H136N72/uniform/seed9/fp16",
    };
    int count = 0;
    int32_t max_ctas = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no CUDA device\n");
        return EPF_TEST_SKIPPED;
    }
    CHECK_OK(epf_cuda_phase_max_ctas(&max_ctas));
    if (max_ctas == 0) {
        printf("skipped: not a Hopper GPU\n");
        return EPF_TEST_SKIPPED;
    }
    for (int i = 1; i < argc; i++) {
        run_problem(argv[i], max_ctas);
    }
    for (size_t i = 0; argc == 1 && i < sizeof problems / sizeof problems[0]; i++) {
        run_problem(problems[i], max_ctas);
    }
    if (argc == 1) {
        run_absent(max_ctas);
    }
    return 0;
}
