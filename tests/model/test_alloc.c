/*
 * test_alloc: each allocation of reading a checkpoint, routing and writing, and of drawing a trace, is made to
 * fail in turn, the JSON parser's among them; every time the call ends with an error and nothing is
 * leaked (under a leak sanitizer).
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "model/epf_array.h"
#include "model/epf_moe_block.h"
#include "model/epf_router.h"
#include "model/model_kit.h"
#include "prof/epf_prof.h"
#include "prof/epf_trace_flow.h"
#include "prof/epf_trace_svg.h"

static const char *folder;

static epf_status route(const epf_moe_block *block)
{
    static const float hidden[16];
    int32_t idx[16];
    float weight[16];
    double weight_f64[16];
    const epf_router_args args = {hidden, 1, 0, idx, weight};
    const epf_router_f64_args args_f64 = {hidden, 1, 0, idx, weight_f64, NULL};
    epf_router *router;
    epf_status st =
        epf_router_create(block->config, &block->router_weight, &block->router_bias, &router);
    if (st == EPF_OK) {
        st = epf_router_run(router, &args);
        st = st == EPF_OK ? epf_router_run_f64(router, &args_f64) : st;
        epf_router_destroy(router);
    }
    return st;
}

static epf_status use_checkpoint(void)
{
    epf_checkpoint *checkpoint;
    epf_moe_block block;
    epf_status st = epf_checkpoint_open(folder, &checkpoint);
    if (st != EPF_OK) {
        return st;
    }
    st = epf_moe_block_open(checkpoint, epf_checkpoint_config(checkpoint)->num_layers - 1, 0, -1,
                            &block);
    if (st == EPF_OK) {
        st = route(&block);
        epf_moe_block_close(&block);
    }
    epf_checkpoint_close(checkpoint);
    return st;
}

static epf_status use_array(const char *name)
{
    static const float data[6];
    const int64_t shape[2] = {2, 3};
    const epf_tensor_view view = epf_tensor_view_of("x", EPF_FILE_F32, 2, shape, data);
    epf_array *array;
    epf_status st = epf_array_check_writable(kit_path(name));
    st = st == EPF_OK ? epf_array_write(kit_path(name), &view) : st;
    st = st == EPF_OK ? epf_array_open(kit_path(name), &array) : st;
    if (st == EPF_OK) {
        epf_array_close(array);
    }
    return st;
}

static epf_status use_npy(void)
{
    return use_array("x.npy");
}

static epf_status use_safetensors(void)
{
    return use_array("x.safetensors:x");
}

static epf_status use_dense_layers(void)
{
    static const char text[] = "{\"model_type\":\"qwen3_moe\",\"mlp_only_layers\":[1]}";
    epf_model_config config;
    const epf_status st = epf_model_config_parse("c", text, sizeof text - 1, &config);
    if (st == EPF_OK) {
        epf_model_config_free(&config);
    }
    return st;
}

/* What the command does with a trace: two ranks' profiles, one file, read back, drawn. */
static epf_status draw(epf_prof *const *profs)
{
    const epf_trace_svg_config config = {.max_flows = 8, .show_hosts = true};
    epf_trace_panel panel = {NULL, "all", 0, 0};
    epf_trace_flow *flows;
    uint64_t num_flows;
    uint64_t num_lost;
    epf_trace *trace;
    epf_status st = epf_prof_write_merged(profs, 2, kit_folder(), "t");
    if (st == EPF_OK) {
        st = epf_trace_read(kit_path("t_merged.perfetto-trace"), &trace);
    }
    if (st == EPF_OK) {
        panel.trace = trace;
        st = epf_trace_svg(&panel, 1, &config, kit_path("t.svg"));
        if (st == EPF_OK) {
            st = epf_trace_match_flows(trace, &flows, &num_flows, &num_lost);
        }
        if (st == EPF_OK) {
            epf_free(flows);
        }
        epf_trace_destroy(trace);
    }
    return st;
}

static epf_status use_trace(void)
{
    epf_prof *profs[2] = {NULL, NULL};
    epf_status st = EPF_OK;
    for (int32_t r = 0; r < 2 && st == EPF_OK; r++) {
        const epf_prof_config config = {r, 1, 16};
        st = epf_prof_create(&config, &profs[r]);
        for (int32_t i = 0; i < 4 && st == EPF_OK; i++) {
            epf_prof_buffer *const lane = epf_prof_worker(profs[r], 0);
            epf_prof_record *const record = epf_prof_begin(lane, EPF_PROF_GROUP_GEMM_MAIN, i);
            epf_prof_send(lane, record, epf_prof_flow(1, r, EPF_PROF_FLOW_DISPATCH, (uint32_t)i));
            epf_prof_end(record);
        }
    }
    st = st == EPF_OK ? draw(profs) : st;
    epf_prof_destroy(profs[0]);
    epf_prof_destroy(profs[1]);
    return st;
}

/* jansson's memory comes from the library's, so that it is counted and fails as well.  Its lexer says nothing
 * of memory but that the text is wrong, and goes on where it could only not make a block smaller. */
static bool is_json;

static void *json_alloc(size_t bytes)
{
    return epf_alloc(1, bytes);
}

/* Fails allocation 1, 2, 3, ... until the job no longer makes so many. */
static void fail_each(const char *what, epf_status (*job)(void))
{
    uint64_t nth = 0;
    epf_status st;
    do {
        epf_alloc_fail_at(++nth);
        st = job();
        CHECK(nth < 10000, "%s: no end", what);
        if (epf_alloc_count() < nth) {
            break;
        }
        CHECK(st == EPF_E_NO_MEMORY || (is_json && (st == EPF_E_FORMAT || st == EPF_OK)),
              "%s: allocation %llu failed, status %d: %s", what, (unsigned long long)nth, (int)st,
              epf_check_library_text());
    } while (1);
    epf_alloc_fail_at(0);
    CHECK(st == EPF_OK, "%s: %s", what, epf_check_library_text());
    CHECK(nth > 1, "%s makes no allocation", what);
    printf("%-16s %llu allocations\n", what, (unsigned long long)nth - 1);
}

int main(int argc, char **argv)
{
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/deepseek_v3", argc > 1 ? argv[1] : "tests/model/data");
    folder = path;
    fail_each("sharded", use_checkpoint);
    (void)snprintf(path, sizeof path, "%s/qwen3_moe", argc > 1 ? argv[1] : "tests/model/data");
    fail_each("single file", use_checkpoint);
    fail_each("npy", use_npy);
    fail_each("safetensors", use_safetensors);
    fail_each("dense layers", use_dense_layers);
    fail_each("trace", use_trace);
    is_json = true;
    json_set_alloc_funcs(json_alloc, epf_free);
    fail_each("JSON of all", use_checkpoint);
    fail_each("JSON of layers", use_dense_layers);
    return 0;
}
