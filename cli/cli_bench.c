/*
 * cli_bench.c: `epfuse bench`: presets scaled to fit this machine, fused beside unfused, against the
 * ceilings measured in the same run.  A table for people, JSON lines for the record.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_error.h"
#include "bench.h"
#include "cli.h"
#include "cli_cost.h"
#include "cli_device.h"
#include "cli_options.h"
#include "cli_text.h"
#include "core/epf_dtype.h"
#include "model/epf_preset.h"
#include <epf_commit.h> /* made by the build */

typedef struct bench_options {
    const char *preset;    /* NULL: all */
    const char *json_path; /* appended to; NULL: none */
    const char *svg_path;  /* NULL: none */
    const char *routing;
    int32_t num_ranks;
    int32_t num_tokens;
    int32_t num_experts; /* 0: what fits in memory_gib */
    int32_t num_workers;
    int32_t repeat;
    int32_t passes;
    int32_t dtype;
    int32_t backend;
    double memory_gib;
    int64_t seed;
} bench_options;

static const char help[] =
    "usage: epfuse bench [--preset NAME] [--ranks W] [--tokens T] [--experts E] [--workers N]\n"
    "                    [--routing uniform|zipf] [--dtype bf16|fp16|fp32] [--repeat N]\n"
    "                    [--passes N] [--seed N] [--memory GIB] [--device cpu|cuda]\n"
    "                    [--json FILE] [--svg FILE]\n\n"
    "Times the fused operations and, taking turns, the same kernels one phase after another, with\n"
    "random normal data.  H, N and top-k are the preset's; experts are cut to what fits in "
    "--memory\n"
    "(default 3 GiB of packed weights) and to 512 rows each, tokens are --tokens per rank "
    "(default\n"
    "256).  Each time is the slowest rank's, the median over --repeat (default 20), whole layers\n"
    "--passes times in each (default 1).  A ratio is the median over pairs run next to each "
    "other,\n"
    "in brackets its 95 % confidence interval.  Ceilings are measured in the same run, all "
    "threads\n"
    "at once.\n"
    "--device cuda times the fused operations alone, on Hopper GPUs, where ranks take turns.\n"
    "--json appends one line per operation, --svg draws the unfused pass above the fused one.\n";

static const struct option options[] = {
    {"preset", required_argument, NULL, 'p'},  {"ranks", required_argument, NULL, 'r'},
    {"tokens", required_argument, NULL, 't'},  {"experts", required_argument, NULL, 'e'},
    {"workers", required_argument, NULL, 'w'}, {"routing", required_argument, NULL, 'o'},
    {"dtype", required_argument, NULL, 'd'},   {"repeat", required_argument, NULL, 'n'},
    {"passes", required_argument, NULL, 'a'},  {"seed", required_argument, NULL, 's'},
    {"memory", required_argument, NULL, 'm'},  {"json", required_argument, NULL, 'j'},
    {"svg", required_argument, NULL, 'g'},     {"device", required_argument, NULL, 'D'},
    {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0}};

static epf_status parse(int argc, char **argv, bench_options *o, bool *is_help)
{
    for (;;) {
        const int c = cli_next_option(argc, argv, options);
        switch (c) {
        case -1:
            EPF_CHECK_ARG(optind == argc, "bench: '%s' is no option", argv[optind]);
            return EPF_OK;
        case 'p':
            o->preset = optarg;
            break;
        case 'r':
            EPF_TRY(cli_parse_int32("--ranks", optarg, 1, &o->num_ranks));
            break;
        case 't':
            EPF_TRY(cli_parse_int32("--tokens", optarg, 1, &o->num_tokens));
            break;
        case 'e':
            EPF_TRY(cli_parse_int32("--experts", optarg, 1, &o->num_experts));
            break;
        case 'w':
            EPF_TRY(cli_parse_int32("--workers", optarg, 1, &o->num_workers));
            break;
        case 'o':
            o->routing = optarg;
            break;
        case 'd':
            EPF_TRY(cli_parse_dtype(optarg, &o->dtype));
            o->dtype = o->dtype == EPF_AUTO ? EPF_DTYPE_BF16 : o->dtype;
            break;
        case 'n':
            EPF_TRY(cli_parse_int32("--repeat", optarg, 1, &o->repeat));
            break;
        case 'a':
            EPF_TRY(cli_parse_int32("--passes", optarg, 1, &o->passes));
            break;
        case 's':
            EPF_TRY(cli_parse_int("--seed", optarg, 0, INT32_MAX, &o->seed));
            break;
        case 'm':
            EPF_TRY(cli_parse_positive("--memory", optarg, &o->memory_gib));
            break;
        case 'D':
            EPF_TRY(cli_device_parse(optarg, &o->backend));
            break;
        case 'j':
            o->json_path = optarg;
            break;
        case 'g':
            o->svg_path = optarg;
            break;
        case 'h':
            *is_help = true;
            return EPF_OK;
        default:
            return EPF_FAIL(EPF_E_INVALID, "bench: see epfuse bench --help");
        }
    }
}

static epf_status check(const bench_options *o)
{
    EPF_CHECK_ARG(strcmp(o->routing, "uniform") == 0 || strcmp(o->routing, "zipf") == 0,
                  "--routing: '%s', must be uniform or zipf", o->routing);
    EPF_CHECK_ARG(o->num_ranks <= BENCH_MAX_RANKS && o->num_workers <= 64,
                  "--ranks, --workers: at most 64 each");
    EPF_CHECK_ARG(o->backend == EPF_BACKEND_CPU || o->svg_path == NULL,
                  "--svg: draws the CPU's workers, not --device cuda");
    EPF_CHECK_ARG((int64_t)o->repeat * o->passes <= BENCH_MAX_SAMPLES,
                  "--repeat %d, --passes %d: their product must be at most %d", o->repeat,
                  o->passes, BENCH_MAX_SAMPLES);
    EPF_CHECK_ARG(o->preset == NULL || epf_preset_find(o->preset) != NULL,
                  "--preset: '%s' is none of dsv3, qwen3-235b, mixtral, example, test", o->preset);
    return EPF_OK;
}

enum { ROWS_PER_EXPERT = 512 };

/* Experts that fit: the unfused composition needs the gated weight packed a second time. */
static int32_t fit_experts(const bench_options *o, const epf_preset *preset)
{
    const int64_t columns = epf_preset_gemm1_columns(preset);
    const double each = (double)preset->hidden * epf_dtype_bytes(o->dtype) *
                        (double)((preset->gated ? 2 : 1) * columns + preset->intermediate);
    /* As in the full shapes, an expert has some hundred rows: else reading weights is all there is. */
    const double crowded =
        (double)o->num_ranks * o->num_tokens * preset->routing.topk / ROWS_PER_EXPERT;
    const double room = fmin(o->memory_gib * 1073741824.0 / each, crowded);
    int32_t experts = o->num_experts > 0                   ? o->num_experts
                      : room < preset->routing.num_experts ? (int32_t)room
                                                           : preset->routing.num_experts;
    const int32_t least = preset->routing.topk > o->num_ranks ? preset->routing.topk : o->num_ranks;
    experts = experts < least ? least : experts;
    return (experts + o->num_ranks - 1) / o->num_ranks * o->num_ranks;
}

static bench_problem problem_of(const bench_options *o, const epf_preset *preset)
{
    bench_problem p;
    memset(&p, 0, sizeof p);
    p.preset = preset->name;
    p.hidden = preset->hidden;
    p.columns = epf_preset_gemm1_columns(preset);
    p.intermediate = preset->intermediate;
    p.gated = preset->gated;
    p.topk = preset->routing.topk;
    p.num_ranks = o->num_ranks;
    p.num_tokens = o->num_tokens;
    p.num_workers = o->num_workers;
    p.num_experts = fit_experts(o, preset);
    p.dtype = o->dtype;
    p.is_zipf = strcmp(o->routing, "zipf") == 0;
    p.seed = (uint64_t)o->seed;
    p.repeat = o->repeat;
    p.passes = o->passes;
    return p;
}

/* What an operation must do at least, over all ranks. */
typedef struct bench_work {
    double flop;
    double copied_bytes; /* in units of memcpy: half of what is read and written */
} bench_work;

static bench_work work_of(const bench_problem *p, const bench_result *r, bench_op op)
{
    const double row = (double)p->hidden * epf_dtype_bytes(p->dtype);
    const double gemm1 = 2.0 * (double)r->rows * p->hidden * p->columns;
    const double gemm2 = 2.0 * (double)r->rows * p->hidden * p->intermediate;
    const double dispatch = (double)r->rows * row;
    /* y of each row read, each token written */
    const double combine = ((double)r->rows + (double)r->tokens) * row / 2.0;
    bench_work w = {0.0, 0.0};
    switch (op) {
    case BENCH_DISPATCH_GEMM:
        w.flop = gemm1;
        w.copied_bytes = dispatch;
        break;
    case BENCH_GEMM_COMBINE:
    case BENCH_GEMM_COMBINE_SERIAL:
        w.flop = gemm2;
        w.copied_bytes = combine;
        break;
    case BENCH_UNFUSED_DISPATCH:
        w.copied_bytes = dispatch;
        break;
    case BENCH_UNFUSED_GEMM1:
        w.flop = gemm1;
        break;
    case BENCH_UNFUSED_GEMM2:
        w.flop = gemm2;
        break;
    case BENCH_UNFUSED_COMBINE:
        w.copied_bytes = combine;
        break;
    default:
        break;
    }
    return w;
}

/* docs/PERFORMANCE.md: the larger of the two, although on a CPU the same cores copy and multiply. */
static double floor_us(const bench_result *r, bench_work w)
{
    return fmax(w.flop / r->ceiling.dense_gflops, w.copied_bytes / r->ceiling.copy_gbs) * 1e-3;
}

static double layer_floor_us(const bench_problem *p, const bench_result *r)
{
    return floor_us(r, work_of(p, r, BENCH_DISPATCH_GEMM)) +
           floor_us(r, work_of(p, r, BENCH_GEMM_COMBINE));
}

static void print_row(const char *name, double us, double floor)
{
    char text[CLI_NUMBER_BYTES];
    printf("  %-28s %12s", name, cli_time(us * 1e-6, text));
    if (floor > 0.0) {
        printf(" %9.1f %%", 100.0 * floor / us);
    }
    printf("\n");
}

static void print_result(const bench_problem *p, const bench_result *r)
{
    const double moved = r->us[BENCH_UNFUSED_DISPATCH] + r->us[BENCH_UNFUSED_COMBINE];
    const double bytes = work_of(p, r, BENCH_UNFUSED_DISPATCH).copied_bytes +
                         work_of(p, r, BENCH_UNFUSED_COMBINE).copied_bytes;
    printf("%s%s%s  H %d N %d I %d, E %d top-%d, %d ranks x %d tokens x %d workers, %s, %s, seed "
           "%llu\n",
           cli_bold(), p->preset, cli_plain(), p->hidden, p->columns, p->intermediate,
           p->num_experts, p->topk, p->num_ranks, p->num_tokens, p->num_workers,
           epf_dtype_name(p->dtype), p->is_zipf ? "zipf" : "uniform", (unsigned long long)p->seed);
    printf("  ceilings, %d threads: dense product %.0f GFLOP/s (%s), memcpy %.1f GB/s\n",
           p->num_ranks * p->num_workers, r->ceiling.dense_gflops, r->ceiling.gemm_kind,
           r->ceiling.copy_gbs);
    printf("  %-28s %12s %11s\n", "", "median", "of floor");
    for (int32_t op = 0; op < BENCH_NUM_OPS; op++) {
        if (op != BENCH_UNFUSED_SWIGLU || p->gated) {
            print_row(bench_op_name((bench_op)op), r->us[op],
                      floor_us(r, work_of(p, r, (bench_op)op)));
        }
    }
    print_row("layer, fused", r->fused_layer_us, layer_floor_us(p, r));
    print_row("layer, serial", r->serial_layer_us, layer_floor_us(p, r));
    print_row("layer, unfused", r->unfused_layer_us, layer_floor_us(p, r));
    printf("  fused over unfused %.3fx (%.3f to %.3f), serial over unfused %.3fx (%.3f to %.3f);\n"
           "  GEMM inside the fused calls %.0f GFLOP/s, %.1f %% of the dense product;\n"
           "  dispatch + combine alone %.1f GB/s, %.1f %% of memcpy; token saving %.1f %%\n\n",
           r->fused_gain.median, r->fused_gain.low, r->fused_gain.high, r->serial_gain.median,
           r->serial_gain.low, r->serial_gain.high, r->main_gflops,
           100.0 * r->main_gflops / r->ceiling.dense_gflops, bytes / moved * 1e-3,
           100.0 * bytes / moved * 1e-3 / r->ceiling.copy_gbs,
           100.0 * (1.0 - (double)r->carried / (double)r->rows));
}

enum { SHAPE_BYTES = 256 };

static void name_shape(const bench_problem *p, char *shape)
{
    (void)snprintf(shape, SHAPE_BYTES, "%s/W%dE%dK%dT%dH%dN%dI%d/%s/%s/seed%llu", p->preset,
                   p->num_ranks, p->num_experts, p->topk, p->num_tokens, p->hidden, p->columns,
                   p->intermediate, epf_dtype_name(p->dtype), p->is_zipf ? "zipf" : "uniform",
                   (unsigned long long)p->seed);
}

/* Takes the line, NULL included. */
static int dump_line(FILE *f, json_t *line)
{
    int written;
    if (line == NULL) {
        return -1;
    }
    written = json_dumpf(line, f, JSON_COMPACT | JSON_REAL_PRECISION(6));
    json_decref(line);
    return written == 0 ? fputc('\n', f) : -1;
}

static int write_ratio(FILE *f, const bench_problem *p, const char *op, const bench_ratio *ratio)
{
    char shape[SHAPE_BYTES];
    char device[256];
    name_shape(p, shape);
    cli_device_name(device, sizeof device);
    return dump_line(f, json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:f, s:s, s:s}", "op", op,
                                  "shape", shape, "n", p->repeat * p->passes, "threads",
                                  p->num_ranks * p->num_workers, "ratio_low", ratio->low,
                                  "ratio_p50", ratio->median, "ratio_high", ratio->high, "rev",
                                  EPF_COMMIT, "device", device));
}

static int write_line(FILE *f, const bench_problem *p, const bench_result *r, const char *op,
                      double us, const double *spread, bench_work w)
{
    char shape[SHAPE_BYTES];
    char device[256];
    const double floor = floor_us(r, w);
    json_t *line;
    name_shape(p, shape);
    cli_device_name(device, sizeof device);
    line = json_pack(
        "{s:s, s:s, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:s, s:s, s:s}", "op",
        op, "shape", shape, "n", p->repeat, "threads", p->num_ranks * p->num_workers, "us_p10",
        spread != NULL ? spread[0] : us, "us_p50", us, "us_p99", spread != NULL ? spread[1] : us,
        "gflops", w.flop / us * 1e-3, "gbs", w.copied_bytes / us * 1e-3, "pct_floor",
        floor > 0.0 ? 100.0 * floor / us : 0.0, "dense_gflops", r->ceiling.dense_gflops, "copy_gbs",
        r->ceiling.copy_gbs, "tile_gflops", r->main_gflops, "library", r->ceiling.gemm_kind, "rev",
        EPF_COMMIT, "device", device);
    return dump_line(f, line);
}

static epf_status write_lines(const char *path, const bench_problem *p, const bench_result *r)
{
    FILE *const f = fopen(path, "a");
    bool is_bad = false;
    bench_work layer = work_of(p, r, BENCH_DISPATCH_GEMM);
    const bench_work combine = work_of(p, r, BENCH_GEMM_COMBINE);
    if (f == NULL) {
        return EPF_FAIL(EPF_E_FILE, "%s: cannot write: %s", path, strerror(errno));
    }
    for (int32_t op = 0; op < BENCH_NUM_OPS; op++) {
        const double spread[2] = {r->us_low[op], r->us_high[op]};
        if (op == BENCH_UNFUSED_SWIGLU && !p->gated) {
            continue; /* there is none */
        }
        is_bad = write_line(f, p, r, bench_op_name((bench_op)op), r->us[op], spread,
                            work_of(p, r, (bench_op)op)) < 0 ||
                 is_bad;
    }
    layer.flop += combine.flop;
    layer.copied_bytes += combine.copied_bytes;
    is_bad = write_line(f, p, r, "layer_fused", r->fused_layer_us, NULL, layer) < 0 || is_bad;
    is_bad = write_line(f, p, r, "layer_serial", r->serial_layer_us, NULL, layer) < 0 || is_bad;
    is_bad = write_line(f, p, r, "layer_unfused", r->unfused_layer_us, NULL, layer) < 0 || is_bad;
    is_bad = write_ratio(f, p, "unfused_over_fused", &r->fused_gain) < 0 || is_bad;
    is_bad = write_ratio(f, p, "unfused_over_serial", &r->serial_gain) < 0 || is_bad;
    is_bad = fclose(f) != 0 || is_bad;
    return is_bad ? EPF_FAIL(EPF_E_FILE, "%s: writing failed", path) : EPF_OK;
}

static epf_status run_preset(const bench_options *o, const epf_preset *preset)
{
    const bench_problem p = problem_of(o, preset);
    bench_result result;
    cli_progress("bench %s: %d experts, %d runs", p.preset, p.num_experts, p.repeat);
    if (o->backend == EPF_BACKEND_CUDA) {
        const epf_status st = bench_device_run(&p, o->json_path);
        cli_progress(NULL);
        return st;
    }
    EPF_TRY(bench_measure(&p, &result));
    cli_progress(NULL);
    print_result(&p, &result);
    EPF_TRY(o->svg_path != NULL ? bench_draw(&p, o->svg_path) : EPF_OK);
    return o->json_path != NULL ? write_lines(o->json_path, &p, &result) : EPF_OK;
}

int cli_bench(int argc, char **argv)
{
    bench_options o = {.routing = "uniform",
                       .num_tokens = 256,
                       .num_workers = 1,
                       .repeat = 20,
                       .passes = 1,
                       .dtype = EPF_DTYPE_BF16,
                       .backend = EPF_BACKEND_CPU,
                       .memory_gib = 3.0};
    cpu_set_t allowed;
    bool is_help = false;
    epf_status st;
    CPU_ZERO(&allowed);
    o.num_ranks = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
    o.num_ranks = o.num_ranks < 8 ? o.num_ranks : 8;
    st = parse(argc, argv, &o, &is_help);
    if (is_help) {
        fputs(help, stdout);
        return cli_finish(CLI_OK);
    }
    st = st == EPF_OK ? check(&o) : st;
    for (int32_t i = 0; i < epf_preset_count() && st == EPF_OK; i++) {
        const epf_preset *const preset = epf_preset_at(i);
        if (o.preset == NULL || strcmp(o.preset, preset->name) == 0) {
            st = run_preset(&o, preset);
        }
    }
    return st == EPF_OK ? cli_finish(CLI_OK) : cli_fail_status(st);
}
