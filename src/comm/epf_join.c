/*
 * epf_join.c: forming groups of processes, by callback, rendezvous, and launchers' variables.
 *
 * Each rank listens under a random number before it says so to anybody; what differs is only how
 * the numbers travel: through the caller's all-gather, or
 *
 *   rank r                         rank 0
 *   listens (random number)        listens (random number), and at the rendezvous
 *   JOIN (number, r of W) -------> keeps the link as r's seat; a doubled or wrong r is refused
 *   waits                          waits for all W - 1; a seat whose rank died is free again
 *   takes it <-------------------- TABLE (token, all numbers), when all have come
 *
 * and then the mesh (epf_mesh.c).  Who is turned away because an earlier group of the same job is
 * just closing its rendezvous knocks again, until its own deadline.
 */
#include "comm/epf_join.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "comm/epf_env.h"
#include "comm/epf_process.h"

#define KNOCK_NS ((uint64_t)5000000u)   /* between tries while rank 0 does not listen yet    */
#define LISTEN_NS ((uint64_t)50000000u) /* most that rank 0 sleeps while it waits for guests */

/* What each rank tells about itself. */
struct card {
    uint64_t id;      /* of its listener                                  */
    uint64_t machine; /* equal where local sockets and memory can be shared */
    epf_token token;  /* rank 0's becomes the group's                     */
    int32_t rank;
    int32_t num_ranks;
    int32_t status; /* not EPF_OK: this rank cannot take part           */
    int32_t reserved;
};

/* TABLE: the answer to all cards; ids[num_ranks] follow. */
struct table {
    epf_token token;
    int32_t num_ranks;
    int32_t reserved;
};

_Static_assert(sizeof(struct table) + EPF_COMM_MAX_RANKS * sizeof(uint64_t) <=
                   EPF_FRAME_PAYLOAD_BYTES,
               "the table of the largest group fits one frame");

/* The work of one rank between its first word and the mesh. */
struct join {
    const epf_comm_config *config;
    struct card own;
    int listener;
    epf_roster roster;
    uint64_t deadline_ns;
    uint8_t *payload;
};

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (; *text != '\0'; text++) { /* FNV-1a */
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3u;
    }
    return hash;
}

/* This boot of this machine, and this network namespace, which is what abstract names live in. */
static uint64_t machine_id(void)
{
    char text[64] = "";
    struct stat status;
    uint64_t hash = 0xcbf29ce484222325u;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file != NULL) {
        if (fgets(text, sizeof text, file) != NULL) {
            hash = hash_text(hash, text);
        }
        (void)fclose(file);
    }
    if (stat("/proc/self/ns/net", &status) == 0) {
        (void)snprintf(text, sizeof text, "%ju", (uintmax_t)status.st_ino);
        hash = hash_text(hash, text);
    }
    return hash;
}

static void join_release(struct join *join)
{
    epf_link_close(&join->listener);
    epf_free(join->roster.ids);
    epf_free(join->payload);
}

/* A listener under a random name, and our card.  On failure the card says so. */
static epf_status join_begin(struct join *join, const epf_comm_config *config)
{
    const uint64_t now = epf_now_ns();
    memset(join, 0, sizeof *join);
    join->config = config;
    join->listener = -1;
    join->deadline_ns =
        config->timeout_ns < UINT64_MAX - now ? now + config->timeout_ns : UINT64_MAX;
    join->own.rank = config->rank;
    join->own.num_ranks = config->num_ranks;
    join->own.machine = machine_id();
    epf_status st;
    join->roster.ids = epf_alloc((size_t)config->num_ranks, sizeof *join->roster.ids);
    join->payload = epf_alloc(1, EPF_FRAME_PAYLOAD_BYTES);
    if (join->roster.ids == NULL || join->payload == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "rank %" PRId32 ": no memory to join", config->rank);
        goto err;
    }
    EPF_TRY_GOTO(epf_mesh_reserve_descriptors(config->num_ranks), err);
    EPF_TRY_GOTO(epf_link_random(&join->own.id, sizeof join->own.id), err);
    EPF_TRY_GOTO(epf_link_random(&join->own.token, sizeof join->own.token), err);
    const epf_link_name name = epf_link_name_of(join->own.id);
    EPF_TRY_GOTO(epf_link_listen(&name, &join->listener), err);
    return EPF_OK;
err:
    join->own.status = st;
    return st;
}

static epf_status join_finish(struct join *join, epf_comm **comm)
{
    return epf_process_create(join->config, &join->roster, &join->listener, comm);
}

/* --- callback --------------------------------------------------------------------------------- */

static epf_status cards_check(const struct card *cards, const epf_comm_config *config)
{
    for (int32_t r = 0; r < config->num_ranks; r++) {
        const struct card *card = &cards[r];
        if (card->status != EPF_OK && r != config->rank) {
            return EPF_FAIL((epf_status)card->status,
                            "rank %" PRId32 " could not prepare to join the group", r);
        }
        EPF_CHECK_ARG(card->rank == r,
                      "all_gather put rank %" PRId32 " where rank %" PRId32 " belongs", card->rank,
                      r);
        EPF_CHECK_ARG(card->num_ranks == config->num_ranks,
                      "num_ranks is %" PRId32 " here and %" PRId32 " on rank %" PRId32,
                      config->num_ranks, card->num_ranks, r);
        if (card->machine != cards[config->rank].machine) {
            return EPF_FAIL(EPF_E_UNSUPPORTED,
                            "rank %" PRId32 " is on another machine, or in another network "
                            "namespace of it, than rank %" PRId32,
                            r, config->rank);
        }
    }
    return (epf_status)cards[config->rank].status; /* its text is already recorded */
}

epf_status epf_comm_create_callback(const epf_comm_config *config, epf_gather_callback *all_gather,
                                    void *context, epf_comm **comm)
{
    struct join join;
    EPF_CHECK_ARG(comm, "comm is NULL");
    *comm = NULL;
    EPF_TRY(epf_comm_config_check(config));
    EPF_CHECK_ARG(all_gather, "all_gather is NULL");
    struct card *cards = epf_alloc((size_t)config->num_ranks, sizeof *cards);
    if (cards == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "rank %" PRId32 ": no memory to join", config->rank);
    }
    (void)join_begin(&join, config); /* also after a failure: others wait for our card */
    const int rc = all_gather(context, &join.own, cards, sizeof join.own);
    epf_status st = rc == 0 ? cards_check(cards, config)
                            : EPF_FAIL(EPF_E_PEER, "rank %" PRId32 ": all_gather returned %d",
                                       config->rank, rc);
    if (st == EPF_OK) {
        join.roster.token = cards[0].token;
        for (int32_t r = 0; r < config->num_ranks; r++) {
            join.roster.ids[r] = cards[r].id;
        }
        st = join_finish(&join, comm);
    }
    epf_free(cards);
    join_release(&join);
    if (st == EPF_OK) {
        (void)strcpy((*comm)->origin, "the caller's all-gather");
    }
    return st;
}

/* --- rendezvous ------------------------------------------------------------------------------- */

epf_link_name epf_rendezvous_name(const char *job)
{
    epf_link_name name;
    (void)snprintf(name.text, sizeof name.text, "epfuse-rendezvous-%ju-%016" PRIx64 "%016" PRIx64,
                   (uintmax_t)geteuid(), hash_text(0xcbf29ce484222325u, job),
                   hash_text(0x84222325cbf29ce4u, job));
    return name;
}

/* Text for a guest that cannot take part; what it does with it is its affair. */
static void refuse(int link, const char *reason)
{
    epf_frame frame = {.type = EPF_FRAME_REFUSE};
    (void)epf_link_send(link, &frame, reason, strlen(reason), -1);
}

/* Rank 0: one guest's card.  Takes the link over. */
static void seat(struct join *join, int *links, int link, const epf_frame *frame)
{
    const int32_t num_ranks = join->config->num_ranks;
    struct card card;
    char reason[160];
    if (frame->type != EPF_FRAME_JOIN || frame->payload_bytes != sizeof card) {
        epf_link_close(&link);
        return;
    }
    memcpy(&card, join->payload, sizeof card);
    if (card.num_ranks != num_ranks) {
        (void)snprintf(reason, sizeof reason,
                       "num_ranks is %" PRId32 " here and %" PRId32 " on rank 0", card.num_ranks,
                       num_ranks);
    } else if (card.rank < 1 || card.rank >= num_ranks) {
        (void)snprintf(reason, sizeof reason, "rank is %" PRId32 ", must be 1..%" PRId32, card.rank,
                       num_ranks - 1);
    } else if (links[card.rank] >= 0) {
        (void)snprintf(reason, sizeof reason, "rank %" PRId32 " has already joined", card.rank);
    } else {
        links[card.rank] = link;
        join->roster.ids[card.rank] = card.id;
        return;
    }
    refuse(link, reason);
    epf_link_close(&link);
}

/* Rank 0: frees the seats of those who went again; returns an empty one, or num_ranks.  Best one
 * whose rank never came: others may have gone because of it. */
static int32_t empty_seat(const struct join *join, int *links)
{
    int32_t empty = join->config->num_ranks;
    for (int32_t r = join->config->num_ranks - 1; r >= 1; r--) {
        epf_frame frame;
        if (links[r] >= 0 && epf_link_peek(links[r], &frame) != EPF_LINK_AGAIN) {
            epf_link_close(&links[r]); /* closed, or not silent as a seated guest is */
        }
        const bool never_came = join->roster.ids[r] == 0;
        if (links[r] < 0 &&
            (never_came || empty == join->config->num_ranks || join->roster.ids[empty] != 0)) {
            empty = r;
        }
    }
    return empty;
}

static epf_status seat_all(struct join *join, epf_reception *reception, int *links)
{
    for (;;) {
        epf_frame frame;
        int link;
        const int32_t empty = empty_seat(join, links);
        if (empty == join->config->num_ranks) {
            return EPF_OK;
        }
        const uint64_t now = epf_now_ns();
        if (now >= join->deadline_ns) {
            return EPF_FAIL(EPF_E_TIMEOUT,
                            "rank %" PRId32 " did not come to the rendezvous within %.3g s", empty,
                            (double)join->config->timeout_ns * 1e-9);
        }
        const uint64_t left_ns = join->deadline_ns - now;
        if (epf_reception_next(reception, left_ns < LISTEN_NS ? left_ns : LISTEN_NS, &link, &frame,
                               join->payload) == EPF_LINK_DONE) {
            seat(join, links, link, &frame);
        }
    }
}

/* Rank 0: tells everybody where everybody is. */
static epf_status tell_all(struct join *join, const int *links)
{
    const int32_t num_ranks = join->config->num_ranks;
    const size_t ids_bytes = (size_t)num_ranks * sizeof join->roster.ids[0];
    const struct table table = {.token = join->roster.token, .num_ranks = num_ranks};
    memcpy(join->payload, &table, sizeof table);
    memcpy(join->payload + sizeof table, join->roster.ids, ids_bytes);
    for (int32_t r = 1; r < num_ranks; r++) {
        epf_frame frame = {.type = EPF_FRAME_TABLE};
        if (epf_link_send(links[r], &frame, join->payload, sizeof table + ids_bytes, -1) !=
            EPF_LINK_DONE) {
            return EPF_FAIL(EPF_E_PEER, "rank %" PRId32 " went away from the rendezvous", r);
        }
    }
    return EPF_OK;
}

static void sleep_ns(uint64_t ns)
{
    const struct timespec duration = {.tv_sec = 0, .tv_nsec = (long)ns};
    (void)nanosleep(&duration, NULL);
}

static epf_status host(struct join *join, const epf_link_name *name)
{
    const int32_t num_ranks = join->config->num_ranks;
    epf_reception reception;
    int door = -1;
    int *links = epf_alloc((size_t)num_ranks, sizeof *links);
    if (links == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "rank 0: no memory for the rendezvous");
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        links[r] = -1;
    }
    epf_status st = epf_link_listen(name, &door);
    while (st == EPF_E_STATE && epf_now_ns() < join->deadline_ns) {
        sleep_ns(KNOCK_NS); /* an earlier group of the same job may still be forming */
        st = epf_link_listen(name, &door);
    }
    if (st == EPF_OK) {
        epf_reception_init(&reception, door);
        join->roster.token = join->own.token;
        join->roster.ids[0] = join->own.id;
        st = seat_all(join, &reception, links);
        if (st == EPF_OK) {
            st = tell_all(join, links);
        }
        epf_reception_close(&reception);
        epf_link_close(&door);
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        epf_link_close(&links[r]);
    }
    epf_free(links);
    return st;
}

/* The rendezvous' answer in join->payload: ours to take, or the reason why not. */
static epf_status take_answer(struct join *join, const epf_frame *frame)
{
    const size_t ids_bytes = (size_t)join->config->num_ranks * sizeof join->roster.ids[0];
    struct table table;
    if (frame->type == EPF_FRAME_REFUSE) {
        for (uint32_t i = 0; i < frame->payload_bytes;
             i++) { /* somebody else's words, in our line */
            const uint8_t c = join->payload[i];
            join->payload[i] = c >= ' ' && c <= '~' ? c : '?';
        }
        return EPF_FAIL(EPF_E_INVALID, "the rendezvous refused rank %" PRId32 ": %.*s",
                        join->config->rank, (int)frame->payload_bytes, (char *)join->payload);
    }
    if (frame->type == EPF_FRAME_TABLE && frame->payload_bytes == sizeof table + ids_bytes) {
        memcpy(&table, join->payload, sizeof table);
        if (table.num_ranks == join->config->num_ranks) {
            join->roster.token = table.token;
            memcpy(join->roster.ids, join->payload + sizeof table, ids_bytes);
            return EPF_OK;
        }
    }
    return EPF_FAIL(EPF_E_PEER,
                    "rank %" PRId32 ": the rendezvous sent no table of %" PRId32 " ranks",
                    join->config->rank, join->config->num_ranks);
}

/* One visit: AGAIN where there is nobody, or the host went before it answered. */
static epf_link_result visit(struct join *join, const epf_link_name *name, epf_frame *frame)
{
    int link;
    int surplus;
    epf_frame hello = {.type = EPF_FRAME_JOIN, .rank = join->config->rank};
    epf_link_result result = epf_link_connect(name, &link);
    if (result != EPF_LINK_DONE) {
        return result == EPF_LINK_BAD ? EPF_LINK_BAD : EPF_LINK_AGAIN;
    }
    result = epf_link_send(link, &hello, &join->own, sizeof join->own, -1);
    while (result == EPF_LINK_DONE || result == EPF_LINK_AGAIN) {
        result = epf_link_recv(link, frame, join->payload, &surplus);
        epf_link_close(&surplus);
        if (result != EPF_LINK_AGAIN || epf_now_ns() >= join->deadline_ns) {
            break;
        }
        sleep_ns(KNOCK_NS);
    }
    epf_link_close(&link);
    return result == EPF_LINK_DONE ? EPF_LINK_DONE : EPF_LINK_AGAIN;
}

static epf_status ask(struct join *join, const epf_link_name *name)
{
    for (;;) {
        epf_frame frame;
        switch (visit(join, name, &frame)) {
        case EPF_LINK_DONE:
            return take_answer(join, &frame);
        case EPF_LINK_BAD:
            return EPF_FAIL(EPF_E_DEVICE, "rank %" PRId32 ": the rendezvous \"%s\": %s",
                            join->config->rank, name->text,
                            errno == EPERM ? "another user listens there" : strerror(errno));
        default:
            break;
        }
        if (epf_now_ns() >= join->deadline_ns) {
            return EPF_FAIL(EPF_E_TIMEOUT,
                            "rank %" PRId32
                            ": no answer from rank 0 at the rendezvous within %.3g s "
                            "(all ranks must share a machine and a network namespace)",
                            join->config->rank, (double)join->config->timeout_ns * 1e-9);
        }
        sleep_ns(KNOCK_NS);
    }
}

epf_status epf_comm_create_rendezvous(const epf_comm_config *config, const char *job,
                                      epf_comm **comm)
{
    struct join join;
    EPF_CHECK_ARG(comm, "comm is NULL");
    *comm = NULL;
    EPF_TRY(epf_comm_config_check(config));
    EPF_CHECK_ARG(job != NULL && job[0] != '\0', "job is %s", job == NULL ? "NULL" : "empty");
    const epf_link_name name = epf_rendezvous_name(job);
    epf_status st = join_begin(&join, config);
    if (st == EPF_OK) {
        st = config->rank == 0 ? host(&join, &name) : ask(&join, &name);
    }
    if (st == EPF_OK) {
        st = join_finish(&join, comm);
    }
    join_release(&join);
    if (st == EPF_OK) {
        (void)strcpy((*comm)->origin, "a rendezvous");
    }
    return st;
}

epf_status epf_comm_create_env(const epf_comm_config *config, epf_comm **comm)
{
    epf_env env;
    EPF_CHECK_ARG(comm, "comm is NULL");
    *comm = NULL;
    EPF_CHECK_ARG(config, "config is NULL");
    EPF_TRY(epf_env_detect(secure_getenv, &env));
    EPF_CHECK_ARG(env.family != NULL,
                  "no launcher's variables found: set EPFUSE_RANK, EPFUSE_NUM_RANKS and "
                  "EPFUSE_RENDEZVOUS, or start through torchrun, mpirun or srun");
    epf_comm_config own = *config;
    own.rank = env.rank;
    own.num_ranks = env.num_ranks;
    EPF_TRY(epf_comm_create_rendezvous(&own, env.job, comm));
    (void)snprintf((*comm)->origin, sizeof(*comm)->origin, "%s (%s)", env.family, env.variables);
    return EPF_OK;
}
