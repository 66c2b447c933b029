/*
 * epf_mesh.c: links between every two ranks.
 *
 *   rank 3                      rank 1
 *   connect ------------------> accept: other users are closed unheard (SO_PEERCRED)
 *   HELLO (token, 3 of W) ----> wrong token, size or rank: closed
 *   checks the token <--------- WELCOME (token, 1 of W)
 *
 * Both sides show the token, so a stranger who got hold of a rank's name learns nothing but what he
 * sent.  All listeners exist before anybody knows a number, so a refused connection means that the
 * rank has died, and waiting longer would not help.
 */
#include "comm/epf_mesh.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "base/epf_error.h"

#define GUEST_NS ((uint64_t)10000000000u) /* what a guest has to say its first word     */
#define PACE_NS ((uint64_t)2000000u)      /* between looks at what is not being polled  */

enum { SPARE_DESCRIPTORS = 64 };

/* HELLO and WELCOME: each side shows the token to the other. */
struct greeting {
    epf_token token;
    int32_t rank;
    int32_t num_ranks;
};

struct mesh {
    const epf_comm_config *config;
    const epf_roster *roster;
    epf_reception reception;
    int *links;       /* [num_ranks]                                       */
    bool *greeted;    /* [num_ranks] token seen from the other side        */
    int32_t num_open; /* peers not greeted yet                             */
    void *payload;
    uint64_t deadline_ns;
};

static bool token_equal(const epf_token *a, const epf_token *b)
{
    unsigned difference = 0; /* all bytes always: the time tells nothing */
    for (size_t i = 0; i < EPF_TOKEN_BYTES; i++) {
        difference |= (unsigned)(a->bytes[i] ^ b->bytes[i]);
    }
    return difference == 0;
}

static int poll_ms(uint64_t ns)
{
    const uint64_t ms = (ns + 999999) / 1000000;
    return ms > 1000 ? 1000 : (int)ms;
}

void epf_reception_init(epf_reception *reception, int listener)
{
    reception->listener = listener;
    reception->num_guests = 0;
}

static void show_out(epf_reception *reception, int32_t index)
{
    reception->num_guests--;
    reception->guests[index] = reception->guests[reception->num_guests];
}

static void let_in(epf_reception *reception, uint64_t now)
{
    int fd;
    while (reception->num_guests < EPF_RECEPTION_GUESTS &&
           epf_link_accept(reception->listener, &fd) == EPF_LINK_DONE) {
        epf_guest *guest = &reception->guests[reception->num_guests++];
        guest->fd = fd;
        guest->until_ns = now + GUEST_NS;
    }
}

static epf_link_result hear_guests(epf_reception *reception, uint64_t now, int *fd,
                                   epf_frame *frame, void *payload)
{
    for (int32_t i = 0; i < reception->num_guests;) {
        epf_guest *guest = &reception->guests[i];
        int surplus;
        const epf_link_result result = epf_link_recv(guest->fd, frame, payload, &surplus);
        epf_link_close(&surplus); /* no first word brings a descriptor */
        if (result == EPF_LINK_DONE) {
            *fd = guest->fd;
            show_out(reception, i);
            return EPF_LINK_DONE;
        }
        if (result != EPF_LINK_AGAIN || now >= guest->until_ns) {
            epf_link_close(&guest->fd);
            show_out(reception, i);
        } else {
            i++;
        }
    }
    return EPF_LINK_AGAIN;
}

epf_link_result epf_reception_next(epf_reception *reception, uint64_t wait_ns, int *fd,
                                   epf_frame *frame, void *payload)
{
    struct pollfd polls[EPF_RECEPTION_GUESTS + 1];
    nfds_t num_polls = 0;
    *fd = -1;
    if (reception->num_guests < EPF_RECEPTION_GUESTS) {
        polls[num_polls++] = (struct pollfd){.fd = reception->listener, .events = POLLIN};
    }
    for (int32_t i = 0; i < reception->num_guests; i++) {
        polls[num_polls++] = (struct pollfd){.fd = reception->guests[i].fd, .events = POLLIN};
    }
    (void)poll(polls, num_polls, poll_ms(wait_ns));
    const uint64_t now = epf_now_ns();
    let_in(reception, now);
    return hear_guests(reception, now, fd, frame, payload);
}

void epf_reception_close(epf_reception *reception)
{
    while (reception->num_guests > 0) {
        epf_link_close(&reception->guests[--reception->num_guests].fd);
    }
}

static epf_link_result send_greeting(const struct mesh *mesh, epf_frame_type type, int link)
{
    struct greeting greeting;
    epf_frame frame;
    memset(&frame, 0, sizeof frame);
    frame.type = (uint16_t)type;
    frame.rank = mesh->config->rank;
    greeting.token = mesh->roster->token;
    greeting.rank = mesh->config->rank;
    greeting.num_ranks = mesh->config->num_ranks;
    return epf_link_send(link, &frame, &greeting, sizeof greeting, -1);
}

/* The rank that greets, or -1 where it is not one of us. */
static int32_t greeting_rank(const struct mesh *mesh, epf_frame_type type, const epf_frame *frame)
{
    struct greeting greeting;
    if (frame->type != type || frame->payload_bytes != sizeof greeting) {
        return -1;
    }
    memcpy(&greeting, mesh->payload, sizeof greeting);
    if (!token_equal(&greeting.token, &mesh->roster->token) ||
        greeting.num_ranks != mesh->config->num_ranks || greeting.rank < 0 ||
        greeting.rank >= mesh->config->num_ranks) {
        return -1;
    }
    return greeting.rank;
}

/* To each lower rank not yet connected; one whose queue is full is tried again the next time. */
static epf_status call_lower_ranks(struct mesh *mesh)
{
    for (int32_t r = 0; r < mesh->config->rank; r++) {
        if (mesh->links[r] >= 0) {
            continue;
        }
        const epf_link_name name = epf_link_name_of(mesh->roster->ids[r]);
        epf_link_result result = epf_link_connect(&name, &mesh->links[r]);
        if (result == EPF_LINK_DONE) {
            result = send_greeting(mesh, EPF_FRAME_HELLO, mesh->links[r]);
        }
        if (result == EPF_LINK_DONE) {
            continue;
        }
        const int error = errno;
        epf_link_close(&mesh->links[r]);
        if (result != EPF_LINK_AGAIN && result != EPF_LINK_BUSY) {
            return EPF_FAIL(EPF_E_PEER, "rank %" PRId32 ": connecting to rank %" PRId32 ": %s",
                            mesh->config->rank, r, strerror(error));
        }
    }
    return EPF_OK;
}

/* Lower ranks' answers. */
static epf_status hear_lower_ranks(struct mesh *mesh)
{
    for (int32_t r = 0; r < mesh->config->rank; r++) {
        epf_frame frame;
        int surplus = -1;
        if (mesh->links[r] < 0 || mesh->greeted[r]) {
            continue;
        }
        const epf_link_result result =
            epf_link_recv(mesh->links[r], &frame, mesh->payload, &surplus);
        epf_link_close(&surplus);
        if (result == EPF_LINK_AGAIN) {
            continue;
        }
        if (result == EPF_LINK_DONE && greeting_rank(mesh, EPF_FRAME_WELCOME, &frame) == r) {
            mesh->greeted[r] = true;
            mesh->num_open--;
            continue;
        }
        return EPF_FAIL(EPF_E_PEER, "rank %" PRId32 ": rank %" PRId32 " %s", mesh->config->rank, r,
                        result == EPF_LINK_GONE ? "refused us, or died"
                                                : "does not hold the group's token");
    }
    return EPF_OK;
}

/* One higher rank, or somebody who only says so and is not let in. */
static void hear_higher_ranks(struct mesh *mesh)
{
    epf_frame frame;
    int fd;
    if (epf_reception_next(&mesh->reception, PACE_NS, &fd, &frame, mesh->payload) !=
        EPF_LINK_DONE) {
        return;
    }
    const int32_t rank = greeting_rank(mesh, EPF_FRAME_HELLO, &frame);
    if (rank > mesh->config->rank && mesh->links[rank] < 0 &&
        send_greeting(mesh, EPF_FRAME_WELCOME, fd) == EPF_LINK_DONE) {
        mesh->links[rank] = fd;
        mesh->greeted[rank] = true;
        mesh->num_open--;
    } else {
        epf_link_close(&fd);
    }
}

static int32_t first_open(const struct mesh *mesh)
{
    int32_t rank = 0;
    while (mesh->greeted[rank] || rank == mesh->config->rank) {
        rank++;
    }
    return rank;
}

static epf_status mesh_run(struct mesh *mesh)
{
    while (mesh->num_open > 0) {
        EPF_TRY(call_lower_ranks(mesh));
        EPF_TRY(hear_lower_ranks(mesh));
        const uint64_t now = epf_now_ns();
        if (mesh->num_open > 0 && now >= mesh->deadline_ns) {
            const int32_t missing = first_open(mesh);
            return EPF_FAIL(EPF_E_TIMEOUT,
                            "rank %" PRId32 ": rank %" PRId32
                            " did not connect within %.3g s (%" PRId32 " of %" PRId32
                            " ranks missing)",
                            mesh->config->rank, missing, (double)mesh->config->timeout_ns * 1e-9,
                            mesh->num_open, mesh->config->num_ranks);
        }
        hear_higher_ranks(mesh);
    }
    return EPF_OK;
}

epf_status epf_mesh_connect(const epf_comm_config *config, const epf_roster *roster, int *listener,
                            int *links)
{
    struct mesh mesh = {
        .config = config, .roster = roster, .links = links, .num_open = config->num_ranks - 1};
    const uint64_t now = epf_now_ns();
    epf_status st = EPF_OK;
    mesh.deadline_ns =
        config->timeout_ns < UINT64_MAX - now ? now + config->timeout_ns : UINT64_MAX;
    mesh.greeted = epf_alloc((size_t)config->num_ranks, sizeof *mesh.greeted);
    mesh.payload = epf_alloc(1, EPF_FRAME_PAYLOAD_BYTES);
    for (int32_t r = 0; r < config->num_ranks; r++) {
        links[r] = -1;
    }
    epf_reception_init(&mesh.reception, *listener);
    if (mesh.greeted == NULL || mesh.payload == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "rank %" PRId32 ": no memory to connect", config->rank);
    } else {
        st = mesh_run(&mesh);
    }
    epf_reception_close(&mesh.reception);
    epf_link_close(listener);
    for (int32_t r = 0; r < config->num_ranks && st != EPF_OK; r++) {
        epf_link_close(&links[r]);
    }
    epf_free(mesh.greeted);
    epf_free(mesh.payload);
    return st;
}

epf_status epf_mesh_reserve_descriptors(int32_t num_ranks)
{
    struct rlimit limit;
    /* A link and, while a window is made, a memory descriptor for each rank. */
    const rlim_t needed = 2 * (rlim_t)num_ranks + SPARE_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed) {
        return EPF_OK;
    }
    limit.rlim_cur = needed;
    if (needed > limit.rlim_max || setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "%" PRId32 " ranks need %llu descriptors, the hard limit is %llu "
                        "(RLIMIT_NOFILE; ulimit -Hn)",
                        num_ranks, (unsigned long long)needed, (unsigned long long)limit.rlim_max);
    }
    return EPF_OK;
}
