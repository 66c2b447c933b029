/* cli_verify.c: epfuse verify: what we promise about reliability, run and counted. */
#include "cli_verify.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/epf_error.h"
#include "cli.h"
#include "cli_cost.h"
#include "cli_options.h"
#include "cli_text.h"
#include "epfuse/epfuse.h"
#include <epf_commit.h> /* made by the build */

static const char usage[] =
    "usage: epfuse verify [--all] [--list] [--only NAME]... [--seconds N] [--seed S]\n"
    "                     [--tests-dir DIR] [--json FILE]\n"
    "\n"
    "Runs what is promised about reliability and prints a line for each promise: what was run, "
    "how\n"
    "often, and whether it held.  Without --all each promise is run as often as CI does.\n"
    "\n"
    "  --all            the full figures: hours on a small machine\n"
    "  --list           only say what would be run\n"
    "  --only NAME      this promise; may be given more than once\n"
    "  --seconds N      stop each promise after N seconds; the line says how far it came\n"
    "  --seed S         where chance begins (default 1)\n"
    "  --tests-dir DIR  the build tree whose test programs are run for promises that need them\n"
    "                   (default: the one this command was built in)\n"
    "  --json FILE      append one line for each promise\n";

enum { OPT_ALL = 256, OPT_LIST, OPT_ONLY, OPT_SECONDS, OPT_SEED, OPT_TESTS, OPT_JSON };

static const struct option long_options[] = {
    {"all", no_argument, NULL, OPT_ALL},
    {"list", no_argument, NULL, OPT_LIST},
    {"only", required_argument, NULL, OPT_ONLY},
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"seed", required_argument, NULL, OPT_SEED},
    {"tests-dir", required_argument, NULL, OPT_TESTS},
    {"json", required_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

const char *verify_number(uint64_t value, char out[32])
{
    char digits[24];
    const int length = snprintf(digits, sizeof digits, "%" PRIu64, value);
    int at = 0;

    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) {
            out[at++] = ',';
        }
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

static const char *const outcomes[] = {"ok", "FAILED", "skipped"};

/* ---- JSON ---- */

epf_status verify_write_json(const char *path, const verify_promise *promise, const verify_run *run,
                             double seconds)
{
    FILE *const f = fopen(path, "ae");
    char device[256];
    json_t *line;
    int failed;

    if (f == NULL) {
        return EPF_FAIL(EPF_E_FILE, "%s: cannot write: %s", path, strerror(errno));
    }
    cli_device_name(device, sizeof device);
    line = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:I, s:f, s:s, s:s, s:s, s:i}",
                     "promise", promise->name, "claim", promise->claim, "result",
                     outcomes[run->outcome], "done", (json_int_t)run->done, "target",
                     (json_int_t)run->target, "full", (json_int_t)promise->full, "unit",
                     promise->unit, "note", run->note, "reason", run->reason, "seed",
                     (json_int_t)run->seed, "seconds", seconds, "version", epf_version(), "rev",
                     EPF_COMMIT, "device", device, "cpus", (int)cli_num_cpus());
    failed = line == NULL || json_dumpf(line, f, JSON_COMPACT | JSON_REAL_PRECISION(5)) != 0 ||
             fputc('\n', f) == EOF;
    json_decref(line);
    failed = fclose(f) != 0 || failed;
    return failed ? EPF_FAIL(EPF_E_FILE, "%s: writing failed", path) : EPF_OK;
}

/* ---- lines for people ---- */

static bool is_chosen(const verify_options *o, const char *name)
{
    for (int32_t i = 0; i < o->num_only; i++) {
        if (strcmp(o->only[i], name) == 0) {
            return true;
        }
    }
    return o->num_only == 0;
}

static void print_line(FILE *out, const verify_promise *p, const verify_run *run, double seconds)
{
    char done[32];
    char full[32];
    char time[CLI_NUMBER_BYTES];
    const char *const colour = run->outcome == VERIFY_OK       ? cli_green()
                               : run->outcome == VERIFY_FAILED ? cli_red()
                                                               : "";

    (void)fprintf(out, "%-12s %s%-7s%s %s", p->name, colour, outcomes[run->outcome], cli_plain(),
                  p->claim);
    if (run->done > 0) {
        (void)fprintf(out, ": %s", verify_number(run->done, done));
        if (p->full > 0 && run->done < p->full) {
            (void)fprintf(out, " of %s", verify_number(p->full, full));
        }
        (void)fprintf(out, " %s", p->unit);
    }
    if (run->note[0] != '\0') {
        (void)fprintf(out, ", %s", run->note);
    }
    if (run->outcome != VERIFY_SKIPPED && p->tests == NULL) { /* programs have seeds of their own */
        (void)fprintf(out, ", seed %" PRIu64, run->seed);
    }
    if (run->outcome != VERIFY_SKIPPED) {
        (void)fprintf(out, ", %s", cli_time(seconds, time));
    }
    if (run->reason[0] != '\0') {
        (void)fprintf(out, ": %s", run->reason);
    }
    (void)fputc('\n', out);
    (void)fflush(out);
}

static void print_plan(FILE *out, const verify_promise *p)
{
    char full[32] = "";
    char share[32] = "";

    if (p->full == 0) {
        (void)fprintf(out, "%-12s %s: every program; CI's share of them\n", p->name, p->claim);
        return;
    }
    (void)fprintf(out, "%-12s %s: %s %s with --all, else %s\n", p->name, p->claim,
                  verify_number(p->full, full), p->unit, verify_number(p->share, share));
}

epf_status verify_all(const verify_promise *promises, int32_t count, const verify_options *options,
                      FILE *out, verify_report *report)
{
    memset(report, 0, sizeof *report);
    for (int32_t i = 0; i < count; i++) {
        verify_run run;
        double seconds;
        if (!is_chosen(options, promises[i].name)) {
            continue;
        }
        if (options->only_list) {
            print_plan(out, &promises[i]);
            continue;
        }
        EPF_TRY(verify_one(&promises[i], options, &run, &seconds));
        print_line(out, &promises[i], &run, seconds);
        report->num_passed += run.outcome == VERIFY_OK;
        report->num_failed += run.outcome == VERIFY_FAILED;
        report->num_skipped += run.outcome == VERIFY_SKIPPED;
        report->seconds += seconds;
        if (options->json_path != NULL) {
            EPF_TRY(verify_write_json(options->json_path, &promises[i], &run, seconds));
        }
    }
    if (!options->only_list) {
        (void)fprintf(out, "%d passed, %d failed, %d skipped\n", report->num_passed,
                      report->num_failed, report->num_skipped);
    }
    return EPF_OK;
}

/* ---- the verb ---- */

/* The build tree that the running command lies in: DIR of DIR/bin/epfuse. */
static const char *own_tree(char path[4096])
{
    char file[4200];
    const ssize_t length = readlink("/proc/self/exe", path, 4095);

    path[length < 0 ? 0 : length] = '\0';
    for (int i = 0; i < 2; i++) {
        char *const slash = strrchr(path, '/');
        if (slash == NULL) {
            return NULL;
        }
        *slash = '\0';
    }
    (void)snprintf(file, sizeof file, "%s/CTestTestfile.cmake", path);
    return access(file, R_OK) == 0 ? path : NULL;
}

static epf_status take_only(verify_options *o, const char *name)
{
    bool is_known = false;

    for (int32_t i = 0; i < verify_num_promises; i++) {
        is_known = is_known || strcmp(verify_promises[i].name, name) == 0;
    }
    EPF_CHECK_ARG(is_known, "--only: \"%.40s\" is no promise; see epfuse verify --list", name);
    EPF_CHECK_ARG(o->num_only < (int32_t)(sizeof o->only / sizeof o->only[0]),
                  "--only: given more than %zu times", sizeof o->only / sizeof o->only[0]);
    o->only[o->num_only++] = name;
    return EPF_OK;
}

static epf_status take_option(verify_options *o, int option)
{
    int64_t seed = 0;

    switch (option) {
    case OPT_ALL:
        o->is_full = true;
        return EPF_OK;
    case OPT_LIST:
        o->only_list = true;
        return EPF_OK;
    case OPT_ONLY:
        return take_only(o, optarg);
    case OPT_SECONDS:
        return cli_parse_positive("--seconds", optarg, &o->seconds);
    case OPT_SEED:
        EPF_TRY(cli_parse_int("--seed", optarg, 0, INT64_MAX, &seed));
        o->seed = (uint64_t)seed;
        return EPF_OK;
    case OPT_TESTS:
        o->tests_dir = optarg;
        return EPF_OK;
    default:
        o->json_path = optarg;
        return EPF_OK;
    }
}

int cli_verify(int argc, char **argv)
{
    verify_options o = {.seed = 1};
    verify_report report;
    char tree[4096];
    epf_status st;
    int option;

    while ((option = cli_next_option(argc, argv, long_options)) != -1) {
        if (option == '?') {
            return CLI_USAGE;
        }
        if (option == 'h') {
            (void)fputs(usage, stdout);
            return CLI_OK;
        }
        st = take_option(&o, option);
        if (st != EPF_OK) {
            return cli_fail_status(st);
        }
    }
    if (optind != argc) {
        return cli_fail(CLI_USAGE, "verify: \"%.60s\" is not understood", argv[optind]);
    }
    if (o.tests_dir == NULL) {
        o.tests_dir = own_tree(tree);
    }
    st = verify_all(verify_promises, verify_num_promises, &o, stdout, &report);
    if (st != EPF_OK) {
        return cli_fail_status(st);
    }
    return report.num_failed == 0 ? CLI_OK : CLI_MISMATCH;
}
