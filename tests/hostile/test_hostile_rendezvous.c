/*
 * test_hostile_rendezvous: processes of the same user that lie at the rendezvous: a false rank 0 to those who
 * join, and false guests to a true rank 0.  A liar is refused with the reason, and the true ranks' waits end.
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/epf_clock.h"
#include "comm/epf_join.h"
#include "comm/epf_mesh.h"
#include "hostile.h"
#include "support/epf_check.h"

enum { TIMEOUT_MS = 400 };

/* A message: what epf_link_send() would make of it, with one lie. */
typedef struct message {
    const char *name;
    uint16_t type;
    const char *payload; /* a template */
    int cut;             /* bytes taken off the end of the whole      */
    int flip;            /* byte of the head that is inverted, or -1  */
    const char *says;    /* what the one lied to says                 */
    epf_status status;
} message;

static char job[64];

static epf_comm_config config_of(int32_t rank)
{
    epf_comm_config config;
    epf_comm_config_init(&config);
    config.rank = rank;
    config.num_ranks = 2;
    config.timeout_ns = TIMEOUT_MS * UINT64_C(1000000);
    return config;
}

typedef struct joining {
    int32_t rank;
    epf_status status;
    char text[1024];
} joining;

static void *join_group(void *context)
{
    joining *const j = context;
    const epf_comm_config config = config_of(j->rank);
    epf_comm *comm = NULL;
    j->status = epf_comm_create_rendezvous(&config, job, &comm);
    (void)snprintf(j->text, sizeof j->text, "%s", epf_check_library_text());
    CHECK(j->status != EPF_OK && comm == NULL, "joined a group with a liar");
    return NULL;
}

static int wait_readable(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return poll(&one, 1, 2 * TIMEOUT_MS) == 1;
}

/* The frame as bytes: sent to ourselves, then spoilt. */
static size_t make_bytes(const message *m, unsigned char *bytes, size_t room)
{
    epf_frame frame = {.type = m->type};
    size_t size;
    unsigned char *const payload = hostile_expand(m->payload, &size);
    int pair[2];
    ssize_t got;
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0, "socketpair");
    CHECK(epf_link_send(pair[0], &frame, payload, size, -1) == EPF_LINK_DONE, "send");
    got = recv(pair[1], bytes, room, 0);
    (void)close(pair[0]);
    (void)close(pair[1]);
    free(payload);
    CHECK(got > m->cut, "recv");
    if (m->flip >= 0) {
        bytes[m->flip] = (unsigned char)~bytes[m->flip];
    }
    return (size_t)got - (size_t)m->cut;
}

static void check(const message *m, const joining *j, double ms)
{
    CHECK(j->status == m->status, "%s: status %d, want %d: %s", m->name, (int)j->status,
          (int)m->status, j->text);
    CHECK(strstr(j->text, m->says) != NULL, "%s: '%s' is not in: %s", m->name, m->says, j->text);
    CHECK(strpbrk(j->text, "\n\r\x1b") == NULL, "%s: no plain line: %s", m->name, j->text);
    CHECK(ms < 10 * TIMEOUT_MS, "%s: after %.0f ms", m->name, ms);
}

/* Rank 1 meets a false rank 0, who answers with the message. */
static void lie_to_guest(const message *m)
{
    unsigned char bytes[32768];
    const size_t size = make_bytes(m, bytes, sizeof bytes);
    const epf_link_name name = epf_rendezvous_name(job);
    const uint64_t begin = epf_now_ns();
    joining j = {.rank = 1};
    epf_frame frame;
    pthread_t thread;
    int door;
    int link = -1;
    CHECK(epf_link_listen(&name, &door) == EPF_OK, "listen");
    CHECK(pthread_create(&thread, NULL, join_group, &j) == 0, "thread");
    /* Who was given nonsense knocks again until its deadline: it may be a door that is just closing. */
    while (wait_readable(door) && epf_link_accept(door, &link) == EPF_LINK_DONE) {
        static unsigned char card[EPF_FRAME_PAYLOAD_BYTES];
        int fd;
        CHECK(wait_readable(link), "no card");
        if (epf_link_recv(link, &frame, card, &fd) == EPF_LINK_DONE) {
            (void)send(link, bytes, size, MSG_NOSIGNAL);
        }
        (void)wait_readable(link);
        epf_link_close(&link);
        if (epf_now_ns() - begin > TIMEOUT_MS * UINT64_C(1500000) || m->status != EPF_E_TIMEOUT) {
            break;
        }
    }
    epf_link_close(&door);
    CHECK(pthread_join(thread, NULL) == 0, "join");
    check(m, &j, (double)(epf_now_ns() - begin) / 1e6);
}

/* Rank 0 meets a false guest, who begins with the message. */
static void lie_to_host(const message *m, const char *answer)
{
    unsigned char bytes[32768];
    static unsigned char payload[EPF_FRAME_PAYLOAD_BYTES + 1];
    const size_t size = make_bytes(m, bytes, sizeof bytes);
    const epf_link_name name = epf_rendezvous_name(job);
    const uint64_t begin = epf_now_ns();
    joining j = {.rank = 0};
    epf_link_result result = EPF_LINK_GONE;
    epf_frame frame;
    pthread_t thread;
    int link = -1;
    int fd;
    CHECK(pthread_create(&thread, NULL, join_group, &j) == 0, "thread");
    while (result == EPF_LINK_GONE) {
        (void)usleep(1000);
        result = epf_link_connect(&name, &link);
    }
    CHECK(result == EPF_LINK_DONE, "%s: connect: %d", m->name, (int)result);
    CHECK(send(link, bytes, size, MSG_NOSIGNAL) == (ssize_t)size, "send");
    CHECK(wait_readable(link), "%s: neither answered nor shown out", m->name);
    memset(payload, 0, sizeof payload);
    result = epf_link_recv(link, &frame, payload, &fd);
    CHECK(answer == NULL ? result == EPF_LINK_GONE
                         : result == EPF_LINK_DONE && frame.type == EPF_FRAME_REFUSE &&
                               strstr((const char *)payload, answer) != NULL,
          "%s: answer %d: %s", m->name, (int)result, (const char *)payload);
    epf_link_close(&link);
    CHECK(pthread_join(thread, NULL) == 0, "join");
    check(m, &j, (double)(epf_now_ns() - begin) / 1e6);
}

#define NEVER "no answer from rank 0 at the rendezvous"
#define NO_TABLE "the rendezvous sent no table of 2 ranks"

static const message to_guests[] = {
    {"wrong magic", EPF_FRAME_TABLE, "", 0, 0, NEVER, EPF_E_TIMEOUT},
    {"wrong version", EPF_FRAME_TABLE, "", 0, 4, NEVER, EPF_E_TIMEOUT},
    {"unknown type", 99, "", 0, -1, NEVER, EPF_E_TIMEOUT},
    {"head cut", EPF_FRAME_TABLE, "", 8, -1, NEVER, EPF_E_TIMEOUT},
    {"payload cut", EPF_FRAME_TABLE, "~40{t}", 1, -1, NEVER, EPF_E_TIMEOUT},
    {"empty table", EPF_FRAME_TABLE, "", 0, -1, NO_TABLE, EPF_E_PEER},
    {"table one byte short", EPF_FRAME_TABLE, "~39{t}", 0, -1, NO_TABLE, EPF_E_PEER},
    {"table one byte long", EPF_FRAME_TABLE, "~41{t}", 0, -1, NO_TABLE, EPF_E_PEER},
    {"table of the largest frame", EPF_FRAME_TABLE, "~16384{t}", 0, -1, NO_TABLE, EPF_E_PEER},
    {"table of other ranks", EPF_FRAME_TABLE, "~40{t}", 0, -1, NO_TABLE, EPF_E_PEER},
    {"table that leads nowhere", EPF_FRAME_TABLE, "~16{t}~x02~x00~x00~x00~x00~x00~x00~x00~16{i}", 0,
     -1, "connecting to rank 0", EPF_E_PEER},
    {"hello instead", EPF_FRAME_HELLO, "~40{t}", 0, -1, NO_TABLE, EPF_E_PEER},
    {"refusal without reason", EPF_FRAME_REFUSE, "", 0, -1, "refused rank 1", EPF_E_INVALID},
    {"refusal with lines", EPF_FRAME_REFUSE, "no~x0aroot# ", 0, -1, "no?root#", EPF_E_INVALID},
    {"refusal with escape codes", EPF_FRAME_REFUSE, "~x1b[2Jhello", 0, -1, "?[2Jhello",
     EPF_E_INVALID},
    {"refusal with format", EPF_FRAME_REFUSE, "%s%n", 0, -1, "rank 1: %s%n", EPF_E_INVALID},
    {"refusal of 16 KB", EPF_FRAME_REFUSE, "~16384{r}", 0, -1, "rank 1: rrrrr", EPF_E_INVALID},
};

#define CAME_NOT "rank 1 did not come to the rendezvous"
/* id, machine, token, then */
#define CARD(rank, num_ranks) "~32{c}" rank num_ranks "~x00~x00~x00~x00~x00~x00~x00~x00"
#define I1 "~x01~x00~x00~x00"
#define I2 "~x02~x00~x00~x00"

static const struct {
    message m;
    const char *answer;
} to_hosts[] = {
    {{"nonsense", 99, "", 0, -1, CAME_NOT, EPF_E_TIMEOUT}, NULL},
    {{"wrong magic", EPF_FRAME_JOIN, CARD(I1, I2), 0, 1, CAME_NOT, EPF_E_TIMEOUT}, NULL},
    {{"a table", EPF_FRAME_TABLE, CARD(I1, I2), 0, -1, CAME_NOT, EPF_E_TIMEOUT}, NULL},
    {{"no card", EPF_FRAME_JOIN, "", 0, -1, CAME_NOT, EPF_E_TIMEOUT}, NULL},
    {{"half a card", EPF_FRAME_JOIN, "~24{c}", 0, -1, CAME_NOT, EPF_E_TIMEOUT}, NULL},
    {{"rank 0 again", EPF_FRAME_JOIN, CARD("~x00~x00~x00~x00", I2), 0, -1, CAME_NOT, EPF_E_TIMEOUT},
     "rank is 0, must be 1..1"},
    {{"rank 2 of 2", EPF_FRAME_JOIN, CARD(I2, I2), 0, -1, CAME_NOT, EPF_E_TIMEOUT},
     "rank is 2, must be 1..1"},
    {{"rank -1", EPF_FRAME_JOIN, CARD("~xff~xff~xff~xff", I2), 0, -1, CAME_NOT, EPF_E_TIMEOUT},
     "rank is -1, must be 1..1"},
    {{"rank INT_MIN", EPF_FRAME_JOIN, CARD("~x00~x00~x00~x80", I2), 0, -1, CAME_NOT, EPF_E_TIMEOUT},
     "rank is -2147483648, must"},
    {{"another size", EPF_FRAME_JOIN, CARD(I1, I1), 0, -1, CAME_NOT, EPF_E_TIMEOUT},
     "num_ranks is 1 here and 2 on rank 0"},
};

int main(void)
{
    int count = 0;
    (void)snprintf(job, sizeof job, "hostile-%ld", (long)getpid());
    for (size_t i = 0; i < sizeof to_guests / sizeof *to_guests; i++, count++) {
        lie_to_guest(&to_guests[i]);
    }
    for (size_t i = 0; i < sizeof to_hosts / sizeof *to_hosts; i++, count++) {
        lie_to_host(&to_hosts[i].m, to_hosts[i].answer);
    }
    printf("rendezvous: %d hostile messages\n", count);
    return 0;
}
