/* epf_args.c: structs of another version, and tensors, checked. */
#include "api/epf_args.h"

#include <stdio.h>
#include <string.h>

#include "core/epf_dtype.h"

enum { MIN_STRUCT_BYTES = 8, MAX_STRUCT_BYTES = 65536 };

epf_status epf_struct_init(const epf_struct_spec *spec, void *user, size_t user_size)
{
    unsigned char full[EPF_STRUCT_BYTES];
    const uint32_t size = (uint32_t)user_size;
    EPF_CHECK_ARG(user != NULL, "%s: NULL", spec->name);
    EPF_CHECK_ARG(user_size >= MIN_STRUCT_BYTES && user_size <= MAX_STRUCT_BYTES,
                  "%s: struct_size %zu, must be %d..%d", spec->name, user_size,
                  (int)MIN_STRUCT_BYTES, (int)MAX_STRUCT_BYTES);
    memset(full, 0, spec->size);
    spec->defaults(full);
    memset(user, 0, user_size);
    memcpy(user, full, user_size < spec->size ? user_size : spec->size);
    memcpy(user, &size, sizeof size);
    return EPF_OK;
}

epf_status epf_struct_import(const epf_struct_spec *spec, const void *user, void *out)
{
    const unsigned char *const bytes = user;
    const uint32_t own_size = (uint32_t)spec->size;
    uint32_t user_size;
    EPF_CHECK_ARG(user != NULL, "%s: NULL", spec->name);
    memcpy(&user_size, user, sizeof user_size);
    EPF_CHECK_ARG(user_size >= MIN_STRUCT_BYTES && user_size <= MAX_STRUCT_BYTES,
                  "%s: struct_size %u, must be %d..%d; was its _init function called?", spec->name,
                  user_size, (int)MIN_STRUCT_BYTES, (int)MAX_STRUCT_BYTES);
    for (size_t i = spec->size; i < user_size; i++) {
        if (bytes[i] != 0) {
            return EPF_FAIL(EPF_E_UNSUPPORTED, "%s: byte %zu is set, version %d.%d knows %zu bytes",
                            spec->name, i, EPF_VERSION_MAJOR, EPF_VERSION_MINOR, spec->size);
        }
    }
    memset(out, 0, spec->size);
    spec->defaults(out);
    memcpy(out, user, user_size < spec->size ? user_size : spec->size);
    memcpy(out, &own_size, sizeof own_size);
    return EPF_OK;
}

bool epf_tensor_given(const epf_tensor *tensor)
{
    return tensor->ndim != 0;
}

epf_tensor epf_tensor_of(void *data, int32_t dtype, int32_t ndim, const int64_t *shape)
{
    epf_tensor t;
    int64_t stride = 1;
    memset(&t, 0, sizeof t);
    t.data = data;
    t.dtype = dtype;
    t.ndim = ndim;
    for (int32_t d = ndim - 1; d >= 0; d--) {
        t.shape[d] = shape[d];
        t.stride[d] = stride;
        stride *= shape[d] > 0 ? shape[d] : 1;
    }
    return t;
}

epf_status epf_tensor_make(epf_tensor *tensor, void *data, epf_dtype dtype, int32_t ndim,
                           const int64_t *shape)
{
    int64_t bytes = epf_dtype_bytes((int32_t)dtype);
    EPF_CHECK_ARG(tensor != NULL && shape != NULL, "epf_tensor_make: NULL %s",
                  tensor == NULL ? "tensor" : "shape");
    EPF_CHECK_ARG(bytes > 0, "dtype: %d is no epf_dtype", (int)dtype);
    EPF_CHECK_ARG(ndim >= 1 && ndim <= EPF_MAX_DIMS, "ndim: %d, must be 1..%d", ndim,
                  (int)EPF_MAX_DIMS);
    for (int32_t d = 0; d < ndim; d++) {
        EPF_CHECK_ARG(shape[d] >= 0, "shape[%d]: %lld, must be >= 0", d, (long long)shape[d]);
        EPF_CHECK_ARG(!__builtin_mul_overflow(bytes, shape[d] > 0 ? shape[d] : 1, &bytes),
                      "shape: more than 2^63 bytes");
    }
    *tensor = epf_tensor_of(data, (int32_t)dtype, ndim, shape);
    return EPF_OK;
}

static void shape_text(char *text, size_t size, int32_t ndim, const int64_t *shape, bool at_least)
{
    size_t used = 0;
    text[0] = '\0';
    for (int32_t d = 0; d < ndim && d < EPF_MAX_DIMS && used < size; d++) {
        int n;
        if (shape[d] == EPF_ANY_SIZE) {
            n = snprintf(text + used, size - used, "%s*", d == 0 ? "" : ", ");
        } else {
            n = snprintf(text + used, size - used, "%s%s%lld", d == 0 ? "" : ", ",
                         d == 0 && at_least ? ">= " : "", (long long)shape[d]);
        }
        used += n > 0 ? (size_t)n : 0;
    }
}

static epf_status check_shape(const epf_tensor *t, const epf_tensor_want *want)
{
    bool fits = t->ndim == want->ndim;
    for (int32_t d = 0; fits && d < want->ndim; d++) {
        const int64_t size = want->shape[d];
        fits = t->shape[d] >= 0 && (size == EPF_ANY_SIZE || t->shape[d] == size ||
                                    (d == 0 && want->at_least && t->shape[d] >= size));
    }
    if (!fits) {
        char is[128];
        char must[128];
        shape_text(is, sizeof is, t->ndim, t->shape, false);
        shape_text(must, sizeof must, want->ndim, want->shape, want->at_least);
        return EPF_FAIL(EPF_E_INVALID, "%s: shape [%s], must be [%s]", want->name, is, must);
    }
    return EPF_OK;
}

static epf_status check_memory(const epf_tensor *t, const epf_tensor_want *want)
{
    int64_t extent = 1; /* of what is inside the dimension, in elements */
    bool is_empty = false;
    for (int32_t d = 0; d < t->ndim; d++) {
        is_empty = is_empty || t->shape[d] == 0;
    }
    if (is_empty) {
        return EPF_OK;
    }
    for (int32_t d = t->ndim - 1; d >= 0; d--) {
        EPF_CHECK_ARG(t->shape[d] == 1 || t->stride[d] >= extent,
                      "%s: stride[%d] is %lld, must be at least %lld", want->name, d,
                      (long long)t->stride[d], (long long)extent);
        EPF_CHECK_ARG(d != t->ndim - 1 || t->shape[d] == 1 || t->stride[d] == 1,
                      "%s: stride of the last dimension is %lld, must be 1", want->name,
                      (long long)t->stride[d]);
        if (t->shape[d] > 1) {
            EPF_CHECK_ARG(!__builtin_mul_overflow(t->stride[d], t->shape[d], &extent) &&
                              extent <= INT64_MAX / 8,
                          "%s: reaches over more than 2^60 elements", want->name);
        }
    }
    EPF_CHECK_ARG(t->data != NULL, "%s: data is NULL", want->name);
    EPF_CHECK_ARG((uintptr_t)t->data % (uintptr_t)epf_dtype_bytes(t->dtype) == 0,
                  "%s: data %p is not aligned to its %d-byte elements", want->name, t->data,
                  epf_dtype_bytes(t->dtype));
    return EPF_OK;
}

epf_status epf_tensor_check(const epf_tensor *t, const epf_tensor_want *want)
{
    int64_t elements = 1;
    if (!epf_tensor_given(t)) {
        for (int32_t d = 0; d < want->ndim; d++) {
            elements *= want->shape[d] == 0 ? 0 : 1;
        }
        EPF_CHECK_ARG(want->optional || elements == 0, "%s: not given, but required", want->name);
        return EPF_OK;
    }
    EPF_CHECK_ARG(t->ndim >= 1 && t->ndim <= EPF_MAX_DIMS, "%s: ndim %d, must be %d", want->name,
                  t->ndim, want->ndim);
    EPF_CHECK_ARG(t->dtype == want->dtype ||
                      (want->other_dtype != 0 && t->dtype == want->other_dtype),
                  "%s: dtype %s (%d), must be %s%s%s", want->name, epf_dtype_name(t->dtype),
                  t->dtype, epf_dtype_name(want->dtype), want->other_dtype != 0 ? " or " : "",
                  want->other_dtype != 0 ? epf_dtype_name(want->other_dtype) : "");
    EPF_TRY(check_shape(t, want));
    return check_memory(t, want);
}
