/*
 * fuzz_system.c: the kernel's part of a link, in memory, for fuzz_frames.c: a hundred times as fast.
 *
 * The linker's --wrap leads the calls of the code under test here.  One link of whole messages, of which the far
 * end is the script; memory descriptors with a size, seals and a count of holders; mappings from a pool.  What is
 * no descriptor of ours goes to the system.
 */
#include "fuzz_system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

enum {
    FIRST_FD = 1 << 20,
    MAX_FDS = 64, /* a run has far fewer at once */
    MAX_MESSAGES = 64,
    MESSAGE_BYTES = 512,
    MAX_MAPPINGS = 16,
    MAPPING_BYTES = 4096
};

typedef struct message {
    uint8_t bytes[MESSAGE_BYTES];
    size_t length;
    int memory; /* of the descriptor that travels, or -1 */
} message;

typedef struct memory {
    uint64_t bytes;
    int seals;
    int num_holders;
} memory;

static message queue[MAX_MESSAGES];
static size_t first, end;
static memory memories[MAX_FDS];
static int fds[MAX_FDS]; /* the memory + 1, or 0 */
static bool mapped[MAX_MAPPINGS];
static uint8_t *pool;
static int num_open, num_mapped;

static bool ours(int fd)
{
    return fd >= FIRST_FD && fd < FIRST_FD + MAX_FDS;
}

static memory *memory_of(int fd)
{
    CHECK(ours(fd) && fds[fd - FIRST_FD] > 0, "descriptor %d is closed", fd);
    return &memories[fds[fd - FIRST_FD] - 1];
}

static int open_fd(int which)
{
    for (int i = 0; i < MAX_FDS; i++) {
        if (fds[i] == 0) {
            fds[i] = which + 1;
            num_open++;
            memories[which].num_holders++;
            return FIRST_FD + i;
        }
    }
    CHECK(false, "too many descriptors");
    return -1;
}

void fuzz_system_begin(void)
{
    first = end = 0;
}

void fuzz_system_end(void)
{
    for (; first < end; first++) {
        if (queue[first].memory >= 0) {
            memories[queue[first].memory].num_holders--;
        }
    }
    CHECK(num_open == 0, "%d descriptors left", num_open);
    CHECK(num_mapped == 0, "%d mappings left", num_mapped);
}

void fuzz_system_send(const struct msghdr *header)
{
    struct cmsghdr *const control = CMSG_FIRSTHDR(header);
    CHECK(header->msg_iovlen == 1 && header->msg_iov->iov_len <= MESSAGE_BYTES, "message");
    if (end == MAX_MESSAGES) {
        return;
    }
    message *const m = &queue[end++];
    m->length = header->msg_iov->iov_len;
    memcpy(m->bytes, header->msg_iov->iov_base, m->length);
    m->memory = -1;
    if (control != NULL) {
        int fd;
        memcpy(&fd, CMSG_DATA(control), sizeof fd);
        m->memory = (int)(memory_of(fd) - memories);
        memories[m->memory].num_holders++;
    }
}

ssize_t __real_sendmsg(int fd, const struct msghdr *header, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *header, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *header, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *header, int flags);
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_memfd_create(const char *name, unsigned int flags);
int __real_ftruncate(int fd, off_t bytes);
int __wrap_ftruncate(int fd, off_t bytes);
int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __real_fstat(int fd, struct stat *status);
int __wrap_fstat(int fd, struct stat *status);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t bytes);
int __wrap_munmap(void *at, size_t bytes);

/* The script's end reads everything and answers nothing. */
ssize_t __wrap_sendmsg(int fd, const struct msghdr *header, int flags)
{
    ssize_t length = 0;
    if (fd != FUZZ_SYSTEM_LINK) {
        return __real_sendmsg(fd, header, flags);
    }
    for (size_t i = 0; i < header->msg_iovlen; i++) {
        length += (ssize_t)header->msg_iov[i].iov_len;
    }
    return length;
}

static void give_descriptor(struct msghdr *header, int which)
{
    if (which < 0 || header->msg_controllen < CMSG_SPACE(sizeof(int))) {
        header->msg_flags |= which < 0 ? 0 : MSG_CTRUNC;
        header->msg_controllen = 0;
        return;
    }
    struct cmsghdr *const control = header->msg_control;
    const int fd = open_fd(which);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(control), &fd, sizeof fd);
    header->msg_controllen = CMSG_SPACE(sizeof fd);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *header, int flags)
{
    size_t copied = 0;
    if (fd != FUZZ_SYSTEM_LINK) {
        return __real_recvmsg(fd, header, flags);
    }
    if (first == end) {
        errno = EAGAIN;
        return -1;
    }
    const message *const m = &queue[first];
    for (size_t i = 0; i < header->msg_iovlen && copied < m->length; i++) {
        const size_t room = header->msg_iov[i].iov_len;
        const size_t part = m->length - copied < room ? m->length - copied : room;
        memcpy(header->msg_iov[i].iov_base, m->bytes + copied, part);
        copied += part;
    }
    header->msg_flags = copied < m->length ? MSG_TRUNC : 0;
    give_descriptor(header, m->memory);
    if ((flags & MSG_PEEK) == 0) {
        first++;
        if (m->memory >= 0) {
            memories[m->memory].num_holders--;
        }
    }
    return (ssize_t)copied;
}

int __wrap_close(int fd)
{
    if (fd == FUZZ_SYSTEM_LINK) {
        return 0;
    }
    if (!ours(fd)) {
        return __real_close(fd);
    }
    memory_of(fd)->num_holders--;
    fds[fd - FIRST_FD] = 0;
    num_open--;
    return 0;
}

int __wrap_memfd_create(const char *name, unsigned int flags)
{
    (void)name;
    (void)flags;
    for (int i = 0; i < MAX_FDS; i++) {
        if (memories[i].num_holders == 0) {
            memories[i] = (memory){0};
            return open_fd(i);
        }
    }
    errno = EMFILE;
    return -1;
}

int __wrap_ftruncate(int fd, off_t bytes)
{
    if (!ours(fd)) {
        return __real_ftruncate(fd, bytes);
    }
    memory_of(fd)->bytes = (uint64_t)bytes;
    return 0;
}

int __wrap_fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    const long argument = va_arg(arguments, long);
    va_end(arguments);
    if (!ours(fd)) {
        return __real_fcntl(fd, command, argument);
    }
    CHECK(command == F_ADD_SEALS || command == F_GET_SEALS, "command %d", command);
    if (command == F_ADD_SEALS) {
        memory_of(fd)->seals |= (int)argument;
    }
    return command == F_GET_SEALS ? memory_of(fd)->seals : 0;
}

int __wrap_fstat(int fd, struct stat *status)
{
    if (!ours(fd)) {
        return __real_fstat(fd, status);
    }
    memset(status, 0, sizeof *status);
    status->st_mode = S_IFREG;
    status->st_size = (off_t)memory_of(fd)->bytes;
    return 0;
}

void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (!ours(fd)) {
        return __real_mmap(at, bytes, protection, flags, fd, offset);
    }
    CHECK(bytes <= memory_of(fd)->bytes && bytes <= MAPPING_BYTES, "a mapping beyond its memory");
    if (pool == NULL) {
        pool = __real_mmap(NULL, (size_t)MAX_MAPPINGS * MAPPING_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(pool != MAP_FAILED, "pool");
    }
    for (size_t i = 0; i < MAX_MAPPINGS; i++) {
        if (!mapped[i]) {
            mapped[i] = true;
            num_mapped++;
            return pool + i * MAPPING_BYTES;
        }
    }
    errno = ENOMEM;
    return MAP_FAILED;
}

int __wrap_munmap(void *at, size_t bytes)
{
    const uint8_t *const memory = at;
    if (pool == NULL || memory < pool || memory >= pool + (size_t)MAX_MAPPINGS * MAPPING_BYTES) {
        return __real_munmap(at, bytes);
    }
    num_mapped -= mapped[(size_t)(memory - pool) / MAPPING_BYTES];
    mapped[(size_t)(memory - pool) / MAPPING_BYTES] = false;
    return 0;
}
