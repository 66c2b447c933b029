/* bodies.c: what a group must do, whatever its provider is. */
#include "bodies.h"

#include <string.h>

#include "comm/epf_wait.h"

enum { MOST_BYTES = 40000 };

static uint8_t pattern(int32_t rank, size_t index, size_t salt)
{
    return (uint8_t)((size_t)rank * 31 + index * 7 + salt);
}

void body_gather(epf_comm *comm, void *context)
{
    static const size_t sizes[] = {1, 8, 4096, MOST_BYTES, 3};
    const int32_t num_ranks = comm->num_ranks;
    (void)context;
    uint8_t *send = malloc(MOST_BYTES);
    uint8_t *recv = malloc((size_t)num_ranks * MOST_BYTES);
    CHECK(send != NULL && recv != NULL, "no memory");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const size_t bytes = sizes[i];
        for (size_t b = 0; b < bytes; b++) {
            send[b] = pattern(comm->rank, b, i);
        }
        memset(recv, 0xee, (size_t)num_ranks * MOST_BYTES);
        CHECK_OK(epf_comm_all_gather(comm, send, recv, bytes));
        memset(send, 0, MOST_BYTES); /* ours again from now on */
        for (size_t b = 0; b < (size_t)num_ranks * bytes; b++) {
            const uint8_t wanted = pattern((int32_t)(b / bytes), b % bytes, i);
            CHECK(recv[b] == wanted, "size %zu, byte %zu is %u, wanted %u", bytes, b, recv[b],
                  wanted);
        }
        CHECK_OK(epf_comm_barrier(comm));
    }
    free(send);
    free(recv);

    const int32_t last = num_ranks - 1;
    CHECK_OK(epf_comm_agree(comm, EPF_OK));
    CHECK_STATUS(epf_comm_agree(comm, comm->rank == last ? EPF_E_CAPACITY : EPF_OK),
                 EPF_E_CAPACITY);
    CHECK_STATUS(epf_comm_all_gather(comm, NULL, NULL, 1), EPF_E_INVALID); /* local, no round */
    CHECK_OK(epf_comm_reset(comm));
    CHECK_OK(epf_comm_barrier(comm));
    CHECK(!epf_comm_peer_alive(comm, -1) && !epf_comm_peer_alive(comm, num_ranks), "range");
    CHECK(epf_comm_peer_alive(comm, comm->rank), "we live");
    CHECK(epf_comm_find_dead(comm) == -1, "rank %d seems dead", (int)epf_comm_find_dead(comm));
}

static void check_zero(const epf_window *window, int32_t rank)
{
    for (uint64_t b = 0; b < window->bytes; b++) {
        CHECK(window->base[rank][b] == 0, "byte %zu of rank %d", (size_t)b, (int)rank);
    }
}

void body_window(epf_comm *comm, void *context)
{
    static const uint64_t sizes[2] = {5000, 8192};
    epf_window *windows[2];
    const int32_t num_ranks = comm->num_ranks;
    (void)context;
    for (int i = 0; i < 2; i++) {
        CHECK_OK(epf_comm_window_create(comm, sizes[i], &windows[i]));
        CHECK(windows[i]->bytes == sizes[i] && windows[i]->rank == comm->rank &&
                  windows[i]->num_ranks == num_ranks,
              "window %d", i);
        for (int32_t r = 0; r < num_ranks; r++) {
            CHECK((uintptr_t)windows[i]->base[r] % EPF_COMM_WINDOW_ALIGN == 0, "alignment");
            check_zero(windows[i], r);
        }
    }
    CHECK_OK(epf_comm_barrier(comm)); /* all have seen the zeros */
    for (int i = 0; i < 2; i++) {
        for (int32_t r = 0; r < num_ranks; r++) { /* byte `rank` of every part is ours to write */
            windows[i]->base[r][comm->rank] = (uint8_t)(1 + i * 100 + comm->rank + r);
        }
        windows[i]->base[comm->rank][sizes[i] - 1] = (uint8_t)(comm->rank + 1);
    }
    CHECK_OK(epf_comm_barrier(comm));
    for (int i = 0; i < 2; i++) {
        for (int32_t r = 0; r < num_ranks; r++) {
            CHECK(windows[i]->base[r][sizes[i] - 1] == (uint8_t)(r + 1), "last byte");
            for (int32_t s = 0; s < num_ranks; s++) {
                CHECK(windows[i]->base[r][s] == (uint8_t)(1 + i * 100 + s + r), "%d %d", (int)r,
                      (int)s);
            }
        }
    }
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_window_destroy(comm, windows[0]);
    /* The other one stays whole, also where a peer has already let go of it. */
    CHECK(windows[1]->base[num_ranks - 1][sizes[1] - 1] == (uint8_t)num_ranks, "after destroy");
    epf_comm_window_destroy(comm, windows[1]);
    epf_comm_window_destroy(comm, NULL);
}

void body_window_errors(epf_comm *comm, void *context)
{
    epf_window *window;
    const bool last = comm->rank == comm->num_ranks - 1;
    (void)context;
    CHECK_STATUS(epf_comm_window_create(comm, 0, &window), EPF_E_INVALID);
    CHECK(window == NULL, "left behind");
    CHECK_STATUS(epf_comm_window_create(comm, UINT64_MAX, &window), EPF_E_NO_MEMORY);
    CHECK_STATUS(epf_comm_window_create(comm, (uint64_t)1 << 60, &window), EPF_E_NO_MEMORY);
    if (comm->num_ranks > 1) {
        CHECK_STATUS(epf_comm_window_create(comm, last ? 4096 : 8192, &window), EPF_E_INVALID);
        CHECK_STATUS(epf_comm_window_create(comm, last ? 0 : 8192, &window), EPF_E_INVALID);
        CHECK_STATUS(epf_comm_window_create(comm, last ? UINT64_MAX : 8192, &window),
                     EPF_E_INVALID);
        CHECK(window == NULL, "left behind");
        uint8_t bytes[8] = {0};
        uint8_t *all = calloc((size_t)comm->num_ranks, sizeof bytes);
        CHECK_STATUS(epf_comm_all_gather(comm, bytes, all, last ? 8 : 4), EPF_E_INVALID);
        free(all);
    }
    CHECK_OK(epf_comm_window_create(comm, 4096, &window));
    window->base[comm->rank][0] = 1;
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_window_destroy(comm, window);
}

/* A window's part in body_ring: a counter of its own line, and what it announces. */
struct ring_part {
    uint64_t counter;
    uint8_t apart[120];
    uint64_t payload[64];
};

enum { RING_ROUNDS = 40 };

void body_ring(epf_comm *comm, void *context)
{
    epf_window *window;
    (void)context;
    CHECK_OK(epf_comm_window_create(comm, sizeof(struct ring_part), &window));
    struct ring_part *own = (struct ring_part *)(void *)window->base[comm->rank];
    struct ring_part *next =
        (struct ring_part *)(void *)window->base[(comm->rank + 1) % comm->num_ranks];
    const int32_t previous = (comm->rank + comm->num_ranks - 1) % comm->num_ranks;
    const epf_wait_watch watch = {.comm = comm, .timeout_ns = comm->timeout_ns};

    /* One token goes round: each hop reads plain memory that the previous rank wrote. */
    for (uint64_t round = 1; round <= RING_ROUNDS; round++) {
        if (comm->rank != 0 || round > 1) {
            const uint64_t wanted = comm->rank == 0 ? round - 1 : round;
            epf_wait_report report = {.peer = -1};
            const epf_wait_code code =
                epf_wait_u64(&watch, &own->counter, wanted, previous, &report);
            CHECK(code == EPF_WAIT_READY, "code %d, peer %d", (int)code, (int)report.peer);
        }
        for (size_t i = 0; i < 64; i++) {
            if (comm->rank != 0 || round > 1) {
                CHECK(own->payload[i] == (comm->rank == 0 ? round - 1 : round) * 1000 + i,
                      "round %zu, word %zu is %zu", (size_t)round, i, (size_t)own->payload[i]);
            }
        }
        for (size_t i = 0; i < 64; i++) {
            next->payload[i] = round * 1000 + i;
        }
        epf_add_release_u64(&next->counter, 1);
    }
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_window_destroy(comm, window);
}
