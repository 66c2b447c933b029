/* epf_weight.h: inside of a packed weight, and the weight of one call. */
#ifndef EPF_WEIGHT_H
#define EPF_WEIGHT_H

#include "api/epf_op.h"

struct epf_weight {
    epf_op *op;
    const epf_backend_ops *backend; /* of op, which may be gone when the weight is destroyed */
    void *data;                     /* packed by the backend; CUDA: the caller's tensor */
    int64_t num_n_tiles;            /* tiles along N */
    bool reduce_last_dim;           /* the tensor is [L, N, K'], else [L, K', N] */
    int64_t n;                      /* columns written */
    int64_t k;                      /* reduction length */
    bool gate_up;
    int64_t stride; /* CUDA: elements from row to row of the tensor, and from expert to expert */
    int64_t expert_stride;
    int32_t block_n; /* as asked for or chosen */
    int32_t block_k; /* as asked for; EPF_AUTO: all of k */
};

/* How a call names its weight: raw or packed, and what it must fit. */
typedef struct epf_weight_use {
    const char *name;        /* of the raw argument */
    const char *packed_name; /* of the other one    */
    const epf_tensor *raw;
    const epf_weight *packed;
    bool reduce_last_dim;
    int64_t n; /* must be this; EPF_ANY_SIZE: any */
    int64_t k; /* must be this */
    bool gate_up;
    int32_t block_n; /* knobs of the call */
    int32_t block_k;
} epf_weight_use;

/* Everything that epf_weight_resolve() would refuse but a lack of memory, without packing. */
epf_status epf_weight_check(epf_op *op, const epf_weight_use *use);

/* The packed weight to multiply with; `temporary` is set where the caller must destroy it after use. */
epf_status epf_weight_resolve(epf_op *op, const epf_weight_use *use, const epf_weight **weight,
                              epf_weight **temporary);

#endif
