/* fault_world.c: processes and what they leave. */
#include "fault_world.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/epf_check.h"

static void set_number(const char *name, long long value)
{
    char text[32];

    (void)snprintf(text, sizeof text, "%lld", value);
    CHECK(setenv(name, text, 1) == 0, "setenv %s", name);
}

epf_status fault_join(const fault_seat *seat, epf_group **group)
{
    epf_group_config config;
    char job[96];

    /* the parent's id, so that two commands at once do not meet */
    (void)snprintf(job, sizeof job, "verify-%ld-%llu", (long)getppid(),
                   (unsigned long long)seat->job);
    set_number("EPFUSE_RANK", seat->rank);
    set_number("EPFUSE_NUM_RANKS", seat->num_ranks);
    CHECK(setenv("EPFUSE_RENDEZVOUS", job, 1) == 0, "setenv");
    CHECK_OK(epf_group_config_init(&config));
    config.timeout_ns = seat->timeout_ns > 0 ? seat->timeout_ns : config.timeout_ns;
    return epf_group_create(&config, group);
}

/* Entries of a folder, "." and ".." left out; 0 if it cannot be read. */
static int32_t count_entries(const char *path)
{
    DIR *const folder = opendir(path);
    int32_t count = -2;

    if (folder == NULL) {
        return 0;
    }
    while (readdir(folder) != NULL) {
        count++;
    }
    (void)closedir(folder);
    return count;
}

int32_t fault_num_descriptors(void)
{
    return count_entries("/proc/self/fd") - 1; /* the folder's own */
}

uint64_t fault_starved_ns(pid_t pid)
{
    unsigned long long ran = 0, waited = 0;
    char path[64];
    FILE *file;

    (void)snprintf(path, sizeof path, "/proc/%ld/schedstat", (long)pid);
    file = fopen(path, "re");
    if (file != NULL) {
        waited = fscanf(file, "%llu %llu", &ran, &waited) == 2 ? waited : 0;
        (void)fclose(file);
    }
    return waited;
}

void fault_sleep_ns(uint64_t ns)
{
    struct timespec left = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* A mount and a network namespace of our own, with an empty /dev/shm. */
static bool go_private(void)
{
    return unshare(CLONE_NEWNS | CLONE_NEWNET) == 0 &&
           mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL) == 0;
}

bool fault_place_enter(fault_place *place)
{
    memset(place, 0, sizeof *place);
    place->is_private = go_private();
    /* where /dev/shm is ours alone, it goes with us, even by SIGKILL */
    (void)snprintf(place->temp, sizeof place->temp, "%s/epfuse-verify-XXXXXX",
                   place->is_private ? "/dev/shm" : "/tmp");
    if (mkdtemp(place->temp) == NULL || setenv("TMPDIR", place->temp, 1) != 0 ||
        prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) {
        return false;
    }
    place->num_shm = count_entries("/dev/shm");
    place->num_descriptors = fault_num_descriptors();
    return true;
}

/* Sockets with a name of ours, in the list of this network namespace. */
static int32_t count_sockets(void)
{
    FILE *const file = fopen("/proc/self/net/unix", "re");
    char line[512];
    int32_t count = 0;

    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        count += strstr(line, "@epfuse-") != NULL;
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return count;
}

/* Whether a child, or a grandchild handed down to us, still lives: those that ended are let go first. */
static bool has_children(void)
{
    pid_t pid = 0;

    for (int32_t tries = 0; tries < 100; tries++) {
        do {
            pid = waitpid(-1, NULL, WNOHANG);
        } while (pid > 0);
        if (pid < 0) {
            return false;
        }
        fault_sleep_ns(1000000); /* one that was killed may still be on its way out */
    }
    return true;
}

const char *fault_place_check(const fault_place *place, char text[160])
{
    const bool is_alive = has_children();
    const int32_t files = count_entries(place->temp);
    const int32_t shm = place->is_private ? count_entries("/dev/shm") - place->num_shm : 0;
    const int32_t sockets = place->is_private ? count_sockets() : 0;
    const int32_t descriptors = fault_num_descriptors() - place->num_descriptors;

    if (!is_alive && files == 0 && shm == 0 && sockets == 0 && descriptors == 0) {
        return NULL;
    }
    (void)snprintf(
        text, 160,
        "left behind: %s, %d temp files, %d files in /dev/shm, %d sockets, %d descriptors",
        is_alive ? "a process" : "no process", files, shm, sockets, descriptors);
    return text;
}

void fault_place_leave(const fault_place *place)
{
    (void)rmdir(place->temp);
}
