/* test_counter: words bring themselves to a new epoch and never go down, however many threads add. */
#include <pthread.h>

#include "core/epf_counter.h"
#include "core_check.h"

enum { THREADS = 4, ADDS = 20000 };

static uint64_t shared;
static uint32_t taken[THREADS * ADDS];

static void *add_many(void *argument)
{
    (void)argument;
    for (int i = 0; i < ADDS; i++) {
        const uint32_t before = epf_word_add(&shared, 7, 1);
        CHECK(before < THREADS * ADDS, "ticket %u", before);
        taken[before]++;
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    uint64_t word = 0;
    CHECK(epf_word_add(&word, 1, 2) == 0 && word == epf_word(1, 2), "first add");
    CHECK(epf_word_add(&word, 1, 3) == 2 && word == epf_word(1, 5), "second add");
    CHECK(epf_word_add(&word, 2, 1) == 0 && word == epf_word(2, 1), "a new epoch starts at 0");
    CHECK(epf_word(2, 0) > epf_word(1, UINT32_MAX), "a later epoch is above every count");
    CHECK(epf_word_epoch(epf_word(9, 4)) == 9 && epf_word_low(epf_word(9, 4)) == 4, "halves");
    shared = epf_word(6, 12345); /* left by a call that was aborted */
    for (int t = 0; t < THREADS; t++) {
        CHECK(pthread_create(&threads[t], NULL, add_many, NULL) == 0, "thread %d", t);
    }
    for (int t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
    }
    for (int i = 0; i < THREADS * ADDS; i++) {
        CHECK(taken[i] == 1, "ticket %d taken %u times", i, taken[i]);
    }
    return 0;
}
