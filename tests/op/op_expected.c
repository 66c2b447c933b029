/* op_expected.c: a case's results by the reference, and random knobs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"
#include "support/epf_space.h"

static int32_t pick(epf_rng *rng, const int32_t *values, size_t count)
{
    return values[epf_rng_below(rng, (int32_t)count)];
}

#define PICK(rng, ...)                          \
    pick((rng), (const int32_t[]){__VA_ARGS__}, \
         sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static bool one_in(epf_rng *rng, int32_t n)
{
    return epf_rng_below(rng, n) == 0;
}

/* Workers that move tokens and workers that expand or reduce together are at most all of them. */
static void random_workers(epf_rng *rng, op_knobs *k)
{
    int32_t senders;

    k->num_workers = PICK(rng, 0, 0, 1, 2, 3);
    if (k->num_workers == 0) {
        return; /* the library's choice may be one worker, which leaves nothing to choose */
    }
    k->num_sm = epf_rng_range(rng, 0, k->num_workers);
    k->optional_sm = epf_rng_range(rng, 0, k->num_workers);
    senders = k->num_sm > k->optional_sm ? k->num_sm : k->optional_sm;
    k->num_tail_sms = epf_rng_range(rng, 0, k->num_workers - (senders > 0 ? senders : 1));
    k->combine_sm = epf_rng_range(rng, 0, k->num_workers - 1);
    k->num_reduce_sms = epf_rng_range(rng, 0, k->num_workers - 1 - k->combine_sm);
}

op_knobs op_knobs_random(uint64_t number, const epf_problem *problem)
{
    epf_rng rng = epf_rng_make(number, 3);
    op_knobs k = {.repeat = PICK(&rng, 1, 1, 2, 3)};

    random_workers(&rng, &k);
    k.block_n = PICK(&rng, 0, 0, 8, 16, 24, 64);
    k.block_k = PICK(&rng, 0, 0, 8, 16, 64);
    k.group_m = PICK(&rng, 0, 1, 2, 3, 8);
    k.num_warps = PICK(&rng, 0, 1, 3, 16, 32);
    k.num_buffers = PICK(&rng, 1, 1, 2, 3);
    k.buffer = epf_rng_below(&rng, k.num_buffers);
    k.guard_cols = PICK(&rng, 0, 0, 8, 3);
    k.grad_dtype = PICK(&rng, 0, 0, EPF_DTYPE_F32, (int32_t)problem->dtype);
    k.grad_block_m = PICK(&rng, 0, 8, 16);
    k.grad_block_n = PICK(&rng, 0, 8, 24);
    k.grad_block_k = PICK(&rng, 0, 1, 16);
    k.block_wise = one_in(&rng, 2);
    k.b1_transposed = one_in(&rng, 3);
    k.b2_transposed = one_in(&rng, 3);
    k.packed = one_in(&rng, 2);
    k.tables = one_in(&rng, 3);
    k.in_place = one_in(&rng, 4);
    k.gates = one_in(&rng, 2);
    k.gates_in_place = k.gates && one_in(&rng, 3);
    k.combine_weights = one_in(&rng, 2);
    k.no_weights = one_in(&rng, 4);
    k.own_outputs = one_in(&rng, 2);
    k.local_scatter = one_in(&rng, 4);
    k.full_scatter = one_in(&rng, 4) && !k.local_scatter;
    k.lazy = one_in(&rng, 4);
    k.reversed = one_in(&rng, 2);
    k.signal = one_in(&rng, 4);
    k.init_buffer = one_in(&rng, 4);
    return k;
}

static void expect_gemms(op_case *c, int32_t r, op_expected *e)
{
    const epf_data *d = c->data;
    const bool swiglu = c->knobs.swiglu;
    const bool unrounded = swiglu && !epf_space_is_device(); /* what the activation reads */
    const epf_ref_mode mode = d->problem.normal || swiglu ? EPF_REF_EXACT : EPF_REF_ROUNDED;
    epf_ref_gemm gemm = {&c->route, r,
                         &e->x,     d->b1[r],
                         true,      d->problem.num_columns,
                         mode,      unrounded ? EPF_DTYPE_F64 : d->problem.dtype};

    CHECK_OK(epf_ref_grouped_gemm(&gemm, &e->gemm));
    if (swiglu) {
        const int64_t per_rank =
            (int64_t)c->route.num_local_experts * d->problem.hidden * (d->problem.num_columns / 2);
        CHECK_OK(epf_ref_swiglu(&e->gemm, &e->weight, mode, d->problem.dtype, &e->h));
        for (int64_t i = 0; i < e->gemm.rows * e->gemm.cols && unrounded; i++) {
            epf_ref_store(mode, d->problem.dtype, &e->gemm.value[i], &e->gemm.bound[i]);
        }
        gemm.b = epf_tensor_at(c->b2_half, r * per_rank);
    } else {
        gemm.b = d->b2[r];
    }
    gemm.a = swiglu ? &e->h : &e->gemm;
    gemm.n = d->problem.hidden;
    gemm.dtype = d->problem.dtype;
    CHECK_OK(epf_ref_grouped_gemm(&gemm, &e->y));
    if (c->knobs.grad_dtype != 0) {
        const epf_ref_weight_grad_args args = {&c->route, r,    &e->gemm,
                                               &e->x,     mode, (epf_dtype)c->knobs.grad_dtype};
        CHECK_OK(epf_ref_weight_grad(&args, &e->grad));
    }
}

static void expect_rows(op_case *c, int32_t r)
{
    const epf_data *d = c->data;
    op_expected *e = &c->ranks[r];

    CHECK_OK(epf_ref_dispatch(&c->route, r, d->tokens, d->problem.hidden, &e->x));
    CHECK_OK(epf_ref_dispatch_weights(&c->route, r, d->weights, &e->weight));
    expect_gemms(c, r, e);
    CHECK_OK(epf_ref_matrix_make(e->x.rows, 1, &e->gate_in));
    for (int64_t i = 0; i < e->gate_in.rows; i++) {
        e->gate_in.value[i] = (double)((7 * i + 3 * r) % 251 + 1); /* bf16 holds it */
    }
}

/* Everything, for all ranks: e->y and e->gate_in of all of them give each one's output and gates. */
static void expect(op_case *c)
{
    const epf_problem *p = &c->data->problem;
    const bool exact = !p->normal && !c->knobs.swiglu;
    epf_ref_matrix y[EPF_PROBLEM_MAX_RANKS];
    epf_ref_matrix gates[EPF_PROBLEM_MAX_RANKS];

    for (int32_t r = 0; r < p->num_ranks; r++) {
        expect_rows(c, r);
        y[r] = c->ranks[r].y;
        gates[r] = c->ranks[r].gate_in;
    }
    for (int32_t r = 0; r < p->num_ranks; r++) {
        const epf_ref_combine_args args = {&c->route,
                                           r,
                                           y,
                                           c->knobs.combine_weights ? &c->data->combine_weights[r]
                                                                    : NULL,
                                           exact ? EPF_REF_ROUNDED : EPF_REF_EXACT,
                                           p->dtype};
        CHECK_OK(epf_ref_combine(&args, &c->ranks[r].output));
        CHECK_OK(epf_ref_output_gate(&c->route, r, gates, &c->ranks[r].gate));
    }
}

op_case *op_case_make(const epf_data *data, const op_knobs *knobs, bool processes)
{
    op_case *c = epf_test_alloc(1, sizeof *c);

    c->data = data;
    c->knobs = *knobs;
    c->processes = processes;
    c->timeout_ns = UINT64_C(20000000000);
    c->b2_half = data->b2[0]; /* as many as [E, H, N / 2] needs */
    epf_data_route(data, knobs->local_scatter, knobs->full_scatter, &c->route);
    expect(c);
    for (int32_t r = 0; r < data->problem.num_ranks; r++) {
        c->outputs[r] = epf_shared_alloc((size_t)(data->num_tokens[r] * data->problem.hidden) *
                                         epf_element_bytes(data->problem.dtype));
    }
    return c;
}

void op_case_free(op_case *c)
{
    if (c == NULL) {
        return;
    }
    for (int32_t r = 0; r < c->data->problem.num_ranks; r++) {
        op_expected *e = &c->ranks[r];
        epf_ref_matrix *all[] = {&e->x,      &e->weight,  &e->gemm, &e->h,   &e->y,
                                 &e->output, &e->gate_in, &e->gate, &e->grad};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
            epf_ref_matrix_free(all[i]);
        }
        epf_shared_free(c->outputs[r], (size_t)(c->data->num_tokens[r] * c->data->problem.hidden) *
                                           epf_element_bytes(c->data->problem.dtype));
    }
    epf_ref_route_free(&c->route);
    free(c);
}
