/*
 * epf_cuda_call.h: what a kernel of the operator gets, and the device memory that it keeps from call to call
 * (C11 and CUDA C++).
 *
 * A call is the same epf_call as on every backend, with device pointers.  What the host cannot know without
 * waiting for the device stays on the device: the epoch, the row counts, the epoch of the set's last combine.
 * So a launch has no argument that changes from call to call, and a CUDA graph of it can be replayed.
 */
#ifndef EPF_CUDA_CALL_H
#define EPF_CUDA_CALL_H

#include "core/epf_call.h"
#include "prof/epf_prof_record.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One per operator and rank, in device memory, zero when made.  Launches of a rank are ordered by its stream. */
typedef struct epf_cuda_state {
    uint32_t epoch;          /* of the last collective call that ended */
    uint32_t num_preprocess; /* its low bit: which half of posted is used next */
    uint32_t combine_epoch[EPF_MAX_BUFFER_SETS]; /* of the last combine with each set */
    uint32_t failed; /* 1: this rank has reported a failure to its host */
    /* Of the launch under way; the last CTA to leave zeroes them. */
    uint32_t left; /* CTAs that have left */
    uint32_t queue[2];
    uint32_t gemm_done;
    uint32_t grid_arrived[2]; /* of preprocess: CTAs that reached a grid barrier */
    uint32_t tickets[EPF_NUM_TASK_CLASSES];
} epf_cuda_state;

/* What preprocess says of a layout; on the device, and in host memory that the device writes. */
typedef struct epf_layout_head {
    uint32_t epoch;     /* of the preprocess that made it; its low 24 bits are the layout's tag */
    int32_t status;     /* epf_status: EPF_OK or why preprocess refused, equal on all ranks */
    int32_t num_tokens; /* T */
    int32_t num_slots;  /* sent by this rank */
    int32_t num_rows;   /* R of this rank */
    int32_t max_rows;   /* largest R of any rank */
    int32_t num_tiles;  /* M_grid */
    int32_t where;      /* status EPF_E_INVALID: slot of the first bad id, or -1 */
    int32_t value;      /* that id */
    int32_t rank;       /* whose it was */
    uint32_t
        num_finished; /* host copy: preprocess calls of this operator that ended; written last */
} epf_layout_head;

/* What ended this rank's call, in host memory that the device writes; `is_set` is written last. */
typedef struct epf_cuda_report {
    epf_fault fault;
    uint32_t is_set;
} epf_cuda_report;

/* How a recorded launch has dealt out its rows and tokens: what the numbers of its records mean. */
typedef struct epf_cuda_grain {
    int32_t slots_per_task; /* of a DISPATCH task */
    int32_t part_rows;      /* EXPAND: rows of a part of an M-tile */
    int32_t column_parts;   /* REDUCE: tasks of a token */
} epf_cuda_grain;

/*
 * One call.  Kernels do not look at call.phase's epoch, free_epoch and num_slots, nor at call.layout_epoch: the device
 * has its own in state and head.  All pointers are device pointers, also those of the tables call.control and call.set [W].
 */
typedef struct epf_cuda_call {
    epf_call call;
    epf_cuda_state *state;
    const epf_layout_head *head; /* phases; NULL in preprocess */
    uint64_t *tile_ready;        /* [max M-tiles] local words (epf_counter.h) */
    uint64_t *expert_ready;      /* [L] */
    uint64_t *tile_done;         /* [max M-tiles * EPF_CUDA_TILE_PARTS] */
    epf_cuda_report *report;
    uint64_t timeout_ns;
    uint64_t
        role_delay_ns; /* tests: each warp begins its role late by a random time below this; 0: at once */
    epf_prof_record *
        records; /* [CTAs * EPF_CUDA_PROF_LANES, records_per_lane] zeroed: where the launch is recorded;
                                 a lane's records end at its first without begin_ns.  NULL: it is not recorded */
    int64_t records_per_lane;
    epf_cuda_grain *grain; /* written by a recorded launch; may be NULL */
    int64_t capacity; /* rows that every buffer of this call can hold, the caller's among them */
} epf_cuda_call;

/*
 * What of a CTA records: each has one writer.  Times are those of globaltimer.  Records of tiles have the N-tile (of
 * 256 columns) as `task` and the first row as `rows`: a kernel has no register for what the host can find out.
 */
enum {
    EPF_CUDA_LANE_PLAN,   /* what tiles wait for */
    EPF_CUDA_LANE_COMM_0, /* the two warps that communicate */
    EPF_CUDA_LANE_COMM_1,
    EPF_CUDA_LANE_MATH, /* tiles; of the first math warp also what it sums after them */
    EPF_CUDA_PROF_LANES
};

/* An M-tile has 128 rows; a warp stores, and says so for, 16 of them. */
enum { EPF_CUDA_BLOCK_M = 128, EPF_CUDA_PART_ROWS = 16, EPF_CUDA_TILE_PARTS = 8 };

/* M-tiles that `rows` rows of num_local experts can have. */
EPF_HD int64_t epf_cuda_max_tiles(int64_t rows, int32_t num_local)
{
    return rows / EPF_CUDA_BLOCK_M + num_local;
}

#ifdef __cplusplus
}
#endif

#endif
