/*
 * test_verify: the command's own machinery: a promise that holds passes, and one that is broken in any way,
 * by its own words, a crash, an exit or by standing still, is counted and named as failed; what was not run
 * is never claimed.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli_verify.h"
#include "support/epf_check.h"

static void holds(const verify_promise *promise, verify_run *run)
{
    (void)promise;
    while (verify_more(run)) {
        verify_done(run, 1);
    }
    verify_note(run, "a note");
}

static void breaks(const verify_promise *promise, verify_run *run)
{
    (void)promise;
    verify_done(run, 2);
    verify_fail(run, "number %d is wrong", 2);
    verify_fail(run, "and another");
}

static void crashes(const verify_promise *promise, verify_run *run)
{
    (void)promise;
    verify_done(run, 3);
    (void)raise(SIGKILL);
}

static void ends(const verify_promise *promise, verify_run *run)
{
    (void)promise;
    (void)run;
    exit(3);
}

static void hangs(const verify_promise *promise, verify_run *run)
{
    (void)promise;
    verify_done(run, 1);
    for (;;) {
        (void)pause();
    }
}

static void cannot(const verify_promise *promise, verify_run *run)
{
    (void)promise;
    verify_skip(run, "no such thing here");
}

/* Ten a second. */
static void is_slow(const verify_promise *promise, verify_run *run)
{
    const struct timespec pause = {0, 100000000};

    (void)promise;
    while (verify_more(run)) {
        (void)nanosleep(&pause, NULL);
        verify_done(run, 1);
    }
}

static const verify_promise table[] = {
    {"holds", "it holds", "things", 2000, 1000, holds, NULL, 0},
    {"breaks", "it breaks", "things", 2000, 1000, breaks, NULL, 0},
    {"crashes", "it crashes", "things", 2000, 1000, crashes, NULL, 0},
    {"ends", "it ends", "things", 2000, 1000, ends, NULL, 0},
    {"hangs", "it hangs", "things", 2000, 1000, hangs, NULL, 1},
    {"cannot", "it cannot be run", "things", 2000, 1000, cannot, NULL, 0},
    {"slow", "it is slow", "things", 1000, 1000, is_slow, NULL, 0},
    {"absent", "it is not built in", "things", 2000, 1000, NULL, NULL, 0},
    {"programs", "by programs", "programs", 0, 0, verify_tests, "^nothing matches this$", 0},
};

enum { NUM_PROMISES = sizeof table / sizeof table[0] };

static const char *run_table(const verify_options *options, verify_report *report)
{
    static char text[16384];
    FILE *const out = fmemopen(text, sizeof text - 1, "w");

    memset(text, 0, sizeof text);
    CHECK(out != NULL, "fmemopen");
    CHECK_OK(verify_all(table, NUM_PROMISES, options, out, report));
    (void)fclose(out);
    return text;
}

static void expect(const char *text, const char *part)
{
    CHECK(strstr(text, part) != NULL, "no \"%s\" in:\n%s", part, text);
}

static void test_all_kinds(void)
{
    const verify_options share = {.seed = 7, .seconds = 1};
    verify_report report;
    const char *const text = run_table(&share, &report);

    expect(text, "holds        ok      it holds: 1,000 of 2,000 things, a note, seed 7");
    expect(text, "breaks       FAILED  it breaks: 2 of 2,000 things");
    expect(text, ": number 2 is wrong\n");
    expect(text, "crashes      FAILED");
    expect(text, "ended by signal 9 after 3\n");
    expect(text, "ends         FAILED");
    expect(text, "ended with exit code 3 after 0\n");
    expect(text, "hangs        FAILED");
    expect(text, "no sign of life for 1 s after 1\n");
    expect(text, "cannot       skipped it cannot be run: no such thing here\n");
    expect(text, "absent       skipped it is not built in: built without the tests");
    expect(text, "programs     skipped by programs: no build tree");
    expect(text, "2 passed, 4 failed, 3 skipped\n");
    expect(text, "slow         ok      it is slow: ");
    expect(text, " of 1,000 things, seed 7");
    CHECK(report.num_passed == 2 && report.num_failed == 4 && report.num_skipped == 3, "sum");
}

static void test_chosen(void)
{
    const verify_options full = {.is_full = true, .only = {"holds"}, .num_only = 1, .seed = 1};
    const verify_options list = {.only_list = true};
    verify_report report;
    const char *text = run_table(&full, &report);

    expect(text, "it holds: 2,000 things, a note");
    expect(text, "\n1 passed, 0 failed, 0 skipped\n");
    text = run_table(&list, &report);
    expect(text, "holds        it holds: 2,000 things with --all, else 1,000\n");
    CHECK(strstr(text, "passed") == NULL, "a list runs nothing");
}

int main(void)
{
    char number[32];

    CHECK(strcmp(verify_number(0, number), "0") == 0 &&
              strcmp(verify_number(999, number), "999") == 0 &&
              strcmp(verify_number(1000, number), "1,000") == 0 &&
              strcmp(verify_number(1234567, number), "1,234,567") == 0,
          "numbers");
    test_all_kinds();
    test_chosen();
    return 0;
}
