/*
 * test_families: for a tiny checkpoint of every router, ids, weights and the block's output are
 * what transformers computed (data/, made by make_router_cases.py), for all tokens whose choice is
 * not a matter of rounding.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/epf_array.h"
#include "model/epf_moe_block.h"
#include "model/epf_router.h"
#include "model/epf_safetensors.h"
#include "support/epf_check.h"

enum { MAX_WIDTH = 64, MAX_TOPK = 8, NAME_BYTES = 1024 };

/* transformers computes in fp32: H = 16 terms of magnitude 1 for logits, then exp. */
static const double weight_tolerance = 4e-6;
static const double output_tolerance = 4e-6; /* of the largest output */
static const double least_margin = 1e-5;

static const char *const families[] = {"mixtral",
                                       "qwen2_moe",
                                       "qwen3_moe",
                                       "qwen3_moe_plain",
                                       "olmoe",
                                       "deepseek_v2_greedy",
                                       "deepseek_v2_groups",
                                       "deepseek_v3",
                                       "deepseek_v3_plain"};

typedef struct family_case {
    const char *name;
    epf_moe_block block;
    int64_t num_tokens;
    int32_t topk;
    const epf_tensor_view *hidden, *idx, *weight, *output; /* of io.safetensors */
    float *x;                                              /* [T, H]         */
    int32_t *got_idx;                                      /* [T, K]       */
    double *got_weight;                                    /* [T, K]     */
    double *margin;                                        /* [T]            */
} family_case;

static float value_at(const epf_tensor_view *view, int64_t i)
{
    float value;
    CHECK_OK(epf_tensor_convert(view, i, 1, EPF_DTYPE_F32, &value));
    return value;
}

static int32_t idx_at(const epf_tensor_view *view, int64_t i)
{
    int32_t value;
    memcpy(&value, (const char *)view->data + 4 * i, sizeof value);
    return value;
}

/* The slot of `token` in which transformers put `expert`, or -1; its sort is not defined. */
static int32_t slot_of(const family_case *c, int64_t token, int32_t expert)
{
    for (int32_t k = 0; k < c->topk; k++) {
        if (idx_at(c->idx, token * c->topk + k) == expert) {
            return k;
        }
    }
    return -1;
}

static void compare_routing(const family_case *c, const float *weight_f32, const int32_t *idx_f32)
{
    int64_t compared = 0;
    for (int64_t t = 0; t < c->num_tokens; t++) {
        if (c->margin[t] < least_margin) {
            continue;
        }
        compared++;
        for (int32_t k = 0; k < c->topk; k++) {
            const int64_t i = t * c->topk + k;
            const int32_t slot = slot_of(c, t, c->got_idx[i]);
            CHECK(slot >= 0, "%s: token %lld: expert %d was not chosen by transformers", c->name,
                  (long long)t, c->got_idx[i]);
            const double want = (double)value_at(c->weight, t * c->topk + slot);
            const double bound = weight_tolerance * (1.0 + fabs(want));
            CHECK(fabs(c->got_weight[i] - want) < bound, "%s: token %lld: weight %.9g, not %.9g",
                  c->name, (long long)t, c->got_weight[i], want);
            CHECK(fabs((double)weight_f32[i] - c->got_weight[i]) < bound &&
                      idx_f32[i] == c->got_idx[i],
                  "%s: token %lld: single and double precision differ", c->name, (long long)t);
        }
    }
    CHECK(compared * 10 >= c->num_tokens * 9, "%s: only %lld tokens compared", c->name,
          (long long)compared);
}

static void route(family_case *c)
{
    const size_t slots = (size_t)(c->num_tokens * c->topk);
    int32_t *idx = epf_test_alloc(slots, sizeof idx[0]);
    float *weight = epf_test_alloc(slots, sizeof weight[0]);
    epf_router *router;
    c->got_idx = epf_test_alloc(slots, sizeof c->got_idx[0]);
    c->got_weight = epf_test_alloc(slots, sizeof c->got_weight[0]);
    c->margin = epf_test_alloc((size_t)c->num_tokens, sizeof c->margin[0]);
    const epf_router_args args = {c->x, c->num_tokens, 0, idx, weight};
    const epf_router_f64_args args_f64 = {c->x,       c->num_tokens, 0,
                                          c->got_idx, c->got_weight, c->margin};
    CHECK_OK(epf_router_create(c->block.config, &c->block.router_weight, &c->block.router_bias,
                               &router));
    CHECK_OK(epf_router_run(router, &args));
    CHECK_OK(epf_router_run_f64(router, &args_f64));
    compare_routing(c, weight, idx);
    epf_router_destroy(router);
    free(idx);
    free(weight);
}

/* Row `row` of a matrix times x. */
static double row_dot(const epf_tensor_view *matrix, int64_t row, const double *x)
{
    const int64_t columns = matrix->shape[1];
    double sum = 0.0;
    for (int64_t i = 0; i < columns; i++) {
        sum += (double)value_at(matrix, row * columns + i) * x[i];
    }
    return sum;
}

static void add_mlp(const epf_mlp_weights *mlp, double weight, const double *x, double *y)
{
    double inner[MAX_WIDTH];
    CHECK(mlp->gate.shape[0] <= MAX_WIDTH, "inner width");
    for (int64_t i = 0; i < mlp->gate.shape[0]; i++) {
        const double gate = row_dot(&mlp->gate, i, x);
        inner[i] = gate / (1.0 + exp(-gate)) * row_dot(&mlp->up, i, x);
    }
    for (int64_t h = 0; h < mlp->down.shape[0]; h++) {
        y[h] += weight * row_dot(&mlp->down, h, inner);
    }
}

/* The formula of epf_moe_block.h. */
static void compute_token(const family_case *c, int64_t token, double *y)
{
    const int64_t hidden = c->block.config->hidden;
    double x[MAX_WIDTH];
    for (int64_t h = 0; h < hidden; h++) {
        x[h] = (double)c->x[token * hidden + h];
        y[h] = 0.0;
    }
    for (int32_t k = 0; k < c->topk; k++) {
        const int64_t i = token * c->topk + k;
        add_mlp(&c->block.experts[c->got_idx[i]], c->got_weight[i], x, y);
    }
    if (c->block.shared.gate.data != NULL) {
        const epf_tensor_view *gate = &c->block.shared_gate;
        add_mlp(&c->block.shared,
                gate->data == NULL ? 1.0 : 1.0 / (1.0 + exp(-row_dot(gate, 0, x))), x, y);
    }
}

static void compare_output(const family_case *c)
{
    const int64_t hidden = c->block.config->hidden;
    double largest = 0.0;
    double worst = 0.0;
    CHECK(hidden <= MAX_WIDTH, "hidden width");
    for (int64_t t = 0; t < c->num_tokens; t++) {
        double y[MAX_WIDTH];
        if (c->margin[t] < least_margin) {
            continue;
        }
        compute_token(c, t, y);
        for (int64_t h = 0; h < hidden; h++) {
            const double want = (double)value_at(c->output, t * hidden + h);
            largest = fmax(largest, fabs(want));
            worst = fmax(worst, fabs(y[h] - want));
        }
    }
    printf("%-20s largest output %8.3f, largest error %.1e\n", c->name, largest, worst);
    CHECK(worst <= output_tolerance * largest, "%s: output differs by %g", c->name, worst);
}

static void find(const epf_safetensors *io, const char *name, epf_tensor_view *view)
{
    CHECK(epf_safetensors_find(io, name, view), "%s is missing", name);
}

static void run_case(const char *root, const char *name)
{
    family_case c = {.name = name};
    epf_tensor_view hidden;
    epf_tensor_view idx;
    epf_tensor_view weight;
    epf_tensor_view output;
    char path[NAME_BYTES];
    epf_checkpoint *checkpoint;
    epf_safetensors *io;
    (void)snprintf(path, sizeof path, "%s/%s", root, name);
    CHECK_OK(epf_checkpoint_open(path, &checkpoint));
    (void)snprintf(path, sizeof path, "%s/%s/io.safetensors", root, name);
    CHECK_OK(epf_safetensors_open(path, &io));
    CHECK_OK(epf_moe_block_open(checkpoint, epf_checkpoint_config(checkpoint)->num_layers - 1, 0,
                                -1, &c.block));
    find(io, "hidden", &hidden);
    find(io, "topk_idx", &idx);
    find(io, "topk_weight", &weight);
    find(io, "output", &output);
    c.hidden = &hidden;
    c.idx = &idx;
    c.weight = &weight;
    c.output = &output;
    c.num_tokens = hidden.shape[0];
    c.topk = c.block.config->routing.topk;
    CHECK(idx.shape[1] == c.topk && idx.dtype == EPF_FILE_I32, "%s: K is %d", name, c.topk);
    c.x = epf_test_alloc((size_t)epf_tensor_num_elements(&hidden), sizeof c.x[0]);
    CHECK_OK(epf_tensor_convert(&hidden, 0, epf_tensor_num_elements(&hidden), EPF_DTYPE_F32, c.x));
    route(&c);
    compare_output(&c);
    free(c.x);
    free(c.got_idx);
    free(c.got_weight);
    free(c.margin);
    epf_moe_block_close(&c.block);
    epf_safetensors_close(io);
    epf_checkpoint_close(checkpoint);
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        run_case(argc > 1 ? argv[1] : "tests/model/data", families[i]);
    }
    return 0;
}
