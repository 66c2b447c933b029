/*
 * epf_topology.c: the CPUs this process may use, their cores and NUMA nodes, from sysfs.
 *
 * The affinity mask is the truth, sysfs only adds to it: files that are missing or make no sense
 * leave CPUs on node 0 with a core each.  Never the machine's CPU count: containers and launchers
 * cut it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "comm/epf_place.h"

enum { MOST_CPUS = 1 << 16, MOST_NODES = 1024, TEXT_BYTES = 1 << 16, PATH_BYTES = 512 };

/* The file's text, cut at bytes - 1; false where it cannot be read. */
static bool read_text(const char *path, char *text, size_t bytes)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    if (fd < 0) {
        return false;
    }
    while (length < bytes - 1) {
        const ssize_t got = read(fd, text + length, bytes - 1 - length);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        length += (size_t)got;
    }
    (void)close(fd);
    text[length] = '\0';
    return true;
}

/* The next range of a list like "0-3,8,10-11"; advances *list.  False where there is none. */
static bool next_range(const char **list, long *first, long *last)
{
    char *end;
    if (**list < '0' || **list > '9') {
        return false;
    }
    *first = strtol(*list, &end, 10);
    *last = *first;
    if (*end == '-') {
        *last = strtol(end + 1, &end, 10);
    }
    *list = *end == ',' ? end + 1 : end;
    return *first >= 0 && *last >= *first && *last < MOST_CPUS;
}

/* Ascending by CPU, so a search could be binary; machines are small enough. */
static epf_cpu *find_cpu(epf_topology *topology, long cpu)
{
    for (int32_t i = 0; i < topology->num_cpus; i++) {
        if (topology->cpus[i].cpu == cpu) {
            return &topology->cpus[i];
        }
    }
    return NULL;
}

static void read_nodes(const char *root, char *text, epf_topology *topology)
{
    char path[PATH_BYTES];
    topology->num_nodes = 0;
    for (int32_t node = 0; node < MOST_NODES; node++) {
        long first;
        long last;
        bool used = false;
        (void)snprintf(path, sizeof path, "%s/node/node%" PRId32 "/cpulist", root, node);
        if (!read_text(path, text, TEXT_BYTES)) {
            continue; /* node numbers may have holes */
        }
        const char *list = text;
        while (next_range(&list, &first, &last)) {
            for (long cpu = first; cpu <= last; cpu++) {
                epf_cpu *found = find_cpu(topology, cpu);
                if (found != NULL) {
                    found->node = node;
                    used = true;
                }
            }
        }
        topology->num_nodes += used ? 1 : 0;
    }
    if (topology->num_nodes == 0) {
        topology->num_nodes = 1; /* a kernel without NUMA: all CPUs stay on node 0 */
    }
}

static void read_cores(const char *root, char *text, epf_topology *topology)
{
    char path[PATH_BYTES];
    for (int32_t i = 0; i < topology->num_cpus; i++) {
        epf_cpu *cpu = &topology->cpus[i];
        long first;
        long last;
        (void)snprintf(path, sizeof path, "%s/cpu/cpu%" PRId32 "/topology/thread_siblings_list",
                       root, cpu->cpu);
        const char *list = text;
        if (read_text(path, text, TEXT_BYTES) && next_range(&list, &first, &last)) {
            cpu->core = (int32_t)first;
        }
    }
}

/* Fills `set`, of `bytes` bytes, grown until the kernel's mask fits. */
static epf_status read_affinity(cpu_set_t **set, size_t *bytes)
{
    for (size_t num_cpus = 1024; num_cpus <= MOST_CPUS; num_cpus *= 2) {
        *bytes = CPU_ALLOC_SIZE(num_cpus);
        *set = epf_alloc(1, *bytes);
        if (*set == NULL) {
            return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for an affinity mask of %zu bytes", *bytes);
        }
        if (sched_getaffinity(0, *bytes, *set) == 0) {
            return EPF_OK;
        }
        const int error = errno;
        epf_free(*set);
        if (error != EINVAL) {
            return EPF_FAIL(EPF_E_DEVICE, "sched_getaffinity: %s", strerror(error));
        }
    }
    return EPF_FAIL(EPF_E_UNSUPPORTED, "this machine has more than %d CPUs", MOST_CPUS);
}

epf_status epf_topology_read(const char *root, epf_topology **topology)
{
    cpu_set_t *set;
    size_t set_bytes;
    EPF_CHECK_ARG(root != NULL && topology != NULL, "topology: %s is NULL",
                  root == NULL ? "root" : "topology");
    *topology = NULL;
    EPF_TRY(read_affinity(&set, &set_bytes));

    const int num_cpus = CPU_COUNT_S(set_bytes, set);
    epf_topology *t = epf_alloc(1, sizeof *t + (size_t)num_cpus * sizeof t->cpus[0]);
    char *text = epf_alloc(1, TEXT_BYTES);
    if (t == NULL || text == NULL) {
        epf_free(t);
        epf_free(text);
        epf_free(set);
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for a topology of %d CPUs", num_cpus);
    }
    for (int32_t cpu = 0; t->num_cpus < num_cpus; cpu++) {
        if (CPU_ISSET_S((size_t)cpu, set_bytes, set)) {
            t->cpus[t->num_cpus].cpu = cpu;
            t->cpus[t->num_cpus].core = cpu;
            t->num_cpus++;
        }
    }
    read_nodes(root, text, t);
    read_cores(root, text, t);
    epf_free(text);
    epf_free(set);
    *topology = t;
    return EPF_OK;
}

void epf_topology_free(epf_topology *topology)
{
    epf_free(topology);
}
