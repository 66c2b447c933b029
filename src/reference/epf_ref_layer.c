/*
 * The layer, rows of rank r received by dispatch, all sums over the row's own columns:
 *
 *   x    = input[token of the row]            gu = [g | u] = x W13^T         h = silu(g) * u * w
 *   y    = h W2^T                             output[token] = sum over k of y[row(token, k)]
 *
 * and backward, with s = 1 / (1 + exp(-g)), silu(g) = g s, silu'(g) = s (1 + g (1 - s)):
 *
 *   dy   = grad_output[token of the row]      dh = dy W2
 *   dg   = dh * u * w * silu'(g)              du = dh * silu(g) * w
 *   dw   = sum over columns of dh * silu(g) * u
 *   dx   = [dg | du] W13                      grad_input[token] = sum over k of dx[row(token, k)]
 *   dW13 = [dg | du]^T x                      dW2 = dy^T h
 *
 * Rounded to the token type: gu (after h was made of it, or before with gate_up_rounded), h, y, output, dh, dg,
 * du, dx, the results; to the type of the routing weights: dw.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "reference/epf_reference.h"

static epf_status forward_rows(const epf_ref_layer *layer, int32_t rank, epf_ref_forward *f)
{
    epf_ref_gemm gemm = {.route = layer->route,
                         .rank = rank,
                         .b_reduce_last_dim = true,
                         .mode = layer->mode,
                         .dtype = layer->dtype};

    EPF_TRY(epf_ref_dispatch(layer->route, rank, layer->input, layer->hidden, &f->x));
    EPF_TRY(epf_ref_dispatch_weights(layer->route, rank, layer->weights, &f->weight));
    gemm.a = &f->x;
    gemm.b = layer->w13[rank];
    gemm.n = 2 * layer->intermediate;
    if (!layer->gate_up_rounded) {
        gemm.dtype = EPF_DTYPE_F64; /* the activation reads accumulators, not stored values */
    }
    EPF_TRY(epf_ref_grouped_gemm(&gemm, &f->gu));
    EPF_TRY(epf_ref_swiglu(&f->gu, &f->weight, layer->mode, layer->dtype, &f->h));
    for (int64_t i = 0; i < f->gu.rows * f->gu.cols && !layer->gate_up_rounded; i++) {
        epf_ref_store(layer->mode, layer->dtype, &f->gu.value[i], &f->gu.bound[i]);
    }
    gemm.dtype = layer->dtype;
    gemm.a = &f->h;
    gemm.b = layer->w2[rank];
    gemm.n = layer->hidden;
    return epf_ref_grouped_gemm(&gemm, &f->y);
}

epf_status epf_ref_layer_forward(const epf_ref_layer *layer, epf_ref_forward *ranks)
{
    const int32_t num_ranks = layer->route->num_ranks;
    epf_ref_matrix *y = epf_alloc((size_t)num_ranks, sizeof *y);
    epf_status st = EPF_OK;

    memset(ranks, 0, (size_t)num_ranks * sizeof *ranks);
    if (y == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "reference: the table of ranks");
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        EPF_TRY_GOTO(forward_rows(layer, r, &ranks[r]), free_table);
        y[r] = ranks[r].y;
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        const epf_ref_combine_args args = {
            .route = layer->route, .rank = r, .y = y, .mode = layer->mode, .dtype = layer->dtype};
        EPF_TRY_GOTO(epf_ref_combine(&args, &ranks[r].output), free_table);
    }
free_table:
    epf_free(y);
    return st;
}

void epf_ref_forward_free(epf_ref_forward *ranks, int32_t num_ranks)
{
    for (int32_t r = 0; r < num_ranks; r++) {
        epf_ref_matrix_free(&ranks[r].x);
        epf_ref_matrix_free(&ranks[r].weight);
        epf_ref_matrix_free(&ranks[r].gu);
        epf_ref_matrix_free(&ranks[r].h);
        epf_ref_matrix_free(&ranks[r].y);
        epf_ref_matrix_free(&ranks[r].output);
    }
}

/* One number and how far a backend may be from it. */
typedef struct bounded {
    double value, bound;
} bounded;

static bounded times(bounded a, bounded b)
{
    const double value = a.value * b.value;
    const bounded product = {value, fabs(a.value) * b.bound + a.bound * fabs(b.value) +
                                        a.bound * b.bound + FLT_EPSILON * fabs(value)};
    return product;
}

/* dgu and dw of row r; each column of h gives one column of dg and one of du. */
static void activation_backward_row(const epf_ref_layer *layer, const epf_ref_forward *f,
                                    epf_ref_backward *b, int64_t r)
{
    const int64_t cols = layer->intermediate;
    const bounded w = {f->weight.value[r], 0};
    double magnitude = 0;

    for (int64_t c = 0; c < cols; c++) {
        const int64_t gate = r * 2 * cols + c;
        const int64_t up = gate + cols;
        const double g = f->gu.value[gate];
        const double s = 1 / (1 + exp(-g));
        const double slope = s * (1 + g * (1 - s));
        const bounded u = {f->gu.value[up], f->gu.bound[up]};
        const bounded dh = {b->dh.value[r * cols + c], b->dh.bound[r * cols + c]};
        const bounded silu = {g * s, 1.1 * f->gu.bound[gate] + 16 * FLT_EPSILON * fabs(g * s)};
        const bounded silu_slope = {slope,
                                    0.5 * f->gu.bound[gate] + 16 * FLT_EPSILON * (1 + fabs(slope))};
        const bounded dg = times(times(times(dh, u), w), silu_slope);
        const bounded du = times(times(dh, silu), w);
        const bounded dw = times(times(dh, silu), u);

        b->dgu.value[gate] = dg.value;
        b->dgu.bound[gate] = dg.bound;
        b->dgu.value[up] = du.value;
        b->dgu.bound[up] = du.bound;
        epf_ref_store(layer->mode, layer->dtype, &b->dgu.value[gate], &b->dgu.bound[gate]);
        epf_ref_store(layer->mode, layer->dtype, &b->dgu.value[up], &b->dgu.bound[up]);
        b->dweight.value[r] += dw.value;
        b->dweight.bound[r] += dw.bound;
        magnitude += fabs(dw.value) + dw.bound;
    }
    b->dweight.bound[r] += (double)cols * FLT_EPSILON * magnitude;
    epf_ref_store(layer->mode, layer->weight_dtype, &b->dweight.value[r], &b->dweight.bound[r]);
}

static epf_status backward_rows(const epf_ref_layer *layer, int32_t rank,
                                const epf_ref_tensor *grad_output, const epf_ref_forward *f,
                                epf_ref_backward *b)
{
    epf_ref_gemm gemm = {.route = layer->route,
                         .rank = rank,
                         .b_reduce_last_dim = false,
                         .mode = layer->mode,
                         .dtype = layer->dtype};

    EPF_TRY(epf_ref_dispatch(layer->route, rank, grad_output, layer->hidden, &b->dy));
    gemm.a = &b->dy;
    gemm.b = layer->w2[rank]; /* [L, H, I] is [L, k, n] here */
    gemm.n = layer->intermediate;
    EPF_TRY(epf_ref_grouped_gemm(&gemm, &b->dh));
    EPF_TRY(epf_ref_matrix_make(f->gu.rows, f->gu.cols, &b->dgu));
    EPF_TRY(epf_ref_matrix_make(f->gu.rows, 1, &b->dweight));
    for (int64_t r = 0; r < f->gu.rows; r++) {
        activation_backward_row(layer, f, b, r);
    }
    gemm.a = &b->dgu;
    gemm.b = layer->w13[rank]; /* [L, 2I, H] is [L, k, n] here */
    gemm.n = layer->hidden;
    return epf_ref_grouped_gemm(&gemm, &b->dx);
}

static epf_status weight_gradients(const epf_ref_layer *layer, int32_t rank,
                                   const epf_ref_forward *f, epf_ref_backward *b)
{
    epf_ref_weight_grad_args args = {
        .route = layer->route, .rank = rank, .mode = layer->mode, .dtype = layer->dtype};

    args.grad_output = &b->dgu;
    args.orig_input = &f->x;
    EPF_TRY(epf_ref_weight_grad(&args, &b->grad_w13));
    args.grad_output = &b->dy;
    args.orig_input = &f->h;
    return epf_ref_weight_grad(&args, &b->grad_w2);
}

/* Back to the tokens' owners: dx summed, dw per slot.  dx and dw: [W], tables of the ranks' matrices. */
static epf_status token_gradients(const epf_ref_layer *layer, int32_t rank,
                                  const epf_ref_matrix *dx, const epf_ref_matrix *dw,
                                  epf_ref_backward *b)
{
    const epf_ref_combine_args args = {
        .route = layer->route, .rank = rank, .y = dx, .mode = layer->mode, .dtype = layer->dtype};

    EPF_TRY(epf_ref_combine(&args, &b->grad_input));
    return epf_ref_output_gate(layer->route, rank, dw, &b->grad_weights);
}

epf_status epf_ref_layer_backward(const epf_ref_layer *layer, const epf_ref_forward *forward,
                                  const epf_ref_tensor *grad_output, epf_ref_backward *ranks)
{
    const int32_t num_ranks = layer->route->num_ranks;
    epf_ref_matrix *tables = epf_alloc(2 * (size_t)num_ranks, sizeof *tables);
    epf_status st = EPF_OK;

    memset(ranks, 0, (size_t)num_ranks * sizeof *ranks);
    if (tables == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "reference: the table of ranks");
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        EPF_TRY_GOTO(backward_rows(layer, r, grad_output, &forward[r], &ranks[r]), free_tables);
        EPF_TRY_GOTO(weight_gradients(layer, r, &forward[r], &ranks[r]), free_tables);
        tables[r] = ranks[r].dx;
        tables[num_ranks + r] = ranks[r].dweight;
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        EPF_TRY_GOTO(token_gradients(layer, r, tables, tables + num_ranks, &ranks[r]), free_tables);
    }
free_tables:
    epf_free(tables);
    return st;
}

void epf_ref_backward_free(epf_ref_backward *ranks, int32_t num_ranks)
{
    for (int32_t r = 0; r < num_ranks; r++) {
        epf_ref_matrix_free(&ranks[r].dy);
        epf_ref_matrix_free(&ranks[r].dh);
        epf_ref_matrix_free(&ranks[r].dgu);
        epf_ref_matrix_free(&ranks[r].dweight);
        epf_ref_matrix_free(&ranks[r].dx);
        epf_ref_matrix_free(&ranks[r].grad_input);
        epf_ref_matrix_free(&ranks[r].grad_weights);
        epf_ref_matrix_free(&ranks[r].grad_w13);
        epf_ref_matrix_free(&ranks[r].grad_w2);
    }
}
