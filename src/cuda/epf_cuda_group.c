/*
 * epf_cuda_group.c: which devices a group's ranks use, who shares one, and how they see each other's memory.
 *
 * Every rank brings what it knows of itself, and all decide from the same table.  Only then does each look
 * at what it alone can see, the way from its device to the others', and all agree once more.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/epf_error.h"
#include "cuda/epf_cuda_memory_internal.h"

enum { HOPPER_MAJOR = 9, NO_WISH = 0 };

/* A process: its number, and a token for numbers that mean another process in another namespace. */
typedef struct process_id {
    uint64_t token;
    int64_t pid;
} process_id;

/* What a rank says of itself; fits EPF_COMM_SCRATCH_BYTES. */
typedef struct member {
    process_id process;
    cudaUUID_t uuid;
    int32_t status;
    int32_t device;
    int32_t wish; /* epf_cuda_transport, or NO_WISH */
    char text[EPF_CUDA_TEXT];
} member;
_Static_assert(sizeof(member) <= EPF_COMM_SCRATCH_BYTES, "members go through comm->scratch");

static const char *const transport_names[] = {
    [EPF_CUDA_TRANSPORT_LOCAL] = "local",
    [EPF_CUDA_TRANSPORT_IPC] = "ipc",
    [EPF_CUDA_TRANSPORT_NVSHMEM] = "nvshmem",
};
enum { NUM_TRANSPORT_NAMES = sizeof transport_names / sizeof transport_names[0] };

static uint64_t token;
static pthread_once_t token_once = PTHREAD_ONCE_INIT;

static void token_make(void)
{
    if (getrandom(&token, sizeof token, GRND_NONBLOCK) != (ssize_t)sizeof token) {
        token = 0; /* the number alone must do */
    }
}

static process_id own_process(void)
{
    (void)pthread_once(&token_once, token_make);
    return (process_id){.token = token, .pid = getpid()};
}

static bool same_process(const member *a, const member *b)
{
    return a->process.pid == b->process.pid && a->process.token == b->process.token;
}

static bool same_device(const member *a, const member *b)
{
    return memcmp(&a->uuid, &b->uuid, sizeof a->uuid) == 0;
}

static epf_status read_wish(int32_t *wish)
{
    const char *text = secure_getenv("EPFUSE_CUDA_TRANSPORT");
    *wish = NO_WISH;
    if (text == NULL || text[0] == '\0') {
        return EPF_OK;
    }
    for (int32_t i = EPF_CUDA_TRANSPORT_LOCAL; i < NUM_TRANSPORT_NAMES; i++) {
        if (strcmp(text, transport_names[i]) == 0) {
            *wish = i;
            return EPF_OK;
        }
    }
    return EPF_FAIL(EPF_E_INVALID,
                    "EPFUSE_CUDA_TRANSPORT is \"%.40s\", must be local, ipc or nvshmem", text);
}

static epf_status pick_device(int32_t wanted, int32_t *device)
{
    int count = 0;
    int current = 0;
    EPF_TRY(epf_cuda_check(cudaGetDeviceCount(&count), "looking for CUDA devices"));
    EPF_CHECK_ARG(wanted >= -1 && wanted < count,
                  "device is %" PRId32 ", must be -1 .. %d, of the %d devices seen here", wanted,
                  count - 1, count);
    EPF_TRY(epf_cuda_check(cudaGetDevice(&current), "cudaGetDevice"));
    *device = wanted == -1 ? current : wanted;
    return EPF_OK;
}

static epf_status describe(int32_t wanted, epf_cuda_group *group, member *own)
{
    struct cudaDeviceProp properties;
    EPF_TRY(read_wish(&own->wish));
    EPF_TRY(pick_device(wanted, &group->device));
    EPF_TRY(epf_cuda_check(cudaGetDeviceProperties(&properties, group->device),
                           "cudaGetDeviceProperties"));
    if (properties.major != HOPPER_MAJOR) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "device %" PRId32 " (%.60s) has compute capability %d.%d, must be %d.x",
                        group->device, properties.name, properties.major, properties.minor,
                        HOPPER_MAJOR);
    }
    group->num_sms = properties.multiProcessorCount;
    own->device = group->device;
    own->uuid = properties.uuid;
    return EPF_OK;
}

static epf_status statuses_check(const epf_comm *comm, const member *members)
{
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        if (members[r].status == EPF_OK) {
            continue;
        }
        if (r == comm->rank) {
            return (epf_status)members[r].status; /* its text is already recorded */
        }
        return epf_cuda_peer_failed(r, (epf_status)members[r].status, members[r].text);
    }
    return EPF_OK;
}

/* Ranks that are in the process of an earlier rank. */
static int32_t count_joint(const epf_comm *comm, const member *members)
{
    int32_t num_joint = 0;
    for (int32_t r = 1; r < comm->num_ranks; r++) {
        int32_t s = 0;
        while (s < r && !same_process(&members[r], &members[s])) {
            s++;
        }
        num_joint += s < r;
    }
    return num_joint;
}

static epf_status choose_transport(const epf_comm *comm, const member *members, int32_t *transport)
{
    const int32_t wish = members[0].wish;
    const int32_t num_joint = count_joint(comm, members);
    const bool one_process = num_joint == comm->num_ranks - 1;
    for (int32_t r = 1; r < comm->num_ranks; r++) {
        EPF_CHECK_ARG(members[r].wish == wish,
                      "EPFUSE_CUDA_TRANSPORT differs between rank 0 and rank %" PRId32
                      ", must be equal on all ranks",
                      r);
    }
    if (wish == EPF_CUDA_TRANSPORT_LOCAL && !one_process) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "EPFUSE_CUDA_TRANSPORT is local, but ranks are not in one process");
    }
    if (wish > EPF_CUDA_TRANSPORT_LOCAL && num_joint > 0) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "EPFUSE_CUDA_TRANSPORT is %s, but ranks are threads of one process",
                        transport_names[wish]);
    }
    if (num_joint > 0 && !one_process) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "some ranks are threads of one process and some are not: "
                        "device memory is shared by threads or by processes");
    }
    *transport = wish != NO_WISH ? wish
                 : one_process   ? EPF_CUDA_TRANSPORT_LOCAL
                                 : EPF_CUDA_TRANSPORT_IPC;
    return EPF_OK;
}

static void count_sharing(const epf_comm *comm, const member *members, epf_cuda_group *group)
{
    group->num_sharing = 0;
    group->share_index = 0;
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        if (same_device(&members[r], &members[comm->rank])) {
            group->share_index += r < comm->rank;
            group->num_sharing++;
        }
    }
}

/* The ordinal that a peer's device has in this process; -1 where this process does not see it. */
static int32_t find_device(const cudaUUID_t *uuid)
{
    struct cudaDeviceProp properties;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        count = 0;
    }
    for (int32_t i = 0; i < count; i++) {
        if (cudaGetDeviceProperties(&properties, i) == cudaSuccess &&
            memcmp(&properties.uuid, uuid, sizeof *uuid) == 0) {
            return i;
        }
    }
    return -1;
}

/* The own device is current. */
static epf_status peer_reach(const epf_cuda_group *group, int32_t peer, int32_t device)
{
    int access = 0;
    int atomics = 0;
    EPF_TRY(epf_cuda_check(cudaDeviceCanAccessPeer(&access, group->device, device),
                           "cudaDeviceCanAccessPeer"));
    if (access) {
        EPF_TRY(
            epf_cuda_check(cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported,
                                                     group->device, device),
                           "cudaDeviceGetP2PAttribute"));
    }
    if (!access || !atomics) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "device %" PRId32 " cannot reach device %" PRId32 " of rank %" PRId32
                        ": no %s between them",
                        group->device, device, peer, access ? "native atomics" : "peer access");
    }
    if (group->transport != EPF_CUDA_TRANSPORT_LOCAL) {
        return EPF_OK; /* what maps a peer's memory also opens the way */
    }
    const cudaError_t error = cudaDeviceEnablePeerAccess(device, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
        (void)cudaGetLastError(); /* another rank, or the caller itself, was first */
        return EPF_OK;
    }
    return epf_cuda_check(error, "cudaDeviceEnablePeerAccess");
}

/* What this rank alone can see.  A device that its process does not see may still open by IPC: then
 * window_create tells. */
static epf_status reach_all(const epf_comm *comm, const member *members,
                            const epf_cuda_group *group)
{
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        if (same_device(&members[r], &members[comm->rank])) {
            continue;
        }
        const int32_t device = group->transport == EPF_CUDA_TRANSPORT_LOCAL
                                   ? members[r].device
                                   : find_device(&members[r].uuid);
        if (device >= 0) {
            EPF_TRY(peer_reach(group, r, device));
        }
    }
    return EPF_OK;
}

/* With the own device current, or `entered` telling why it is not. */
static epf_status reach_and_agree(epf_comm *comm, const epf_cuda_group *group, epf_status entered)
{
    epf_status st = entered;
    if (st == EPF_OK) {
        st = reach_all(comm, comm->scratch, group);
    }
    EPF_TRY(epf_comm_agree(comm, st));
    return group->transport == EPF_CUDA_TRANSPORT_NVSHMEM ? epf_cuda_nvshmem_join(comm) : EPF_OK;
}

epf_status epf_cuda_group_join(epf_comm *comm, int32_t device, epf_cuda_group *group)
{
    epf_cuda_group joined;
    member own;
    int previous = 0;
    EPF_CHECK_ARG(comm && group, "epf_cuda_group_join: %s is NULL",
                  comm == NULL ? "comm" : "group");
    memset(&joined, 0, sizeof joined);
    memset(&own, 0, sizeof own);
    own.process = own_process();
    own.status = describe(device, &joined, &own);
    if (own.status != EPF_OK) {
        epf_cuda_text_copy(own.text);
    }
    const member *members = comm->scratch;
    EPF_TRY(epf_comm_all_gather(comm, &own, comm->scratch, sizeof own));
    EPF_TRY(statuses_check(comm, members));
    EPF_TRY(choose_transport(comm, members, &joined.transport));
    count_sharing(comm, members, &joined);

    const epf_status entered = epf_cuda_enter(joined.device, &previous);
    const epf_status st = reach_and_agree(comm, &joined, entered);
    if (entered == EPF_OK) {
        epf_cuda_leave(joined.device, previous);
    }
    if (st == EPF_OK) {
        *group = joined;
    }
    return st;
}

void epf_cuda_group_leave(epf_comm *comm, const epf_cuda_group *group)
{
    int previous;
    if (comm == NULL || group == NULL || group->transport != EPF_CUDA_TRANSPORT_NVSHMEM ||
        epf_cuda_enter(group->device, &previous) != EPF_OK) {
        return;
    }
    epf_cuda_nvshmem_leave(comm);
    epf_cuda_leave(group->device, previous);
}
