/*
 * epf_svg_text.h: text and times as a picture shows them.
 */
#ifndef EPF_SVG_TEXT_H
#define EPF_SVG_TEXT_H

#include <stdio.h>

typedef struct epf_svg_unit {
    double ns;
    const char *name; /* UTF-8 */
} epf_svg_unit;

/* Writes text that anybody may have chosen: XML's special and control characters do not get
   through. */
void epf_svg_put_text(FILE *out, const char *text);

/* The largest unit of which `ns` has at least `least`. */
epf_svg_unit epf_svg_unit_for(double ns, double least);

/* Three digits and the unit. */
void epf_svg_format_time(char *text, size_t size, double ns);

/* The distance of an axis' ticks: 1, 2 or 5 times a power of ten, at most twelve of which fit. */
double epf_svg_tick_step(double whole);

#endif
