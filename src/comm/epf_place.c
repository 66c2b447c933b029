/*
 * epf_place.c: dealing cores and nodes to ranks, and asking the kernel for them.
 *
 * Example, 2 nodes of 4 cores with 2 threads each (CPUs 0-7, and 8-15 their second threads):
 *   1 rank    node -1  cores 0-7              CPUs 0..7, 8..15
 *   2 ranks   node 0   cores 0-3              CPUs 0..3, 8..11       rank 1: node 1
 *   4 ranks   node 0   cores 0-1              CPUs 0, 1, 8, 9        ranks 2, 3: node 1
 *   16 ranks  node 0   core r % 4             ranks 8..15: node 1
 */
#include "comm/epf_place.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"

enum { MOST_NODES = 1024, BITS = 8 * sizeof(unsigned long), POLICY_PREFERRED = 1 };

/* CPUs by (node, core, cpu): a core's threads side by side, a node's cores side by side. */
struct dealer {
    epf_cpu *cpus;
    int32_t num_cpus;
    int32_t *core_begin; /* [num_cores + 1] first CPU of each core                     */
    int32_t num_cores;
    int32_t *node_begin; /* [num_nodes + 1] first core of each node                    */
    int32_t num_nodes;
};

/* Cores [begin, end), counted as the dealer does. */
struct cores {
    int32_t begin;
    int32_t end;
};

static int compare_cpus(const void *a, const void *b)
{
    const epf_cpu *x = a;
    const epf_cpu *y = b;
    if (x->node != y->node) {
        return x->node < y->node ? -1 : 1;
    }
    if (x->core != y->core) {
        return x->core < y->core ? -1 : 1;
    }
    return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

static void dealer_release(struct dealer *dealer)
{
    epf_free(dealer->cpus);
    epf_free(dealer->core_begin);
    epf_free(dealer->node_begin);
}

static epf_status dealer_init(struct dealer *dealer, const epf_topology *topology)
{
    const size_t num_cpus = (size_t)topology->num_cpus;
    memset(dealer, 0, sizeof *dealer);
    dealer->cpus = epf_alloc(num_cpus, sizeof *dealer->cpus);
    dealer->core_begin = epf_alloc(num_cpus + 1, sizeof *dealer->core_begin);
    dealer->node_begin = epf_alloc(num_cpus + 1, sizeof *dealer->node_begin);
    if (dealer->cpus == NULL || dealer->core_begin == NULL || dealer->node_begin == NULL) {
        dealer_release(dealer);
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory to place ranks on %zu CPUs", num_cpus);
    }
    memcpy(dealer->cpus, topology->cpus, num_cpus * sizeof *dealer->cpus);
    qsort(dealer->cpus, num_cpus, sizeof *dealer->cpus, compare_cpus);
    dealer->num_cpus = topology->num_cpus;
    for (int32_t i = 0; i < dealer->num_cpus; i++) {
        const epf_cpu *cpu = &dealer->cpus[i];
        const bool new_node = i == 0 || cpu->node != cpu[-1].node;
        if (new_node) {
            dealer->node_begin[dealer->num_nodes++] = dealer->num_cores;
        }
        if (new_node || cpu->core != cpu[-1].core) {
            dealer->core_begin[dealer->num_cores++] = i;
        }
    }
    dealer->core_begin[dealer->num_cores] = dealer->num_cpus;
    dealer->node_begin[dealer->num_nodes] = dealer->num_cores;
    return EPF_OK;
}

/* The node, counted as the dealer does, that holds the middle of the rank's share of all cores. */
static int32_t node_of_rank(const struct dealer *dealer, int32_t rank, int32_t num_ranks)
{
    const int64_t middle = (2 * (int64_t)rank + 1) * dealer->num_cores / (2 * (int64_t)num_ranks);
    int32_t node = 0;
    while (dealer->node_begin[node + 1] <= middle) {
        node++;
    }
    return node;
}

/* Item `index` of num_parts even parts of `num`. */
static int32_t part_begin(int32_t num, int32_t index, int32_t num_parts)
{
    return (int32_t)((int64_t)num * index / num_parts);
}

static struct cores cores_of_rank(const struct dealer *dealer, int32_t rank, int32_t num_ranks)
{
    struct cores cores;
    if (num_ranks < dealer->num_nodes) { /* whole nodes, more than one for some */
        cores.begin = dealer->node_begin[part_begin(dealer->num_nodes, rank, num_ranks)];
        cores.end = dealer->node_begin[part_begin(dealer->num_nodes, rank + 1, num_ranks)];
        return cores;
    }
    const int32_t node = node_of_rank(dealer, rank, num_ranks);
    const int32_t first_core = dealer->node_begin[node];
    const int32_t num_cores = dealer->node_begin[node + 1] - first_core;
    int32_t first_rank = rank;
    int32_t end_rank = rank + 1;
    while (first_rank > 0 && node_of_rank(dealer, first_rank - 1, num_ranks) == node) {
        first_rank--;
    }
    while (end_rank < num_ranks && node_of_rank(dealer, end_rank, num_ranks) == node) {
        end_rank++;
    }
    const int32_t index = rank - first_rank;
    const int32_t num_sharing = end_rank - first_rank;
    if (num_sharing > num_cores) {
        cores.begin = first_core + index % num_cores;
        cores.end = cores.begin + 1;
    } else {
        cores.begin = first_core + part_begin(num_cores, index, num_sharing);
        cores.end = first_core + part_begin(num_cores, index + 1, num_sharing);
    }
    return cores;
}

/* First threads of all cores, then second ones, and so on. */
static void list_cpus(const struct dealer *dealer, struct cores cores, epf_place *place)
{
    for (int32_t thread = 0;
         place->num_cpus < dealer->core_begin[cores.end] - dealer->core_begin[cores.begin];
         thread++) {
        for (int32_t core = cores.begin; core < cores.end; core++) {
            const int32_t index = dealer->core_begin[core] + thread;
            if (index < dealer->core_begin[core + 1]) {
                place->cpus[place->num_cpus++] = dealer->cpus[index].cpu;
            }
        }
    }
}

epf_status epf_place_rank(const epf_topology *topology, int32_t rank, int32_t num_ranks,
                          epf_place *place)
{
    struct dealer dealer;
    EPF_CHECK_ARG(place, "place is NULL");
    memset(place, 0, sizeof *place);
    EPF_CHECK_ARG(topology != NULL && topology->num_cpus >= 1, "topology is %s",
                  topology == NULL ? "NULL" : "empty");
    EPF_CHECK_ARG(num_ranks >= 1, "num_ranks is %" PRId32 ", must be at least 1", num_ranks);
    EPF_CHECK_ARG(rank >= 0 && rank < num_ranks, "rank is %" PRId32 ", must be 0..%" PRId32, rank,
                  num_ranks - 1);
    EPF_TRY(dealer_init(&dealer, topology));

    const struct cores cores = cores_of_rank(&dealer, rank, num_ranks);
    const epf_cpu *first = &dealer.cpus[dealer.core_begin[cores.begin]];
    const epf_cpu *last = &dealer.cpus[dealer.core_begin[cores.end] - 1];
    place->node = first->node == last->node ? first->node : -1;
    place->num_cores = cores.end - cores.begin;
    place->cpus = epf_alloc((size_t)(last - first + 1), sizeof *place->cpus);
    if (place->cpus != NULL) {
        list_cpus(&dealer, cores, place);
    }
    dealer_release(&dealer);
    return place->cpus != NULL
               ? EPF_OK
               : EPF_FAIL(EPF_E_NO_MEMORY, "no memory for the CPUs of rank %" PRId32, rank);
}

void epf_place_release(epf_place *place)
{
    epf_free(place->cpus);
    memset(place, 0, sizeof *place);
}

epf_status epf_place_pin(int32_t cpu)
{
    EPF_CHECK_ARG(cpu >= 0, "cpu is %" PRId32 ", must not be negative", cpu);
    const size_t num_cpus = (size_t)cpu + 1;
    const size_t bytes = CPU_ALLOC_SIZE(num_cpus);
    cpu_set_t *set = epf_alloc(1, bytes);
    if (set == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for an affinity mask of %zu bytes", bytes);
    }
    CPU_SET_S((size_t)cpu, bytes, set);
    const int rc = sched_setaffinity(0, bytes, set);
    const int error = errno;
    epf_free(set);
    if (rc != 0) {
        return EPF_FAIL(EPF_E_DEVICE, "pinning a thread to CPU %" PRId32 ": %s", cpu,
                        strerror(error));
    }
    return EPF_OK;
}

epf_status epf_place_bind_memory(void *memory, uint64_t bytes, int32_t node)
{
    unsigned long mask[MOST_NODES / BITS] = {0};
    EPF_CHECK_ARG(node >= 0 && node < MOST_NODES, "node is %" PRId32 ", must be 0..%d", node,
                  MOST_NODES - 1);
    mask[(size_t)node / BITS] = 1ul << ((size_t)node % BITS);
    if (syscall(SYS_mbind, memory, (unsigned long)bytes, POLICY_PREFERRED, mask,
                (unsigned long)MOST_NODES, 0u) != 0) {
        return EPF_FAIL(EPF_E_DEVICE, "mbind to node %" PRId32 ": %s", node, strerror(errno));
    }
    return EPF_OK;
}
