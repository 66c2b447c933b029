/* test_place: ranks on machines of many shapes, and what this one says about itself. */
#include <inttypes.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "check.h"
#include "comm/epf_place.h"

/* A machine: `threads` hardware threads per core, numbered as Linux does, all first threads first.
 * */
static epf_topology *machine(int32_t num_nodes, const int32_t *cores_per_node, int32_t threads)
{
    int32_t num_cores = 0;
    int32_t core = 0;
    for (int32_t n = 0; n < num_nodes; n++) {
        num_cores += cores_per_node[n];
    }
    const size_t num_cpus = (size_t)(num_cores * threads);
    epf_topology *t = calloc(1, sizeof *t + num_cpus * sizeof t->cpus[0]);
    CHECK(t != NULL, "no memory");
    t->num_nodes = num_nodes;
    t->num_cpus = (int32_t)num_cpus;
    for (int32_t n = 0; n < num_nodes; n++) {
        for (int32_t c = 0; c < cores_per_node[n]; c++, core++) {
            for (int32_t i = 0; i < threads; i++) {
                const int32_t cpu = core + i * num_cores;
                t->cpus[cpu] = (epf_cpu){.cpu = cpu, .node = n, .core = core};
            }
        }
    }
    return t;
}

static const epf_cpu *cpu_of(const epf_topology *topology, int32_t cpu)
{
    for (int32_t i = 0; i < topology->num_cpus; i++) {
        if (topology->cpus[i].cpu == cpu) {
            return &topology->cpus[i];
        }
    }
    CHECK(false, "CPU %d is none of the machine's", (int)cpu);
    return NULL;
}

/* What holds for every machine and number of ranks. */
static void check_all(const epf_topology *t, int32_t num_ranks)
{
    int32_t *uses = calloc((size_t)t->num_cpus, sizeof *uses);
    int32_t last_node = -1;
    int32_t num_cores = 0;
    CHECK(uses != NULL, "no memory");
    for (int32_t i = 0; i < t->num_cpus; i++) {
        bool first = true;
        for (int32_t j = 0; j < i; j++) {
            first = first && t->cpus[j].core != t->cpus[i].core;
        }
        num_cores += first;
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        epf_place place;
        CHECK_OK(epf_place_rank(t, r, num_ranks, &place));
        CHECK(place.num_cores >= 1 && place.num_cpus >= place.num_cores, "rank %d", (int)r);
        for (int32_t i = 0; i < place.num_cpus; i++) {
            const epf_cpu *cpu = cpu_of(t, place.cpus[i]);
            uses[cpu - t->cpus]++;
            CHECK(place.node < 0 || cpu->node == place.node, "rank %d spans nodes", (int)r);
            for (int32_t j = 0; j < i; j++) {
                CHECK(place.cpus[j] != place.cpus[i], "twice");
                CHECK(i >= place.num_cores || cpu_of(t, place.cpus[j])->core != cpu->core,
                      "the first ones share a core");
            }
        }
        CHECK(num_ranks < t->num_nodes || place.node >= last_node, "nodes in blocks");
        last_node = place.node;
        epf_place_release(&place);
        CHECK(place.cpus == NULL, "released");
    }
    int32_t least = num_ranks;
    int32_t most = 0;
    for (int32_t i = 0; i < t->num_cpus; i++) {
        least = uses[i] < least ? uses[i] : least;
        most = uses[i] > most ? uses[i] : most;
    }
    if (num_ranks <= num_cores && num_ranks >= t->num_nodes) {
        CHECK(most <= 2, "%d ranks on one CPU of %d", (int)most, (int)num_cores);
    }
    free(uses);
}

static void check_even(const epf_topology *t, int32_t num_ranks, int32_t wanted_cores)
{
    for (int32_t r = 0; r < num_ranks; r++) {
        epf_place place;
        CHECK_OK(epf_place_rank(t, r, num_ranks, &place));
        CHECK(place.num_cores == wanted_cores, "rank %d of %d has %d cores", (int)r, (int)num_ranks,
              (int)place.num_cores);
        epf_place_release(&place);
    }
}

static void test_machines(void)
{
    static const int32_t laptop[] = {2};
    static const int32_t dual[] = {32, 32};
    static const int32_t odd[] = {7, 3, 12};
    static const int32_t eight[] = {8, 8, 8, 8, 8, 8, 8, 8};
    static const struct {
        int32_t num_nodes;
        const int32_t *cores;
        int32_t threads;
    } shapes[] = {{1, laptop, 1}, {1, laptop, 2}, {2, dual, 1}, {2, dual, 2},
                  {3, odd, 1},    {3, odd, 4},    {8, eight, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        epf_topology *t = machine(shapes[i].num_nodes, shapes[i].cores, shapes[i].threads);
        for (int32_t num_ranks = 1; num_ranks <= 80; num_ranks++) {
            check_all(t, num_ranks);
        }
        free(t);
    }
    epf_topology *t = machine(2, dual, 2);
    check_even(t, 1, 64);
    check_even(t, 2, 32);
    check_even(t, 8, 8);
    check_even(t, 64, 1);
    check_even(t, 200, 1);
    epf_place place;
    CHECK_OK(epf_place_rank(t, 0, 1, &place));
    CHECK(place.node == -1 && place.num_cpus == 128, "one rank has the whole machine");
    epf_place_release(&place);
    CHECK_OK(epf_place_rank(t, 5, 8, &place));
    CHECK(place.node == 1 && place.cpus[0] == 40 && place.cpus[8] == 104, "node %d, cpu %d, %d",
          (int)place.node, (int)place.cpus[0], (int)place.cpus[8]);
    epf_place_release(&place);
    free(t);
}

static void test_arguments(void)
{
    static const int32_t cores[] = {4};
    epf_topology *t = machine(1, cores, 1);
    epf_topology empty = {.num_cpus = 0};
    epf_place place;
    CHECK_STATUS(epf_place_rank(NULL, 0, 1, &place), EPF_E_INVALID);
    CHECK_STATUS(epf_place_rank(&empty, 0, 1, &place), EPF_E_INVALID);
    CHECK_STATUS(epf_place_rank(t, 0, 0, &place), EPF_E_INVALID);
    CHECK_STATUS(epf_place_rank(t, -1, 1, &place), EPF_E_INVALID);
    CHECK_STATUS(epf_place_rank(t, 1, 1, &place), EPF_E_INVALID);
    CHECK_STATUS(epf_place_rank(t, 0, 1, NULL), EPF_E_INVALID);
    CHECK_STATUS(epf_place_pin(-1), EPF_E_INVALID);
    CHECK_STATUS(epf_place_pin(1 << 20), EPF_E_DEVICE);
    for (uint64_t n = 1; n <= 4; n++) {
        epf_alloc_fail_at(n);
        CHECK_STATUS(epf_place_rank(t, 0, 1, &place), EPF_E_NO_MEMORY);
    }
    for (uint64_t n = 1; n <= 3; n++) {
        epf_topology *read = NULL;
        epf_alloc_fail_at(n);
        CHECK_STATUS(epf_topology_read(EPF_TOPOLOGY_ROOT, &read), EPF_E_NO_MEMORY);
        CHECK(read == NULL, "left behind");
    }
    epf_alloc_fail_at(0);
    CHECK_STATUS(epf_topology_read(NULL, NULL), EPF_E_INVALID);
    free(t);
}

static void put(const char *root, const char *path, const char *text)
{
    char full[512];
    (void)snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        (void)mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "we");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0, "%s", full);
}

static void test_reading(void)
{
    epf_topology *t;
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0, "affinity");
    CHECK_OK(epf_topology_read(EPF_TOPOLOGY_ROOT, &t));
    CHECK(t->num_cpus == CPU_COUNT(&allowed) && t->num_nodes >= 1, "%d CPUs", (int)t->num_cpus);
    check_all(t, 1);
    check_all(t, 8);
    const int32_t first = t->cpus[0].cpu;
    epf_topology_free(t);

    /* A machine without any of the files: one node, a core per CPU. */
    CHECK_OK(epf_topology_read("/nowhere", &t));
    CHECK(t->num_nodes == 1 && t->cpus[0].node == 0 && t->cpus[0].core == first, "bare");
    epf_topology_free(t);

    /* Made-up files: our first CPU on node 3 beside many that we may not use, and nonsense. */
    char root[] = "/tmp/epf_test_place_XXXXXX";
    char text[128];
    CHECK(mkdtemp(root) != NULL, "mkdtemp");
    (void)snprintf(text, sizeof text, "%" PRId32 ",5000-5003,60000\n", first);
    put(root, "node/node3/cpulist", text);
    put(root, "node/node4/cpulist", "\n");
    put(root, "node/node5/cpulist", "9-2,x,99999999999999999999,-4\n");
    (void)snprintf(text, sizeof text, "cpu/cpu%" PRId32 "/topology/thread_siblings_list", first);
    put(root, text, "77,99\n");
    CHECK_OK(epf_topology_read(root, &t));
    CHECK(t->num_nodes == 1 && t->cpus[0].node == 3 && t->cpus[0].core == 77, "%d nodes",
          (int)t->num_nodes);
    epf_topology_free(t);
    (void)snprintf(text, sizeof text, "rm -r %s", root);
    CHECK(system(text) == 0, "rm");

    /* Pinning sticks, and is seen by the next reading. */
    CHECK_OK(epf_place_pin(first));
    CHECK_OK(epf_topology_read(EPF_TOPOLOGY_ROOT, &t));
    CHECK(t->num_cpus == 1 && t->cpus[0].cpu == first, "pinned");
    epf_topology_free(t);
    CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0, "affinity");
}

static void test_binding(void)
{
    void *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED, "mmap");
    const epf_status st = epf_place_bind_memory(memory, 1 << 20, 0);
    CHECK(st == EPF_OK || st == EPF_E_DEVICE, "status %d", (int)st); /* containers may forbid it */
    memset(memory, 1, 1 << 20);
    CHECK_STATUS(epf_place_bind_memory(memory, 1 << 20, -1), EPF_E_INVALID);
    CHECK_STATUS(epf_place_bind_memory(memory, 1 << 20, 1024), EPF_E_INVALID);
    CHECK_STATUS(epf_place_bind_memory(memory, 1 << 20, 1000), EPF_E_DEVICE); /* no such node */
    (void)munmap(memory, 1 << 20);
}

int main(void)
{
    test_machines();
    test_arguments();
    test_reading();
    test_binding();
    return 0;
}
