/*
 * epf_compare.h: comparison of tensors, to the bit or within bounds; the text of a difference says where
 * it is: row, column, and of which expert and source rank.
 */
#ifndef EPF_TEST_COMPARE_H
#define EPF_TEST_COMPARE_H

#include "reference/epf_reference.h"

enum { EPF_COMPARE_TEXT = 256 };

/* What is compared; rank tells expert and source of a row, NULL where rows are not received ones. */
typedef struct epf_compare {
    const char *name;
    int64_t rows, cols;
    const epf_ref_rank *rank;
} epf_compare;

/* memcmp of `dtype` elements.  False, and the first difference in `text`, if they differ. */
bool epf_compare_bits(const epf_compare *what, epf_dtype dtype, const void *got, const void *want,
                      char text[EPF_COMPARE_TEXT]);

/* The bits of `want`, rounded to the type of `got`. */
bool epf_compare_exact(const epf_compare *what, epf_ref_tensor got, const epf_ref_matrix *want,
                       char text[EPF_COMPARE_TEXT]);

/* |got - want| <= bound of want, for every element. */
bool epf_compare_bound(const epf_compare *what, epf_ref_tensor got, const epf_ref_matrix *want,
                       char text[EPF_COMPARE_TEXT]);

#endif
