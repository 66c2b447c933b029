/* epf_error.c: the calling thread's last error text. */
#include "base/epf_error.h"

#include <stdio.h>

enum { TEXT_BYTES = 1024 };

static _Thread_local char last_text[TEXT_BYTES];

epf_status epf_error_set(epf_status status, const char *format, ...)
{
    va_list args;
    char text[TEXT_BYTES]; /* an argument may be the previous text itself */
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)snprintf(last_text, sizeof last_text, "%s", text);
    return status;
}

const char *epf_error_text(void)
{
    return last_text;
}
