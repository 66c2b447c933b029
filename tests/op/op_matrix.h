/*
 * op_matrix.h: tensors of the tests, in the space of the chosen backend (support/epf_space.h), with
 * canaries: rows behind the last one and, if wanted, columns behind the last one, which no call may touch.
 */
#ifndef OP_MATRIX_H
#define OP_MATRIX_H

#include "epfuse/epfuse.h"
#include "support/epf_compare.h"
#include "support/epf_runner.h"

typedef struct op_matrix {
    epf_tensor tensor; /* [rows + guard, cols]: more rows than a call writes */
    int64_t rows, cols, stride;
    epf_dtype dtype;
} op_matrix;

/* What is done to a matrix: the canaries wanted. */
typedef struct op_guard {
    int64_t rows; /* behind the last, inside the tensor's shape      */
    int64_t cols; /* behind the last, between two rows               */
} op_guard;

/* All canaries. */
op_matrix op_matrix_make(int64_t rows, int64_t cols, epf_dtype dtype, op_guard guard);
/* A copy of contiguous elements, without row guard. */
op_matrix op_matrix_of(epf_ref_tensor source, int64_t rows, int64_t cols, int64_t guard_cols);
void op_matrix_free(op_matrix *matrix);

/* A copy on the host of all elements, gaps and guard rows included; freed by the caller. */
void *op_matrix_fetch(const op_matrix *matrix);
/* The other way. */
void op_matrix_store(const op_matrix *matrix, const void *elements);

/* The first `rows` rows of a tensor of one or two dimensions, contiguous; freed by the caller. */
void *op_fetch(const epf_tensor *tensor, int64_t rows);
/* Contiguous rows into a tensor, which may be strided. */
void op_store(const epf_tensor *tensor, const void *rows, int64_t num_rows);

/* A one-dimensional tensor of the first `count` elements of a [count, 1] matrix, guard rows included. */
epf_tensor op_matrix_vector(const op_matrix *matrix);

/* A contiguous tensor on memory of the test; data may be NULL. */
epf_tensor op_tensor(const void *data, epf_dtype dtype, int64_t rows, int64_t cols);
epf_tensor op_tensor3(const void *data, epf_dtype dtype, int64_t a, int64_t b, int64_t c);
epf_tensor op_vector(const void *data, epf_dtype dtype, int64_t count);
/* The same elements, seen as [a, b, c]. */
epf_tensor op_reshape3(epf_tensor tensor, int64_t a, int64_t b, int64_t c);

/* Whether the guards are as they were made. */
bool op_check_guard(epf_test_rank *rank, const char *name, const op_matrix *matrix);

typedef struct op_want {
    const char *name;
    const epf_ref_matrix *matrix;
    const epf_ref_rank *rank; /* of received rows, or NULL           */
    bool exact;               /* to the bit; else within the bound   */
} op_want;

/* The first want->matrix->rows rows of a tensor of one or two dimensions. */
bool op_check_tensor(epf_test_rank *rank, const epf_tensor *got, const op_want *want);

#endif
