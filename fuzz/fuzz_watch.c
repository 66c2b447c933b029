/* fuzz_watch.c: the largest allocation, by the hook that sanitizers offer. */
#include "fuzz.h"

static size_t allowed;

int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *))
    __attribute__((weak));

static void on_malloc(const volatile void *memory, size_t num_bytes)
{
    (void)memory;
    FUZZ_CHECK(allowed == 0 || num_bytes <= allowed);
}

static void on_free(const volatile void *memory)
{
    (void)memory;
}

void fuzz_watch_begin(size_t max_bytes)
{
    static int installed;
    if (!installed && __sanitizer_install_malloc_and_free_hooks != NULL) {
        (void)__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    }
    installed = 1;
    allowed = max_bytes + FUZZ_SLACK_BYTES;
}

void fuzz_watch_end(void)
{
    allowed = 0;
}
