/*
 * epf_check.h: checks of single-threaded test programs.
 *
 * A failed CHECK prints where and why, and ends the program with 1; main() returns 0, or
 * EPF_TEST_SKIPPED after printing the reason.
 */
#ifndef EPF_TEST_CHECK_H
#define EPF_TEST_CHECK_H

#include <stddef.h>

enum { EPF_TEST_SKIPPED = 77 };

void epf_check_failed(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((noreturn, format(printf, 4, 5)));

#define CHECK(condition, ...)                                              \
    do {                                                                   \
        if (!(condition)) {                                                \
            epf_check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__); \
        }                                                                  \
    } while (0)

/* The call must succeed; shows the library's own text if not. */
#define CHECK_OK(call)                                                                 \
    do {                                                                               \
        const int check_status = (int)(call);                                          \
        if (check_status != 0) {                                                       \
            epf_check_failed(__FILE__, __LINE__, #call, "status %d: %s", check_status, \
                             epf_check_library_text());                                \
        }                                                                              \
    } while (0)

/* The library's last error text of this thread. */
const char *epf_check_library_text(void);

/* Zeroed, never NULL. */
void *epf_test_alloc(size_t count, size_t size) __attribute__((malloc));

#endif
