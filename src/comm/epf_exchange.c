/*
 * epf_exchange.c: collectives of processes, and how they get back in step.
 *
 * A rank sends its part to every peer and reads one part from each, no more: what a peer sends
 * ahead of us stays in its link.  Every frame says its generation g and the number s of its
 * collective:
 *
 *   (g, s) of a frame against ours    what it is                          what happens
 *   g lower, or g equal and s lower   left over from one that failed      dropped
 *   equal                             this collective                     taken
 *   g equal, s higher                 the peer gave one up that we want   EPF_E_STATE: reset
 *   g higher                          the peer is resetting               EPF_E_STATE: reset
 *
 * Sizes and kinds that differ do not end a collective early: all parts are read to their end, so
 * that every rank finds the difference, answers EPF_E_INVALID, and the links are in step
 * afterwards.
 *
 * Reset.  A rank raises g by one, tells all, and drops what is older.  Who hears of a higher g goes
 * along and tells all again; done is who has heard its own g from everybody.  g never sinks, also
 * when a reset times out, so a rank that comes late (it was stopped, say) finds the highest g of
 * the others' tries in its links and goes there directly.  Links keep order, so nothing of an older
 * generation can follow a RESET; and nobody sends data of generation g before it has heard of g
 * from us, so data of our own generation that a drain meets belongs to the peer's next collective.
 * Whether the last message of a reset arrived cannot be known by its sender: a rank may return from
 * it with EPF_OK while another times out, and is told EPF_E_STATE by its next collective.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "base/epf_clock.h"
#include "comm/epf_process.h"
#include "core/epf_atomic.h"

#define BUSY_NS ((uint64_t)1000000u) /* before trying again what the kernel was short of */

struct run {
    epf_process_comm *comm;
    const epf_exchange *exchange;
    uint64_t deadline_ns;
    int32_t num_open; /* peers not both sent to and received from     */
    bool busy;
    int32_t odd; /* a peer with another size or collective, or -1 */
    uint64_t odd_bytes;
    uint32_t odd_collective;
};

void epf_process_closed(epf_process_comm *comm, int32_t peer)
{
    const uint32_t *left = comm->control == NULL ? NULL : (void *)comm->control->base[peer];
    if (left == NULL || epf_load_acquire_u32(left) == 0) {
        epf_store_release_u32(&comm->peers[peer].dead, 1);
    }
}

epf_status epf_process_gone(epf_process_comm *comm, epf_collective collective, int32_t peer)
{
    epf_process_closed(comm, peer);
    return EPF_FAIL(EPF_E_PEER, "rank %" PRId32 ": %s: rank %" PRId32 " has %s", comm->head.rank,
                    epf_collective_name(collective), peer,
                    epf_load_relaxed_u32(&comm->peers[peer].dead) != 0 ? "died" : "left the group");
}

static epf_status bad_frame(const struct run *run, int32_t peer, const char *what)
{
    return EPF_FAIL(EPF_E_PEER, "rank %" PRId32 ": %s: rank %" PRId32 " sent %s",
                    run->comm->head.rank, epf_collective_name(run->exchange->collective), peer,
                    what);
}

/* Frames to one peer until its link is full. */
static epf_status send_to(struct run *run, int32_t r)
{
    epf_process_comm *comm = run->comm;
    const epf_exchange *x = run->exchange;
    epf_peer *peer = &comm->peers[r];
    while (!peer->sent) {
        const uint64_t left = x->bytes - peer->num_sent;
        const size_t bytes = left < EPF_FRAME_PAYLOAD_BYTES ? left : EPF_FRAME_PAYLOAD_BYTES;
        const uint8_t *payload = bytes == 0 ? NULL : (const uint8_t *)x->send + peer->num_sent;
        epf_frame frame = {.type = EPF_FRAME_DATA,
                           .rank = comm->head.rank,
                           .collective = (uint32_t)x->collective,
                           .generation = comm->generation,
                           .sequence = comm->sequence,
                           .total_bytes = x->bytes,
                           .offset = peer->num_sent};
        switch (
            epf_link_send(peer->link, &frame, payload, bytes, peer->num_sent == 0 ? x->fd : -1)) {
        case EPF_LINK_DONE:
            peer->num_sent += bytes;
            peer->sent = peer->num_sent == x->bytes;
            break;
        case EPF_LINK_AGAIN:
            return EPF_OK;
        case EPF_LINK_BUSY:
            run->busy = true;
            return EPF_OK;
        case EPF_LINK_GONE:
            if (!peer->received) {
                return EPF_OK; /* its part may be in the link yet; reading it will tell */
            }
            peer->sent = true;
            break;
        default:
            return EPF_FAIL(EPF_E_DEVICE, "rank %" PRId32 ": sending to rank %" PRId32 ": %s",
                            comm->head.rank, r, strerror(errno));
        }
    }
    return EPF_OK;
}

/* Whether the frame is of this collective (*ours), of the past (neither), or a reason to stop. */
static epf_status place_frame(struct run *run, int32_t r, const epf_frame *frame, bool *ours)
{
    epf_process_comm *comm = run->comm;
    *ours = false;
    if (frame->type != EPF_FRAME_DATA || frame->rank != r) {
        return bad_frame(run, r, "a message that does not belong here");
    }
    if (frame->generation > comm->generation) {
        comm->peers[r].generation = frame->generation; /* its announcement is not sent again */
        return EPF_FAIL(EPF_E_STATE,
                        "rank %" PRId32 ": rank %" PRId32 " is resetting the group; reset it here",
                        comm->head.rank, r);
    }
    if (frame->generation < comm->generation || frame->collective == EPF_COLLECTIVE_RESET ||
        frame->sequence < comm->sequence) {
        return EPF_OK;
    }
    if (frame->sequence > comm->sequence) {
        return EPF_FAIL(EPF_E_STATE,
                        "rank %" PRId32 ": rank %" PRId32 " is %" PRIu64
                        " collectives ahead; reset the group",
                        comm->head.rank, r, frame->sequence - comm->sequence);
    }
    *ours = true;
    return EPF_OK;
}

/* Takes a frame of this collective in; *fd too. */
static epf_status take_frame(struct run *run, int32_t r, const epf_frame *frame, int *fd)
{
    const epf_exchange *x = run->exchange;
    epf_peer *peer = &run->comm->peers[r];
    const uint64_t end = frame->offset + frame->payload_bytes;
    if (frame->offset != peer->num_received || frame->total_bytes > EPF_COMM_GATHER_BYTES ||
        end > frame->total_bytes || (frame->payload_bytes == 0 && frame->total_bytes > 0) ||
        (frame->has_fd != 0 &&
         (frame->offset != 0 || frame->collective != EPF_COLLECTIVE_WINDOW))) {
        return bad_frame(run, r, "a part that does not fit");
    }
    if (frame->total_bytes != x->bytes || frame->collective != (uint32_t)x->collective) {
        run->odd = r;
        run->odd_bytes = frame->total_bytes;
        run->odd_collective = frame->collective;
    } else if (frame->payload_bytes > 0) {
        memcpy((uint8_t *)x->recv + (size_t)r * x->bytes + frame->offset, run->comm->payload,
               frame->payload_bytes);
    }
    /* Only who makes a window closes what came; in any other collective nobody would. */
    if (frame->has_fd != 0 && x->collective == EPF_COLLECTIVE_WINDOW) {
        peer->fd = *fd;
        peer->fd_lost = *fd < 0;
        *fd = -1;
    }
    peer->num_received = end;
    peer->received = end == frame->total_bytes;
    return EPF_OK;
}

/* Frames of one peer until its part is whole or its link is empty. */
static epf_status receive_from(struct run *run, int32_t r)
{
    epf_peer *peer = &run->comm->peers[r];
    while (!peer->received) {
        epf_frame frame;
        bool ours;
        int fd;
        switch (epf_link_recv(peer->link, &frame, run->comm->payload, &fd)) {
        case EPF_LINK_DONE:
            break;
        case EPF_LINK_AGAIN:
            return EPF_OK;
        case EPF_LINK_GONE:
            return epf_process_gone(run->comm, run->exchange->collective, r);
        default:
            return bad_frame(run, r, "what is no message of this version");
        }
        epf_status st = place_frame(run, r, &frame, &ours);
        if (st == EPF_OK && ours) {
            st = take_frame(run, r, &frame, &fd);
        }
        epf_link_close(&fd);
        EPF_TRY(st);
    }
    return EPF_OK;
}

/* Everybody at once, as far as links allow. */
static epf_status advance(struct run *run)
{
    run->num_open = 0;
    run->busy = false;
    for (int32_t r = 0; r < run->comm->head.num_ranks; r++) {
        const epf_peer *peer = &run->comm->peers[r];
        if (peer->link >= 0 && !(peer->sent && peer->received)) {
            EPF_TRY(send_to(run, r));
            EPF_TRY(receive_from(run, r));
            run->num_open += peer->sent && peer->received ? 0 : 1;
        }
    }
    return EPF_OK;
}

/* Sleeps until a link that matters can move on, or the deadline. */
static void await_links(const struct run *run)
{
    epf_process_comm *comm = run->comm;
    const uint64_t now = epf_now_ns();
    uint64_t left_ns = run->deadline_ns > now ? run->deadline_ns - now : 0;
    nfds_t num_polls = 0;
    for (int32_t r = 0; r < comm->head.num_ranks; r++) {
        const epf_peer *peer = &comm->peers[r];
        const int events = (peer->received ? 0 : POLLIN) | (peer->sent || run->busy ? 0 : POLLOUT);
        if (peer->link >= 0 && events != 0) {
            comm->polls[num_polls].fd = peer->link;
            comm->polls[num_polls++].events = (short)events;
        }
    }
    if (run->busy && left_ns > BUSY_NS) {
        left_ns = BUSY_NS;
    }
    const struct timespec wait = {.tv_sec = (time_t)(left_ns / 1000000000u),
                                  .tv_nsec = (long)(left_ns % 1000000000u)};
    (void)ppoll(comm->polls, num_polls, &wait, NULL);
}

static epf_status missing(const struct run *run)
{
    const epf_process_comm *comm = run->comm;
    int32_t first = -1;
    for (int32_t r = 0; r < comm->head.num_ranks; r++) {
        const epf_peer *peer = &comm->peers[r];
        /* Best one that sent nothing: others wait for it as we do. */
        if (peer->link >= 0 && !(peer->sent && peer->received) &&
            (first < 0 || (comm->peers[first].received && !peer->received))) {
            first = r;
        }
    }
    return epf_collective_timeout(&comm->head, (uint32_t)run->exchange->collective, first,
                                  run->num_open);
}

static epf_status run_exchange(struct run *run)
{
    for (;;) {
        EPF_TRY(advance(run));
        if (run->num_open == 0) {
            break;
        }
        if (epf_now_ns() >= run->deadline_ns) {
            return missing(run);
        }
        await_links(run);
    }
    if (run->odd < 0) {
        return EPF_OK;
    }
    return EPF_FAIL(EPF_E_INVALID,
                    "rank %" PRId32 " is in %s with %zu bytes while rank %" PRId32
                    " is in %s with %" PRIu64 ", must be equal on all ranks",
                    run->comm->head.rank, epf_collective_name(run->exchange->collective),
                    run->exchange->bytes, run->odd, epf_collective_name(run->odd_collective),
                    run->odd_bytes);
}

epf_status epf_process_exchange(epf_process_comm *comm, const epf_exchange *exchange)
{
    struct run run = {
        .comm = comm, .exchange = exchange, .deadline_ns = epf_deadline_ns(&comm->head), .odd = -1};
    for (int32_t r = 0; r < comm->head.num_ranks; r++) {
        epf_peer *peer = &comm->peers[r];
        peer->num_sent = 0;
        peer->num_received = 0;
        peer->sent = false;
        peer->received = false;
        peer->fd = -1;
        peer->fd_lost = false;
    }
    comm->sequence++;
    if (exchange->bytes > 0) {
        memmove((uint8_t *)exchange->recv + (size_t)comm->head.rank * exchange->bytes,
                exchange->send, exchange->bytes);
    }
    return run_exchange(&run);
}

/* --- reset ------------------------------------------------------------------------------------ */

/* Announces our generation to one peer; false where its link is full. */
static bool announce(epf_process_comm *comm, int32_t r)
{
    epf_frame frame = {.type = EPF_FRAME_DATA,
                       .rank = comm->head.rank,
                       .collective = EPF_COLLECTIVE_RESET,
                       .generation = comm->generation};
    const epf_link_result result = epf_link_send(comm->peers[r].link, &frame, NULL, 0, -1);
    return result != EPF_LINK_AGAIN && result != EPF_LINK_BUSY; /* reading will tell who is gone */
}

/*
 * Drops what a peer's link holds of past generations, and notes the highest reset it announced.
 * What belongs to the generation we are resetting to is of the peer's next collective, and stays.
 */
static epf_status drain(epf_process_comm *comm, int32_t r)
{
    epf_peer *peer = &comm->peers[r];
    for (;;) {
        epf_frame frame;
        int fd;
        epf_link_result result = epf_link_peek(peer->link, &frame);
        if (result == EPF_LINK_AGAIN ||
            (result == EPF_LINK_DONE && frame.collective != EPF_COLLECTIVE_RESET &&
             frame.generation >= comm->generation)) {
            return EPF_OK;
        }
        if (result == EPF_LINK_DONE) {
            result = epf_link_recv(peer->link, &frame, comm->payload, &fd);
            epf_link_close(&fd);
        }
        if (result != EPF_LINK_DONE) {
            return epf_process_gone(comm, EPF_COLLECTIVE_RESET, r);
        }
        if (frame.collective == EPF_COLLECTIVE_RESET && frame.generation > peer->generation) {
            peer->generation = frame.generation;
        }
    }
}

/* Raises our generation to the highest announced; returns how many peers are not there yet. */
static epf_status reset_advance(epf_process_comm *comm, int32_t *num_open)
{
    uint64_t highest = comm->generation;
    for (int32_t r = 0; r < comm->head.num_ranks; r++) {
        epf_peer *peer = &comm->peers[r];
        if (peer->link >= 0) {
            EPF_TRY(drain(comm, r));
            highest = peer->generation > highest ? peer->generation : highest;
        }
    }
    *num_open = 0;
    for (int32_t r = 0; r < comm->head.num_ranks; r++) {
        epf_peer *peer = &comm->peers[r];
        if (peer->link < 0) {
            continue;
        }
        peer->sent = peer->sent && highest == comm->generation;
        peer->received = peer->generation == highest;
    }
    comm->generation = highest;
    for (int32_t r = 0; r < comm->head.num_ranks; r++) {
        epf_peer *peer = &comm->peers[r];
        if (peer->link >= 0) {
            peer->sent = peer->sent || announce(comm, r);
            *num_open += peer->sent && peer->received ? 0 : 1;
        }
    }
    return EPF_OK;
}

epf_status epf_process_reset(epf_comm *head)
{
    epf_process_comm *comm = (epf_process_comm *)head;
    const epf_exchange nothing = {.collective = EPF_COLLECTIVE_RESET, .fd = -1};
    struct run run = {
        .comm = comm, .exchange = &nothing, .deadline_ns = epf_deadline_ns(head), .odd = -1};
    comm->generation++;
    comm->sequence = 0;
    for (int32_t r = 0; r < head->num_ranks; r++) {
        comm->peers[r].sent = false;
    }
    for (;;) {
        EPF_TRY(reset_advance(comm, &run.num_open));
        if (run.num_open == 0) {
            return EPF_OK;
        }
        if (epf_now_ns() >= run.deadline_ns) {
            return missing(&run);
        }
        await_links(&run);
    }
}
