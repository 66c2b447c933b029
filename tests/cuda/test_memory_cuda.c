/*
 * test_memory_cuda: groups of ranks on devices, and windows that all of them write to.
 *
 * Ranks are threads, processes with CUDA IPC, processes with NVSHMEM; rank r uses device r modulo the devices
 * there are, so that on one GPU all ranks share it.  For each case:
 *   every rank writes to every part, by a kernel that reads the table on the device, and finds in its own part
 *     what all wrote;
 *   an allocation that fails on one rank is every rank's error, and the next window is made all the same;
 *   50 windows made and ended leave the device's free memory as it was.
 *
 *     test_memory_cuda                    every case, each in a process of its own
 *     test_memory_cuda threads|ipc|nvshmem W    one case
 *
 * NVSHMEM is skipped where its library is not found, unless EPFUSE_NVSHMEM_LIB says where it is.
 */
#include <cuda_runtime_api.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "comm/epf_comm.h"
#include "comm/epf_launch.h"
#include "cuda/epf_cuda_memory.h"
#include "support/epf_check.h"
#include "support/epf_runner.h"
#include "test_memory_touch.h"

enum {
    MAX_RANKS = 8,
    SKIPPED = EPF_TEST_SKIPPED,
    NUM_WORDS = 65537, /* of each writer in each part */
    WINDOW_BYTES = (24 << 20) + 40,
    NUM_ROUNDS = 50
};
extern char **environ;

static const uint64_t timeout_ns = 60000000000u;

/* One rank's view of a case. */
typedef struct view {
    epf_test_rank *rank;
    epf_comm *comm;
    int32_t transport; /* expected */
    int32_t device;    /* to ask for */
    epf_cuda_group group;
    bool skipped;
} view;

#define RANK_CUDA(rank, call)                                        \
    do {                                                             \
        const cudaError_t rank_error = (call);                       \
        RANK_CHECK(rank, rank_error == cudaSuccess, "%s: %s", #call, \
                   cudaGetErrorString(rank_error));                  \
    } while (0)

static uint32_t word_of(int32_t writer, int32_t owner, uint32_t i)
{
    return (uint32_t)writer * 0x10000000u + (uint32_t)owner * 0x01000000u + i;
}

static uint64_t place_of(int32_t writer)
{
    return (uint64_t)writer * NUM_WORDS * sizeof(uint32_t);
}

static bool window_end(view *v, epf_cuda_window *window)
{
    epf_cuda_window_detach(&v->group, window);
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    epf_cuda_window_destroy(v->comm, &v->group, window);
    return true;
}

/* --- a group ---------------------------------------------------------------------------------- */

static bool check_join(view *v)
{
    int count = 0;
    int current = -1;
    RANK_CUDA(v->rank, cudaGetDeviceCount(&count));
    v->device = v->rank->rank % count;
    RANK_CUDA(v->rank, cudaSetDevice(v->device));
    const epf_status st = epf_cuda_group_join(v->comm, v->device, &v->group);
    if (st == EPF_E_UNSUPPORTED && v->transport == EPF_CUDA_TRANSPORT_NVSHMEM &&
        getenv("EPFUSE_NVSHMEM_LIB") == NULL &&
        strstr(epf_error_text(), "EPFUSE_NVSHMEM_LIB") != NULL) {
        v->skipped = true;
        return true;
    }
    RANK_OK(v->rank, st);
    const int32_t num_ranks = v->comm->num_ranks;
    RANK_CHECK(v->rank, v->group.device == v->device, "device %d", v->group.device);
    RANK_CHECK(v->rank, v->group.transport == v->transport, "transport %d, want %d",
               v->group.transport, v->transport);
    RANK_CHECK(v->rank, v->group.share_index == v->rank->rank / count, "share_index %d",
               v->group.share_index);
    RANK_CHECK(v->rank, v->group.num_sharing == (num_ranks - v->device + count - 1) / count,
               "num_sharing %d", v->group.num_sharing);
    RANK_CHECK(v->rank, v->group.num_sms > 0, "num_sms %d", v->group.num_sms);
    RANK_CUDA(v->rank, cudaGetDevice(&current));
    RANK_CHECK(v->rank, current == v->device, "device %d is current", current);

    epf_cuda_group other;
    const int32_t wrong = v->rank->rank == num_ranks - 1 ? count : v->device;
    RANK_STATUS(v->rank, EPF_E_INVALID, epf_cuda_group_join(v->comm, wrong, &other));
    RANK_CHECK(v->rank, strstr(epf_error_text(), "device is ") != NULL, "%s", epf_error_text());
    return true;
}

/* --- own memory ------------------------------------------------------------------------------- */

static bool check_own_memory(view *v)
{
    void *device = NULL;
    uint8_t *host = NULL;
    void *pinned = NULL;
    RANK_OK(v->rank, epf_cuda_alloc(&v->group, 1000, "test", &device));
    RANK_OK(v->rank, epf_cuda_host_alloc(&v->group, 1000, "test", &pinned));
    host = pinned;
    for (int i = 0; i < 1000; i++) {
        RANK_CHECK(v->rank, host[i] == 0, "host byte %d is %d", i, host[i]);
    }
    memset(host, 1, 1000);
    /* Device memory to where the device writes: both are seen from it. */
    RANK_CUDA(v->rank, cudaMemcpy(pinned, device, 1000, cudaMemcpyDefault));
    for (int i = 0; i < 1000; i++) {
        RANK_CHECK(v->rank, host[i] == 0, "device byte %d is %d", i, host[i]);
    }
    epf_cuda_free(device);
    epf_cuda_host_free(pinned);
    RANK_STATUS(v->rank, EPF_E_NO_MEMORY,
                epf_cuda_alloc(&v->group, (int64_t)1 << 46, "all of it", &device));
    RANK_CHECK(v->rank, strstr(epf_error_text(), "all of it") != NULL, "%s", epf_error_text());
    RANK_CHECK(v->rank, cudaGetLastError() == cudaSuccess, "an error is left behind");
    return true;
}

/* --- a window --------------------------------------------------------------------------------- */

static bool check_new_window(view *v, const epf_cuda_window *window, uint8_t *host)
{
    uint8_t *table[MAX_RANKS];
    const int32_t num_ranks = v->comm->num_ranks;
    RANK_CHECK(v->rank,
               window->bytes == WINDOW_BYTES && window->rank == v->comm->rank &&
                   window->num_ranks == num_ranks,
               "the head");
    RANK_CUDA(v->rank, cudaMemcpy(table, window->base_table, (size_t)num_ranks * sizeof table[0],
                                  cudaMemcpyDeviceToHost));
    for (int32_t r = 0; r < num_ranks; r++) {
        RANK_CHECK(v->rank, table[r] == window->base[r] && table[r] != NULL, "base[%d]", r);
        RANK_CHECK(v->rank, (uintptr_t)table[r] % EPF_COMM_WINDOW_ALIGN == 0, "base[%d] is %p", r,
                   (void *)table[r]);
    }
    RANK_CUDA(v->rank,
              cudaMemcpy(host, window->base[v->comm->rank], WINDOW_BYTES, cudaMemcpyDeviceToHost));
    for (uint32_t i = 0; i < WINDOW_BYTES; i++) {
        RANK_CHECK(v->rank, host[i] == 0, "byte %u of a new window is %d", i, host[i]);
    }
    return true;
}

static bool check_writes(view *v, const epf_cuda_window *window, uint8_t *host)
{
    const int32_t self = v->comm->rank;
    const test_memory_touch_args args = {.base_table = window->base_table,
                                         .num_ranks = window->num_ranks,
                                         .offset = place_of(self),
                                         .num_words = NUM_WORDS,
                                         .seed = word_of(self, 0, 0)};
    cudaStream_t stream;
    RANK_CUDA(v->rank, cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RANK_CUDA(v->rank, (cudaError_t)test_memory_touch(&args, stream));
    RANK_CUDA(v->rank, cudaStreamDestroy(stream));
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    RANK_CUDA(v->rank, cudaMemcpy(host, window->base[self], WINDOW_BYTES, cudaMemcpyDeviceToHost));
    for (int32_t r = 0; r < window->num_ranks; r++) {
        const uint32_t *words = (const uint32_t *)(const void *)(host + place_of(r));
        for (uint32_t i = 0; i < NUM_WORDS; i++) {
            RANK_CHECK(v->rank, words[i] == word_of(r, self, i),
                       "word %u that rank %d wrote is %08x, want %08x", i, r, words[i],
                       word_of(r, self, i));
        }
    }
    /* Behind the last writer's place nobody wrote. */
    for (uint64_t i = place_of(window->num_ranks); i < WINDOW_BYTES; i++) {
        RANK_CHECK(v->rank, host[i] == 0, "byte %" PRIu64 " is %d", i, host[i]);
    }
    return true;
}

static bool check_window(view *v)
{
    epf_cuda_window *window;
    uint8_t *host = epf_test_alloc(WINDOW_BYTES, 1);
    RANK_OK(v->rank, epf_cuda_window_create(v->comm, &v->group, WINDOW_BYTES, &window));
    const bool good = check_new_window(v, window, host);
    /* Nobody writes before all have seen zeros. */
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    const bool passed = good && check_writes(v, window, host);
    free(host);
    return passed && window_end(v, window);
}

/* --- failures --------------------------------------------------------------------------------- */

/* The last process's n-th allocation, or the n-th of all threads together: whose it is, is chance. */
static bool fail_device(view *v, uint64_t nth)
{
    epf_cuda_window *window = NULL;
    const bool sets = v->comm->rank == v->comm->num_ranks - 1;
    if (sets) {
        epf_cuda_alloc_fail_at(nth);
    }
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    RANK_STATUS(v->rank, EPF_E_NO_MEMORY,
                epf_cuda_window_create(v->comm, &v->group, WINDOW_BYTES, &window));
    RANK_CHECK(v->rank, window == NULL, "a window");
    RANK_CHECK(v->rank, strstr(epf_error_text(), "no device memory") != NULL, "%s",
               epf_error_text());
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    if (sets) {
        epf_cuda_alloc_fail_at(0);
    }
    return true;
}

static bool fail_host(view *v)
{
    epf_cuda_window *window = NULL;
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    if (v->comm->rank == 0) {
        epf_alloc_fail_at(1);
    }
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    RANK_STATUS(v->rank, EPF_E_NO_MEMORY,
                epf_cuda_window_create(v->comm, &v->group, WINDOW_BYTES, &window));
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    if (v->comm->rank == 0) {
        epf_alloc_fail_at(0);
    }
    return true;
}

static bool fail_sizes(view *v)
{
    epf_cuda_window *window = NULL;
    const uint64_t bytes = v->comm->rank == 0 ? 4096 : 8192;
    if (v->comm->num_ranks == 1) {
        return true;
    }
    RANK_STATUS(v->rank, EPF_E_INVALID, epf_cuda_window_create(v->comm, &v->group, bytes, &window));
    RANK_CHECK(v->rank, strstr(epf_error_text(), "bytes is 4096 on rank 0 and 8192") != NULL, "%s",
               epf_error_text());
    return true;
}

static bool check_failures(view *v)
{
    epf_cuda_window *window;
    const bool threads = v->transport == EPF_CUDA_TRANSPORT_LOCAL;
    const uint64_t num_asked = threads ? 2 * (uint64_t)v->comm->num_ranks : 2;
    for (uint64_t nth = 1; nth <= num_asked; nth++) {
        if (!fail_device(v, nth)) {
            return false;
        }
    }
    if (!fail_host(v) || !fail_sizes(v)) {
        return false;
    }
    RANK_OK(v->rank, epf_cuda_window_create(v->comm, &v->group, WINDOW_BYTES, &window));
    return window_end(v, window);
}

/* --- nothing is left -------------------------------------------------------------------------- */

static bool free_memory(view *v, size_t *bytes)
{
    size_t total;
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    RANK_CUDA(v->rank, cudaDeviceSynchronize());
    RANK_CUDA(v->rank, cudaMemGetInfo(bytes, &total));
    RANK_OK(v->rank, epf_comm_barrier(v->comm));
    return true;
}

static bool check_leaks(view *v)
{
    size_t before = 0;
    size_t after = 0;
    /* What CUDA keeps for itself is there by now: windows were made and used before. */
    if (!free_memory(v, &before)) {
        return false;
    }
    for (int i = 0; i < NUM_ROUNDS; i++) {
        epf_cuda_window *window;
        RANK_OK(v->rank, epf_cuda_window_create(v->comm, &v->group, WINDOW_BYTES, &window));
        if (!window_end(v, window)) {
            return false;
        }
    }
    if (!free_memory(v, &after)) {
        return false;
    }
    RANK_CHECK(v->rank, after + WINDOW_BYTES > before,
               "%zu bytes free before, %zu after %d windows", before, after, NUM_ROUNDS);
    return true;
}

/* --- ranks ------------------------------------------------------------------------------------ */

static bool check_all(view *v)
{
    if (!check_join(v)) {
        return false;
    }
    if (v->skipped) {
        return true;
    }
    const bool passed = check_own_memory(v) && check_window(v) && check_failures(v) &&
                        check_window(v) && check_leaks(v);
    if (passed) {
        epf_cuda_group_leave(v->comm, &v->group);
    }
    return passed;
}

typedef struct thread_ranks {
    epf_comm *comms[MAX_RANKS];
} thread_ranks;

static void thread_main(epf_test_rank *rank)
{
    const thread_ranks *all = rank->user;
    view v = {.rank = rank, .comm = all->comms[rank->rank], .transport = EPF_CUDA_TRANSPORT_LOCAL};
    (void)check_all(&v);
}

static int run_threads(int32_t num_ranks)
{
    thread_ranks all;
    epf_comm_config config;
    epf_comm_config_init(&config);
    config.num_ranks = num_ranks;
    config.timeout_ns = timeout_ns;
    CHECK_OK(epf_comm_create_threads(&config, all.comms));
    const epf_run run = {.num_ranks = num_ranks, .function = thread_main, .user = &all};
    const int32_t num_failed = epf_run_ranks(&run, "threads");
    for (int32_t r = 0; r < num_ranks; r++) {
        epf_comm_destroy(all.comms[r]);
    }
    return num_failed == 0 ? 0 : 1;
}

static int process_main(epf_comm *comm, void *context)
{
    char failure[EPF_RUNNER_TEXT] = "";
    epf_test_rank rank = {
        .rank = comm->rank, .num_ranks = comm->num_ranks, .processes = true, .failure = failure};
    view v = {.rank = &rank, .comm = comm, .transport = *(const int32_t *)context};
    (void)check_all(&v);
    if (failure[0] != '\0') {
        fprintf(stderr, "rank %d: %s\n", comm->rank, failure);
        return 1;
    }
    if (v.skipped && comm->rank == 0) {
        printf("%s\n", epf_error_text());
    }
    (void)fflush(stdout);
    return v.skipped ? SKIPPED : 0;
}

/* This process itself never touches CUDA: it forks. */
static int run_processes(int32_t num_ranks, int32_t transport)
{
    epf_launch_result results[MAX_RANKS];
    epf_comm_config config;
    epf_comm_config_init(&config);
    config.num_ranks = num_ranks;
    config.timeout_ns = timeout_ns;
    if (epf_launch(&config, 20000000000u, process_main, &transport, results) == EPF_OK) {
        return 0;
    }
    bool skipped = true;
    for (int32_t r = 0; r < num_ranks; r++) {
        skipped = skipped && results[r].exit_code == SKIPPED;
    }
    if (!skipped) {
        fprintf(stderr, "%s\n", epf_error_text());
    }
    return skipped ? SKIPPED : 1;
}

/* --- cases ------------------------------------------------------------------------------------ */

static int probe(void)
{
    int count = 0;
    struct cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
        printf("skipped: no CUDA device: %s\n", cudaGetErrorString(error));
        return SKIPPED;
    }
    if (cudaGetDeviceProperties(&properties, 0) == cudaSuccess && properties.major != 9) {
        printf("skipped: %s is not a Hopper GPU\n", properties.name);
        return SKIPPED;
    }
    return 0;
}

static int run_case(const char *kind, int32_t num_ranks)
{
    CHECK(num_ranks >= 1 && num_ranks <= MAX_RANKS, "%d ranks", num_ranks);
    if (strcmp(kind, "probe") == 0) {
        return probe();
    }
    (void)unsetenv("EPFUSE_CUDA_TRANSPORT");
    if (strcmp(kind, "threads") == 0) {
        return run_threads(num_ranks);
    }
    if (strcmp(kind, "ipc") == 0) {
        return run_processes(num_ranks, EPF_CUDA_TRANSPORT_IPC);
    }
    CHECK(strcmp(kind, "nvshmem") == 0, "no case \"%s\"", kind);
    (void)setenv("EPFUSE_CUDA_TRANSPORT", "nvshmem", 1);
    return run_processes(num_ranks, EPF_CUDA_TRANSPORT_NVSHMEM);
}

/* A case in a process of its own: the exit code. */
static int spawn_case(char *self, const char *kind, int32_t num_ranks)
{
    char number[16];
    char name[16];
    char *arguments[] = {self, name, number, NULL};
    pid_t child;
    int status = 0;
    (void)snprintf(number, sizeof number, "%d", num_ranks);
    (void)snprintf(name, sizeof name, "%s", kind);
    (void)fflush(stdout);
    CHECK(posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, environ) == 0, "spawn");
    CHECK(waitpid(child, &status, 0) == child, "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *kind;
        int32_t num_ranks;
    } cases[] = {{"threads", 1}, {"threads", 2}, {"threads", 4}, {"threads", 8},
                 {"ipc", 2},     {"ipc", 4},     {"nvshmem", 2}, {"nvshmem", 4}};
    int num_failed = 0;
    if (argc == 3) {
        return run_case(argv[1], atoi(argv[2]));
    }
    CHECK(argc == 1, "usage: %s [threads|ipc|nvshmem W]", argv[0]);
    const int probed = spawn_case(argv[0], "probe", 1);
    if (probed != 0) {
        return probed;
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int rc = spawn_case(argv[0], cases[i].kind, cases[i].num_ranks);
        printf("%s %d: %s\n", cases[i].kind, cases[i].num_ranks,
               rc == 0         ? "passed"
               : rc == SKIPPED ? "skipped"
                               : "FAILED");
        num_failed += rc != 0 && rc != SKIPPED;
    }
    return num_failed != 0;
}
