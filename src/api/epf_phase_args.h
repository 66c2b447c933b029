/*
 * epf_phase_args.h: what dispatch and combine have in common: knobs, tile tables, profile, the run.
 */
#ifndef EPF_PHASE_ARGS_H
#define EPF_PHASE_ARGS_H

#include "api/epf_backend.h"

/* What the layer and the bench ask for: on a CPU larger tiles and sweeps than the operations' defaults read less
 * from the shared cache (docs/PERFORMANCE.md). */
enum { EPF_LAYER_BLOCK_M = 256, EPF_LAYER_GROUP_M = 8 };

/* Everything a phase can be refused for before any rank is told. */
epf_status epf_phase_check_knobs(const epf_op *op, const epf_gemm_knobs *knobs);

/* A block that a device's kernels have fixed is AUTO or that. */
epf_status epf_phase_check_fixed(const epf_op *op, const char *name, int32_t value, int32_t fixed);

/* Rows of a matrix, if given, start where the backend can read them. */
epf_status epf_phase_check_align(const epf_op *op, const epf_tensor *tensor, const char *name);

/* Given tables must say what the layout says. */
epf_status epf_phase_check_tables(const epf_tile_tables *tables, const epf_layout *layout);

/* An int32 table of the layout. */
typedef struct epf_table {
    const char *name;
    const int32_t *values;
    int64_t count;
    bool at_least; /* a longer tensor will do */
} epf_table;

/* `tensor`, if given, must equal the table.  On a device one that is not the layout's own waits for the stream. */
epf_status epf_phase_check_table(epf_op *op, const epf_tensor *tensor, const epf_table *table);

/* The tiles of all experts together fit a ticket. */
epf_status epf_phase_check_tasks(const epf_layout *layout, const epf_weight *weight);

/* Tiles and the routing of a layout, for a weight's blocks. */
void epf_phase_fill(const epf_layout *layout, const epf_weight *weight, const epf_gemm_knobs *knobs,
                    epf_call *call);

/* Rows that the call's buffers hold: the set's, or the fewest of given tensors by rows. */
int64_t epf_phase_capacity(const epf_buffer_set *set, const epf_tensor *const *tensors,
                           int32_t num);

/* data and leading stride of a matrix; {NULL, 0} if not given. */
epf_rows epf_rows_of(const epf_tensor *tensor);

/* Memory of the operator where the caller brought no tensor. */
typedef struct epf_room {
    epf_op *op;
    epf_memory *memory;
    int64_t rows;     /* of the result */
    int64_t max_rows; /* taken at once */
} epf_room;

/* The caller's tensor, cut to the room's rows where those are known, or the operator's memory. */
epf_status epf_output_of(const epf_tensor *given, const epf_tensor_want *want, const epf_room *room,
                         epf_tensor *output);

#endif
