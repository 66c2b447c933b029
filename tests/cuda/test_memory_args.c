/*
 * test_memory_args: device memory where there is no device: every error is told, on all ranks alike, with a
 * text that says what was tried, and nothing is left behind.  No device is needed; one that is there is hidden.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_error.h"
#include "comm/epf_comm.h"
#include "cuda/epf_cuda_memory.h"
#include "cuda/epf_cuda_memory_internal.h"
#include "support/epf_check.h"
#include "support/epf_runner.h"

enum { NUM_RANKS = 3 };

static const epf_cuda_group imagined = {
    .num_sharing = 1, .transport = EPF_CUDA_TRANSPORT_LOCAL, .num_sms = 132};

typedef bool rank_body(epf_test_rank *rank, epf_comm *comm);

typedef struct context {
    epf_comm *comms[NUM_RANKS];
    rank_body *body;
} context;

#define TEXT_HAS(rank, words) \
    RANK_CHECK(rank, strstr(epf_error_text(), words) != NULL, "text is \"%s\"", epf_error_text())

static bool join_without_device(epf_test_rank *rank, epf_comm *comm)
{
    epf_cuda_group group = {.device = 77};
    RANK_STATUS(rank, EPF_E_UNSUPPORTED, epf_cuda_group_join(comm, -1, &group));
    TEXT_HAS(rank, "looking for CUDA devices");
    RANK_CHECK(rank, group.device == 77, "written on failure");
    RANK_STATUS(rank, EPF_E_UNSUPPORTED, epf_cuda_group_join(comm, 0, &group));
    return true;
}

static bool join_wrong_transport(epf_test_rank *rank, epf_comm *comm)
{
    epf_cuda_group group;
    RANK_STATUS(rank, EPF_E_INVALID, epf_cuda_group_join(comm, -1, &group));
    TEXT_HAS(rank, "EPFUSE_CUDA_TRANSPORT is \"pigeon\"");
    return true;
}

static bool window_sizes(epf_test_rank *rank, epf_comm *comm)
{
    epf_cuda_window *window = (void *)rank;
    const uint64_t bytes = rank->rank == 1 ? 8192 : 4096;
    RANK_STATUS(rank, EPF_E_INVALID, epf_cuda_window_create(comm, &imagined, bytes, &window));
    TEXT_HAS(rank, "bytes is 4096 on rank 0 and 8192 on rank 1");
    RANK_CHECK(rank, window == NULL, "a window");
    RANK_STATUS(rank, EPF_E_INVALID, epf_cuda_window_create(comm, &imagined, 0, &window));
    TEXT_HAS(rank, "bytes is 0");
    return true;
}

static bool window_without_device(epf_test_rank *rank, epf_comm *comm)
{
    epf_cuda_group group = imagined;
    epf_cuda_window *window = (void *)rank;
    for (group.transport = 1; group.transport <= 3; group.transport++) {
        RANK_STATUS(rank, EPF_E_UNSUPPORTED, epf_cuda_window_create(comm, &group, 4096, &window));
        TEXT_HAS(rank, "cuda");
        RANK_CHECK(rank, window == NULL, "a window");
    }
    RANK_CHECK(rank, epf_comm_barrier(comm) == EPF_OK, "out of step");
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    context *all = rank->user;
    (void)all->body(rank, all->comms[rank->rank]);
}

static void run(const char *name, rank_body *body)
{
    context all = {.body = body};
    epf_comm_config config;
    epf_comm_config_init(&config);
    config.num_ranks = NUM_RANKS;
    config.timeout_ns = 20000000000u;
    CHECK_OK(epf_comm_create_threads(&config, all.comms));
    const epf_run threads = {.num_ranks = NUM_RANKS, .function = run_rank, .user = &all};
    CHECK(epf_run_ranks(&threads, name) == 0, "ranks failed");
    for (int32_t r = 0; r < NUM_RANKS; r++) {
        epf_comm_destroy(all.comms[r]);
    }
}

#define REFUSED(want, words, call)                                                            \
    do {                                                                                      \
        const epf_status got = (call);                                                        \
        CHECK(got == (want), "%s: status %d", #call, (int)got);                               \
        CHECK(strstr(epf_error_text(), (words)) != NULL, "text is \"%s\"", epf_error_text()); \
    } while (0)

static void test_arguments(epf_comm *comm)
{
    epf_cuda_group group = imagined;
    epf_cuda_window *window;
    REFUSED(EPF_E_INVALID, "comm is NULL", epf_cuda_group_join(NULL, -1, &group));
    REFUSED(EPF_E_INVALID, "group is NULL", epf_cuda_group_join(comm, -1, NULL));
    REFUSED(EPF_E_INVALID, "window is NULL", epf_cuda_window_create(comm, &group, 1, NULL));
    REFUSED(EPF_E_INVALID, "comm is NULL", epf_cuda_window_create(NULL, &group, 1, &window));
    REFUSED(EPF_E_INVALID, "group is NULL", epf_cuda_window_create(comm, NULL, 1, &window));
    epf_cuda_group_leave(NULL, NULL);
    epf_cuda_group_leave(comm, &group);
    epf_cuda_window_detach(&group, NULL);
    epf_cuda_window_destroy(comm, &group, NULL);
    epf_cuda_free(NULL);
    epf_cuda_host_free(NULL);
}

static void test_allocation(void)
{
    void *memory = (void *)&memory;
    REFUSED(EPF_E_INVALID, "memory is NULL", epf_cuda_alloc(&imagined, 8, "rows", NULL));
    REFUSED(EPF_E_INVALID, "group is NULL", epf_cuda_alloc(NULL, 8, "rows", &memory));
    CHECK(memory == NULL, "memory");
    REFUSED(EPF_E_INVALID, "name is NULL", epf_cuda_alloc(&imagined, 8, NULL, &memory));
    REFUSED(EPF_E_INVALID, "rows: bytes is -8", epf_cuda_alloc(&imagined, -8, "rows", &memory));
    REFUSED(EPF_E_UNSUPPORTED, "cuda", epf_cuda_alloc(&imagined, 8, "rows", &memory));
    REFUSED(EPF_E_INVALID, "memory is NULL", epf_cuda_host_alloc(&imagined, 8, "report", NULL));
    REFUSED(EPF_E_INVALID, "group is NULL", epf_cuda_host_alloc(NULL, 8, "report", &memory));
    REFUSED(EPF_E_INVALID, "report: bytes is -1",
            epf_cuda_host_alloc(&imagined, -1, "report", &memory));
    REFUSED(EPF_E_UNSUPPORTED, "cuda", epf_cuda_host_alloc(&imagined, 8, "report", &memory));
    CHECK(memory == NULL, "memory");
    epf_cuda_alloc_fail_at(2);
    REFUSED(EPF_OK, "", epf_cuda_device_ask(8, "first"));
    REFUSED(EPF_E_NO_MEMORY, "second", epf_cuda_device_ask(8, "second"));
    REFUSED(EPF_OK, "", epf_cuda_device_ask(8, "third"));
    CHECK(epf_cuda_alloc_count() == 3, "%d asked", (int)epf_cuda_alloc_count());
    epf_cuda_alloc_fail_at(0);
}

/* A library that is not there, and one that is another. */
static void test_nvshmem_library(void)
{
    (void)setenv("EPFUSE_NVSHMEM_LIB", "/nowhere/libnvshmem_host.so.3", 1);
    REFUSED(EPF_E_UNSUPPORTED, "/nowhere/libnvshmem_host.so.3", epf_cuda_nvshmem_load());
    (void)setenv("EPFUSE_NVSHMEM_LIB", "libm.so.6", 1);
    REFUSED(EPF_E_UNSUPPORTED, "libm.so.6 has no nvshmemx_", epf_cuda_nvshmem_load());
    (void)unsetenv("EPFUSE_NVSHMEM_LIB");
}

int main(void)
{
    epf_comm_config config;
    epf_comm *comm;
    (void)setenv("CUDA_VISIBLE_DEVICES", "", 1);
    (void)unsetenv("EPFUSE_CUDA_TRANSPORT");
    epf_comm_config_init(&config);
    CHECK_OK(epf_comm_create_threads(&config, &comm));
    test_arguments(comm);
    epf_comm_destroy(comm);
    test_allocation();
    test_nvshmem_library();
    run("join_without_device", join_without_device);
    run("window_sizes", window_sizes);
    run("window_without_device", window_without_device);
    (void)setenv("EPFUSE_CUDA_TRANSPORT", "pigeon", 1);
    run("join_wrong_transport", join_wrong_transport);
    return 0;
}
