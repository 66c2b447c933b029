/*
 * cli_cost.h: what a layer must at least do, and how fast hardware can: the floors of times.
 *
 * A phase cannot be faster than max(FLOP / matrix rate, memory bytes / memory rate,
 * link bytes / link rate); phases follow one another, so a layer's floor is the sum of theirs.
 */
#ifndef EPF_CLI_COST_H
#define EPF_CLI_COST_H

#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_status.h"

typedef struct cli_shape {
    int64_t hidden;        /* H                                            */
    int64_t gemm1_columns; /* what the first GEMM writes: 2I where gated   */
    int64_t intermediate;  /* what the second one reads                    */
    int32_t num_experts;   /* E                                            */
    int32_t topk;          /* K                                            */
    int32_t num_ranks;     /* W                                            */
    int32_t dtype;         /* of tokens and weights                        */
} cli_shape;

/* One rank's part of a call; expected values where routing is not known. */
typedef struct cli_work {
    double tokens;  /* T                                                 */
    double rows;    /* R                                                 */
    double experts; /* local ones with rows: whose weights are read      */
    double sent;    /* tokens sent to other ranks, once per rank         */
    double slots;   /* (token, k) whose expert is on another rank        */
} cli_work;

typedef struct cli_cost {
    double flop;
    double memory_bytes; /* read and written: weights once, activations once in and once out */
    double link_bytes;   /* per direction                                                    */
} cli_cost;

/* Every expert equally likely, choices of a token different: T tokens on every rank. */
cli_work cli_work_uniform(const cli_shape *shape, double tokens);

cli_cost cli_cost_dispatch(const cli_shape *shape, const cli_work *work);
cli_cost cli_cost_combine(const cli_shape *shape, const cli_work *work);

typedef struct cli_rates {
    const char *name;
    double flop_per_s;
    double memory_bytes_per_s;
    double link_bytes_per_s; /* per direction; 0: links are memory */
} cli_rates;

extern const cli_rates cli_rates_h100_spec;      /* the datasheet of the SXM module       */
extern const cli_rates cli_rates_h100_sustained; /* the middle of what was seen to last   */

/* Seconds; *limit says what binds: "FLOP", "memory" or "links". */
double cli_floor(const cli_cost *cost, const cli_rates *rates, const char **limit);

/* Seconds where nothing overlaps: link, then product. */
double cli_floor_in_turns(const cli_cost *cost, const cli_rates *rates);

/*
 * Measures this machine for a fraction of a second, all threads at once: the tile product of
 * `dtype` on tiles that stay in cache, and memcpy (bytes read plus bytes written) over memory of
 * the size that the work touches, because small work stays in caches; 0: beyond all caches.
 */
epf_status cli_rates_measure(int32_t dtype, int32_t num_threads, double touched_bytes,
                             cli_rates *rates);

/* The processor's name as the system gives it. */
void cli_device_name(char *text, size_t size);

/* CPUs that this process may run on. */
int32_t cli_num_cpus(void);

#endif
