/* cli_info.c: epfuse info: what this build and this machine are, and what the environment says. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/epf_error.h"
#include "cli.h"
#include "cli_cost.h"
#include "cli_device.h"
#include "cli_json.h"
#include "cli_options.h"
#include "cli_text.h"
#include "comm/epf_env.h"
#include "comm/epf_place.h"
#include "core/epf_dtype.h"
#include "cpu/gemm/epf_gemm.h"
#include "epfuse/epfuse.h"

static const char usage[] = "usage: epfuse info [--env] [--json]\n"
                            "\n"
                            "  --env     only the environment variables that are understood\n"
                            "  --json    one JSON object\n";

enum { OPT_ENV = 256, OPT_JSON };

static const struct option long_options[] = {
    {"env", no_argument, NULL, OPT_ENV},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* ---- the environment ---- */

typedef struct variable {
    const char *name;
    const char *about;
} variable;

static const variable variables[] = {
    {"EPFUSE_GEMM", "tile product where none is asked for: auto, onednn, libxsmm, portable"},
    {"EPFUSE_VECTOR", "widest vectors of our own loops: base, avx2; else the machine's"},
    {"EPFUSE_CUDA_TRANSPORT", "--device cuda: how ranks share memory: local, ipc, nvshmem"},
    {"EPFUSE_NVSHMEM_LIB", "--device cuda: the NVSHMEM host library; else where the loader looks"},
    {"EPFUSE_RANK", "--join: this process's rank"},
    {"EPFUSE_NUM_RANKS", "--join: ranks of the group"},
    {"EPFUSE_RENDEZVOUS", "--join: any text that the ranks of one group share"},
    {"RANK", "--join: torchrun's rank; with ..."},
    {"WORLD_SIZE", "... torchrun's number of ranks"},
    {"LOCAL_WORLD_SIZE", "torchrun: must equal WORLD_SIZE, all ranks on one machine"},
    {"MASTER_ADDR", "torchrun: part of the group's name"},
    {"MASTER_PORT", "torchrun: part of the group's name"},
    {"OMPI_COMM_WORLD_RANK", "--join: Open MPI's rank; with ..."},
    {"OMPI_COMM_WORLD_SIZE", "... its number of ranks"},
    {"PMI_RANK", "--join: rank of MPICH and its kin; with ..."},
    {"PMI_SIZE", "... their number of ranks"},
    {"SLURM_PROCID", "--join: srun's rank, inside a step; with ..."},
    {"SLURM_STEP_NUM_TASKS", "... its number of ranks"},
    {"NO_COLOR", "set: no colours"},
    {"TERM", "\"dumb\" or unset: no colours"},
    {"LC_ALL", "locale: bars are drawn with block characters where it is UTF-8; before ..."},
    {"LC_CTYPE", "... this, before ..."},
    {"LANG", "... this"},
};
enum { NUM_VARIABLES = sizeof variables / sizeof variables[0] };

static void print_environment(void)
{
    for (int i = 0; i < NUM_VARIABLES; i++) {
        const char *value = getenv(variables[i].name);
        printf("  %-22s %-20s %s\n", variables[i].name, value == NULL ? "-" : value,
               variables[i].about);
    }
}

static json_t *environment_json(void)
{
    json_t *list = json_array();
    for (int i = 0; i < NUM_VARIABLES; i++) {
        (void)json_array_append_new(
            list, json_pack("{s:s, s:o, s:s}", "name", variables[i].name, "value",
                            cli_json_text(getenv(variables[i].name)), "about", variables[i].about));
    }
    return list;
}

/* ---- the machine ---- */

typedef struct machine {
    char cpu[128];
    char features[256];
    int32_t num_cpus, num_cores, num_nodes;
    char cuda[1024]; /* devices, or why there are none */
    bool has_cuda;
    char launcher[256];
} machine;

/* Those that the tile products make a difference of, as the kernel spells them. */
static const char *const told_features[] = {
    "avx",         "avx2",        "fma",         "avx512f",  "avx512bw", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd",
    "asimdhp",     "sve",         "bf16",        "i8mm",
};

static void pick_features(char *flags, char *text, size_t bytes)
{
    char *rest = NULL;
    for (char *flag = strtok_r(flags, " \n", &rest); flag != NULL;
         flag = strtok_r(NULL, " \n", &rest)) {
        for (size_t i = 0; i < sizeof told_features / sizeof told_features[0]; i++) {
            const size_t used = strlen(text);
            if (strcmp(flag, told_features[i]) == 0 && used + 1 < bytes) {
                (void)snprintf(text + used, bytes - used, "%s%s", used == 0 ? "" : " ", flag);
            }
        }
    }
}

/* Of the first CPU in /proc/cpuinfo, on x86-64 and on Arm. */
static void find_cpu(machine *m)
{
    char *line = NULL;
    size_t bytes = 0;
    FILE *file = fopen("/proc/cpuinfo", "re");

    (void)snprintf(m->cpu, sizeof m->cpu, "unknown");
    while (file != NULL && m->features[0] == '\0' && getline(&line, &bytes, file) > 0) {
        char *value = strchr(line, ':');
        if (value == NULL || value[1] != ' ') {
            continue;
        }
        if (strncmp(line, "model name", 10) == 0) {
            (void)snprintf(m->cpu, sizeof m->cpu, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
        } else if (strncmp(line, "flags", 5) == 0 || strncmp(line, "Features", 8) == 0) {
            pick_features(value + 2, m->features, sizeof m->features);
        }
    }
    free(line);
    if (file != NULL) {
        (void)fclose(file);
    }
    if (m->features[0] == '\0') {
        (void)snprintf(m->features, sizeof m->features, "none of those asked for");
    }
}

static void find_cores(machine *m)
{
    epf_topology *topology = NULL;

    m->num_cpus = cli_num_cpus();
    m->num_cores = m->num_nodes = 0;
    if (epf_topology_read(EPF_TOPOLOGY_ROOT, &topology) != EPF_OK) {
        return;
    }
    m->num_nodes = topology->num_nodes;
    for (int32_t i = 0; i < topology->num_cpus; i++) {
        bool is_first = true;
        for (int32_t k = 0; k < i; k++) {
            is_first = is_first && topology->cpus[k].core != topology->cpus[i].core;
        }
        m->num_cores += is_first;
    }
    epf_topology_free(topology);
}

static void find_launcher(char *text, size_t bytes)
{
    epf_env env;
    if (epf_env_detect(getenv, &env) != EPF_OK) {
        (void)snprintf(text, bytes, "%s", epf_error_text());
    } else if (env.family == NULL) {
        (void)snprintf(text, bytes, "none");
    } else {
        (void)snprintf(text, bytes, "%s: rank %d of %d (%s)", env.family, env.rank, env.num_ranks,
                       env.variables);
    }
}

static const epf_gemm_kind kinds[] = {EPF_GEMM_ONEDNN, EPF_GEMM_LIBXSMM, EPF_GEMM_PORTABLE};
static const epf_dtype dtypes[] = {EPF_DTYPE_BF16, EPF_DTYPE_F32, EPF_DTYPE_F16};
enum { NUM_KINDS = 3, NUM_DTYPES = 3 };

static epf_gemm_provider_info provider(epf_gemm_kind kind, epf_dtype dtype)
{
    epf_gemm_provider_info info = {.kind = kind};
    if (epf_gemm_provider_query(kind, dtype, &info) != EPF_OK) {
        info.usable = false;
        (void)snprintf(info.text, sizeof info.text, "%s", epf_error_text());
    }
    return info;
}

static void print_providers(void)
{
    printf("tile products\n");
    for (int d = 0; d < NUM_DTYPES; d++) {
        const epf_gemm_provider_info chosen = provider(EPF_GEMM_AUTO, dtypes[d]);
        for (int k = 0; k < NUM_KINDS; k++) {
            const epf_gemm_provider_info info = provider(kinds[k], dtypes[d]);
            printf("  %-5s %-9s %s %s%s\n", epf_dtype_name((int32_t)dtypes[d]),
                   epf_gemm_kind_name(kinds[k]),
                   chosen.usable && chosen.kind == kinds[k] ? "chosen"
                   : info.usable                            ? "ok    "
                                                            : "no    ",
                   info.text, info.usable && info.widened ? ", widened to fp32" : "");
        }
    }
}

static json_t *providers_json(void)
{
    json_t *list = json_array();
    for (int d = 0; d < NUM_DTYPES; d++) {
        const epf_gemm_provider_info chosen = provider(EPF_GEMM_AUTO, dtypes[d]);
        for (int k = 0; k < NUM_KINDS; k++) {
            const epf_gemm_provider_info info = provider(kinds[k], dtypes[d]);
            (void)json_array_append_new(
                list, json_pack("{s:s, s:s, s:b, s:b, s:b, s:b, s:o}", "dtype",
                                epf_dtype_name((int32_t)dtypes[d]), "library",
                                epf_gemm_kind_name(kinds[k]), "built", info.built, "usable",
                                info.usable, "chosen", chosen.usable && chosen.kind == kinds[k],
                                "widened", info.widened, "text", cli_json_text(info.text)));
        }
    }
    return list;
}

/* ---- the verb ---- */

static void print_info(const machine *m)
{
    printf("%sepfuse %s%s\n", cli_bold(), epf_version(), cli_plain());
    printf("backends\n  cpu   ok     W ranks as threads or processes\n  cuda  %s     %s\n",
           m->has_cuda ? "ok" : "no", m->cuda);
    print_providers();
    printf("machine\n  cpu       %s\n  features  %s\n", m->cpu, m->features);
    printf("  allowed   %d CPUs, %d cores, %d NUMA node%s\n", m->num_cpus, m->num_cores,
           m->num_nodes, m->num_nodes == 1 ? "" : "s");
    printf("launcher\n  %s\nenvironment\n", m->launcher);
    print_environment();
}

static json_t *info_json(const machine *m)
{
    json_t *cpu = json_pack("{s:o, s:s, s:i, s:i, s:i}", "name", cli_json_text(m->cpu), "features",
                            m->features, "cpus", m->num_cpus, "cores", m->num_cores, "numa_nodes",
                            m->num_nodes);
    json_t *backends = json_pack("[{s:s, s:b, s:s}, {s:s, s:b, s:s}]", "name", "cpu", "usable", 1,
                                 "text", "W ranks as threads or processes", "name", "cuda",
                                 "usable", m->has_cuda, "text", m->cuda);
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "version", epf_version(), "backends",
                     backends, "tile_products", providers_json(), "machine", cpu, "launcher",
                     cli_json_text(m->launcher), "environment", environment_json());
}

int cli_info(int argc, char **argv)
{
    machine m = {.num_cpus = 0};
    bool only_environment = false, json = false;
    int option;

    while ((option = cli_next_option(argc, argv, long_options)) != -1) {
        if (option == '?') {
            return CLI_USAGE;
        }
        if (option == 'h') {
            (void)fputs(usage, stdout);
            return CLI_OK;
        }
        only_environment = only_environment || option == OPT_ENV;
        json = json || option == OPT_JSON;
    }
    if (optind != argc) {
        return cli_fail(CLI_USAGE, "info: \"%.60s\" is not understood", argv[optind]);
    }
    find_cpu(&m);
    find_cores(&m);
    m.has_cuda = cli_device_describe(m.cuda, sizeof m.cuda);
    find_launcher(m.launcher, sizeof m.launcher);
    if (json) {
        json_t *object = only_environment ? json_pack("{s:o}", "environment", environment_json())
                                          : info_json(&m);
        const epf_status st = cli_json_print(object);
        return st == EPF_OK ? CLI_OK : cli_fail_status(st);
    }
    if (only_environment) {
        print_environment();
    } else {
        print_info(&m);
    }
    return CLI_OK;
}
