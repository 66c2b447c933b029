/*
 * cli_run_check.c: --check: the results against a double-precision reference.
 *
 * Two questions, asked apart because a tie in the routing may go either way:
 *   - Routing: does the double-precision router choose the same experts?  Where not, its margin must
 *     be within what rounding of the logits can move.
 *   - Output: given the routing that was used, is every element within the bound that the reference
 *     derives from the arithmetic (epf_reference.h)?  Inputs are the tokens and weights as rounded
 *     to the token type.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cli_run.h"
#include "cli_text.h"
#include "core/epf_dtype.h"
#include "cpu/gemm/epf_convert.h"
#include "reference/epf_reference.h"

enum { LEAST_TOKENS = 16, BLOCK_M = 128 };
#define CHEAP_PRODUCTS 1e9      /* about a second of the reference */
#define CHUNK_BYTES 268435456.0 /* of experts' weights held at a time */

/* The rows of one token in the ranks' results. */
typedef struct token_view {
    const int32_t *topk_idx;
    const float *topk_weight;
    const float *shared_gate;
    const float *output;
} token_view;

typedef struct checker {
    const run_job *job;
    run_result *const *ranks;
    run_check *check;
    double router_norm; /* largest ||w_e|| of the router             */
    double error_square, reference_square;
} checker;

/* Tokens checked together, as one rank's problem; arrays of `count` tokens. */
typedef struct chunk {
    int64_t count;
    const int64_t *tokens; /* numbers over all ranks                      */
    float *hidden;         /* [count, H]                                  */
    uint8_t *rounded;      /* [count, H] token type                       */
    int32_t *topk_idx;     /* [count, K] numbers into experts             */
    float *topk_weight;    /* [count, K]                                  */
    float *gate;           /* [count]                                     */
    int32_t *experts;      /* [num_experts] ids in the model              */
    int32_t num_experts;
    void *w13, *w2; /* of these experts                            */
} chunk;

static token_view find_token(const checker *c, int64_t token)
{
    const run_job *job = c->job;
    int32_t rank = 0;
    int64_t at;

    while (rank + 1 < job->num_ranks && run_job_first_token(job, rank + 1) <= token) {
        rank++;
    }
    at = token - run_job_first_token(job, rank);
    return (token_view){.topk_idx = c->ranks[rank]->topk_idx + at * job->config->routing.topk,
                        .topk_weight = c->ranks[rank]->topk_weight + at * job->config->routing.topk,
                        .shared_gate = c->ranks[rank]->shared_gate + at,
                        .output = c->ranks[rank]->output + at * job->config->hidden};
}

/* ---- routing ---- */

static epf_status find_router_norm(checker *c)
{
    const int64_t hidden = c->job->config->hidden;
    float *const row = epf_alloc((size_t)hidden, sizeof *row);
    epf_status st = EPF_OK;

    if (row == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "check: no memory for %lld columns", (long long)hidden);
    }
    for (int64_t e = 0; e < c->job->config->routing.num_experts && st == EPF_OK; e++) {
        double square = 0;
        st = epf_tensor_convert(&c->job->block.router_weight, e * hidden, hidden, EPF_DTYPE_F32,
                                row);
        for (int64_t i = 0; i < hidden; i++) {
            square += (double)row[i] * (double)row[i];
        }
        c->router_norm = fmax(c->router_norm, sqrt(square));
    }
    epf_free(row);
    return st;
}

/* How far a logit may be from its exact value: 64 products and additions in fp32 at a time, the
 * rest in double; |x||w| bounds the sum of absolute products. */
static double logit_error(const checker *c, const float *x)
{
    double square = 0;
    for (int32_t i = 0; i < c->job->config->hidden; i++) {
        square += (double)x[i] * (double)x[i];
    }
    return 65.0 * 0x1p-24 * sqrt(square) * c->router_norm;
}

static int32_t position(const int32_t *ids, int32_t count, int32_t id)
{
    for (int32_t k = 0; k < count; k++) {
        if (ids[k] == id) {
            return k;
        }
    }
    return -1;
}

/* One token's choice; ids and weights [K] of the reference, `margin` to another choice. */
static void compare_choice(checker *c, int64_t token, const epf_router_f64_args *reference,
                           double delta)
{
    const int32_t topk = c->job->config->routing.topk;
    const token_view own = find_token(c, token);
    double error = 0;
    bool same = true;

    for (int32_t k = 0; k < topk; k++) {
        const int32_t at = position(reference->topk_idx, topk, own.topk_idx[k]);
        same = same && at >= 0;
        if (at >= 0) {
            error = fmax(error, fabs((double)own.topk_weight[k] / reference->topk_weight[at] - 1));
        }
    }
    c->check->num_same += same;
    /* A score moves by at most twice a logit's error, a group's sum by twice that, a gap again. */
    c->check->num_ties += !same && reference->margin[0] <= 8.1 * delta;
    c->check->num_misrouted += !same && !(reference->margin[0] <= 8.1 * delta);
    if (same) { /* a quotient of two such scores, rounded to fp32 */
        c->check->max_weight_error = fmax(c->check->max_weight_error, error);
        c->check->max_weight_ratio =
            fmax(c->check->max_weight_ratio, error / (5 * delta + 0x1p-23));
    }
}

static epf_status check_routing(checker *c, const chunk *part)
{
    const int32_t topk = c->job->config->routing.topk;
    int32_t *const ids = epf_alloc((size_t)topk, sizeof *ids);
    double *const weights = epf_alloc((size_t)topk, sizeof *weights);
    epf_status st = EPF_OK;

    if (ids == NULL || weights == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "check: no memory for %d experts", topk);
    }
    for (int64_t t = 0; t < part->count && st == EPF_OK; t++) {
        double margin;
        const float *x = part->hidden + t * c->job->config->hidden;
        const epf_router_f64_args args = {.hidden = x,
                                          .num_tokens = 1,
                                          .first_token = part->tokens[t],
                                          .topk_idx = ids,
                                          .topk_weight = weights,
                                          .margin = &margin};
        st = epf_router_run_f64(c->job->router, &args);
        if (st == EPF_OK) {
            compare_choice(c, part->tokens[t], &args, logit_error(c, x));
        }
    }
    epf_free(ids);
    epf_free(weights);
    return st;
}

/* ---- output ---- */

/* The layer on one rank; `out` [count, H]. */
typedef struct problem {
    const chunk *part;
    int32_t num_experts, topk;
    int64_t intermediate;
    const int32_t *topk_idx;
    const float *weights;
    const void *w13, *w2;
} problem;

static epf_status reference_forward(const checker *c, const problem *p, epf_ref_forward *forward)
{
    const epf_dtype dtype = (epf_dtype)c->job->dtype;
    const int32_t count = (int32_t)p->part->count;
    const int32_t *const ids[1] = {p->topk_idx};
    const epf_ref_tensor input = {p->part->rounded, dtype};
    const epf_ref_tensor weights = {p->weights, EPF_DTYPE_F32};
    const epf_ref_tensor w13 = {p->w13, dtype};
    const epf_ref_tensor w2 = {p->w2, dtype};
    const epf_ref_routing routing = {.num_ranks = 1,
                                     .num_experts = p->num_experts,
                                     .num_topk = p->topk,
                                     .max_tokens = count,
                                     .block_m = BLOCK_M,
                                     .num_tokens = &count,
                                     .topk_idx = ids};
    epf_ref_layer layer = {.hidden = c->job->config->hidden,
                           .intermediate = p->intermediate,
                           .mode = EPF_REF_EXACT,
                           .gate_up_rounded = c->job->options->backend == EPF_BACKEND_CUDA,
                           .dtype = dtype,
                           .weight_dtype = EPF_DTYPE_F32,
                           .input = &input,
                           .weights = &weights,
                           .w13 = &w13,
                           .w2 = &w2};
    epf_ref_route route;
    epf_status st;

    memset(&route, 0, sizeof route);
    EPF_TRY(epf_ref_route_make(&routing, &route));
    layer.route = &route;
    st = epf_ref_layer_forward(&layer, forward);
    epf_ref_route_free(&route);
    return st;
}

static void compare_element(checker *c, int64_t token, int64_t column, const double pair[3])
{
    const double value = pair[0], bound = pair[1], own = pair[2];
    const double error = fabs(own - value);
    /* Also where a NaN makes every comparison false. */
    const double ratio = error <= 0 ? 0 : error <= bound * 1e9 ? error / bound : 1e9;

    c->error_square += error * error;
    c->reference_square += value * value;
    c->check->max_error = error <= c->check->max_error ? c->check->max_error : error;
    if (ratio > c->check->max_ratio) {
        c->check->max_ratio = ratio;
        c->check->error_at_max = error;
        c->check->bound_at_max = bound;
        c->check->worst_token = token;
        c->check->worst_column = column;
    }
}

/* `shared` may be NULL; both are [count, H]. */
static void compare_output(checker *c, const chunk *part, const epf_ref_matrix *routed,
                           const epf_ref_matrix *shared)
{
    const int64_t hidden = c->job->config->hidden;

    for (int64_t t = 0; t < part->count; t++) {
        const float *own = find_token(c, part->tokens[t]).output;
        for (int64_t i = 0; i < hidden; i++) {
            const int64_t at = t * hidden + i;
            double all[3] = {routed->value[at], routed->bound[at], (double)own[i]};
            if (shared != NULL) { /* one addition in fp32 */
                all[0] += shared->value[at];
                all[1] += shared->bound[at];
                all[1] += 0x1p-24 * (fabs(all[0]) + all[1]);
            }
            compare_element(c, part->tokens[t], i, all);
        }
    }
}

static epf_status check_shared(checker *c, const chunk *part, epf_ref_forward *forward)
{
    const epf_model_config *config = c->job->config;
    const size_t elements = (size_t)config->shared_intermediate * (size_t)config->hidden;
    const size_t width = (size_t)epf_dtype_bytes(c->job->dtype);
    void *const w13 = epf_alloc_aligned(2 * elements, width, 64);
    void *const w2 = epf_alloc_aligned(elements, width, 64);
    int32_t *const zeros = epf_alloc((size_t)part->count, sizeof *zeros);
    const epf_moe_pack_args pack = {.dtype = (epf_dtype)c->job->dtype, .w13 = w13, .w2 = w2};
    epf_status st;

    if (w13 == NULL || w2 == NULL || zeros == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "check: no memory for the shared experts");
        goto out;
    }
    EPF_TRY_GOTO(epf_moe_block_pack_shared(&c->job->block, &pack), out);
    st = reference_forward(c,
                           &(problem){.part = part,
                                      .num_experts = 1,
                                      .topk = 1,
                                      .intermediate = config->shared_intermediate,
                                      .topk_idx = zeros,
                                      .weights = part->gate,
                                      .w13 = w13,
                                      .w2 = w2},
                           forward);
out:
    epf_free(w13);
    epf_free(w2);
    epf_free(zeros);
    return st;
}

static epf_status check_output(checker *c, const chunk *part)
{
    const epf_model_config *config = c->job->config;
    const bool has_shared = config->shared_intermediate > 0;
    epf_ref_forward routed, shared;
    epf_status st;

    memset(&routed, 0, sizeof routed);
    memset(&shared, 0, sizeof shared);
    st = reference_forward(c,
                           &(problem){.part = part,
                                      .num_experts = part->num_experts,
                                      .topk = config->routing.topk,
                                      .intermediate = config->intermediate,
                                      .topk_idx = part->topk_idx,
                                      .weights = part->topk_weight,
                                      .w13 = part->w13,
                                      .w2 = part->w2},
                           &routed);
    if (st == EPF_OK && has_shared) {
        st = check_shared(c, part, &shared);
    }
    if (st == EPF_OK) {
        compare_output(c, part, &routed.output, has_shared ? &shared.output : NULL);
    }
    epf_ref_forward_free(&routed, 1);
    epf_ref_forward_free(&shared, 1);
    return st;
}

/* ---- chunks ---- */

/* Numbers the experts that these tokens chose from 0 up. */
static void collect_experts(const checker *c, chunk *part)
{
    const int32_t topk = c->job->config->routing.topk;

    part->num_experts = 0;
    for (int64_t t = 0; t < part->count; t++) {
        const token_view own = find_token(c, part->tokens[t]);
        memcpy(part->topk_weight + t * topk, own.topk_weight, (size_t)topk * sizeof(float));
        for (int32_t k = 0; k < topk; k++) {
            int32_t at = position(part->experts, part->num_experts, own.topk_idx[k]);
            if (at < 0) {
                at = part->num_experts++;
                part->experts[at] = own.topk_idx[k];
            }
            part->topk_idx[t * topk + k] = at;
        }
    }
}

static epf_status pack_experts(const checker *c, chunk *part)
{
    const run_job *job = c->job;
    const size_t width = (size_t)epf_dtype_bytes(job->dtype);
    const size_t one = (size_t)job->config->intermediate * (size_t)job->config->hidden;

    part->w13 = epf_alloc_aligned((size_t)part->num_experts * 2 * one, width, 64);
    part->w2 = epf_alloc_aligned((size_t)part->num_experts * one, width, 64);
    if (part->w13 == NULL || part->w2 == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "check: no memory for %d experts", part->num_experts);
    }
    for (int32_t e = 0; e < part->num_experts; e++) {
        const epf_moe_pack_args pack = {.first = part->experts[e],
                                        .count = 1,
                                        .dtype = (epf_dtype)job->dtype,
                                        .w13 = (uint8_t *)part->w13 + (size_t)e * 2 * one * width,
                                        .w2 = (uint8_t *)part->w2 + (size_t)e * one * width};
        EPF_TRY(epf_moe_block_pack(&job->block, &pack));
    }
    return EPF_OK;
}

static epf_status load_chunk(const checker *c, chunk *part)
{
    const run_job *job = c->job;
    const int64_t hidden = job->config->hidden;
    const int64_t width = epf_dtype_bytes(job->dtype);
    const size_t slots = (size_t)part->count * (size_t)job->config->routing.topk;

    part->hidden = epf_alloc((size_t)(part->count * hidden), sizeof *part->hidden);
    part->rounded = epf_alloc((size_t)(part->count * hidden), (size_t)width);
    part->topk_idx = epf_alloc(slots, sizeof *part->topk_idx);
    part->topk_weight = epf_alloc(slots, sizeof *part->topk_weight);
    part->gate = epf_alloc((size_t)part->count, sizeof *part->gate);
    part->experts = epf_alloc((size_t)job->config->routing.num_experts, sizeof *part->experts);
    if (part->hidden == NULL || part->rounded == NULL || part->topk_idx == NULL ||
        part->topk_weight == NULL || part->gate == NULL || part->experts == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "check: no memory for %lld tokens",
                        (long long)part->count);
    }
    for (int64_t t = 0; t < part->count; t++) {
        const int64_t first = part->tokens[t] * hidden;
        EPF_TRY(epf_tensor_convert(job->hidden, first, hidden, EPF_DTYPE_F32,
                                   part->hidden + t * hidden));
        part->gate[t] = find_token(c, part->tokens[t]).shared_gate[0];
    }
    epf_convert_from_f32(part->rounded, part->hidden, (epf_dtype)job->dtype, part->count * hidden);
    collect_experts(c, part);
    return pack_experts(c, part);
}

static void free_chunk(chunk *part)
{
    epf_free(part->hidden);
    epf_free(part->rounded);
    epf_free(part->topk_idx);
    epf_free(part->topk_weight);
    epf_free(part->gate);
    epf_free(part->experts);
    epf_free(part->w13);
    epf_free(part->w2);
}

static int64_t choose_count(const run_job *job)
{
    const epf_model_config *c = job->config;
    const double products =
        3.0 * c->hidden * ((double)c->routing.topk * c->intermediate + c->shared_intermediate);
    double count = (double)job->options->check_tokens;

    if (job->options->check_tokens < 0) {
        count = fmax(CHEAP_PRODUCTS / products, LEAST_TOKENS);
    }
    return count <= 0 || count > (double)job->num_tokens ? job->num_tokens : (int64_t)count;
}

static epf_status check_tokens(checker *c, const int64_t *tokens, int64_t count)
{
    const epf_model_config *config = c->job->config;
    const double weights = 3.0 * config->hidden * config->intermediate *
                           config->routing.num_experts * epf_dtype_bytes(c->job->dtype);
    const int64_t step = weights <= CHUNK_BYTES ? count : 1;
    epf_status st = EPF_OK;

    for (int64_t at = 0; at < count && st == EPF_OK; at += step) {
        chunk part = {.count = step, .tokens = tokens + at};
        cli_progress("checking token %lld of %lld", (long long)at + 1, (long long)count);
        st = load_chunk(c, &part);
        if (st == EPF_OK) {
            st = check_routing(c, &part);
        }
        if (st == EPF_OK) {
            st = check_output(c, &part);
        }
        free_chunk(&part);
    }
    cli_progress(NULL);
    return st;
}

epf_status run_check_make(const run_job *job, run_result *const *ranks, run_check *check)
{
    checker c = {.job = job, .ranks = ranks, .check = check};
    const int64_t count = choose_count(job);
    int64_t *const tokens = epf_alloc((size_t)count, sizeof *tokens);
    epf_status st;

    memset(check, 0, sizeof *check);
    check->num_tokens = count;
    if (tokens == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "check: no memory for %lld tokens", (long long)count);
    }
    for (int64_t i = 0; i < count; i++) {
        tokens[i] = (int64_t)((double)i * (double)job->num_tokens / (double)count);
    }
    st = find_router_norm(&c);
    if (st == EPF_OK) {
        st = check_tokens(&c, tokens, count);
    }
    epf_free(tokens);
    check->relative_error =
        c.reference_square > 0 ? sqrt(c.error_square / c.reference_square) : sqrt(c.error_square);
    check->passed =
        check->num_misrouted == 0 && check->max_weight_ratio <= 1 && check->max_ratio <= 1;
    return st;
}
