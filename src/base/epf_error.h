/*
 * epf_error.h: how errors are made and forwarded.
 *
 * The first function that decides on an error calls EPF_FAIL (or EPF_CHECK_ARG), which records one line
 * of text for the calling thread; every other function forwards the status in silence with EPF_TRY.
 */
#ifndef EPF_ERROR_H
#define EPF_ERROR_H

#include <stdarg.h>

#include "epfuse/epfuse_status.h"

/* Records the text for epf_last_error() and returns `status`. */
epf_status epf_error_set(epf_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The calling thread's last recorded text; "" if none. */
const char *epf_error_text(void);

/* The status stands in the expression itself, so that compilers see it is not EPF_OK. */
#define EPF_FAIL(status, ...) ((void)epf_error_set((status), __VA_ARGS__), (status))

#define EPF_CHECK_ARG(condition, ...)                    \
    do {                                                 \
        if (!(condition)) {                              \
            return EPF_FAIL(EPF_E_INVALID, __VA_ARGS__); \
        }                                                \
    } while (0)

#define EPF_TRY(expression)                             \
    do {                                                \
        const epf_status epf_try_status = (expression); \
        if (epf_try_status != EPF_OK) {                 \
            return epf_try_status;                      \
        }                                               \
    } while (0)

/* Needs a local `epf_status st`. */
#define EPF_TRY_GOTO(expression, label) \
    do {                                \
        st = (expression);              \
        if (st != EPF_OK) {             \
            goto label;                 \
        }                               \
    } while (0)

#endif
