/*
 * coverage-hook.h: forced into every source of the build that scripts/coverage.sh makes, and into no other.
 *
 * Each place that decides on an error adds one line, "file:line status program", to a file of its process
 * under $EPF_ERROR_SITES; children that end with _exit() leave their counters as others do.
 */
#ifndef EPF_COVERAGE_HOOK_H
#define EPF_COVERAGE_HOOK_H
#ifndef __ASSEMBLER__

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/epf_error.h"

void __gcov_dump(void);

static inline void epf_coverage_exit(int code)
{
    __gcov_dump();
    _exit(code);
}

/* One write a line, so that threads and forked processes may share the file. */
static inline void epf_error_site(const char *file, int line, int status)
{
    const char *const folder = getenv("EPF_ERROR_SITES");
    const int error = errno;
    char text[512];
    int fd;
    if (folder != NULL) {
        (void)snprintf(text, sizeof text, "%s/%s", folder, program_invocation_short_name);
        fd = open(text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (fd >= 0) {
            const int bytes = snprintf(text, sizeof text, "%s:%d %d %s\n", file, line, status,
                                       program_invocation_short_name);
            (void)signal(SIGXFSZ, SIG_IGN); /* tests limit the size of files */
            const ssize_t written = write(fd, text, (size_t)bytes);
            (void)written;
            (void)close(fd);
        }
    }
    errno = error;
}

#define _exit(code) epf_coverage_exit(code)
#undef EPF_FAIL
#define EPF_FAIL(status, ...)                                                                     \
    (epf_error_site(__FILE__, __LINE__, (int)(status)), (void)epf_error_set((status), __VA_ARGS__), \
     (status))

#endif
#endif
