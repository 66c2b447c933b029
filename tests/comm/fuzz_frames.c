/*
 * fuzz_frames: a member of the group that sends whatever it likes.
 *
 * The input is a script of messages: a length byte, a byte of switches, then that many bytes,
 * written over a frame that would be right.  They lie in the link before rank 0 makes its
 * collectives, which must end, answer a status of the documented ones, and leave no descriptor
 * behind.  A libFuzzer target, whose link is in memory (FUZZ_SYSTEM, fuzz_system.c); with EPF_FUZZ_MAIN
 * a program that replays files or, without any, a fixed number of random scripts over real sockets.
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "comm/epf_process.h"

#ifdef FUZZ_SYSTEM
#include "fuzz_system.h"
#endif
#ifdef FUZZ_GUARD /* fuzz/fuzz_guard.c calls us */
#define LLVMFuzzerTestOneInput fuzz_target
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WITH_FD = 1, WITH_BAD_MEMORY = 2, AS_RESET = 4, AS_WINDOW = 8, CUT = 16, RIGHT_SIZE = 32 };

static epf_process_comm *comm;
#ifndef FUZZ_SYSTEM
static int mad_end;
#endif
static const uint64_t *sends; /* what the collectives bring */

static epf_status gather(epf_comm *head, const void *send, void *recv, size_t bytes)
{
    const epf_exchange exchange = {
        .collective = EPF_COLLECTIVE_GATHER, .send = send, .recv = recv, .bytes = bytes, .fd = -1};
    return epf_process_exchange((epf_process_comm *)head, &exchange);
}

static const epf_comm_ops ops = {.name = "fuzz", .all_gather = gather};

static void link_open(void)
{
#ifdef FUZZ_SYSTEM
    fuzz_system_begin();
    comm->peers[1].link = FUZZ_SYSTEM_LINK;
#else
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0,
          "socketpair");
    comm->peers[1].link = pair[0];
    mad_end = pair[1];
#endif
}

/* What a frame begins with, from one sent to ourselves. */
static epf_frame frame_begin(void)
{
    static epf_frame frame;
    int pair[2];
    if (frame.magic == 0) {
        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
        CHECK(epf_link_send(pair[0], &frame, NULL, 0, -1) == EPF_LINK_DONE, "send");
        CHECK(recv(pair[1], &frame, sizeof frame, 0) == (ssize_t)sizeof frame, "recv");
        epf_link_close(&pair[0]);
        epf_link_close(&pair[1]);
    }
    return frame;
}

/* The memory is made once, what is in it anew. */
static void setup(void)
{
    static const uint64_t words[4] = {1, 2, 3, 4};
    static uint8_t payload[EPF_FRAME_PAYLOAD_BYTES];
    static uint8_t scratch[2 * EPF_COMM_SCRATCH_BYTES];
    static struct pollfd polls[2];
    static _Alignas(64) uint8_t handle[sizeof *comm + 2 * sizeof comm->peers[0]];
    memset(handle, 0, sizeof handle);
    comm = (void *)handle;
    comm->head.ops = &ops;
    comm->head.num_ranks = 2;
    comm->head.node = -1;
    comm->head.timeout_ns = 1; /* one look at what is there */
    comm->head.scratch = (void *)scratch;
    comm->payload = payload;
    comm->polls = polls;
    comm->peers[0].link = -1;
    sends = words;
    link_open();
}

static void teardown(void)
{
#ifdef FUZZ_SYSTEM
    fuzz_system_end();
#else
    epf_link_close(&comm->peers[1].link);
    epf_link_close(&mad_end);
#endif
}

/* A descriptor as good or bad as the switches say. */
static int some_descriptor(uint8_t switches)
{
    const int fd = memfd_create("epfuse-fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, 4096) == 0, "memfd");
    if ((switches & WITH_BAD_MEMORY) == 0) {
        CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0, "seal");
    }
    return fd;
}

/* A frame that would be right, made so by sending it to ourselves, with the script's bytes over it.
 * */
static void send_message(const uint8_t *bytes, size_t num_bytes, uint8_t switches)
{
    uint8_t message[sizeof(epf_frame) + 256];
    const epf_window_offer offer = {.bytes = 100};
    const bool window = (switches & AS_WINDOW) != 0;
    const size_t payload = (switches & AS_RESET) != 0 ? 0 : window ? sizeof offer : sizeof *sends;
    ssize_t length = (ssize_t)(sizeof(epf_frame) + payload);
    epf_frame frame = frame_begin();
    frame.type = EPF_FRAME_DATA;
    frame.rank = 1;
    frame.collective = window ? EPF_COLLECTIVE_WINDOW : EPF_COLLECTIVE_GATHER;
    frame.generation = comm->generation;
    frame.sequence = comm->sequence + 1;
    frame.total_bytes = payload;
    frame.payload_bytes = (uint32_t)payload;
    if ((switches & AS_RESET) != 0) {
        frame.collective = EPF_COLLECTIVE_RESET;
        frame.generation++;
    }
    memcpy(message, &frame, sizeof frame);
    memcpy(message + sizeof frame, window ? (const void *)&offer : sends, payload);

    /* The first byte of the script says where its other bytes go. */
    for (size_t i = 1; i < num_bytes && bytes[0] + i - 1 < (size_t)length; i++) {
        message[bytes[0] + i - 1] ^= bytes[i];
    }
    if ((switches & CUT) != 0 && num_bytes > 0) {
        length = 1 + bytes[0] % length;
    }
    struct iovec part = {.iov_base = message, .iov_len = (size_t)length};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    int fd = -1;
    if ((switches & WITH_FD) != 0) {
        fd = some_descriptor(switches);
        memset(&control, 0, sizeof control);
        header.msg_control = &control;
        header.msg_controllen = sizeof control;
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
        if ((switches & RIGHT_SIZE) != 0) {
            ((epf_frame *)(void *)message)->has_fd = 1;
        }
    }
#ifdef FUZZ_SYSTEM
    fuzz_system_send(&header);
#else
    (void)sendmsg(mad_end, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
#endif
    epf_link_close(&fd);
}

static void check_documented(epf_status st)
{
    CHECK(st == EPF_OK || epf_error_text()[0] != '\0', "status %d without a text", (int)st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t all[2];
    epf_window *window = NULL;
    size_t at = 0;
    setup();
    for (int collective = 0; collective < 4; collective++) {
        for (int i = 0; i < 3 && at + 2 <= size; i++) {
            const size_t rest = size - at - 2;
            const size_t num_bytes = data[at] < rest ? data[at] : rest;
            send_message(data + at + 2, num_bytes, data[at + 1]);
            at += 2 + num_bytes;
        }
        switch (at < size ? data[at] % 3 : 0) {
        case 0:
            check_documented(gather(&comm->head, sends, all, sizeof all[0]));
            break;
        case 1:
            check_documented(epf_process_reset(&comm->head));
            break;
        default:
            check_documented(epf_process_window_create(&comm->head, 100, &window));
            epf_process_window_destroy(&comm->head, window);
            window = NULL;
        }
    }
    teardown();
    return 0;
}

#ifdef EPF_FUZZ_MAIN
int main(int argc, char **argv)
{
    static uint8_t script[4096];
    const int descriptors = count_descriptors();
    uint64_t seed = 7;
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "re");
        CHECK(file != NULL, "%s", argv[i]);
        const size_t size = fread(script, 1, sizeof script, file);
        (void)fclose(file);
        (void)LLVMFuzzerTestOneInput(script, size);
    }
    for (int i = 0; argc == 1 && i < 5000; i++) {
        const size_t size = (size_t)(i % 200);
        for (size_t b = 0; b < size; b++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            script[b] = (uint8_t)(seed >> 56) & (uint8_t)(b % 3 == 0 ? 0x0f : 0xff);
        }
        (void)LLVMFuzzerTestOneInput(script, size);
    }
    CHECK(count_descriptors() == descriptors, "descriptors left");
    CHECK(count_memfd_mappings() == 0, "mappings left");
    return 0;
}
#endif
