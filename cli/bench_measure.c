/*
 * bench_measure.c: times the fused operations and, taking turns with them, the unfused composition.
 *
 * Ranks are threads.  Before each timed piece all ranks meet; the piece's time is the slowest rank's.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "api/epf_phase_args.h"
#include "api/epf_unfused.h"
#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "bench.h"
#include "core/epf_dtype.h"
#include "core/epf_route.h"
#include "cpu/gemm/epf_convert.h"
#include "prof/epf_trace.h"

#define PROFILE_NAME "bench"

enum { PASS_FUSED, PASS_SERIAL, PASS_UNFUSED, NUM_PASSES, WARMUP = 2 };

/* Where all ranks meet before a timed piece.  It spins: waking from a sleep would be part of the figure. */
typedef struct bench_gate {
    atomic_uint num_here;
    atomic_uint round;
    atomic_bool is_broken; /* a rank failed and will not come */
    uint32_t num_ranks;
} bench_gate;

static epf_status meet(bench_gate *gate)
{
    const unsigned round = atomic_load(&gate->round);
    if (atomic_fetch_add(&gate->num_here, 1) + 1 == gate->num_ranks) {
        atomic_store(&gate->num_here, 0);
        atomic_fetch_add(&gate->round, 1);
        return EPF_OK;
    }
    for (uint32_t i = 0; atomic_load(&gate->round) == round; i++) {
        if (atomic_load(&gate->is_broken)) {
            return EPF_FAIL(EPF_E_PEER, "bench: another rank failed");
        }
        if (i > 10000) {
            (void)sched_yield(); /* more ranks than cores */
        }
    }
    return EPF_OK;
}

/* One rank's operands. */
typedef struct bench_rank {
    const bench_problem *problem;
    bench_gate *gate;
    int32_t rank;
    epf_group *group;
    epf_op *op;
    epf_layout *layout;
    epf_weight *w1;       /* gate_up if gated */
    epf_weight *w1_plain; /* the same columns, for the unfused GEMM */
    epf_weight *w2;
    epf_tensor input, ids, weight, output;
    epf_memory raw, hidden; /* [R, N] and [R, I] */
    double *us[BENCH_NUM_OPS];
    double *pass_us[NUM_PASSES];
    bench_ceilings *ceilings;        /* of rank 0, else NULL */
    double *dense_gflops, *copy_gbs; /* samples, of rank 0 */
    epf_status status;
    char error[512];
} bench_rank;

const char *bench_op_name(bench_op op)
{
    static const char *const names[] = {
#define X(name, text, unfused) text,
        BENCH_OP_MAP(X)
#undef X
    };
    return names[op];
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static double uniform(uint64_t *state)
{
    return ((double)next_random(state) + 0.5) / 2147483648.0;
}

static epf_status random_tensor(epf_tensor *t, int32_t dtype, int32_t ndim, const int64_t *shape,
                                double scale, uint64_t seed)
{
    int64_t count = 1;
    void *data;
    for (int32_t d = 0; d < ndim; d++) {
        count *= shape[d];
    }
    data = epf_alloc_aligned((size_t)count, (size_t)epf_dtype_bytes(dtype), 64);
    if (data == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "bench: %lld elements", (long long)count);
    }
    for (int64_t i = 0; i < count; i++) { /* Box-Muller: normal, never zeros */
        const double radius = sqrt(-2.0 * log(uniform(&seed)));
        const float value = (float)(scale * radius * cos(6.283185307179586 * uniform(&seed)));
        epf_convert_from_f32((uint8_t *)data + i * epf_dtype_bytes(dtype), &value, (epf_dtype)dtype,
                             1);
    }
    return epf_tensor_make(t, data, (epf_dtype)dtype, ndim, shape);
}

/* K different experts per token, by weight 1 (uniform) or 1 / (1 + expert) (Zipf). */
static void random_routing(const bench_problem *p, int32_t *ids, uint64_t seed)
{
    for (int64_t t = 0; t < p->num_tokens; t++) {
        int32_t *const chosen = ids + t * p->topk;
        for (int32_t k = 0; k < p->topk;) {
            const int32_t e = (int32_t)(next_random(&seed) % (uint64_t)p->num_experts);
            bool is_new = !p->is_zipf || uniform(&seed) * (e + 1) < 1.0;
            for (int32_t j = 0; j < k && is_new; j++) {
                is_new = chosen[j] != e;
            }
            if (is_new) {
                chosen[k++] = e;
            }
        }
    }
}

static epf_status pack(bench_rank *b, int64_t n, int64_t k, bool gate_up, uint64_t seed,
                       epf_weight **w)
{
    const bench_problem *const p = b->problem;
    const int64_t shape[3] = {p->num_experts / p->num_ranks, n, k};
    epf_weight_config c;
    epf_status st;
    EPF_TRY(epf_weight_config_init(&c));
    EPF_TRY(random_tensor(&c.tensor, p->dtype, 3, shape, 1.0 / sqrt((double)k), seed));
    c.gate_up = gate_up;
    st = epf_weight_create(b->op, &c, w);
    epf_free(c.tensor.data);
    return st;
}

static epf_status prepare(bench_rank *b)
{
    const bench_problem *const p = b->problem;
    const uint64_t seed = p->seed * 1000 + (uint64_t)b->rank * 10;
    const int64_t tokens[2] = {p->num_tokens, p->hidden};
    const int64_t slots[2] = {p->num_tokens, p->topk};
    epf_op_config config;
    int32_t *ids;
    EPF_TRY(epf_op_config_init(&config));
    config.max_tokens = p->num_tokens;
    config.hidden = p->hidden;
    config.topk = p->topk;
    config.num_tot_experts = p->num_experts;
    config.dtype = p->dtype;
    config.num_workers = p->num_workers;
    config.pin_workers = true;
    EPF_TRY(epf_op_create(b->group, &config, &b->op));
    EPF_TRY(pack(b, p->columns, p->hidden, p->gated, seed + 1, &b->w1));
    if (p->gated) {
        EPF_TRY(pack(b, p->columns, p->hidden, false, seed + 1, &b->w1_plain));
    }
    EPF_TRY(pack(b, p->hidden, p->intermediate, false, seed + 2, &b->w2));
    EPF_TRY(random_tensor(&b->input, p->dtype, 2, tokens, 1.0, seed + 3));
    EPF_TRY(random_tensor(&b->output, p->dtype, 2, tokens, 1.0, seed + 4));
    EPF_TRY(random_tensor(&b->weight, EPF_DTYPE_F32, 2, slots, 0.1, seed + 5));
    ids = epf_alloc((size_t)(slots[0] * slots[1]), sizeof *ids);
    if (ids == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "bench: %lld slots", (long long)(slots[0] * slots[1]));
    }
    random_routing(p, ids, seed + 6);
    return epf_tensor_make(&b->ids, ids, EPF_DTYPE_I32, 2, slots);
}

/* Times one piece after all ranks met; `at` is NULL while warming up. */
#define TIMED(b, expression, at)                                 \
    do {                                                         \
        uint64_t timed_begin;                                    \
        EPF_TRY(meet((b)->gate));                                \
        timed_begin = epf_now_ns();                              \
        EPF_TRY(expression);                                     \
        if ((at) != NULL) {                                      \
            *(at) = (double)(epf_now_ns() - timed_begin) * 1e-3; \
        }                                                        \
    } while (0)

static epf_status run_preprocess(bench_rank *b)
{
    epf_preprocess_args a;
    EPF_TRY(epf_preprocess_args_init(&a));
    a.exp_indices = b->ids;
    return epf_preprocess(b->op, &a, &b->layout);
}

static epf_status reserve_rows(bench_rank *b)
{
    const int64_t bytes = (int64_t)b->layout->num_rows * epf_dtype_bytes(b->problem->dtype);
    EPF_TRY(epf_memory_reserve(&b->raw, epf_max64(bytes * b->problem->columns, 1), "bench"));
    return epf_memory_reserve(&b->hidden, epf_max64(bytes * b->problem->intermediate, 1), "bench");
}

static epf_tensor rows_tensor(const bench_rank *b, const epf_memory *memory, int64_t columns)
{
    const int64_t shape[2] = {b->layout->num_rows, columns};
    return epf_tensor_of(memory->data, b->problem->dtype, 2, shape);
}

static epf_status run_dispatch(bench_rank *b, bool is_profiled)
{
    const bench_problem *const p = b->problem;
    epf_dispatch_group_gemm_args a;
    EPF_TRY(epf_dispatch_group_gemm_args_init(&a));
    a.layout = b->layout;
    a.input = b->input;
    a.weight = b->weight;
    a.packed_weight = b->w1;
    a.gemm_block_size_m = EPF_LAYER_BLOCK_M;
    a.gemm_group_size_m = EPF_LAYER_GROUP_M;
    a.use_block_wise_barrier = true;
    a.enable_profiler = is_profiled;
    a.profile_file_name = PROFILE_NAME "_dispatch";
    if (p->gated) {
        a.activation = EPF_ACTIVATION_SWIGLU;
        a.activation_output = rows_tensor(b, &b->hidden, p->intermediate);
        a.keep_gemm_output = false;
    } else {
        a.gemm_output_data = rows_tensor(b, &b->hidden, p->intermediate);
    }
    return epf_dispatch_group_gemm(b->op, &a, NULL);
}

static epf_status run_combine(bench_rank *b, int32_t mode, bool is_profiled)
{
    epf_group_gemm_combine_args a;
    EPF_TRY(epf_group_gemm_combine_args_init(&a));
    a.layout = b->layout;
    a.gemm_input_data = rows_tensor(b, &b->hidden, b->problem->intermediate);
    a.packed_weight = b->w2;
    a.combine_output = b->output;
    a.gemm_block_size_m = EPF_LAYER_BLOCK_M;
    a.gemm_group_size_m = EPF_LAYER_GROUP_M;
    a.combine_mode = mode;
    a.enable_profiler = is_profiled;
    a.profile_file_name = PROFILE_NAME "_combine";
    return epf_group_gemm_combine(b->op, &a, NULL);
}

/* SwiGLU as a pass of its own over what GEMM 1 has written. */
static epf_status run_swiglu(bench_rank *b, bool is_profiled)
{
    const int64_t n = b->problem->columns;
    const int64_t half = b->problem->intermediate;
    const epf_dtype dtype = (epf_dtype)b->problem->dtype;
    const int64_t bytes = epf_dtype_bytes((int32_t)dtype);
    const float *const weights = epf_unfused_recv_weights(b->op);
    const epf_prof_config config = {b->rank, 1, 4};
    epf_prof *prof = NULL;
    epf_prof_record *rec;
    epf_status st = EPF_OK;
    float *const work = epf_alloc((size_t)n, sizeof *work);
    if (work == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "bench: row");
    }
    st = is_profiled ? epf_prof_create(&config, &prof) : EPF_OK;
    rec = epf_prof_begin(epf_prof_worker(prof, 0), EPF_PROF_ACTIVATION, 0);
    for (int64_t row = 0; row < b->layout->num_rows; row++) {
        epf_convert_to_f32(work, (uint8_t *)b->raw.data + row * n * bytes, dtype, n);
        epf_swiglu(work, work + half, weights[row], half);
        epf_convert_from_f32((uint8_t *)b->hidden.data + row * half * bytes, work, dtype, half);
    }
    epf_prof_end(rec);
    st = st == EPF_OK && prof != NULL ? epf_prof_write(prof, NULL, "bench_swiglu") : st;
    epf_prof_destroy(prof);
    epf_free(work);
    return st;
}

/* Where a sample of this iteration goes, or NULL. */
static double *sample(bench_rank *b, bench_op op, int32_t iteration)
{
    return iteration >= 0 ? &b->us[op][iteration] : NULL;
}

static epf_status unfused_pieces(bench_rank *b, int32_t i)
{
    const bench_problem *const p = b->problem;
    const epf_rows recv = epf_unfused_recv_rows(b->op);
    const epf_rows y = epf_unfused_combine_rows(b->op);
    const epf_rows raw = {b->raw.data, p->columns};
    const epf_rows hidden = {b->hidden.data, p->intermediate};
    TIMED(b, epf_unfused_dispatch(b->op, b->layout, &b->input, &b->weight, NULL),
          sample(b, BENCH_UNFUSED_DISPATCH, i));
    TIMED(b,
          epf_unfused_gemm(b->op, b->layout, p->gated ? b->w1_plain : b->w1, recv,
                           p->gated ? raw : hidden, NULL),
          sample(b, BENCH_UNFUSED_GEMM1, i));
    if (p->gated) {
        TIMED(b, run_swiglu(b, false), sample(b, BENCH_UNFUSED_SWIGLU, i));
    }
    TIMED(b, epf_unfused_gemm(b->op, b->layout, b->w2, hidden, y, NULL),
          sample(b, BENCH_UNFUSED_GEMM2, i));
    TIMED(b, epf_unfused_combine(b->op, b->layout, &b->output, NULL),
          sample(b, BENCH_UNFUSED_COMBINE, i));
    return EPF_OK;
}

/* A whole layer, no stops between its parts but their own. */
static epf_status run_pass(bench_rank *b, int32_t pass, bool is_profiled)
{
    const bench_problem *const p = b->problem;
    const epf_rows raw = {b->raw.data, p->columns};
    const epf_rows hidden = {b->hidden.data, p->intermediate};
    EPF_TRY(run_preprocess(b));
    if (pass != PASS_UNFUSED) {
        EPF_TRY(run_dispatch(b, is_profiled));
        return run_combine(b, pass == PASS_SERIAL ? EPF_COMBINE_SERIAL : EPF_COMBINE_FUSE_SCATTER,
                           is_profiled);
    }
    EPF_TRY(epf_unfused_dispatch(b->op, b->layout, &b->input, &b->weight,
                                 is_profiled ? "bench_unfused_dispatch" : NULL));
    EPF_TRY(epf_unfused_gemm(b->op, b->layout, p->gated ? b->w1_plain : b->w1,
                             epf_unfused_recv_rows(b->op), p->gated ? raw : hidden,
                             is_profiled ? "bench_unfused_gemm1" : NULL));
    if (p->gated) {
        EPF_TRY(run_swiglu(b, is_profiled));
    }
    EPF_TRY(epf_unfused_gemm(b->op, b->layout, b->w2, hidden, epf_unfused_combine_rows(b->op),
                             is_profiled ? "bench_unfused_gemm2" : NULL));
    return epf_unfused_combine(b->op, b->layout, &b->output,
                               is_profiled ? "bench_unfused_combine" : NULL);
}

/* Whole layers in turns; who goes first changes. */
static epf_status run_passes(bench_rank *b, int32_t iteration)
{
    const int32_t passes = b->problem->passes;
    for (int32_t turn = 0; turn < (iteration >= 0 ? passes : 1); turn++) {
        for (int32_t k = 0; k < NUM_PASSES; k++) {
            const int32_t pass = (k + turn + iteration + WARMUP) % NUM_PASSES;
            TIMED(b, run_pass(b, pass, false),
                  iteration >= 0 ? &b->pass_us[pass][iteration * passes + turn] : NULL);
        }
    }
    return EPF_OK;
}

static epf_status run_rank(bench_rank *b)
{
    EPF_TRY(prepare(b));
    EPF_TRY(run_preprocess(b));
    EPF_TRY(reserve_rows(b));
    for (int32_t i = -WARMUP; i < b->problem->repeat; i++) {
        EPF_TRY(meet(b->gate));
        if (b->ceilings != NULL) {
            const int32_t at = i >= 0 ? i : 0;
            EPF_TRY(bench_ceilings_sample(b->ceilings, &b->dense_gflops[at], &b->copy_gbs[at]));
        }
        EPF_TRY(epf_op_barrier(b->op)); /* the others sleep meanwhile */
        TIMED(b, run_preprocess(b), sample(b, BENCH_PREPROCESS, i));
        TIMED(b, run_dispatch(b, false), sample(b, BENCH_DISPATCH_GEMM, i));
        TIMED(b, run_combine(b, EPF_COMBINE_FUSE_SCATTER, false), sample(b, BENCH_GEMM_COMBINE, i));
        TIMED(b, run_combine(b, EPF_COMBINE_SERIAL, false),
              sample(b, BENCH_GEMM_COMBINE_SERIAL, i));
        EPF_TRY(unfused_pieces(b, i));
        EPF_TRY(run_passes(b, i));
    }
    EPF_TRY(run_pass(b, PASS_UNFUSED, true));
    return run_pass(b, PASS_FUSED, true);
}

static void *rank_main(void *argument)
{
    bench_rank *const b = argument;
    b->status = run_rank(b);
    if (b->status != EPF_OK) {
        atomic_store(&b->gate->is_broken, true);
        strncpy(b->error, epf_last_error(), sizeof b->error - 1);
    }
    return NULL;
}

static void count_rows(const bench_rank *ranks, bench_result *result)
{
    const bench_problem *const p = ranks[0].problem;
    const int32_t num_local = p->num_experts / p->num_ranks;
    for (int32_t r = 0; r < p->num_ranks; r++) {
        const int32_t *const ids = ranks[r].ids.data;
        result->rows += ranks[r].layout->num_rows;
        result->tokens += p->num_tokens;
        for (int64_t t = 0; t < p->num_tokens; t++) {
            for (int32_t k = 0; k < p->topk; k++) {
                result->carried += epf_route_carrier(ids + t * p->topk, p->topk, p->num_experts,
                                                     num_local, k) == k;
            }
        }
    }
}

/* FLOP over the time workers spent inside GEMM tiles of the profiled calls, for all threads. */
static epf_status read_main_rate(const bench_problem *p, bench_result *result)
{
    static const char *const phases[] = {"dispatch", "combine"};
    double ns = 0.0;
    for (size_t f = 0; f < 2; f++) {
        for (int32_t r = 0; r < p->num_ranks; r++) {
            char path[128];
            epf_trace *trace = NULL;
            (void)snprintf(path, sizeof path,
                           "prof/mega/" PROFILE_NAME "_%s_rank_%d.perfetto-trace", phases[f], r);
            EPF_TRY(epf_trace_read(path, &trace));
            for (uint32_t l = 0; l < trace->num_lanes; l++) {
                for (uint64_t i = 0; i < trace->lanes[l].num_records; i++) {
                    const epf_prof_record *const rec = &trace->lanes[l].records[i];
                    if (rec->event < trace->num_events &&
                        strcmp(trace->events[rec->event].name, "group_gemm_main") == 0) {
                        ns += (double)(rec->end_ns - rec->begin_ns);
                    }
                }
            }
            epf_trace_destroy(trace);
        }
    }
    result->main_gflops = 2.0 * (double)result->rows * p->hidden *
                          (double)(p->columns + p->intermediate) / ns * p->num_ranks *
                          p->num_workers;
    return EPF_OK;
}

static epf_status collect(const bench_rank *ranks, bench_result *result)
{
    const bench_problem *const p = ranks[0].problem;
    const int32_t num_passes = p->repeat * p->passes;
    double each[NUM_PASSES][BENCH_MAX_SAMPLES];
    double *samples[BENCH_MAX_RANKS];
    double *const layers[NUM_PASSES] = {&result->fused_layer_us, &result->serial_layer_us,
                                        &result->unfused_layer_us};
    for (int32_t op = 0; op < BENCH_NUM_OPS; op++) {
        for (int32_t r = 0; r < p->num_ranks; r++) {
            samples[r] = ranks[r].us[op];
        }
        result->us[op] = bench_slowest(samples, p->num_ranks, p->repeat, 0.5);
        result->us_low[op] = bench_slowest(samples, p->num_ranks, p->repeat, 0.1);
        result->us_high[op] = bench_slowest(samples, p->num_ranks, p->repeat, 0.99);
    }
    for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
        for (int32_t r = 0; r < p->num_ranks; r++) {
            samples[r] = ranks[r].pass_us[pass];
        }
        bench_slowest_each(samples, p->num_ranks, num_passes, each[pass]);
        *layers[pass] = bench_slowest(samples, p->num_ranks, num_passes, 0.5);
    }
    result->fused_gain = bench_paired_ratio(each[PASS_UNFUSED], each[PASS_FUSED], num_passes);
    result->serial_gain = bench_paired_ratio(each[PASS_UNFUSED], each[PASS_SERIAL], num_passes);
    result->ceiling.dense_gflops = bench_quantile(ranks[0].dense_gflops, p->repeat, 0.5);
    result->ceiling.copy_gbs = bench_quantile(ranks[0].copy_gbs, p->repeat, 0.5);
    strncpy(result->ceiling.gemm_kind, bench_ceilings_library(ranks[0].ceilings),
            sizeof result->ceiling.gemm_kind - 1);
    count_rows(ranks, result);
    return read_main_rate(p, result);
}

static void release(bench_rank *b)
{
    epf_layout_destroy(b->layout);
    epf_weight_destroy(b->w1);
    epf_weight_destroy(b->w1_plain);
    epf_weight_destroy(b->w2);
    epf_op_destroy(b->op);
    epf_group_destroy(b->group);
    epf_free(b->input.data);
    epf_free(b->ids.data);
    epf_free(b->weight.data);
    epf_free(b->output.data);
    epf_free(b->raw.data);
    epf_free(b->hidden.data);
    bench_ceilings_destroy(b->ceilings);
    epf_free(b->dense_gflops);
    epf_free(b->copy_gbs);
    for (int32_t op = 0; op < BENCH_NUM_OPS; op++) {
        epf_free(b->us[op]);
    }
    for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
        epf_free(b->pass_us[pass]);
    }
}

static epf_status make_ranks(const bench_problem *p, bench_gate *gate, bench_rank *ranks)
{
    epf_group *groups[1024];
    EPF_TRY(epf_group_create_threads(p->num_ranks, NULL, groups));
    for (int32_t r = 0; r < p->num_ranks; r++) {
        bool is_there = true;
        ranks[r].problem = p;
        ranks[r].gate = gate;
        ranks[r].rank = r;
        ranks[r].group = groups[r];
        for (int32_t op = 0; op < BENCH_NUM_OPS; op++) {
            ranks[r].us[op] = epf_alloc((size_t)p->repeat, sizeof(double));
            is_there = is_there && ranks[r].us[op] != NULL;
        }
        for (int32_t pass = 0; pass < NUM_PASSES; pass++) {
            ranks[r].pass_us[pass] = epf_alloc((size_t)(p->repeat * p->passes), sizeof(double));
            is_there = is_there && ranks[r].pass_us[pass] != NULL;
        }
        ranks[r].dense_gflops = epf_alloc((size_t)p->repeat, sizeof(double));
        ranks[r].copy_gbs = epf_alloc((size_t)p->repeat, sizeof(double));
        if (!is_there || ranks[r].dense_gflops == NULL || ranks[r].copy_gbs == NULL) {
            return EPF_FAIL(EPF_E_NO_MEMORY, "bench: samples");
        }
    }
    return bench_ceilings_create(p, &ranks[0].ceilings);
}

epf_status bench_measure(const bench_problem *problem, bench_result *result)
{
    pthread_t threads[1024];
    bench_gate gate;
    epf_status st;
    bench_rank *const ranks = epf_alloc((size_t)problem->num_ranks, sizeof *ranks);
    if (ranks == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "bench: %d ranks", problem->num_ranks);
    }
    memset(result, 0, sizeof *result);
    memset(&gate, 0, sizeof gate);
    gate.num_ranks = (uint32_t)problem->num_ranks;
    st = make_ranks(problem, &gate, ranks);
    if (st == EPF_OK) {
        for (int32_t r = 0; r < problem->num_ranks; r++) {
            if (pthread_create(&threads[r], NULL, rank_main, &ranks[r]) != 0) {
                abort(); /* the ranks already started would wait for their timeout */
            }
        }
        for (int32_t r = 0; r < problem->num_ranks; r++) {
            (void)pthread_join(threads[r], NULL);
        }
        for (int32_t r = 0; r < problem->num_ranks && st == EPF_OK; r++) {
            st = ranks[r].status == EPF_OK ? EPF_OK
                                           : EPF_FAIL(ranks[r].status, "%s", ranks[r].error);
        }
    }
    st = st == EPF_OK ? collect(ranks, result) : st;
    for (int32_t r = 0; r < problem->num_ranks; r++) {
        release(&ranks[r]);
    }
    epf_free(ranks);
    return st;
}
