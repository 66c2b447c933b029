/*
 * fault_pool.h: a pool of tokens, each with the bits that the layer must give it, whatever ranks,
 * workers and other tokens a call has.
 *
 * What a token must become is what one rank with one worker makes of it.  A rank of any group then draws
 * batches from the pool and compares every row of its output to the bit.
 */
#ifndef FAULT_POOL_H
#define FAULT_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "epfuse/epfuse.h"
#include "support/epf_rng.h"

enum { FAULT_MAX_RANKS = 8 };

typedef struct fault_shape {
    int32_t num_experts;  /* E */
    int32_t topk;         /* K */
    int32_t hidden;       /* H */
    int32_t intermediate; /* I */
    int32_t num_tokens;   /* P: of the pool */
    int32_t dtype;
    int32_t gemm_library;
    uint64_t seed;
} fault_shape;

typedef struct fault_pool {
    fault_shape shape;
    size_t row_bytes;
    char *tokens;  /* [P, H]     */
    int32_t *ids;  /* [P, K]     dropped ones and duplicates among them */
    float *weight; /* [P, K]     */
    char *w13;     /* [E, 2I, H] */
    char *w2;      /* [E, H, I]  */
    char *golden;  /* [P, H]     */
} fault_pool;

/* Ends the process with words where it cannot be made. */
fault_pool *fault_pool_make(const fault_shape *shape);
void fault_pool_free(fault_pool *pool);

/* How a rank works; equal on all ranks but num_workers. */
typedef struct fault_knobs {
    int32_t max_tokens;
    int32_t num_workers;
    bool packed; /* weights packed once */
} fault_knobs;

/* One rank's operator and batch. */
typedef struct fault_rank {
    const fault_pool *pool;
    epf_op *op;
    epf_layer_context *context;
    epf_weight *packed[2];
    epf_layer_weights weights;
    int32_t max_tokens;
    int32_t num_tokens;
    int32_t *chosen; /* [T_max] tokens of the pool */
    char *input;     /* [T_max, H] */
    int32_t *ids;    /* [T_max, K] */
    float *weight;   /* [T_max, K] */
    char *output;    /* [T_max, H] */
} fault_rank;

/* Collective.  Closing is due after a failure as well. */
epf_status fault_rank_open(fault_rank *r, const fault_pool *pool, epf_group *group,
                           const fault_knobs *knobs);
void fault_rank_close(fault_rank *r);

/* Another batch of 0 .. T_max tokens, by this rank's own chance. */
void fault_rank_draw(fault_rank *r, epf_rng *own);
/* One layer over the batch; `mode` is equal on all ranks: bits 0 and 1 choose how it is run. */
epf_status fault_rank_layer(fault_rank *r, uint32_t mode);
/* The batch position of the first token with other bits than the pool says, or -1. */
int32_t fault_rank_check(const fault_rank *r);

#endif
