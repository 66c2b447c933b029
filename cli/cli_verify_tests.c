/* cli_verify_tests.c: promises that test programs of the build tree show, run through CTest. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "base/epf_clock.h"
#include "cli_verify.h"

enum { COMMAND_BYTES = 8192, NAME_BYTES = 128, LONGEST_TEST_S = 7200, MOST_SAID = 100 };

/* What CTest said so far. */
typedef struct tally {
    uint64_t num_passed, num_skipped, num_failed;
    char failed[NAME_BYTES];  /* the first */
    char skipped[NAME_BYTES]; /* the first */
    char why[NAME_BYTES];     /* what it said */
    char said[VERIFY_LINE];   /* the running program's last line */
    char note[VERIFY_TEXT];   /* what programs said at their end */
    bool is_cut;              /* the time was over before the end */
} tally;

/* "  3/12 Test  #30: name ....   Passed    0.51 sec": the name, or false for any other line. */
static bool name_of(const char *line, char name[NAME_BYTES])
{
    const char *const test = strstr(line, "Test ");
    const char *const colon = test == NULL ? NULL : strstr(test, ": ");

    if (colon == NULL || strchr(line, '/') == NULL || strchr(line, '/') > test) {
        return false;
    }
    (void)snprintf(name, NAME_BYTES, "%.*s", (int)strcspn(colon + 2, " \n"), colon + 2);
    return name[0] != '\0';
}

/* "30: text" is a line of a program; CTest's own words about it begin with "Test " and "Working Directory". */
static bool take_said(tally *t, const char *line)
{
    const size_t digits = strspn(line, "0123456789");
    const char *const text = line + digits + 2;

    if (digits == 0 || strncmp(line + digits, ": ", 2) != 0) {
        return false;
    }
    if (*text != '\n' && strncmp(text, "Test ", 5) != 0 && strncmp(text, "Working ", 8) != 0) {
        (void)snprintf(t->said, sizeof t->said, "%.*s", (int)strcspn(text, "\n"), text);
    }
    return true;
}

/* Figures that a program prints as its last line are worth telling; rows of a table are not. */
static void add_note(tally *t)
{
    const size_t used = strlen(t->note);

    if (strpbrk(t->said, "0123456789") != NULL && strstr(t->said, "   ") == NULL &&
        strlen(t->said) <= MOST_SAID && used + strlen(t->said) + 3 < sizeof t->note) {
        (void)snprintf(t->note + used, sizeof t->note - used, "%s%.*s", used > 0 ? "; " : "",
                       (int)MOST_SAID, t->said);
    }
}

static void count_line(tally *t, const char *line)
{
    char name[NAME_BYTES];

    if (take_said(t, line) || !name_of(line, name)) {
        return;
    }
    if (strstr(line, " Passed ") != NULL) {
        t->num_passed++;
        add_note(t);
    } else if (strstr(line, "***Skipped") != NULL || strstr(line, "***Not Run") != NULL) {
        if (t->num_skipped++ == 0) {
            memcpy(t->skipped, name, NAME_BYTES);
            (void)snprintf(t->why, sizeof t->why, "%.*s", (int)sizeof t->why - 1, t->said);
        }
    } else if (strstr(line, "***") != NULL) {
        if (t->num_failed++ == 0) {
            memcpy(t->failed, name, NAME_BYTES);
        }
    } else {
        return;
    }
    t->said[0] = '\0';
}

/* False where the path cannot stand between quotes of the shell. */
static bool make_command(const verify_promise *p, const verify_run *run, bool nightly,
                         char *command)
{
    const int length =
        snprintf(command, COMMAND_BYTES,
                 "exec ctest -V --test-dir '%s' -R '%s' %s nightly --timeout %d --no-tests=ignore "
                 "2>/dev/null",
                 run->tests_dir, p->tests, nightly ? "-L" : "-LE", LONGEST_TEST_S);
    return strchr(run->tests_dir, '\'') == NULL && length > 0 && length < COMMAND_BYTES;
}

/* To the note, if there are any. */
static void add_words(tally *t, const char *words, const char *name)
{
    const size_t used = strlen(t->note);

    if (words[0] != '\0') {
        (void)snprintf(t->note + used, sizeof t->note - used, "%s%s%s", used > 0 ? ", " : "", words,
                       name);
    }
}

static void conclude(const verify_promise *p, verify_run *run, tally *t)
{
    if (t->num_failed > 0) {
        verify_fail(run, "%s failed (%d of them)", t->failed, (int)t->num_failed);
    } else if (t->num_passed == 0 && t->num_skipped > 0) {
        verify_skip(run, "%s: %s", t->skipped,
                    t->why[0] != '\0' ? t->why : "skipped, as all others");
    } else if (t->num_passed == 0 && !t->is_cut) {
        verify_skip(run, "no test program matches %s in %s", p->tests, run->tests_dir);
    }
    if (t->num_passed > 0) {
        add_words(t, t->num_skipped > 0 ? "without " : "", t->num_skipped > 0 ? t->skipped : "");
        add_words(t, t->is_cut ? "stopped before the end" : "", "");
        verify_note(run, "%s", t->note);
    }
}

/* Only interrupts a read, so that a program without words does not outlast the time given. */
static void wake(int signal_number)
{
    (void)signal_number;
}

void verify_wake_every_second(void)
{
    const struct itimerval second = {{1, 0}, {1, 0}};
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = wake;
    (void)sigaction(SIGALRM, &action, NULL);
    (void)setitimer(ITIMER_REAL, &second, NULL);
}

bool verify_next_line(const verify_run *run, FILE *pipe, char line[VERIFY_LINE], bool *is_cut)
{
    do {
        *is_cut = epf_now_ns() >= run->deadline_ns;
        errno = 0;
        if (!*is_cut && fgets(line, VERIFY_LINE, pipe) != NULL) {
            return true;
        }
        clearerr(pipe);
    } while (errno == EINTR && !*is_cut);
    return false;
}

/* False where CTest cannot be run. */
static bool run_ctest(const verify_promise *p, verify_run *run, bool nightly, tally *t)
{
    char command[COMMAND_BYTES];
    char line[VERIFY_LINE];
    FILE *pipe;

    if (!make_command(p, run, nightly, command) || (pipe = popen(command, "r")) == NULL) {
        return false;
    }
    while (verify_next_line(run, pipe, line, &t->is_cut)) {
        const uint64_t before = t->num_passed;
        count_line(t, line);
        verify_done(run, t->num_passed - before);
        verify_beat(run);
    }
    if (!t->is_cut) {
        (void)pclose(pipe);
    } /* else CTest ends with this process's group */
    return true;
}

void verify_tests(const verify_promise *p, verify_run *run)
{
    tally t = {.num_passed = 0};

    if (run->tests_dir == NULL) {
        verify_skip(run, "no build tree with test programs beside the command (--tests-dir)");
        return;
    }
    verify_wake_every_second();
    if (!run_ctest(p, run, false, &t) ||
        (run->is_full && !t.is_cut && !run_ctest(p, run, true, &t))) {
        verify_skip(run, "ctest cannot be run in %s", run->tests_dir);
        return;
    }
    conclude(p, run, &t);
}
