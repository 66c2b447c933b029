/*
 * epfuse.h: expert-parallel all-to-all fused with the grouped GEMMs of a Mixture-of-Experts layer.
 *
 * Letters, used in every comment below
 *   W  ranks of the group (num_ranks)         E  experts in all (num_tot_experts)
 *   L  experts per rank, L = E / W            K  experts chosen per token (topk)
 *   H  hidden size                            N  columns a grouped GEMM writes
 *   T  tokens of this rank in this call       T_max  max_tokens, the bound on T of every rank
 *   R  rows this rank received                M_grid  M-tiles of this rank's rows
 *   slot: a pair (token, k) on its source rank, number s = token * K + k
 *   row:  a copy of a token on the rank that owns the expert
 *
 * What holds for every function, unless it says otherwise
 *   - Collective functions are called by all ranks of the group, in the same order, each rank from one
 *     thread at a time.  Operators of different groups may be used from different threads at once.
 *   - Tensors are row-major; the last dimension is contiguous, leading ones may be strided.  A tensor
 *     with ndim 0 counts as not given; data may be NULL where there are no elements.
 *   - Memory is host memory for EPF_BACKEND_CPU, where calls return when their work is done, and device
 *     memory for EPF_BACKEND_CUDA, where calls are enqueued ("Streams" below).
 *   - Results are a pure function of the inputs: same inputs, same bits, whatever the timing, the
 *     number of workers, the combine mode.  fp32 accumulation, one rounding to the token type.
 *   - NaN and infinity are data, routing weights' too: a NaN reaches what is computed with it, no other token.
 *   - Every wait ends: by success, by an error of a peer, or by the group's timeout.
 *   - No function prints, exits, aborts or traps.  Outputs are complete only if EPF_OK is returned.
 *     Bad arguments are EPF_E_INVALID and found before anything is sent; epf_last_error() names the
 *     argument, what it was and what it must be.
 *   - A layout, a weight or a context outlives its operator only to be destroyed.
 *   - Running out of memory in the middle of a collective call is told to all ranks, and the operator needs
 *     epf_op_reset() on all: EPF_E_NO_MEMORY ends the call they are in or, on a rank that was through with it,
 *     the next one.  If that one first has to meet the others (its buffers grow; every 2^32 calls epochs start
 *     again), it ends with EPF_E_STATE when the failed rank resets, or with EPF_E_TIMEOUT when it does not.
 *   - Structs that start with struct_size are filled by their _init function first; an older or newer
 *     caller's struct is accepted as long as it sets no field that this version does not know.
 *
 * The public model is EpAll2AllFusedOp of Triton-distributed (docs/ORIGINAL.md maps its names to ours).
 */
#ifndef EPFUSE_H
#define EPFUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_dtype.h"
#include "epfuse/epfuse_group.h"
#include "epfuse/epfuse_status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EPF_VERSION_MAJOR 0
#define EPF_VERSION_MINOR 1
#define EPF_VERSION_PATCH 0

/** A knob left to the library.  Every integer knob below defaults to it unless a default is named. */
#define EPF_AUTO 0

/** "0.1.0": the version of the library that is linked, not of this header. */
EPF_API const char *epf_version(void);

/** One line: what the status means. */
EPF_API const char *epf_status_text(epf_status status);

/** "EPF_E_INVALID" for EPF_E_INVALID, and so on. */
EPF_API const char *epf_status_name(epf_status status);

/** What the calling thread's last failed call found: one line, "" if none failed; never NULL. */
EPF_API const char *epf_last_error(void);

/* ---------------------------------------------------------------------------------------------- */
/* Tensors */
/* ---------------------------------------------------------------------------------------------- */

enum { EPF_MAX_DIMS = 4 };

typedef struct epf_tensor {
    void *data;                   /* aligned to its elements; inputs are never written through it */
    int32_t dtype;                /* epf_dtype */
    int32_t ndim;                 /* 1 .. EPF_MAX_DIMS; 0: not given */
    int64_t shape[EPF_MAX_DIMS];  /* elements */
    int64_t stride[EPF_MAX_DIMS]; /* elements; of the last dimension 1 */
} epf_tensor;

/**
 * Describe contiguous memory.
 *
 * @param shape  [ndim], each >= 0
 * @return EPF_E_INVALID  NULL tensor or shape, ndim outside 1..4, unknown dtype, negative or overflowing shape
 */
EPF_API epf_status epf_tensor_make(epf_tensor *tensor, void *data, epf_dtype dtype, int32_t ndim,
                                   const int64_t *shape);

/* ---------------------------------------------------------------------------------------------- */
/* Operator */
/* ---------------------------------------------------------------------------------------------- */

typedef enum epf_backend { EPF_BACKEND_CPU = 1, EPF_BACKEND_CUDA = 2 } epf_backend;

/** The library that multiplies tiles on the CPU. */
typedef enum epf_gemm_library {
    EPF_GEMM_LIBRARY_AUTO = 0,
    EPF_GEMM_LIBRARY_ONEDNN = 1,
    EPF_GEMM_LIBRARY_LIBXSMM = 2,
    EPF_GEMM_LIBRARY_PORTABLE = 3
} epf_gemm_library;

/** One expert-parallel operator: its buffers, counters and workers on this rank. */
typedef struct epf_op epf_op;

typedef struct epf_op_config {
    uint32_t struct_size;    /* set by epf_op_config_init() */
    int32_t backend;         /* epf_backend; default EPF_BACKEND_CPU */
    int32_t max_tokens;      /* T_max; required, >= 1; equal on every rank */
    int32_t hidden;          /* H; required, a multiple of 8 */
    int32_t topk;            /* K; required, 1..32 */
    int32_t num_tot_experts; /* E; required, W divides it */
    int32_t dtype;           /* epf_dtype of tokens: BF16 (default), F16, F32 */
    int32_t weight_dtype;    /* epf_dtype of routing weights and gates: F32 (default), BF16 */
    int32_t num_sm;          /* workers that move tokens first; default EPF_AUTO: all of them */
    int32_t sm_margin;       /* workers started but held back; default 0 */
    int32_t duplicate_comm_buffer; /* sets of communication buffers, 1..8; default 1 */
    double capacity;               /* rows per buffer = ceil(T_max K min(capacity, W)); default 4 */
    int32_t fwd_gemm_block_size_n; /* N of a GEMM tile; default 256; a multiple of 8 <= 4096 */
    bool need_reversed_token_scatter_idx; /* expose that field of the layout; default false */
    bool lazy;                            /* take memory in epf_op_sync() only; default false */
    bool allow_regrow;   /* buffers grow when a call needs more rows; default true */
    int32_t num_workers; /* threads, the caller's included; EPF_AUTO: its share of cores.
                            CUDA: CTAs, an even number; EPF_AUTO: its share of SMs, sm_margin of them held back */
    bool pin_workers;    /* pin all threads but the caller's to cores of this rank; default false */
    int32_t gemm_library; /* epf_gemm_library; default AUTO; the CPU's choice only */
    int32_t device;       /* CUDA: the device's number; default -1: the thread's current one */
    void *stream;         /* CUDA: a cudaStream_t; default NULL: a non-blocking one of its own */
} epf_op_config;

EPF_API epf_status epf_op_config_init_sized(epf_op_config *config, size_t struct_size);
#define epf_op_config_init(config) epf_op_config_init_sized((config), sizeof *(config))

/**
 * Make the operator; takes its communication memory unless config->lazy.  Collective.
 *
 * @return EPF_E_INVALID      a field is out of range, or differs between ranks (the same error on all)
 * @return EPF_E_UNSUPPORTED  a field this backend cannot honour
 * @return EPF_E_NO_MEMORY    on any rank: the same error on all
 */
EPF_API epf_status epf_op_create(epf_group *group, const epf_op_config *config, epf_op **op);

/** Take the communication memory of a lazy operator; does nothing the second time.  Collective. */
EPF_API epf_status epf_op_sync(epf_op *op);

/** epf_op_sync by its other name. */
EPF_API epf_status epf_op_materialize(epf_op *op);

/** Give the communication memory back; does nothing the second time.  Collective the first time: with CUDA all ranks have
 *  freed theirs when it returns. */
EPF_API epf_status epf_op_finalize(epf_op *op);

/** Finalize if needed and free everything; accepts NULL.  Not collective: peers need not be there.  With CUDA it waits for
 *  what runs on the device ("Streams" below), and peers must not be reading this rank's memory: all ranks call
 *  epf_op_finalize() before, unless one of them has failed. */
EPF_API_VOID void epf_op_destroy(epf_op *op);

/** Bytes of symmetric memory of this rank, whether taken yet or not (lazy). */
EPF_API epf_status epf_op_symmetric_bytes(const epf_op *op, uint64_t *bytes);

/** The same in MiB (2^20 bytes). */
EPF_API epf_status epf_op_symmetric_mb(const epf_op *op, double *mb);

/** The same in GiB (2^30 bytes). */
EPF_API epf_status epf_op_symmetric_gb(const epf_op *op, double *gb);

typedef struct epf_buffer_info {
    const char *name;   /* static                                    */
    int32_t buffer_set; /* comm_buffer_id, or -1: shared by all sets */
    uint64_t offset;    /* bytes, from the start of its window       */
    uint64_t bytes;     /* payload; the sizes with padding add up to epf_op_symmetric_bytes */
    uint64_t padding;   /* bytes behind it that alignment costs      */
} epf_buffer_info;

/**
 * Symmetric memory by buffer name.
 *
 * @param infos  [max] out, may be NULL if max is 0
 * @param count  out: how many buffers there are, also if max is smaller
 */
EPF_API epf_status epf_op_symmetric_breakdown(const epf_op *op, epf_buffer_info *infos, int32_t max,
                                              int32_t *count);

/** Who waited for what, when a collective call failed. */
typedef struct epf_error_record {
    int32_t status;     /* epf_status; EPF_OK: nothing found                        */
    int32_t rank;       /* the rank that found it                                   */
    int32_t worker;     /* its worker                                               */
    const char *object; /* name of the counter it waited for; static                */
    int32_t peer;       /* the rank it waited for; -1 if not known                  */
    int64_t index;      /* which counter of that name                               */
    uint64_t expected;  /* counter value it waited for                              */
    uint64_t seen;      /* value it saw                                             */
} epf_error_record;

/** What the operator found, if anything; never waits.  Sticky until epf_op_reset(). */
EPF_API epf_status epf_op_poll_error(const epf_op *op, epf_error_record *record);

/**
 * Bring the operator back after an error: all ranks meet and agree on a fresh epoch.  Collective.
 *
 * A rank that resets ends what others wait for in the group, who then get EPF_E_STATE and reset as well.
 *
 * @return EPF_E_TIMEOUT, EPF_E_PEER   not all came: the operator stays closed, and may be reset again
 */
EPF_API epf_status epf_op_reset(epf_op *op);

/** All ranks meet.  Collective.  With CUDA it waits for the stream. */
EPF_API epf_status epf_op_barrier(epf_op *op);

/*
 * Streams (EPF_BACKEND_CUDA)
 *   - epf_preprocess, the two operations and the layer are enqueued on the operator's stream and return.
 *     Tensors are device memory; they must stay as they are until the stream has passed the call.
 *   - Arguments are checked at once.  What goes wrong on the device shows in epf_op_poll_error() and
 *     epf_op_synchronize(), and ends the calls behind it as well.  Routing that preprocess refuses shows in
 *     epf_layout_get() on all ranks; calls with such a layout leave their results as they are.
 *   - The host does not know a layout's row counts until epf_layout_get() has waited for them.  Before that, results have
 *     capacity size: epf_*_result tensors and the operator's own memory have the rows of the buffer set, tensors of the
 *     caller count with the rows they have.  A device that meets more rows than the smallest holds gives EPF_E_CAPACITY
 *     on all ranks, and the operator needs epf_op_reset().
 *   - Growing (allow_regrow) takes the host: a call whose buffers could be too small, capacity being below W, waits for the
 *     row counts first, as epf_layout_get() does, unless it is being captured or its layout is filled by a graph.  Without
 *     such waits: capacity = W, or allow_regrow = false.  So must a thread do that enqueues for several ranks.
 *   - A call with buffers of capacity size can be captured in a CUDA graph, once the same call has been made outside of
 *     it (which takes the operator's memory).  T is then part of the graph.  After a replay epf_op_synchronize() comes before
 *     epf_layout_get().  All ranks replay alike.
 *   - A profiled call (enable_profiler) records on the device, waits for its stream and writes its file before it returns: a
 *     rank must not wait in it for another rank's call of the same thread.  While the stream is being captured it is
 *     refused: EPF_E_STATE.
 *   - Tokens are bf16 or fp16; matrices start at, and have rows at, multiples of 16 bytes.
 *   - Taking device memory is for first and growing calls; freeing it waits for what runs on that device.  Ranks that are
 *     threads and share one meet after epf_op_destroy(), and after destroying a layout or a context whose operator is gone,
 *     before they go on with calls that wait for each other.  (Destroying one whose operator is there frees nothing: the
 *     operator keeps the memory for the next.)
 */

/**
 * The stream of all later calls, which wait there for the earlier ones.  Not while either is being captured.
 *
 * @param stream  a cudaStream_t of the operator's device; NULL: the operator's own
 * @return EPF_E_UNSUPPORTED  the CPU backend has no streams
 */
EPF_API epf_status epf_op_set_stream(epf_op *op, void *stream);

/** The operator's stream, a cudaStream_t; NULL with EPF_BACKEND_CPU. */
EPF_API epf_status epf_op_stream(const epf_op *op, void **stream);

/**
 * Wait until all that was enqueued is done; a few times the group's timeout at most.  Not collective.
 *
 * @return what ended the operator's calls, as epf_op_poll_error() shows it, or EPF_OK
 * @return EPF_E_TIMEOUT  the stream did not come to its end
 */
EPF_API epf_status epf_op_synchronize(epf_op *op);

/**
 * This rank's send buffer of a set, for with_cpy_flag = false: [T_max, H] of the token type, valid until
 * finalize or a call that regrows the set.
 */
EPF_API epf_status epf_op_send_buffer(epf_op *op, int32_t comm_buffer_id, epf_tensor *buffer);

/** This rank's gate buffer of a set, for cp_flag = false: [rows of capacity] of the weight type. */
EPF_API epf_status epf_op_gate_buffer(epf_op *op, int32_t comm_buffer_id, epf_tensor *buffer);

/* ---------------------------------------------------------------------------------------------- */
/* Preprocess and the layout */
/* ---------------------------------------------------------------------------------------------- */

/** What travels where: a pure function of all ranks' routing (EPAllToAllLayoutDesc of the original). */
typedef struct epf_layout epf_layout;

typedef struct epf_preprocess_args {
    uint32_t struct_size;             /* set by epf_preprocess_args_init() */
    epf_tensor exp_indices;           /* [T, K] int32: expert of each slot; E or -1: dropped */
    epf_tensor full_scatter_indices;  /* [T, K] int32, optional: row of each slot sent, counted
                                        over all ranks' buffers laid end to end */
    epf_tensor local_scatter_indices; /* [T, K] int32, optional: stable position of each slot among
                                         this rank's slots sorted by expert id */
} epf_preprocess_args;

EPF_API epf_status epf_preprocess_args_init_sized(epf_preprocess_args *args, size_t struct_size);
#define epf_preprocess_args_init(args) epf_preprocess_args_init_sized((args), sizeof *(args))

/**
 * Count, exchange the counts between ranks, and lay out the rows of every rank.  Collective.
 *
 * Rows of a rank are ordered by (local expert, source rank, slot), without gaps.  Given scatter indices
 * decide the order inside a (local expert, source rank) segment instead of the slot order.
 *
 * @param layout  in: NULL to make one, or one of this operator to fill again (no allocation unless larger)
 * @return EPF_E_INVALID   a bad argument or expert id, or scatter indices that are no permutation, on
 *                         any rank: the same error on all ranks, nothing sent, the next call works
 * @return EPF_E_STATE     lazy and not synced, finalized, or an earlier error was not reset
 * @return EPF_E_TIMEOUT, EPF_E_PEER   see epf_op_poll_error()
 */
EPF_API epf_status epf_preprocess(epf_op *op, const epf_preprocess_args *args, epf_layout **layout);

/** Read-only arrays of a layout; valid until it is filled again or destroyed. */
typedef struct epf_layout_view {
    int32_t num_dispatch_token_cur_rank;       /* T of this rank */
    int32_t num_recv_rows;                     /* R of this rank */
    int32_t max_recv_rows;                     /* largest R of any rank */
    const int32_t *recv_buf_offset_per_expert; /* [W, L, W]  first row: rank, expert, source */
    const int32_t *recv_buf_tokens_per_expert; /* [W, L]     rows of each rank's local experts */
    const int32_t *num_recv_tokens_per_rank;   /* [W]        R of every rank */
    const int32_t *num_input_tokens_per_rank;  /* [W]        T of every rank */
    const int32_t *topk_indices_tensor;        /* [1, T_max, K]  expert ids; -1 past T */
    const int32_t *token_dst_scatter_idx; /* [1, T_max, K]  row on the destination; -1 dropped */
    const int32_t *token_sort_indices; /* [1, T_max * K] slots in sending order: by (local expert,
                                                   destination, slot); -1 past the last */
    const int32_t *reversed_token_scatter_idx; /* [W * T_max * K, 2] (slot, source) of each row;
                                                  -1 past R; NULL unless asked for */
    int32_t block_m;                           /* rows of a tile in the tables below, which follow
                                                   the gemm_block_size_m of the layout's last call */
    int32_t num_tiles_total;                   /* M_grid */
    const int32_t *expert_ids;                 /* [M_grid]   local expert of each M-tile */
    const int32_t *split_size;                 /* [L]        rows of each local expert */
    const int32_t *split_size_cum;             /* [M_grid]   first row of that tile's expert */
    const int32_t *split_size_cum_per_expert;  /* [L]        exclusive prefix sum of split_size */
    const int32_t *tile_num;                   /* [M_grid]   tiles of that tile's expert */
    const int32_t *tile_num_cum;               /* [M_grid]   inclusive prefix sum of tiles */
    const int32_t *expert_tile_offset;         /* [L]        exclusive prefix sum of tiles */
} epf_layout_view;

/**
 * Look into a layout.  With CUDA its arrays are device memory, num_tiles_total and the row counts are not: waits until
 * the device has written those, within the group's timeout.
 *
 * @return EPF_E_INVALID  the routing was refused (CUDA); as epf_preprocess() returns it with the CPU
 */
EPF_API epf_status epf_layout_get(const epf_layout *layout, epf_layout_view *view);

/** Accepts NULL.  With CUDA its memory stays with the operator, for the next layout. */
EPF_API_VOID void epf_layout_destroy(epf_layout *layout);

/**
 * The receive buffers a call with this layout will use (init_output_buffer of the original): grows them
 * if they are too small.  Collective.  With CUDA it waits as epf_layout_get() does.
 *
 * @param output_buf       out: [R, H] of the token type, in the window
 * @param weight_recv_buf  out: [R] of the weight type, in the window
 * @return EPF_E_CAPACITY  more rows needed than there are, and allow_regrow is off: on all ranks
 */
EPF_API epf_status epf_init_output_buffer(epf_op *op, const epf_layout *layout,
                                          int32_t comm_buffer_id, epf_tensor *output_buf,
                                          epf_tensor *weight_recv_buf);

/* ---------------------------------------------------------------------------------------------- */
/* Weights */
/* ---------------------------------------------------------------------------------------------- */

/** This rank's experts' weights of one grouped GEMM, packed once for the tile product. */
typedef struct epf_weight epf_weight;

typedef struct epf_weight_config {
    uint32_t struct_size; /* set by epf_weight_config_init() */
    epf_tensor tensor;    /* [L, N, K'] (reduce_last_dim) or [L, K', N], token type; read now */
    bool reduce_last_dim; /* default true */
    bool gate_up; /* columns are I gate then I up, for EPF_ACTIVATION_SWIGLU; default false */
    int32_t gemm_block_size_n; /* EPF_AUTO: the operator's fwd_gemm_block_size_n */
    int32_t gemm_block_size_k; /* EPF_AUTO: all of K'; else the reduction is cut in such pieces */
} epf_weight_config;

EPF_API epf_status epf_weight_config_init_sized(epf_weight_config *config, size_t struct_size);
#define epf_weight_config_init(config) epf_weight_config_init_sized((config), sizeof *(config))

/** Pack; the tensor is not needed afterwards.  Not collective.  With CUDA nothing is copied: the tensor stays, and
 *  outlives the weight. */
EPF_API epf_status epf_weight_create(epf_op *op, const epf_weight_config *config,
                                     epf_weight **weight);

/** Accepts NULL. */
EPF_API_VOID void epf_weight_destroy(epf_weight *weight);

/* ---------------------------------------------------------------------------------------------- */
/* The two fused operations */
/* ---------------------------------------------------------------------------------------------- */

/** The tile tables of a grouped GEMM; all int32, all optional: the layout knows them.  Given ones must agree.  With CUDA
 *  all but the very arrays of the layout's view are compared by the host: the call waits until the stream is empty. */
typedef struct epf_tile_tables {
    epf_tensor expert_ids;      /* [>= M_grid] */
    epf_tensor split_size;      /* [L]         */
    epf_tensor split_size_cum;  /* [>= M_grid] */
    epf_tensor tile_num;        /* [>= M_grid] */
    epf_tensor tile_num_cum;    /* [>= M_grid] */
    epf_tensor num_tiles_total; /* [1]         */
    epf_tensor expert_offs;     /* [L] exclusive prefix sum of tiles (expert_tile_offset) */
} epf_tile_tables;

typedef enum epf_activation { EPF_ACTIVATION_NONE = 0, EPF_ACTIVATION_SWIGLU = 1 } epf_activation;

typedef struct epf_dispatch_group_gemm_args {
    uint32_t struct_size; /* set by epf_dispatch_group_gemm_args_init() */
    epf_layout *layout;   /* of preprocess */
    epf_tensor input;     /* [T, H] token type; not looked at if with_cpy_flag is false */
    epf_tensor
        exp_indices;   /* [T, K] int32, optional: must equal the layout's; with CUDA the contents
                                         are not looked at */
    epf_tensor weight; /* [T, K] weight type, optional: routing weights to send along;
                                         on all ranks that have tokens, or on none */
    epf_tensor gemm_weight; /* [L, N, H] or [L, H, N] token type: packed on every call ... */
    const epf_weight *packed_weight; /* ... or this, packed once: exactly one of the two */
    epf_tile_tables tiles;           /* optional */
    bool with_cpy_flag;     /* default true; false: tokens already are in the send buffer */
    int32_t comm_buffer_id; /* which set, 0 .. duplicate_comm_buffer - 1, equal on every rank;
                                         default 0 */
    int32_t optional_sm;    /* workers that dispatch first; EPF_AUTO: the operator's num_sm */
    int32_t num_tail_sms;   /* workers that expand from the start (two-stage); default 0: the
                                         dispatching workers expand when all is sent (one stage) */
    bool gemm_input_reduce_last_dim;  /* default true; false is EPF_E_UNSUPPORTED */
    bool gemm_weight_reduce_last_dim; /* default true: [L, N, H] */
    epf_tensor gemm_output_data;      /* [>= R, N] token type, optional out */
    epf_tensor dispatch_output;       /* [>= R, H] token type, optional out: a copy of the rows */
    epf_tensor weight_recv;           /* [>= R] weight type, optional out: a copy */
    int32_t
        gemm_block_size_m; /* default EPF_AUTO: 128; the layout's tile tables follow it; CUDA: 128 */
    int32_t
        gemm_block_size_n; /* EPF_AUTO: the packed weight's, else fwd_gemm_block_size_n; CUDA: 256 */
    int32_t gemm_block_size_k;   /* EPF_AUTO: the packed weight's, else all of H; CUDA: 64 */
    int32_t gemm_group_size_m;   /* M-tiles swept together; default 3 */
    int32_t gemm_num_stages;     /* EPF_AUTO or 1: the CPU has no ring of stages to size; CUDA: 4 */
    bool use_block_wise_barrier; /* a tile waits for its own rows; default false: its expert's */
    int32_t num_warps;           /* slots one dispatch task moves; default 16; 1..32 */
    int32_t activation;          /* epf_activation; SWIGLU needs weight, see activation_output */
    epf_tensor activation_output; /* [>= R, N / 2] token type, out; required by SWIGLU */
    bool keep_gemm_output; /* default true; false with SWIGLU: only the activation is written */
    bool enable_profiler;  /* default false; CUDA: the call is waited for */
    const char *profile_file_name; /* prof/mega/<name>_rank_<r>.perfetto-trace */
} epf_dispatch_group_gemm_args;

EPF_API epf_status epf_dispatch_group_gemm_args_init_sized(epf_dispatch_group_gemm_args *args,
                                                           size_t struct_size);
#define epf_dispatch_group_gemm_args_init(args) \
    epf_dispatch_group_gemm_args_init_sized((args), sizeof *(args))

/** Where the results are: the caller's tensors where given, else the operator's own memory, which is valid
 *  until the next call that uses the same comm_buffer_id. */
typedef struct epf_dispatch_group_gemm_result {
    epf_tensor dispatch_output; /* [R, H]                                    */
    epf_tensor weight_recv;     /* [R]; ndim 0 if no weights were given; undefined on
                                   a rank without tokens if no other gave any */
    epf_tensor gemm_output;     /* [R, N]; ndim 0 if not kept                */
} epf_dispatch_group_gemm_result;

/**
 * Send each token to the ranks that own its experts and multiply the rows as they arrive.  Collective.
 *
 * For each slot not dropped, with destination row r on the rank of its expert:
 *
 *     dispatch_output[r, :] = input[token, :]                              bit for bit
 *     weight_recv[r]        = weight[token, k]                             bit for bit
 *     gemm_output[r, :]     = dispatch_output[r, :] x gemm_weight[expert(r)]
 *     activation_output[r, i] = silu(g[i]) * u[i] * weight_recv[r]
 *
 * g and u are the halves of gemm_output's row: before it is rounded on the CPU, rounded to the token type on CUDA.
 * A token that several experts of one rank want crosses once; the receiver fills the other rows.
 * Rows past R are not written.
 * Method: tile-level overlap of all-to-all and grouped GEMM as in Comet (Zhang et al., 2025) and
 * Triton-distributed's EP megakernel; protocol and schedule: docs/DESIGN.md.
 *
 * @param result  out, may be NULL
 * @return EPF_E_INVALID      bad argument: nothing was sent; peers in the call wait for this rank's valid
 *                            one, until their timeout
 * @return EPF_E_UNSUPPORTED  a knob that cannot be honoured here
 * @return EPF_E_CAPACITY     as epf_init_output_buffer
 * @return EPF_E_STATE, EPF_E_TIMEOUT, EPF_E_PEER, EPF_E_NO_MEMORY
 */
EPF_API epf_status epf_dispatch_group_gemm(epf_op *op, const epf_dispatch_group_gemm_args *args,
                                           epf_dispatch_group_gemm_result *result);

typedef enum epf_combine_mode {
    EPF_COMBINE_SERIAL = 0,
    EPF_COMBINE_FUSE_SCATTER = 1,
    EPF_COMBINE_AUTO =
        2 /* the faster one as measured: fuse_scatter among several ranks on CUDA and with
                            optional_sm or num_reduce_sms, else serial; the same bits */
} epf_combine_mode;

typedef struct epf_group_gemm_combine_args {
    uint32_t struct_size;             /* set by epf_group_gemm_combine_args_init() */
    epf_layout *layout;               /* of preprocess */
    epf_tensor gemm_input_data;       /* [>= R, K'] token type */
    epf_tensor gemm_weight;           /* [L, H, K'] or [L, K', H] token type, or ... */
    const epf_weight *packed_weight;  /* ... packed once: exactly one of the two */
    epf_tile_tables tiles;            /* optional */
    bool gemm_input_reduce_last_dim;  /* default true; false is EPF_E_UNSUPPORTED */
    bool gemm_weight_reduce_last_dim; /* default true: [L, H, K'] */
    int32_t comm_buffer_id;           /* which set; default 0 */
    int32_t gemm_block_size_m;        /* default EPF_AUTO: 128 */
    int32_t gemm_block_size_n;        /* EPF_AUTO: as in dispatch */
    int32_t gemm_block_size_k;        /* EPF_AUTO: as in dispatch */
    int32_t gemm_group_size_m;        /* default 3 */
    int32_t gemm_num_stages;          /* as in dispatch */
    epf_tensor gate_input;            /* [>= R] weight type, optional: a value per row ...; on all
                                         ranks that have rows, or on none */
    bool cp_flag;               /* default true; false: gates already are in the gate buffer */
    epf_tensor output_gate;     /* [T, K] weight type, out: ... brought back to its slot;
                                         optional */
    epf_tensor combine_weights; /* [T, K] fp32, optional: weighted instead of plain sum */
    epf_tensor combine_output;  /* [T, H] token type, optional out */
    int32_t optional_sm;        /* fuse_scatter: workers that only scatter and reduce; EPF_AUTO:
                                         none, the GEMM's epilogue writes to the owners itself */
    int32_t
        num_reduce_sms; /* fuse_scatter: workers that reduce from the start; default 0; CUDA: both
                                         together in pairs of CTAs, one pair left to multiply */
    epf_tensor optional_signal_tensor; /* [>= M_grid] int32, optional: entry t counts, with release
                                          order, the finished N-tiles of M-tile t; CUDA: all of
                                          them at once, when the last is */
    int32_t num_warps;                 /* tokens one reduce task sums; default 32; 1..32 */
    int32_t combine_mode;              /* epf_combine_mode; default SERIAL; equal on every rank */
    epf_tensor grad_output;            /* [>= R, N'] token type, optional: with orig_input ... */
    epf_tensor orig_input;             /* [>= R, K''] token type: ... */
    epf_tensor grad_weight; /* [L, N', K''] token type or fp32, out: ... the weight gradient */
    epf_tensor split_size_cum_per_expert; /* [L] int32, optional: must agree with the layout */
    int32_t grad_block_size_m;            /* tile along N'; EPF_AUTO: 256; CUDA: 128 */
    int32_t grad_block_size_n;            /* tile along K''; EPF_AUTO: 512; CUDA: 256 */
    int32_t grad_block_size_k; /* rows summed per step; EPF_AUTO: all of an expert's; CUDA: 64 */
    int32_t grad_group_size_m; /* default 3 */
    bool enable_profiler;      /* default false; CUDA: the call is waited for */
    const char *profile_file_name; /* default "mega_group_gemm_combine" */
} epf_group_gemm_combine_args;

EPF_API epf_status epf_group_gemm_combine_args_init_sized(epf_group_gemm_combine_args *args,
                                                          size_t struct_size);
#define epf_group_gemm_combine_args_init(args) \
    epf_group_gemm_combine_args_init_sized((args), sizeof *(args))

typedef struct epf_group_gemm_combine_result {
    epf_tensor combine_output; /* [T, H]                                  */
    epf_tensor output_gate;    /* [T, K]; ndim 0 if no gates were sent    */
} epf_group_gemm_combine_result;

/**
 * Multiply the rows by the second weights, bring each row back to the rank that sent it, sum per token.
 * Collective.
 *
 *     y[r, :]               = gemm_input_data[r, :] x gemm_weight[expert(r)]     rounded to the token type
 *     combine_output[t, :]  = sum over k of combine_weights[t, k] * y[row(t, k), :]   in fp32, k ascending;
 *                             without combine_weights each factor is 1
 *     output_gate[t, k]     = gate_input[row(t, k)]                              0 for a dropped slot
 *     grad_weight[g]        = grad_output[rows of g]^T x orig_input[rows of g]   zeros without rows
 *
 * SERIAL: all tiles, a barrier over all ranks, then each rank pulls and sums its rows.  FUSE_SCATTER:
 * rows leave for their owner as their tiles finish, each token is summed when its last row is there.
 * Both give the same bits.
 *
 * @param result  out, may be NULL
 * @return as epf_dispatch_group_gemm
 */
EPF_API epf_status epf_group_gemm_combine(epf_op *op, const epf_group_gemm_combine_args *args,
                                          epf_group_gemm_combine_result *result);

#ifdef __cplusplus
}
#endif

#include "epfuse/epfuse_layer.h"

#endif
