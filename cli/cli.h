/* cli.h: what the verbs of the command share: exit codes, errors, the table of verbs. */
#ifndef EPF_CLI_H
#define EPF_CLI_H

#include "epfuse/epfuse_status.h"

/* Exit codes, the same on all ranks. */
typedef enum cli_exit {
    CLI_OK = 0,
    CLI_MISMATCH = 1, /* --check found a difference                                  */
    CLI_USAGE = 2,    /* an option, or a value that does not fit the model           */
    CLI_BAD_FILE = 3, /* cannot be read or written, or holds what it must not        */
    CLI_NO_DEVICE = 4,
    CLI_LOST = 5,    /* a timeout, or a rank that went away                         */
    CLI_INTERNAL = 6 /* no memory, or a bug of ours                                 */
} cli_exit;

/* The code that says what the status says; EPF_E_UNSUPPORTED is about files here. */
cli_exit cli_exit_of(epf_status status);

/* Prints "epfuse: <text>" as one line to stderr and returns `code`. */
int cli_fail(cli_exit code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* cli_fail() with the calling thread's recorded text. */
int cli_fail_status(epf_status status);

/* Flushes stdout: what nobody could read is an error. */
int cli_finish(int code);

/* One verb each; argv[0] is the verb. */
typedef int cli_verb_main(int argc, char **argv);
int cli_run(int argc, char **argv);
int cli_plan(int argc, char **argv);
int cli_trace(int argc, char **argv);
int cli_info(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_verify(int argc, char **argv);

#endif
