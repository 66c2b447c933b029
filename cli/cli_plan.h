/* cli_plan.h: the parts of `epfuse plan`. */
#ifndef EPF_CLI_PLAN_H
#define EPF_CLI_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "cli_cost.h"
#include "epfuse/epfuse.h"

enum { PLAN_MAX_BUFFERS = 256, PLAN_NAME_BYTES = 512 };

typedef struct plan {
    char name[PLAN_NAME_BYTES];
    cli_shape shape;
    int32_t tokens; /* T of each rank */
    double capacity;
    int32_t num_sets;
    cli_work work;
    cli_cost dispatch, combine;
    cli_rates machine; /* with has_machine: of all ranks together */
    bool has_machine;
    int32_t num_threads;
    uint64_t symmetric_bytes;
    int32_t num_buffers;
    epf_buffer_info buffers[PLAN_MAX_BUFFERS];
} plan;

/* Asks a lazy operator, which takes no memory, for the sizes of its buffers. */
epf_status plan_memory(plan *p);

/* Floors of the layer's two phases and of both, seconds. */
typedef struct plan_floor {
    double dispatch, combine, both;
    const char *dispatch_limit, *combine_limit;
} plan_floor;
plan_floor plan_floor_of(const plan *p, const cli_rates *rates);
plan_floor plan_floor_in_turns(const plan *p, const cli_rates *rates);
/* With all W ranks on this machine. */
plan_floor plan_floor_here(const plan *p);

void plan_print_table(const plan *p);
epf_status plan_print_json(const plan *p);

#endif
