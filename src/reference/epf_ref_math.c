#include <float.h>
#include <math.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "core/epf_half.h"
#include "reference/epf_reference.h"

static const double kEpsilon = FLT_EPSILON; /* 2^-23 */

/* Relative error of one fp32 evaluation of silu or its derivative, exp included. */
static const double kActivationError = 16 * FLT_EPSILON;

epf_status epf_ref_matrix_make(int64_t rows, int64_t cols, epf_ref_matrix *matrix)
{
    const size_t count = (size_t)rows * (size_t)cols;

    matrix->rows = rows;
    matrix->cols = cols;
    matrix->value = epf_alloc(count, sizeof *matrix->value);
    matrix->bound = epf_alloc(count, sizeof *matrix->bound);
    if (matrix->value == NULL || matrix->bound == NULL) {
        epf_ref_matrix_free(matrix);
        return EPF_FAIL(EPF_E_NO_MEMORY, "reference: a matrix of %lld x %lld", (long long)rows,
                        (long long)cols);
    }
    return EPF_OK;
}

void epf_ref_matrix_free(epf_ref_matrix *matrix)
{
    epf_free(matrix->value);
    epf_free(matrix->bound);
    memset(matrix, 0, sizeof *matrix);
}

double epf_ref_load(epf_ref_tensor tensor, int64_t i)
{
    switch (tensor.dtype) {
    case EPF_DTYPE_F32:
        return (double)((const float *)tensor.data)[i];
    case EPF_DTYPE_BF16:
        return (double)epf_bf16_to_f32(((const uint16_t *)tensor.data)[i]);
    case EPF_DTYPE_F16:
        return (double)epf_f16_to_f32(((const uint16_t *)tensor.data)[i]);
    case EPF_DTYPE_F64:
        return ((const double *)tensor.data)[i];
    default:
        return NAN;
    }
}

double epf_ref_round(epf_dtype dtype, double value)
{
    switch (dtype) {
    case EPF_DTYPE_F32:
        return (double)(float)value;
    case EPF_DTYPE_BF16:
        return (double)epf_bf16_to_f32(epf_bf16_from_f32((float)value));
    case EPF_DTYPE_F16:
        return (double)epf_f16_to_f32(epf_f16_from_f32((float)value));
    default:
        return value;
    }
}

double epf_ref_half_ulp(epf_dtype dtype, double value)
{
    int digits;       /* of the significand, the leading one included */
    int min_exponent; /* of a normal number; below it the spacing stays */
    int exponent;

    switch (dtype) {
    case EPF_DTYPE_F32:
        digits = 24;
        min_exponent = -126;
        break;
    case EPF_DTYPE_BF16:
        digits = 8;
        min_exponent = -126;
        break;
    case EPF_DTYPE_F16:
        digits = 11;
        min_exponent = -14;
        break;
    default:
        return 0;
    }
    exponent = value == 0 ? min_exponent : ilogb(value);
    if (exponent < min_exponent) {
        exponent = min_exponent;
    }
    return ldexp(1.0, exponent - digits);
}

void epf_ref_store(epf_ref_mode mode, epf_dtype dtype, double *value, double *bound)
{
    const double half_ulp = epf_ref_half_ulp(dtype, fabs(*value) + *bound);

    *bound += half_ulp;
    if (mode == EPF_REF_ROUNDED) { /* both sides have rounded */
        *bound += half_ulp;
        *value = epf_ref_round(dtype, *value);
    }
}

epf_status epf_ref_dispatch(const epf_ref_route *route, int32_t rank, const epf_ref_tensor *inputs,
                            int64_t cols, epf_ref_matrix *out)
{
    const epf_ref_rank *here = &route->ranks[rank];

    EPF_TRY(epf_ref_matrix_make(here->num_rows, cols, out));
    for (int64_t r = 0; r < here->num_rows; r++) {
        const epf_ref_row *row = &here->rows[r];
        const int64_t token = row->slot / route->num_topk;
        for (int64_t c = 0; c < cols; c++) {
            out->value[r * cols + c] = epf_ref_load(inputs[row->source], token * cols + c);
        }
    }
    return EPF_OK;
}

epf_status epf_ref_dispatch_weights(const epf_ref_route *route, int32_t rank,
                                    const epf_ref_tensor *weights, epf_ref_matrix *out)
{
    const epf_ref_rank *here = &route->ranks[rank];

    EPF_TRY(epf_ref_matrix_make(here->num_rows, 1, out));
    for (int64_t r = 0; r < here->num_rows; r++) {
        const epf_ref_row *row = &here->rows[r];
        out->value[r] = weights == NULL ? 1 : epf_ref_load(weights[row->source], row->slot);
    }
    return EPF_OK;
}

/* value += a * b and its bound, for `count` products; error = first-order error of the inputs. */
typedef struct dot_sum {
    double value, magnitude, error;
} dot_sum;

static void add_product(dot_sum *sum, double a, double a_bound, double b, double b_bound)
{
    sum->value += a * b;
    sum->magnitude += (fabs(a) + a_bound) * (fabs(b) + b_bound);
    sum->error += a_bound * fabs(b) + (fabs(a) + a_bound) * b_bound;
}

static double dot_bound(const dot_sum *sum, int64_t count)
{
    return (double)count * kEpsilon * sum->magnitude + sum->error;
}

/* Column n of expert e's B, as doubles. */
static void load_column(const epf_ref_gemm *gemm, int64_t expert, int64_t n, double *column)
{
    const int64_t depth = gemm->a->cols;

    for (int64_t k = 0; k < depth; k++) {
        const int64_t in_expert = gemm->b_reduce_last_dim ? n * depth + k : k * gemm->n + n;
        column[k] = epf_ref_load(gemm->b, expert * gemm->n * depth + in_expert);
    }
}

static void multiply_column(const epf_ref_gemm *gemm, int32_t expert, int64_t n,
                            const double *column, const epf_ref_matrix *out)
{
    const epf_ref_rank *here = &gemm->route->ranks[gemm->rank];
    const int64_t depth = gemm->a->cols;
    const int64_t begin = here->split_size_cum_per_expert[expert];

    for (int64_t r = begin; r < begin + here->split_size[expert]; r++) {
        const int64_t at = r * gemm->n + n;
        dot_sum sum = {0};
        for (int64_t k = 0; k < depth; k++) {
            add_product(&sum, gemm->a->value[r * depth + k], gemm->a->bound[r * depth + k],
                        column[k], 0);
        }
        out->value[at] = sum.value;
        out->bound[at] = dot_bound(&sum, depth);
        epf_ref_store(gemm->mode, gemm->dtype, &out->value[at], &out->bound[at]);
    }
}

epf_status epf_ref_grouped_gemm(const epf_ref_gemm *gemm, epf_ref_matrix *out)
{
    const epf_ref_rank *here = &gemm->route->ranks[gemm->rank];
    double *column = epf_alloc((size_t)gemm->a->cols, sizeof *column);
    epf_status st = EPF_OK;

    if (column == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "reference: a column of B");
    }
    EPF_TRY_GOTO(epf_ref_matrix_make(gemm->a->rows, gemm->n, out), free_column);
    for (int32_t e = 0; e < gemm->route->num_local_experts; e++) {
        if (here->split_size[e] == 0) {
            continue; /* its weights may be large, and nobody asks for them */
        }
        for (int64_t n = 0; n < gemm->n; n++) {
            load_column(gemm, e, n, column);
            multiply_column(gemm, e, n, column, out);
        }
    }
free_column:
    epf_free(column);
    return st;
}

/* The row of a slot on the rank that owns its expert; false if it is dropped. */
static bool find_row(const epf_ref_route *route, int32_t source, int64_t slot, int32_t *rank,
                     int64_t *row)
{
    const epf_ref_rank *from = &route->ranks[source];

    if (from->token_dst_scatter_idx[slot] < 0) {
        return false;
    }
    *rank = from->topk_indices[slot] / route->num_local_experts;
    *row = from->token_dst_scatter_idx[slot];
    return true;
}

epf_status epf_ref_combine(const epf_ref_combine_args *args, epf_ref_matrix *out)
{
    const epf_ref_route *route = args->route;
    const int64_t cols = args->y[0].cols;
    const int64_t topk = route->num_topk;
    int32_t owner;
    int64_t row;

    EPF_TRY(epf_ref_matrix_make(route->num_input_tokens_per_rank[args->rank], cols, out));
    for (int64_t at = 0; at < out->rows * cols; at++) {
        const int64_t token = at / cols;
        dot_sum sum = {0};
        for (int64_t k = 0; k < topk; k++) {
            const int64_t slot = token * topk + k;
            const double w = args->weights == NULL ? 1 : epf_ref_load(*args->weights, slot);
            if (find_row(route, args->rank, slot, &owner, &row)) {
                const int64_t y_at = row * cols + at % cols;
                add_product(&sum, args->y[owner].value[y_at], args->y[owner].bound[y_at], w, 0);
            }
        }
        out->value[at] = sum.value;
        out->bound[at] = dot_bound(&sum, topk);
        epf_ref_store(args->mode, args->dtype, &out->value[at], &out->bound[at]);
    }
    return EPF_OK;
}

epf_status epf_ref_output_gate(const epf_ref_route *route, int32_t rank,
                               const epf_ref_matrix *gates, epf_ref_matrix *out)
{
    int32_t owner;
    int64_t row;

    EPF_TRY(epf_ref_matrix_make(route->num_input_tokens_per_rank[rank], route->num_topk, out));
    for (int64_t slot = 0; slot < out->rows * out->cols; slot++) {
        if (find_row(route, rank, slot, &owner, &row)) {
            out->value[slot] = gates[owner].value[row];
            out->bound[slot] = gates[owner].bound[row];
        }
    }
    return EPF_OK;
}

epf_status epf_ref_weight_grad(const epf_ref_weight_grad_args *args, epf_ref_matrix *out)
{
    const epf_ref_rank *here = &args->route->ranks[args->rank];
    const epf_ref_matrix *grad = args->grad_output;
    const epf_ref_matrix *input = args->orig_input;
    const int64_t per_expert = grad->cols * input->cols;

    EPF_TRY(epf_ref_matrix_make(args->route->num_local_experts * grad->cols, input->cols, out));
    for (int64_t at = 0; at < out->rows * out->cols; at++) {
        const int64_t expert = at / per_expert;
        const int64_t n = at % per_expert / input->cols;
        const int64_t k = at % input->cols;
        const int64_t begin = here->split_size_cum_per_expert[expert];
        const int64_t end = begin + here->split_size[expert];
        dot_sum sum = {0};
        for (int64_t r = begin; r < end; r++) {
            add_product(&sum, grad->value[r * grad->cols + n], grad->bound[r * grad->cols + n],
                        input->value[r * input->cols + k], input->bound[r * input->cols + k]);
        }
        out->value[at] = sum.value;
        out->bound[at] = dot_bound(&sum, end - begin);
        epf_ref_store(args->mode, args->dtype, &out->value[at], &out->bound[at]);
    }
    return EPF_OK;
}

epf_status epf_ref_swiglu(const epf_ref_matrix *gu, const epf_ref_matrix *weights,
                          epf_ref_mode mode, epf_dtype dtype, epf_ref_matrix *out)
{
    const int64_t cols = gu->cols / 2;

    EPF_TRY(epf_ref_matrix_make(gu->rows, cols, out));
    for (int64_t at = 0; at < out->rows * cols; at++) {
        const int64_t r = at / cols;
        const int64_t gate = r * gu->cols + at % cols;
        const int64_t up = gate + cols;
        const double silu = gu->value[gate] / (1 + exp(-gu->value[gate]));
        const double silu_bound = 1.1 * gu->bound[gate];
        const double u_size = fabs(gu->value[up]) + gu->bound[up];
        const double w = fabs(weights->value[r]);
        out->value[at] = silu * gu->value[up] * weights->value[r];
        out->bound[at] = (silu_bound * u_size + fabs(silu) * gu->bound[up]) * w +
                         kActivationError * (fabs(silu) + silu_bound) * u_size * w;
        epf_ref_store(mode, dtype, &out->value[at], &out->bound[at]);
    }
    return EPF_OK;
}
