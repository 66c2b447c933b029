#include "op_matrix.h"

#include <stdlib.h>
#include <string.h>

#include "support/epf_check.h"
#include "support/epf_data.h"

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

op_matrix op_matrix_make(int64_t rows, int64_t cols, epf_dtype dtype, op_guard guard)
{
    const size_t size = epf_element_bytes(dtype);
    op_matrix m = {.rows = rows, .cols = cols, .stride = cols + guard.cols, .dtype = dtype};
    const size_t bytes = (size_t)(rows + guard.rows) * (size_t)m.stride * size;
    void *data = epf_test_alloc(bytes, 1);

    memset(data, CANARY, bytes);
    m.tensor = op_tensor(data, dtype, rows + guard.rows, cols);
    m.tensor.stride[0] = m.stride;
    return m;
}

op_matrix op_matrix_of(epf_ref_tensor source, int64_t rows, int64_t cols, int64_t guard_cols)
{
    const size_t size = epf_element_bytes(source.dtype);
    op_matrix m = op_matrix_make(rows, cols, source.dtype, (op_guard){0, guard_cols});

    for (int64_t r = 0; r < rows; r++) {
        memcpy((char *)m.tensor.data + (size_t)(r * m.stride) * size,
               (const char *)source.data + (size_t)(r * cols) * size, (size_t)cols * size);
    }
    return m;
}

void op_matrix_free(op_matrix *matrix)
{
    free(matrix->tensor.data);
    memset(matrix, 0, sizeof *matrix);
}

epf_tensor op_matrix_vector(const op_matrix *matrix)
{
    return op_vector(matrix->tensor.data, matrix->dtype, matrix->tensor.shape[0]);
}

bool op_check_guard(epf_test_rank *rank, const char *name, const op_matrix *matrix)
{
    const size_t size = epf_element_bytes(matrix->dtype);
    const unsigned char *bytes = matrix->tensor.data;

    for (int64_t r = 0; bytes != NULL && r < matrix->tensor.shape[0]; r++) {
        const int64_t first = r < matrix->rows ? matrix->cols : 0;
        for (size_t i = (size_t)(r * matrix->stride + first) * size;
             i < (size_t)((r + 1) * matrix->stride) * size; i++) {
            RANK_CHECK(rank, bytes[i] == CANARY,
                       "%s: row %lld of %lld was written behind column %lld", name, (long long)r,
                       (long long)matrix->rows, (long long)first);
        }
    }
    return true;
}

bool op_check_tensor(epf_test_rank *rank, const epf_tensor *got, const op_want *want)
{
    const epf_dtype dtype = (epf_dtype)got->dtype;
    const size_t size = epf_element_bytes(dtype);
    const int64_t rows = want->matrix->rows;
    const int64_t cols = want->matrix->cols;
    const epf_compare what = {want->name, rows, cols, want->rank};
    char text[EPF_COMPARE_TEXT];
    char *packed;
    bool same;

    RANK_CHECK(rank, got->data != NULL || rows == 0, "%s: no data", want->name);
    RANK_CHECK(rank, size > 0 && got->shape[0] >= rows, "%s: %lld rows of dtype %d, want %lld",
               want->name, (long long)got->shape[0], got->dtype, (long long)rows);
    RANK_CHECK(rank, (got->ndim == 1 && cols == 1) || (got->ndim == 2 && got->shape[1] == cols),
               "%s: %d dimensions, the last of %lld, want %lld columns", want->name, got->ndim,
               (long long)got->shape[got->ndim - 1], (long long)cols);
    packed = epf_test_alloc((size_t)(rows * cols), size);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(packed + (size_t)(r * cols) * size,
               (const char *)got->data + (size_t)(r * got->stride[0]) * size, (size_t)cols * size);
    }
    const epf_ref_tensor view = {packed, dtype};
    same = want->exact ? epf_compare_exact(&what, view, want->matrix, text)
                       : epf_compare_bound(&what, view, want->matrix, text);
    free(packed);
    RANK_CHECK(rank, same, "%s", text);
    return true;
}
