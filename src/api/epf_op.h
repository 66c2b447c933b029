/*
 * epf_op.h: inside of the operator, and what its files share.
 */
#ifndef EPF_OP_H
#define EPF_OP_H

#include "api/epf_args.h"
#include "comm/epf_comm.h"
#include "core/epf_call.h"
#include "cpu/epf_exec.h" /* the CPU backend's workers */
#include "epfuse/epfuse.h"

typedef struct epf_backend_ops epf_backend_ops;

/* Memory of the operator that grows and is kept: where its backend's tensors are, or the host's. */
typedef struct epf_memory {
    void *data;
    int64_t bytes;
} epf_memory;

/* A symmetric allocation: [W] parts, one per rank. */
typedef struct epf_op_window {
    uint8_t **base;  /* as the host names the parts; NULL: not taken */
    uint8_t **table; /* the same, where those read it that work on a call */
    void *memory;    /* the backend's own */
} epf_op_window;

typedef struct epf_buffer_set {
    epf_set_map map;
    uint32_t combine_epoch; /* of the last combine with this set */
    epf_op_window window;   /* taken by sync */
    epf_memory gemm_output; /* results for which the caller brought no tensor */
    epf_memory combine_output;
    epf_memory output_gate;
} epf_buffer_set;

struct epf_op {
    epf_comm *comm;
    const epf_backend_ops *backend;
    epf_op_config config;
    epf_shape shape;
    epf_control_map control_map;
    epf_op_window control; /* taken by sync */
    epf_buffer_set sets[EPF_MAX_BUFFER_SETS];
    epf_exec *exec;              /* of the CPU backend */
    struct epf_cuda_op *cuda;    /* of the CUDA backend, and ... */
    struct epf_retired *retired; /* ... memory that was outgrown, */
    struct epf_layout *spare;    /* ... the layout of refused calls, */
    struct epf_layout *layouts;  /* ... all layouts made, */
    epf_layer_context *contexts; /* ... all contexts of the layer */
    int32_t num_workers;         /* threads, or CTAs */
    int32_t num_working;         /* the same less those held back */
    epf_memory staged;           /* [R, H] of combine with scatter workers */
    uint32_t epoch;              /* of the last collective call */
    uint32_t num_preprocess;     /* its low bit: which half of posted is used next */
    bool is_finalized;
    epf_fault fault; /* status 0: none */
};

/* EPF_E_STATE unless collective calls are possible now. */
epf_status epf_op_check_ready(const epf_op *op, const char *function);

/* comm_buffer_id within what the operator has. */
epf_status epf_op_check_set(const epf_op *op, int32_t comm_buffer_id);

/* The next epoch; in the rare case that it would wrap, meets all ranks and starts again. */
epf_status epf_op_next_epoch(epf_op *op);

/* What every call of this operator and set has in common. */
void epf_op_fill_call(const epf_op *op, const epf_buffer_set *set, epf_call *call);

/* Remembers what ended a call and says it; returns its status. */
epf_status epf_op_fail(epf_op *op, const epf_fault *fault);

/* Tells all ranks that this one ran out of memory in an operation; returns `status`.  Peers may be growing `set`
 * for `layout` (NULL: they cannot be), where they see no abort: this rank takes part in that first. */
epf_status epf_op_give_up(epf_op *op, epf_buffer_set *set, const epf_layout *layout,
                          epf_status status);

/* Remembers a failed exchange of the group, after which ranks may disagree; returns `status`. */
epf_status epf_op_note(epf_op *op, epf_status status);

/* What ended the operator's calls; status EPF_OK: nothing yet. */
epf_fault epf_op_fault(const epf_op *op);

/* Says `fault` as text; returns its status. */
epf_status epf_op_say(const epf_fault *fault);

/* num_working, of num_workers; EPF_E_INVALID where the config's knobs do not fit them. */
epf_status epf_op_place_workers(epf_op *op);

/* The operator is about to go: frees the layer's contexts that it keeps for others, forgets those that callers have. */
void epf_layer_forget(epf_op *op);

/* Waits for the layout's row counts where the set may have to grow for them and only the device knows: not while a graph
 * is captured, and not of a layout that one fills. */
epf_status epf_op_learn_rows(const epf_op *op, const epf_buffer_set *set, const epf_layout *layout);

/* Rows to take at once for results by rows: on a device what the set holds, so that no later call takes more. */
int64_t epf_op_max_rows(const epf_op *op, const epf_layout *layout, const epf_buffer_set *set);

/* Tensors' memory of the operator; what was there is gone if it grows. */
epf_status epf_op_memory_reserve(epf_op *op, epf_memory *memory, int64_t bytes, const char *name);

/* A new window of `rows` rows for a set; what `layout`, if given, has in the caller's own buffers moves along.
 * Collective. */
epf_status epf_op_replace_set(epf_op *op, epf_buffer_set *set, int64_t rows,
                              const epf_layout *layout);

/* Grows a set to hold the layout's rows; what the caller put into the send and gate buffers for this layout
 * moves along.  Collective where it grows. */
epf_status epf_op_reserve_rows(epf_op *op, epf_buffer_set *set, const epf_layout *layout);

/* At least `bytes` of host memory; what was there is gone if it grows. */
epf_status epf_memory_reserve(epf_memory *memory, int64_t bytes, const char *name);

#endif
