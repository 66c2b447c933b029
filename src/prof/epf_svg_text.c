/* epf_svg_text.c: see epf_svg_text.h. */
#include "prof/epf_svg_text.h"

#include <math.h>

void epf_svg_put_text(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        default:
            fputc((unsigned char)*text < 0x20 ? ' ' : *text, out);
            break;
        }
    }
}

epf_svg_unit epf_svg_unit_for(double ns, double least)
{
    static const epf_svg_unit units[] = {{1, "ns"}, {1e3, "\302\265s"}, {1e6, "ms"}, {1e9, "s"}};
    size_t i = 0;
    while (i + 1 < sizeof units / sizeof units[0] && ns >= least * units[i + 1].ns) {
        i++;
    }
    return units[i];
}

void epf_svg_format_time(char *text, size_t size, double ns)
{
    const epf_svg_unit unit = epf_svg_unit_for(ns, 1);
    (void)snprintf(text, size, "%.3g %s", ns / unit.ns, unit.name);
}

double epf_svg_tick_step(double whole)
{
    const double raw = whole / 12;
    const double power = pow(10, floor(log10(raw)));
    const double factor = raw / power;
    return power * (factor <= 1 ? 1 : factor <= 2 ? 2 : factor <= 5 ? 5 : 10);
}
