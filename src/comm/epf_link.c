/*
 * epf_link.c: frames over local sockets.
 *
 * Errors of the system become five results, because callers can do five things: go on, poll, try
 * again soon, take the peer for gone, or take it for mad.  What comes in is checked here as far as
 * a frame alone can be judged; whether it belongs where it arrived is its reader's question.
 */
#include "comm/epf_link.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/epf_error.h"

enum { FRAME_MAGIC = 0x45504601, FRAME_VERSION = 1, BACKLOG = 4096, MOST_FDS = 4 };

_Static_assert(sizeof(epf_frame) == 56, "frames have no padding");
_Static_assert(EPF_LINK_NAME_BYTES < sizeof(((struct sockaddr_un *)0)->sun_path),
               "a name fits an address");

/* Room for more descriptors than a frame may have, so that surplus ones are seen and closed. */
union control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(MOST_FDS * sizeof(int))];
};

epf_status epf_link_random(void *bytes, size_t num_bytes)
{
    size_t have = 0;
    while (have < num_bytes) {
        const ssize_t got = getrandom((char *)bytes + have, num_bytes - have, 0);
        if (got > 0) {
            have += (size_t)got;
        } else if (errno != EINTR) {
            return EPF_FAIL(EPF_E_DEVICE, "getrandom: %s", strerror(errno));
        }
    }
    return EPF_OK;
}

epf_link_name epf_link_name_of(uint64_t id)
{
    epf_link_name name;
    (void)snprintf(name.text, sizeof name.text, "epfuse-%016" PRIx64, id);
    return name;
}

static socklen_t address_of(const epf_link_name *name, struct sockaddr_un *address)
{
    const size_t length = strnlen(name->text, sizeof name->text);
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path + 1, name->text, length);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static int open_socket(void)
{
    return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

epf_status epf_link_listen(const epf_link_name *name, int *fd)
{
    struct sockaddr_un address;
    const socklen_t length = address_of(name, &address);
    *fd = open_socket();
    if (*fd >= 0 && bind(*fd, (struct sockaddr *)&address, length) == 0 &&
        listen(*fd, BACKLOG) == 0) {
        return EPF_OK;
    }
    const int error = errno;
    epf_link_close(fd);
    return EPF_FAIL(error == EADDRINUSE ? EPF_E_STATE : EPF_E_DEVICE,
                    "listening on local socket \"%s\": %s", name->text, strerror(error));
}

/* Connected to a process of our own user; for a listener, the user that called listen(). */
static bool same_user(int fd)
{
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0 &&
           length == sizeof credentials && credentials.uid == geteuid();
}

epf_link_result epf_link_connect(const epf_link_name *name, int *fd)
{
    struct sockaddr_un address;
    const socklen_t length = address_of(name, &address);
    int rc;
    *fd = open_socket();
    if (*fd < 0) {
        return EPF_LINK_BAD;
    }
    do {
        rc = connect(*fd, (struct sockaddr *)&address, length);
    } while (rc != 0 && errno == EINTR);
    if (rc == 0 && same_user(*fd)) {
        return EPF_LINK_DONE;
    }
    const int error = rc == 0 ? EPERM : errno;
    epf_link_close(fd);
    errno = error;
    return error == EAGAIN ? EPF_LINK_AGAIN
                           : (error == ECONNREFUSED ? EPF_LINK_GONE : EPF_LINK_BAD);
}

epf_link_result epf_link_accept(int listener, int *fd)
{
    for (;;) {
        *fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (*fd >= 0) {
            if (same_user(*fd)) {
                return EPF_LINK_DONE;
            }
            epf_link_close(fd);
        } else if (errno == EAGAIN) {
            return EPF_LINK_AGAIN;
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            return EPF_LINK_BUSY;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return EPF_LINK_BAD;
        }
    }
}

epf_link_result epf_link_send(int link, epf_frame *frame, const void *payload, size_t bytes, int fd)
{
    struct iovec parts[2] = {{.iov_base = frame, .iov_len = sizeof *frame},
                             {.iov_base = (void *)(uintptr_t)payload, .iov_len = bytes}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = bytes > 0 ? 2 : 1};
    union control control;
    frame->magic = FRAME_MAGIC;
    frame->version = FRAME_VERSION;
    frame->payload_bytes = (uint32_t)bytes;
    frame->has_fd = fd >= 0;
    if (fd >= 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof fd);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    }
    for (;;) {
        if (sendmsg(link, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
            return EPF_LINK_DONE; /* whole: messages are never sent in part */
        }
        switch (errno) {
        case EINTR:
            continue;
        case EAGAIN:
            return EPF_LINK_AGAIN;
        case ETOOMANYREFS: /* too many descriptors on their way: they will be fetched */
        case ENOBUFS:
        case ENOMEM:
            return EPF_LINK_BUSY;
        case EPIPE:
        case ECONNRESET:
            return EPF_LINK_GONE;
        default:
            return EPF_LINK_BAD;
        }
    }
}

/* Takes the first descriptor and closes the rest; false where there was more than one. */
static bool take_descriptor(struct msghdr *message, int *fd)
{
    int num_fds = 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head != NULL;
         head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++, num_fds++) {
            int received;
            memcpy(&received, CMSG_DATA(head) + i * sizeof received, sizeof received);
            if (num_fds == 0) {
                *fd = received;
            } else {
                epf_link_close(&received);
            }
        }
    }
    return num_fds <= 1;
}

/* A connection that its peer closed with unread data says so once, before what is still queued. */
static ssize_t receive(int link, struct msghdr *message, int flags)
{
    ssize_t got;
    int num_resets = 0;
    do {
        got = recvmsg(link, message, flags);
    } while (got < 0 && (errno == EINTR || (errno == ECONNRESET && num_resets++ == 0)));
    return got;
}

static epf_link_result failed_receive(ssize_t got)
{
    if (got < 0 && errno == EAGAIN) {
        return EPF_LINK_AGAIN;
    }
    return got == 0 || errno == ECONNRESET ? EPF_LINK_GONE : EPF_LINK_BAD;
}

static bool frame_valid(const epf_frame *frame)
{
    return frame->magic == FRAME_MAGIC && frame->version == FRAME_VERSION && frame->has_fd <= 1 &&
           frame->payload_bytes <= EPF_FRAME_PAYLOAD_BYTES && frame->type >= EPF_FRAME_JOIN &&
           frame->type <= EPF_FRAME_DATA;
}

epf_link_result epf_link_recv(int link, epf_frame *frame, void *payload, int *fd)
{
    struct iovec parts[2] = {{.iov_base = frame, .iov_len = sizeof *frame},
                             {.iov_base = payload, .iov_len = EPF_FRAME_PAYLOAD_BYTES}};
    union control control;
    struct msghdr message = {.msg_iov = parts,
                             .msg_iovlen = 2,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    *fd = -1;
    const ssize_t got = receive(link, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got <= 0) {
        return failed_receive(got);
    }
    /* A descriptor lost to our own limit (MSG_CTRUNC) is the caller's to judge: has_fd, and *fd -1.
     */
    if (!take_descriptor(&message, fd) || (message.msg_flags & MSG_TRUNC) != 0 ||
        (size_t)got < sizeof *frame || !frame_valid(frame) ||
        frame->payload_bytes != (size_t)got - sizeof *frame || (frame->has_fd == 0 && *fd >= 0)) {
        epf_link_close(fd);
        return EPF_LINK_BAD;
    }
    return EPF_LINK_DONE;
}

epf_link_result epf_link_peek(int link, epf_frame *frame)
{
    struct iovec part = {.iov_base = frame, .iov_len = sizeof *frame};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    const ssize_t got = receive(link, &message, MSG_DONTWAIT | MSG_PEEK);
    if (got <= 0) {
        return failed_receive(got);
    }
    return (size_t)got == sizeof *frame && frame_valid(frame) ? EPF_LINK_DONE : EPF_LINK_BAD;
}

void epf_link_close(int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd);
        *fd = -1;
    }
}
