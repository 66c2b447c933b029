/*
 * bench_phase: the fused phases beside the grouped GEMM alone, on one GPU, all of them taking turns.
 *
 *   bench_phase [--profile] [name ...]        shapes of the table below; what the launches spend their time with
 *
 * W ranks of the one GPU, a stream and a share of the SMs each.  Routing: K distinct experts per token, uniform.
 * A figure is the median over rounds, in ms from before the first launch to the end of the last rank; FLOP of useful
 * rows.  Data is random bits of small numbers: nothing here checks a result (tests/cuda does).
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_error.h"
#include "cuda/epf_cuda_phase.h"
#include "cuda/epf_cuda_preprocess.h"
#include "cuda/epf_gemm_cuda.h"

enum { MAX_RANKS = 8, ROUNDS = 11, WARMUP = 2, BLOCK_BYTES = 32 << 20 };

typedef struct shape_row {
    const char *name;
    int32_t ranks, tokens, topk, experts, hidden, inner; /* tokens and experts of one rank */
} shape_row;

static const shape_row shapes[] = {
    {"dsv3", 1, 4096, 8, 32, 7168, 2048},    {"qwen235", 1, 4096, 8, 16, 4096, 1536},
    {"mixtral", 1, 4096, 2, 8, 4096, 14336}, {"dsv3_decode", 1, 128, 8, 32, 7168, 2048},
    {"dsv3_w8", 8, 512, 8, 4, 7168, 2048},   {"dsv3_w2", 2, 2048, 8, 16, 7168, 2048},
};

typedef struct rank_memory {
    cudaStream_t stream;
    uint8_t *control, *set;
    uint8_t **control_table, **set_table;
    epf_cuda_phase_args common;
    epf_cuda_preprocess_args layout;
    void *ids, *tokens, *weights, *b1, *b2, *gemm_output, *activation, *output;
    epf_cuda_report *report;
} rank_memory;

typedef struct setting {
    shape_row row;
    epf_shape shape;
    epf_control_map control_map;
    epf_set_map set_map;
    rank_memory ranks[MAX_RANKS];
    uint8_t *block; /* random numbers */
    uint32_t *queue;
} setting;

static void must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "bench_phase: %s: %s %s\n", what, epf_error_text(),
                cudaGetErrorString(cudaGetLastError()));
        exit(1);
    }
}

static void *zeroed(int64_t bytes)
{
    void *memory = NULL;
    must(cudaMalloc(&memory, (size_t)bytes + 256) == cudaSuccess, "cudaMalloc");
    must(cudaMemset(memory, 0, (size_t)bytes + 256) == cudaSuccess, "cudaMemset");
    return memory;
}

static void *filled(const setting *s, int64_t bytes)
{
    uint8_t *const memory = zeroed(bytes);
    for (int64_t at = 0; at < bytes; at += BLOCK_BYTES) {
        const int64_t part = epf_min64(BLOCK_BYTES, bytes - at);
        must(cudaMemcpy(memory + at, s->block, (size_t)part, cudaMemcpyDeviceToDevice) ==
                 cudaSuccess,
             "cudaMemcpy");
    }
    return memory;
}

static uint64_t random_bits(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* bf16 numbers of both signs between 2^-9 and 2^-1, in random order. */
static void make_block(setting *s)
{
    uint16_t *const host = malloc(BLOCK_BYTES);
    must(host != NULL, "malloc");
    for (int64_t i = 0; i < BLOCK_BYTES / 2; i++) {
        const uint64_t bits = random_bits() >> 16;
        host[i] = (uint16_t)((bits & 0x807fu) | ((118u + (bits >> 16 & 7u)) << 7));
    }
    s->block = zeroed(BLOCK_BYTES);
    must(cudaMemcpy(s->block, host, BLOCK_BYTES, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    free(host);
}

static void *make_ids(const setting *s)
{
    const int64_t slots = (int64_t)s->row.tokens * s->row.topk;
    const int32_t experts = s->shape.num_experts;
    int32_t *const ids = malloc((size_t)slots * sizeof *ids);
    void *device;
    must(ids != NULL, "malloc");
    for (int64_t i = 0; i < slots; i++) {
        const int64_t first = i / s->row.topk * s->row.topk;
        bool again = true;
        while (again) {
            ids[i] = (int32_t)((random_bits() >> 33)) % experts;
            again = false;
            for (int64_t j = first; j < i; j++) {
                again = again || ids[j] == ids[i];
            }
        }
    }
    device = zeroed(slots * 4);
    must(cudaMemcpy(device, ids, (size_t)slots * 4, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    free(ids);
    return device;
}

static void make_layout(setting *s, int32_t r)
{
    const epf_shape *const shape = &s->shape;
    const int64_t slots = epf_shape_max_slots(shape);
    rank_memory *const m = &s->ranks[r];
    epf_cuda_preprocess_args *const l = &m->layout;
    l->call = m->common.call;
    l->num_tokens = s->row.tokens;
    l->exp_indices = (epf_cuda_indices){m->ids, shape->topk};
    l->topk_idx = zeroed(slots * 4);
    l->dst_row = zeroed(slots * 4);
    l->sort_slots = zeroed(slots * 4);
    l->row_capacity = s->set_map.rows;
    l->row_source = zeroed(l->row_capacity * 8);
    l->counts = zeroed((int64_t)shape->num_ranks * shape->num_experts * 4);
    l->tokens = zeroed((int64_t)shape->num_experts * 4);
    l->offset = zeroed((int64_t)shape->num_experts * shape->num_ranks * 4);
    l->recv = zeroed(shape->num_ranks * 4);
    l->input = zeroed(shape->num_ranks * 4);
    l->row_offset = zeroed((shape->num_local + 1) * 4);
    l->tile_offset = zeroed((shape->num_local + 1) * 4);
    for (int i = 0; i < 4; i++) {
        l->tables[i] = zeroed(epf_cuda_max_tiles(l->row_capacity, shape->num_local) * 4);
    }
    l->head = zeroed(sizeof *l->head);
    must(cudaHostAlloc((void **)&l->host_head, sizeof *l->host_head, cudaHostAllocMapped) ==
             cudaSuccess,
         "cudaHostAlloc");
    l->scratch = zeroed(epf_cuda_preprocess_scratch(shape));
    l->num_ctas = m->common.num_ctas;
}

static void make_rank(setting *s, int32_t r, int32_t num_ctas)
{
    const epf_shape *const shape = &s->shape;
    const int64_t rows = s->set_map.rows;
    const int64_t tiles = epf_cuda_max_tiles(rows, shape->num_local);
    rank_memory *const m = &s->ranks[r];
    epf_cuda_call *const c = &m->common.call;
    must(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    must(cudaHostAlloc((void **)&m->report, sizeof *m->report, cudaHostAllocMapped) == cudaSuccess,
         "cudaHostAlloc");
    memset(m->report, 0, sizeof *m->report);
    m->control = zeroed(s->control_map.total_bytes);
    m->set = zeroed(s->set_map.total_bytes);
    c->state = zeroed(sizeof *c->state);
    c->tile_ready = zeroed(tiles * 8);
    c->tile_done = zeroed(tiles * EPF_CUDA_TILE_PARTS * 8);
    c->expert_ready = zeroed(shape->num_local * 8);
    c->report = m->report;
    c->timeout_ns = 5000000000u;
    c->capacity = rows;
    c->call.shape = *shape;
    c->call.control_map = s->control_map;
    c->call.set_map = s->set_map;
    c->call.rank = r;
    c->call.dtype = EPF_DTYPE_BF16;
    c->call.weight_dtype = EPF_DTYPE_F32;
    m->common.num_ctas = num_ctas;
    m->common.own_set = m->set;
    m->ids = make_ids(s);
    m->tokens = filled(s, (int64_t)s->row.tokens * shape->hidden * 2);
    m->weights = filled(s, (int64_t)s->row.tokens * shape->topk * 4);
    m->b1 = filled(s, (int64_t)shape->num_local * 2 * s->row.inner * shape->hidden * 2);
    m->b2 = filled(s, (int64_t)shape->num_local * s->row.inner * shape->hidden * 2);
    m->gemm_output = zeroed(rows * 2 * s->row.inner * 2);
    m->activation = zeroed(rows * s->row.inner * 2);
    m->output = zeroed((int64_t)s->row.tokens * shape->hidden * 2);
    make_layout(s, r);
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
        rank_memory *const m = &s->ranks[r];
        m->control_table = zeroed(sizeof control);
        m->set_table = zeroed(sizeof set);
        must(cudaMemcpy(m->control_table, control, sizeof control, cudaMemcpyHostToDevice) ==
                     cudaSuccess &&
                 cudaMemcpy(m->set_table, set, sizeof set, cudaMemcpyHostToDevice) == cudaSuccess,
             "tables");
        m->common.call.call.control = m->control_table;
        m->common.call.call.set = m->set_table;
        m->layout.call = m->common.call;
    }
}

static void fill_phase(const setting *s, int32_t r, epf_cuda_phase_args *a)
{
    const rank_memory *const m = &s->ranks[r];
    epf_call *const c = &a->call.call;
    *a = m->common;
    a->call.head = m->layout.head;
    a->expected_rows = (int64_t)s->row.tokens * s->row.topk;
    c->topk_idx = m->layout.topk_idx;
    c->dst_row = m->layout.dst_row;
    c->sort_slots = m->layout.sort_slots;
    c->row_source = m->layout.row_source;
    c->num_tokens = s->row.tokens;
    c->phase.num_ranks = s->shape.num_ranks;
    c->phase.slots_per_task = 16;
    c->phase.tokens_per_task = 4;
    c->phase.num_tokens = s->row.tokens;
    c->phase.block_wise = true;
    c->phase.direct = true;
    c->phase.tiles.num_experts = s->shape.num_local;
    c->phase.tiles.block_m = EPF_CUDA_BLOCK_M;
    c->phase.tiles.group_m = 8;
    c->phase.tiles.rows = m->layout.tokens + (int64_t)r * s->shape.num_local;
    c->phase.tiles.row_offset = m->layout.row_offset;
    c->phase.tiles.tile_offset = m->layout.tile_offset;
}

static void preprocess(const setting *s, int32_t r)
{
    must(epf_cuda_preprocess(&s->ranks[r].layout, s->ranks[r].stream) == EPF_OK, "preprocess");
}

static void dispatch_to(const setting *s, int32_t r, bool swiglu)
{
    const rank_memory *const m = &s->ranks[r];
    epf_cuda_phase_args a;
    epf_call *const c = &a.call.call;
    fill_phase(s, r, &a);
    c->phase.kind = EPF_PHASE_DISPATCH;
    c->phase.num_comm_workers = a.num_ctas;
    c->input = (epf_rows){m->tokens, s->shape.hidden};
    c->weight = (epf_rows){m->weights, s->shape.topk};
    c->gemm_weight = m->b1;
    c->gemm_n = 2 * s->row.inner;
    c->gemm_k = s->shape.hidden;
    if (swiglu) {
        c->activation_output = (epf_rows){m->activation, s->row.inner};
    } else {
        c->gemm_output = (epf_rows){m->gemm_output, 2 * s->row.inner};
    }
    must(epf_cuda_phase_run(&a, m->stream) == EPF_OK, "dispatch");
}

static void dispatch(const setting *s, int32_t r)
{
    dispatch_to(s, r, false);
}

static void dispatch_swiglu(const setting *s, int32_t r)
{
    dispatch_to(s, r, true);
}

static void combine_kind(const setting *s, int32_t r, int32_t kind)
{
    const rank_memory *const m = &s->ranks[r];
    epf_cuda_phase_args a;
    epf_call *const c = &a.call.call;
    fill_phase(s, r, &a);
    c->phase.kind = kind;
    c->gemm_weight = m->b2;
    c->gemm_n = s->shape.hidden;
    c->gemm_k = s->row.inner;
    c->gemm_input = (epf_rows){m->activation, s->row.inner};
    c->combine_output = (epf_rows){m->output, s->shape.hidden};
    must(epf_cuda_phase_run(&a, m->stream) == EPF_OK, "combine");
}

static void combine_scatter(const setting *s, int32_t r)
{
    combine_kind(s, r, EPF_PHASE_COMBINE_SCATTER);
}

static void combine_serial(const setting *s, int32_t r)
{
    combine_kind(s, r, EPF_PHASE_COMBINE_SERIAL);
}

/* The grouped GEMM alone, on rank 0 of one: rows are in place. */
static void gemm_alone(const setting *s, int32_t r, bool first, bool swiglu)
{
    const rank_memory *const m = &s->ranks[r];
    epf_gemm_cuda_args g;
    memset(&g, 0, sizeof g);
    g.dtype = EPF_DTYPE_BF16;
    g.num_experts = s->shape.num_local;
    g.n = first ? 2 * s->row.inner : s->shape.hidden;
    g.k = first ? s->shape.hidden : s->row.inner;
    g.a_rows = s->set_map.rows;
    g.a = first ? (void *)(m->set + s->set_map.recv_tokens) : m->activation;
    g.b = first ? m->b1 : m->b2;
    g.c = first ? (swiglu ? m->activation : m->gemm_output)
                : (void *)(m->set + s->set_map.combine_rows);
    g.epilogue = swiglu ? EPF_GEMM_SWIGLU : EPF_GEMM_STORE;
    g.row_weight = swiglu ? (void *)(m->set + s->set_map.recv_weight) : NULL;
    g.rows = m->layout.tokens + (int64_t)r * s->shape.num_local;
    g.expected_rows = (int64_t)s->row.tokens * s->row.topk;
    g.queue = s->queue;
    g.sm_margin = 0;
    must(epf_gemm_cuda(&g, m->stream) == EPF_OK, "gemm");
}

static void gemm1(const setting *s, int32_t r)
{
    gemm_alone(s, r, true, false);
}

static void gemm1_swiglu(const setting *s, int32_t r)
{
    gemm_alone(s, r, true, true);
}

static void gemm2(const setting *s, int32_t r)
{
    gemm_alone(s, r, false, false);
}

typedef struct contender {
    const char *name;
    void (*enqueue)(const setting *s, int32_t r);
    int32_t gemm; /* whose FLOP: 1, 2; 0: none */
    bool one_rank;
    float ms[ROUNDS];
} contender;

static int by_time(const void *a, const void *b)
{
    const float x = *(const float *)a;
    const float y = *(const float *)b;
    return (x > y) - (x < y);
}

/* From before the first rank's launch to the last rank's end. */
static float time_once(const setting *s, const contender *c)
{
    cudaEvent_t start;
    cudaEvent_t end[MAX_RANKS];
    float ms = 0.0f;
    must(cudaEventCreate(&start) == cudaSuccess, "event");
    must(cudaEventRecord(start, s->ranks[0].stream) == cudaSuccess, "event");
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        must(cudaEventCreate(&end[r]) == cudaSuccess, "event");
        c->enqueue(s, r);
        must(cudaEventRecord(end[r], s->ranks[r].stream) == cudaSuccess, "event");
    }
    must(cudaDeviceSynchronize() == cudaSuccess, "device");
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        float one = 0.0f;
        must(s->ranks[r].report->is_set == 0, "a rank gave up");
        must(cudaEventElapsedTime(&one, start, end[r]) == cudaSuccess, "event");
        ms = one > ms ? one : ms;
        (void)cudaEventDestroy(end[r]);
    }
    (void)cudaEventDestroy(start);
    return ms;
}

static bool with_profile;

enum { RECORDS = 4096 };

static int64_t num_lanes(const setting *s, int32_t r)
{
    return (int64_t)s->ranks[r].common.num_ctas * EPF_CUDA_PROF_LANES;
}

typedef struct event_sum {
    int64_t count;
    uint64_t first, last, busy;
} event_sum;

/* Per event of rank r: how many, from when to when after the first record, how long on average. */
static void print_lanes(setting *s, int32_t r, const char *name)
{
    static const char *const names[] = {
#define X(id, text, category) text,
        EPF_PROF_EVENT_MAP(X)
#undef X
    };
    epf_prof_record *const records = calloc(RECORDS, sizeof *records);
    event_sum sums[EPF_CUDA_PROF_LANES][EPF_PROF_NUM_EVENTS];
    uint64_t begin = UINT64_MAX;
    memset(sums, 0, sizeof sums);
    must(records != NULL, "calloc");
    for (int64_t i = 0; i < num_lanes(s, r); i++) {
        must(cudaMemcpy(records, s->ranks[r].common.call.records + i * RECORDS,
                        RECORDS * sizeof *records, cudaMemcpyDeviceToHost) == cudaSuccess,
             "records");
        for (int k = 0; k < RECORDS && records[k].end_ns != 0; k++) {
            event_sum *const e = &sums[i % EPF_CUDA_PROF_LANES][records[k].event];
            begin = records[k].begin_ns < begin ? records[k].begin_ns : begin;
            e->first = e->count == 0 || records[k].end_ns < e->first ? records[k].end_ns : e->first;
            e->last = records[k].end_ns > e->last ? records[k].end_ns : e->last;
            e->busy += records[k].end_ns - records[k].begin_ns;
            e->count++;
        }
    }
    for (int lane = 0; lane < EPF_CUDA_PROF_LANES; lane++) {
        for (int e = 0; e < EPF_PROF_NUM_EVENTS; e++) {
            const event_sum *const x = &sums[lane][e];
            if (x->count > 0) {
                printf(
                    "    %-22s lane %d %-28s %7lld, first end %8.1f us, last %8.1f, mean %8.2f\n",
                    name, lane, names[e], (long long)x->count, (double)(x->first - begin) * 1e-3,
                    (double)(x->last - begin) * 1e-3, (double)x->busy / (double)x->count * 1e-3);
            }
        }
    }
    free(records);
}

static void profile(setting *s, const contender *c)
{
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        s->ranks[r].common.call.records =
            zeroed(num_lanes(s, r) * RECORDS * (int64_t)sizeof(epf_prof_record));
        s->ranks[r].common.call.records_per_lane = RECORDS;
    }
    (void)time_once(s, c);
    print_lanes(s, 0, c->name);
    for (int32_t r = 0; r < s->shape.num_ranks; r++) {
        s->ranks[r].common.call.records = NULL;
    }
}

static void run_shape(const shape_row *row, int32_t max_ctas)
{
    contender all[] = {
        {"preprocess", preprocess, 0, false, {0}},
        {"gemm1", gemm1, 1, true, {0}},
        {"dispatch+gemm1", dispatch, 1, false, {0}},
        {"gemm1+swiglu", gemm1_swiglu, 1, true, {0}},
        {"dispatch+gemm1+swiglu", dispatch_swiglu, 1, false, {0}},
        {"gemm2", gemm2, 2, true, {0}},
        {"gemm2+combine scatter", combine_scatter, 2, false, {0}},
        {"gemm2+combine serial", combine_serial, 2, false, {0}},
    };
    setting *const s = calloc(1, sizeof *s);
    double flop;
    must(s != NULL, "calloc");
    s->row = *row;
    s->shape = (epf_shape){
        row->ranks, row->experts * row->ranks, row->experts, row->topk, row->hidden, row->tokens, 2,
        4};
    epf_control_map_make(&s->shape, &s->control_map);
    epf_set_map_make(&s->shape, (int64_t)row->tokens * row->topk * (row->ranks > 1 ? 2 : 1),
                     &s->set_map);
    make_block(s);
    s->queue = zeroed(8);
    for (int32_t r = 0; r < row->ranks; r++) {
        make_rank(s, r, max_ctas / row->ranks / 2 * 2);
    }
    make_tables(s);
    for (int32_t r = 0; r < row->ranks; r++) {
        preprocess(s, r);
    }
    must(cudaDeviceSynchronize() == cudaSuccess, "preprocess");
    flop = 2.0 * row->tokens * row->topk * row->ranks * row->hidden * 2 * row->inner;
    for (int32_t turn = 0; turn < WARMUP + ROUNDS; turn++) {
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
            if (!all[i].one_rank || row->ranks == 1) {
                all[i].ms[turn < WARMUP ? 0 : turn - WARMUP] = time_once(s, &all[i]);
            }
        }
    }
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        float ms;
        qsort(all[i].ms, ROUNDS, sizeof all[i].ms[0], by_time);
        ms = all[i].ms[ROUNDS / 2];
        if (!all[i].one_rank || row->ranks == 1) {
            printf("%-12s %-24s %8.4f ms  %7.1f TFLOP/s\n", row->name, all[i].name, (double)ms,
                   all[i].gemm == 0 ? 0.0 : flop / all[i].gemm / (double)ms * 1e-9);
        }
    }
    for (size_t i = 0; with_profile && i < sizeof all / sizeof all[0]; i++) {
        if (!all[i].one_rank && all[i].gemm > 0) {
            profile(s, &all[i]);
        }
    }
    fflush(stdout);
    free(s); /* device memory goes with the process, or is needed by no later shape */
    must(cudaDeviceReset() == cudaSuccess, "reset");
}

int main(int argc, char **argv)
{
    (void)setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int32_t max_ctas = 0;
        bool is_wanted;
        with_profile = argc > 1 && strcmp(argv[1], "--profile") == 0;
        is_wanted = argc == 1 + (with_profile ? 1 : 0);
        for (int a = 1; a < argc; a++) {
            is_wanted = is_wanted || strcmp(argv[a], shapes[i].name) == 0;
        }
        if (is_wanted) {
            must(epf_cuda_phase_max_ctas(&max_ctas) == EPF_OK && max_ctas > 0, "a Hopper GPU");
            run_shape(&shapes[i], max_ctas);
        }
    }
    return 0;
}
