/*
 * test_op_layer_profile: the layer's profiler leaves a trace of each operation on every rank, and refuses
 * names before anything is sent, so that the next call works.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "op_case.h"
#include "support/epf_check.h"

#define FOLDER "prof/mega/"

static bool is_there(const char *phase, int32_t rank, bool remove)
{
    char path[256];
    bool found;

    (void)snprintf(path, sizeof path, FOLDER "layer_test_%s_rank_%d.perfetto-trace", phase, rank);
    found = access(path, R_OK) == 0;
    if (remove) {
        (void)unlink(path);
    }
    return found;
}

static bool profiled(op_rank *r, epf_layer_context *context)
{
    char longest[200] = {0};
    const char *const bad[] = {NULL, "", "a/b", "..", longest};
    const op_case *c = r->c;
    const epf_problem *p = &c->data->problem;
    const int64_t local = c->route.num_local_experts;
    const epf_ref_tensor w2 =
        epf_tensor_at(c->b2_half, r->id * local * p->hidden * (p->num_columns / 2));
    epf_layer_forward_args args;

    RANK_OK(r->rank, epf_layer_forward_args_init(&args));
    args.input = r->x.tensor;
    args.exp_indices = r->ids.tensor;
    args.weight = r->weight.tensor;
    args.weights.w13 = op_weight_tensor(r, false);
    args.weights.w2 = op_tensor3(w2.data, p->dtype, local, p->hidden, p->num_columns / 2);
    args.output = r->output.tensor;
    args.enable_profiler = true;
    memset(longest, 'x', sizeof longest - 1);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        args.profile_file_name = bad[i];
        if (bad[i] != NULL && bad[i][0] == '\0') {
            continue; /* the phase's name alone is one */
        }
        RANK_STATUS(r->rank, EPF_E_INVALID, epf_layer_forward(r->op, context, &args));
        RANK_CHECK(r->rank, strstr(epf_last_error(), "profile_file_name") != NULL, "the text: %s",
                   epf_last_error());
    }
    args.profile_file_name = "layer_test";
    RANK_OK(r->rank, epf_layer_forward(r->op, context, &args));
    RANK_CHECK(r->rank,
               is_there("dispatch_group_gemm", r->id, true) &&
                   is_there("group_gemm_combine", r->id, true),
               "a trace is missing in " FOLDER);
    args.enable_profiler = false;
    RANK_OK(r->rank, epf_layer_forward(r->op, context, &args));
    RANK_CHECK(r->rank, !is_there("dispatch_group_gemm", r->id, false), "a trace, unasked for");
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    epf_layer_context *context = NULL;
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && epf_layer_context_create(r.op, &context) == EPF_OK &&
           profiled(&r, context));
    epf_layer_context_destroy(context);
    op_close(&r);
}

int main(void)
{
    const epf_problem problem = epf_problem_of("W2E4K2T9H16N16/zipf/seed151/normal");
    const op_knobs knobs = {.swiglu = true};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, false);
    const int32_t failed = op_run_function(c, run_rank, 0, "layer profile");

    op_case_free(c);
    epf_data_free(data);
    return op_finish(failed);
}
