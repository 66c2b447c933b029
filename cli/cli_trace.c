/* cli_trace.c: epfuse trace: a recorded profile summed up, or drawn. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/epf_error.h"
#include "cli.h"
#include "cli_options.h"
#include "cli_text.h"
#include "prof/epf_trace_summary.h"
#include "prof/epf_trace_svg.h"

static const char usage[] =
    "usage: epfuse trace FILE... [OPTIONS]\n"
    "\n"
    "Sums up profiles of epfuse run --profile: one merged file, or files of different ranks.\n"
    "\n"
    "  --svg OUT         also draw a timeline: a lane per worker\n"
    "  --title TEXT      of the picture\n"
    "  --width PIXELS    of the picture, 400..4000 (default 1200)\n"
    "  --flows N         arrows from a send to the work that waited for it (default 40)\n"
    "  --json            one JSON object instead of the table\n";

enum { OPT_SVG = 256, OPT_TITLE, OPT_WIDTH, OPT_FLOWS, OPT_JSON };

static const struct option long_options[] = {
    {"svg", required_argument, NULL, OPT_SVG},
    {"title", required_argument, NULL, OPT_TITLE},
    {"width", required_argument, NULL, OPT_WIDTH},
    {"flows", required_argument, NULL, OPT_FLOWS},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

typedef struct trace_options {
    const char *svg, *title;
    int64_t width, flows;
    bool json;
} trace_options;

static epf_status apply(int option, const char *text, trace_options *o)
{
    switch (option) {
    case OPT_SVG:
        o->svg = text;
        return EPF_OK;
    case OPT_TITLE:
        o->title = text;
        return EPF_OK;
    case OPT_WIDTH:
        return cli_parse_int("--width", text, 400, 4000, &o->width);
    case OPT_FLOWS:
        return cli_parse_int("--flows", text, 0, 100000, &o->flows);
    default:
        o->json = true;
        return EPF_OK;
    }
}

static epf_status show(const trace_options *o, const char *const *paths, int32_t num_paths)
{
    epf_trace *trace = NULL;
    epf_status st;

    EPF_TRY(epf_trace_read_all(paths, num_paths, &trace));
    if (o->svg != NULL) {
        const epf_trace_panel panel = {.trace = trace};
        const epf_trace_svg_config config = {
            .title = o->title, .width_px = (int32_t)o->width, .max_flows = (int32_t)o->flows};
        EPF_TRY_GOTO(epf_trace_svg(&panel, 1, &config, o->svg), out);
    }
    st = o->json ? epf_trace_print_json(trace, stdout) : epf_trace_print(trace, stdout);
    if (st == EPF_OK && o->svg != NULL && !o->json) {
        printf("\ntimeline  %s\n", o->svg);
    }
out:
    epf_trace_destroy(trace);
    return st;
}

int cli_trace(int argc, char **argv)
{
    trace_options o = {.width = 1200, .flows = 40};
    int option;
    epf_status st;

    while ((option = cli_next_option(argc, argv, long_options)) != -1) {
        if (option == '?') {
            return CLI_USAGE;
        }
        if (option == 'h') {
            (void)fputs(usage, stdout);
            return CLI_OK;
        }
        st = apply(option, optarg, &o);
        if (st != EPF_OK) {
            return cli_fail_status(st);
        }
    }
    if (optind == argc) {
        return cli_fail(CLI_USAGE, "trace: no file given; see epfuse trace --help");
    }
    st = show(&o, (const char *const *)argv + optind, argc - optind);
    return st == EPF_OK ? CLI_OK : cli_fail_status(st);
}
