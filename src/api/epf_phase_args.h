/*
 * epf_phase_args.h: what dispatch and combine have in common: knobs, tile tables, profile, the run.
 */
#ifndef EPF_PHASE_ARGS_H
#define EPF_PHASE_ARGS_H

#include "api/epf_layout.h"
#include "api/epf_weight.h"

/* What the layer and the bench ask for: on a CPU larger tiles and sweeps than the operations' defaults read less
 * from the shared cache (docs/PERFORMANCE.md). */
enum { EPF_LAYER_BLOCK_M = 256, EPF_LAYER_GROUP_M = 8 };

/* The knobs of a grouped GEMM as both argument structs have them. */
typedef struct epf_gemm_knobs {
    bool input_reduce_last_dim;
    int32_t block_size_m;
    int32_t group_size_m;
    int32_t num_stages;
    int32_t num_warps;
    const char *profile_file_name; /* NULL: no profile */
} epf_gemm_knobs;

/* Everything a phase can be refused for before any rank is told. */
epf_status epf_phase_check_knobs(const epf_gemm_knobs *knobs);

/* Given tables must say what the layout says. */
epf_status epf_phase_check_tables(const epf_tile_tables *tables, const epf_layout *layout);

/* An int32 table that must equal `values`; optional. */
epf_status epf_phase_check_table(const epf_tensor *tensor, const char *name, const int32_t *values,
                                 int64_t count, bool at_least);

/* The tiles of all experts together fit a ticket. */
epf_status epf_phase_check_tasks(const epf_layout *layout, const epf_weight *weight);

/* Tiles and the routing of a layout, for a weight's blocks. */
void epf_phase_fill(const epf_layout *layout, const epf_weight *weight, const epf_gemm_knobs *knobs,
                    epf_call *call);

/* Enters the call, runs it, writes the profile. */
epf_status epf_phase_run(epf_op *op, const epf_call *call, const epf_gemm_knobs *knobs);

/* data and leading stride of a matrix; {NULL, 0} if not given. */
epf_rows epf_rows_of(const epf_tensor *tensor);

/* The caller's tensor, cut to `rows`, or the operator's memory of that size. */
epf_status epf_output_of(const epf_tensor *given, const epf_tensor_want *want, int64_t rows,
                         epf_memory *memory, epf_tensor *output);

#endif
