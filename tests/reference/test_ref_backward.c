/*
 * test_ref_backward: the reference's gradients against central differences of its forward pass, in double
 * throughout, for every element of every argument; and the layer on W ranks against the layer on one.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/epf_check.h"
#include "support/epf_data.h"
#include "support/epf_rng.h"

enum { MAX_RANKS = 4 };

/* A layer whose arguments are doubles, so that they can be moved by a little. */
typedef struct doubles {
    epf_data *data;
    double *input, *weights, *w13, *w2, *grad_output; /* of all ranks, one after another */
    int64_t num_input, num_weights, num_w13, num_w2;
    epf_ref_tensor inputs[MAX_RANKS], weight_of[MAX_RANKS], w13s[MAX_RANKS], w2s[MAX_RANKS];
    epf_ref_tensor grads[MAX_RANKS];
    epf_ref_layer layer;
} doubles;

static double *random_doubles(int64_t count, uint64_t stream, double scale)
{
    double *out = epf_test_alloc((size_t)count, sizeof *out);
    epf_rng rng = epf_rng_make(99, stream);

    for (int64_t i = 0; i < count; i++) {
        out[i] = scale * epf_rng_normal(&rng);
    }
    return out;
}

static void make_layer(doubles *d, epf_data *data)
{
    const epf_problem *p = &data->problem;
    const int64_t inter = p->num_columns / 2;
    const int64_t per_rank = p->num_experts / p->num_ranks;
    int64_t first = 0;

    for (int32_t r = 0; r < p->num_ranks; r++) {
        first += data->num_tokens[r];
    }
    d->data = data;
    d->num_input = first * p->hidden;
    d->num_weights = first * p->num_topk;
    d->num_w13 = (int64_t)p->num_experts * p->num_columns * p->hidden;
    d->num_w2 = p->num_experts * p->hidden * inter;
    d->input = random_doubles(d->num_input, 1, 1);
    d->weights = random_doubles(d->num_weights, 2, 1);
    d->w13 = random_doubles(d->num_w13, 3, 0.5);
    d->w2 = random_doubles(d->num_w2, 4, 0.5);
    d->grad_output = random_doubles(d->num_input, 5, 1);
    first = 0;
    for (int32_t r = 0; r < p->num_ranks; r++) {
        d->inputs[r] = (epf_ref_tensor){d->input + first * p->hidden, EPF_DTYPE_F64};
        d->grads[r] = (epf_ref_tensor){d->grad_output + first * p->hidden, EPF_DTYPE_F64};
        d->weight_of[r] = (epf_ref_tensor){d->weights + first * p->num_topk, EPF_DTYPE_F64};
        d->w13s[r] =
            (epf_ref_tensor){d->w13 + r * per_rank * p->num_columns * p->hidden, EPF_DTYPE_F64};
        d->w2s[r] = (epf_ref_tensor){d->w2 + r * per_rank * p->hidden * inter, EPF_DTYPE_F64};
        first += data->num_tokens[r];
    }
    d->layer = (epf_ref_layer){.route = &data->route,
                               .hidden = p->hidden,
                               .intermediate = inter,
                               .mode = EPF_REF_EXACT,
                               .dtype = EPF_DTYPE_F64,
                               .weight_dtype = EPF_DTYPE_F64,
                               .input = d->inputs,
                               .weights = d->weight_of,
                               .w13 = d->w13s,
                               .w2 = d->w2s};
}

static void free_layer(doubles *d)
{
    free(d->input);
    free(d->weights);
    free(d->w13);
    free(d->w2);
    free(d->grad_output);
}

/* sum over all outputs of grad_output * output: the scalar whose gradient the backward pass gives. */
static double loss(const doubles *d)
{
    const int32_t ranks = d->data->problem.num_ranks;
    epf_ref_forward forward[MAX_RANKS];
    double sum = 0;

    CHECK_OK(epf_ref_layer_forward(&d->layer, forward));
    for (int32_t r = 0; r < ranks; r++) {
        const epf_ref_matrix *out = &forward[r].output;
        for (int64_t i = 0; i < out->rows * out->cols; i++) {
            sum += out->value[i] * epf_ref_load(d->grads[r], i);
        }
    }
    epf_ref_forward_free(forward, ranks);
    return sum;
}

/* Compares `gradient` with the central difference at every one of the argument's elements. */
static void check_gradient(const doubles *d, const char *name, double *argument,
                           const double *gradient, int64_t count)
{
    const double step = 1e-5;

    for (int64_t i = 0; i < count; i++) {
        const double kept = argument[i];
        double difference;
        argument[i] = kept + step;
        difference = loss(d);
        argument[i] = kept - step;
        difference = (difference - loss(d)) / (2 * step);
        argument[i] = kept;
        CHECK(fabs(difference - gradient[i]) <= 1e-6 * (1 + fabs(difference)),
              "%s[%lld]: gradient %.12g, difference %.12g", name, (long long)i, gradient[i],
              difference);
    }
}

/* The ranks' matrices, one after another. */
static double *gathered(const epf_ref_backward *ranks, int32_t num_ranks, size_t member,
                        int64_t count)
{
    double *all = epf_test_alloc((size_t)count, sizeof *all);
    int64_t next = 0;

    for (int32_t r = 0; r < num_ranks; r++) {
        const epf_ref_matrix *m =
            (const epf_ref_matrix *)(const void *)((const char *)&ranks[r] + member);
        memcpy(all + next, m->value, (size_t)(m->rows * m->cols) * sizeof *all);
        next += m->rows * m->cols;
    }
    CHECK(next == count, "%lld elements, want %lld", (long long)next, (long long)count);
    return all;
}

static void test_gradients(const char *text)
{
    const epf_problem problem = epf_problem_of(text);
    epf_data *data = epf_data_make(&problem);
    epf_ref_forward forward[MAX_RANKS];
    epf_ref_backward backward[MAX_RANKS];
    doubles d;

    make_layer(&d, data);
    CHECK_OK(epf_ref_layer_forward(&d.layer, forward));
    CHECK_OK(epf_ref_layer_backward(&d.layer, forward, d.grads, backward));
    const struct {
        const char *name;
        double *argument;
        size_t member;
        int64_t count;
    } arguments[] = {
        {"input", d.input, offsetof(epf_ref_backward, grad_input), d.num_input},
        {"weights", d.weights, offsetof(epf_ref_backward, grad_weights), d.num_weights},
        {"w13", d.w13, offsetof(epf_ref_backward, grad_w13), d.num_w13},
        {"w2", d.w2, offsetof(epf_ref_backward, grad_w2), d.num_w2}};
    for (size_t a = 0; a < sizeof arguments / sizeof arguments[0]; a++) {
        double *gradient =
            gathered(backward, problem.num_ranks, arguments[a].member, arguments[a].count);
        check_gradient(&d, arguments[a].name, arguments[a].argument, gradient, arguments[a].count);
        free(gradient);
    }
    epf_ref_forward_free(forward, problem.num_ranks);
    epf_ref_backward_free(backward, problem.num_ranks);
    free_layer(&d);
    epf_data_free(data);
}

/* The output does not know how many ranks there are. */
static void test_one_rank(const char *text)
{
    const epf_problem problem = epf_problem_of(text);
    epf_data *many = epf_data_make(&problem);
    epf_data *one = epf_data_merge(many);
    doubles d_many;
    doubles d_one;
    double a;

    make_layer(&d_many, many);
    make_layer(&d_one, one);
    a = loss(&d_many);
    CHECK(fabs(a - loss(&d_one)) <= 1e-12 * fabs(a), "%g on %d ranks, %g on one", a,
          problem.num_ranks, loss(&d_one));
    CHECK(a != 0, "nothing was computed");
    free_layer(&d_many);
    free_layer(&d_one);
    epf_data_free(many);
    epf_data_free(one);
}

int main(void)
{
    test_gradients("W2E4K2T3H8N16M2/duplicates/seed3");
    test_gradients("W1E2K3T2H8N16M2/some_dropped/seed1");
    test_gradients("W3E3K1T3H8N16M2/uneven_T_per_rank/seed5");
    test_one_rank("W4E8K3T9H16N32M4/zipf/seed2");
    test_one_rank("W4E8K3T9H16N32M4/uneven_T_per_rank/seed2");
    return 0;
}
