/*
 * epfuse_dtype.h: element types; included by epfuse.h.
 */
#ifndef EPFUSE_DTYPE_H
#define EPFUSE_DTYPE_H

/**
 * Every element type once: name, value, bytes per element and text all come from this list.
 * 0 is no type, so that a forgotten field is found.
 */
#define EPF_DTYPE_MAP(X)            \
    X(EPF_DTYPE_F32, 1, 4, "fp32")  \
    X(EPF_DTYPE_BF16, 2, 2, "bf16") \
    X(EPF_DTYPE_F16, 3, 2, "fp16")  \
    X(EPF_DTYPE_F64, 4, 8, "fp64")  \
    X(EPF_DTYPE_I32, 5, 4, "int32") \
    X(EPF_DTYPE_I64, 6, 8, "int64") \
    X(EPF_DTYPE_U8, 7, 1, "uint8")

typedef enum epf_dtype {
#define X(name, value, bytes, text) name = (value),
    EPF_DTYPE_MAP(X)
#undef X
} epf_dtype;

#endif
