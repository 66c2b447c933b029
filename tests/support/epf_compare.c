#include "support/epf_compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/epf_check.h"
#include "support/epf_data.h"

/* Writes "name[row, column] (expert e, source s): " and returns what is left of the text. */
static char *describe(const epf_compare *what, int64_t at, char text[EPF_COMPARE_TEXT])
{
    const int64_t row = at / what->cols;
    int length = snprintf(text, EPF_COMPARE_TEXT, "%s[%lld, %lld]", what->name, (long long)row,
                          (long long)(at % what->cols));

    if (what->rank != NULL && row < what->rank->num_rows) {
        const epf_ref_row *from = &what->rank->rows[row];
        length +=
            snprintf(text + length, (size_t)(EPF_COMPARE_TEXT - length),
                     " (expert %d, source %d, slot %d)", from->expert, from->source, from->slot);
    }
    return text + length;
}

/* Elements as text: integers as they are, floats with their bits. */
static void print_element(epf_dtype dtype, const void *element, char text[48])
{
    uint32_t bits = 0;

    if (dtype == EPF_DTYPE_I32) {
        int32_t value;
        memcpy(&value, element, sizeof value);
        (void)snprintf(text, 48, "%d", value);
        return;
    }
    memcpy(&bits, element, epf_element_bytes(dtype));
    (void)snprintf(text, 48, "%.9g (0x%x)", epf_ref_load((epf_ref_tensor){element, dtype}, 0),
                   bits);
}

bool epf_compare_bits(const epf_compare *what, epf_dtype dtype, const void *got, const void *want,
                      char text[EPF_COMPARE_TEXT])
{
    const size_t size = epf_element_bytes(dtype);
    const char *g = got;
    const char *w = want;
    char got_text[48];
    char want_text[48];
    char *end;
    size_t at = 0;

    if (what->rows * what->cols == 0 ||
        memcmp(g, w, (size_t)(what->rows * what->cols) * size) == 0) {
        return true;
    }
    while (memcmp(g + at * size, w + at * size, size) == 0) {
        at++;
    }
    print_element(dtype, g + at * size, got_text);
    print_element(dtype, w + at * size, want_text);
    end = describe(what, (int64_t)at, text);
    (void)snprintf(end, (size_t)(text + EPF_COMPARE_TEXT - end), ": got %s, want %s", got_text,
                   want_text);
    return false;
}

bool epf_compare_exact(const epf_compare *what, epf_ref_tensor got, const epf_ref_matrix *want,
                       char text[EPF_COMPARE_TEXT])
{
    const int64_t count = want->rows * want->cols;
    void *packed = epf_test_alloc((size_t)count, epf_element_bytes(got.dtype));
    bool same;

    CHECK(want->rows == what->rows && want->cols == what->cols, "%s: the shapes differ",
          what->name);
    epf_pack(got.dtype, want->value, count, packed);
    same = epf_compare_bits(what, got.dtype, got.data, packed, text);
    free(packed);
    return same;
}

bool epf_compare_bound(const epf_compare *what, epf_ref_tensor got, const epf_ref_matrix *want,
                       char text[EPF_COMPARE_TEXT])
{
    CHECK(want->rows == what->rows && want->cols == what->cols, "%s: the shapes differ",
          what->name);
    for (int64_t at = 0; at < want->rows * want->cols; at++) {
        const double value = epf_ref_load(got, at);
        const double error = fabs(value - want->value[at]);
        if (!(error <= want->bound[at])) { /* a NaN is not within */
            char *end = describe(what, at, text);
            (void)snprintf(end, (size_t)(text + EPF_COMPARE_TEXT - end),
                           ": got %.9g, want %.9g, error %.3g above the bound %.3g", value,
                           want->value[at], error, want->bound[at]);
            return false;
        }
    }
    return true;
}
