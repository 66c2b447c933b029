/*
 * test_every_status: each status of epfuse_status.h is given by a call that a caller can make; one that no
 * function here makes does not link.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "model/epf_npy.h"
#include "params_world.h"
#include "prof/epf_trace.h"
#include "prof/epf_trace_summary.h"
#include "support/epf_check.h"

static params_rank world;

static epf_status call(params_call_id id, params_args *args)
{
    return params_calls[id].call(&world, args);
}

static params_args valid(params_call_id id)
{
    params_args args;
    memset(&args, 0, sizeof args);
    params_calls[id].make(&world, &args);
    return args;
}

static epf_status make_EPF_OK(void)
{
    return epf_op_barrier(world.op);
}

static epf_status make_EPF_E_INVALID(void)
{
    return epf_op_barrier(NULL);
}

static epf_status make_EPF_E_UNSUPPORTED(void)
{
    params_args a = valid(PARAMS_DISPATCH);
    a.dispatch.gemm_num_stages = 2;
    return call(PARAMS_DISPATCH, &a);
}

static epf_status make_EPF_E_NO_MEMORY(void)
{
    params_args a = valid(PARAMS_OP);
    epf_status st;
    epf_alloc_fail_at(1);
    st = call(PARAMS_OP, &a);
    epf_alloc_fail_at(0);
    return st;
}

/* Buffers for half the rows that come, which may not grow. */
static epf_status make_EPF_E_CAPACITY(void)
{
    params_args a = valid(PARAMS_PREPROCESS);
    epf_op_config config = params_op_config();
    epf_op *const op = world.op;
    epf_layout *const layout = world.layout;
    epf_status st;
    config.capacity = 0.5;
    config.allow_regrow = false;
    world.layout = NULL;
    CHECK_OK(epf_op_create(world.group, &config, &world.op));
    CHECK_OK(call(PARAMS_PREPROCESS, &a));
    a = valid(PARAMS_DISPATCH);
    st = call(PARAMS_DISPATCH, &a);
    epf_layout_destroy(world.layout);
    epf_op_destroy(world.op);
    world.op = op;
    world.layout = layout;
    return st;
}

/* Threads whose stacks are larger than the address space. */
static epf_status make_EPF_E_DEVICE(void)
{
    params_args a = valid(PARAMS_OP);
    pthread_attr_t before;
    pthread_attr_t huge;
    epf_status st;
    CHECK(pthread_getattr_default_np(&before) == 0 && pthread_attr_init(&huge) == 0 &&
              pthread_attr_setstacksize(&huge, (size_t)1 << 47) == 0 &&
              pthread_setattr_default_np(&huge) == 0,
          "a default stack of 2^47 bytes");
    st = call(PARAMS_OP, &a);
    CHECK(pthread_setattr_default_np(&before) == 0, "the old stack size");
    (void)pthread_attr_destroy(&huge);
    (void)pthread_attr_destroy(&before);
    return st;
}

/* Rank 0 of two makes an operator; rank 1 has left, or never comes. */
static epf_status make_alone(bool has_left)
{
    const epf_op_config op_config = params_op_config();
    epf_group_config config;
    epf_group *groups[2];
    epf_op *op = NULL;
    epf_status st;
    CHECK_OK(epf_group_config_init(&config));
    config.timeout_ns = UINT64_C(50000000);
    CHECK_OK(epf_group_create_threads(2, &config, groups));
    if (has_left) {
        epf_group_destroy(groups[1]);
    }
    st = epf_op_create(groups[0], &op_config, &op);
    if (!has_left) {
        epf_group_destroy(groups[1]);
    }
    epf_group_destroy(groups[0]);
    return st;
}

static epf_status make_EPF_E_PEER(void)
{
    return make_alone(true);
}

static epf_status make_EPF_E_TIMEOUT(void)
{
    return make_alone(false);
}

static epf_status make_EPF_E_STATE(void)
{
    const params_args a = valid(PARAMS_BACKWARD);
    return epf_layer_backward(world.other, world.other_context, &a.backward);
}

static epf_status make_EPF_E_FILE(void)
{
    epf_npy *file;
    return epf_npy_open("/nowhere/x.npy", &file);
}

static epf_status make_EPF_E_FORMAT(void)
{
    epf_npy *file;
    return epf_npy_parse("x.npy", "PK", 2, &file);
}

/* Records that overlap, which no executor writes. */
static epf_status make_EPF_E_INTERNAL(void)
{
    const epf_prof_config config = {0, 1, 8};
    epf_trace_summary *summary;
    epf_trace *trace;
    epf_prof *prof;
    epf_status st;
    CHECK_OK(epf_prof_create(&config, &prof));
    for (int32_t i = 0; i < 2; i++) {
        epf_prof_record *const record =
            epf_prof_begin(epf_prof_worker(prof, 0), EPF_PROF_GROUP_GEMM_MAIN, i);
        record->begin_ns = 100 + 50 * (uint64_t)i;
        record->end_ns = record->begin_ns + 100;
    }
    CHECK_OK(epf_trace_from_profs(&prof, 1, &trace));
    st = epf_trace_summarize(trace, &summary);
    epf_trace_destroy(trace);
    epf_prof_destroy(prof);
    return st;
}

int main(void)
{
    static const struct {
        epf_status status;
        const char *name;
        epf_status (*make)(void);
    } all[] = {
#define X(name, value, text) {name, #name, make_##name},
        EPF_STATUS_MAP(X)
#undef X
    };
    epf_group *group;
    CHECK_OK(epf_group_create_threads(1, NULL, &group));
    params_open(&world, group);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const epf_status st = all[i].make();
        CHECK(st == all[i].status, "%s: got %d: %s", all[i].name, st, epf_check_library_text());
        CHECK(strcmp(epf_status_name(st), all[i].name) == 0, "%s is called %s", all[i].name,
              epf_status_name(st));
        printf("%-18s %s\n", all[i].name, st == EPF_OK ? "" : epf_check_library_text());
    }
    params_close(&world);
    epf_group_destroy(group);
    return 0;
}
