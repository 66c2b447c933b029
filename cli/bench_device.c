/*
 * bench_device.c: `epfuse bench --device cuda`: the fused operations on virtual or real devices.
 *
 * Ranks are threads.  A piece's time is from when all ranks have met until its work is done on the slowest of
 * them, launch and wait included; bench/cuda/bench_layer.py times by events, beside other libraries.
 */
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "bench.h"
#include "cli.h"
#include "cli_device.h"
#include "cli_text.h"
#include "core/epf_dtype.h"
#include "cpu/gemm/epf_convert.h"
#include <epf_commit.h> /* made by the build */

#define PIECE_MAP(X)                    \
    X(PIECE_PREPROCESS, "preprocess")   \
    X(PIECE_DISPATCH, "dispatch_gemm1") \
    X(PIECE_COMBINE, "gemm2_combine")   \
    X(PIECE_SERIAL, "gemm2_serial")     \
    X(PIECE_LAYER, "layer")

typedef enum piece {
#define X(name, text) name,
    PIECE_MAP(X)
#undef X
        NUM_PIECES
} piece;

enum { WARMUP = 3, NUM_MEMORIES = 7, CHUNK = 4096 };

typedef struct device_rank {
    const bench_problem *problem;
    int32_t rank;
    epf_group *group;
    epf_op *op;
    epf_layout *layout;
    void *memory[NUM_MEMORIES];
    int32_t num_memories;
    epf_tensor input, ids, weight, w1, w2, hidden, output;
    double *us[NUM_PIECES];
    epf_status status;
    char error[512];
} device_rank;

static const char *const kNames[NUM_PIECES] = {
#define X(name, text) text,
    PIECE_MAP(X)
#undef X
};

static double next_uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 33) / 2147483648.0;
}

static epf_status take(device_rank *d, int32_t dtype, int32_t ndim, const int64_t *shape,
                       epf_tensor *t)
{
    int64_t bytes = epf_dtype_bytes(dtype);
    void **const memory = &d->memory[d->num_memories];
    for (int32_t i = 0; i < ndim; i++) {
        bytes *= shape[i];
    }
    EPF_TRY(cli_device_alloc(EPF_BACKEND_CUDA, bytes, "bench", memory));
    d->num_memories++;
    return epf_tensor_make(t, *memory, (epf_dtype)dtype, ndim, shape);
}

/* Near normal (a sum of four), never zeros: those run faster than data does. */
static epf_status fill(device_rank *d, const epf_tensor *t, double scale, uint64_t seed)
{
    const int64_t width = epf_dtype_bytes(t->dtype);
    int64_t count = 1;
    float values[CHUNK];
    uint8_t packed[CHUNK * sizeof(float)];
    for (int32_t i = 0; i < t->ndim; i++) {
        count *= t->shape[i];
    }
    for (int64_t at = 0; at < count; at += CHUNK) {
        const int64_t some = count - at < CHUNK ? count - at : CHUNK;
        for (int64_t i = 0; i < some; i++) {
            const double sum = next_uniform(&seed) + next_uniform(&seed) + next_uniform(&seed) +
                               next_uniform(&seed);
            values[i] = (float)(scale * 1.7320508075688772 * (sum - 2));
        }
        epf_convert_from_f32(packed, values, (epf_dtype)t->dtype, some);
        EPF_TRY(cli_device_put(d->op, (uint8_t *)t->data + at * width, packed, some * width));
    }
    return EPF_OK;
}

/* K different experts per token, by weight 1 (uniform) or 1 / (1 + expert) (Zipf). */
static void choose(const bench_problem *p, int32_t *ids, uint64_t seed)
{
    for (int64_t t = 0; t < p->num_tokens; t++) {
        int32_t *const chosen = ids + t * p->topk;
        for (int32_t k = 0; k < p->topk;) {
            const int32_t e = (int32_t)(next_uniform(&seed) * p->num_experts);
            bool is_new = !p->is_zipf || next_uniform(&seed) * (e + 1) < 1.0;
            for (int32_t j = 0; j < k && is_new; j++) {
                is_new = chosen[j] != e;
            }
            if (is_new) {
                chosen[k++] = e;
            }
        }
    }
}

static epf_status route(device_rank *d, uint64_t seed)
{
    const int64_t bytes = d->ids.shape[0] * d->ids.shape[1] * (int64_t)sizeof(int32_t);
    int32_t *const ids = epf_alloc((size_t)bytes, 1);
    epf_status st;
    if (ids == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "bench: routing");
    }
    choose(d->problem, ids, seed);
    st = cli_device_put(d->op, d->ids.data, ids, bytes);
    epf_free(ids);
    return st;
}

static epf_status open_op(device_rank *d)
{
    const bench_problem *const p = d->problem;
    epf_op_config config;
    EPF_TRY(cli_device_enter(EPF_BACKEND_CUDA, d->rank));
    EPF_TRY(epf_op_config_init(&config));
    config.backend = EPF_BACKEND_CUDA;
    config.max_tokens = p->num_tokens;
    config.hidden = p->hidden;
    config.topk = p->topk;
    config.num_tot_experts = p->num_experts;
    config.dtype = p->dtype;
    return epf_op_create(d->group, &config, &d->op);
}

static epf_status prepare(device_rank *d)
{
    const bench_problem *const p = d->problem;
    const uint64_t seed = p->seed * 1000 + (uint64_t)d->rank * 10;
    const int64_t local = p->num_experts / p->num_ranks;
    const int64_t tokens[] = {p->num_tokens, p->hidden};
    const int64_t slots[] = {p->num_tokens, p->topk};
    const int64_t first[] = {local, p->columns, p->hidden};
    const int64_t second[] = {local, p->hidden, p->intermediate};
    EPF_TRY(open_op(d));
    EPF_TRY(take(d, p->dtype, 2, tokens, &d->input));
    EPF_TRY(take(d, p->dtype, 2, tokens, &d->output));
    EPF_TRY(take(d, EPF_DTYPE_I32, 2, slots, &d->ids));
    EPF_TRY(take(d, EPF_DTYPE_F32, 2, slots, &d->weight));
    EPF_TRY(take(d, p->dtype, 3, first, &d->w1));
    EPF_TRY(take(d, p->dtype, 3, second, &d->w2));
    EPF_TRY(fill(d, &d->input, 1.0, seed + 1));
    EPF_TRY(fill(d, &d->weight, 0.1, seed + 2));
    EPF_TRY(fill(d, &d->w1, 0.01, seed + 3));
    EPF_TRY(fill(d, &d->w2, 0.01, seed + 4));
    return route(d, seed + 5);
}

static epf_status preprocess(device_rank *d)
{
    epf_preprocess_args a;
    EPF_TRY(epf_preprocess_args_init(&a));
    a.exp_indices = d->ids;
    return epf_preprocess(d->op, &a, &d->layout);
}

static epf_status dispatch(device_rank *d)
{
    epf_dispatch_group_gemm_args a;
    EPF_TRY(epf_dispatch_group_gemm_args_init(&a));
    a.layout = d->layout;
    a.input = d->input;
    a.weight = d->weight;
    a.gemm_weight = d->w1;
    a.use_block_wise_barrier = true;
    if (d->problem->gated) {
        a.activation = EPF_ACTIVATION_SWIGLU;
        a.activation_output = d->hidden;
        a.keep_gemm_output = false;
    } else {
        a.gemm_output_data = d->hidden;
    }
    return epf_dispatch_group_gemm(d->op, &a, NULL);
}

static epf_status combine(device_rank *d, int32_t mode)
{
    epf_group_gemm_combine_args a;
    EPF_TRY(epf_group_gemm_combine_args_init(&a));
    a.layout = d->layout;
    a.gemm_input_data = d->hidden;
    a.gemm_weight = d->w2;
    a.combine_output = d->output;
    a.combine_mode = mode;
    return epf_group_gemm_combine(d->op, &a, NULL);
}

static epf_status launch(device_rank *d, piece which)
{
    switch (which) {
    case PIECE_PREPROCESS:
        return preprocess(d);
    case PIECE_DISPATCH:
        return dispatch(d);
    case PIECE_COMBINE:
        return combine(d, EPF_COMBINE_FUSE_SCATTER);
    case PIECE_SERIAL:
        return combine(d, EPF_COMBINE_SERIAL);
    default:
        EPF_TRY(preprocess(d));
        EPF_TRY(dispatch(d));
        return combine(d, EPF_COMBINE_FUSE_SCATTER);
    }
}

/* Rows are known after a first preprocess, which all ranks have then ended. */
static epf_status take_rows(device_rank *d)
{
    epf_layout_view view;
    EPF_TRY(preprocess(d));
    EPF_TRY(epf_layout_get(d->layout, &view));
    const int64_t rows[] = {view.num_recv_rows, d->problem->intermediate};
    return take(d, d->problem->dtype, 2, rows, &d->hidden);
}

static epf_status run_rank(device_rank *d)
{
    epf_layout_view view;
    EPF_TRY(prepare(d));
    EPF_TRY(take_rows(d));
    for (int32_t i = -WARMUP; i < d->problem->repeat; i++) {
        for (int32_t which = 0; which < NUM_PIECES; which++) {
            uint64_t begin;
            EPF_TRY(epf_op_barrier(d->op));
            begin = epf_now_ns();
            EPF_TRY(launch(d, (piece)which));
            EPF_TRY(epf_op_synchronize(d->op));
            if (i >= 0) {
                d->us[which][i] = (double)(epf_now_ns() - begin) * 1e-3;
            }
            EPF_TRY(epf_layout_get(d->layout, &view));
        }
    }
    return epf_op_barrier(d->op);
}

static void *rank_main(void *argument)
{
    device_rank *const d = argument;
    d->status = run_rank(d);
    if (d->status != EPF_OK) {
        (void)snprintf(d->error, sizeof d->error, "%s", epf_last_error());
    }
    return NULL;
}

static double slowest(const device_rank *ranks, int32_t which, double p, double *work)
{
    const bench_problem *const problem = ranks[0].problem;
    for (int32_t i = 0; i < problem->repeat; i++) {
        work[i] = 0;
        for (int32_t r = 0; r < problem->num_ranks; r++) {
            work[i] = ranks[r].us[which][i] > work[i] ? ranks[r].us[which][i] : work[i];
        }
    }
    return bench_quantile(work, problem->repeat, p);
}

static double flop_of(const bench_problem *p, int32_t which)
{
    const double rows = (double)p->num_ranks * p->num_tokens * p->topk;
    const double gemm1 = 2.0 * rows * p->hidden * p->columns;
    const double gemm2 = 2.0 * rows * p->hidden * p->intermediate;
    return which == PIECE_PREPROCESS ? 0
           : which == PIECE_DISPATCH ? gemm1
           : which == PIECE_LAYER    ? gemm1 + gemm2
                                     : gemm2;
}

static epf_status write_piece(FILE *f, const bench_problem *p, int32_t which, const double us[3])
{
    json_t *const line = json_pack(
        "{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:s}", "op", kNames[which],
        "shape", p->preset, "device", "cuda", "ranks", p->num_ranks, "experts", p->num_experts,
        "tokens", p->num_tokens, "topk", p->topk, "n", p->repeat, "us_p10", us[0], "us_p50", us[1],
        "us_p90", us[2], "tflops", flop_of(p, which) / us[1] * 1e-6, "rev", EPF_COMMIT);
    const bool is_bad =
        line == NULL || json_dumpf(line, f, JSON_COMPACT) != 0 || fputc('\n', f) < 0;
    json_decref(line);
    return is_bad ? EPF_FAIL(EPF_E_FILE, "--json: writing failed") : EPF_OK;
}

static epf_status report(const device_rank *ranks, FILE *f)
{
    const bench_problem *const p = ranks[0].problem;
    double *const work = epf_alloc((size_t)p->repeat, sizeof *work);
    epf_status st = work != NULL ? EPF_OK : EPF_FAIL(EPF_E_NO_MEMORY, "bench: report");

    printf("%s%s%s  H %d N %d I %d, E %d top-%d, %d ranks x %d tokens on CUDA, %s, %s, seed %llu\n",
           cli_bold(), p->preset, cli_plain(), p->hidden, p->columns, p->intermediate,
           p->num_experts, p->topk, p->num_ranks, p->num_tokens, epf_dtype_name(p->dtype),
           p->is_zipf ? "zipf" : "uniform", (unsigned long long)p->seed);
    for (int32_t which = 0; which < NUM_PIECES && st == EPF_OK; which++) {
        const double us[] = {slowest(ranks, which, 0.1, work), slowest(ranks, which, 0.5, work),
                             slowest(ranks, which, 0.9, work)};
        char text[CLI_NUMBER_BYTES];
        printf("  %-16s %12s %8.1f TFLOP/s\n", kNames[which], cli_time(us[1] * 1e-6, text),
               flop_of(p, which) / us[1] * 1e-6);
        st = f != NULL ? write_piece(f, p, which, us) : EPF_OK;
    }
    epf_free(work);
    return st;
}

static void free_rank(device_rank *d)
{
    epf_layout_destroy(d->layout);
    epf_op_destroy(d->op);
    for (int32_t i = 0; i < d->num_memories; i++) {
        cli_device_free(EPF_BACKEND_CUDA, d->memory[i]);
    }
}

/* All ranks' threads to their ends; the first failure. */
static epf_status run_threads(device_rank *ranks, int32_t num_ranks)
{
    pthread_t threads[BENCH_MAX_RANKS];
    int32_t started = 0;
    epf_status st = EPF_OK;

    while (started < num_ranks &&
           pthread_create(&threads[started], NULL, rank_main, &ranks[started]) == 0) {
        started++;
    }
    for (int32_t r = 0; r < started; r++) {
        (void)pthread_join(threads[r], NULL);
        if (st == EPF_OK && ranks[r].status != EPF_OK) {
            st = EPF_FAIL(ranks[r].status, "%s", ranks[r].error);
        }
    }
    return started < num_ranks ? EPF_FAIL(EPF_E_DEVICE, "bench: thread %d does not start", started)
                               : st;
}

epf_status bench_device_run(const bench_problem *p, const char *json_path)
{
    device_rank ranks[BENCH_MAX_RANKS];
    epf_group *groups[BENCH_MAX_RANKS] = {NULL};
    double *const samples =
        epf_alloc((size_t)p->num_ranks * NUM_PIECES * (size_t)p->repeat, sizeof *samples);
    FILE *const f = json_path != NULL ? fopen(json_path, "a") : NULL;
    epf_status st;

    memset(ranks, 0, sizeof ranks);
    st = samples == NULL                  ? EPF_FAIL(EPF_E_NO_MEMORY, "bench: samples")
         : json_path != NULL && f == NULL ? EPF_FAIL(EPF_E_FILE, "%s: cannot write", json_path)
                                          : epf_group_create_threads(p->num_ranks, NULL, groups);
    for (int32_t r = 0; r < p->num_ranks && st == EPF_OK; r++) {
        ranks[r] = (device_rank){.problem = p, .rank = r, .group = groups[r]};
        for (int32_t i = 0; i < NUM_PIECES; i++) {
            ranks[r].us[i] = samples + ((int64_t)r * NUM_PIECES + i) * p->repeat;
        }
    }
    st = st == EPF_OK ? run_threads(ranks, p->num_ranks) : st;
    st = st == EPF_OK ? report(ranks, f) : st;
    for (int32_t r = 0; r < p->num_ranks; r++) {
        free_rank(&ranks[r]);
        epf_group_destroy(groups[r]);
    }
    if (f != NULL && fclose(f) != 0 && st == EPF_OK) {
        st = EPF_FAIL(EPF_E_FILE, "%s: writing failed", json_path);
    }
    epf_free(samples);
    return st;
}
