/* cli_error.c: exit codes and the one line that goes with them. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_error.h"
#include "cli.h"
#include "epfuse/epfuse.h"

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
