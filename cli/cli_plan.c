/* cli_plan.c: epfuse plan: memory, arithmetic, traffic and floors of a layer that is not run. */
#include "cli_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cli.h"
#include "cli_options.h"
#include "comm/epf_comm.h"
#include "core/epf_dtype.h"
#include "model/epf_checkpoint.h"
#include "model/epf_preset.h"

static const char usage[] =
    "usage: epfuse plan --preset NAME [OPTIONS]\n"
    "       epfuse plan CHECKPOINT --layer N [OPTIONS]\n"
    "\n"
    "What a layer needs and how fast it can be at best, for one of W ranks, uniform routing.\n"
    "\n"
    "  --preset NAME     one of the list below\n"
    "  --layer N         of the checkpoint; only config.json and the layer's names are read\n"
    "  --ranks W         default: the preset's, 1 for a checkpoint\n"
    "  --tokens T        tokens of each rank; default: the preset's, 1024 for a checkpoint\n"
    "  --dtype TYPE      bf16 (default), fp16 or fp32\n"
    "  --capacity X      rows of the receive buffers: T x K x X (default 4)\n"
    "  --buffers N       sets of communication buffers, 1..8 (default 1)\n"
    "  --measure         add this machine's own floor, from a short measurement\n"
    "  --json            one JSON object instead of the table\n"
    "\n"
    "presets:\n";

enum {
    OPT_PRESET = 256,
    OPT_LAYER,
    OPT_RANKS,
    OPT_TOKENS,
    OPT_DTYPE,
    OPT_CAPACITY,
    OPT_BUFFERS,
    OPT_MEASURE,
    OPT_JSON
};

static const struct option long_options[] = {
    {"preset", required_argument, NULL, OPT_PRESET},
    {"layer", required_argument, NULL, OPT_LAYER},
    {"ranks", required_argument, NULL, OPT_RANKS},
    {"tokens", required_argument, NULL, OPT_TOKENS},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"capacity", required_argument, NULL, OPT_CAPACITY},
    {"buffers", required_argument, NULL, OPT_BUFFERS},
    {"measure", no_argument, NULL, OPT_MEASURE},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

typedef struct plan_options {
    const epf_preset *preset;
    const char *checkpoint;
    int64_t layer; /* INT64_MIN: not given */
    int32_t num_ranks, tokens, dtype, num_buffers;
    double capacity;
    bool measure, json;
} plan_options;

static void print_help(void)
{
    (void)fputs(usage, stdout);
    for (int32_t i = 0; i < epf_preset_count(); i++) {
        printf("  %-16s  %s\n", epf_preset_at(i)->name, epf_preset_at(i)->about);
    }
}

static epf_status apply(int option, const char *text, plan_options *o)
{
    switch (option) {
    case OPT_PRESET:
        o->preset = epf_preset_find(text);
        EPF_CHECK_ARG(o->preset != NULL, "--preset: \"%.40s\", must be one of epfuse plan --help",
                      text);
        return EPF_OK;
    case OPT_LAYER:
        return cli_parse_int("--layer", text, 0, INT32_MAX, &o->layer);
    case OPT_RANKS:
        EPF_TRY(cli_parse_int32("--ranks", text, 1, &o->num_ranks));
        EPF_CHECK_ARG(o->num_ranks <= EPF_COMM_MAX_RANKS, "--ranks: %d, must be 1..%d",
                      o->num_ranks, (int)EPF_COMM_MAX_RANKS);
        return EPF_OK;
    case OPT_TOKENS:
        return cli_parse_int32("--tokens", text, 1, &o->tokens);
    case OPT_DTYPE:
        return cli_parse_dtype(text, &o->dtype);
    case OPT_CAPACITY:
        return cli_parse_positive("--capacity", text, &o->capacity);
    case OPT_BUFFERS:
        return cli_parse_int32("--buffers", text, 1, &o->num_buffers);
    case OPT_MEASURE:
        o->measure = true;
        return EPF_OK;
    default:
        o->json = true;
        return EPF_OK;
    }
}

/* ---- what is planned ---- */

static epf_status shape_of_checkpoint(const plan_options *o, plan *p)
{
    epf_checkpoint *checkpoint = NULL;
    const epf_model_config *c;
    epf_status st;

    EPF_TRY(epf_checkpoint_open(o->checkpoint, &checkpoint));
    c = epf_checkpoint_config(checkpoint);
    EPF_TRY_GOTO(epf_model_config_check_layer(c, o->layer), out);
    (void)snprintf(p->name, sizeof p->name, "%s, layer %" PRId64 " (%s)", o->checkpoint, o->layer,
                   epf_model_type_name(c->type));
    p->shape = (cli_shape){.hidden = c->hidden,
                           .gemm1_columns = 2 * (int64_t)c->intermediate,
                           .intermediate = c->intermediate,
                           .num_experts = c->routing.num_experts,
                           .topk = c->routing.topk,
                           .num_ranks = o->num_ranks > 0 ? o->num_ranks : 1};
    p->tokens = o->tokens > 0 ? o->tokens : 1024;
out:
    epf_checkpoint_close(checkpoint);
    return st;
}

static void shape_of_preset(const plan_options *o, plan *p)
{
    const epf_preset *preset = o->preset;
    (void)snprintf(p->name, sizeof p->name, "%s (%s)", preset->name, preset->about);
    p->shape = (cli_shape){.hidden = preset->hidden,
                           .gemm1_columns = epf_preset_gemm1_columns(preset),
                           .intermediate = preset->intermediate,
                           .num_experts = preset->routing.num_experts,
                           .topk = preset->routing.topk,
                           .num_ranks = o->num_ranks > 0 ? o->num_ranks : preset->num_ranks};
    p->tokens = o->tokens > 0 ? o->tokens : preset->tokens_per_rank;
}

static epf_status make_plan(const plan_options *o, plan *p)
{
    if (o->preset != NULL) {
        shape_of_preset(o, p);
    } else {
        EPF_TRY(shape_of_checkpoint(o, p));
    }
    p->shape.dtype = o->dtype;
    p->capacity = o->capacity;
    p->num_sets = o->num_buffers;
    EPF_CHECK_ARG(p->shape.num_experts % p->shape.num_ranks == 0,
                  "--ranks: %d does not divide the %d experts", p->shape.num_ranks,
                  p->shape.num_experts);
    EPF_TRY(plan_memory(p));
    p->work = cli_work_uniform(&p->shape, p->tokens);
    p->dispatch = cli_cost_dispatch(&p->shape, &p->work);
    p->combine = cli_cost_combine(&p->shape, &p->work);
    if (o->measure) {
        p->has_machine = true;
        p->num_threads = cli_num_cpus();
        EPF_TRY(cli_rates_measure(o->dtype, p->num_threads, 0, &p->machine));
    }
    return EPF_OK;
}

plan_floor plan_floor_of(const plan *p, const cli_rates *rates)
{
    plan_floor f;
    f.dispatch = cli_floor(&p->dispatch, rates, &f.dispatch_limit);
    f.combine = cli_floor(&p->combine, rates, &f.combine_limit);
    f.both = f.dispatch + f.combine;
    return f;
}

plan_floor plan_floor_in_turns(const plan *p, const cli_rates *rates)
{
    plan_floor f = {.dispatch_limit = "links, then GEMM", .combine_limit = "GEMM, then links"};
    f.dispatch = cli_floor_in_turns(&p->dispatch, rates);
    f.combine = cli_floor_in_turns(&p->combine, rates);
    f.both = f.dispatch + f.combine;
    return f;
}

plan_floor plan_floor_here(const plan *p)
{
    plan all = *p;
    const double w = p->shape.num_ranks;
    all.dispatch = (cli_cost){w * p->dispatch.flop, w * p->dispatch.memory_bytes, 0};
    all.combine = (cli_cost){w * p->combine.flop, w * p->combine.memory_bytes, 0};
    return plan_floor_of(&all, &p->machine);
}

static int parse(int argc, char **argv, plan_options *o, bool *done)
{
    int option;

    while ((option = cli_next_option(argc, argv, long_options)) != -1) {
        epf_status st;
        if (option == '?') {
            return CLI_USAGE;
        }
        if (option == 'h') {
            print_help();
            *done = true;
            return CLI_OK;
        }
        st = apply(option, optarg, o);
        if (st != EPF_OK) {
            return cli_fail_status(st);
        }
    }
    if (optind + (o->preset == NULL) != argc) {
        return cli_fail(CLI_USAGE, "plan: give either --preset or one checkpoint folder");
    }
    o->checkpoint = argv[optind];
    if (o->preset == NULL && o->layer == INT64_MIN) {
        return cli_fail(CLI_USAGE, "plan: --layer is required with a checkpoint");
    }
    if (o->dtype == 0) {
        o->dtype = EPF_DTYPE_BF16;
    }
    return CLI_OK;
}

int cli_plan(int argc, char **argv)
{
    plan_options o = {.layer = INT64_MIN, .num_buffers = 1, .capacity = 4};
    plan *p;
    bool done = false;
    int code = parse(argc, argv, &o, &done);
    epf_status st;

    if (code != CLI_OK || done) {
        return code;
    }
    p = epf_alloc(1, sizeof *p);
    if (p == NULL) {
        return cli_fail(CLI_INTERNAL, "plan: no memory");
    }
    st = make_plan(&o, p);
    if (st == EPF_OK && o.json) {
        st = plan_print_json(p);
    } else if (st == EPF_OK) {
        plan_print_table(p);
    }
    epf_free(p);
    return st == EPF_OK ? CLI_OK : cli_fail_status(st);
}
