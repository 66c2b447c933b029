/*
 * test_prof_buffer: what workers record: in order, in time, bounded, counted when full, and nothing
 * when profiling is off; configurations and names that are refused.
 */
#include <pthread.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "prof_fixture.h"

enum { WORKERS = 4, RECORDS = 1000 };

static void check_off(void)
{
    epf_prof_buffer *const lane = epf_prof_worker(NULL, 0);
    epf_prof_record *rec = epf_prof_begin(lane, EPF_PROF_GROUP_GEMM_MAIN, 0);
    CHECK(lane == NULL && rec == NULL, "off");
    epf_prof_detail(rec, 1, 2);
    epf_prof_send(lane, rec, 3);
    epf_prof_recv(lane, rec, 4);
    rec = epf_prof_next(lane, rec, EPF_PROF_ACTIVATION, 1);
    CHECK(rec == NULL, "off");
    epf_prof_end(rec);
}

static void check_record(void)
{
    const epf_prof_config config = {5, 1, 8};
    uint64_t before, kept, lost;
    epf_prof_buffer *lane;
    epf_prof_record *first, *second;
    epf_prof *prof;
    CHECK_OK(epf_prof_create(&config, &prof));
    CHECK(epf_prof_worker(prof, -1) == NULL && epf_prof_worker(prof, 2) == NULL, "no such worker");
    CHECK(epf_prof_worker(prof, 1) != NULL, "the host");
    lane = epf_prof_worker(prof, 0);
    before = epf_now_ns();
    first = epf_prof_begin(lane, EPF_PROF_GROUP_GEMM_WAIT, 7);
    for (uint64_t i = 1; i <= 3; i++) {
        epf_prof_recv(lane, first, i);
        epf_prof_send(lane, first, 10 * i);
    }
    second = epf_prof_next(lane, first, EPF_PROF_GROUP_GEMM_MAIN, 8);
    epf_prof_detail(second, 2, 128);
    epf_prof_end(second);
    CHECK(first->begin_ns >= before && first->end_ns >= first->begin_ns, "time");
    CHECK(second->begin_ns == first->end_ns && second->end_ns >= second->begin_ns, "time");
    CHECK(first->event == EPF_PROF_GROUP_GEMM_WAIT && first->task == 7, "record");
    CHECK(first->expert == EPF_PROF_NONE && first->rows == EPF_PROF_NONE, "record");
    CHECK(second->expert == 2 && second->rows == 128 && second->flow_in == 0, "record");
    CHECK(first->flow_in == 1 && first->flow_out == 10, "first flows");
    CHECK(lane->num_records == 6, "%llu", (unsigned long long)lane->num_records);
    for (uint64_t i = 1; i <= 4; i++) {
        const epf_prof_record *const link = &lane->records[i];
        CHECK(link->event == EPF_PROF_LINK && link->begin_ns == 0, "link %d", (int)i);
        CHECK(link->flow_in + link->flow_out == (i % 2 == 1 ? (i / 2 + 2) : 10 * (i / 2 + 1)),
              "link %d", (int)i);
    }
    epf_prof_counts(prof, &kept, &lost);
    CHECK(kept == 2 && lost == 0, "%llu %llu", (unsigned long long)kept, (unsigned long long)lost);
    epf_prof_reset(prof);
    epf_prof_counts(prof, &kept, &lost);
    CHECK(kept == 0 && lost == 0, "after reset");
    epf_prof_destroy(prof);
}

static void check_full(void)
{
    const epf_prof_config config = {0, 1, 4};
    epf_prof_buffer *lane;
    epf_prof_record *last = NULL;
    uint64_t kept, lost;
    epf_prof *prof;
    CHECK_OK(epf_prof_create(&config, &prof));
    lane = epf_prof_worker(prof, 0);
    CHECK(lane->capacity == 4, "%llu", (unsigned long long)lane->capacity);
    for (int32_t i = 0; i < 4; i++) {
        last = epf_prof_next(lane, last, EPF_PROF_ACTIVATION, i);
        CHECK(last != NULL, "record %d", i);
        epf_prof_send(lane, last, 1);
    }
    epf_prof_send(lane, last, 2); /* no room for a link */
    CHECK(epf_prof_next(lane, last, EPF_PROF_ACTIVATION, 4) == NULL, "full");
    CHECK(last->end_ns >= last->begin_ns && last->end_ns != 0, "ended although the next was lost");
    epf_prof_counts(prof, &kept, &lost);
    CHECK(kept == 4 && lost == 2, "%llu %llu", (unsigned long long)kept, (unsigned long long)lost);
    epf_prof_destroy(prof);
}

static void *work(void *argument)
{
    epf_prof_buffer *const lane = argument;
    for (int32_t i = 0; i < RECORDS; i++) {
        epf_prof_end(epf_prof_begin(lane, EPF_PROF_GROUP_GEMM_MAIN, i));
    }
    return NULL;
}

/* Workers share nothing: a race here is ThreadSanitizer's to report. */
static void check_threads(void)
{
    const epf_prof_config config = {0, WORKERS, RECORDS};
    pthread_t threads[WORKERS];
    uint64_t kept, lost;
    epf_prof *prof;
    CHECK_OK(epf_prof_create(&config, &prof));
    for (int32_t i = 0; i < WORKERS; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, epf_prof_worker(prof, i)) == 0, "%d", i);
    }
    for (int32_t i = 0; i < WORKERS; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    epf_prof_counts(prof, &kept, &lost);
    CHECK(kept == (uint64_t)WORKERS * RECORDS && lost == 0, "%llu", (unsigned long long)kept);
    for (int32_t i = 0; i < WORKERS; i++) {
        const epf_prof_buffer *const lane = epf_prof_worker(prof, i);
        CHECK((uintptr_t)lane->records % 64 == 0, "worker %d shares a cache line", i);
        for (int32_t j = 1; j < RECORDS; j++) {
            CHECK(lane->records[j].begin_ns >= lane->records[j - 1].end_ns, "record %d", j);
        }
    }
    epf_prof_destroy(prof);
}

static void check_flow_ids(void)
{
    const uint64_t epochs[] = {0, 1, 0xffff};
    const int32_t ranks[] = {0, 1, 4095};
    const uint32_t indices[] = {0, 1, 0xffffffffu};
    uint64_t ids[3 * 3 * 3 * 2];
    int count = 0;
    for (int i = 0; i < 27 * 2; i++) {
        const epf_prof_object object = i % 2 == 0 ? EPF_PROF_FLOW_DISPATCH : EPF_PROF_FLOW_OTHER;
        ids[count++] =
            epf_prof_flow(epochs[i / 2 % 3], ranks[i / 6 % 3], object, indices[i / 18 % 3]);
    }
    for (int i = 0; i < count; i++) {
        CHECK(ids[i] != 0, "%d", i);
        for (int j = 0; j < i; j++) {
            CHECK(ids[i] != ids[j], "%d and %d", i, j);
        }
    }
    CHECK(epf_prof_flow(0x10001, 2, EPF_PROF_FLOW_GEMM, 3) ==
              epf_prof_flow(1, 2, EPF_PROF_FLOW_GEMM, 3),
          "epochs come again after 2^16");
}

static void check_refused(void)
{
    static const epf_prof_config refused[] = {{-1, 1, 1},   {4096, 1, 1}, {0, 0, 1},
                                              {0, 4097, 1}, {0, 1, 0},    {0, 1, 1ull << 31},
                                              {0, -1, 1}};
    static const char *const bad[] = {"",     "a/b", "..",   ".hidden",  "-x",
                                      "a..b", "a b", "a\tb", "\303\251", "a\\b"};
    static const char *const good[] = {"a", "step_12", "v1.2-x", "A.b"};
    char longest[102];
    epf_prof *prof;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        CHECK(epf_prof_create(&refused[i], &prof) == EPF_E_INVALID && prof == NULL, "%zu", i);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(epf_prof_check_name(bad[i]) == EPF_E_INVALID, "\"%s\"", bad[i]);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        CHECK_OK(epf_prof_check_name(good[i]));
    }
    CHECK(epf_prof_check_name(NULL) == EPF_E_INVALID, "NULL");
    memset(longest, 'x', 101);
    longest[101] = '\0';
    CHECK(epf_prof_check_name(longest) == EPF_E_INVALID, "101 characters");
    longest[100] = '\0';
    CHECK_OK(epf_prof_check_name(longest));
}

static void check_no_memory(void)
{
    const epf_prof_config config = {0, 2, 100};
    epf_prof *prof;
    for (uint64_t nth = 1; nth <= 3; nth++) {
        epf_alloc_fail_at(nth);
        CHECK(epf_prof_create(&config, &prof) == EPF_E_NO_MEMORY && prof == NULL, "%d", (int)nth);
    }
    epf_alloc_fail_at(0);
}

int main(void)
{
    check_off();
    check_record();
    check_full();
    check_threads();
    check_flow_ids();
    check_refused();
    check_no_memory();
    return 0;
}
