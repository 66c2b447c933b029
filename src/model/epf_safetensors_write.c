/* epf_safetensors_write.c: the writer; header in one buffer, then the data as they lie. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "model/epf_file.h"
#include "model/epf_safetensors.h"

enum {
    DATA_ALIGNMENT = 8,
    /* Keys, brackets, dtype, offsets and a comma, without the name and the dimensions. */
    ENTRY_BYTES = 128,
    DIM_BYTES = 21 /* 20 digits and a comma */
};

static bool is_name_char(char c)
{
    return c >= ' ' && c <= '~' && c != '"' && c != '\\';
}

static epf_status check_view(const epf_tensor_view *t)
{
    int64_t elements = 1;
    EPF_CHECK_ARG(t->name != NULL && t->name[0] != '\0' && strlen(t->name) <= 4096,
                  "tensor to write: its name is missing or above 4096 bytes");
    for (const char *c = t->name; *c != '\0'; c++) {
        EPF_CHECK_ARG(is_name_char(*c),
                      "tensor to write: name has byte 0x%02x at %td; allowed is "
                      "ASCII without quotes and backslashes",
                      (unsigned char)*c, c - t->name);
    }
    EPF_CHECK_ARG(strcmp(t->name, "__metadata__") != 0,
                  "tensor to write: '__metadata__' is no name");
    EPF_CHECK_ARG((unsigned)t->dtype < EPF_FILE_DTYPE_COUNT && t->num_dims >= 0 &&
                      t->num_dims <= EPF_TENSOR_MAX_DIMS,
                  "tensor '%s': bad dtype or number of dimensions", t->name);
    for (int32_t i = 0; i < t->num_dims; i++) {
        EPF_CHECK_ARG(t->shape[i] >= 0 && !__builtin_mul_overflow(elements, t->shape[i], &elements),
                      "tensor '%s': shape[%d] = %lld is negative or overflows", t->name, i,
                      (long long)t->shape[i]);
    }
    EPF_CHECK_ARG((t->data != NULL || t->num_bytes == 0) && elements <= INT64_MAX / 64 &&
                      t->num_bytes * 8 == (uint64_t)elements * epf_file_dtype_bits(t->dtype),
                  "tensor '%s': data of %" PRIu64 " bytes do not fit shape and dtype", t->name,
                  t->num_bytes);
    return EPF_OK;
}

static epf_status check_views(const epf_tensor_view *tensors, int64_t count, size_t *header_bytes)
{
    *header_bytes = DATA_ALIGNMENT + 2; /* length, braces, padding added by the caller */
    EPF_CHECK_ARG(count >= 0 && (count == 0 || tensors != NULL), "tensors to write: NULL or %lld",
                  (long long)count);
    for (int64_t i = 0; i < count; i++) {
        EPF_TRY(check_view(&tensors[i]));
        for (int64_t j = 0; j < i; j++) {
            EPF_CHECK_ARG(strcmp(tensors[i].name, tensors[j].name) != 0,
                          "tensors to write: two are named '%s'", tensors[i].name);
        }
        *header_bytes +=
            strlen(tensors[i].name) + ENTRY_BYTES + (size_t)tensors[i].num_dims * DIM_BYTES;
    }
    *header_bytes += DATA_ALIGNMENT;
    return EPF_OK;
}

/* Appends one entry; `room` was measured by check_views(). */
static char *put_entry(char *at, const epf_tensor_view *t, uint64_t begin)
{
    at +=
        sprintf(at, "\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, epf_file_dtype_name(t->dtype));
    for (int32_t i = 0; i < t->num_dims; i++) {
        at += sprintf(at, "%s%lld", i == 0 ? "" : ",", (long long)t->shape[i]);
    }
    at += sprintf(at, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, begin + t->num_bytes);
    return at;
}

/* The whole head of the file, length included, padded so that data begin aligned. */
static size_t put_header(char *buffer, const epf_tensor_view *tensors, int64_t count)
{
    char *at = buffer + sizeof(uint64_t);
    uint64_t begin = 0;
    uint64_t length;
    *at++ = '{';
    for (int64_t i = 0; i < count; i++) {
        if (i > 0) {
            *at++ = ',';
        }
        at = put_entry(at, &tensors[i], begin);
        begin += tensors[i].num_bytes;
    }
    *at++ = '}';
    while ((at - buffer) % DATA_ALIGNMENT != 0) {
        *at++ = ' ';
    }
    length = (uint64_t)(at - buffer) - sizeof length;
    memcpy(buffer, &length, sizeof length);
    return (size_t)(at - buffer);
}

static epf_status write_all(epf_file_writer *writer, const char *header, size_t header_bytes,
                            const epf_tensor_view *tensors, int64_t count)
{
    EPF_TRY(epf_file_writer_write(writer, header, header_bytes));
    for (int64_t i = 0; i < count; i++) {
        EPF_TRY(epf_file_writer_write(writer, tensors[i].data, tensors[i].num_bytes));
    }
    return EPF_OK;
}

epf_status epf_safetensors_write(const char *path, const epf_tensor_view *tensors, int64_t count)
{
    epf_file_writer writer;
    char *header;
    size_t header_bytes;
    epf_status st;
    EPF_CHECK_ARG(path != NULL, "file to write: no path");
    EPF_TRY(check_views(tensors, count, &header_bytes));
    header = epf_alloc(header_bytes, 1);
    if (header == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for its header", path);
    }
    header_bytes = put_header(header, tensors, count);
    st = epf_file_writer_open(path, &writer);
    if (st == EPF_OK) {
        st = write_all(&writer, header, header_bytes, tensors, count);
        if (st == EPF_OK) {
            st = epf_file_writer_commit(&writer);
        } else {
            epf_file_writer_abort(&writer);
        }
    }
    epf_free(header);
    return st;
}
