/* epf_trace_file.c: a trace file's bytes. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "prof/epf_trace.h"

static epf_status read_bytes(int descriptor, const char *path, uint8_t *bytes, size_t num_bytes)
{
    for (size_t done = 0; done < num_bytes;) {
        const ssize_t got = read(descriptor, bytes + done, num_bytes - done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return EPF_FAIL(EPF_E_FILE, "%s: cannot read byte %zu of %zu: %s", path, done,
                            num_bytes, got < 0 ? strerror(errno) : "the file shrank");
        }
        done += (size_t)got;
    }
    return EPF_OK;
}

static epf_status read_opened(int descriptor, const char *path, epf_trace **trace)
{
    struct stat info;
    uint8_t *bytes;
    size_t num_bytes;
    epf_status st;
    if (fstat(descriptor, &info) != 0) {
        return EPF_FAIL(EPF_E_FILE, "%s: %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return EPF_FAIL(EPF_E_FILE, "%s: not a regular file", path);
    }
    if (info.st_size > INT32_MAX) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: %lld bytes, a trace has less than 2 GiB", path,
                        (long long)info.st_size);
    }
    num_bytes = (size_t)info.st_size;
    bytes = epf_alloc_aligned(num_bytes, 1, sizeof(void *));
    if (bytes == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: %zu bytes", path, num_bytes);
    }
    st = read_bytes(descriptor, path, bytes, num_bytes);
    if (st == EPF_OK) {
        st = epf_trace_parse(bytes, num_bytes, path, trace);
    }
    epf_free(bytes);
    return st;
}

epf_status epf_trace_read(const char *path, epf_trace **trace)
{
    /* O_NONBLOCK: opening a pipe that nobody writes must not hang. */
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    epf_status st;
    *trace = NULL;
    if (descriptor < 0) {
        return EPF_FAIL(EPF_E_FILE, "%s: cannot open: %s", path, strerror(errno));
    }
    st = read_opened(descriptor, path, trace);
    (void)close(descriptor);
    return st;
}
