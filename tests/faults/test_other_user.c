/*
 * test_other_user: a process of another user that knows a group's rendezvous neither gets in nor hears a
 * word nor reaches its memory; one that takes the name first is an error in time, not a member.  Needs root.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "comm/epf_env.h"
#include "comm/epf_join.h"
#include "fault_pool.h"
#include "fault_world.h"
#include "support/epf_check.h"
#include "support/epf_runner.h"

#define MS UINT64_C(1000000)

enum { NOBODY = 65534, NUM_RANKS = 2, LAYERS = 20, KNOCK_MS = 400, SQUAT_TIMEOUT_MS = 300 };

/* Shared with the stranger. */
typedef struct town {
    epf_link_name name;
    pid_t host;
    int32_t num_knocks; /* connections that the kernel let through */
    int32_t num_heard;  /* bytes that came back                    */
    int32_t num_opened; /* descriptors of the host that could be opened */
    int32_t is_bound;   /* atomic */
} town;

static socklen_t address_of(const town *t, struct sockaddr_un *address)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path + 1, t->name.text, strlen(t->name.text));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(t->name.text));
}

static void become_nobody(void)
{
    if (setgid(NOBODY) != 0 || setuid(NOBODY) != 0) {
        _exit(2);
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* another user's id takes it away */
}

/* Says what rank 1 would say, and listens for an answer. */
static void knock(town *t)
{
    struct sockaddr_un address;
    const socklen_t length = address_of(t, &address);
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    const struct timeval patience = {0, 20000};
    epf_frame hello = {.type = EPF_FRAME_JOIN, .rank = 1};
    char bytes[256] = {0};

    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, length) == 0) {
        t->num_knocks++;
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        (void)epf_link_send(fd, &hello, bytes, 56, -1);
        t->num_heard += recv(fd, bytes, sizeof bytes, 0) > 0;
    }
    (void)close(fd);
}

/* The host's open files, windows among them, as /proc shows them. */
static void reach(town *t)
{
    for (int fd = 0; fd < 64 && t->host > 0; fd++) {
        char path[64];
        int opened;
        (void)snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)t->host, fd);
        opened = open(path, O_RDWR | O_CLOEXEC);
        t->num_opened += opened >= 0;
        if (opened >= 0) {
            (void)close(opened);
        }
    }
}

static pid_t start_stranger(town *t)
{
    const pid_t pid = fork();

    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        become_nobody();
        for (;;) {
            knock(t);
            reach(t);
        }
    }
    return pid;
}

static pid_t start_rank(const fault_pool *pool, int32_t rank)
{
    const fault_seat seat = {rank, NUM_RANKS, 0, 1};
    const fault_knobs knobs = {6, 1, false};
    const pid_t pid = fork();
    epf_rng own = epf_rng_make(3, (uint64_t)rank);
    epf_group *group;
    fault_rank r;

    CHECK(pid >= 0, "fork");
    if (pid > 0) {
        return pid;
    }
    CHECK_OK(fault_join(&seat, &group));
    CHECK_OK(fault_rank_open(&r, pool, group, &knobs));
    for (uint32_t i = 0; i < LAYERS; i++) {
        fault_rank_draw(&r, &own);
        CHECK_OK(fault_rank_layer(&r, i));
        CHECK(fault_rank_check(&r) < 0, "layer %u: other bits", i);
        fault_sleep_ns(2 * MS); /* so that the stranger has time to reach for it */
    }
    fault_rank_close(&r);
    epf_group_destroy(group);
    _exit(0);
}

static void check_exit(pid_t pid)
{
    int status = -1;

    CHECK(waitpid(pid, &status, 0) == pid && status == 0, "status %d", status);
}

/* The host waits for rank 1 while the stranger knocks. */
static void test_knocking(town *t)
{
    const fault_shape shape = {4, 2, 16, 8, 24, EPF_DTYPE_BF16, 0, 5};
    fault_pool *const pool = fault_pool_make(&shape);
    pid_t ranks[NUM_RANKS];
    pid_t stranger;

    ranks[0] = start_rank(pool, 0);
    t->host = ranks[0];
    stranger = start_stranger(t);
    fault_sleep_ns(KNOCK_MS * MS);
    ranks[1] = start_rank(pool, 1);
    check_exit(ranks[0]);
    check_exit(ranks[1]);
    (void)kill(stranger, SIGKILL);
    (void)waitpid(stranger, NULL, 0);
    CHECK(t->num_knocks > 0, "the stranger never found the rendezvous");
    CHECK(t->num_heard == 0, "the stranger was answered %d times", t->num_heard);
    CHECK(t->num_opened == 0, "the stranger opened %d files of the host", t->num_opened);
    printf("%d knocks by another user, no answer, no file reached, %d layers as ever\n",
           t->num_knocks, LAYERS);
    fault_pool_free(pool);
}

static pid_t start_squatter(town *t)
{
    struct sockaddr_un address;
    const socklen_t length = address_of(t, &address);
    const pid_t pid = fork();

    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        int fd;
        become_nobody();
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) != 0 || listen(fd, 16) != 0) {
            _exit(3);
        }
        __atomic_store_n(&t->is_bound, 1, __ATOMIC_RELEASE);
        for (;;) {
            (void)pause();
        }
    }
    return pid;
}

/* The name is taken by another user: both ranks are told so in time. */
static void test_squatting(town *t, const char *job)
{
    const pid_t squatter = start_squatter(t);

    while (__atomic_load_n(&t->is_bound, __ATOMIC_ACQUIRE) == 0) {
        CHECK(waitpid(squatter, NULL, WNOHANG) == 0, "the name could not be taken");
        fault_sleep_ns(MS);
    }
    for (int32_t rank = 0; rank < NUM_RANKS; rank++) {
        const uint64_t begin_ns = epf_now_ns();
        epf_comm_config config;
        epf_comm *comm;
        epf_status st;
        epf_comm_config_init(&config);
        config.rank = rank;
        config.num_ranks = NUM_RANKS;
        config.timeout_ns = SQUAT_TIMEOUT_MS * MS;
        st = epf_comm_create_rendezvous(&config, job, &comm);
        CHECK(st == (rank == 0 ? EPF_E_STATE : EPF_E_DEVICE), "rank %d: status %d: %s", rank,
              (int)st, epf_check_library_text());
        CHECK(epf_now_ns() - begin_ns < 4 * SQUAT_TIMEOUT_MS * MS, "rank %d: too late", rank);
        CHECK(rank == 0 || strstr(epf_check_library_text(), "another user") != NULL, "%s",
              epf_check_library_text());
    }
    (void)kill(squatter, SIGKILL);
    (void)waitpid(squatter, NULL, 0);
}

/* Where the ranks of start_rank() will meet. */
static epf_link_name name_of_ranks(void)
{
    char job[96];
    epf_env env;

    (void)snprintf(job, sizeof job, "verify-%ld-1", (long)getpid()); /* as fault_join() says */
    CHECK(setenv("EPFUSE_RANK", "0", 1) == 0 && setenv("EPFUSE_NUM_RANKS", "2", 1) == 0 &&
              setenv("EPFUSE_RENDEZVOUS", job, 1) == 0,
          "setenv");
    CHECK_OK(epf_env_detect(secure_getenv, &env));
    return epf_rendezvous_name(env.job);
}

int main(void)
{
    town *const t = epf_shared_alloc(sizeof *t);
    char job[96];

    if (geteuid() != 0) {
        printf("skipped: only root can start a process of another user\n");
        return EPF_TEST_SKIPPED;
    }
    t->name = name_of_ranks();
    test_knocking(t);
    (void)snprintf(job, sizeof job, "squat-%ld", (long)getpid());
    t->name = epf_rendezvous_name(job);
    test_squatting(t, job);
    epf_shared_free(t, sizeof *t);
    return 0;
}
