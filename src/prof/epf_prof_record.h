/*
 * epf_prof_record.h: what a profile is made of, in the common subset of C11 and CUDA C++.
 *
 * Plain old data of fixed layout: CPU workers write it as the trace shows it; what a kernel writes is
 * made so on the host (cuda/epf_cuda_trace.h).
 */
#ifndef EPF_PROF_RECORD_H
#define EPF_PROF_RECORD_H

#include "core/epf_base.h"

/* Every category once: what a worker does with its time.  Idle is what no record covers. */
#define EPF_PROF_CATEGORY_MAP(X)                                        \
    X(EPF_PROF_COMPUTE, "compute") /* arithmetic                    */  \
    X(EPF_PROF_MOVE, "move")       /* copies, within or across ranks */ \
    X(EPF_PROF_WAIT, "wait")       /* for a counter, or for peers   */  \
    X(EPF_PROF_OTHER, "other")     /* bookkeeping                   */

typedef enum epf_prof_category {
#define X(id, name) id,
    EPF_PROF_CATEGORY_MAP(X)
#undef X
        EPF_PROF_NUM_CATEGORIES
} epf_prof_category;

/* Every event once: constant, name in the trace, category. */
#define EPF_PROF_EVENT_MAP(X)                                                            \
    X(EPF_PROF_DISPATCH_TOKEN_WAIT, "dispatch_token_wait", EPF_PROF_WAIT)                \
    X(EPF_PROF_DISPATCH_TOKEN_MAIN, "dispatch_token_main", EPF_PROF_MOVE)                \
    X(EPF_PROF_DISPATCH_TOKEN_TAIL_NOTIFY, "dispatch_token_tail_notify", EPF_PROF_OTHER) \
    X(EPF_PROF_DISPATCH_EXPAND_WAIT, "dispatch_expand_wait", EPF_PROF_WAIT)              \
    X(EPF_PROF_DISPATCH_EXPAND_MAIN, "dispatch_expand_main", EPF_PROF_MOVE)              \
    X(EPF_PROF_GROUP_GEMM_WAIT, "group_gemm_wait", EPF_PROF_WAIT)                        \
    X(EPF_PROF_GROUP_GEMM_PREPROCESS, "group_gemm_preprocess", EPF_PROF_OTHER)           \
    X(EPF_PROF_GROUP_GEMM_MAIN, "group_gemm_main", EPF_PROF_COMPUTE)                     \
    X(EPF_PROF_GROUP_GEMM_TAIL_NOTIFY, "group_gemm_tail_notify", EPF_PROF_OTHER)         \
    X(EPF_PROF_ACTIVATION, "activation", EPF_PROF_COMPUTE)                               \
    X(EPF_PROF_COMBINE_SCATTER_TOKEN, "combine_scatter_token", EPF_PROF_MOVE)            \
    X(EPF_PROF_COMBINE_WAIT, "combine_wait", EPF_PROF_WAIT)                              \
    X(EPF_PROF_COMBINE_TOPK_REDUCE, "combine_topk_reduce", EPF_PROF_MOVE)                \
    X(EPF_PROF_WEIGHT_GRAD_WAIT, "weight_grad_wait", EPF_PROF_WAIT)                      \
    X(EPF_PROF_WEIGHT_GRAD_MAIN, "weight_grad_main", EPF_PROF_COMPUTE)                   \
    X(EPF_PROF_PACK_WEIGHT, "pack_weight", EPF_PROF_OTHER)                               \
    X(EPF_PROF_PREPROCESS, "preprocess", EPF_PROF_OTHER)                                 \
    X(EPF_PROF_ROUTER, "router", EPF_PROF_COMPUTE)                                       \
    X(EPF_PROF_SHARED_EXPERT, "shared_expert", EPF_PROF_COMPUTE)                         \
    X(EPF_PROF_BARRIER_ALL, "barrier_all", EPF_PROF_WAIT)

typedef enum epf_prof_event {
#define X(id, name, category) id,
    EPF_PROF_EVENT_MAP(X)
#undef X
        EPF_PROF_NUM_EVENTS,
    EPF_PROF_LINK = 0xffff /* not an event: one more flow of an earlier record */
} epf_prof_event;

/* What a flow runs from and to: which counter of the protocol joins the sender and the waiter. */
typedef enum epf_prof_object {
    EPF_PROF_FLOW_DISPATCH = 1, /* rows sent -> the task that reads them        */
    EPF_PROF_FLOW_EXPAND = 2,   /* rows filled in locally -> the GEMM tile      */
    EPF_PROF_FLOW_GEMM = 3,     /* tile finished -> its scatter or local reader */
    EPF_PROF_FLOW_COMBINE = 4,  /* rows returned -> the reduce of their tokens  */
    EPF_PROF_FLOW_BARRIER = 5,
    EPF_PROF_FLOW_OTHER = 6
} epf_prof_object;

enum { EPF_PROF_NONE = -1 }; /* a record's task, expert or rows where they mean nothing */

typedef struct epf_prof_record {
    uint64_t begin_ns; /* CLOCK_MONOTONIC; in a link: index of the record it belongs to      */
    uint64_t end_ns;   /* 0: never ended (the call gave up), and left out of the trace       */
    uint64_t flow_out; /* epf_prof_flow() of what this task sent or signalled; 0 = none      */
    uint64_t flow_in;  /* of what it had waited for: sent before this record ended; 0 = none */
    uint32_t event;    /* epf_prof_event                                                     */
    int32_t task;      /* index of the task in its queue, or EPF_PROF_NONE                   */
    int32_t expert;    /* local expert, or EPF_PROF_NONE                                     */
    int32_t rows;      /* rows or tokens it handled, or EPF_PROF_NONE                        */
} epf_prof_record;

/* One worker's records, in order of begin; only this worker writes.  num_records <= capacity. */
typedef struct epf_prof_buffer {
    epf_prof_record *records; /* [capacity] */
    uint64_t capacity;
    uint64_t num_records;
    uint64_t num_lost;    /* begun when the buffer was full */
    uint64_t reserved[4]; /* one cache line per worker      */
} epf_prof_buffer;

/*
 * The id of one signal, equal wherever it is computed, so that sender and waiter need not talk.
 * `index` says which signal of this source it is (which counter of which rank).  A flow joins one
 * sender to one waiter: where several wait for the same counter, give each an index of its own.
 * Different for different arguments while source_rank < 2^12 and calls are less than 2^16 epochs
 * apart; never 0.
 */
EPF_HD uint64_t epf_prof_flow(uint64_t epoch, int32_t source_rank, epf_prof_object object,
                              uint32_t index)
{
    return ((uint64_t)object << 60) | (((uint64_t)source_rank & 0xfffu) << 48) |
           ((epoch & 0xffffu) << 32) | index;
}

#endif
