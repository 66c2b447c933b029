/* test_processes: groups of processes do all that a group must, and leave nothing behind. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "bodies.h"
#include "comm/epf_process.h"

#define SECOND ((uint64_t)1000000000u)

static int count_entries(const char *path)
{
    int count = 0;
    DIR *folder = opendir(path);
    while (folder != NULL && readdir(folder) != NULL) {
        count++;
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    return count;
}

/* Windows and errors come and go; descriptors and mappings are what they were. */
static void body_nothing_left(epf_comm *comm, void *context)
{
    const int descriptors = count_descriptors();
    const int mappings = count_memfd_mappings();
    CHECK(descriptors < comm->num_ranks + 16, "%d descriptors", descriptors);
    body_gather(comm, context);
    body_window(comm, context);
    body_window_errors(comm, context);
    CHECK(count_descriptors() == descriptors, "%d descriptors, were %d", count_descriptors(),
          descriptors);
    CHECK(count_memfd_mappings() == mappings, "mappings left");
}

/* The n-th allocation of one rank fails, or its address space or file size is limited. */
static void body_failing_window(epf_comm *comm, void *context)
{
    epf_window *window;
    const int descriptors = count_descriptors();
    const bool odd = comm->rank == comm->num_ranks - 1;
    (void)context;
    for (uint64_t n = 1; n <= 2; n++) {
        if (odd) {
            epf_alloc_fail_at(n);
        }
        const epf_status st = epf_comm_window_create(comm, 8192, &window);
        const bool hit = n == 1; /* a window is one allocation on each rank */
        epf_alloc_fail_at(0);
        CHECK(st == (hit ? EPF_E_NO_MEMORY : EPF_OK), "status %d", (int)st);
        CHECK((window == NULL) == hit, "window");
        CHECK_OK(epf_comm_barrier(comm));
        epf_comm_window_destroy(comm, window);
    }
    const struct rlimit file_size = {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
    const struct rlimit unlimited = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    CHECK(!odd || setrlimit(RLIMIT_FSIZE, &file_size) == 0, "setrlimit");
    CHECK_STATUS(epf_comm_window_create(comm, 1 << 20, &window), EPF_E_NO_MEMORY);
    CHECK(strstr(epf_error_text(), odd ? "RLIMIT_FSIZE" : "could not take") != NULL, "text");
    CHECK(!odd || setrlimit(RLIMIT_FSIZE, &unlimited) == 0, "setrlimit");
#ifndef EPF_TEST_SANITIZED
    const struct rlimit space = {.rlim_cur = 1 << 28, .rlim_max = RLIM_INFINITY};
    CHECK(!odd || setrlimit(RLIMIT_AS, &space) == 0, "setrlimit");
    CHECK_STATUS(epf_comm_window_create(comm, 1 << 28, &window), EPF_E_NO_MEMORY);
    CHECK(!odd || setrlimit(RLIMIT_AS, &unlimited) == 0, "setrlimit");
#endif
    CHECK_OK(epf_comm_window_create(comm, 1 << 20, &window));
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_window_destroy(comm, window);
    CHECK(count_descriptors() == descriptors, "descriptors left");
}

/* Too few descriptors to receive what the others send: the same error on all, and the group goes
 * on. */
static void body_few_descriptors(epf_comm *comm, void *context)
{
    epf_window *window;
    struct rlimit before;
    const int descriptors = count_descriptors();
    (void)context;
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0, "getrlimit");
    if (comm->rank == 1) {
        const int next = dup(0);
        const struct rlimit few = {.rlim_cur = (rlim_t)next + 1, .rlim_max = before.rlim_max};
        (void)close(next);
        CHECK(next >= 0 && setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
    }
    CHECK_STATUS(epf_comm_window_create(comm, 4096, &window), EPF_E_NO_MEMORY);
    CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0, "setrlimit");
    CHECK(count_descriptors() == descriptors, "descriptors left");
    CHECK_OK(epf_comm_window_create(comm, 4096, &window));
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_window_destroy(comm, window);
}

/* Memory that peers were handed cannot be resized, nor its seals be lifted. */
static void body_sealed(epf_comm *comm, void *context)
{
    epf_window *window;
    char path[320];
    char target[256];
    int num_found = 0;
    (void)context;
    CHECK_OK(epf_comm_window_create(comm, 12345, &window));
    DIR *folder = opendir("/proc/self/map_files");
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        (void)snprintf(path, sizeof path, "/proc/self/map_files/%s", entry->d_name);
        const ssize_t length = readlink(path, target, sizeof target - 1);
        target[length < 0 ? 0 : length] = '\0';
        if (strstr(target, "memfd:epfuse") == NULL) {
            continue;
        }
        const int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) {
            continue; /* needs a privilege that tests may not have */
        }
        const int seals = fcntl(fd, F_GET_SEALS);
        CHECK((seals & F_SEAL_SHRINK) && (seals & F_SEAL_GROW) && (seals & F_SEAL_SEAL), "%d",
              seals);
        CHECK(ftruncate(fd, 0) != 0 && ftruncate(fd, 1 << 20) != 0, "resized");
        CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) != 0, "sealed for writing");
        num_found++;
        (void)close(fd);
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    CHECK(num_found == 0 || num_found == 2 * comm->num_ranks, "%d found", num_found);
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_window_destroy(comm, window);
}

/* A rank hands over memory that is not what it must be: all ranks refuse the window. */
static void body_bad_memory(epf_comm *comm, void *context)
{
    epf_process_comm *process = (epf_process_comm *)comm;
    epf_window *window = NULL;
    const int descriptors = count_descriptors();
    (void)context;
    for (int kind = 0; kind < 4; kind++) {
        if (comm->rank != 0) {
            CHECK_STATUS(epf_comm_window_create(comm, 8192, &window), EPF_E_PEER);
            CHECK(window == NULL, "window");
        } else {
            epf_window_offer all[8];
            const epf_window_offer own = {.bytes = 8192, .status = EPF_OK};
            int fd = kind == 3 ? -1 : memfd_create("epfuse-test", MFD_ALLOW_SEALING | MFD_CLOEXEC);
            if (kind == 2) { /* a descriptor that is no memory at all */
                (void)close(fd);
                fd = open("/dev/null", O_RDWR | O_CLOEXEC);
            } else if (kind == 1) { /* sealed, but too short */
                CHECK(ftruncate(fd, 4096) == 0, "ftruncate");
                CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0,
                      "seal");
            } else if (kind == 0) { /* long enough, but not sealed */
                CHECK(ftruncate(fd, 8192) == 0, "ftruncate");
            }
            const epf_exchange exchange = {.collective = EPF_COLLECTIVE_WINDOW,
                                           .send = &own,
                                           .recv = all,
                                           .bytes = sizeof own,
                                           .fd = fd};
            CHECK_OK(epf_process_exchange(process, &exchange));
            for (int32_t r = 1; r < comm->num_ranks; r++) {
                CHECK(process->peers[r].fd >= 0, "rank %d sent none", (int)r);
                epf_link_close(&process->peers[r].fd);
            }
            epf_link_close(&fd);
            CHECK_STATUS(epf_comm_agree(comm, EPF_OK), EPF_E_PEER);
        }
    }
    CHECK(count_descriptors() == descriptors, "descriptors left");
    CHECK_OK(epf_comm_barrier(comm));
}

int main(void)
{
    static const int32_t sizes[] = {1, 2, 4, 8};
    const int descriptors = count_descriptors();
    const int shared = count_entries("/dev/shm");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        run_processes(sizes[i], 60 * SECOND, body_nothing_left, NULL);
        run_processes(sizes[i], 60 * SECOND, body_ring, NULL);
    }
    run_processes(64, 60 * SECOND, body_window, NULL);
    run_processes(3, 60 * SECOND, body_failing_window, NULL);
    run_processes(3, 60 * SECOND, body_few_descriptors, NULL);
    run_processes(3, 60 * SECOND, body_sealed, NULL);
    run_processes(3, 60 * SECOND, body_bad_memory, NULL);
    CHECK(count_descriptors() == descriptors, "descriptors left behind");
    CHECK(count_memfd_mappings() == 0, "mappings left behind");
    CHECK(count_entries("/dev/shm") == shared, "files left in /dev/shm");
    return 0;
}
