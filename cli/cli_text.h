/* cli_text.h: numbers, bars and colours for people. */
#ifndef EPF_CLI_TEXT_H
#define EPF_CLI_TEXT_H

#include <stdbool.h>
#include <stdint.h>

enum { CLI_NUMBER_BYTES = 32, CLI_BAR_BYTES = 512, CLI_SPARK_COLUMNS = 64 };

/* Whether stdout takes block characters: the locale is UTF-8. */
bool cli_has_utf8(void);

/* A bar of at most `width` columns for value / whole, padded to `width`. */
const char *cli_bar(double value, double whole, int width, char out[CLI_BAR_BYTES]);

/* One column per value, `most` the full height; where there are more than CLI_SPARK_COLUMNS,
 * neighbours share a column and show their largest. */
const char *cli_spark(const int32_t *values, int32_t count, int32_t most, char out[CLI_BAR_BYTES]);

/* Prints one line to stdout, without the blanks that a bar leaves at its end. */
void cli_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* "1.23 ms", "45.6 us"; "12.3 MiB"; "1.23 G" with the given unit. */
const char *cli_time(double seconds, char out[CLI_NUMBER_BYTES]);
const char *cli_bytes(double bytes, char out[CLI_NUMBER_BYTES]);
const char *cli_si(double value, const char *unit, char out[CLI_NUMBER_BYTES]);

/* Escape sequences on a terminal that wants colours (NO_COLOR, TERM=dumb), else "". */
const char *cli_green(void);
const char *cli_red(void);
const char *cli_bold(void);
const char *cli_plain(void);

/* One line on stderr that the next one overwrites; nothing unless stderr is a terminal.  NULL
 * clears the line. */
void cli_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
