/*
 * test_op_huge: more than 2^31 elements arrive, so that no product of rows and columns fits 32 bits: all
 * rows that arrive and a sample of the products and sums, the last ones among them, are what they must be.
 *
 *     test_op_huge [TOKENS]      default 65792: 65792 x 32 x 1024 > 2^31
 *
 * One rank; each token goes to all K experts of its group of K, so row, token and expert follow from each
 * other without a reference.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/epf_half.h"
#include "op_device.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

enum { TOPK = 32, EXPERTS = 64, HIDDEN = 1024, COLUMNS = 8, SAMPLES = 2000, CHUNK_ROWS = 1 << 15 };

typedef struct huge {
    int64_t tokens, rows;
    uint16_t *x; /* [T, H] -2..2 */
    uint16_t *b1, *b2;
    int32_t *ids;
    epf_group *group;
    epf_op *op;
    epf_layout *layout;
    void *device[5]; /* x, ids, b1, b2, gemm_output */
} huge;

static int32_t x_at(int64_t token, int64_t column)
{
    return (int32_t)((uint64_t)(token * 31 + column * 7 + token / 977 * 3) % 5) - 2;
}

static int32_t b1_at(int64_t expert, int64_t n, int64_t h)
{
    return (int32_t)((uint64_t)(expert * 5 + n * 3 + h) % 3) - 1;
}

static int32_t b2_at(int64_t expert, int64_t h, int64_t n)
{
    return (int32_t)((uint64_t)(expert * 7 + h * 5 + n) % 3) - 1;
}

/* Even tokens take the first K experts, odd ones the others. */
static int64_t expert_of(int64_t token, int64_t k)
{
    return token % 2 * TOPK + k;
}

/* Rows are ordered by expert, then by token. */
static int64_t row_of(const huge *u, int64_t token, int64_t k)
{
    const int64_t of_even = (u->tokens + 1) / 2;
    const int64_t before =
        token % 2 == 0 ? k * of_even : TOPK * of_even + k * (u->tokens - of_even);
    return before + token / 2;
}

static uint16_t bf16(int32_t value)
{
    return epf_bf16_from_f32((float)value);
}

static void fill(huge *u)
{
    u->x = epf_test_alloc((size_t)(u->tokens * HIDDEN), sizeof *u->x);
    u->ids = epf_test_alloc((size_t)(u->tokens * TOPK), sizeof *u->ids);
    u->b1 = epf_test_alloc((size_t)EXPERTS * COLUMNS * HIDDEN, sizeof *u->b1);
    u->b2 = epf_test_alloc((size_t)EXPERTS * COLUMNS * HIDDEN, sizeof *u->b2);
    for (int64_t i = 0; i < u->tokens * HIDDEN; i++) {
        u->x[i] = bf16(x_at(i / HIDDEN, i % HIDDEN));
    }
    for (int64_t i = 0; i < u->tokens * TOPK; i++) {
        u->ids[i] = (int32_t)expert_of(i / TOPK, i % TOPK);
    }
    for (int64_t i = 0; i < (int64_t)EXPERTS * COLUMNS * HIDDEN; i++) {
        u->b1[i] = bf16(b1_at(i / (COLUMNS * HIDDEN), i / HIDDEN % COLUMNS, i % HIDDEN));
        u->b2[i] = bf16(b2_at(i / (COLUMNS * HIDDEN), i / COLUMNS % HIDDEN, i % COLUMNS));
    }
}

static void *to_space(const void *host, size_t bytes)
{
    void *space = epf_space_alloc(bytes);

    epf_space_put(space, host, bytes);
    return space;
}

static void open_op(huge *u)
{
    epf_group_config group_config;
    epf_op_config config;

    CHECK_OK(epf_group_config_init(&group_config));
    CHECK_OK(epf_group_create_threads(1, &group_config, &u->group));
    CHECK_OK(epf_op_config_init(&config));
    config.max_tokens = (int32_t)u->tokens;
    config.hidden = HIDDEN;
    config.topk = TOPK;
    config.num_tot_experts = EXPERTS;
    config.capacity = 1;
    op_device_config(&config);
    CHECK_OK(epf_op_create(u->group, &config, &u->op));
    u->device[0] = to_space(u->x, (size_t)(u->tokens * HIDDEN) * sizeof *u->x);
    u->device[1] = to_space(u->ids, (size_t)(u->tokens * TOPK) * sizeof *u->ids);
    u->device[2] = to_space(u->b1, (size_t)EXPERTS * COLUMNS * HIDDEN * sizeof *u->b1);
    u->device[3] = to_space(u->b2, (size_t)EXPERTS * COLUMNS * HIDDEN * sizeof *u->b2);
    u->device[4] = epf_space_alloc((size_t)(u->rows * COLUMNS) * sizeof(uint16_t));
}

static epf_status settle(const huge *u)
{
    return epf_space_is_device() ? epf_op_synchronize(u->op) : EPF_OK;
}

/* Every row is its token's, chunk by chunk. */
static void check_rows(const huge *u, const epf_tensor *rows)
{
    for (int64_t k = 0; k < 2 * TOPK; k++) {
        const int64_t parity = k / TOPK;
        const int64_t count = (u->tokens + 1 - parity) / 2;
        for (int64_t at = 0; at < count; at += CHUNK_ROWS) {
            const int64_t some = count - at < CHUNK_ROWS ? count - at : CHUNK_ROWS;
            const int64_t first = row_of(u, 2 * at + parity, k % TOPK);
            epf_tensor part = *rows;
            uint16_t *got;
            part.data = (uint16_t *)part.data + first * part.stride[0];
            got = op_fetch(&part, some);
            for (int64_t i = 0; i < some; i++) {
                CHECK(memcmp(got + i * HIDDEN, u->x + (2 * (at + i) + parity) * HIDDEN,
                             HIDDEN * sizeof *got) == 0,
                      "row %lld has other bits", (long long)(first + i));
            }
            free(got);
        }
    }
}

/* Of one row, rounded as the kernel rounds. */
static void product(int64_t token, int64_t expert, float *out)
{
    for (int64_t n = 0; n < COLUMNS; n++) {
        int32_t sum = 0;
        for (int64_t h = 0; h < HIDDEN; h++) {
            sum += x_at(token, h) * b1_at(expert, n, h);
        }
        out[n] = epf_bf16_to_f32(bf16(sum));
    }
}

static void check_products(const huge *u, const uint16_t *gemm, int64_t token)
{
    for (int64_t k = 0; k < TOPK; k++) {
        float want[COLUMNS];
        product(token, expert_of(token, k), want);
        for (int64_t n = 0; n < COLUMNS; n++) {
            const float got = epf_bf16_to_f32(gemm[row_of(u, token, k) * COLUMNS + n]);
            CHECK(got >= want[n] && got <= want[n], "token %lld, k %lld, column %lld: %g, want %g",
                  (long long)token, (long long)k, (long long)n, (double)got, (double)want[n]);
        }
    }
}

static void check_sums(const epf_tensor *output, int64_t token)
{
    epf_tensor one = *output;
    float sums[HIDDEN] = {0};
    uint16_t *got;

    for (int64_t k = 0; k < TOPK; k++) {
        float y[COLUMNS];
        product(token, expert_of(token, k), y);
        for (int64_t h = 0; h < HIDDEN; h++) {
            float dot = 0;
            for (int64_t n = 0; n < COLUMNS; n++) {
                dot += y[n] * (float)b2_at(expert_of(token, k), h, n);
            }
            sums[h] += epf_bf16_to_f32(epf_bf16_from_f32(dot));
        }
    }
    one.data = (uint16_t *)one.data + token * one.stride[0];
    got = op_fetch(&one, 1);
    for (int64_t h = 0; h < HIDDEN; h++) {
        CHECK(got[h] == epf_bf16_from_f32(sums[h]), "token %lld, column %lld: %g, want %g",
              (long long)token, (long long)h, (double)epf_bf16_to_f32(got[h]), (double)sums[h]);
    }
    free(got);
}

static void dispatch(huge *u)
{
    epf_dispatch_group_gemm_result result;
    epf_dispatch_group_gemm_args args;
    epf_preprocess_args preprocess;
    epf_layout_view view;
    uint16_t *gemm;

    CHECK_OK(epf_preprocess_args_init(&preprocess));
    preprocess.exp_indices = op_tensor(u->device[1], EPF_DTYPE_I32, u->tokens, TOPK);
    CHECK_OK(epf_preprocess(u->op, &preprocess, &u->layout));
    CHECK_OK(epf_layout_get(u->layout, &view));
    CHECK(view.num_recv_rows == u->rows, "%d rows", view.num_recv_rows);
    CHECK_OK(epf_dispatch_group_gemm_args_init(&args));
    args.layout = u->layout;
    args.input = op_tensor(u->device[0], EPF_DTYPE_BF16, u->tokens, HIDDEN);
    args.gemm_weight = op_tensor3(u->device[2], EPF_DTYPE_BF16, EXPERTS, COLUMNS, HIDDEN);
    args.gemm_output_data = op_tensor(u->device[4], EPF_DTYPE_BF16, u->rows, COLUMNS);
    CHECK_OK(epf_dispatch_group_gemm(u->op, &args, &result));
    CHECK_OK(settle(u));
    check_rows(u, &result.dispatch_output);
    gemm = op_fetch(&args.gemm_output_data, u->rows);
    for (int64_t i = 0; i < SAMPLES / 20; i++) {
        check_products(u, gemm, u->tokens - 1 - i * (u->tokens - 1) / (SAMPLES / 20));
    }
    free(gemm);
}

static void combine(huge *u)
{
    for (int32_t mode = EPF_COMBINE_SERIAL; mode <= EPF_COMBINE_FUSE_SCATTER; mode++) {
        epf_group_gemm_combine_result result;
        epf_group_gemm_combine_args args;
        CHECK_OK(epf_group_gemm_combine_args_init(&args));
        args.layout = u->layout;
        args.gemm_input_data = op_tensor(u->device[4], EPF_DTYPE_BF16, u->rows, COLUMNS);
        args.gemm_weight = op_tensor3(u->device[3], EPF_DTYPE_BF16, EXPERTS, HIDDEN, COLUMNS);
        args.combine_mode = mode;
        CHECK_OK(epf_group_gemm_combine(u->op, &args, &result));
        CHECK_OK(settle(u));
        for (int64_t i = 0; i < SAMPLES / 20; i++) {
            check_sums(&result.combine_output,
                       u->tokens - 1 - i * (u->tokens - 1) / (SAMPLES / 20));
        }
    }
}

int main(int argc, char **argv)
{
    huge u = {.tokens = argc > 1 ? strtoll(argv[1], NULL, 10) : 65792};

    u.rows = u.tokens * TOPK;
    epf_space_require(false);
    epf_space_reserve((size_t)(u.tokens * HIDDEN * 2 + u.rows * (COLUMNS * 2 + 4)) +
                      ((size_t)64 << 20));
    epf_space_enter(0);
    fill(&u);
    open_op(&u);
    dispatch(&u);
    combine(&u);
    printf("%lld rows of %d: %lld elements\n", (long long)u.rows, HIDDEN,
           (long long)u.rows * HIDDEN);
    epf_layout_destroy(u.layout);
    epf_op_destroy(u.op);
    epf_group_destroy(u.group);
    for (size_t i = 0; i < sizeof u.device / sizeof u.device[0]; i++) {
        epf_space_free(u.device[i]);
    }
    free(u.x);
    free(u.ids);
    free(u.b1);
    free(u.b2);
    return 0;
}
