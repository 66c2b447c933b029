#include "support/epf_check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/epf_error.h"

void epf_check_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list arguments;

    (void)fprintf(stderr, "%s:%d: %s: ", file, line, condition);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
    exit(1);
}

const char *epf_check_library_text(void)
{
    return epf_error_text();
}

void *epf_test_alloc(size_t count, size_t size)
{
    void *memory = calloc(count == 0 ? 1 : count, size);

    CHECK(memory != NULL, "%zu x %zu bytes", count, size);
    return memory;
}
