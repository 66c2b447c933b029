/*
 * epf_data.h: the arrays of a problem, for all ranks, from its seed.
 *
 * Tokens and weights are those of one global layer: rank r's arrays point into them, so that the same
 * problem on one rank (epf_data_merge) has the same numbers.
 *
 * Integer inputs: tokens in -2..2, GEMM weights in -1..1.  Every sum of up to 2^23 products is then an
 * integer below 2^24: exact in fp32 in any order, and one rounding gives the same bits everywhere.  Combine weights
 * are 1, 1/2, 1/4, 1/8, which only move the point of a rounded value.
 */
#ifndef EPF_TEST_DATA_H
#define EPF_TEST_DATA_H

#include "core/epf_dtype.h"
#include "reference/epf_reference.h"
#include "support/epf_problem.h"

typedef struct epf_data {
    epf_problem problem;
    int32_t *num_tokens;     /* [W]                                                       */
    int32_t **topk_idx;      /* [W] -> [T_max, K]  the first T_r are real                 */
    int32_t **local_scatter; /* [W] -> [T_r, K]    positions by expert, ties in random order */
    int32_t **full_scatter;  /* [W] -> [T_r, K]    global rows, segments in random order    */
    epf_ref_tensor *tokens;  /* [W] of [T_r, H]    token type                             */
    epf_ref_tensor *weights; /* [W] of [T_r, K]    routing weights                        */
    epf_ref_tensor *combine_weights; /* [W] of [T_r, K]    fp32                                   */
    epf_ref_tensor *b1;              /* [W] of [L, N, H]   token type                             */
    epf_ref_tensor *b1_transposed;   /* [W] of [L, H, N]                                          */
    epf_ref_tensor *b2;              /* [W] of [L, H, N]   token type                             */
    epf_ref_tensor *b2_transposed;   /* [W] of [L, N, H]                                          */
    epf_ref_route route;             /* of topk_idx, without scatter indices                      */
    void **memory;                   /* what epf_data_free() gives back                           */
    int32_t num_memory;
} epf_data;

static inline size_t epf_element_bytes(epf_dtype dtype)
{
    return (size_t)epf_dtype_bytes((int32_t)dtype);
}

/* NULL if the routing does not fit the shape (epf_zoo_route). */
epf_data *epf_data_make(const epf_problem *problem);

/* The same tokens, in rank order, on one rank that owns all experts. */
epf_data *epf_data_merge(const epf_data *data);

/* The same routing with the numbers of another seed. */
epf_data *epf_data_again(const epf_data *data, uint64_t seed);

void epf_data_free(epf_data *data);

/* The route with the data's scatter indices; freed by the caller. */
void epf_data_route(const epf_data *data, bool with_local, bool with_full, epf_ref_route *route);

/* A view on element `first` onwards. */
epf_ref_tensor epf_tensor_at(epf_ref_tensor tensor, int64_t first);

/* `count` integers in -range..range or, if `normal`, normal numbers of deviation `scale`. */
typedef struct epf_fill {
    uint64_t seed, stream;
    bool normal;
    int32_t range;
    double scale;
} epf_fill;
void epf_fill_tensor(const epf_fill *fill, epf_dtype dtype, int64_t count, void *out);

/* value[i], rounded, as elements of `dtype`. */
void epf_pack(epf_dtype dtype, const double *value, int64_t count, void *out);

#endif
