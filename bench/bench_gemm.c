/*
 * bench_gemm.c: GFLOP/s of the tile GEMM on one core, per provider and type.
 *
 *     bench_gemm [--rounds N] [--json FILE --commit ID] [--quick]
 *
 * Providers take turns, round by round; a figure is the median of the rounds, beside the 90th
 * percentile.  Time is the thread's own processor time, so that a busy machine does not count.
 *   hot    the same panel again and again: what the kernel can do
 *   cold   panels in turn, 64 MiB of them and more: weights come from memory, as in a layer
 *   tiled  one large product as tiles of 128 x 256, through the interface
 *   dense  the same product in one call of the library (oneDNN): what tiles are measured against
 *   tn     the weight gradient, c [m, n] over k rows
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/epf_error.h"
#include "core/epf_dtype.h"
#include "core/epf_half.h"
#include "cpu/gemm/epf_gemm.h"
#if defined(EPF_HAVE_ONEDNN)
#include "cpu/gemm/onednn_api.h"
#endif

enum { MAX_ROUNDS = 1000, COLD_BYTES = 64 << 20, TEXT = 128 };

typedef enum bench_mode { MODE_HOT, MODE_COLD, MODE_TILED, MODE_DENSE, MODE_TN } bench_mode;
static const char *const mode_names[] = {"hot", "cold", "tiled", "dense", "tn"};

typedef struct bench_shape {
    bench_mode mode;
    int32_t m, n;
    int64_t k;
} bench_shape;

#if defined(EPF_HAVE_ONEDNN)
/* The library's own matmul, packed weights, one call. */
typedef struct bench_dense {
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[4];
    onednn_matrix matrix[4];
    void *packed, *scratchpad;
} bench_dense;
#else
typedef struct bench_dense {
    int none;
} bench_dense;
#endif

/* One provider at one shape. */
typedef struct bench_lane {
    epf_gemm_kind kind;
    epf_gemm_provider_info info;
    epf_gemm_weight *weight;
    epf_gemm_scratch *scratch;
    void *a, *b;
    float *c;
    int32_t num_panels;
    bench_dense dense;
    double seconds[MAX_ROUNDS];
} bench_lane;

typedef struct bench_options {
    int rounds;
    bool quick;
    const char *json;
    const char *commit;
} bench_options;

static void check(epf_status status, const char *what)
{
    if (status != EPF_OK) {
        (void)fprintf(stderr, "bench_gemm: %s: %s\n", what, epf_error_text());
        exit(1);
    }
}

static void *allocate(int64_t bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, (size_t)bytes) != 0) {
        (void)fprintf(stderr, "bench_gemm: no memory\n");
        exit(1);
    }
    return memory;
}

/* Numbers of about unit size: zeros would run faster than real data. */
static void *random_matrix(epf_dtype dtype, int64_t count)
{
    void *data = allocate(count * epf_dtype_bytes((int32_t)dtype));
    uint64_t state = 88172645463325252u;
    for (int64_t i = 0; i < count; i++) {
        float value;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value = (float)(int64_t)(state >> 40) / 8388608.0f - 1.0f;
        if (dtype == EPF_DTYPE_F32) {
            ((float *)data)[i] = value;
        } else {
            ((uint16_t *)data)[i] =
                dtype == EPF_DTYPE_BF16 ? epf_bf16_from_f32(value) : epf_f16_from_f32(value);
        }
    }
    return data;
}

#if defined(EPF_HAVE_ONEDNN)
static void check_library(dnnl_status_t status, const char *what)
{
    if (status != dnnl_success) {
        (void)fprintf(stderr, "bench_gemm: %s gave %d\n", what, (int)status);
        exit(1);
    }
}

static bool dense_serves(const epf_gemm_provider_info *info)
{
    return info->kind == EPF_GEMM_ONEDNN && !info->widened;
}

static void dense_open(bench_dense *dense, const bench_shape *shape, epf_dtype dtype,
                       const bench_lane *lane)
{
    static const dnnl_query_t query[4] = {dnnl_query_src_md, dnnl_query_weights_md,
                                          dnnl_query_dst_md, dnnl_query_scratchpad_md};
    const onednn_shape wanted = {(int32_t)dtype, shape->m, shape->n, (int32_t)shape->k, 0};
    const onednn_context *context = onednn_context_get();
    const int saved = onednn_scope_enter();
    void *data[4] = {lane->a, NULL, lane->c, NULL};
    dnnl_primitive_desc_t desc = NULL;
    check(onednn_matmul_desc(&wanted, NULL, &desc), "dense");
    check_library(dnnl_primitive_create(&dense->primitive, desc), "primitive");
    for (int i = 0; i < 4; i++) {
        check_library(onednn_matrix_query(desc, query[i], &dense->matrix[i]), "query");
    }
    /* packed weights are a permutation: any numbers of the type serve */
    data[1] = random_matrix(dtype, (int64_t)onednn_matrix_bytes(&dense->matrix[1]) /
                                       epf_dtype_bytes((int32_t)dtype));
    data[3] = allocate((int64_t)onednn_matrix_bytes(&dense->matrix[3]) + 1);
    dense->packed = data[1];
    dense->scratchpad = data[3];
    for (int i = 0; i < 4; i++) {
        check_library(dnnl_memory_create(&dense->memory[i], ONEDNN_DESC(&dense->matrix[i]),
                                         context->engine, data[i]),
                      "memory");
    }
    (void)dnnl_primitive_desc_destroy(desc);
    onednn_scope_leave(saved);
}

static void dense_run(const bench_dense *dense)
{
    const int role[4] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    const int saved = onednn_scope_enter();
    dnnl_exec_arg_t args[4];
    for (int i = 0; i < 4; i++) {
        args[i] = (dnnl_exec_arg_t){role[i], dense->memory[i]};
    }
    check_library(dnnl_primitive_execute(dense->primitive, onednn_context_get()->stream, 4, args),
                  "execute");
    onednn_scope_leave(saved);
}

static void dense_close(bench_dense *dense)
{
    if (dense->primitive == NULL) {
        return;
    }
    for (int i = 0; i < 4; i++) {
        (void)dnnl_memory_destroy(dense->memory[i]);
        onednn_matrix_destroy(&dense->matrix[i]);
    }
    (void)dnnl_primitive_destroy(dense->primitive);
    free(dense->packed);
    free(dense->scratchpad);
    memset(dense, 0, sizeof *dense);
}
#else
static bool dense_serves(const epf_gemm_provider_info *info)
{
    (void)info;
    return false;
}

static void dense_open(bench_dense *dense, const bench_shape *shape, epf_dtype dtype,
                       const bench_lane *lane)
{
    (void)shape;
    (void)dtype;
    (void)lane;
    dense->none = 0;
}

static void dense_run(const bench_dense *dense)
{
    (void)dense;
}

static void dense_close(bench_dense *dense)
{
    dense->none = 0;
}
#endif

static void lane_open(bench_lane *lane, const bench_shape *shape, epf_dtype dtype)
{
    const int64_t panel_bytes = shape->n * shape->k * epf_dtype_bytes((int32_t)dtype);
    const bool cold = shape->mode == MODE_COLD;
    epf_gemm_weight_desc desc = {
        .kind = lane->kind, .dtype = dtype, .n = shape->n, .k = shape->k, .reduce_last_dim = true};
    lane->num_panels = cold ? (int32_t)(COLD_BYTES / panel_bytes + 1) : 1;
    lane->a = random_matrix(dtype, (int64_t)shape->m * shape->k);
    lane->b = random_matrix(dtype, (int64_t)lane->num_panels * shape->n * shape->k);
    lane->c = allocate((int64_t)shape->m * shape->n * (int64_t)sizeof(float));
    desc.data = lane->b;
    desc.num_experts = lane->num_panels;
    check(epf_gemm_scratch_create(&lane->scratch), "scratch");
    if (shape->mode == MODE_DENSE) {
        dense_open(&lane->dense, shape, dtype, lane);
    } else if (shape->mode != MODE_TN) {
        check(epf_gemm_weight_create(&desc, &lane->weight), "weight");
    }
}

static void lane_close(bench_lane *lane)
{
    dense_close(&lane->dense);
    epf_gemm_weight_destroy(lane->weight);
    epf_gemm_scratch_destroy(lane->scratch);
    free(lane->a);
    free(lane->b);
    free(lane->c);
    lane->weight = NULL;
}

/* Processor time of this thread, in seconds. */
static double now(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void run_tiles(bench_lane *lane, const bench_shape *shape, epf_dtype dtype)
{
    enum { TILE_M = 128, TILE_N = 256 };
    const int64_t row_bytes = shape->k * epf_dtype_bytes((int32_t)dtype);
    for (int32_t n_tile = 0; n_tile < shape->n / TILE_N; n_tile++) {
        for (int32_t m0 = 0; m0 < shape->m; m0 += TILE_M) {
            const epf_gemm_tile_args tile = {.n_tile = n_tile,
                                             .m = TILE_M,
                                             .a = (const char *)lane->a + m0 * row_bytes,
                                             .lda = shape->k,
                                             .c = lane->c,
                                             .ldc = TILE_N};
            check(epf_gemm_tile(lane->weight, &tile, lane->scratch), "tile");
        }
    }
}

static double lane_run(bench_lane *lane, const bench_shape *shape, epf_dtype dtype, int round)
{
    const epf_gemm_tile_args tile = {.expert = round % lane->num_panels,
                                     .m = shape->m,
                                     .a = lane->a,
                                     .lda = shape->k,
                                     .c = lane->c,
                                     .ldc = shape->n};
    const epf_gemm_tn_args tn = {.kind = lane->kind,
                                 .dtype = dtype,
                                 .rows = shape->k,
                                 .m = shape->m,
                                 .n = shape->n,
                                 .a = lane->a,
                                 .lda = shape->m,
                                 .b = lane->b,
                                 .ldb = shape->n,
                                 .c = lane->c,
                                 .ldc = shape->n};
    const double begin = now();
    if (shape->mode == MODE_TN) {
        check(epf_gemm_tn(&tn, lane->scratch), "tn");
    } else if (shape->mode == MODE_DENSE) {
        dense_run(&lane->dense);
    } else if (shape->mode == MODE_TILED) {
        run_tiles(lane, shape, dtype);
    } else {
        check(epf_gemm_tile(lane->weight, &tile, lane->scratch), "tile");
    }
    return now() - begin;
}

static int compare_doubles(const void *x, const void *y)
{
    const double a = *(const double *)x;
    const double b = *(const double *)y;
    return (a > b) - (a < b);
}

static const char *cpu_model(void)
{
    static char model[TEXT];
    char line[512];
    FILE *file = fopen("/proc/cpuinfo", "r");
    (void)snprintf(model, sizeof model, "unknown");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            (void)snprintf(model, sizeof model, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return model;
}

static void report(bench_lane *lane, const bench_shape *shape, epf_dtype dtype,
                   const bench_options *options)
{
    const double flop = 2.0 * shape->m * shape->n * (double)shape->k;
    double median;
    double fast;
    qsort(lane->seconds, (size_t)options->rounds, sizeof lane->seconds[0], compare_doubles);
    median = flop / lane->seconds[options->rounds / 2] * 1e-9;
    fast = flop / lane->seconds[options->rounds / 10] * 1e-9;
    (void)printf("%-5s %-5s %5d %5d %5lld  %-9s %9.1f %9.1f  %s%s\n", mode_names[shape->mode],
                 epf_dtype_name((int32_t)dtype), shape->m, shape->n, (long long)shape->k,
                 epf_gemm_kind_name(lane->kind), median, fast, lane->info.text,
                 lane->info.widened ? ", widened" : "");
    if (options->json != NULL) {
        FILE *file = fopen(options->json, "a");
        if (file == NULL) {
            (void)fprintf(stderr, "bench_gemm: cannot write %s\n", options->json);
            exit(1);
        }
        (void)fprintf(file,
                      "{\"op\":\"cpu_gemm\",\"mode\":\"%s\",\"dtype\":\"%s\",\"m\":%d,\"n\":%d,"
                      "\"k\":%lld,\"provider\":\"%s\",\"implementation\":\"%s\",\"widened\":%s,"
                      "\"threads\":1,\"runs\":%d,\"gflops_p50\":%.1f,\"gflops_p90\":%.1f,"
                      "\"cpu\":\"%s\",\"commit\":\"%s\"}\n",
                      mode_names[shape->mode], epf_dtype_name((int32_t)dtype), shape->m, shape->n,
                      (long long)shape->k, epf_gemm_kind_name(lane->kind), lane->info.text,
                      lane->info.widened ? "true" : "false", options->rounds, median, fast,
                      cpu_model(), options->commit);
        (void)fclose(file);
    }
}

static void bench_one(const bench_shape *shape, epf_dtype dtype, const bench_options *options)
{
    static bench_lane lanes[3];
    int num_lanes = 0;
    for (int kind = EPF_GEMM_ONEDNN; kind <= EPF_GEMM_PORTABLE; kind++) {
        bench_lane *lane = &lanes[num_lanes];
        lane->kind = (epf_gemm_kind)kind;
        check(epf_gemm_provider_query(lane->kind, dtype, &lane->info), "query");
        if (lane->info.usable && (shape->mode != MODE_DENSE || dense_serves(&lane->info))) {
            lane_open(lane, shape, dtype);
            num_lanes++;
        }
    }
    for (int round = -2; round < options->rounds; round++) { /* two rounds to warm up */
        for (int i = 0; i < num_lanes; i++) {
            const double seconds = lane_run(&lanes[i], shape, dtype, round + 2);
            if (round >= 0) {
                lanes[i].seconds[round] = seconds;
            }
        }
    }
    for (int i = 0; i < num_lanes; i++) {
        report(&lanes[i], shape, dtype, options);
        lane_close(&lanes[i]);
    }
}

/* On one core, so that a figure is a core's. */
static void stay_here(void)
{
    cpu_set_t set;
    const int cpu = sched_getcpu();
    CPU_ZERO(&set);
    CPU_SET(cpu < 0 ? 0u : (unsigned)cpu, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

static void parse(int argc, char **argv, bench_options *options)
{
    for (int i = 1; i < argc; i++) {
        const bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--quick") == 0) {
            options->quick = true;
        } else if (strcmp(argv[i], "--rounds") == 0 && has_value) {
            options->rounds = atoi(argv[++i]);
        } else if (strcmp(argv[i], "--json") == 0 && has_value) {
            options->json = argv[++i];
        } else if (strcmp(argv[i], "--commit") == 0 && has_value) {
            options->commit = argv[++i];
        } else {
            (void)fprintf(stderr,
                          "usage: bench_gemm [--quick] [--rounds N] [--json FILE --commit ID]\n");
            exit(2);
        }
    }
    if (options->rounds < 1 || options->rounds > MAX_ROUNDS) {
        (void)fprintf(stderr, "bench_gemm: --rounds must be in 1..%d\n", MAX_ROUNDS);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    static const bench_shape shapes[] = {
        {MODE_HOT, 128, 256, 2048},     {MODE_HOT, 64, 256, 4096},   {MODE_HOT, 128, 256, 4096},
        {MODE_HOT, 64, 256, 7168},      {MODE_HOT, 128, 256, 7168},  {MODE_HOT, 64, 256, 2048},
        {MODE_HOT, 1, 256, 4096},       {MODE_HOT, 16, 256, 4096},   {MODE_COLD, 1, 256, 4096},
        {MODE_COLD, 16, 256, 4096},     {MODE_COLD, 64, 256, 4096},  {MODE_COLD, 128, 256, 2048},
        {MODE_COLD, 128, 256, 4096},    {MODE_COLD, 128, 256, 7168}, {MODE_TILED, 2048, 4096, 4096},
        {MODE_DENSE, 2048, 4096, 4096}, {MODE_TN, 128, 256, 2048},   {MODE_TN, 256, 512, 2048},
    };
    static const epf_dtype dtypes[] = {EPF_DTYPE_BF16, EPF_DTYPE_F32, EPF_DTYPE_F16};
    bench_options options = {.rounds = 40, .commit = "unknown"};
    parse(argc, argv, &options);
    stay_here();
    (void)printf("one core of %s, %d rounds in turns, GFLOP/s\n", cpu_model(), options.rounds);
    (void)printf("%-5s %-5s %5s %5s %5s  %-9s %9s %9s\n", "mode", "type", "m", "n", "k", "provider",
                 "median", "p90");
    for (size_t dtype = 0; dtype < sizeof dtypes / sizeof dtypes[0]; dtype++) {
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            bench_options local = options;
            if (shapes[i].mode == MODE_DENSE || shapes[i].mode == MODE_TILED) {
                local.rounds = options.rounds < 5 ? options.rounds : 5;
            }
            if (!options.quick || i == 0) {
                bench_one(&shapes[i], dtypes[dtype], &local);
            }
        }
    }
    return 0;
}
