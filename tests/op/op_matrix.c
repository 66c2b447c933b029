#include "op_matrix.h"

#include <stdlib.h>
#include <string.h>

#include "support/epf_check.h"
#include "support/epf_data.h"
#include "support/epf_space.h"

enum { CANARY = 0xa5 };

static epf_tensor make_tensor(const void *data, epf_dtype dtype, int32_t ndim, const int64_t *shape)
{
    epf_tensor tensor;

    CHECK_OK(epf_tensor_make(&tensor, (void *)(uintptr_t)data, dtype, ndim, shape));
    return tensor;
}

epf_tensor op_tensor(const void *data, epf_dtype dtype, int64_t rows, int64_t cols)
{
    const int64_t shape[] = {rows, cols};
    return make_tensor(data, dtype, 2, shape);
}

epf_tensor op_tensor3(const void *data, epf_dtype dtype, int64_t a, int64_t b, int64_t c)
{
    const int64_t shape[] = {a, b, c};
    return make_tensor(data, dtype, 3, shape);
}

epf_tensor op_vector(const void *data, epf_dtype dtype, int64_t count)
{
    return make_tensor(data, dtype, 1, &count);
}

epf_tensor op_reshape3(epf_tensor tensor, int64_t a, int64_t b, int64_t c)
{
    return op_tensor3(tensor.data, (epf_dtype)tensor.dtype, a, b, c);
}

static size_t matrix_bytes(const op_matrix *m)
{
    return (size_t)m->tensor.shape[0] * (size_t)m->stride * epf_element_bytes(m->dtype);
}

/* Filled on the host: a device's memory is written by copies alone. */
static op_matrix make_filled(int64_t rows, int64_t cols, epf_dtype dtype, op_guard guard,
                             const void *source)
{
    const size_t size = epf_element_bytes(dtype);
    op_matrix m = {.rows = rows, .cols = cols, .stride = cols + guard.cols, .dtype = dtype};
    const size_t bytes = (size_t)(rows + guard.rows) * (size_t)m.stride * size;
    char *elements = epf_test_alloc(bytes, 1);

    memset(elements, CANARY, bytes);
    for (int64_t r = 0; r < rows && source != NULL; r++) {
        memcpy(elements + (size_t)(r * m.stride) * size,
               (const char *)source + (size_t)(r * cols) * size, (size_t)cols * size);
    }
    m.tensor = op_tensor(epf_space_alloc(bytes), dtype, rows + guard.rows, cols);
    m.tensor.stride[0] = m.stride;
    op_matrix_store(&m, elements);
    free(elements);
    return m;
}

op_matrix op_matrix_make(int64_t rows, int64_t cols, epf_dtype dtype, op_guard guard)
{
    return make_filled(rows, cols, dtype, guard, NULL);
}

op_matrix op_matrix_of(epf_ref_tensor source, int64_t rows, int64_t cols, int64_t guard_cols)
{
    return make_filled(rows, cols, source.dtype, (op_guard){0, guard_cols}, source.data);
}

void op_matrix_free(op_matrix *matrix)
{
    epf_space_free(matrix->tensor.data);
    memset(matrix, 0, sizeof *matrix);
}

void *op_matrix_fetch(const op_matrix *matrix)
{
    void *elements = epf_test_alloc(matrix_bytes(matrix), 1);

    epf_space_get(elements, matrix->tensor.data, matrix_bytes(matrix));
    return elements;
}

void op_matrix_store(const op_matrix *matrix, const void *elements)
{
    epf_space_put(matrix->tensor.data, elements, matrix_bytes(matrix));
}

static int64_t row_elements(const epf_tensor *tensor)
{
    return tensor->ndim == 1 ? 1 : tensor->shape[1];
}

void *op_fetch(const epf_tensor *tensor, int64_t rows)
{
    const size_t size = epf_element_bytes((epf_dtype)tensor->dtype);
    const size_t row = (size_t)row_elements(tensor) * size;
    const size_t stride = (size_t)tensor->stride[0] * size;
    char *packed = epf_test_alloc((size_t)rows * row, 1);
    char *spread;

    if (rows == 0 || stride == row) {
        epf_space_get(packed, tensor->data, (size_t)rows * row);
        return packed;
    }
    spread = epf_test_alloc((size_t)rows * stride, 1);
    epf_space_get(spread, tensor->data, (size_t)(rows - 1) * stride + row);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(packed + (size_t)r * row, spread + (size_t)r * stride, row);
    }
    free(spread);
    return packed;
}

void op_store(const epf_tensor *tensor, const void *rows, int64_t num_rows)
{
    const size_t size = epf_element_bytes((epf_dtype)tensor->dtype);
    const size_t row = (size_t)row_elements(tensor) * size;
    const size_t stride = (size_t)tensor->stride[0] * size;

    for (int64_t r = 0; r < num_rows; r++) {
        epf_space_put((char *)tensor->data + (size_t)r * stride,
                      (const char *)rows + (size_t)r * row, row);
    }
}

epf_tensor op_matrix_vector(const op_matrix *matrix)
{
    return op_vector(matrix->tensor.data, matrix->dtype, matrix->tensor.shape[0]);
}

/* One row from its column `first` on: not as it was made. */
static bool is_changed(const op_matrix *m, const unsigned char *bytes, int64_t row, int64_t first)
{
    const size_t size = epf_element_bytes(m->dtype);
    bool changed = false;

    for (size_t i = (size_t)(row * m->stride + first) * size;
         i < (size_t)((row + 1) * m->stride) * size; i++) {
        changed = changed || bytes[i] != CANARY;
    }
    return changed;
}

bool op_check_guard(epf_test_rank *rank, const char *name, const op_matrix *matrix)
{
    unsigned char *bytes;
    int64_t bad = -1;

    if (matrix->tensor.data == NULL) {
        return true;
    }
    bytes = op_matrix_fetch(matrix);
    for (int64_t r = 0; r < matrix->tensor.shape[0] && bad < 0; r++) {
        bad = is_changed(matrix, bytes, r, r < matrix->rows ? matrix->cols : 0) ? r : -1;
    }
    free(bytes);
    RANK_CHECK(rank, bad < 0, "%s: row %lld of %lld was written behind its end", name,
               (long long)bad, (long long)matrix->rows);
    return true;
}

bool op_check_tensor(epf_test_rank *rank, const epf_tensor *got, const op_want *want)
{
    const epf_dtype dtype = (epf_dtype)got->dtype;
    const int64_t rows = want->matrix->rows;
    const int64_t cols = want->matrix->cols;
    const epf_compare what = {want->name, rows, cols, want->rank};
    char text[EPF_COMPARE_TEXT];
    void *packed;
    bool same;

    RANK_CHECK(rank, got->data != NULL || rows == 0, "%s: no data", want->name);
    RANK_CHECK(rank, epf_element_bytes(dtype) > 0 && got->shape[0] >= rows,
               "%s: %lld rows of dtype %d, want %lld", want->name, (long long)got->shape[0],
               got->dtype, (long long)rows);
    RANK_CHECK(rank, (got->ndim == 1 && cols == 1) || (got->ndim == 2 && got->shape[1] == cols),
               "%s: %d dimensions, the last of %lld, want %lld columns", want->name, got->ndim,
               (long long)got->shape[got->ndim - 1], (long long)cols);
    packed = op_fetch(got, rows);
    const epf_ref_tensor view = {packed, dtype};
    same = want->exact ? epf_compare_exact(&what, view, want->matrix, text)
                       : epf_compare_bound(&what, view, want->matrix, text);
    free(packed);
    RANK_CHECK(rank, same, "%s", text);
    return true;
}
