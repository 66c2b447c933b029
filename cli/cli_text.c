/* cli_text.c: numbers, bars and colours for people. */
#include "cli_text.h"

#include <langinfo.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool cli_has_utf8(void)
{
    return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

/* Eighths of a column, from the left and from the bottom. */
static const char *const left_blocks[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
static const char *const low_blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
static const char *const low_ascii[] = {" ", ".", ":", "-", "=", "+", "*", "%", "#"};

static void append(char out[CLI_BAR_BYTES], const char *piece)
{
    const size_t used = strlen(out);
    if (used + strlen(piece) < CLI_BAR_BYTES) {
        memcpy(out + used, piece, strlen(piece) + 1);
    }
}

const char *cli_bar(double value, double whole, int width, char out[CLI_BAR_BYTES])
{
    const double share = whole > 0 ? value / whole : 0;
    int eighths = (int)lround(share * width * 8);

    eighths = eighths > width * 8 ? width * 8 : eighths;
    out[0] = '\0';
    for (int i = 0; i < width; i++) {
        const int left = eighths - i * 8;
        const int part = left >= 8 ? 8 : left > 0 ? left : 0;
        if (cli_has_utf8()) {
            append(out, left_blocks[part]);
        } else {
            append(out, part >= 4 || (i == 0 && part > 0) ? "#" : " ");
        }
    }
    return out;
}

const char *cli_spark(const int32_t *values, int32_t count, int32_t most, char out[CLI_BAR_BYTES])
{
    const int32_t per_column = (count + CLI_SPARK_COLUMNS - 1) / CLI_SPARK_COLUMNS;

    out[0] = '\0';
    most = most > 0 ? most : 1;
    for (int32_t i = 0; i < count; i += per_column) {
        int32_t largest = 0;
        for (int32_t k = i; k < i + per_column && k < count; k++) {
            largest = values[k] > largest ? values[k] : largest;
        }
        /* the least that is not nothing still shows */
        append(out,
               (cli_has_utf8() ? low_blocks : low_ascii)[((int64_t)largest * 8 + most - 1) / most]);
    }
    return out;
}

void cli_line(const char *format, ...)
{
    char text[2 * CLI_BAR_BYTES + 256];
    size_t length;
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (length = strlen(text); length > 0 && text[length - 1] == ' ';) {
        length--;
    }
    printf("%.*s\n", (int)length, text);
}

const char *cli_time(double seconds, char out[CLI_NUMBER_BYTES])
{
    static const char *const units[] = {"s", "ms", "us", "ns"};
    int unit = 0;
    while (unit < 3 && seconds < 1) {
        seconds *= 1000;
        unit++;
    }
    (void)snprintf(out, CLI_NUMBER_BYTES, "%.3g %s", seconds, units[unit]);
    if (seconds >= 999.5) {
        (void)snprintf(out, CLI_NUMBER_BYTES, "%.0f %s", seconds, units[unit]);
    }
    return out;
}

const char *cli_bytes(double bytes, char out[CLI_NUMBER_BYTES])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    while (unit < 4 && bytes >= 1024) {
        bytes /= 1024;
        unit++;
    }
    (void)snprintf(out, CLI_NUMBER_BYTES, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes,
                   units[unit]);
    return out;
}

const char *cli_si(double value, const char *unit, char out[CLI_NUMBER_BYTES])
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P"};
    int prefix = 0;
    while (prefix < 5 && value >= 1000) {
        value /= 1000;
        prefix++;
    }
    (void)snprintf(out, CLI_NUMBER_BYTES, value >= 100 ? "%.0f %s%s" : "%.3g %s%s", value,
                   prefixes[prefix], unit);
    return out;
}

static bool has_colours(void)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    return (no_color == NULL || no_color[0] == '\0') && term != NULL && strcmp(term, "dumb") != 0 &&
           isatty(STDOUT_FILENO) == 1;
}

const char *cli_green(void)
{
    return has_colours() ? "\033[32m" : "";
}

const char *cli_red(void)
{
    return has_colours() ? "\033[31m" : "";
}

const char *cli_bold(void)
{
    return has_colours() ? "\033[1m" : "";
}

const char *cli_plain(void)
{
    return has_colours() ? "\033[0m" : "";
}

void cli_progress(const char *format, ...)
{
    va_list args;

    if (isatty(STDERR_FILENO) != 1) {
        return;
    }
    fprintf(stderr, "\r\033[K");
    if (format != NULL) {
        va_start(args, format);
        (void)vfprintf(stderr, format, args);
        va_end(args);
    }
    (void)fflush(stderr);
}
