/*
 * test_ref_math: the parts of the reference on cases worked out by hand, its roundings, and its bounds
 * against sums really made in fp32.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/epf_half.h"
#include "support/epf_check.h"
#include "support/epf_compare.h"
#include "support/epf_data.h"
#include "support/epf_rng.h"

/* W = 1, E = 2, K = 2: token 0 to experts 1 and 0, token 1 to expert 1 and nowhere. */
static const int32_t kIds[] = {1, 0, 1, 2};
static const int32_t kTokens[] = {2};
static const int32_t *const kIdsOfRanks[] = {kIds};
/* Rows: 0 = (token 0, expert 0), 1 = (token 0, expert 1), 2 = (token 1, expert 1). */

static const float kInput[] = {1, 2, 3, 4};             /* [2, 2]               */
static const float kB[] = {1, 0, 0, 1, 1, 1, 2, 0, -1}; /* room for [2, 2, 2]   */
static const float kWeights[] = {0.5F, 0.25F, 2, 8};    /* [2, 2]               */

static epf_ref_route hand_route(void)
{
    const epf_ref_routing routing = {.num_ranks = 1,
                                     .num_experts = 2,
                                     .num_topk = 2,
                                     .max_tokens = 2,
                                     .block_m = 128,
                                     .num_tokens = kTokens,
                                     .topk_idx = kIdsOfRanks};
    epf_ref_route route;

    CHECK_OK(epf_ref_route_make(&routing, &route));
    return route;
}

#define CHECK_VALUES(matrix, ...)                                                            \
    do {                                                                                     \
        static const double want[] = {__VA_ARGS__};                                          \
        const int64_t count = (int64_t)(sizeof want / sizeof want[0]);                       \
        CHECK((matrix).rows *(matrix).cols == count, "%lld elements",                        \
              (long long)((matrix).rows * (matrix).cols));                                   \
        for (int64_t i = 0; i < count; i++) {                                                \
            CHECK((matrix).value[i] == want[i], "element %lld is %g, want %g", (long long)i, \
                  (matrix).value[i], want[i]);                                               \
        }                                                                                    \
    } while (0)

static void test_gemm_and_combine(void)
{
    epf_ref_route route = hand_route();
    const epf_ref_tensor input = {kInput, EPF_DTYPE_F32};
    const epf_ref_tensor weights = {kWeights, EPF_DTYPE_F32};
    epf_ref_matrix x, w, y, transposed, sum, weighted, gate, grad;
    epf_ref_gemm gemm = {.route = &route,
                         .a = &x,
                         .b = {kB, EPF_DTYPE_F32},
                         .b_reduce_last_dim = true,
                         .n = 2,
                         .mode = EPF_REF_EXACT,
                         .dtype = EPF_DTYPE_F32};
    epf_ref_combine_args combine = {.route = &route, .y = &y, .dtype = EPF_DTYPE_F32};
    const epf_ref_weight_grad_args grad_args = {
        .route = &route, .grad_output = &y, .orig_input = &x, .dtype = EPF_DTYPE_F32};

    CHECK_OK(epf_ref_dispatch(&route, 0, &input, 2, &x));
    CHECK_VALUES(x, 1, 2, 1, 2, 3, 4);
    CHECK_OK(epf_ref_dispatch_weights(&route, 0, &weights, &w));
    CHECK_VALUES(w, 0.25, 0.5, 2);
    /* Expert 0 is the identity, expert 1 is [[1, 1], [2, 0]]. */
    CHECK_OK(epf_ref_grouped_gemm(&gemm, &y));
    CHECK_VALUES(y, 1, 2, 3, 2, 7, 6);
    gemm.b_reduce_last_dim = false;
    CHECK_OK(epf_ref_grouped_gemm(&gemm, &transposed));
    CHECK_VALUES(transposed, 1, 2, 5, 1, 11, 3);
    CHECK_OK(epf_ref_combine(&combine, &sum));
    CHECK_VALUES(sum, 4, 4, 7, 6);
    combine.weights = &weights;
    CHECK_OK(epf_ref_combine(&combine, &weighted));
    CHECK_VALUES(weighted, 1.75, 1.5, 14, 12);
    CHECK_OK(epf_ref_output_gate(&route, 0, &w, &gate));
    CHECK_VALUES(gate, 0.5, 0.25, 2, 0);
    /* Expert 0: (1, 2)^T (1, 2); expert 1: (3, 2)^T (1, 2) + (7, 6)^T (3, 4). */
    CHECK_OK(epf_ref_weight_grad(&grad_args, &grad));
    CHECK_VALUES(grad, 1, 2, 2, 4, 24, 34, 20, 28);
    epf_ref_matrix *all[] = {&x, &w, &y, &transposed, &sum, &weighted, &gate, &grad};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        epf_ref_matrix_free(all[i]);
    }
    epf_ref_route_free(&route);
}

static void test_rounding(void)
{
    double value = 257; /* bf16 has eight bits: a tie between 256 and 258, to the even one */
    double bound = 0;

    CHECK(epf_ref_round(EPF_DTYPE_BF16, 257) == 256, "257 as bf16");
    CHECK(epf_ref_round(EPF_DTYPE_BF16, 259) == 260, "259 as bf16");
    CHECK(epf_ref_round(EPF_DTYPE_F16, 2049) == 2048, "2049 as fp16");
    CHECK(epf_ref_round(EPF_DTYPE_F32, 16777217) == 16777216, "2^24 + 1 as fp32");
    CHECK(epf_ref_half_ulp(EPF_DTYPE_BF16, 1) == 0x1p-8, "half ulp of 1 in bf16");
    CHECK(epf_ref_half_ulp(EPF_DTYPE_BF16, -255) == 0.5, "half ulp of 255 in bf16");
    CHECK(epf_ref_half_ulp(EPF_DTYPE_F16, 1) == 0x1p-11, "half ulp of 1 in fp16");
    CHECK(epf_ref_half_ulp(EPF_DTYPE_F16, 0) == 0x1p-25, "half ulp of 0 in fp16");
    CHECK(epf_ref_half_ulp(EPF_DTYPE_F32, 1) == 0x1p-24, "half ulp of 1 in fp32");
    epf_ref_store(EPF_REF_EXACT, EPF_DTYPE_BF16, &value, &bound);
    CHECK(value == 257 && bound == 1, "exact: %g within %g", value, bound);
    epf_ref_store(EPF_REF_ROUNDED, EPF_DTYPE_BF16, &value, &bound);
    CHECK(value == 256 && bound == 3, "rounded: %g within %g", value, bound);
}

/* fp32 sums, first to last and last to first, stay within the bound, which is not absurdly wide. */
static void test_bound(void)
{
    enum { DEPTH = 777 };
    float a[DEPTH];
    float b[DEPTH];
    static const int32_t ids[] = {0};
    static const int32_t tokens[] = {1};
    static const int32_t *const ids_of_ranks[] = {ids};
    const epf_ref_routing routing = {.num_ranks = 1,
                                     .num_experts = 1,
                                     .num_topk = 1,
                                     .max_tokens = 1,
                                     .block_m = 1,
                                     .num_tokens = tokens,
                                     .topk_idx = ids_of_ranks};
    const epf_ref_tensor input = {a, EPF_DTYPE_F32};
    double worst = 0;

    for (uint64_t seed = 0; seed < 200; seed++) {
        epf_rng rng = epf_rng_make(seed, 0);
        epf_ref_route route;
        epf_ref_matrix x, y;
        float up = 0;
        float down = 0;
        for (int32_t i = 0; i < DEPTH; i++) {
            a[i] = (float)epf_rng_normal(&rng);
            b[i] = (float)epf_rng_normal(&rng);
        }
        for (int32_t i = 0; i < DEPTH; i++) {
            up += a[i] * b[i];
            down += a[DEPTH - 1 - i] * b[DEPTH - 1 - i];
        }
        CHECK_OK(epf_ref_route_make(&routing, &route));
        CHECK_OK(epf_ref_dispatch(&route, 0, &input, DEPTH, &x));
        const epf_ref_gemm gemm = {&route,       0, &x, {b, EPF_DTYPE_F32}, true, 1, EPF_REF_EXACT,
                                   EPF_DTYPE_F32};
        CHECK_OK(epf_ref_grouped_gemm(&gemm, &y));
        CHECK(fabs(up - y.value[0]) <= y.bound[0] && fabs(down - y.value[0]) <= y.bound[0],
              "seed %llu: %g and %g, want %g within %g", (unsigned long long)seed, (double)up,
              (double)down, y.value[0], y.bound[0]);
        worst = fmax(worst, fabs(up - y.value[0]) / y.bound[0]);
        CHECK(y.bound[0] < 0.1, "a bound of %g shows nothing", y.bound[0]);
        epf_ref_matrix_free(&x);
        epf_ref_matrix_free(&y);
        epf_ref_route_free(&route);
    }
    CHECK(worst > 1e-4, "the largest error is only %g of the bound", worst);
}

int main(void)
{
    test_gemm_and_combine();
    test_rounding();
    test_bound();
    return 0;
}
