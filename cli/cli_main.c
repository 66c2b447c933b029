/* cli_main.c: epfuse VERB ...: finds the verb and hands over. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

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
    {"bench", cli_bench, "fused and unfused side by side, as a table or JSON lines"},
    {"trace", cli_trace, "where the time of a recorded profile went, as a table or a picture"},
    {"verify", cli_verify, "what is promised about reliability, run and counted"},
    {"info", cli_info, "version, backends, GEMM libraries, this machine, the environment"},
};

enum { NUM_VERBS = sizeof verbs / sizeof verbs[0] };

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
