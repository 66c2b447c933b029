/*
 * epf_problem.h: a problem is a string that can be copied from a log and run again.
 *
 *     W8E32K6T128H256N512[M64][C1.5]/zipf/seed7[/fp32][/wbf16][/normal][/fuse_scatter]
 *
 * W ranks, E experts, K per token, T_max tokens a rank, hidden H, N columns of the first GEMM, block_m M
 * (default 128), capacity C (default W); a routing of the zoo; the seed of all chance; token type
 * (default bf16), type of the routing weights (default fp32), normal inputs instead of integer ones,
 * combine mode (default serial).
 */
#ifndef EPF_TEST_PROBLEM_H
#define EPF_TEST_PROBLEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_dtype.h"

enum { EPF_PROBLEM_TEXT = 160, EPF_PROBLEM_MAX_RANKS = 64 };

typedef struct epf_problem {
    int32_t num_ranks;   /* W  1..64                              */
    int32_t num_experts; /* E  a multiple of W, at most 4096      */
    int32_t num_topk;    /* K  1..32                              */
    int32_t max_tokens;  /* T  1..65536                           */
    int32_t hidden;      /* H  a multiple of 8, at most 65536     */
    int32_t num_columns; /* N  a multiple of 8, at most 65536     */
    int32_t block_m;     /* M  1..1024                            */
    double capacity;     /* C  0 < C <= W                         */
    const char *routing; /* a name of epf_zoo_names()             */
    uint64_t seed;
    epf_dtype dtype;
    epf_dtype weight_dtype;
    bool normal;
    bool fuse_scatter;
} epf_problem;

/* False, with a one-line reason in `why`, if the text is no problem. */
bool epf_problem_parse(const char *text, epf_problem *problem, char why[EPF_PROBLEM_TEXT]);

/* The canonical text: parsing it gives the same problem.  Returns `text`. */
const char *epf_problem_print(const epf_problem *problem, char text[EPF_PROBLEM_TEXT]);

/* Parses or fails the test; with tiles that the chosen backend has (support/epf_space.h). */
epf_problem epf_problem_of(const char *text);

/* A small problem of any kind from one number: W up to max_ranks, shapes for seconds, not minutes. */
epf_problem epf_problem_random(uint64_t number, int32_t max_ranks);

/* NULL-terminated. */
const char *const *epf_zoo_names(void);

/*
 * Token counts [W] and expert ids ([W] arrays with room for [T_max, K]) of the problem's routing.  False
 * if the shape does not allow it (one rank cannot receive more than its capacity of W, say).
 */
bool epf_zoo_route(const epf_problem *problem, int32_t *num_tokens, int32_t *const *topk_idx);

#endif
