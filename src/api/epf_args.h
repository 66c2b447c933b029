/*
 * epf_args.h: checking what callers hand in: structs of another version, tensors.
 */
#ifndef EPF_ARGS_H
#define EPF_ARGS_H

#include "base/epf_error.h"
#include "epfuse/epfuse.h"

/* No struct of this version is larger (epf_spec.c asserts it). */
enum { EPF_STRUCT_BYTES = 4096 };

/* How a public struct that starts with struct_size is filled and read. */
typedef struct epf_struct_spec {
    const char *name;
    size_t size;              /* as this version knows it */
    void (*defaults)(void *); /* fills a zeroed struct but for struct_size */
} epf_struct_spec;

/* The caller's copy of the defaults, cut or zero-filled to its size. */
epf_status epf_struct_init(const epf_struct_spec *spec, void *user, size_t user_size);

/* The caller's prefix over our defaults; EPF_E_UNSUPPORTED where it sets what we do not know. */
epf_status epf_struct_import(const epf_struct_spec *spec, const void *user, void *out);

enum { EPF_ANY_SIZE = -1 };

/* What a tensor argument must be. */
typedef struct epf_tensor_want {
    const char *name;
    int32_t ndim;
    int64_t shape[EPF_MAX_DIMS]; /* EPF_ANY_SIZE: any */
    int32_t dtype;               /* epf_dtype */
    int32_t other_dtype;         /* also allowed; 0: none */
    bool optional;
    bool at_least; /* shape[0] is a lower bound */
} epf_tensor_want;

bool epf_tensor_given(const epf_tensor *tensor);

/* EPF_E_INVALID with the argument's name, what it is and what it must be. */
epf_status epf_tensor_check(const epf_tensor *tensor, const epf_tensor_want *want);

/* As epf_tensor_make, for shapes known to be right. */
epf_tensor epf_tensor_of(void *data, int32_t dtype, int32_t ndim, const int64_t *shape);

#endif
