/*
 * bench.h: what `epfuse bench` is made of: the problem, its measurement, its report.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "epfuse/epfuse.h"

/* Everything timed, once: constant, name in tables and JSON lines, part of the unfused composition. */
#define BENCH_OP_MAP(X)                                              \
    X(BENCH_PREPROCESS, "preprocess", false)                         \
    X(BENCH_DISPATCH_GEMM, "dispatch_group_gemm", false)             \
    X(BENCH_GEMM_COMBINE, "group_gemm_combine", false)               \
    X(BENCH_GEMM_COMBINE_SERIAL, "group_gemm_combine_serial", false) \
    X(BENCH_UNFUSED_DISPATCH, "unfused_dispatch", true)              \
    X(BENCH_UNFUSED_GEMM1, "unfused_gemm1", true)                    \
    X(BENCH_UNFUSED_SWIGLU, "unfused_swiglu", true)                  \
    X(BENCH_UNFUSED_GEMM2, "unfused_gemm2", true)                    \
    X(BENCH_UNFUSED_COMBINE, "unfused_combine", true)

typedef enum bench_op {
#define X(name, text, unfused) name,
    BENCH_OP_MAP(X)
#undef X
        BENCH_NUM_OPS
} bench_op;

typedef struct bench_problem {
    const char *preset;   /* name */
    int32_t hidden;       /* H */
    int32_t columns;      /* N of the first GEMM */
    int32_t intermediate; /* K of the second: columns / 2 if gated */
    bool gated;
    int32_t num_experts; /* E, scaled */
    int32_t topk;        /* K */
    int32_t num_ranks;   /* W */
    int32_t num_tokens;  /* T per rank, scaled */
    int32_t num_workers; /* per rank */
    int32_t dtype;
    bool is_zipf; /* routing: Zipf(1) instead of uniform */
    uint64_t seed;
    int32_t repeat;
    int32_t passes; /* turns of whole layers in each repeat */
} bench_problem;

/* Ceilings of this machine, all threads at once, measured in the same run. */
typedef struct bench_ceiling {
    double dense_gflops; /* one large dense product with the same library */
    double copy_gbs;     /* memcpy, bytes copied (read + written is twice) */
    char gemm_kind[64];  /* which library */
} bench_ceiling;

/* Ratio of two times taken in turns: the median over pairs, and the 95 % confidence interval of that median. */
typedef struct bench_ratio {
    double low;
    double median;
    double high;
} bench_ratio;

typedef struct bench_result {
    double us[BENCH_NUM_OPS]; /* median over repeats of the slowest rank */
    double us_low[BENCH_NUM_OPS];
    double us_high[BENCH_NUM_OPS];
    double fused_layer_us; /* medians of whole passes, slowest rank */
    double serial_layer_us;
    double unfused_layer_us;
    bench_ratio fused_gain;  /* unfused over fused */
    bench_ratio serial_gain; /* unfused over serial */
    double main_gflops;      /* inside the tiles of the fused calls, all threads */
    int64_t rows;            /* over all ranks */
    int64_t carried;         /* (token, rank) pairs that crossed or stayed */
    int64_t tokens;          /* over all ranks */
    bench_ceiling ceiling;
} bench_result;

/* Runs the problem; errors are in epf_last_error(). */
epf_status bench_measure(const bench_problem *problem, bench_result *result);

enum { BENCH_MAX_RANKS = 64, BENCH_MAX_SAMPLES = 1000 /* of one piece */ };

/* The fused operations on CUDA devices, printed, and appended to json_path unless it is NULL. */
epf_status bench_device_run(const bench_problem *problem, const char *json_path);

/* Draws the profiled passes of the last measurement of this problem: unfused above fused. */
epf_status bench_draw(const bench_problem *problem, const char *path);

/* Operands for the ceilings of all threads of a problem, kept between samples. */
typedef struct bench_ceilings bench_ceilings;
epf_status bench_ceilings_create(const bench_problem *problem, bench_ceilings **ceilings);
/* Accepts NULL. */
void bench_ceilings_destroy(bench_ceilings *ceilings);
/* One sample of each, on all threads at once; the other ranks wait meanwhile. */
epf_status bench_ceilings_sample(bench_ceilings *ceilings, double *dense_gflops, double *copy_gbs);
const char *bench_ceilings_library(const bench_ceilings *ceilings);

/* The p-quantile of values, which are put in ascending order. */
double bench_quantile(double *values, int32_t count, double p);
/* The slowest rank's time of each of `count` samples, at most BENCH_MAX_SAMPLES. */
void bench_slowest_each(double *const *samples, int32_t num_ranks, int32_t count, double *worst);
/* The p-quantile of those. */
double bench_slowest(double *const *samples, int32_t num_ranks, int32_t count, double p);
/*
 * Ratio of pairs taken next to each other, so that a drift of the machine is on both sides.  The interval is that of
 * order statistics, n/2 -+ 0.98 sqrt(n) of the ratios in ascending order: it asks nothing of their distribution.
 */
bench_ratio bench_paired_ratio(const double *above, const double *below, int32_t count);

const char *bench_op_name(bench_op op);

#endif
