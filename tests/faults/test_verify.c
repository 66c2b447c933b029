/*
 * test_verify: the command's own machinery: a promise that holds passes, and one that is broken in any way,
 * by its own words, a crash, an exit or by standing still, is counted and named as failed; what was not run
 * is never claimed.  Promises that programs show are tried on programs that say whatever is wanted.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

static const char *run_promises(const verify_promise *promises, int32_t count,
                                const verify_options *options, verify_report *report)
{
    static char text[16384];
    FILE *const out = fmemopen(text, sizeof text - 1, "w");

    memset(text, 0, sizeof text);
    CHECK(out != NULL, "fmemopen");
    CHECK_OK(verify_all(promises, count, options, out, report));
    (void)fclose(out);
    return text;
}

static const char *run_table(const verify_options *options, verify_report *report)
{
    return run_promises(table, NUM_PROMISES, options, report);
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

/* ---- programs ---- */

static const verify_promise by_programs[] = {
    {"well", "both pass", "programs", 0, 0, verify_tests, "well", 0},
    {"one_fails", "one fails", "programs", 0, 0, verify_tests, "fails", 0},
    {"some", "one is not there", "programs", 0, 0, verify_tests, "some", 0},
    {"not_here", "all are skipped", "programs", 0, 0, verify_tests, "nothere", 0},
    {"silent", "no word", "programs", 0, 0, verify_tests, "silent", 0},
    {"endless", "it takes for ever", "programs", 0, 0, verify_tests, "endless", 0},
    {"simulator", "seeds", "runs", 3000, 1200, verify_simulator, NULL, 0},
    {"fuzz", "inputs", "runs", 2000000, 1200, verify_fuzz, NULL, 0},
    {"clean", "memory", "programs", VERIFY_CLEAN_FULL, VERIFY_CLEAN_SHARE, verify_clean, NULL, 0},
};

enum { NUM_BY_PROGRAMS = sizeof by_programs / sizeof by_programs[0] };

/* What CTest prints with -V, by the regular expression that it is asked for. */
static const char fake_ctest[] =
    "case \"$*\" in\n"
    "*nightly*-LE*|*'-L nightly'*) echo '9/9 Test #9: long .... Passed 9 sec';;\n"
    "*well*) printf '7: 12 cases\\n1/2 Test #7: a.b ...   Passed    0.5 sec\\n8: Test timeout\\n"
    "8: Working Directory: /x/1\\n"
    "8: a   table 1\\n 2/2 Test #8: c ....   Passed    0.5 sec\\nx: Test y: z\\n';;\n"
    "*fails*) printf '1/2 Test #7: a ... Passed 1 sec\\n2/2 Test #8: broken ...***Failed 1 "
    "sec\\n';;\n"
    "*some*) printf '1/2 Test #7: a ... Passed 1 sec\\n2/2 Test #8: away ...***Skipped 1 "
    "sec\\n';;\n"
    "*nothere*) printf '8: no tool\\n1/1 Test #8: away ...***Skipped 1 sec\\n';;\n"
    "*endless*) printf '1/2 Test #7: a ... Passed 1 sec\\n'; exec sleep 60;;\n"
    "esac\n";

/* An executable script of the shell. */
static void put_script(const char *path, const char *text)
{
    FILE *const file = fopen(path, "w");

    CHECK(file != NULL && fprintf(file, "#!/bin/sh\n%s\n", text) > 0 && fclose(file) == 0 &&
              chmod(path, 0700) == 0,
          "%s", path);
}

/* All fuzz targets of the tree say this. */
static void put_targets(const char *text)
{
    static const char *const names[] = {"safetensors", "index", "config", "npy", "trace", "frames"};
    char path[64];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)snprintf(path, sizeof path, "tree/fuzz/fuzz_%s", names[i]);
        put_script(path, text);
    }
}

static const char *run_programs(bool is_full, const char *tests_dir, verify_report *report)
{
    const verify_options options = {
        .is_full = is_full, .seed = 1, .seconds = 1, .tests_dir = tests_dir};
    return run_promises(by_programs, NUM_BY_PROGRAMS, &options, report);
}

static void test_programs(void)
{
    char path[4096];
    const char *text;
    verify_report report;

    CHECK(system("rm -rf tree && mkdir -p tree/bin tree/tests/sim tree/tests/model tree/tests/prof "
                 "tree/tests/hostile tree/fuzz") == 0,
          "folders");
    (void)snprintf(path, sizeof path, "%s/tree/bin:%s", getcwd(path + 2048, 2048), getenv("PATH"));
    CHECK(setenv("PATH", path, 1) == 0, "PATH");
    put_script("tree/bin/ctest", fake_ctest);
    put_script("tree/bin/valgrind", "exit 0");
    text = run_programs(false, "tree", &report);
    expect(text, "well         ok      both pass: 2 programs, 12 cases, ");
    CHECK(strstr(text, "Directory") == NULL, "CTest's own words:\n%s", text);
    expect(text, "one_fails    FAILED  one fails: 1 programs");
    expect(text, "broken failed (1 of them)");
    expect(text, "some         ok      one is not there: 1 programs, without away");
    expect(text, "not_here     skipped all are skipped: away: no tool");
    expect(text, "silent       skipped no word: no test program matches silent in tree");
    expect(text, "endless      ok      it takes for ever: 1 programs, stopped before the end");
    expect(text, "simulator    skipped seeds: no tests/sim/test_sim in tree");
    expect(text, "fuzz         skipped inputs: no fuzz/fuzz_safetensors in tree");
    expect(text, "clean        skipped memory: no tests/model/test_array in tree");

    put_script("tree/tests/sim/test_sim", "echo one; echo $2 passed, 0 failed");
    put_script("tree/tests/model/test_array", "");
    put_script("tree/tests/prof/test_prof_buffer", "");
    put_script("tree/tests/hostile/test_hostile_npy", "");
    put_targets("echo INFO; echo stat::number_of_executed_units: 1200");
    text = run_programs(false, "tree", &report);
    expect(text, "fuzz         ok      inputs: 1,200 of 2,000,000 runs, 6 readers");
    expect(text, "simulator    ok      seeds: 1,200 of 3,000 runs, up to 4 ranks");
    expect(text, "clean        ok      memory: 3 of 17 programs, with the portable product");

    put_script("tree/tests/sim/test_sim", "echo seed 7 stands; echo 499 passed, 1 failed; exit 1");
    put_targets("echo stat::number_of_executed_units: 9; echo SUMMARY: overflow; exit 1");
    put_script("tree/bin/valgrind", "echo 'Invalid read of size 4'; exit 9");
    text = run_programs(true, "tree", &report);
    expect(text, "well         ok      both pass: 3 programs");
    expect(text, "tests/sim/test_sim 1 500: 1 failed: seed 7 stands\n");
    expect(text, "safetensors: SUMMARY: overflow\n");
    expect(text, "tests/model/test_array: Invalid read of size 4\n");

    put_script("tree/tests/sim/test_sim", "exec sleep 60");
    CHECK(unlink("tree/bin/valgrind") == 0 && setenv("PATH", "tree/bin:/nowhere", 1) == 0, "PATH");
    text = run_programs(false, "it's", &report);
    expect(text, "well         skipped both pass: ctest cannot be run in it's");
    text = run_programs(false, "tree", &report);
    expect(text, "clean        skipped memory: no valgrind here");
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
    test_programs();
    return 0;
}
