/*
 * epf_tensor.h: element types of tensor files, a read-only view of one tensor, and conversions.
 *
 * A view borrows: its pointers live as long as the file object it came from.  `data` may be
 * misaligned for its type, because neither file format promises alignment: read it with the
 * functions below (or memcpy), never through a cast pointer.
 */
#ifndef EPF_TENSOR_H
#define EPF_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_dtype.h"
#include "epfuse/epfuse_status.h"

/* Every element type the safetensors format knows: constant, spelling, bits per element. */
#define EPF_FILE_DTYPE_MAP(X)         \
    X(EPF_FILE_BOOL, "BOOL", 8)       \
    X(EPF_FILE_F4, "F4", 4)           \
    X(EPF_FILE_F6_E2M3, "F6_E2M3", 6) \
    X(EPF_FILE_F6_E3M2, "F6_E3M2", 6) \
    X(EPF_FILE_U8, "U8", 8)           \
    X(EPF_FILE_I8, "I8", 8)           \
    X(EPF_FILE_F8_E5M2, "F8_E5M2", 8) \
    X(EPF_FILE_F8_E4M3, "F8_E4M3", 8) \
    X(EPF_FILE_F8_E8M0, "F8_E8M0", 8) \
    X(EPF_FILE_I16, "I16", 16)        \
    X(EPF_FILE_U16, "U16", 16)        \
    X(EPF_FILE_F16, "F16", 16)        \
    X(EPF_FILE_BF16, "BF16", 16)      \
    X(EPF_FILE_I32, "I32", 32)        \
    X(EPF_FILE_U32, "U32", 32)        \
    X(EPF_FILE_F32, "F32", 32)        \
    X(EPF_FILE_C64, "C64", 64)        \
    X(EPF_FILE_F64, "F64", 64)        \
    X(EPF_FILE_I64, "I64", 64)        \
    X(EPF_FILE_U64, "U64", 64)

typedef enum epf_file_dtype {
#define X(name, text, bits) name,
    EPF_FILE_DTYPE_MAP(X)
#undef X
        EPF_FILE_DTYPE_COUNT
} epf_file_dtype;

enum { EPF_TENSOR_MAX_DIMS = 8 };

typedef struct epf_tensor_view {
    const char *file; /* path, for messages; NULL for a view of the caller's own memory   */
    const char *name; /* tensor name; "" in a .npy                                        */
    epf_file_dtype dtype;
    int32_t num_dims; /* 0 .. EPF_TENSOR_MAX_DIMS; 0 is a scalar                          */
    int64_t shape[EPF_TENSOR_MAX_DIMS];
    const void *data; /* row major, contiguous; NULL means "no such tensor"               */
    uint64_t num_bytes;
    uint64_t file_offset; /* of data, in bytes from the start of the file                     */
} epf_tensor_view;

/* "BF16" and so on; "?" for a value outside the enum. */
const char *epf_file_dtype_name(epf_file_dtype dtype);

/* The type spelled by text[0 .. length), or EPF_FILE_DTYPE_COUNT. */
epf_file_dtype epf_file_dtype_parse(const char *text, size_t length);

/* Bits per element. */
uint32_t epf_file_dtype_bits(epf_file_dtype dtype);

/* The library's type for F32, F16 and BF16, what a weight or a hidden state may be; else 0. */
epf_dtype epf_file_dtype_to_dtype(epf_file_dtype dtype);

/* The inverse; EPF_FILE_DTYPE_COUNT for another type. */
epf_file_dtype epf_file_dtype_of(epf_dtype dtype);

/* Product of the shape; 1 for a scalar.  The reader has checked that it does not overflow. */
int64_t epf_tensor_num_elements(const epf_tensor_view *view);

/* A view of the caller's own memory, for the writers; num_dims entries of `shape` are copied. */
epf_tensor_view epf_tensor_view_of(const char *name, epf_file_dtype dtype, int32_t num_dims,
                                   const int64_t *shape, const void *data);

/*
 * Converts elements [first, first + count) of `view` to `dtype`, into out.  Both types are fp32,
 * fp16 or bf16; the way is through fp32, so widening is exact and narrowing rounds once, to nearest
 * even (epf_half.h); equal types are copied bit for bit.  EPF_E_INVALID: another type, or a range
 * outside the tensor.
 */
epf_status epf_tensor_convert(const epf_tensor_view *view, int64_t first, int64_t count,
                              epf_dtype dtype, void *out);

#endif
