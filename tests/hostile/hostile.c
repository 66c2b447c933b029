/* hostile.c: see hostile.h. */
#include "hostile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/epf_check.h"

static int num_cases;
static int num_failed;
static size_t largest; /* allocation since the watch began */
static int is_watching;

int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *))
    __attribute__((weak));

static void on_malloc(const volatile void *memory, size_t num_bytes)
{
    (void)memory;
    largest = is_watching && num_bytes > largest ? num_bytes : largest;
}

static void on_free(const volatile void *memory)
{
    (void)memory;
}

static void watch(void)
{
    static int installed;
    if (!installed && __sanitizer_install_malloc_and_free_hooks != NULL) {
        (void)__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    }
    installed = 1;
    largest = 0;
    is_watching = 1;
}

/* One template unit at `text`: writes it if `out` is there; returns its bytes, and where the next starts. */
static size_t expand_unit(const char *text, const char **next, unsigned char *out)
{
    char *end;
    unsigned long count;
    size_t length;
    if (text[0] != '~') {
        *next = text + 1;
        length = 1;
        count = 1;
    } else if (text[1] == '~') {
        *next = text + 2;
        text++;
        length = 1;
        count = 1;
    } else if (text[1] == 'x') {
        const char digits[3] = {text[2], text[3], '\0'};
        if (out != NULL) {
            *out = (unsigned char)strtoul(digits, &end, 16);
        }
        *next = text + 4;
        return 1;
    } else {
        count = strtoul(text + 1, &end, 10);
        CHECK(*end == '{' && strchr(end, '}') != NULL, "template at %s", text);
        text = end + 1;
        length = strcspn(text, "}") > 0 ? strcspn(text, "}") : 1; /* "{}}": a closing brace */
        *next = text + length + 1;
    }
    for (unsigned long i = 0; out != NULL && i < count; i++) {
        memcpy(out + i * length, text, length);
    }
    return count * length;
}

unsigned char *hostile_expand(const char *text, size_t *num_bytes)
{
    const char *at;
    unsigned char *bytes;
    size_t used = 0;
    for (at = text; *at != '\0';) {
        used += expand_unit(at, &at, NULL);
    }
    bytes = malloc(used > 0 ? used : 1);
    CHECK(bytes != NULL, "%zu bytes", used);
    *num_bytes = used;
    for (used = 0, at = text; *at != '\0';) {
        used += expand_unit(at, &at, bytes + used);
    }
    return bytes;
}

/* Goes on after a failure, so that one run shows all. */
static void expect(const hostile_suite *suite, const hostile_case *c, int holds, const char *what)
{
    if (!holds) {
        printf("%s, %s: %s; want %d, %s: %s\n", suite->reader_name, c->name, what, (int)c->status,
               c->says, epf_check_library_text());
        num_failed++;
    }
}

void hostile_check(const hostile_suite *suite, const hostile_case *c, const unsigned char *bytes,
                   size_t num_bytes)
{
    unsigned char *const exact = malloc(num_bytes > 0 ? num_bytes : 1);
    const char *error;
    epf_status st;
    CHECK(exact != NULL, "%zu bytes", num_bytes);
    memcpy(exact, bytes, num_bytes);
    watch();
    st = suite->read(exact, num_bytes);
    is_watching = 0;
    free(exact);
    error = epf_check_library_text();
    expect(suite, c, st == c->status, "another status");
    expect(suite, c, strstr(error, c->says) != NULL, "another reason");
    expect(suite, c, strchr(error, '\n') == NULL, "more than one line");
    if (largest > suite->factor * num_bytes + suite->fixed_bytes) {
        printf("%zu bytes taken for a file of %zu\n", largest, num_bytes);
        expect(suite, c, 0, "too large an allocation");
    }
    if (getenv("EPF_HOSTILE_SHOW") != NULL) {
        printf("%-12s %-36s %s\n", suite->reader_name, c->name, error);
    }
    num_cases++;
}

void hostile_run(const hostile_suite *suite, const hostile_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t num_bytes;
        size_t size;
        unsigned char *const text = hostile_expand(cases[i].text, &num_bytes);
        unsigned char *const file =
            suite->wrap != NULL ? suite->wrap(text, num_bytes, &size) : text;
        hostile_check(suite, &cases[i], file, suite->wrap != NULL ? size : num_bytes);
        if (file != text) {
            free(file);
        }
        free(text);
    }
}

int hostile_end(const hostile_suite *suite, int least)
{
    CHECK(num_failed == 0, "%d of %d files", num_failed, num_cases);
    printf("%s: %d hostile files, each refused with its reason\n", suite->reader_name, num_cases);
    CHECK(num_cases >= least, "at least %d", least);
    return 0;
}
