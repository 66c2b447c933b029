/* epf_tensor.c: table of file types, and conversions between the real ones. */
#include "model/epf_tensor.h"

#include <string.h>

#include "base/epf_error.h"
#include "core/epf_dtype.h"
#include "core/epf_half.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensor files are little endian and are read in place"
#endif

typedef struct dtype_info {
    const char *text;
    uint32_t bits;
} dtype_info;

static const dtype_info dtypes[EPF_FILE_DTYPE_COUNT] = {
#define X(name, text, bits) {text, bits},
    EPF_FILE_DTYPE_MAP(X)
#undef X
};

const char *epf_file_dtype_name(epf_file_dtype dtype)
{
    return (unsigned)dtype < EPF_FILE_DTYPE_COUNT ? dtypes[dtype].text : "?";
}

epf_file_dtype epf_file_dtype_parse(const char *text, size_t length)
{
    int i = 0;
    while (i < EPF_FILE_DTYPE_COUNT &&
           (strlen(dtypes[i].text) != length || memcmp(dtypes[i].text, text, length) != 0)) {
        i++;
    }
    return (epf_file_dtype)i;
}

uint32_t epf_file_dtype_bits(epf_file_dtype dtype)
{
    return (unsigned)dtype < EPF_FILE_DTYPE_COUNT ? dtypes[dtype].bits : 0;
}

epf_dtype epf_file_dtype_to_dtype(epf_file_dtype dtype)
{
    switch (dtype) {
    case EPF_FILE_F32:
        return EPF_DTYPE_F32;
    case EPF_FILE_F16:
        return EPF_DTYPE_F16;
    case EPF_FILE_BF16:
        return EPF_DTYPE_BF16;
    default:
        return (epf_dtype)0;
    }
}

epf_file_dtype epf_file_dtype_of(epf_dtype dtype)
{
    switch (dtype) {
    case EPF_DTYPE_F32:
        return EPF_FILE_F32;
    case EPF_DTYPE_F16:
        return EPF_FILE_F16;
    case EPF_DTYPE_BF16:
        return EPF_FILE_BF16;
    default:
        return EPF_FILE_DTYPE_COUNT;
    }
}

int64_t epf_tensor_num_elements(const epf_tensor_view *view)
{
    int64_t count = 1;
    for (int32_t i = 0; i < view->num_dims; i++) {
        count *= view->shape[i];
    }
    return count;
}

epf_tensor_view epf_tensor_view_of(const char *name, epf_file_dtype dtype, int32_t num_dims,
                                   const int64_t *shape, const void *data)
{
    epf_tensor_view view = {.name = name, .dtype = dtype, .num_dims = num_dims, .data = data};
    for (int32_t i = 0; i < num_dims && i < EPF_TENSOR_MAX_DIMS; i++) {
        view.shape[i] = shape[i];
    }
    view.num_bytes = (uint64_t)epf_tensor_num_elements(&view) * epf_file_dtype_bits(dtype) / 8;
    return view;
}

static float load_f32(const unsigned char *at, epf_dtype dtype)
{
    float value;
    uint16_t half;
    if (dtype == EPF_DTYPE_F32) {
        memcpy(&value, at, sizeof value);
        return value;
    }
    memcpy(&half, at, sizeof half);
    return dtype == EPF_DTYPE_F16 ? epf_f16_to_f32(half) : epf_bf16_to_f32(half);
}

static void store_f32(float value, epf_dtype dtype, unsigned char *at)
{
    uint16_t half;
    if (dtype == EPF_DTYPE_F32) {
        memcpy(at, &value, sizeof value);
        return;
    }
    half = dtype == EPF_DTYPE_F16 ? epf_f16_from_f32(value) : epf_bf16_from_f32(value);
    memcpy(at, &half, sizeof half);
}

/* The pair that checkpoints need most, bf16 to fp32, in a loop the compiler can vectorise. */
static void widen_bf16(const unsigned char *in, int64_t count, unsigned char *out)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        float value;
        memcpy(&half, in + 2 * i, sizeof half);
        value = epf_bf16_to_f32(half);
        memcpy(out + 4 * i, &value, sizeof value);
    }
}

epf_status epf_tensor_convert(const epf_tensor_view *view, int64_t first, int64_t count,
                              epf_dtype dtype, void *out)
{
    const epf_dtype from = epf_file_dtype_to_dtype(view->dtype);
    const int64_t in_bytes = epf_dtype_bytes((int32_t)from);
    const int64_t out_bytes = epf_dtype_bytes((int32_t)dtype);
    const int64_t num_elements = epf_tensor_num_elements(view);
    const unsigned char *in = view->data;
    EPF_CHECK_ARG(from != 0 && epf_dtype_is_token((int32_t)dtype),
                  "tensor '%s': cannot convert %s to %s", view->name,
                  epf_file_dtype_name(view->dtype), epf_dtype_name((int32_t)dtype));
    EPF_CHECK_ARG(first >= 0 && count >= 0 && first <= num_elements &&
                      count <= num_elements - first,
                  "tensor '%s': elements [%lld, +%lld) of %lld", view->name, (long long)first,
                  (long long)count, (long long)num_elements);
    in += first * in_bytes;
    if (from == dtype) {
        memcpy(out, in, (size_t)(count * in_bytes));
    } else if (from == EPF_DTYPE_BF16 && dtype == EPF_DTYPE_F32) {
        widen_bf16(in, count, out);
    } else {
        unsigned char *at = out;
        for (int64_t i = 0; i < count; i++) {
            store_f32(load_f32(in + i * in_bytes, from), dtype, at + i * out_bytes);
        }
    }
    return EPF_OK;
}
