/*
 * cli_run.h: the parts of `epfuse run`.
 *
 *     options -> job    what all ranks read: checkpoint, hidden states, router (one per process)
 *             -> rank   one rank's life: load, meet, repeat, leave its results in the window
 *             -> report rank 0 reads all ranks' results: check, output file, table or JSON
 *
 * Ranks are threads, forked processes, or processes of a launcher; only cli_run.c knows which.
 */
#ifndef EPF_CLI_RUN_H
#define EPF_CLI_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "cli.h"
#include "cli_device.h"
#include "comm/epf_comm.h"
#include "epfuse/epfuse.h"
#include "model/epf_array.h"
#include "model/epf_moe_block.h"
#include "model/epf_router.h"

enum {
    RUN_MAX_REPEAT = 10000,
    RUN_AUTO_REPEAT = 10,
    RUN_CHUNK = 1024, /* elements converted at a time */
    RUN_PROFILE_BYTES = 160
};

typedef struct run_options {
    const char *checkpoint;
    const char *input;
    const char *output;  /* or NULL                                              */
    const char *expect;  /* or NULL: an array that the output must be close to   */
    const char *profile; /* or NULL                                              */
    int64_t layer;
    int32_t num_ranks;    /* W; 0 with --join: the launcher's                     */
    int32_t mode;         /* epf_combine_mode                                     */
    int32_t repeat;       /* 0: RUN_AUTO_REPEAT where the first is short          */
    int32_t num_workers;  /* per rank; 0: the rank's share of the cores, or of SMs */
    int32_t backend;      /* epf_backend                                          */
    int32_t dtype;        /* of tokens; 0: the checkpoint's                       */
    int64_t check_tokens; /* -1: as many as are cheap                             */
    double capacity;
    double timeout_s;
    double tolerance; /* of --expect                                          */
    bool processes;
    bool join;
    bool check;
    bool json;
} run_options;

/* CLI_OK, or what was printed; *done: --help was asked for. */
int run_options_parse(int argc, char **argv, run_options *options, bool *done);

/* ---- the job ---- */

typedef struct run_job {
    const run_options *options;
    epf_checkpoint *checkpoint;
    const epf_model_config *config;
    epf_moe_block block; /* all experts: only names, shapes and types are looked at */
    epf_router *router;
    epf_array *input;
    const epf_tensor_view *hidden; /* [.., H]                                       */
    int64_t num_tokens;            /* of all ranks                                  */
    int32_t num_ranks;             /* W                                             */
    int32_t max_tokens;            /* T_max, at least 1                             */
    int32_t num_local;             /* L                                             */
    int32_t dtype;                 /* of tokens and weights                         */
    const char *started;           /* "threads", ...                                */
} run_job;

/* Checks everything that can be checked before the work.  num_ranks: W. */
epf_status run_job_open(const run_options *options, int32_t num_ranks, run_job *job);
void run_job_close(run_job *job);

/* The tokens of a rank: the first T % W ranks have one more. */
int64_t run_job_first_token(const run_job *job, int32_t rank);
int32_t run_job_rank_tokens(const run_job *job, int32_t rank);

/* ---- results, in a window that rank 0 reads ---- */

#define RUN_PHASE_MAP(X)                 \
    X(RUN_ROUTER, "router")              \
    X(RUN_PREPROCESS, "preprocess")      \
    X(RUN_DISPATCH, "dispatch + GEMM 1") \
    X(RUN_COMBINE, "GEMM 2 + combine")   \
    X(RUN_SHARED, "shared experts")

typedef enum run_phase {
#define X(name, text) name,
    RUN_PHASE_MAP(X)
#undef X
        RUN_NUM_PHASES
} run_phase;

typedef struct run_times {
    uint64_t begin_ns, end_ns;
    uint64_t phase_ns[RUN_NUM_PHASES];
} run_times;

/* One rank's part of the window. */
typedef struct run_result {
    int32_t num_rows; /* R                                                       */
    int32_t num_workers;
    int32_t node;
    int32_t num_runs;  /* timed, of `times`                                       */
    int32_t is_steady; /* all repetitions gave the same bits                      */
    uint64_t symmetric_bytes;
    uint64_t load_ns;     /* reading and packing weights                             */
    run_times *times;     /* [num_runs]                                              */
    int32_t *expert_rows; /* [L]                                                     */
    int32_t *topk_idx;    /* [T_max, K]                                              */
    float *topk_weight;   /* [T_max, K]                                              */
    float *shared_gate;   /* [T_max] or NULL                                         */
    float *output;        /* [T_max, H]                                              */
} run_result;

uint64_t run_result_bytes(const run_job *job);
/* The part at `base`, with pointers as they are in this process. */
run_result *run_result_at(const run_job *job, uint8_t *base);

/* ---- a rank ---- */

/* Shared experts of one rank: an operator of its own over one rank and one expert. */
typedef struct run_shared {
    epf_group *group;
    epf_op *op;
    epf_layer_context *context;
    epf_weight *w13, *w2;
    void *topk_idx;       /* [T] zeros, where the operator's tensors are, as all below */
    void *gate;           /* [T]                                                       */
    void *output;         /* [T, H] token type                                         */
    void *first, *second; /* weights; only kept on a device, which does not copy them */
    void *host_output;    /* [T, H] */
} run_shared;

/* The operator's tensors where it reads and writes them (cli_device.h). */
typedef struct run_tensors {
    void *tokens, *topk_idx, *topk_weight; /* of run_rank's host arrays */
    void *activation;                      /* [R, I] */
    void *output;                          /* [T, H] token type */
    void *first, *second;                  /* weights; only kept on a device */
} run_tensors;

/* How a rank ended. */
typedef struct run_end {
    int32_t code;   /* cli_exit                                            */
    int32_t is_own; /* found by this rank itself, not heard from another   */
    char text[768]; /* one line; "" if there is nothing to say             */
} run_end;

typedef struct run_rank {
    const run_job *job;
    epf_comm *comm; /* the caller's */
    int32_t rank;
    int32_t num_tokens; /* T */
    float *hidden;      /* [T, H] as in the file */
    void *tokens;       /* [T, H] token type     */
    int32_t *topk_idx;  /* [T, K] */
    float *topk_weight; /* [T, K] */
    float *shared_gate; /* [T]    */
    void *output;       /* [T, H] token type, back on the host */
    run_tensors seen;
    epf_group *group;
    epf_op *op;
    epf_layout *layout;
    epf_weight *w13, *w2;
    run_shared shared;
    epf_window *window;
    run_result *result; /* ours, in the window */
    int64_t num_rows;   /* R */
    bool is_profiling;
    bool has_output; /* of an earlier repetition: this one must give the same */
    run_end *end;
} run_rank;

/* The whole life of rank comm->rank, with the report on rank 0; returns end->code.  Collective. */
int run_rank_main(const run_job *job, epf_comm *comm, run_end *end);

/* Tokens of the token type once, and what the router found, to where the operator reads them. */
epf_status run_put_tokens(run_rank *r);
epf_status run_put_routing(run_rank *r);
/* Packs `shape` host elements; what a device must keep of them is *kept. */
epf_status run_pack_weight(epf_op *op, epf_weight_config *config, void **kept, epf_weight **weight);

/* Parts of it: load makes ready without any peer; steps are one repetition. */
epf_status run_shared_load(run_rank *r);
epf_status run_shared_forward(run_rank *r);
void run_shared_free(run_rank *r);
/* weights[t] = sigmoid(gate . hidden[t, :]), the sum in double, rounded once. */
epf_status run_shared_gate(const epf_tensor_view *gate, const float *hidden, int64_t num_tokens,
                           int32_t width, float *weights);
epf_status run_step_router(run_rank *r);
epf_status run_step_preprocess(run_rank *r);
/* One repetition, timed. */
epf_status run_step(run_rank *r, run_times *times);

/* A phase's profile: NAME_dispatch_group_gemm or NAME_group_gemm_combine. */
void run_profile_name(const char *name, bool is_dispatch, char out[RUN_PROFILE_BYTES]);

/* Collective: tells all ranks how a step without peers went here; keeps our own text if it failed.
 */
epf_status run_agree(run_rank *r, epf_status mine);

epf_tensor run_tensor(void *data, int32_t dtype, int32_t ndim, const int64_t shape[3]);

/* ---- rank 0 ---- */

typedef struct run_check {
    int64_t num_tokens; /* checked                                           */
    int64_t num_same;   /* routed as the reference routes                    */
    int64_t num_ties;   /* otherwise, where rounding may decide              */
    int64_t num_misrouted;
    double max_weight_error;           /* relative, of routing weights                      */
    double max_weight_ratio;           /* the same over its bound                           */
    double max_error;                  /* of the output                                     */
    double relative_error;             /* ||output - reference|| / ||reference||            */
    double max_ratio;                  /* largest error / bound; <= 1 passes                */
    double error_at_max;               /* where that is: its error, ...                     */
    double bound_at_max;               /* ... bound, ...                                    */
    int64_t worst_token, worst_column; /* ... and place                        */
    bool passed;
} run_check;

epf_status run_check_make(const run_job *job, run_result *const *ranks, run_check *check);

/* Output file, check, table; *matches: all that was asked for agrees. */
epf_status run_report_make(const run_job *job, const epf_window *window, bool *matches);

#endif
