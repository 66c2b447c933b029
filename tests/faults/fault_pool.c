/* fault_pool.c: tokens with known results. */
#include "fault_pool.h"

#include <stdlib.h>
#include <string.h>

#include "core/epf_dtype.h"
#include "support/epf_check.h"
#include "support/epf_data.h"

enum { STREAM_TOKENS = 1, STREAM_W13, STREAM_W2, STREAM_WEIGHT, STREAM_IDS };

static char *random_rows(const fault_shape *s, uint64_t stream, int64_t count, double scale)
{
    const epf_fill fill = {.seed = s->seed, .stream = stream, .normal = true, .scale = scale};
    char *rows = epf_test_alloc((size_t)count, epf_element_bytes((epf_dtype)s->dtype));

    epf_fill_tensor(&fill, (epf_dtype)s->dtype, count, rows);
    return rows;
}

/* Mostly different experts; one slot in eight is dropped, one in eight repeats the one before. */
static void draw_ids(fault_pool *pool)
{
    const fault_shape *const s = &pool->shape;
    epf_rng rng = epf_rng_make(s->seed, STREAM_IDS);

    for (int32_t i = 0; i < s->num_tokens * s->topk; i++) {
        const int32_t kind = epf_rng_below(&rng, 8);
        const int32_t id = epf_rng_below(&rng, s->num_experts);
        pool->ids[i] = kind == 0                       ? (id % 2 == 0 ? -1 : s->num_experts)
                       : kind == 1 && i % s->topk != 0 ? pool->ids[i - 1]
                                                       : id;
    }
}

/* All tokens at once on one rank with one worker. */
static void make_golden(fault_pool *pool)
{
    const fault_knobs knobs = {pool->shape.num_tokens, 1, false};
    epf_group *group;
    fault_rank r;

    CHECK_OK(epf_group_create_threads(1, NULL, &group));
    CHECK_OK(fault_rank_open(&r, pool, group, &knobs));
    r.num_tokens = pool->shape.num_tokens;
    memcpy(r.input, pool->tokens, (size_t)r.num_tokens * pool->row_bytes);
    memcpy(r.ids, pool->ids, (size_t)(r.num_tokens * pool->shape.topk) * sizeof *r.ids);
    memcpy(r.weight, pool->weight, (size_t)(r.num_tokens * pool->shape.topk) * sizeof *r.weight);
    CHECK_OK(fault_rank_layer(&r, 0));
    memcpy(pool->golden, r.output, (size_t)r.num_tokens * pool->row_bytes);
    fault_rank_close(&r);
    epf_group_destroy(group);
}

fault_pool *fault_pool_make(const fault_shape *s)
{
    fault_pool *pool = epf_test_alloc(1, sizeof *pool);
    const int64_t inner = (int64_t)s->num_experts * s->hidden * s->intermediate;
    const epf_fill weights = {.seed = s->seed, .stream = STREAM_WEIGHT, .normal = true, .scale = 1};

    pool->shape = *s;
    pool->row_bytes = (size_t)s->hidden * epf_element_bytes((epf_dtype)s->dtype);
    pool->tokens = random_rows(s, STREAM_TOKENS, (int64_t)s->num_tokens * s->hidden, 1);
    pool->w13 = random_rows(s, STREAM_W13, 2 * inner, 0.3);
    pool->w2 = random_rows(s, STREAM_W2, inner, 0.3);
    pool->golden = epf_test_alloc((size_t)s->num_tokens, pool->row_bytes);
    pool->ids = epf_test_alloc((size_t)(s->num_tokens * s->topk), sizeof *pool->ids);
    pool->weight = epf_test_alloc((size_t)(s->num_tokens * s->topk), sizeof *pool->weight);
    epf_fill_tensor(&weights, EPF_DTYPE_F32, (int64_t)s->num_tokens * s->topk, pool->weight);
    draw_ids(pool);
    make_golden(pool);
    return pool;
}

void fault_pool_free(fault_pool *pool)
{
    if (pool != NULL) {
        free(pool->tokens);
        free(pool->w13);
        free(pool->w2);
        free(pool->golden);
        free(pool->ids);
        free(pool->weight);
        free(pool);
    }
}

static epf_tensor tensor(const void *data, int32_t dtype, int32_t ndim, const int64_t *shape)
{
    epf_tensor t;

    CHECK_OK(epf_tensor_make(&t, (void *)(uintptr_t)data, (epf_dtype)dtype, ndim, shape));
    return t;
}

static void take_weights(fault_rank *r, const epf_group *group)
{
    const fault_shape *const s = &r->pool->shape;
    const int64_t local = s->num_experts / epf_group_num_ranks(group);
    const int64_t w13[] = {local, 2 * s->intermediate, s->hidden};
    const int64_t w2[] = {local, s->hidden, s->intermediate};
    const size_t expert = (size_t)s->intermediate * r->pool->row_bytes;
    const size_t first = (size_t)(local * epf_group_rank(group));

    r->weights.w13 = tensor(r->pool->w13 + 2 * first * expert, s->dtype, 3, w13);
    r->weights.w2 = tensor(r->pool->w2 + first * expert, s->dtype, 3, w2);
}

static epf_status pack(fault_rank *r, const epf_tensor *from, bool gate_up, epf_weight **weight)
{
    epf_weight_config config;
    epf_status st = epf_weight_config_init(&config);

    config.tensor = *from;
    config.gate_up = gate_up;
    return st == EPF_OK ? epf_weight_create(r->op, &config, weight) : st;
}

static epf_status pack_both(fault_rank *r)
{
    epf_status st = pack(r, &r->weights.w13, true, &r->packed[0]);

    st = st == EPF_OK ? pack(r, &r->weights.w2, false, &r->packed[1]) : st;
    memset(&r->weights, 0, sizeof r->weights);
    r->weights.packed_w13 = r->packed[0];
    r->weights.packed_w2 = r->packed[1];
    return st;
}

epf_status fault_rank_open(fault_rank *r, const fault_pool *pool, epf_group *group,
                           const fault_knobs *knobs)
{
    const fault_shape *const s = &pool->shape;
    const size_t tokens = (size_t)knobs->max_tokens;
    epf_op_config config;
    epf_status st;

    memset(r, 0, sizeof *r);
    r->pool = pool;
    r->max_tokens = knobs->max_tokens;
    r->chosen = epf_test_alloc(tokens, sizeof *r->chosen);
    r->input = epf_test_alloc(tokens, pool->row_bytes);
    r->output = epf_test_alloc(tokens, pool->row_bytes);
    r->ids = epf_test_alloc(tokens * (size_t)s->topk, sizeof *r->ids);
    r->weight = epf_test_alloc(tokens * (size_t)s->topk, sizeof *r->weight);
    CHECK_OK(epf_op_config_init(&config));
    config.max_tokens = knobs->max_tokens;
    config.hidden = s->hidden;
    config.topk = s->topk;
    config.num_tot_experts = s->num_experts;
    config.dtype = s->dtype;
    config.capacity = 1; /* so that buffers grow on the way */
    config.num_workers = knobs->num_workers;
    config.gemm_library = s->gemm_library;
    st = epf_op_create(group, &config, &r->op);
    if (st != EPF_OK) {
        r->op = NULL;
        return st;
    }
    take_weights(r, group);
    st = epf_layer_context_create(r->op, &r->context);
    return st == EPF_OK && knobs->packed ? pack_both(r) : st;
}

void fault_rank_close(fault_rank *r)
{
    epf_weight_destroy(r->packed[0]);
    epf_weight_destroy(r->packed[1]);
    epf_layer_context_destroy(r->context);
    epf_op_destroy(r->op);
    free(r->chosen);
    free(r->input);
    free(r->output);
    free(r->ids);
    free(r->weight);
    memset(r, 0, sizeof *r);
}

void fault_rank_draw(fault_rank *r, epf_rng *own)
{
    const fault_pool *const pool = r->pool;
    const size_t topk = (size_t)pool->shape.topk;

    r->num_tokens = epf_rng_below(own, r->max_tokens + 1);
    for (int32_t t = 0; t < r->num_tokens; t++) {
        const size_t from = (size_t)epf_rng_below(own, pool->shape.num_tokens);
        const size_t to = (size_t)t;
        r->chosen[t] = (int32_t)from;
        memcpy(r->input + to * pool->row_bytes, pool->tokens + from * pool->row_bytes,
               pool->row_bytes);
        memcpy(r->ids + to * topk, pool->ids + from * topk, topk * sizeof *r->ids);
        memcpy(r->weight + to * topk, pool->weight + from * topk, topk * sizeof *r->weight);
    }
}

epf_status fault_rank_layer(fault_rank *r, uint32_t mode)
{
    const fault_shape *const s = &r->pool->shape;
    const int64_t rows[] = {r->num_tokens, s->hidden};
    const int64_t slots[] = {r->num_tokens, s->topk};
    epf_layer_forward_args args;

    CHECK_OK(epf_layer_forward_args_init(&args));
    args.input = tensor(r->input, s->dtype, 2, rows);
    args.output = tensor(r->output, s->dtype, 2, rows);
    args.exp_indices = tensor(r->ids, EPF_DTYPE_I32, 2, slots);
    args.weight = tensor(r->weight, EPF_DTYPE_F32, 2, slots);
    args.weights = r->weights;
    args.keep_for_backward = false;
    args.combine_mode = (mode & 1u) != 0 ? EPF_COMBINE_SERIAL : EPF_COMBINE_FUSE_SCATTER;
    args.use_block_wise_barrier = (mode & 2u) == 0;
    memset(r->output, 0xa5, (size_t)r->num_tokens * r->pool->row_bytes);
    return epf_layer_forward(r->op, r->context, &args);
}

int32_t fault_rank_check(const fault_rank *r)
{
    const size_t bytes = r->pool->row_bytes;

    for (int32_t t = 0; t < r->num_tokens; t++) {
        if (memcmp(r->output + (size_t)t * bytes, r->pool->golden + (size_t)r->chosen[t] * bytes,
                   bytes) != 0) {
            return t;
        }
    }
    return -1;
}
