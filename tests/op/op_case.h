/*
 * op_case.h: one problem with one setting of the knobs, run on all ranks through the public API and
 * compared with the reference.
 *
 * A case runs, on every rank: create, preprocess, dispatch + GEMM 1 (with SwiGLU if asked for), GEMM 2 +
 * combine (with gates and weight gradient if asked for), `repeat` times; then destroy.  Every result is
 * compared after every repetition, to the bit where inputs are integers, within the bound elsewhere.
 */
#ifndef OP_CASE_H
#define OP_CASE_H

#include "op_matrix.h"
#include "support/epf_data.h"

typedef struct op_knobs {
    int32_t num_workers, num_sm, sm_margin;       /* 0: library's choice                       */
    int32_t optional_sm, num_tail_sms;            /* of dispatch                               */
    int32_t combine_sm, num_reduce_sms;           /* of combine                                */
    int32_t block_n, block_k, group_m, num_warps; /* 0: default                                */
    int32_t grad_block_m, grad_block_n, grad_block_k;
    int32_t num_buffers, buffer; /* duplicate_comm_buffer, comm_buffer_id     */
    int32_t gemm_library;
    int32_t repeat;
    int32_t guard_cols; /* gap between rows of the caller's tensors                       */
    int32_t grad_dtype; /* of the weight gradient; 0: none                                */
    double capacity;    /* 0: the problem's                                               */
    bool block_wise;
    bool b1_transposed, b2_transposed;
    bool packed;         /* weights packed once                                            */
    bool weight_gaps;    /* between rows and between experts of the weights                */
    bool tables;         /* give tile tables                                               */
    bool in_place;       /* with_cpy_flag = false: tokens written to the send buffer       */
    bool gates;          /* gate_input and output_gate                                     */
    bool gates_in_place; /* cp_flag = false                                                */
    bool combine_weights;
    bool no_weights; /* no routing weights are sent                                    */
    bool swiglu;
    bool drop_gemm_output; /* with swiglu: keep_gemm_output = false                          */
    bool own_outputs;      /* outputs given by the caller                                    */
    bool local_scatter, full_scatter;
    bool lazy, no_regrow, pin, reversed;
    bool signal;
    bool init_buffer; /* epf_init_output_buffer before dispatch                         */
    bool profile;
    bool mixed;      /* workers and tile sizes differ from rank to rank                */
    bool omit_empty; /* a rank without tokens passes no tensors to dispatch            */
} op_knobs;

/* Of the problem's numbers: any knob, legal values only. */
op_knobs op_knobs_random(uint64_t number, const epf_problem *problem);

/* What all ranks must find; one rank's. */
typedef struct op_expected {
    epf_ref_matrix x, weight, gemm, h, y, output, gate_in, gate, grad;
} op_expected;

enum { OP_GATHER_BYTES = 1 << 16 };

/* An all-gather through shared memory, for groups of processes. */
typedef struct op_gather op_gather;
op_gather *op_gather_make(int32_t num_ranks);
void op_gather_free(op_gather *gather);

typedef struct op_case {
    const epf_data *data;
    op_knobs knobs;
    bool processes;
    bool processes_on_device; /* nothing before has started the device: forked ranks may */
    uint64_t timeout_ns;      /* of the group; default 20 s                     */
    epf_ref_route route;
    epf_ref_tensor b2_half; /* with swiglu: [E, H, N / 2]                     */
    op_expected ranks[EPF_PROBLEM_MAX_RANKS];
    epf_group *groups[EPF_PROBLEM_MAX_RANKS]; /* threads                                        */
    op_gather *gather;                        /* processes                                      */
    void *user;                               /* rank->user of a test's own function; NULL: this */
    void *outputs[EPF_PROBLEM_MAX_RANKS];     /* [T_r, H] each: the last result's bits          */
} op_case;

op_case *op_case_make(const epf_data *data, const op_knobs *knobs, bool processes);
void op_case_free(op_case *c);

/* 0, or the number of ranks that failed, each printed with `name` and the problem. */
int32_t op_case_run(op_case *c, const char *name);

/* The same with a function of the test's own, whose rank->user is c->user, or the case. */
int32_t op_run_function(op_case *c, epf_rank_function function, uint64_t may_die, const char *name);

/* Outputs of all ranks, [T_r, H] each, end to end on the host; data is freed by the caller. */
typedef struct op_rows {
    void *data;
    int64_t rows, cols;
    epf_dtype dtype;
} op_rows;
op_rows op_rows_of(const epf_data *data, void *const *outputs);
/* Of the same shape: true if the bits are the same, else prints where they are not. */
bool op_rows_equal(const char *name, const op_rows *got, const op_rows *want);

/*
 * Whether the chosen backend leaves out such a case, which is counted: on a device fp32, and groups of
 * processes, which have programs of their own.  op_run() and op_run_function() look themselves.
 */
bool op_leaves_out(const epf_problem *problem, bool processes);

/* What main() returns: 0 or 1, or EPF_TEST_SKIPPED where everything was left out.  Prints what was. */
int op_finish(int32_t failed);

/* Makes, runs, frees; true if all went well.  A routing that does not fit counts as well. */
bool op_run(const char *problem_text, const op_knobs *knobs, bool processes, const char *name);

/* ---- the steps, for tests that need only some of them; each returns false after recording why ---- */

enum { OP_MAX_COPIES = 32 };

/* A tensor of the case, which all ranks share on the host, in the space of the backend. */
typedef struct op_copy {
    const void *host;
    void *space;
    size_t bytes;
} op_copy;

typedef struct op_rank {
    op_case *c;
    epf_test_rank *rank;
    int32_t id;
    epf_group *group;
    epf_op *op;
    epf_layout *layout;
    epf_layout_view view;
    epf_weight *w1, *w2;
    op_matrix x, ids, weight, combine, local, full;  /* what the caller brings            */
    op_matrix dispatched, received, gemm, h, output; /* what it gets, if it brought it    */
    op_matrix gate_in, gate, grad, signal;
    op_matrix spread[2]; /* the weights, with gaps */
    epf_dispatch_group_gemm_result first;
    op_copy copies[OP_MAX_COPIES];
} op_rank;

/* The contiguous tensor, whose data is the case's, where the backend can read it; kept by the rank. */
epf_tensor op_in_space(op_rank *r, epf_tensor tensor);

/* This rank's first or second weights, there. */
epf_tensor op_weight_tensor(op_rank *r, bool second);
/* The values that travel back, into a tensor of the weight type. */
void op_store_gates(const op_rank *r, const epf_tensor *tensor);

/* Waits for what this rank has enqueued and says how it went; on the CPU calls have said so. */
epf_status op_settle(const op_rank *r);

/* The calls, with what they find on a device as well; of preprocess the layout is not taken. */
epf_status op_try_preprocess(op_rank *r, const epf_preprocess_args *args);
epf_status op_try_dispatch(op_rank *r, const epf_dispatch_group_gemm_args *args);
epf_status op_try_combine(op_rank *r, const epf_group_gemm_combine_args *args,
                          epf_group_gemm_combine_result *result);

enum { OP_ALL_CALLS = 3 };
/* The first `calls` of these three, up to the first error. */
epf_status op_try_calls(op_rank *r, int32_t calls);

epf_op_config op_config_of(const op_case *c);
/* The group's handle of this rank: made (processes) or taken (threads). */
bool op_open_group(epf_test_rank *rank, op_case *c, epf_group **group);
void op_close_group(op_case *c, epf_group *group);

bool op_open(op_rank *r, op_case *c, epf_test_rank *rank);
/* Parts of op_open(): all but the operator and its weights; the weights. */
bool op_prepare(op_rank *r, op_case *c, epf_test_rank *rank);
epf_status op_pack(op_rank *r);
void op_close(op_rank *r);
/* The same operator for another case of the same shape; given back with op_return(). */
void op_borrow(op_rank *r, op_case *c, const op_rank *owner);
void op_return(op_rank *r);
bool op_preprocess(op_rank *r);
bool op_check_layout(op_rank *r);
bool op_dispatch(op_rank *r);
/* What the last dispatch gave still is what it must be. */
bool op_check_dispatch(op_rank *r);
bool op_combine(op_rank *r);
/* The results of a combine are what they must be; its output's bits are kept with the case. */
bool op_check_combine(op_rank *r, const epf_group_gemm_combine_result *result);

/* A layer's three calls, on a device without waiting for any of them; then all its results. */
bool op_enqueue(op_rank *r, epf_group_gemm_combine_result *result);
bool op_check_enqueued(op_rank *r, const epf_group_gemm_combine_result *result);

/* The arguments that op_dispatch() and op_combine() would pass. */
epf_dispatch_group_gemm_args op_dispatch_args(op_rank *r);
epf_group_gemm_combine_args op_combine_args(op_rank *r);

#endif
