/*
 * test_bootstrap: groups form by callback and by rendezvous, strangers do not disturb them, and
 * what cannot form a group says why on every rank.
 *
 * Ranks are threads here, each with a handle of the provider for processes: what they send to each
 * other is the same, and the sanitizers see all of it.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "bodies.h"
#include "comm/epf_join.h"
#include "comm/epf_process.h"

#define MS ((uint64_t)1000000u)
#define SECOND (1000 * MS)

enum { NUM_RANKS = 4 };

static void sleep_ms(uint64_t ms)
{
    const struct timespec nap = {.tv_sec = (time_t)(ms / 1000),
                                 .tv_nsec = (long)(ms % 1000 * 1000000)};
    (void)nanosleep(&nap, NULL);
}

static epf_comm_config config_of(int32_t rank, int32_t num_ranks, uint64_t timeout_ns)
{
    epf_comm_config config;
    epf_comm_config_init(&config);
    config.rank = rank;
    config.num_ranks = num_ranks;
    config.timeout_ns = timeout_ns;
    return config;
}

static void use_and_destroy(epf_comm *comm)
{
    body_gather(comm, NULL);
    body_window(comm, NULL);
    body_window_errors(comm, NULL);
    body_ring(comm, NULL);
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_destroy(comm);
}

/* --- callback --------------------------------------------------------------------------------- */

static int gather_of_threads(void *context, const void *send, void *recv, size_t bytes)
{
    return epf_comm_all_gather(context, send, recv, bytes) == EPF_OK ? 0 : 17;
}

static int gather_shifted(void *context, const void *send, void *recv, size_t bytes)
{
    epf_comm *threads = context;
    uint8_t *all = malloc(bytes * (size_t)threads->num_ranks);
    const int rc = gather_of_threads(context, send, all, bytes);
    const size_t rest = bytes * (size_t)(threads->num_ranks - 1);
    memcpy((uint8_t *)recv + bytes, all, rest);
    memcpy(recv, all + rest, bytes);
    free(all);
    return rc;
}

static void body_callback(epf_comm *threads, void *context)
{
    epf_comm *comm;
    const epf_comm_config config = config_of(threads->rank, threads->num_ranks, 60 * SECOND);
    (void)context;
    CHECK_OK(epf_comm_create_callback(&config, gather_of_threads, threads, &comm));
    CHECK(comm->rank == threads->rank && comm->num_ranks == threads->num_ranks, "rank");
    CHECK(strstr(comm->origin, "all-gather") != NULL, "origin %s", comm->origin);
    use_and_destroy(comm);
}

static void body_bad_callback(epf_comm *threads, void *context)
{
    epf_comm *comm;
    const bool last = threads->rank == threads->num_ranks - 1;
    epf_comm_config config = config_of(threads->rank, threads->num_ranks, 60 * SECOND);
    (void)context;
    CHECK_STATUS(epf_comm_create_callback(&config, NULL, threads, &comm), EPF_E_INVALID);
    CHECK_STATUS(epf_comm_create_callback(NULL, gather_of_threads, threads, &comm), EPF_E_INVALID);
    CHECK_STATUS(epf_comm_create_callback(&config, gather_of_threads, threads, NULL),
                 EPF_E_INVALID);
    CHECK_STATUS(epf_comm_create_callback(&config, gather_shifted, threads, &comm), EPF_E_INVALID);
    CHECK(strstr(epf_error_text(), "where rank 0 belongs") != NULL, "text");
    config.num_ranks += last ? 1 : 0; /* the gather itself cannot know */
    CHECK_STATUS(epf_comm_create_callback(&config, gather_of_threads, threads, &comm),
                 EPF_E_INVALID);
    CHECK(strstr(epf_error_text(), "num_ranks") != NULL, "text");
    CHECK(comm == NULL, "comm");
}

static void body_callback_fails(epf_comm *threads, void *context)
{
    epf_comm *comm;
    const epf_comm_config config = config_of(threads->rank, threads->num_ranks, SECOND);
    (void)context;
    if (threads->rank == 0) {
        return;
    }
    CHECK_STATUS(epf_comm_create_callback(&config, gather_of_threads, threads, &comm), EPF_E_PEER);
    CHECK(strstr(epf_error_text(), "all_gather returned 17") != NULL, "text");
}

/* --- rendezvous ------------------------------------------------------------------------------- */

static const char *job_of(const char *what)
{
    static _Thread_local char job[64];
    (void)snprintf(job, sizeof job, "test-%ld-%s", (long)getpid(), what);
    return job;
}

static void body_rendezvous(epf_comm *threads, void *context)
{
    const epf_comm_config config = config_of(threads->rank, threads->num_ranks, 60 * SECOND);
    (void)context;
    for (int i = 0; i < 3; i++) { /* one group after the other in the same job */
        epf_comm *comm;
        if (threads->rank == i % threads->num_ranks) {
            sleep_ms(30); /* rank 0 late, and others late */
        }
        CHECK_OK(epf_comm_create_rendezvous(&config, job_of("plain"), &comm));
        CHECK_OK(epf_comm_barrier(comm));
        if (i == 0) {
            body_window(comm, NULL);
            CHECK_OK(epf_comm_barrier(comm));
        }
        epf_comm_destroy(comm);
    }
}

static void body_missing(epf_comm *threads, void *context)
{
    const epf_comm_config config = config_of(threads->rank, threads->num_ranks, 300 * MS);
    epf_comm *comm;
    const uint64_t begin = epf_now_ns();
    (void)context;
    if (threads->rank == 2) {
        return;
    }
    CHECK_STATUS(epf_comm_create_rendezvous(&config, job_of("missing"), &comm), EPF_E_TIMEOUT);
    CHECK(seconds_since(begin) >= 0.3 && seconds_since(begin) < 0.3 + TIMEOUT_SLACK, "%.3f s",
          seconds_since(begin));
    CHECK(threads->rank != 0 || strstr(epf_error_text(), "rank 2 did not come") != NULL, "text");
}

/* One rank believes in another size: it is told; the others go on waiting for the real one. */
static void body_other_size(epf_comm *threads, void *context)
{
    const int32_t wrong = threads->rank == 1 ? threads->num_ranks + 1 : threads->num_ranks;
    const epf_comm_config config = config_of(threads->rank, wrong, SECOND / 2);
    epf_comm *comm;
    (void)context;
    const epf_status st = epf_comm_create_rendezvous(&config, job_of("size"), &comm);
    CHECK(st == (threads->rank == 1 ? EPF_E_INVALID : EPF_E_TIMEOUT), "status %d", (int)st);
    CHECK(threads->rank != 1 || strstr(epf_error_text(), "num_ranks is 5 here and 4 on rank 0"),
          "text");
}

/* Two processes say they are rank 1: one of them is refused, the group forms. */
static void body_twice(epf_comm *threads, void *context)
{
    static uint32_t num_refused;
    const int32_t rank = threads->rank == threads->num_ranks - 1 ? 1 : threads->rank;
    const epf_comm_config config = config_of(rank, threads->num_ranks - 1, 10 * SECOND);
    epf_comm *comm;
    (void)context;
    /* So that nobody can be done before both that say rank 1 have come. */
    for (int i = 0; threads->rank == 2 && i < 5000; i++) {
        if (__atomic_load_n(&num_refused, __ATOMIC_RELAXED) != 0) {
            break;
        }
        sleep_ms(1);
    }
    const epf_status st = epf_comm_create_rendezvous(&config, job_of("twice"), &comm);
    if (st == EPF_OK) {
        CHECK_OK(epf_comm_barrier(comm));
        epf_comm_destroy(comm);
    } else {
        CHECK(st == EPF_E_INVALID && strstr(epf_error_text(), "already joined") != NULL, "%d",
              (int)st);
        (void)__atomic_fetch_add(&num_refused, 1, __ATOMIC_RELAXED);
    }
    CHECK_OK(epf_comm_barrier(threads));
    CHECK(__atomic_load_n(&num_refused, __ATOMIC_RELAXED) == 1, "refused");
}

/* --- strangers -------------------------------------------------------------------------------- */

struct strangers {
    epf_link_name name;
    uint32_t stop; /* atomic */
    int num_visits;
};

/* What a stranger might say first. */
static void say(int link, int kind)
{
    uint8_t bytes[4096];
    epf_frame frame = {.type = (uint16_t)(kind % 7), .rank = 1};
    const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 131 + (size_t)kind * 7);
    }
    switch (kind % 6) {
    case 0: /* noise, of any length */
        (void)send(link, bytes, (size_t)(kind * 37 % 4096), MSG_NOSIGNAL);
        break;
    case 1: /* silence */
        break;
    case 2: /* a good head, and a payload that means nothing */
        (void)epf_link_send(link, &frame, bytes, (size_t)(kind * 11 % 300), -1);
        break;
    case 3: /* a descriptor nobody asked for */
        (void)epf_link_send(link, &frame, bytes, 24, fd);
        break;
    case 4: /* a HELLO with a wrong token: 24 bytes, rank 1 of NUM_RANKS */
        frame.type = EPF_FRAME_HELLO;
        memset(bytes, 0, 24);
        bytes[16] = 1;
        bytes[20] = NUM_RANKS;
        (void)epf_link_send(link, &frame, bytes, 24, -1);
        break;
    default: /* a length that lies */
        (void)epf_link_send(link, &frame, bytes, 16, -1);
        frame.payload_bytes = 15000;
        (void)send(link, &frame, sizeof frame, MSG_NOSIGNAL);
    }
    (void)close(fd);
}

static void *strangers_main(void *argument)
{
    struct strangers *strangers = argument;
    int links[16];
    int num_links = 0;
    while (__atomic_load_n(&strangers->stop, __ATOMIC_ACQUIRE) == 0) {
        if (epf_link_connect(&strangers->name, &links[num_links]) != EPF_LINK_DONE) {
            sleep_ms(1);
            continue;
        }
        say(links[num_links++], strangers->num_visits++);
        if (num_links == 16) { /* keeps them open for a while, as one who hopes to be let in */
            for (; num_links > 0; num_links--) {
                epf_link_close(&links[num_links - 1]);
            }
            sleep_ms(1);
        }
    }
    for (; num_links > 0; num_links--) {
        epf_link_close(&links[num_links - 1]);
    }
    return NULL;
}

static void body_rendezvous_besieged(epf_comm *threads, void *context)
{
    const epf_comm_config config = config_of(threads->rank, threads->num_ranks, 60 * SECOND);
    struct strangers strangers = {.name = epf_rendezvous_name(job_of("siege"))};
    pthread_t thread;
    epf_comm *comm;
    (void)context;
    if (threads->rank == 1) {
        CHECK(pthread_create(&thread, NULL, strangers_main, &strangers) == 0, "thread");
        sleep_ms(300);
    }
    CHECK_OK(epf_comm_create_rendezvous(&config, job_of("siege"), &comm));
    CHECK_OK(epf_comm_barrier(comm));
    if (threads->rank == 1) {
        __atomic_store_n(&strangers.stop, 1, __ATOMIC_RELEASE);
        (void)pthread_join(thread, NULL);
        CHECK(strangers.num_visits > 50, "%d visits", strangers.num_visits);
    }
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_destroy(comm);
}

/* A roster that all ranks share, listeners made beforehand, as epf_launch does it. */
struct mesh_case {
    epf_roster roster;
    uint64_t ids[NUM_RANKS];
    int listeners[NUM_RANKS];
};

static void mesh_case_init(struct mesh_case *c)
{
    c->roster.ids = c->ids;
    CHECK_OK(epf_link_random(&c->roster.token, sizeof c->roster.token));
    CHECK_OK(epf_link_random(c->ids, sizeof c->ids));
    for (int r = 0; r < NUM_RANKS; r++) {
        const epf_link_name name = epf_link_name_of(c->ids[r]);
        CHECK_OK(epf_link_listen(&name, &c->listeners[r]));
        int again;
        CHECK_STATUS(epf_link_listen(&name, &again), EPF_E_STATE);
    }
}

static void body_mesh_besieged(epf_comm *threads, void *context)
{
    struct mesh_case *c = context;
    const epf_comm_config config = config_of(threads->rank, threads->num_ranks, 60 * SECOND);
    struct strangers strangers = {.name = epf_link_name_of(c->ids[0])};
    pthread_t thread;
    epf_comm *comm;
    if (threads->rank == 3) {
        CHECK(pthread_create(&thread, NULL, strangers_main, &strangers) == 0, "thread");
        sleep_ms(300);
    }
    CHECK_OK(epf_process_create(&config, &c->roster, &c->listeners[threads->rank], &comm));
    CHECK(c->listeners[threads->rank] == -1, "used up");
    CHECK_OK(epf_comm_barrier(comm));
    if (threads->rank == 3) {
        __atomic_store_n(&strangers.stop, 1, __ATOMIC_RELEASE);
        (void)pthread_join(thread, NULL);
        CHECK(strangers.num_visits > 50, "%d visits", strangers.num_visits);
    }
    CHECK_OK(epf_comm_barrier(comm));
    epf_comm_destroy(comm);
}

/* A rank without the token stays outside; those who do not need it to listen find it missing. */
static void body_wrong_token(epf_comm *threads, void *context)
{
    struct mesh_case *c = context;
    epf_roster roster = c->roster;
    const epf_comm_config config = config_of(threads->rank, threads->num_ranks, 300 * MS);
    epf_comm *comm = NULL;
    if (threads->rank == 1) {
        roster.token.bytes[15] ^= 1;
    }
    const epf_status st = epf_process_create(&config, &roster, &c->listeners[threads->rank], &comm);
    CHECK(st == EPF_E_PEER || (threads->rank != 1 && st == EPF_E_TIMEOUT), "status %d", (int)st);
    CHECK(threads->rank != 1 || strstr(epf_error_text(), "rank 0 refused us") != NULL, "text");
    CHECK(comm == NULL, "comm");
}

/* --- a member gone mad ------------------------------------------------------------------------ */

/* Rank 0 sends what no rank sends; the others answer with an error that names it. */
static void body_mad_member(epf_comm *threads, void *context)
{
    struct mesh_case *c = context;
    const epf_comm_config config = config_of(threads->rank, threads->num_ranks, 10 * SECOND);
    epf_comm *comm;
    const int kind = *(const int *)(const void *)(c + 1);
    CHECK_OK(epf_process_create(&config, &c->roster, &c->listeners[threads->rank], &comm));
    epf_process_comm *process = (epf_process_comm *)comm;
    if (threads->rank == 0) {
        for (int32_t r = 1; r < threads->num_ranks; r++) {
            uint8_t noise[100] = {1, 2, 3};
            const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
            epf_frame frame = {.type = EPF_FRAME_DATA,
                               .collective = EPF_COLLECTIVE_GATHER,
                               .sequence = process->sequence + 1,
                               .total_bytes = 8};
            size_t bytes = 8;
            frame.rank = kind == 0 ? 3 : 0;
            frame.type = kind == 1 ? EPF_FRAME_HELLO : EPF_FRAME_DATA;
            frame.offset = kind == 2 ? UINT64_MAX - 3 : 0;
            frame.total_bytes = kind == 3 ? UINT64_MAX : 8;
            bytes = kind == 4 ? 9 : (kind == 5 ? 0 : 8);
            if (kind == 7) {
                (void)send(process->peers[r].link, noise, sizeof noise, MSG_NOSIGNAL);
            } else {
                (void)epf_link_send(process->peers[r].link, &frame, noise, bytes,
                                    kind == 6 ? fd : -1);
            }
            (void)close(fd);
        }
        CHECK_OK(epf_comm_barrier(threads));
    } else {
        uint64_t one = 1;
        uint64_t all[NUM_RANKS];
        CHECK_STATUS(epf_comm_all_gather(comm, &one, all, sizeof one), EPF_E_PEER);
        CHECK(strstr(epf_error_text(), "rank 0 sent") != NULL, "text");
        CHECK_OK(epf_comm_barrier(threads));
    }
    epf_comm_destroy(comm);
}

static void test_mad_members(void)
{
    for (int kind = 0; kind < 8; kind++) {
        struct {
            struct mesh_case mesh;
            int kind;
        } c = {.kind = kind};
        mesh_case_init(&c.mesh);
        run_threads(NUM_RANKS, 60 * SECOND, body_mad_member, &c);
    }
}

int main(void)
{
    static const int32_t sizes[] = {1, 2, 3, 8};
    const int descriptors = count_descriptors();
    struct mesh_case c;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        run_threads(sizes[i], 60 * SECOND, body_callback, NULL);
        run_threads(sizes[i], 60 * SECOND, body_rendezvous, NULL);
    }
    run_threads(3, 60 * SECOND, body_bad_callback, NULL);
    run_threads(3, SECOND / 4, body_callback_fails, NULL);
    run_threads(NUM_RANKS, 60 * SECOND, body_missing, NULL);
    run_threads(NUM_RANKS, 60 * SECOND, body_other_size, NULL);
    run_threads(NUM_RANKS, 60 * SECOND, body_twice, NULL);
    run_threads(NUM_RANKS, 60 * SECOND, body_rendezvous_besieged, NULL);
    mesh_case_init(&c);
    run_threads(NUM_RANKS, 60 * SECOND, body_mesh_besieged, &c);
    mesh_case_init(&c);
    run_threads(NUM_RANKS, 60 * SECOND, body_wrong_token, &c);
    test_mad_members();
    CHECK(count_descriptors() == descriptors, "%d descriptors, were %d", count_descriptors(),
          descriptors);
    return 0;
}
