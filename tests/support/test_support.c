/*
 * test_support: the tools of the tests can find what they are there to find.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/epf_check.h"
#include "support/epf_compare.h"
#include "support/epf_data.h"
#include "support/epf_rng.h"
#include "support/epf_runner.h"

static void test_round_trip(void)
{
    for (uint64_t number = 0; number < 2000; number++) {
        const epf_problem problem = epf_problem_random(number, 8);
        epf_problem again;
        char text[EPF_PROBLEM_TEXT];
        char text_again[EPF_PROBLEM_TEXT];
        char why[EPF_PROBLEM_TEXT];
        CHECK(epf_problem_parse(epf_problem_print(&problem, text), &again, why), "%s: %s", text,
              why);
        CHECK(strcmp(text, epf_problem_print(&again, text_again)) == 0, "%s became %s", text,
              text_again);
    }
}

static void test_bad_problems(void)
{
    static const char *const bad[] = {
        "",
        "W8",
        "W8E32K6T128H256N512",
        "W8E32K6T128H256N512/nowhere/seed7",
        "W8E32K6T128H256N512/zipf",
        "W8E32K6T128H256N512/zipf/seed",
        "W8E32K6T128H256N512/zipf/seed7x",
        "W8E32K6T128H256N512/zipf/seed7/fp64",
        "W8E32K6T128H256N512/zipf/seed7/",
        "W8E33K6T128H256N512/zipf/seed7",
        "W0E32K6T128H256N512/zipf/seed7",
        "W8E32K6T0H256N512/zipf/seed7",
        "W8E32K6T128H255N512/zipf/seed7",
        "W8E32K6T128H256N512C9/zipf/seed7",
        "W-8E32K6T128H256N512/zipf/seed7",
        "W8E32K6T99999999999999999999H256N512/zipf/seed7",
    };
    epf_problem problem;
    char why[EPF_PROBLEM_TEXT];

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        why[0] = '\0';
        CHECK(!epf_problem_parse(bad[i], &problem, why), "\"%s\" was accepted", bad[i]);
        CHECK(why[0] != '\0', "\"%s\" was refused without a reason", bad[i]);
    }
}

static epf_data *data_of(const char *text)
{
    const epf_problem problem = epf_problem_of(text);
    return epf_data_make(&problem);
}

/* Routings with a number in their name keep to it. */
static void test_zoo_claims(void)
{
    epf_data *data = data_of("W4E8K2T64H8N8M32/exact_tile/seed1");
    for (int32_t i = 0; i < 8; i++) {
        const int32_t rows = data->route.recv_buf_tokens_per_expert[i];
        CHECK(rows > 0 && rows % 32 == 0, "exact_tile: %d rows", rows);
    }
    epf_data_free(data);
    data = data_of("W4E8K2T40H8N8M32/tile_plus_one/seed1");
    for (int32_t i = 0; i < 8; i++) {
        const int32_t rows = data->route.recv_buf_tokens_per_expert[i];
        CHECK(rows % 33 == 0, "tile_plus_one: %d rows", rows);
    }
    epf_data_free(data);
    for (int32_t extra = -1; extra <= 1; extra++) {
        static const char *const names[] = {"minus_one", "equal", "plus_one"};
        char text[EPF_PROBLEM_TEXT];
        (void)snprintf(text, sizeof text, "W4E8K2T10H8N8C1.5/capacity_%s/seed1", names[extra + 1]);
        data = data_of(text);
        for (int32_t r = 1; r < 4; r++) {
            CHECK(data->route.num_recv_tokens_per_rank[r] <= 30 + extra, "%s: rank %d", text, r);
        }
        CHECK(data->route.num_recv_tokens_per_rank[0] == 30 + extra, "%s: %d rows", text,
              data->route.num_recv_tokens_per_rank[0]);
        epf_data_free(data);
    }
    data = data_of("W1E8K2T10H8N8C1/capacity_plus_one/seed1");
    CHECK(data == NULL, "one rank cannot receive more than all");
}

static void test_data(void)
{
    epf_data *data = data_of("W3E6K2T9H16N8/uneven_T_per_rank/seed4");
    epf_data *merged = epf_data_merge(data);
    int64_t first = 0;

    for (int32_t r = 0; r < 3; r++) { /* the same numbers, on whatever rank */
        const int64_t count = (int64_t)data->num_tokens[r] * 16;
        for (int64_t i = 0; i < count; i++) {
            CHECK(epf_ref_load(data->tokens[r], i) == epf_ref_load(merged->tokens[0], first + i),
                  "rank %d, element %lld", r, (long long)i);
        }
        first += count;
        for (int64_t n = 0; n < 8; n++) {
            CHECK(epf_ref_load(data->b1[r], n * 16 + 5) ==
                      epf_ref_load(data->b1_transposed[r], 5 * 8 + n),
                  "b1 transposed, column %lld", (long long)n);
        }
    }
    epf_data_free(merged);
    epf_data_free(data);
}

static void test_compare(void)
{
    epf_data *data = data_of("W2E4K2T4H8N8/uniform/seed1");
    const epf_ref_rank *rank = &data->route.ranks[0];
    const epf_compare what = {"rows", rank->num_rows, 8, rank};
    char text[EPF_COMPARE_TEXT] = "";
    char want[EPF_COMPARE_TEXT];
    epf_ref_matrix x;
    uint16_t *bits;

    CHECK(rank->num_rows > 2, "%d rows", rank->num_rows);
    CHECK_OK(epf_ref_dispatch(&data->route, 0, data->tokens, 8, &x));
    bits = epf_test_alloc((size_t)(x.rows * 8), sizeof *bits);
    epf_pack(EPF_DTYPE_BF16, x.value, x.rows * 8, bits);
    const epf_ref_tensor got = {bits, EPF_DTYPE_BF16};
    CHECK(epf_compare_exact(&what, got, &x, text), "%s", text);
    CHECK(epf_compare_bound(&what, got, &x, text), "%s", text);
    bits[2 * 8 + 3] ^= 1;
    CHECK(!epf_compare_exact(&what, got, &x, text), "a changed bit was not seen");
    (void)snprintf(want, sizeof want, "rows[2, 3] (expert %d, source %d, slot %d): got",
                   rank->rows[2].expert, rank->rows[2].source, rank->rows[2].slot);
    CHECK(strncmp(text, want, strlen(want)) == 0, "%s, want %s", text, want);
    CHECK(!epf_compare_bound(&what, got, &x, text), "a changed bit was within a bound of 0");
    free(bits);
    epf_ref_matrix_free(&x);
    epf_data_free(data);
}

/* user: [num_ranks] shared flags; rank 1 fails, rank 2 dies if it may, rank 3 sleeps. */
static void misbehave(epf_test_rank *rank)
{
    int32_t *seen = rank->user;

    seen[rank->rank] = rank->rank + 1;
    if (rank->rank == 1) {
        (void)epf_rank_fail(rank, __FILE__, __LINE__, "the reason");
        (void)epf_rank_fail(rank, __FILE__, __LINE__, "a later reason");
    }
    if (rank->processes && rank->rank == 2) {
        (void)raise(SIGKILL);
    }
    if (rank->processes && rank->rank == 3) {
        (void)sleep(30);
    }
}

static void test_runner(void)
{
    int32_t *seen = epf_shared_alloc(4 * sizeof *seen);
    epf_run run = {.num_ranks = 4, .function = misbehave, .user = seen, .timeout_s = 0.5};
    FILE *kept = stderr;
    FILE *text = tmpfile();
    char line[EPF_RUNNER_TEXT];

    CHECK(text != NULL, "tmpfile");
    stderr = text; /* the failures below are meant */
    const int32_t threads = epf_run_ranks(&run, "threads");
    run.processes = true;
    const int32_t processes = epf_run_ranks(&run, "processes");
    run.may_die = 1u << 2;
    const int32_t excused = epf_run_ranks(&run, "excused");
    stderr = kept;
    CHECK(threads == 1 && processes == 3 && excused == 2, "%d, %d, %d failures", threads, processes,
          excused);
    for (int32_t r = 0; r < 4; r++) {
        CHECK(seen[r] == r + 1, "rank %d did not run", r);
    }
    rewind(text);
    CHECK(fgets(line, sizeof line, text) != NULL && strstr(line, "threads: rank 1: ") != NULL &&
              strstr(line, "the reason") != NULL,
          "first line: %s", line);
    (void)fclose(text);
}

int main(void)
{
    test_round_trip();
    test_bad_problems();
    test_zoo_claims();
    test_data();
    test_compare();
    test_runner();
    return 0;
}
