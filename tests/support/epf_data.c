#include "support/epf_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/epf_half.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

enum { MAX_MEMORY = 32 + 2 * EPF_PROBLEM_MAX_RANKS };

/* Streams of chance, one for each array; the zoo has its own. */
enum { STREAM_TOKENS = 16, STREAM_WEIGHTS, STREAM_COMBINE, STREAM_B1, STREAM_B2, STREAM_SCATTER };

static void *new_memory(epf_data *data, int64_t count, size_t size)
{
    CHECK(data->num_memory < MAX_MEMORY, "more arrays than MAX_MEMORY");
    data->memory[data->num_memory] = epf_test_alloc((size_t)count, size);
    return data->memory[data->num_memory++];
}

static void store(epf_dtype dtype, double value, void *out, int64_t at)
{
    switch (dtype) {
    case EPF_DTYPE_F32:
        ((float *)out)[at] = (float)value;
        return;
    case EPF_DTYPE_BF16:
        ((uint16_t *)out)[at] = epf_bf16_from_f32((float)value);
        return;
    case EPF_DTYPE_F16:
        ((uint16_t *)out)[at] = epf_f16_from_f32((float)value);
        return;
    default:
        CHECK(false, "dtype %d is no token type", dtype);
    }
}

void epf_pack(epf_dtype dtype, const double *value, int64_t count, void *out)
{
    for (int64_t i = 0; i < count; i++) {
        store(dtype, value[i], out, i);
    }
}

void epf_fill_tensor(const epf_fill *fill, epf_dtype dtype, int64_t count, void *out)
{
    epf_rng rng = epf_rng_make(fill->seed, fill->stream);

    for (int64_t i = 0; i < count; i++) {
        const double value = fill->normal ? fill->scale * epf_rng_normal(&rng)
                                          : epf_rng_range(&rng, -fill->range, fill->range);
        store(dtype, value, out, i);
    }
}

epf_ref_tensor epf_tensor_at(epf_ref_tensor tensor, int64_t first)
{
    const char *bytes = tensor.data;
    const epf_ref_tensor view = {bytes + (size_t)first * epf_element_bytes(tensor.dtype),
                                 tensor.dtype};
    return view;
}

static int64_t all_tokens(const epf_data *data)
{
    int64_t tokens = 0;

    for (int32_t r = 0; r < data->problem.num_ranks; r++) {
        tokens += data->num_tokens[r];
    }
    return tokens;
}

/* Rank r's part of a global array: `per_token` elements for each of its tokens. */
static epf_ref_tensor *split_by_tokens(epf_data *data, epf_ref_tensor all, int64_t per_token)
{
    epf_ref_tensor *ranks = new_memory(data, data->problem.num_ranks, sizeof *ranks);
    int64_t first = 0;

    for (int32_t r = 0; r < data->problem.num_ranks; r++) {
        ranks[r] = epf_tensor_at(all, first * per_token);
        first += data->num_tokens[r];
    }
    return ranks;
}

static epf_ref_tensor *split_by_experts(epf_data *data, epf_ref_tensor all, int64_t per_expert)
{
    const epf_problem *p = &data->problem;
    epf_ref_tensor *ranks = new_memory(data, p->num_ranks, sizeof *ranks);

    for (int32_t r = 0; r < p->num_ranks; r++) {
        ranks[r] = epf_tensor_at(all, r * (p->num_experts / p->num_ranks) * per_expert);
    }
    return ranks;
}

static void make_token_arrays(epf_data *data)
{
    const epf_problem *p = &data->problem;
    const int64_t tokens = all_tokens(data);
    const int64_t slots = tokens * p->num_topk;
    const epf_fill fill = {p->seed, STREAM_TOKENS, p->normal, 2, 1};
    void *x = new_memory(data, tokens * p->hidden, epf_element_bytes(p->dtype));
    void *w = new_memory(data, slots, epf_element_bytes(p->weight_dtype));
    float *combine = new_memory(data, slots, sizeof *combine);
    epf_rng rng = epf_rng_make(p->seed, STREAM_WEIGHTS);

    epf_fill_tensor(&fill, p->dtype, tokens * p->hidden, x);
    for (int64_t s = 0; s < slots; s++) {
        store(p->weight_dtype, epf_rng_uniform(&rng), w, s);
    }
    rng = epf_rng_make(p->seed, STREAM_COMBINE);
    for (int64_t s = 0; s < slots; s++) {
        combine[s] = p->normal ? (float)epf_rng_uniform(&rng) : ldexpf(1, -epf_rng_below(&rng, 4));
    }
    data->tokens = split_by_tokens(data, (epf_ref_tensor){x, p->dtype}, p->hidden);
    data->weights = split_by_tokens(data, (epf_ref_tensor){w, p->weight_dtype}, p->num_topk);
    data->combine_weights =
        split_by_tokens(data, (epf_ref_tensor){combine, EPF_DTYPE_F32}, p->num_topk);
}

/* [E, cols, rows] from [E, rows, cols]. */
static void *transposed(epf_data *data, const void *matrices, int64_t rows, int64_t cols)
{
    const size_t size = epf_element_bytes(data->problem.dtype);
    const int64_t each = rows * cols;
    const int64_t count = data->problem.num_experts * each;
    char *out = new_memory(data, count, size);

    for (int64_t i = 0; i < count; i++) {
        const int64_t to = i / each * each + i % each % cols * rows + i % each / cols;
        memcpy(out + (size_t)to * size, (const char *)matrices + (size_t)i * size, size);
    }
    return out;
}

static void make_expert_arrays(epf_data *data)
{
    const epf_problem *p = &data->problem;
    const int64_t each = (int64_t)p->num_columns * p->hidden;
    const int64_t count = p->num_experts * each;
    epf_fill fill = {p->seed, STREAM_B1, p->normal, 1, 1 / sqrt(p->hidden)};
    void *b1 = new_memory(data, count, epf_element_bytes(p->dtype));
    void *b2 = new_memory(data, count, epf_element_bytes(p->dtype));
    void *b1_transposed;
    void *b2_transposed;

    epf_fill_tensor(&fill, p->dtype, count, b1);
    fill.stream = STREAM_B2;
    fill.scale = 1 / sqrt(p->num_columns);
    epf_fill_tensor(&fill, p->dtype, count, b2);
    b1_transposed = transposed(data, b1, p->num_columns, p->hidden);
    b2_transposed = transposed(data, b2, p->hidden, p->num_columns);
    data->b1 = split_by_experts(data, (epf_ref_tensor){b1, p->dtype}, each);
    data->b1_transposed = split_by_experts(data, (epf_ref_tensor){b1_transposed, p->dtype}, each);
    data->b2 = split_by_experts(data, (epf_ref_tensor){b2, p->dtype}, each);
    data->b2_transposed = split_by_experts(data, (epf_ref_tensor){b2_transposed, p->dtype}, each);
}

/* Gives the slots of rank r that chose `id` the positions from *next on, in random order. */
static void scatter_slots(const epf_data *data, int32_t r, int32_t id, epf_rng *rng, int32_t *next,
                          int32_t *out)
{
    const int32_t first = *next;

    for (int32_t s = 0; s < data->num_tokens[r] * data->problem.num_topk; s++) {
        if (data->topk_idx[r][s] == id) {
            const int32_t at = epf_rng_range(rng, first, *next);
            for (int32_t other = 0; other < s; other++) { /* whoever was there moves to the end */
                if (data->topk_idx[r][other] == id && out[other] == at) {
                    out[other] = *next;
                }
            }
            out[s] = at;
            (*next)++;
        }
    }
}

static void make_scatter(epf_data *data)
{
    const epf_problem *p = &data->problem;
    epf_rng rng = epf_rng_make(p->seed, STREAM_SCATTER);
    int32_t next = 0;

    data->local_scatter = new_memory(data, p->num_ranks, sizeof *data->local_scatter);
    data->full_scatter = new_memory(data, p->num_ranks, sizeof *data->full_scatter);
    for (int32_t r = 0; r < p->num_ranks; r++) {
        const int64_t slots = (int64_t)data->num_tokens[r] * p->num_topk;
        data->local_scatter[r] = new_memory(data, slots, sizeof(int32_t));
        data->full_scatter[r] = new_memory(data, slots, sizeof(int32_t));
        next = 0;
        for (int32_t id = -1; id <= p->num_experts; id++) {
            scatter_slots(data, r, id, &rng, &next, data->local_scatter[r]);
        }
    }
    next = 0;
    for (int32_t id = 0; id < p->num_experts; id++) {
        for (int32_t r = 0; r < p->num_ranks; r++) {
            scatter_slots(data, r, id, &rng, &next, data->full_scatter[r]);
        }
    }
}

void epf_data_route(const epf_data *data, bool with_local, bool with_full, epf_ref_route *route)
{
    const epf_problem *p = &data->problem;
    const epf_ref_routing routing = {
        .num_ranks = p->num_ranks,
        .num_experts = p->num_experts,
        .num_topk = p->num_topk,
        .max_tokens = p->max_tokens,
        .block_m = p->block_m,
        .num_tokens = data->num_tokens,
        .topk_idx = (const int32_t *const *)data->topk_idx,
        .local_scatter = with_local ? (const int32_t *const *)data->local_scatter : NULL,
        .full_scatter = with_full ? (const int32_t *const *)data->full_scatter : NULL};

    CHECK_OK(epf_ref_route_make(&routing, route));
}

static epf_data *new_data(const epf_problem *problem)
{
    epf_data *data = epf_test_alloc(1, sizeof *data);
    const int64_t per_rank = (int64_t)problem->max_tokens * problem->num_topk;
    int32_t *ids;

    data->problem = *problem;
    data->memory = epf_test_alloc(MAX_MEMORY, sizeof *data->memory);
    data->num_tokens = new_memory(data, problem->num_ranks, sizeof *data->num_tokens);
    data->topk_idx = new_memory(data, problem->num_ranks, sizeof *data->topk_idx);
    ids = new_memory(data, problem->num_ranks * per_rank, sizeof *ids);
    for (int32_t r = 0; r < problem->num_ranks; r++) {
        data->topk_idx[r] = ids + r * per_rank;
    }
    return data;
}

static void make_the_rest(epf_data *data)
{
    make_token_arrays(data);
    make_expert_arrays(data);
    make_scatter(data);
    epf_data_route(data, false, false, &data->route);
}

epf_data *epf_data_make(const epf_problem *problem)
{
    epf_data *data = new_data(problem);

    if (!epf_zoo_route(problem, data->num_tokens, data->topk_idx)) {
        epf_data_free(data);
        return NULL;
    }
    make_the_rest(data);
    return data;
}

epf_data *epf_data_merge(const epf_data *data)
{
    epf_problem problem = data->problem;
    epf_data *merged;
    int64_t first = 0;

    problem.num_ranks = 1;
    problem.capacity = 1;
    problem.max_tokens = (int32_t)all_tokens(data);
    merged = new_data(&problem);
    merged->num_tokens[0] = problem.max_tokens;
    for (int32_t r = 0; r < data->problem.num_ranks; r++) {
        const int64_t slots = (int64_t)data->num_tokens[r] * problem.num_topk;
        memcpy(merged->topk_idx[0] + first, data->topk_idx[r], (size_t)slots * sizeof(int32_t));
        first += slots;
    }
    make_the_rest(merged);
    return merged;
}

epf_data *epf_data_again(const epf_data *data, uint64_t seed)
{
    epf_problem problem = data->problem;
    const size_t slots = (size_t)problem.max_tokens * (size_t)problem.num_topk;
    epf_data *again;

    problem.seed = seed;
    again = new_data(&problem);
    for (int32_t r = 0; r < problem.num_ranks; r++) {
        again->num_tokens[r] = data->num_tokens[r];
        memcpy(again->topk_idx[r], data->topk_idx[r], slots * sizeof(int32_t));
    }
    make_the_rest(again);
    return again;
}

void epf_data_free(epf_data *data)
{
    if (data == NULL) {
        return;
    }
    epf_ref_route_free(&data->route);
    for (int32_t i = 0; i < data->num_memory; i++) {
        free(data->memory[i]);
    }
    free(data->memory);
    free(data);
}
