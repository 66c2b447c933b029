/*
 * epf_launch.c: ranks as forked children.
 *
 * The parent makes all listeners, so the children need no rendezvous; each keeps its own and closes
 * the others', which must go lest a dead rank's listener seems to live on in its siblings.  What
 * ranks have to say at their end goes through memory shared with the parent: an exit status has one
 * byte.
 */
#include "comm/epf_launch.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "comm/epf_process.h"

#define REAP_NS ((uint64_t)3000000u) /* between looks at the children */

/* All of one launch; results is shared with the children, who report there. */
struct launch {
    const epf_comm_config *config;
    epf_launch_main *rank_main;
    void *context;
    pid_t *pids;    /* [num_ranks] 0: none, or reaped */
    int *listeners; /* [num_ranks] */
    epf_roster roster;
    epf_launch_result *results; /* [num_ranks] mapped */
    pid_t parent;
};

static size_t results_bytes(const struct launch *launch)
{
    return (size_t)launch->config->num_ranks * sizeof launch->results[0];
}

static void close_listeners(struct launch *launch)
{
    for (int32_t r = 0; launch->listeners != NULL && r < launch->config->num_ranks; r++) {
        epf_link_close(&launch->listeners[r]);
    }
}

static void launch_release(struct launch *launch)
{
    close_listeners(launch);
    if (launch->results != NULL) {
        (void)munmap(launch->results, results_bytes(launch));
    }
    epf_free(launch->pids);
    epf_free(launch->listeners);
    epf_free(launch->roster.ids);
}

/* Every rank listens before the first one runs, so nobody has to wait for a name to appear. */
static epf_status listen_all(struct launch *launch)
{
    const int32_t num_ranks = launch->config->num_ranks;
    EPF_TRY(epf_mesh_reserve_descriptors(num_ranks));
    EPF_TRY(epf_link_random(&launch->roster.token, sizeof launch->roster.token));
    EPF_TRY(epf_link_random(launch->roster.ids, (size_t)num_ranks * sizeof(uint64_t)));
    for (int32_t r = 0; r < num_ranks; r++) {
        const epf_link_name name = epf_link_name_of(launch->roster.ids[r]);
        EPF_TRY(epf_link_listen(&name, &launch->listeners[r]));
    }
    return EPF_OK;
}

static epf_status launch_init(struct launch *launch)
{
    const size_t num_ranks = (size_t)launch->config->num_ranks;
    launch->parent = getpid();
    launch->pids = epf_alloc(num_ranks, sizeof *launch->pids);
    launch->listeners = epf_alloc(num_ranks, sizeof *launch->listeners);
    launch->roster.ids = epf_alloc(num_ranks, sizeof *launch->roster.ids);
    for (size_t r = 0; r < num_ranks && launch->listeners != NULL; r++) {
        launch->listeners[r] = -1; /* whatever fails from here on, 0 is not ours to close */
    }
    if (launch->pids == NULL || launch->listeners == NULL || launch->roster.ids == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory to launch %zu ranks", num_ranks);
    }
    void *results = mmap(NULL, results_bytes(launch), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (results == MAP_FAILED) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "memory for the results of %zu ranks: %s", num_ranks,
                        strerror(errno));
    }
    launch->results = results;
    for (size_t r = 0; r < num_ranks; r++) {
        launch->results[r].exit_code = -1;
    }
    return listen_all(launch);
}

static _Noreturn void child_run(struct launch *launch, int32_t rank)
{
    epf_launch_result *result = &launch->results[rank];
    epf_comm_config config = *launch->config;
    epf_comm *comm = NULL;
    config.rank = rank;
    /* The parent may have gone before it could be noticed. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != launch->parent) {
        _exit(1);
    }
    int listener = launch->listeners[rank];
    launch->listeners[rank] = -1;
    close_listeners(launch);

    int code = 1;
    result->status = epf_process_create(&config, &launch->roster, &listener, &comm);
    if (result->status == EPF_OK) {
        (void)snprintf(comm->origin, sizeof comm->origin, "processes forked by one parent");
        code = launch->rank_main(comm, launch->context);
        result->exit_code = code;
    }
    result->ended_ns = epf_now_ns(); /* before any peer can notice */
    if (code != 0) {
        (void)snprintf(result->text, sizeof result->text, "%s", epf_error_text());
    }
    epf_comm_destroy(comm);
    (void)fflush(NULL);
    _exit(code);
}

static void kill_all(const struct launch *launch)
{
    for (int32_t r = 0; r < launch->config->num_ranks; r++) {
        if (launch->pids[r] > 0) {
            launch->results[r].killed = true;
            (void)kill(launch->pids[r], SIGKILL);
        }
    }
}

/* Reaps one child if it has ended; true if it has. */
static bool reap(struct launch *launch, int32_t rank)
{
    int status = 0;
    const pid_t pid = waitpid(launch->pids[rank], &status, WNOHANG);
    if (pid == 0 || (pid < 0 && errno == EINTR)) {
        return false;
    }
    launch->pids[rank] = 0;
    if (pid < 0) {
        return true; /* somebody else took its status: what it wrote itself has to do */
    }
    if (WIFSIGNALED(status)) {
        launch->results[rank].signal = WTERMSIG(status);
        launch->results[rank].exit_code = -1;
    }
    return true;
}

static bool failed(const epf_launch_result *result)
{
    return result->exit_code != 0 || result->signal != 0;
}

/* Until all children are gone. */
static void reap_all(struct launch *launch, uint64_t grace_ns)
{
    const struct timespec nap = {.tv_sec = 0, .tv_nsec = (long)REAP_NS};
    uint64_t failed_ns = 0; /* when a failure was first seen */
    for (bool running = true; running;) {
        running = false;
        for (int32_t r = 0; r < launch->config->num_ranks; r++) {
            if (launch->pids[r] > 0 && reap(launch, r) && failed(&launch->results[r]) &&
                failed_ns == 0) {
                failed_ns = epf_now_ns();
            }
            running = running || launch->pids[r] > 0;
        }
        if (running && failed_ns != 0 && epf_now_ns() - failed_ns >= grace_ns) {
            kill_all(launch);
        }
        if (running) {
            (void)nanosleep(&nap, NULL);
        }
    }
}

/* The failure that others follow from: a rank that a signal ended, else the first to return. */
static int32_t first_failure(const struct launch *launch)
{
    int32_t first = -1;
    for (int32_t r = 0; r < launch->config->num_ranks; r++) {
        const epf_launch_result *result = &launch->results[r];
        if (result->signal != 0 && !result->killed) {
            return r;
        }
        if (failed(result) && !result->killed &&
            (first < 0 || result->ended_ns < launch->results[first].ended_ns)) {
            first = r;
        }
    }
    return first;
}

static epf_status fork_all(struct launch *launch)
{
    (void)fflush(NULL); /* or children would write our buffered text once more */
    for (int32_t r = 0; r < launch->config->num_ranks; r++) {
        const pid_t pid = fork();
        if (pid == 0) {
            child_run(launch, r);
        }
        if (pid < 0) {
            return EPF_FAIL(EPF_E_DEVICE, "starting rank %" PRId32 ": %s", r, strerror(errno));
        }
        launch->pids[r] = pid;
    }
    return EPF_OK;
}

static epf_status first_error(const epf_launch_result *result, int32_t rank)
{
    const char *separator = result->text[0] == '\0' ? "" : ": ";
    if (result->signal != 0) {
        return EPF_FAIL(EPF_E_PEER, "rank %" PRId32 " was ended by signal %" PRId32 " (%s)", rank,
                        result->signal, strsignal(result->signal));
    }
    if (result->status != EPF_OK) {
        return EPF_FAIL(EPF_E_PEER, "rank %" PRId32 " could not join the group%s%s", rank,
                        separator, result->text);
    }
    return EPF_FAIL(EPF_E_PEER, "rank %" PRId32 " ended with exit code %" PRId32 "%s%s", rank,
                    result->exit_code, separator, result->text);
}

epf_status epf_launch(const epf_comm_config *config, uint64_t grace_ns, epf_launch_main *rank_main,
                      void *context, epf_launch_result *results)
{
    EPF_CHECK_ARG(config, "config is NULL");
    EPF_CHECK_ARG(rank_main != NULL && results != NULL, "launch: %s is NULL",
                  rank_main == NULL ? "rank_main" : "results");
    epf_comm_config own = *config;
    own.rank = 0;
    EPF_TRY(epf_comm_config_check(&own));

    struct launch launch = {.config = &own, .rank_main = rank_main, .context = context};
    epf_status st = launch_init(&launch);
    if (st == EPF_OK) {
        st = fork_all(&launch);
        close_listeners(&launch); /* only the ranks' own ones count from now on */
        if (st != EPF_OK) {
            kill_all(&launch);
        }
        reap_all(&launch, grace_ns);
        const int32_t first = first_failure(&launch);
        memcpy(results, launch.results, results_bytes(&launch));
        if (st == EPF_OK && first >= 0) {
            st = first_error(&results[first], first);
        }
    }
    launch_release(&launch);
    return st;
}
