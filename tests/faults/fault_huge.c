/*
 * fault_huge.c: tensors with more than 2^31 and 2^32 elements between their first and last.
 *
 * Where a caller's tensor may be strided its rows lie that far apart in memory that exists only where it is
 * touched; buffers of more than 2^31 elements are used at their far end.  Only the last shape really moves
 * that much.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli_verify.h"
#include "fault_huge.h"
#include "fault_pool.h"
#include "support/epf_check.h"
#include "support/epf_runner.h"

#define FAR31 ((INT64_C(1) << 31) + 8)
#define FAR32 ((INT64_C(1) << 32) + 8)

enum { NUM_RANKS = 2, NUM_TOKENS = 5, NUM_EXPERTS = 4, TOPK = 2, HIDDEN = 32, INTER = 16 };

void *fault_far_alloc(size_t bytes)
{
    void *const memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

/* Which strides of a layer are far. */
typedef struct strided {
    const char *name;
    int32_t dtype;
    int64_t tokens;  /* between rows of input, output, ids, weights; 0: dense */
    int64_t experts; /* between experts' matrices */
    int64_t columns; /* between rows of an expert's first matrix */
    int64_t rows;    /* between received rows in the caller's own outputs */
} strided;

static const strided shapes[] = {
    {"rows of bf16 tokens 2^31 apart", EPF_DTYPE_BF16, FAR31, 0, 0, 0},
    {"rows of bf16 tokens 2^32 apart", EPF_DTYPE_BF16, FAR32, 0, 0, 0},
    {"rows of fp32 tokens 2^31 apart", EPF_DTYPE_F32, FAR31, 0, 0, 0},
    {"rows of fp32 tokens 2^32 apart", EPF_DTYPE_F32, FAR32, 0, 0, 0},
    {"experts 2^31 apart", EPF_DTYPE_BF16, 0, FAR31, 0, 0},
    {"experts 2^32 apart", EPF_DTYPE_F32, 0, FAR32, 0, 0},
    {"rows of a weight 2^31 apart", EPF_DTYPE_BF16, 0, 0, FAR31, 0},
    {"received rows 2^31 apart", EPF_DTYPE_BF16, 0, 0, 0, FAR31},
    {"received rows 2^32 apart", EPF_DTYPE_F32, 0, 0, 0, FAR32},
};
enum { NUM_STRIDED = sizeof shapes / sizeof shapes[0] };

typedef struct huge_case {
    verify_run *run;
    const strided *s;
    const fault_pool *pool;
    epf_group *groups[NUM_RANKS];
} huge_case;

/* A tensor in memory of its own, and what it spans. */
typedef struct far_tensor {
    epf_tensor t;
    size_t bytes;
} far_tensor;

/* Strides may be 0: dense.  The last dimension is contiguous. */
static bool far_make(far_tensor *f, int32_t dtype, int32_t ndim, const int64_t *shape,
                     const int64_t *far)
{
    int64_t span = 1;

    memset(f, 0, sizeof *f);
    CHECK_OK(epf_tensor_make(&f->t, NULL, (epf_dtype)dtype, ndim, shape));
    for (int32_t d = ndim - 2; d >= 0; d--) {
        f->t.stride[d] = far[d] > 0 ? far[d] : f->t.stride[d + 1] * shape[d + 1];
    }
    for (int32_t d = 0; d < ndim; d++) {
        span += (shape[d] - 1) * f->t.stride[d];
    }
    f->bytes = (size_t)span * (dtype == EPF_DTYPE_BF16 ? 2 : 4);
    f->t.data = fault_far_alloc(f->bytes);
    return f->t.data != NULL;
}

static char *far_at(const far_tensor *f, int64_t i, int64_t j)
{
    const int64_t size = f->t.dtype == EPF_DTYPE_BF16 ? 2 : 4;

    return (char *)f->t.data +
           (i * f->t.stride[0] + (f->t.ndim > 2 ? j * f->t.stride[1] : 0)) * size;
}

static void far_free(far_tensor *f)
{
    if (f->t.data != NULL) {
        (void)munmap(f->t.data, f->bytes);
    }
}

/* All tensors of a rank's layer. */
typedef struct layer_tensors {
    far_tensor x, y, ids, weight, w13, w2, rows, gemm, h;
} layer_tensors;

static bool make_tensors(layer_tensors *l, const strided *s)
{
    const int64_t token[] = {s->tokens};
    const int64_t w13_far[] = {s->columns > 0 ? 2 * INTER * s->columns : s->experts, s->columns};
    const int64_t w2_far[] = {s->experts, 0};
    const int64_t row[] = {s->rows};
    const int64_t local = NUM_EXPERTS / NUM_RANKS;
    const int64_t max_rows = NUM_RANKS * NUM_TOKENS * TOPK;

    memset(l, 0, sizeof *l);
    return far_make(&l->x, s->dtype, 2, (int64_t[]){NUM_TOKENS, HIDDEN}, token) &&
           far_make(&l->y, s->dtype, 2, (int64_t[]){NUM_TOKENS, HIDDEN}, token) &&
           far_make(&l->ids, EPF_DTYPE_I32, 2, (int64_t[]){NUM_TOKENS, TOPK}, token) &&
           far_make(&l->weight, EPF_DTYPE_F32, 2, (int64_t[]){NUM_TOKENS, TOPK}, token) &&
           far_make(&l->w13, s->dtype, 3, (int64_t[]){local, 2 * INTER, HIDDEN}, w13_far) &&
           far_make(&l->w2, s->dtype, 3, (int64_t[]){local, HIDDEN, INTER}, w2_far) &&
           far_make(&l->rows, s->dtype, 2, (int64_t[]){max_rows, HIDDEN}, row) &&
           far_make(&l->gemm, s->dtype, 2, (int64_t[]){max_rows, 2 * INTER}, row) &&
           far_make(&l->h, s->dtype, 2, (int64_t[]){max_rows, INTER}, row);
}

static void free_tensors(layer_tensors *l)
{
    far_tensor *const all[] = {&l->x,  &l->y,    &l->ids,  &l->weight, &l->w13,
                               &l->w2, &l->rows, &l->gemm, &l->h};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        far_free(all[i]);
    }
}

/* Rank r's tokens are the pool's 5 r .. 5 r + 4. */
static void fill_tensors(layer_tensors *l, const fault_pool *pool, int32_t rank)
{
    const size_t element = pool->row_bytes / HIDDEN;
    const int64_t local = NUM_EXPERTS / NUM_RANKS;

    for (int64_t t = 0; t < NUM_TOKENS; t++) {
        const int64_t from = rank * NUM_TOKENS + t;
        memcpy(far_at(&l->x, t, 0), pool->tokens + (size_t)from * pool->row_bytes, pool->row_bytes);
        memcpy(far_at(&l->ids, t, 0), pool->ids + from * TOPK, TOPK * sizeof(int32_t));
        memcpy(far_at(&l->weight, t, 0), pool->weight + from * TOPK, TOPK * sizeof(float));
    }
    for (int64_t e = 0; e < local; e++) {
        const int64_t expert = rank * local + e;
        for (int64_t i = 0; i < 2 * INTER; i++) {
            memcpy(far_at(&l->w13, e, i),
                   pool->w13 + (size_t)(expert * 2 * INTER + i) * pool->row_bytes, pool->row_bytes);
        }
        for (int64_t i = 0; i < HIDDEN; i++) {
            memcpy(far_at(&l->w2, e, i),
                   pool->w2 + (size_t)((expert * HIDDEN + i) * INTER) * element, INTER * element);
        }
    }
}

/* The layer by its parts, into the caller's own tensors. */
static epf_status run_parts(epf_op *op, const layer_tensors *l)
{
    epf_dispatch_group_gemm_args dispatch;
    epf_group_gemm_combine_args combine;
    epf_preprocess_args args;
    epf_layout *layout = NULL;
    epf_status st;

    CHECK_OK(epf_preprocess_args_init(&args));
    CHECK_OK(epf_dispatch_group_gemm_args_init(&dispatch));
    CHECK_OK(epf_group_gemm_combine_args_init(&combine));
    args.exp_indices = l->ids.t;
    st = epf_preprocess(op, &args, &layout);
    dispatch.layout = combine.layout = layout;
    dispatch.input = l->x.t;
    dispatch.weight = l->weight.t;
    dispatch.gemm_weight = l->w13.t;
    dispatch.dispatch_output = l->rows.t;
    dispatch.gemm_output_data = l->gemm.t;
    dispatch.activation = EPF_ACTIVATION_SWIGLU;
    dispatch.activation_output = l->h.t;
    combine.gemm_input_data = l->h.t;
    combine.gemm_weight = l->w2.t;
    combine.combine_output = l->y.t;
    st = st == EPF_OK ? epf_dispatch_group_gemm(op, &dispatch, NULL) : st;
    st = st == EPF_OK ? epf_group_gemm_combine(op, &combine, NULL) : st;
    epf_layout_destroy(layout);
    return st;
}

static void run_rank(epf_test_rank *rank)
{
    const huge_case *const c = rank->user;
    epf_op_config config;
    layer_tensors l;
    epf_op *op = NULL;
    epf_status st;

    CHECK_OK(epf_op_config_init(&config));
    config.max_tokens = NUM_TOKENS;
    config.hidden = HIDDEN;
    config.topk = TOPK;
    config.num_tot_experts = NUM_EXPERTS;
    config.dtype = c->s->dtype;
    if (!make_tensors(&l, c->s)) {
        verify_skip(c->run, "no address space for %s", c->s->name);
        free_tensors(&l); /* the other rank has none either */
        return;
    }
    fill_tensors(&l, c->pool, rank->rank);
    st = epf_op_create(c->groups[rank->rank], &config, &op);
    st = st == EPF_OK ? run_parts(op, &l) : st;
    if (st != EPF_OK) {
        verify_fail(c->run, "%s: %s", c->s->name, epf_last_error());
    }
    for (int64_t t = 0; t < NUM_TOKENS && st == EPF_OK; t++) {
        if (memcmp(far_at(&l.y, t, 0),
                   c->pool->golden + (size_t)(rank->rank * NUM_TOKENS + t) * c->pool->row_bytes,
                   c->pool->row_bytes) != 0) {
            verify_fail(c->run, "%s: token %d of rank %d has other bits", c->s->name, (int)t,
                        rank->rank);
        }
    }
    epf_op_destroy(op);
    free_tensors(&l);
}

static void run_strided(verify_run *run, const strided *s)
{
    const fault_shape shape = {NUM_EXPERTS, TOPK, HIDDEN,   INTER, NUM_RANKS * NUM_TOKENS,
                               s->dtype,    0,    run->seed};
    huge_case c = {.run = run, .s = s, .pool = fault_pool_make(&shape)};
    const epf_run ranks = {.num_ranks = NUM_RANKS, .function = run_rank, .user = &c};

    CHECK_OK(epf_group_create_threads(NUM_RANKS, NULL, c.groups));
    (void)epf_run_ranks(&ranks, s->name);
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        epf_group_destroy(c.groups[r]);
    }
    fault_pool_free((fault_pool *)(uintptr_t)c.pool);
}

void verify_huge(const verify_promise *promise, verify_run *run)
{
    (void)promise;
    for (int32_t i = 0; verify_more(run); i++) {
        if (i < NUM_STRIDED) {
            run_strided(run, &shapes[i]);
        } else if (!fault_huge_buffers(run, i - NUM_STRIDED)) {
            break;
        }
        verify_done(run, 1);
    }
}
