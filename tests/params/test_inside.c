/*
 * test_inside: the functions between the rooms of the library check what they are given as the public ones do:
 * NULL and sizes out of range are refused, by name.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "comm/epf_comm.h"
#include "comm/epf_join.h"
#include "cpu/gemm/epf_gemm.h"
#include "model/epf_moe_block.h"
#include "model/epf_npy.h"
#include "model/epf_router.h"
#include "model/epf_safetensors.h"
#include "prof/epf_trace.h"
#include "reference/epf_reference.h"
#include "support/epf_check.h"

static int num_cases;

#define REFUSED(call, says)                                                                    \
    do {                                                                                       \
        CHECK((call) == EPF_E_INVALID, "%s: %s", #call, epf_check_library_text());             \
        CHECK(strstr(epf_check_library_text(), says) != NULL, "%s: no %s in: %s", #call, says, \
              epf_check_library_text());                                                       \
        num_cases++;                                                                           \
    } while (0)

static int gather(void *context, const void *send, void *recv, size_t bytes)
{
    (void)context;
    memcpy(recv, send, bytes);
    return 0;
}

static void check_comm(void)
{
    epf_comm_config config;
    epf_comm *comm = NULL;
    epf_window *window;
    char bytes[8];
    epf_comm_config_init(&config);
    config.rank = 0;
    config.num_ranks = 1;
    REFUSED(epf_comm_create_threads(&config, NULL), "NULL");
    REFUSED(epf_comm_create_threads(NULL, &comm), "NULL");
    REFUSED(epf_comm_create_callback(&config, gather, NULL, NULL), "comm");
    REFUSED(epf_comm_create_callback(&config, NULL, NULL, &comm), "NULL");
    REFUSED(epf_comm_create_callback(NULL, gather, NULL, &comm), "config");
    REFUSED(epf_comm_create_env(&config, NULL), "comm");
    REFUSED(epf_comm_create_env(NULL, &comm), "config");
    REFUSED(epf_comm_create_rendezvous(&config, "job", NULL), "comm");
    REFUSED(epf_comm_create_rendezvous(&config, NULL, &comm), "job");
    REFUSED(epf_comm_create_rendezvous(&config, "", &comm), "job");
    config.rank = 1;
    REFUSED(epf_comm_create_rendezvous(&config, "job", &comm), "rank");
    config.rank = 0;
    config.timeout_ns = 0;
    REFUSED(epf_comm_create_rendezvous(&config, "job", &comm), "timeout");
    epf_comm_config_init(&config);
    config.num_ranks = 1;
    CHECK_OK(epf_comm_create_threads(&config, &comm));
    REFUSED(epf_comm_all_gather(NULL, bytes, bytes, 1), "comm");
    REFUSED(epf_comm_all_gather(comm, bytes, bytes, SIZE_MAX / 2), "bytes");
    REFUSED(epf_comm_all_gather(comm, NULL, bytes, 1), "send");
    REFUSED(epf_comm_all_gather(comm, bytes, NULL, 1), "recv");
    REFUSED(epf_comm_window_create(comm, 0, &window), "bytes");
    REFUSED(epf_comm_barrier(NULL), "comm");
    REFUSED(epf_comm_reset(NULL), "comm");
    REFUSED(epf_comm_agree(NULL, EPF_OK), "comm");
    REFUSED(epf_comm_window_create(comm, 64, NULL), "window");
    REFUSED(epf_comm_window_create(NULL, 64, &window), "comm");
    epf_comm_destroy(comm);
}

static void check_gemm(void)
{
    epf_gemm_kind kind;
    epf_gemm_scratch *scratch;
    CHECK_OK(epf_gemm_scratch_create(&scratch));
    REFUSED(epf_gemm_weight_create(NULL, NULL), "NULL");
    REFUSED(epf_gemm_weight_pack_panel(NULL, 0, 0, 0, scratch), "NULL");
    REFUSED(epf_gemm_weight_pack_expert(NULL, 0, scratch), "NULL");
    REFUSED(epf_gemm_tile(NULL, NULL, scratch), "NULL");
    REFUSED(epf_gemm_tn(NULL, scratch), "NULL");
    REFUSED(epf_gemm_scratch_create(NULL), "scratch");
    REFUSED(epf_gemm_provider_query(EPF_GEMM_AUTO, EPF_DTYPE_F32, NULL), "info");
    REFUSED(epf_gemm_kind_parse(NULL, &kind), "NULL");
    REFUSED(epf_gemm_kind_parse("portable", NULL), "NULL");
    epf_gemm_scratch_destroy(scratch);
}

static void check_model(void)
{
    static const float data[2];
    const int64_t shape[1] = {2};
    const epf_tensor_view view = epf_tensor_view_of("x", EPF_FILE_F32, 1, shape, data);
    epf_moe_block block;
    epf_router *router;
    epf_trace *trace;
    const char *const paths[1] = {"x"};
    REFUSED(epf_npy_write(NULL, &view), "path");
    REFUSED(epf_npy_write("x", NULL), "NULL");
    REFUSED(epf_safetensors_write(NULL, &view, 1), "path");
    REFUSED(epf_moe_block_open(NULL, 0, 0, -1, &block), "NULL");
    REFUSED(epf_router_create(NULL, &view, &view, &router), "NULL");
    REFUSED(epf_router_run(NULL, NULL), "NULL");
    REFUSED(epf_trace_read_all(paths, 0, &trace), "files");
    REFUSED(epf_trace_read_all(paths, INT_MAX, &trace), "files");
}

/* Eight experts of four columns, and every way to leave out what its calls need. */
static void check_router(void)
{
    static const char text[] = "{\"model_type\":\"mixtral\",\"hidden_size\":4}";
    static const char biased[] =
        "{\"model_type\":\"deepseek_v3\",\"hidden_size\":4,\"n_routed_experts\":16,"
        "\"n_group\":2,\"topk_group\":1,\"num_experts_per_tok\":2}";
    static const float weights[16 * 4];
    static const float hidden[4];
    const int64_t shape[2] = {8, 4};
    const int64_t wide[2] = {8, 5};
    const int64_t more[2] = {16, 4};
    const epf_tensor_view weight = epf_tensor_view_of("w", EPF_FILE_F32, 2, shape, weights);
    const epf_tensor_view flat = epf_tensor_view_of("w", EPF_FILE_F32, 1, shape, weights);
    const epf_tensor_view other = epf_tensor_view_of("w", EPF_FILE_F32, 2, wide, weights);
    const epf_tensor_view large = epf_tensor_view_of("w", EPF_FILE_F32, 2, more, weights);
    const epf_tensor_view nothing = epf_tensor_view_of("w", EPF_FILE_F32, 2, shape, NULL);
    const epf_tensor_view short_bias = epf_tensor_view_of("b", EPF_FILE_F32, 1, shape, weights);
    const epf_tensor_view no_bias = epf_tensor_view_of("b", EPF_FILE_F32, 1, more, NULL);
    epf_model_config config;
    epf_model_config v3;
    epf_router *router = NULL;
    int32_t idx[2];
    float w[2];
    double w64[2];
    const epf_router_args bad[] = {{NULL, 1, 0, idx, w},
                                   {hidden, 1, 0, NULL, w},
                                   {hidden, 1, 0, idx, NULL},
                                   {hidden, -1, 0, idx, w}};
    const epf_router_f64_args bad64[] = {{NULL, 1, 0, idx, w64, NULL},
                                         {hidden, 1, 0, NULL, w64, NULL},
                                         {hidden, 1, 0, idx, NULL, NULL},
                                         {hidden, -1, 0, idx, w64, NULL}};
    const epf_router_args none = {NULL, 0, 0, NULL, NULL};
    const epf_router_f64_args none64 = {NULL, 0, 0, NULL, NULL, NULL};
    CHECK_OK(epf_model_config_parse("c", text, sizeof text - 1, &config));
    CHECK_OK(epf_model_config_parse("c", biased, sizeof biased - 1, &v3));
    REFUSED(epf_router_create(&config, &weight, NULL, NULL), "NULL");
    REFUSED(epf_router_create(&config, NULL, NULL, &router), "weight");
    REFUSED(epf_router_create(&config, &flat, NULL, &router), "weight");
    REFUSED(epf_router_create(&config, &other, NULL, &router), "weight");
    REFUSED(epf_router_create(&config, &large, NULL, &router), "weight");
    REFUSED(epf_router_create(&config, &nothing, NULL, &router), "weight");
    REFUSED(epf_router_create(&v3, &large, NULL, &router), "bias");
    REFUSED(epf_router_create(&v3, &large, &short_bias, &router), "bias");
    REFUSED(epf_router_create(&v3, &large, &no_bias, &router), "bias");
    REFUSED(epf_router_create(&v3, &large, &large, &router), "bias");
    CHECK_OK(epf_router_create(&config, &weight, NULL, &router));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        REFUSED(epf_router_run(router, &bad[i]), "NULL");
        REFUSED(epf_router_run_f64(router, &bad64[i]), "NULL");
    }
    REFUSED(epf_router_run(router, NULL), "NULL");
    REFUSED(epf_router_run_f64(NULL, &none64), "NULL");
    REFUSED(epf_router_run_f64(router, NULL), "NULL");
    CHECK_OK(epf_router_run(router, &none));
    CHECK_OK(epf_router_run_f64(router, &none64));
    epf_router_destroy(router);
    epf_router_destroy(NULL);
    epf_model_config_free(&config);
    epf_model_config_free(&v3);
}

int main(void)
{
    check_comm();
    check_router();
    check_gemm();
    check_model();
    printf("%d bad calls between rooms refused\n", num_cases);
    return 0;
}
