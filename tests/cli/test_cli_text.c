/* test_cli_text: bars and numbers as people read them, at the edges of their units and widths. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_text.h"
#include "support/epf_check.h"

static void check(const char *got, const char *want)
{
    CHECK(strcmp(got, want) == 0, "\"%s\", want \"%s\"", got, want);
}

static void check_numbers(void)
{
    char out[CLI_NUMBER_BYTES];

    check(cli_time(0, out), "0 ns");
    check(cli_time(1e-9, out), "1 ns");
    check(cli_time(0.0123, out), "12.3 ms");
    check(cli_time(0.9996, out), "1000 ms");
    check(cli_time(12345, out), "12345 s");
    check(cli_bytes(0, out), "0 B");
    check(cli_bytes(1023, out), "1023 B");
    check(cli_bytes(1536, out), "1.5 KiB");
    check(cli_bytes(2.0 * (1ull << 50), out), "2048 TiB");
    check(cli_si(999, "B/s", out), "999 B/s");
    check(cli_si(1500, "B/s", out), "1.5 kB/s");
    check(cli_si(2e20, "FLOP", out), "200000 PFLOP");
}

static void check_bars(void)
{
    char out[CLI_BAR_BYTES];
    int32_t values[3 * CLI_SPARK_COLUMNS + 1] = {0};

    CHECK(strspn(cli_bar(1, 0, 4, out), " ") == strlen(out), "a share of nothing: \"%s\"", out);
    (void)cli_bar(5, 1, 4, out);
    CHECK(strlen(out) > 0 && strchr(out, ' ') == NULL, "more than all: \"%s\"", out);
    (void)cli_bar(1, 1, CLI_BAR_BYTES, out);
    CHECK(strlen(out) < CLI_BAR_BYTES, "a bar of %zu bytes", strlen(out));
    CHECK(strspn(cli_spark(values, 3, 0, out), " ") == strlen(out), "zeros: \"%s\"", out);
    values[3 * CLI_SPARK_COLUMNS] = 7; /* the last column has fewer values */
    (void)cli_spark(values, 3 * CLI_SPARK_COLUMNS + 1, 7, out);
    CHECK(strlen(out) > 0 && out[strlen(out) - 1] != ' ', "the last column: \"%s\"", out);
    cli_line("%s", "");
    cli_line("%s", "ends with blanks   ");
}

/* Not on a terminal: never colours, whatever the environment says. */
static void check_colours(void)
{
    static const char *const terms[] = {"xterm", "dumb", NULL};
    static const char *const no_colors[] = {NULL, "", "1"};

    for (size_t t = 0; t < 3; t++) {
        for (size_t n = 0; n < 3; n++) {
            CHECK((terms[t] == NULL ? unsetenv("TERM") : setenv("TERM", terms[t], 1)) == 0, "TERM");
            CHECK((no_colors[n] == NULL ? unsetenv("NO_COLOR")
                                        : setenv("NO_COLOR", no_colors[n], 1)) == 0,
                  "NO_COLOR");
            check(cli_green(), "");
            check(cli_red(), "");
        }
    }
}

int main(void)
{
    FILE *const out = freopen("test_cli_text.out", "w", stdout);

    CHECK(out != NULL, "freopen");
    check_numbers();
    check_bars();
    check_colours();
    return 0;
}
