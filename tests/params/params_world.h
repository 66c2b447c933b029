/*
 * params_world.h: one small operator a rank, with all that a valid call of every public function needs.
 *
 * E = 4, K = 2, T = 4 tokens on each rank, H = 16, I = 8; every expert gets the same number of rows, so that
 * each rank receives 8.  Values are zeros: what is looked at is which calls are refused, and how.
 */
#ifndef PARAMS_WORLD_H
#define PARAMS_WORLD_H

#include "epfuse/epfuse.h"

enum {
    PARAMS_E = 4,
    PARAMS_K = 2,
    PARAMS_T = 4,
    PARAMS_H = 16,
    PARAMS_I = 8,
    PARAMS_ROWS = 8,    /* R of each rank                                              */
    PARAMS_SETS = 2,    /* duplicate_comm_buffer                                       */
    PARAMS_WORKERS = 3, /* num_workers                                                 */
    PARAMS_SPARE = 4,   /* rows behind R that outputs have                             */
    PARAMS_ELEMENTS = 1024
};

/* Room for any tensor of a call. */
typedef struct params_memory {
    _Alignas(64) unsigned char bytes[PARAMS_ELEMENTS * 4];
} params_memory;

typedef struct params_rank {
    int32_t rank, num_ranks;
    epf_group *group;
    epf_op *op, *other; /* the second one owns other_layout, other_weight, other_context */
    epf_layout *layout, *other_layout;
    epf_weight *weight, *other_weight;
    epf_layer_context *context, *other_context; /* the first holds a forward pass */
    int32_t ids[PARAMS_T * PARAMS_K];
    int32_t local[PARAMS_T * PARAMS_K];
    int32_t full[PARAMS_T * PARAMS_K];
    params_memory in[8], out[8];
} params_rank;

/* Everything above for one rank of a group.  Collective. */
void params_open(params_rank *r, epf_group *group);
void params_close(params_rank *r);

epf_op_config params_op_config(void);

/* One public function with an args struct: valid arguments, and the call. */
typedef struct params_call {
    const char *function;
    const char *struct_name;
    size_t size; /* of the struct */
    void (*make)(params_rank *r, void *args);
    epf_status (*call)(params_rank *r, const void *args);
} params_call;

typedef enum params_call_id {
    PARAMS_GROUP_THREADS,
    PARAMS_GROUP,
    PARAMS_OP,
    PARAMS_WEIGHT,
    PARAMS_PREPROCESS,
    PARAMS_DISPATCH,
    PARAMS_SWIGLU, /* dispatch with an activation */
    PARAMS_COMBINE,
    PARAMS_SCATTER, /* combine, fuse_scatter */
    PARAMS_FORWARD,
    PARAMS_BACKWARD,
    PARAMS_NUM_CALLS
} params_call_id;

extern const params_call params_calls[PARAMS_NUM_CALLS];

/* A copy of any args struct, with room for a newer caller's. */
typedef union params_args {
    epf_group_config group;
    epf_op_config op;
    epf_weight_config weight;
    epf_preprocess_args preprocess;
    epf_dispatch_group_gemm_args dispatch;
    epf_group_gemm_combine_args combine;
    epf_layer_forward_args forward;
    epf_layer_backward_args backward;
    unsigned char bytes[8192];
} params_args;

#endif
