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

#if defined(__SANITIZE_THREAD__)
#define BUILT_WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BUILT_WITH_TSAN 1
#endif
#endif

#if defined(BUILT_WITH_TSAN)
/* oneDNN and OpenMP are not instrumented: TSan cannot see the locks inside them. */
const char *__tsan_default_suppressions(void);

__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "called_from_lib:libdnnl.so\ncalled_from_lib:libgomp.so\ncalled_from_lib:libomp.so\n"
           "race:libdnnl.so\n";
}
#endif
