/* cli_main.c: epfuse VERB ...: finds the verb and hands over. */
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_error.h"
#include "cli.h"
#include "epfuse/epfuse.h"

typedef struct cli_verb {
    const char *name;
    cli_verb_main *main;
    const char *about;
} cli_verb;

static const cli_verb verbs[] = {
    {"run", cli_run, "run a checkpoint's MoE layer on hidden states, over several ranks"},
    {"plan", cli_plan, "memory, arithmetic, traffic and floors of a layer, without running it"},
    {"trace", cli_trace, "where the time of a recorded profile went, as a table or a picture"},
    {"info", cli_info, "version, backends, GEMM libraries, this machine, the environment"},
};

enum { NUM_VERBS = sizeof verbs / sizeof verbs[0] };

cli_exit cli_exit_of(epf_status status)
{
    switch (status) {
    case EPF_OK:
        return CLI_OK;
    case EPF_E_INVALID:
        return CLI_USAGE;
    case EPF_E_UNSUPPORTED:
    case EPF_E_FILE:
    case EPF_E_FORMAT:
        return CLI_BAD_FILE;
    case EPF_E_DEVICE:
        return CLI_NO_DEVICE;
    case EPF_E_PEER:
    case EPF_E_TIMEOUT:
        return CLI_LOST;
    default:
        return CLI_INTERNAL;
    }
}

int cli_fail(cli_exit code, const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c != '\0'; c++) {
        *c = (unsigned char)*c < ' ' ? '?' : *c;
    }
    (void)fflush(stdout);
    fprintf(stderr, "epfuse: %s\n", text);
    return (int)code;
}

int cli_fail_status(epf_status status)
{
    const char *text = epf_error_text();
    return cli_fail(cli_exit_of(status), "%s", text[0] != '\0' ? text : epf_status_text(status));
}

int cli_finish(int code)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        return cli_fail(CLI_BAD_FILE, "standard output: cannot write: %s", strerror(errno));
    }
    return code;
}

static void print_help(FILE *out)
{
    fprintf(out, "usage: epfuse VERB [OPTIONS]    epfuse VERB --help    epfuse --version\n\n"
                 "Mixture-of-Experts layers: all-to-all fused with the grouped GEMMs.\n\n");
    for (int i = 0; i < NUM_VERBS; i++) {
        fprintf(out, "  %-7s %s\n", verbs[i].name, verbs[i].about);
    }
    fprintf(out, "\nExit codes: 0 ok, 1 mismatch, 2 usage, 3 bad file, 4 no device, "
                 "5 timeout or peer lost, 6 no memory or a bug.\n");
}

int main(int argc, char **argv)
{
    (void)setlocale(LC_CTYPE, "");
    (void)signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of writing, with a message */
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("epfuse %s\n", epf_version());
        return cli_finish(CLI_OK);
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return cli_finish(CLI_OK);
    }
    for (int i = 0; i < NUM_VERBS; i++) {
        if (strcmp(argv[1], verbs[i].name) == 0) {
            return cli_finish(verbs[i].main(argc - 1, argv + 1));
        }
    }
    return cli_fail(CLI_USAGE, "\"%.40s\" is no verb; see epfuse --help", argv[1]);
}
