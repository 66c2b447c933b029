/* test_link: frames arrive whole or not at all, whatever the other end does, and only from our own
 * user. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "comm/epf_link.h"

static uint8_t payload[EPF_FRAME_PAYLOAD_BYTES];
static uint8_t received[EPF_FRAME_PAYLOAD_BYTES];

static void make_pair(int pair[2])
{
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
}

static void close_pair(int pair[2])
{
    epf_link_close(&pair[0]);
    epf_link_close(&pair[1]);
    epf_link_close(&pair[1]); /* the second time does nothing */
}

static void check_result(epf_link_result result, epf_link_result wanted, const char *what)
{
    CHECK(result == wanted, "%s: %d, wanted %d, %s", what, (int)result, (int)wanted,
          strerror(errno));
}

static void test_frames(void)
{
    static const size_t sizes[] = {0, 1, 1000, EPF_FRAME_PAYLOAD_BYTES};
    int pair[2];
    make_pair(pair);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int with_fd = 0; with_fd < 2; with_fd++) {
            epf_frame frame = {.type = EPF_FRAME_DATA, .rank = 5, .sequence = 77 + i};
            epf_frame got;
            int fd = -1;
            payload[0] = (uint8_t)(i + 1);
            check_result(epf_link_peek(pair[1], &got), EPF_LINK_AGAIN, "peek");
            check_result(epf_link_recv(pair[1], &got, received, &fd), EPF_LINK_AGAIN, "recv");
            check_result(epf_link_send(pair[0], &frame, payload, sizes[i], with_fd ? pair[0] : -1),
                         EPF_LINK_DONE, "send");
            for (int again = 0; again < 2; again++) {
                check_result(epf_link_peek(pair[1], &got), EPF_LINK_DONE, "peek");
                CHECK(memcmp(&got, &frame, sizeof got) == 0, "peeked head");
            }
            check_result(epf_link_recv(pair[1], &got, received, &fd), EPF_LINK_DONE, "recv");
            CHECK(memcmp(&got, &frame, sizeof got) == 0 && got.payload_bytes == sizes[i], "head");
            CHECK(memcmp(received, payload, sizes[i]) == 0, "payload");
            CHECK((fd >= 0) == (with_fd != 0), "descriptor %d", fd);
            CHECK(fd < 0 || (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0, "close on exec");
            epf_link_close(&fd);
        }
    }
    close_pair(pair);
}

/* A queue fills, and empties; what a peer wrote before it closed is still read, and then it is
 * gone. */
static void test_closing(void)
{
    int pair[2];
    int fd;
    int num_sent = 0;
    epf_frame frame = {.type = EPF_FRAME_DATA};
    epf_frame got;
    make_pair(pair);
    while (epf_link_send(pair[0], &frame, payload, sizeof payload, -1) == EPF_LINK_DONE) {
        num_sent++;
    }
    CHECK(num_sent >= 2, "%d frames fit", num_sent);
    check_result(epf_link_send(pair[0], &frame, payload, sizeof payload, -1), EPF_LINK_AGAIN,
                 "full");
    check_result(epf_link_send(pair[1], &frame, payload, 10, -1), EPF_LINK_DONE, "other way");
    epf_link_close(&pair[0]); /* with a frame unread: the kernel tells the other end of a reset */
    for (int i = 0; i < num_sent; i++) {
        check_result(epf_link_recv(pair[1], &got, received, &fd), EPF_LINK_DONE, "after close");
    }
    check_result(epf_link_recv(pair[1], &got, received, &fd), EPF_LINK_GONE, "gone");
    check_result(epf_link_peek(pair[1], &got), EPF_LINK_GONE, "gone");
    check_result(epf_link_send(pair[1], &frame, payload, 10, -1), EPF_LINK_GONE, "no SIGPIPE");
    close_pair(pair);
}

static void test_surplus_descriptors(void)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(8 * sizeof(int))];
    } control;
    const int before = count_descriptors();
    for (size_t count = 1; count <= 8; count++) {
        int pair[2];
        int fd;
        epf_frame got;
        epf_frame frame = {.type = EPF_FRAME_DATA};
        make_pair(pair);
        /* A good head is made by sending it once. */
        check_result(epf_link_send(pair[0], &frame, NULL, 0, pair[0]), EPF_LINK_DONE, "send");
        check_result(epf_link_recv(pair[1], &got, received, &fd), EPF_LINK_DONE, "recv");
        epf_link_close(&fd);
        struct iovec part = {.iov_base = &frame, .iov_len = sizeof frame};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = CMSG_SPACE(count * sizeof(int))};
        memset(&control, 0, sizeof control);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        for (size_t i = 0; i < count; i++) {
            memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &pair[0], sizeof(int));
        }
        CHECK(sendmsg(pair[0], &message, 0) > 0, "sendmsg");
        check_result(epf_link_recv(pair[1], &got, received, &fd),
                     count == 1 ? EPF_LINK_DONE : EPF_LINK_BAD, "surplus");
        CHECK((fd >= 0) == (count == 1), "descriptor");
        epf_link_close(&fd);
        close_pair(pair);
    }
    CHECK(count_descriptors() == before, "descriptors left");
}

/* Messages of all lengths with heads that are nearly right. */
static void test_noise(void)
{
    int pair[2];
    uint64_t seed = 12345;
    int num_good = 0;
    make_pair(pair);
    for (int i = 0; i < 20000; i++) {
        uint8_t message[400];
        epf_frame frame = {.type = EPF_FRAME_DATA};
        epf_frame got;
        int fd;
        check_result(epf_link_send(pair[0], &frame, payload, 100, -1), EPF_LINK_DONE, "send");
        const ssize_t length = recv(pair[1], message, sizeof message, 0);
        CHECK(length == (ssize_t)(sizeof frame + 100), "recv");
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const size_t at = (size_t)(seed >> 33) % sizeof frame;
        const uint8_t flip = (uint8_t)(1u << ((seed >> 20) & 7));
        const size_t cut = (seed >> 60) == 0 ? 1 + (size_t)(seed >> 40) % (sizeof frame + 99) : 156;
        message[at] ^= flip;
        CHECK(send(pair[0], message, cut, 0) == (ssize_t)cut, "send");
        const epf_link_result result = epf_link_recv(pair[1], &got, received, &fd);
        CHECK(result == EPF_LINK_DONE || result == EPF_LINK_BAD, "%d", (int)result);
        CHECK(result != EPF_LINK_DONE || (got.payload_bytes == 100 && cut == 156), "length");
        /* magic, version and payload_bytes admit no other value, has_fd one */
        CHECK(result != EPF_LINK_DONE || (at >= 6 && at < 48) || at == 52,
              "byte %zu was not looked at", at);
        num_good += result == EPF_LINK_DONE;
    }
    CHECK(num_good > 1000, "%d", num_good);
    close_pair(pair);
}

static void as_nobody(const epf_link_name *ours, const epf_link_name *theirs, int ready)
{
    int link;
    int listener;
    epf_frame frame = {.type = EPF_FRAME_HELLO};
    if (setgid(65534) != 0 || setuid(65534) != 0) {
        _Exit(2);
    }
    /* We are the other user's idea of a stranger: connecting fails before a word is said. */
    _Exit(epf_link_connect(ours, &link) == EPF_LINK_BAD &&
                  epf_link_listen(theirs, &listener) == EPF_OK && write(ready, "x", 1) == 1 &&
                  recv(listener, &frame, 1, 0) < 0 && sleep(20) == 0
              ? 0
              : 1);
}

/* Another user can neither be connected to nor be let in. */
static void test_other_user(void)
{
    const epf_link_name ours = {"epfuse-test-ours"};
    const epf_link_name theirs = {"epfuse-test-theirs"};
    int listener;
    int link;
    int ready[2];
    char byte;
    if (geteuid() != 0) {
        printf("not root: other users are not tried\n");
        return;
    }
    CHECK_OK(epf_link_listen(&ours, &listener));
    CHECK(pipe(ready) == 0, "pipe");
    const pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        as_nobody(&ours, &theirs, ready[1]);
    }
    (void)close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1, "the other user did not get so far");
    (void)close(ready[0]);
    /* It did connect, as far as the kernel goes; and is not let in. */
    check_result(epf_link_accept(listener, &link), EPF_LINK_AGAIN, "accept");
    check_result(epf_link_connect(&theirs, &link), EPF_LINK_BAD, "connect");
    CHECK(errno == EPERM && link == -1, "%s", strerror(errno));
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    epf_link_close(&listener);
}

int main(void)
{
    const int descriptors = count_descriptors();
    for (size_t i = 0; i < sizeof payload; i++) {
        payload[i] = (uint8_t)(i * 29);
    }
    test_frames();
    test_closing();
    test_surplus_descriptors();
    test_noise();
    test_other_user();
    CHECK(count_descriptors() == descriptors, "descriptors left");
    return 0;
}
