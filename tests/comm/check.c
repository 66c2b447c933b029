/* check.c: ranks for tests. */
#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <string.h>

#include "base/epf_clock.h"
#include "comm/epf_launch.h"

struct runner {
    pthread_t thread;
    epf_comm *comm;
    rank_body *body;
    void *context;
};

static void *runner_main(void *argument)
{
    struct runner *runner = argument;
    runner->body(runner->comm, runner->context);
    epf_comm_destroy(runner->comm);
    return NULL;
}

void run_threads(int32_t num_ranks, uint64_t timeout_ns, rank_body *body, void *context)
{
    epf_comm_config config;
    epf_comm **comms = calloc((size_t)num_ranks, sizeof *comms);
    struct runner *runners = calloc((size_t)num_ranks, sizeof *runners);
    epf_comm_config_init(&config);
    config.num_ranks = num_ranks;
    config.timeout_ns = timeout_ns;
    CHECK(comms != NULL && runners != NULL, "no memory");
    CHECK_OK(epf_comm_create_threads(&config, comms));
    for (int32_t r = 0; r < num_ranks; r++) {
        struct runner own = {.comm = comms[r], .body = body, .context = context};
        runners[r] = own;
        CHECK(pthread_create(&runners[r].thread, NULL, runner_main, &runners[r]) == 0, "thread");
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        (void)pthread_join(runners[r].thread, NULL);
    }
    free(runners);
    free(comms);
}

struct process_body {
    rank_body *body;
    void *context;
};

static int process_main(epf_comm *comm, void *context)
{
    const struct process_body *own = context;
    own->body(comm, own->context);
    return 0;
}

void run_processes(int32_t num_ranks, uint64_t timeout_ns, rank_body *body, void *context)
{
    epf_comm_config config;
    struct process_body own = {.body = body, .context = context};
    epf_launch_result *results = calloc((size_t)num_ranks, sizeof *results);
    epf_comm_config_init(&config);
    config.num_ranks = num_ranks;
    config.timeout_ns = timeout_ns;
    CHECK(results != NULL, "no memory");
    CHECK_OK(epf_launch(&config, 2000000000u, process_main, &own, results));
    free(results);
}

int count_descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    CHECK(folder != NULL, "/proc/self/fd");
    while (readdir(folder) != NULL) {
        count++;
    }
    (void)closedir(folder);
    return count;
}

int count_memfd_mappings(void)
{
    char line[4096];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    CHECK(maps != NULL, "/proc/self/maps");
    while (fgets(line, sizeof line, maps) != NULL) {
        count += strstr(line, "memfd:epfuse") != NULL;
    }
    (void)fclose(maps);
    return count;
}

double seconds_since(uint64_t begin_ns)
{
    return (double)(epf_now_ns() - begin_ns) * 1e-9;
}
