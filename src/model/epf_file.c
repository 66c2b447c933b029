/* epf_file.c: mappings and atomic writes. */
#include "model/epf_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"

enum {
    NAME_ATTEMPTS = 100,
    MAX_TEMPORARY_NAME = 64,
    WRITE_MODE = 0666 /* less the umask */
};

/* The kernel refuses single writes above 0x7ffff000 bytes. */
static const uint64_t max_write_bytes = 1u << 30;

static epf_status map_fd(const char *path, int fd, epf_file_map *map)
{
    static const unsigned char empty;
    struct stat info;
    void *bytes;
    if (fstat(fd, &info) != 0) {
        return EPF_FAIL(EPF_E_FILE, "%s: cannot read its size: %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return EPF_FAIL(EPF_E_FILE, "%s: is not a regular file", path);
    }
    if (info.st_size == 0) {
        map->bytes = &empty;
        map->num_bytes = 0;
        return EPF_OK;
    }
    bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) {
        return EPF_FAIL(EPF_E_FILE, "%s: cannot map %lld bytes: %s", path, (long long)info.st_size,
                        strerror(errno));
    }
    map->bytes = bytes;
    map->num_bytes = (uint64_t)info.st_size;
    return EPF_OK;
}

epf_status epf_file_map_open(const char *path, epf_file_map *map)
{
    epf_status st;
    int fd;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return EPF_FAIL(EPF_E_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    }
    st = map_fd(path, fd, map);
    (void)close(fd);
    return st;
}

void epf_file_map_close(epf_file_map *map)
{
    if (map->num_bytes != 0) {
        (void)munmap((void *)(uintptr_t)map->bytes, (size_t)map->num_bytes);
    }
    map->bytes = NULL;
    map->num_bytes = 0;
}

static char *copy_text(const char *text, size_t length)
{
    char *copy = epf_alloc(length + 1, 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
    }
    return copy;
}

/* A symbolic link is followed, so that the link stays and the file behind it is replaced. */
static epf_status resolve_target(const char *path, char **target)
{
    struct stat info;
    char resolved[PATH_MAX];
    if (stat(path, &info) == 0) {
        if (!S_ISREG(info.st_mode)) {
            return EPF_FAIL(EPF_E_FILE, "%s: exists and is not a regular file", path);
        }
        if (realpath(path, resolved) == NULL) {
            return EPF_FAIL(EPF_E_FILE, "%s: cannot be resolved: %s", path, strerror(errno));
        }
        path = resolved;
    } else if (errno != ENOENT) {
        return EPF_FAIL(EPF_E_FILE, "%s: cannot be written: %s", path, strerror(errno));
    } else if (lstat(path, &info) == 0) {
        return EPF_FAIL(EPF_E_FILE, "%s: is a symbolic link to nothing", path);
    }
    *target = copy_text(path, strlen(path));
    return *target != NULL ? EPF_OK : EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for its name", path);
}

/* "folder/.epfuse-<pid>-<attempt>.tmp" beside the target: rename() stays in one filesystem. */
static void name_temporary(epf_file_writer *w, size_t folder_length, int attempt)
{
    (void)sprintf(w->temporary + folder_length, ".epfuse-%ld-%d.tmp", (long)getpid(), attempt);
}

static size_t folder_length_of(const char *target)
{
    const char *slash = strrchr(target, '/');
    return slash == NULL ? 0 : (size_t)(slash - target) + 1;
}

static epf_status open_named(epf_file_writer *w, size_t folder_length)
{
    for (int attempt = 0; attempt < NAME_ATTEMPTS; attempt++) {
        name_temporary(w, folder_length, attempt);
        w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, WRITE_MODE);
        if (w->fd >= 0) {
            w->has_name = 1;
            return EPF_OK;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    return EPF_FAIL(EPF_E_FILE, "%s: cannot be written: %s", w->path, strerror(errno));
}

/* A nameless file vanishes with its process, even by SIGKILL; not every filesystem has them. */
static epf_status open_temporary(epf_file_writer *w, bool nameless)
{
    const size_t folder_length = folder_length_of(w->target);
    w->temporary = epf_alloc(folder_length + MAX_TEMPORARY_NAME, 1);
    if (w->temporary == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for its name", w->path);
    }
    if (nameless) {
        memcpy(w->temporary, folder_length == 0 ? "." : w->target,
               folder_length == 0 ? 1 : folder_length);
        w->fd = open(w->temporary, O_TMPFILE | O_WRONLY | O_CLOEXEC, WRITE_MODE);
        if (w->fd >= 0) {
            return EPF_OK;
        }
    }
    memcpy(w->temporary, w->target, folder_length);
    return open_named(w, folder_length);
}

static epf_status open_writer(const char *path, bool nameless, epf_file_writer *writer)
{
    epf_file_writer w = {.path = path, .fd = -1};
    epf_status st;
    memset(writer, 0, sizeof *writer);
    EPF_TRY(resolve_target(path, &w.target));
    st = open_temporary(&w, nameless);
    if (st != EPF_OK) {
        epf_free(w.temporary);
        epf_free(w.target);
        return st;
    }
    *writer = w;
    return EPF_OK;
}

epf_status epf_file_writer_open(const char *path, epf_file_writer *writer)
{
    return open_writer(path, true, writer);
}

epf_status epf_file_writer_open_named(const char *path, epf_file_writer *writer)
{
    return open_writer(path, false, writer);
}

epf_status epf_file_writer_write(epf_file_writer *writer, const void *bytes, uint64_t num_bytes)
{
    const unsigned char *at = bytes;
    while (num_bytes > 0) {
        const uint64_t part = num_bytes < max_write_bytes ? num_bytes : max_write_bytes;
        const ssize_t done = write(writer->fd, at, (size_t)part);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return EPF_FAIL(EPF_E_FILE, "%s: cannot be written: %s", writer->path,
                            done < 0 ? strerror(errno) : "no space");
        }
        at += done;
        num_bytes -= (uint64_t)done;
    }
    return EPF_OK;
}

/* Names a nameless file: a link cannot replace the target, a rename can. */
static int link_temporary(epf_file_writer *w)
{
    const size_t folder_length = folder_length_of(w->target);
    char proc_path[64];
    (void)snprintf(proc_path, sizeof proc_path, "/proc/self/fd/%d", w->fd);
    for (int attempt = 0; attempt < NAME_ATTEMPTS; attempt++) {
        name_temporary(w, folder_length, attempt);
        if (linkat(AT_FDCWD, proc_path, AT_FDCWD, w->temporary, AT_SYMLINK_FOLLOW) == 0) {
            w->has_name = 1;
            return 0;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    return -1;
}

epf_status epf_file_writer_commit(epf_file_writer *writer)
{
    epf_status st = EPF_OK;
    if (fsync(writer->fd) != 0 || (!writer->has_name && link_temporary(writer) != 0) ||
        rename(writer->temporary, writer->target) != 0) {
        st = EPF_FAIL(EPF_E_FILE, "%s: cannot be written: %s", writer->path, strerror(errno));
    } else {
        writer->has_name = 0;
    }
    epf_file_writer_abort(writer);
    return st;
}

void epf_file_writer_abort(epf_file_writer *writer)
{
    if (writer->target == NULL) {
        return;
    }
    if (writer->has_name) {
        (void)unlink(writer->temporary);
    }
    (void)close(writer->fd);
    epf_free(writer->temporary);
    epf_free(writer->target);
    memset(writer, 0, sizeof *writer);
}
