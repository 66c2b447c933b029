/* cli_run_options.c: the command line of `epfuse run`. */
#include <stdio.h>
#include <string.h>

#include "base/epf_error.h"
#include "cli_options.h"
#include "cli_run.h"
#include "prof/epf_prof.h"

static const char usage[] =
    "usage: epfuse run CHECKPOINT --layer N --input FILE [OPTIONS]\n"
    "\n"
    "Runs the MoE block of one layer of a HuggingFace checkpoint folder on hidden states.\n"
    "\n"
    "  --layer N           which layer; its block must have experts\n"
    "  --input FILE        hidden states as they enter the block, [.., H]: x.npy (fp32, fp16) or\n"
    "                      x.safetensors:TENSOR\n"
    "  --ranks W           ranks that share the experts and the tokens; W divides E (default 1)\n"
    "  --processes         ranks are processes, not threads\n"
    "  --join              this process is one rank of torchrun, mpirun or srun, or of\n"
    "                      EPFUSE_RANK, EPFUSE_NUM_RANKS and EPFUSE_RENDEZVOUS\n"
    "  --device DEVICE     cpu (default) or cuda: on Hopper GPUs, where ranks take turns\n"
    "  --mode MODE         fuse_scatter (default) or serial: the same bits\n"
    "  --dtype TYPE        auto (default: as the experts are stored), bf16, fp16 or fp32: what "
    "tokens\n"
    "                      and experts' weights are rounded to; the router sees the input as it "
    "is\n"
    "  --output FILE       the block's output, fp32: y.npy or y.safetensors[:TENSOR]\n"
    "  --check             compare with a double-precision reference; exit 1 if it is not met\n"
    "  --check-tokens N    of so many tokens, evenly chosen (default: as many as are cheap; 0: "
    "all)\n"
    "  --expect FILE       compare with an array of the output's shape, too\n"
    "  --tolerance X       of --expect: largest ||output - expected|| / ||expected|| (default "
    "0.01)\n"
    "  --repeat N          timed runs, after one warm-up if N > 1; times are medians (default: 10 "
    "where\n"
    "                      the first is short, else that one)\n"
    "  --profile NAME      record one more run: prof/mega/NAME_*.perfetto-trace\n"
    "  --workers N         threads, or CTAs, of each rank (default: its share of the cores or "
    "SMs)\n"
    "  --capacity X        rows of the receive buffers: tokens x K x X (default 4; they grow)\n"
    "  --timeout SECONDS   bound on every wait (default 100)\n"
    "  --json              one JSON object instead of the table\n";

enum {
    OPT_LAYER = 256,
    OPT_INPUT,
    OPT_RANKS,
    OPT_PROCESSES,
    OPT_JOIN,
    OPT_DEVICE,
    OPT_MODE,
    OPT_DTYPE,
    OPT_OUTPUT,
    OPT_CHECK,
    OPT_CHECK_TOKENS,
    OPT_EXPECT,
    OPT_TOLERANCE,
    OPT_REPEAT,
    OPT_PROFILE,
    OPT_WORKERS,
    OPT_CAPACITY,
    OPT_TIMEOUT,
    OPT_JSON
};

static const struct option long_options[] = {
    {"layer", required_argument, NULL, OPT_LAYER},
    {"input", required_argument, NULL, OPT_INPUT},
    {"ranks", required_argument, NULL, OPT_RANKS},
    {"processes", no_argument, NULL, OPT_PROCESSES},
    {"join", no_argument, NULL, OPT_JOIN},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"mode", required_argument, NULL, OPT_MODE},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"check", no_argument, NULL, OPT_CHECK},
    {"check-tokens", required_argument, NULL, OPT_CHECK_TOKENS},
    {"expect", required_argument, NULL, OPT_EXPECT},
    {"tolerance", required_argument, NULL, OPT_TOLERANCE},
    {"repeat", required_argument, NULL, OPT_REPEAT},
    {"profile", required_argument, NULL, OPT_PROFILE},
    {"workers", required_argument, NULL, OPT_WORKERS},
    {"capacity", required_argument, NULL, OPT_CAPACITY},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static epf_status parse_mode(const char *text, int32_t *mode)
{
    *mode = strcmp(text, "serial") == 0 ? EPF_COMBINE_SERIAL : EPF_COMBINE_FUSE_SCATTER;
    EPF_CHECK_ARG(*mode == EPF_COMBINE_SERIAL || strcmp(text, "fuse_scatter") == 0,
                  "--mode: \"%.40s\", must be serial or fuse_scatter", text);
    return EPF_OK;
}

static epf_status check_profile(const char *name)
{
    char longest[RUN_PROFILE_BYTES];
    run_profile_name(name, true, longest);
    return epf_prof_check_name(name[0] == '\0' ? name : longest);
}

static epf_status apply_number(int option, const char *text, run_options *o)
{
    int64_t value = 0;
    switch (option) {
    case OPT_LAYER:
        return cli_parse_int("--layer", text, 0, INT32_MAX, &o->layer);
    case OPT_RANKS:
        EPF_TRY(cli_parse_int("--ranks", text, 1, EPF_COMM_MAX_RANKS, &value));
        o->num_ranks = (int32_t)value;
        return EPF_OK;
    case OPT_CHECK_TOKENS:
        o->check = true;
        return cli_parse_int("--check-tokens", text, 0, INT64_MAX, &o->check_tokens);
    case OPT_REPEAT:
        EPF_TRY(cli_parse_int("--repeat", text, 1, RUN_MAX_REPEAT, &value));
        o->repeat = (int32_t)value;
        return EPF_OK;
    case OPT_WORKERS:
        return cli_parse_int32("--workers", text, 1, &o->num_workers);
    case OPT_TOLERANCE:
        return cli_parse_positive("--tolerance", text, &o->tolerance);
    case OPT_CAPACITY:
        return cli_parse_positive("--capacity", text, &o->capacity);
    default:
        EPF_TRY(cli_parse_positive("--timeout", text, &o->timeout_s));
        EPF_CHECK_ARG(o->timeout_s >= 1e-3 && o->timeout_s <= 1e6,
                      "--timeout: %g, must be 0.001..1000000 seconds", o->timeout_s);
        return EPF_OK;
    }
}

static epf_status apply(int option, const char *text, run_options *o)
{
    switch (option) {
    case OPT_INPUT:
        o->input = text;
        return EPF_OK;
    case OPT_OUTPUT:
        o->output = text;
        return EPF_OK;
    case OPT_EXPECT:
        o->expect = text;
        return EPF_OK;
    case OPT_PROFILE:
        o->profile = text;
        return check_profile(text);
    case OPT_PROCESSES:
        o->processes = true;
        return EPF_OK;
    case OPT_JOIN:
        o->join = true;
        return EPF_OK;
    case OPT_CHECK:
        o->check = true;
        return EPF_OK;
    case OPT_JSON:
        o->json = true;
        return EPF_OK;
    case OPT_DEVICE:
        return cli_device_parse(text, &o->backend);
    case OPT_MODE:
        return parse_mode(text, &o->mode);
    case OPT_DTYPE:
        return cli_parse_dtype(text, &o->dtype);
    default:
        return apply_number(option, text, o);
    }
}

static int check_complete(int argc, char **argv, run_options *o)
{
    if (optind + 1 != argc) {
        return cli_fail(CLI_USAGE,
                        "run: %d checkpoint folders given, must be one; see epfuse run --help",
                        argc - optind);
    }
    o->checkpoint = argv[optind];
    if (o->layer == INT64_MIN || o->input == NULL) {
        return cli_fail(CLI_USAGE, "run: %s is required", o->input == NULL ? "--input" : "--layer");
    }
    if (o->join && o->processes) {
        return cli_fail(CLI_USAGE, "run: --join and --processes exclude each other");
    }
    if (!o->join && o->num_ranks == 0) {
        o->num_ranks = 1;
    }
    return CLI_OK;
}

int run_options_parse(int argc, char **argv, run_options *o, bool *done)
{
    int option;

    *o = (run_options){.layer = INT64_MIN,
                       .mode = EPF_COMBINE_FUSE_SCATTER,
                       .backend = EPF_BACKEND_CPU,
                       .check_tokens = -1,
                       .capacity = 4,
                       .timeout_s = 100,
                       .tolerance = 0.01};
    *done = false;
    while ((option = cli_next_option(argc, argv, long_options)) != -1) {
        if (option == '?') {
            return CLI_USAGE;
        }
        if (option == 'h') {
            (void)fputs(usage, stdout);
            *done = true;
            return CLI_OK;
        }
        const epf_status st = apply(option, optarg, o);
        if (st != EPF_OK) {
            return cli_fail_status(st);
        }
    }
    return check_complete(argc, argv, o);
}
