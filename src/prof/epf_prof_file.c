/* epf_prof_file.c: see epf_prof_file.h. */
#include "prof/epf_prof_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/epf_error.h"

enum { STREAM_BYTES = 1 << 16 };

/* Makes each folder before a '/' of `path`; leaves `path` as it was. */
static epf_status make_folders(char *path)
{
    for (char *at = path + 1; *at != '\0'; at++) {
        struct stat info;
        int made;
        if (*at != '/') {
            continue;
        }
        *at = '\0';
        made = mkdir(path, 0777) == 0 || (errno == EEXIST && stat(path, &info) == 0);
        if (!made) {
            (void)EPF_FAIL(EPF_E_FILE, "%s: cannot make folder: %s", path, strerror(errno));
        }
        *at = '/';
        if (!made) {
            return EPF_E_FILE;
        }
    }
    return EPF_OK;
}

/* The process id and a count make the name unused by others; O_EXCL proves it. */
epf_status epf_prof_file_open(epf_prof_file *file, const char *path)
{
    static atomic_uint num_opened;
    const unsigned turn = atomic_fetch_add_explicit(&num_opened, 1, memory_order_relaxed);
    int descriptor;
    int length;
    EPF_CHECK_ARG(path[0] != '\0', "path: empty");
    length = snprintf(file->temporary, sizeof file->temporary, "%s.%ld-%u.tmp", path,
                      (long)getpid(), turn);
    EPF_CHECK_ARG(length > 0 && (size_t)length < sizeof file->temporary,
                  "path: %zu bytes, must be less than %zu", strlen(path),
                  sizeof file->temporary - 32);
    (void)snprintf(file->path, sizeof file->path, "%s", path);
    EPF_TRY(make_folders(file->path));
    descriptor = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor < 0) {
        return EPF_FAIL(EPF_E_FILE, "%s: cannot create: %s", path, strerror(errno));
    }
    file->stream = fdopen(descriptor, "wb");
    if (file->stream == NULL) {
        (void)close(descriptor);
        (void)unlink(file->temporary);
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for a stream", path);
    }
    (void)setvbuf(file->stream, NULL, _IOFBF, STREAM_BYTES);
    return EPF_OK;
}

/* An earlier write that failed has set the stream's error flag: nobody else needs to check. */
epf_status epf_prof_file_commit(epf_prof_file *file)
{
    FILE *const stream = file->stream;
    int good = !ferror(stream) && fflush(stream) == 0;
    file->stream = NULL;
    good = fclose(stream) == 0 && good;
    good = good && rename(file->temporary, file->path) == 0;
    if (!good) {
        const int reason = errno;
        (void)unlink(file->temporary);
        return EPF_FAIL(EPF_E_FILE, "%s: cannot write: %s", file->path, strerror(reason));
    }
    return EPF_OK;
}

void epf_prof_file_discard(epf_prof_file *file)
{
    if (file->stream != NULL) {
        (void)fclose(file->stream);
        file->stream = NULL;
        (void)unlink(file->temporary);
    }
}
