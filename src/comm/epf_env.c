/*
 * epf_env.c: launchers' variables.
 *
 * Families are tried in the order of the table.  Ours is first, so that it overrides; srun is last,
 * because whatever runs inside of a batch job sees its variables too.
 */
#include "comm/epf_env.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/epf_error.h"
#include "comm/epf_comm.h"

enum { MOST_NAMES = 4 };

/* Names are tried from left to right; the first that is set counts, but for `job`: all that are
 * set. */
struct family {
    const char *name;
    const char *rank;
    const char *size[2];
    const char *local_size;   /* where set, must equal the size                          */
    const char *num_nodes[2]; /* where set, must be 1                                  */
    const char *needs;        /* without it the others mean something else               */
    const char *job[MOST_NAMES];
    int32_t num_needed; /* the first of `job` that must be set                         */
};

static const struct family families[] = {
    {.name = "epfuse",
     .rank = "EPFUSE_RANK",
     .size = {"EPFUSE_NUM_RANKS"},
     .job = {"EPFUSE_RENDEZVOUS"},
     .num_needed = 1},
    {.name = "torchrun",
     .rank = "RANK",
     .size = {"WORLD_SIZE"},
     .local_size = "LOCAL_WORLD_SIZE",
     .job = {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"},
     .num_needed = 2},
    {.name = "Open MPI",
     .rank = "OMPI_COMM_WORLD_RANK",
     .size = {"OMPI_COMM_WORLD_SIZE"},
     .local_size = "OMPI_COMM_WORLD_LOCAL_SIZE",
     .job = {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid"}},
    {.name = "PMI",
     .rank = "PMI_RANK",
     .size = {"PMI_SIZE"},
     .local_size = "MPI_LOCALNRANKS",
     .job = {"PMI_JOBID", "PMI_ID_JOB"}},
    /* A batch script sees PROCID too, without being a rank: a step is what srun starts. */
    {.name = "srun",
     .rank = "SLURM_PROCID",
     .size = {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"},
     .num_nodes = {"SLURM_STEP_NUM_NODES", "SLURM_NNODES"},
     .needs = "SLURM_STEP_ID",
     .job = {"SLURM_JOB_ID", "SLURM_STEP_ID"},
     .num_needed = 2},
};

typedef char *get_variable(const char *name);

/* The first name that is set, or NULL. */
static const char *first_set(get_variable *get, const char *const names[2])
{
    for (int i = 0; i < 2; i++) {
        if (names[i] != NULL && get(names[i]) != NULL) {
            return names[i];
        }
    }
    return NULL;
}

static epf_status read_number(get_variable *get, const char *name, int32_t least, int32_t *number)
{
    const char *text = get(name);
    char *end;
    errno = 0;
    const long value = strtol(text, &end, 10);
    EPF_CHECK_ARG(errno == 0 && end != text && *end == '\0' && value >= least &&
                      value <= EPF_COMM_MAX_RANKS,
                  "%s is \"%.40s\", must be a number in %" PRId32 "..%d", name, text, least,
                  EPF_COMM_MAX_RANKS);
    *number = (int32_t)value;
    return EPF_OK;
}

static void append(char *text, size_t bytes, const char *separator, const char *more)
{
    const size_t length = strlen(text);
    (void)snprintf(text + length, bytes - length, "%s%s", length == 0 ? "" : separator, more);
}

/*
 * For launchers that name no job: the parent of our session's leader.  Hydra gives every rank a
 * session of its own, so that is the one process which started them all, also through wrapper
 * scripts.
 */
static void append_starter(char *text, size_t bytes)
{
    char line[512] = "";
    char path[64];
    long parent = (long)getppid();
    (void)snprintf(path, sizeof path, "/proc/%ld/stat", (long)getsid(0));
    FILE *file = fopen(path, "re");
    if (file != NULL) {
        /* pid (name) state parent: the name may hold anything, a parenthesis too */
        const char *after = fgets(line, sizeof line, file) == NULL ? NULL : strrchr(line, ')');
        if (after != NULL && strlen(after) > 4) {
            parent = strtol(after + 4, NULL, 10);
        }
        (void)fclose(file);
    }
    (void)snprintf(line, sizeof line, "starter %ld", parent);
    append(text, bytes, "/", line);
}

static epf_status read_job(const struct family *family, get_variable *get, epf_env *env)
{
    bool any = false;
    append(env->job, sizeof env->job, "/", family->name);
    if (get("EPFUSE_RENDEZVOUS") != NULL && get("EPFUSE_RENDEZVOUS")[0] != '\0') {
        append(env->job, sizeof env->job, "/", get("EPFUSE_RENDEZVOUS"));
        append(env->variables, sizeof env->variables, ", ", "EPFUSE_RENDEZVOUS");
        return EPF_OK;
    }
    for (int i = 0; i < MOST_NAMES && family->job[i] != NULL; i++) {
        const char *value = get(family->job[i]);
        EPF_CHECK_ARG(value != NULL || i >= family->num_needed, "%s is set, but not %s",
                      family->rank, family->job[i]);
        if (value != NULL) {
            append(env->job, sizeof env->job, "/", value);
            append(env->variables, sizeof env->variables, ", ", family->job[i]);
            any = true;
        }
    }
    if (!any) {
        append_starter(env->job, sizeof env->job);
        append(env->variables, sizeof env->variables, ", ", "the starter's process id");
    }
    return EPF_OK;
}

static epf_status check_one_machine(const struct family *family, get_variable *get,
                                    const epf_env *env)
{
    int32_t number = 0;
    const char *nodes = first_set(get, family->num_nodes);
    if (family->local_size != NULL && get(family->local_size) != NULL) {
        EPF_TRY(read_number(get, family->local_size, 1, &number));
        if (number != env->num_ranks) {
            return EPF_FAIL(EPF_E_UNSUPPORTED,
                            "%s is %" PRId32 " and %s is %" PRId32
                            ": all ranks of a group must be on one machine",
                            first_set(get, family->size), env->num_ranks, family->local_size,
                            number);
        }
    }
    if (nodes != NULL) {
        EPF_TRY(read_number(get, nodes, 1, &number));
        if (number != 1) {
            return EPF_FAIL(EPF_E_UNSUPPORTED,
                            "%s is %" PRId32 ": all ranks of a group must be on one machine", nodes,
                            number);
        }
    }
    return EPF_OK;
}

static epf_status read_family(const struct family *family, get_variable *get, epf_env *env)
{
    const char *size = first_set(get, family->size);
    EPF_CHECK_ARG(get(family->rank) != NULL, "%s is set, but not %s", size, family->rank);
    EPF_CHECK_ARG(size != NULL, "%s is set, but not %s", family->rank, family->size[0]);
    EPF_TRY(read_number(get, size, 1, &env->num_ranks));
    EPF_TRY(read_number(get, family->rank, 0, &env->rank));
    EPF_CHECK_ARG(env->rank < env->num_ranks, "%s is %" PRId32 ", %s is %" PRId32, family->rank,
                  env->rank, size, env->num_ranks);
    EPF_TRY(check_one_machine(family, get, env));
    append(env->variables, sizeof env->variables, ", ", family->rank);
    append(env->variables, sizeof env->variables, ", ", size);
    EPF_TRY(read_job(family, get, env));
    env->family = family->name;
    return EPF_OK;
}

epf_status epf_env_detect(get_variable *get, epf_env *env)
{
    EPF_CHECK_ARG(get != NULL && env != NULL, "%s is NULL", get == NULL ? "get" : "env");
    memset(env, 0, sizeof *env);
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        const struct family *family = &families[i];
        const bool partly = get(family->rank) != NULL || get(family->size[0]) != NULL;
        if (partly && (family->needs == NULL || get(family->needs) != NULL)) {
            return read_family(family, get, env);
        }
    }
    return EPF_OK;
}
