/*
 * test_secure_env: a process with another user's rights does not take orders from its caller's environment.
 *
 * A copy of this program, owned by another user and set-user-ID, is started with variables that an ordinary
 * process obeys: it must find no group, no tile product and no vectors asked for.  Needs root to set up.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/epf_comm.h"
#include "cpu/gemm/epf_gemm.h"
#include "support/epf_check.h"

enum { NOBODY = 65534, OWNER = 1, IS_OBEDIENT = 10, IS_DEAF = 11, IS_NEITHER = 12, NO_START = 13 };

/* What the started copy finds. */
static int report(void)
{
    const bool is_secure = getauxval(AT_SECURE) != 0;
    epf_gemm_provider_info info;
    epf_comm_config config;
    epf_comm *comm;
    bool obeys_group, obeys_gemm;

    epf_comm_config_init(&config);
    obeys_group = epf_comm_create_env(&config, &comm) == EPF_E_INVALID &&
                  strstr(epf_check_library_text(), "no launcher's variables") == NULL;
    obeys_gemm = epf_gemm_provider_query(EPF_GEMM_AUTO, EPF_DTYPE_F32, &info) == EPF_E_INVALID;
    return obeys_group && obeys_gemm && !is_secure    ? IS_OBEDIENT
           : !obeys_group && !obeys_gemm && is_secure ? IS_DEAF
                                                      : IS_NEITHER;
}

static void copy_self(const char *path, mode_t mode)
{
    char bytes[65536];
    const int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ssize_t count;

    CHECK(from >= 0 && to >= 0, "%s: %s", path, strerror(errno));
    while ((count = read(from, bytes, sizeof bytes)) > 0) {
        CHECK(write(to, bytes, (size_t)count) == count, "%s: %s", path, strerror(errno));
    }
    CHECK(count == 0 && fchown(to, OWNER, OWNER) == 0 && fchmod(to, mode) == 0, "%s: %s", path,
          strerror(errno));
    (void)close(from);
    (void)close(to);
}

/* The copy's exit code, started by nobody with a tempting environment. */
static int run_as_nobody(char *path)
{
    char *const arguments[] = {path, (char[]){"report"}, NULL};
    char *const environment[] = {(char[]){"EPFUSE_RANK=7"}, (char[]){"EPFUSE_NUM_RANKS=2"},
                                 (char[]){"EPFUSE_RENDEZVOUS=tempting"},
                                 (char[]){"EPFUSE_GEMM=nonsense"}, NULL};
    const pid_t pid = fork();
    int status = 0;

    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        if (setgid(NOBODY) == 0 && setuid(NOBODY) == 0) {
            (void)execve(path, arguments, environment);
        }
        _exit(NO_START);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status), "status %d", status);
    return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
    char folder[] = "/tmp/epfuse-secure-XXXXXX";
    char plain[64];
    char raised[64];
    int found[2];

    if (argc > 1 && strcmp(argv[1], "report") == 0) {
        return report();
    }
    if (geteuid() != 0) {
        printf("skipped: only root can make a program that runs as somebody else\n");
        return EPF_TEST_SKIPPED;
    }
    CHECK(mkdtemp(folder) != NULL && chmod(folder, 0755) == 0, "%s", strerror(errno));
    (void)snprintf(plain, sizeof plain, "%s/plain", folder);
    (void)snprintf(raised, sizeof raised, "%s/raised", folder);
    copy_self(plain, 0755);
    copy_self(raised, 04755);
    found[0] = run_as_nobody(plain);
    found[1] = run_as_nobody(raised);
    (void)unlink(plain);
    (void)unlink(raised);
    (void)rmdir(folder);
    if (found[0] == NO_START || found[1] == NO_START) {
        printf("skipped: no program can be started here with another user's rights\n");
        return EPF_TEST_SKIPPED;
    }
    CHECK(found[0] == IS_OBEDIENT, "an ordinary process does not obey: %d", found[0]);
    CHECK(found[1] == IS_DEAF, "a process with another user's rights obeys: %d", found[1]);
    printf("an ordinary process reads its environment, one with another user's rights does not\n");
    return 0;
}
