/* epf_dtype.h: size, name and kind of an element type, from the public list. */
#ifndef EPF_CORE_DTYPE_H
#define EPF_CORE_DTYPE_H

#include "core/epf_base.h"
#include "epfuse/epfuse_dtype.h"

/* Bytes per element; 0 for a value that is no type. */
EPF_HD int32_t epf_dtype_bytes(int32_t dtype)
{
    switch (dtype) {
#define X(name, value, bytes, text) \
    case (value):                   \
        return (bytes);
        EPF_DTYPE_MAP(X)
#undef X
    default:
        return 0;
    }
}

/* "bf16", ...; "no type" for a value that is none. */
EPF_HD const char *epf_dtype_name(int32_t dtype)
{
    switch (dtype) {
#define X(name, value, bytes, text) \
    case (value):                   \
        return (text);
        EPF_DTYPE_MAP(X)
#undef X
    default:
        return "no type";
    }
}

/* The types a token may have. */
EPF_HD bool epf_dtype_is_token(int32_t dtype)
{
    return dtype == EPF_DTYPE_F32 || dtype == EPF_DTYPE_BF16 || dtype == EPF_DTYPE_F16;
}

#endif
