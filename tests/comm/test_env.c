/*
 * test_env: each launcher's variables are read right, mistakes in them are named, and processes
 * started with nothing but such variables find each other.
 *
 * "test_env rank" is one of those processes; it is also what mpirun and others may be pointed at.
 */
#include <inttypes.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bodies.h"
#include "comm/epf_env.h"

enum { NUM_RANKS = 3, MOST_VARIABLES = 12, TEXT_BYTES = 96 };

/* An environment for one rank; "%r" stands for the rank, "%j" for something of this run alone. */
struct launcher {
    const char *family;
    const char *variables[MOST_VARIABLES];
};

static const struct launcher launchers[] = {
    {"epfuse", {"EPFUSE_RANK=%r", "EPFUSE_NUM_RANKS=3", "EPFUSE_RENDEZVOUS=here-%j"}},
    {"torchrun",
     {"RANK=%r", "WORLD_SIZE=3", "LOCAL_RANK=%r", "LOCAL_WORLD_SIZE=3", "MASTER_ADDR=127.0.0.1",
      "MASTER_PORT=29500", "TORCHELASTIC_RUN_ID=%j", "TORCHELASTIC_RESTART_COUNT=0"}},
    {"Open MPI",
     {"OMPI_COMM_WORLD_RANK=%r", "OMPI_COMM_WORLD_SIZE=3", "OMPI_COMM_WORLD_LOCAL_SIZE=3",
      "OMPI_COMM_WORLD_LOCAL_RANK=%r", "PMIX_NAMESPACE=%j", "OMPI_MCA_ess_base_jobid=%j",
      /* mpirun inside of a batch job */
      "SLURM_PROCID=0", "SLURM_NTASKS=1", "SLURM_JOB_ID=1", "SLURM_STEP_ID=0"}},
    {"PMI", {"PMI_RANK=%r", "PMI_SIZE=3", "MPI_LOCALNRANKS=3", "MPI_LOCALRANKID=%r"}},
    {"PMI", {"PMI_RANK=%r", "PMI_SIZE=3", "PMI_JOBID=%j"}},
    {"PMI", {"PMI_RANK=%r", "PMI_SIZE=3", "EPFUSE_RENDEZVOUS=other-%j"}},
    {"srun",
     {"SLURM_PROCID=%r", "SLURM_NTASKS=8", "SLURM_STEP_NUM_TASKS=3", "SLURM_JOB_ID=%j",
      "SLURM_STEP_ID=0", "SLURM_NNODES=4", "SLURM_STEP_NUM_NODES=1", "SLURM_LOCALID=%r"}},
    {"srun", {"SLURM_PROCID=%r", "SLURM_NTASKS=3", "SLURM_JOB_ID=%j", "SLURM_STEP_ID=7"}},
};

/* The environment that look_up() sees. */
static char given[MOST_VARIABLES][TEXT_BYTES];

static char *look_up(const char *name)
{
    const size_t length = strlen(name);
    for (int i = 0; i < MOST_VARIABLES; i++) {
        if (strncmp(given[i], name, length) == 0 && given[i][length] == '=') {
            return given[i] + length + 1;
        }
    }
    return NULL;
}

static void fill(const struct launcher *launcher, int rank)
{
    memset(given, 0, sizeof given);
    for (int i = 0; i < MOST_VARIABLES && launcher->variables[i] != NULL; i++) {
        const char *from = launcher->variables[i];
        const char *mark = strchr(from, '%');
        const int head = mark == NULL ? (int)strlen(from) : (int)(mark - from);
        if (mark == NULL) {
            (void)snprintf(given[i], TEXT_BYTES, "%s", from);
        } else if (mark[1] == 'r') {
            (void)snprintf(given[i], TEXT_BYTES, "%.*s%d%s", head, from, rank, mark + 2);
        } else {
            (void)snprintf(given[i], TEXT_BYTES, "%.*s%ld%s", head, from, (long)getpid(), mark + 2);
        }
    }
}

static void test_families(void)
{
    char jobs[sizeof launchers / sizeof launchers[0]][sizeof(((epf_env *)0)->job)];
    for (size_t i = 0; i < sizeof launchers / sizeof launchers[0]; i++) {
        for (int rank = 0; rank < NUM_RANKS; rank++) {
            epf_env env;
            fill(&launchers[i], rank);
            CHECK_OK(epf_env_detect(look_up, &env));
            CHECK(env.family != NULL && strcmp(env.family, launchers[i].family) == 0, "%zu", i);
            CHECK(env.rank == rank && env.num_ranks == NUM_RANKS, "%zu: %d of %d", i, (int)env.rank,
                  (int)env.num_ranks);
            CHECK(strchr(env.variables, ',') != NULL, "variables: %s", env.variables);
            CHECK(rank == 0 || strcmp(jobs[i], env.job) == 0, "job differs: %s", env.job);
            (void)memcpy(jobs[i], env.job, sizeof env.job);
        }
        for (size_t j = 0; j < i; j++) {
            CHECK(strcmp(jobs[i], jobs[j]) != 0, "%zu and %zu share the job %s", i, j, jobs[i]);
        }
    }
}

struct mistake {
    struct launcher launcher;
    epf_status status;
    const char *text; /* part of the message */
};

static const struct mistake mistakes[] = {
    {{"", {"EPFUSE_RANK=0", "EPFUSE_NUM_RANKS=3"}}, EPF_E_INVALID, "EPFUSE_RENDEZVOUS"},
    {{"", {"EPFUSE_RANK=0"}}, EPF_E_INVALID, "not EPFUSE_NUM_RANKS"},
    {{"", {"EPFUSE_NUM_RANKS=2"}}, EPF_E_INVALID, "not EPFUSE_RANK"},
    {{"", {"RANK=0", "WORLD_SIZE=2"}}, EPF_E_INVALID, "MASTER_ADDR"},
    {{"", {"RANK=0", "WORLD_SIZE=2", "MASTER_ADDR=a"}}, EPF_E_INVALID, "MASTER_PORT"},
    {{"", {"EPFUSE_RANK=", "EPFUSE_NUM_RANKS=3"}}, EPF_E_INVALID, "EPFUSE_RANK is \"\""},
    {{"", {"EPFUSE_RANK=3", "EPFUSE_NUM_RANKS=3"}}, EPF_E_INVALID, "EPFUSE_RANK is 3"},
    {{"", {"EPFUSE_RANK=-1", "EPFUSE_NUM_RANKS=3"}}, EPF_E_INVALID, "EPFUSE_RANK is \"-1\""},
    {{"", {"EPFUSE_RANK=0x1", "EPFUSE_NUM_RANKS=3"}}, EPF_E_INVALID, "must be a number"},
    {{"", {"EPFUSE_RANK=0", "EPFUSE_NUM_RANKS=0"}}, EPF_E_INVALID, "1..1024"},
    {{"", {"EPFUSE_RANK=0", "EPFUSE_NUM_RANKS=99999999999999999999"}}, EPF_E_INVALID, "1..1024"},
    {{"", {"RANK=0", "WORLD_SIZE=16", "LOCAL_WORLD_SIZE=8", "MASTER_ADDR=a", "MASTER_PORT=1"}},
     EPF_E_UNSUPPORTED,
     "one machine"},
    {{"", {"OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_LOCAL_SIZE=2"}},
     EPF_E_UNSUPPORTED,
     "one machine"},
    {{"", {"PMI_RANK=0", "PMI_SIZE=4", "MPI_LOCALNRANKS=2"}}, EPF_E_UNSUPPORTED, "one machine"},
    {{"",
      {"SLURM_PROCID=0", "SLURM_NTASKS=4", "SLURM_JOB_ID=1", "SLURM_STEP_ID=0", "SLURM_NNODES=2"}},
     EPF_E_UNSUPPORTED,
     "SLURM_NNODES is 2"},
};

static void test_mistakes(void)
{
    epf_env env;
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        fill(&mistakes[i].launcher, 0);
        CHECK_STATUS(epf_env_detect(look_up, &env), mistakes[i].status);
        CHECK(strstr(epf_error_text(), mistakes[i].text) != NULL, "%zu: text", i);
    }
    /* A batch script has a PROCID and is no rank. */
    const struct launcher batch = {"", {"SLURM_PROCID=0", "SLURM_NTASKS=4", "SLURM_JOB_ID=1"}};
    fill(&batch, 0);
    CHECK_OK(epf_env_detect(look_up, &env));
    CHECK(env.family == NULL, "%s", env.family);
    memset(given, 0, sizeof given);
    CHECK_OK(epf_env_detect(look_up, &env));
    CHECK(env.family == NULL, "%s", env.family);
    CHECK_STATUS(epf_env_detect(NULL, &env), EPF_E_INVALID);
    CHECK_STATUS(epf_env_detect(look_up, NULL), EPF_E_INVALID);
}

static int rank_main(void)
{
    epf_comm_config config;
    epf_comm *comm;
    epf_comm_config_init(&config);
    config.timeout_ns = 30000000000u;
    CHECK_OK(epf_comm_create_env(&config, &comm));
    body_gather(comm, NULL);
    body_window(comm, NULL);
    CHECK_OK(epf_comm_barrier(comm));
    printf("rank %" PRId32 " of %" PRId32 ": %s\n", comm->rank, comm->num_ranks, comm->origin);
    epf_comm_destroy(comm);
    return 0;
}

static pid_t start(const char *program, int how_wrapped)
{
    char *environment[MOST_VARIABLES + 1] = {NULL};
    char command[512];
    int count = 0;
    for (int i = 0; i < MOST_VARIABLES; i++) {
        if (given[i][0] != '\0') {
            environment[count++] = given[i];
        }
    }
    (void)fflush(NULL);
    const pid_t pid = fork();
    if (pid != 0) {
        return pid;
    }
    (void)setsid(); /* as Hydra does */
    if (freopen("/dev/null", "w", stdout) == NULL) {
        _exit(1);
    }
    if (how_wrapped != 0) { /* by a shell that stays */
        (void)snprintf(command, sizeof command, "\"%s\" rank; exit $?", program);
        (void)execle("/bin/sh", "sh", "-c", command, (char *)NULL, environment);
    } else {
        (void)execle(program, program, "rank", (char *)NULL, environment);
    }
    _exit(127);
}

static void test_processes(const char *program)
{
    for (size_t i = 0; i < sizeof launchers / sizeof launchers[0]; i++) {
        pid_t pids[NUM_RANKS];
        for (int rank = NUM_RANKS - 1; rank >= 0; rank--) {
            fill(&launchers[i], rank);
            pids[rank] = start(program, rank == 1);
            CHECK(pids[rank] > 0, "fork");
        }
        for (int rank = 0; rank < NUM_RANKS; rank++) {
            int status = -1;
            CHECK(waitpid(pids[rank], &status, 0) == pids[rank], "waitpid");
            CHECK(status == 0, "%s, rank %d: status %x", launchers[i].family, rank,
                  (unsigned)status);
        }
    }
    /* Without any variable: an error that says what to set. */
    epf_comm_config config;
    epf_comm *comm;
    CHECK(clearenv() == 0, "clearenv");
    epf_comm_config_init(&config);
    CHECK_STATUS(epf_comm_create_env(&config, &comm), EPF_E_INVALID);
    CHECK(strstr(epf_error_text(), "EPFUSE_RANK") != NULL, "text");
    CHECK(comm == NULL, "comm");
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "rank") == 0) {
        return rank_main();
    }
    test_families();
    test_mistakes();
    test_processes(argv[0]);
    return 0;
}
