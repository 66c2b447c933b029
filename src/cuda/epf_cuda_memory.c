/*
 * epf_cuda_memory.c: device and host memory of one rank, and the steps that all windows are made by.
 *
 * Every function makes the group's device current while it works and the caller's again when it returns.
 * Nothing is enqueued on the legacy stream, which would wait for the caller's kernels.
 */
#include "cuda/epf_cuda_memory.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cuda/epf_cuda_memory_internal.h"

_Static_assert(sizeof(epf_cuda_offer) <= EPF_COMM_SCRATCH_BYTES, "offers go through comm->scratch");
_Static_assert(EPF_CUDA_PART_ALIGN % EPF_COMM_WINDOW_ALIGN == 0, "a part is an aligned window");

static atomic_uint_fast64_t fail_at;
static atomic_uint_fast64_t num_asked;

void epf_cuda_alloc_fail_at(uint64_t nth)
{
    atomic_store_explicit(&num_asked, 0, memory_order_relaxed);
    atomic_store_explicit(&fail_at, nth, memory_order_relaxed);
}

uint64_t epf_cuda_alloc_count(void)
{
    return atomic_load_explicit(&num_asked, memory_order_relaxed);
}

static epf_status status_of(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return EPF_OK;
    case cudaErrorMemoryAllocation:
        return EPF_E_NO_MEMORY;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorNotSupported:
        return EPF_E_UNSUPPORTED;
    default:
        return EPF_E_DEVICE;
    }
}

epf_status epf_cuda_check(cudaError_t error, const char *what)
{
    if (error == cudaSuccess) {
        return EPF_OK;
    }
    (void)cudaGetLastError(); /* it is told here; the caller's next check shall not find it */
    const epf_status st = status_of(error);
    return EPF_FAIL(st, "%s: %s", what, cudaGetErrorString(error));
}

epf_status epf_cuda_enter(int32_t device, int *previous)
{
    EPF_TRY(epf_cuda_check(cudaGetDevice(previous), "cudaGetDevice"));
    if (*previous == device) {
        return EPF_OK;
    }
    return epf_cuda_check(cudaSetDevice(device), "cudaSetDevice");
}

void epf_cuda_leave(int32_t device, int previous)
{
    if (previous != device && cudaSetDevice(previous) != cudaSuccess) {
        (void)cudaGetLastError();
    }
}

void epf_cuda_text_copy(char text[EPF_CUDA_TEXT])
{
    const char *from = epf_error_text();
    size_t length = strlen(from);
    length = length < EPF_CUDA_TEXT ? length : EPF_CUDA_TEXT - 1;
    memcpy(text, from, length);
    text[length] = '\0';
}

epf_status epf_cuda_peer_failed(int32_t rank, epf_status status, const char text[EPF_CUDA_TEXT])
{
    return EPF_FAIL(status, "rank %" PRId32 ": %.*s", rank, EPF_CUDA_TEXT - 1, text);
}

enum { MAX_DEVICES = 64 };

/*
 * The current device's stream for operations that are waited for at once, made once and kept.  Why not one for each:
 * streams share the device's work queues by turns (CUDA_DEVICE_MAX_CONNECTIONS), and with many made and destroyed
 * the streams of two ranks come to share one; what one of them has waiting behind its kernel then holds up the
 * other's kernel, for which the first one's waits.
 */
static epf_status side_stream(cudaStream_t *stream)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static cudaStream_t streams[MAX_DEVICES];
    int device = 0;
    epf_status st = EPF_OK;
    EPF_TRY(epf_cuda_check(cudaGetDevice(&device), "cudaGetDevice"));
    if (device >= MAX_DEVICES) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "device %d: must be below %d", device, (int)MAX_DEVICES);
    }
    pthread_mutex_lock(&lock);
    if (streams[device] == NULL) {
        st = epf_cuda_check(cudaStreamCreateWithFlags(&streams[device], cudaStreamNonBlocking),
                            "cudaStreamCreateWithFlags");
    }
    *stream = streams[device];
    pthread_mutex_unlock(&lock);
    return st;
}

/* One operation that is waited for. */
static epf_status run_alone(void *to, const void *from, uint64_t bytes)
{
    cudaStream_t stream;
    EPF_TRY(side_stream(&stream));
    cudaError_t error = from == NULL
                            ? cudaMemsetAsync(to, 0, bytes, stream)
                            : cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream);
    if (error == cudaSuccess) {
        error = cudaStreamSynchronize(stream);
    }
    return epf_cuda_check(error, from == NULL ? "zeroing device memory" : "filling device memory");
}

epf_status epf_cuda_zero(void *memory, uint64_t bytes)
{
    return run_alone(memory, NULL, bytes);
}

epf_status epf_cuda_upload(void *to, const void *from, uint64_t bytes)
{
    return run_alone(to, from, bytes);
}

static epf_status no_memory(uint64_t bytes, const char *name)
{
    return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no device memory for %" PRIu64 " bytes", name, bytes);
}

epf_status epf_cuda_device_ask(uint64_t bytes, const char *name)
{
    const uint64_t nth = 1 + atomic_fetch_add_explicit(&num_asked, 1, memory_order_relaxed);
    if (nth == atomic_load_explicit(&fail_at, memory_order_relaxed)) {
        return no_memory(bytes, name);
    }
    return EPF_OK;
}

epf_status epf_cuda_device_alloc(uint64_t bytes, const char *name, void **memory)
{
    void *m = NULL;
    bytes = bytes == 0 ? 1 : bytes;
    EPF_TRY(epf_cuda_device_ask(bytes, name));
    const cudaError_t error = cudaMalloc(&m, bytes);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return no_memory(bytes, name);
    }
    EPF_TRY(epf_cuda_check(error, name));
    const epf_status st = epf_cuda_zero(m, bytes);
    if (st != EPF_OK) {
        (void)cudaFree(m);
        return st;
    }
    *memory = m;
    return EPF_OK;
}

epf_status epf_cuda_alloc(const epf_cuda_group *group, int64_t bytes, const char *name,
                          void **memory)
{
    int previous;
    EPF_CHECK_ARG(memory, "epf_cuda_alloc: memory is NULL");
    *memory = NULL;
    EPF_CHECK_ARG(group && name, "epf_cuda_alloc: %s is NULL", group == NULL ? "group" : "name");
    EPF_CHECK_ARG(bytes >= 0, "%s: bytes is %" PRId64 ", must not be negative", name, bytes);
    EPF_TRY(epf_cuda_enter(group->device, &previous));
    const epf_status st = epf_cuda_device_alloc((uint64_t)bytes, name, memory);
    epf_cuda_leave(group->device, previous);
    return st;
}

void epf_cuda_free(void *memory)
{
    if (memory != NULL && cudaFree(memory) != cudaSuccess) {
        (void)cudaGetLastError();
    }
}

epf_status epf_cuda_host_alloc(const epf_cuda_group *group, int64_t bytes, const char *name,
                               void **memory)
{
    int previous;
    void *m = NULL;
    EPF_CHECK_ARG(memory, "epf_cuda_host_alloc: memory is NULL");
    *memory = NULL;
    EPF_CHECK_ARG(group && name, "epf_cuda_host_alloc: %s is NULL",
                  group == NULL ? "group" : "name");
    EPF_CHECK_ARG(bytes >= 0, "%s: bytes is %" PRId64 ", must not be negative", name, bytes);
    const size_t length = bytes == 0 ? 1 : (size_t)bytes;
    EPF_TRY(epf_cuda_device_ask(length, name));
    EPF_TRY(epf_cuda_enter(group->device, &previous));
    const cudaError_t error =
        cudaHostAlloc(&m, length, cudaHostAllocMapped | cudaHostAllocPortable);
    epf_cuda_leave(group->device, previous);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no pinned host memory for %zu bytes", name, length);
    }
    EPF_TRY(epf_cuda_check(error, name));
    memset(m, 0, length);
    *memory = m;
    return EPF_OK;
}

void epf_cuda_host_free(void *memory)
{
    if (memory != NULL && cudaFreeHost(memory) != cudaSuccess) {
        (void)cudaGetLastError();
    }
}

/* --- windows ---------------------------------------------------------------------------------- */

epf_status epf_cuda_own_create(epf_cuda_part *part)
{
    const uint64_t align = EPF_CUDA_PART_ALIGN;
    void *memory;
    if (part->head.bytes > INT64_MAX - align) {
        return no_memory(part->head.bytes, "window");
    }
    EPF_TRY(
        epf_cuda_device_alloc((part->head.bytes + align - 1) / align * align, "window", &memory));
    part->own = memory;
    return EPF_OK;
}

void epf_cuda_own_destroy(epf_comm *comm, epf_cuda_part *part)
{
    (void)comm;
    epf_cuda_free(part->own);
    part->own = NULL;
}

static epf_status local_offer_fill(const epf_cuda_part *part, epf_cuda_offer *offer)
{
    offer->part = part->own;
    return EPF_OK;
}

static epf_status local_map(epf_cuda_part *part, const epf_cuda_offer *offers)
{
    for (int32_t r = 0; r < part->head.num_ranks; r++) {
        part->parts[r] = offers[r].part;
    }
    return EPF_OK;
}

static void local_unmap(epf_cuda_part *part)
{
    (void)part;
}

const epf_cuda_transport_ops epf_cuda_local_ops = {
    .name = "local",
    .own_create = epf_cuda_own_create,
    .offer_fill = local_offer_fill,
    .map = local_map,
    .unmap = local_unmap,
    .own_destroy = epf_cuda_own_destroy,
};

static const epf_cuda_transport_ops *ops_of(int32_t transport)
{
    switch (transport) {
    case EPF_CUDA_TRANSPORT_LOCAL:
        return &epf_cuda_local_ops;
    case EPF_CUDA_TRANSPORT_IPC:
        return &epf_cuda_ipc_ops;
    case EPF_CUDA_TRANSPORT_NVSHMEM:
        return &epf_cuda_nvshmem_ops;
    default:
        return NULL;
    }
}

static epf_status part_create(const epf_comm *comm, const epf_cuda_group *group, uint64_t bytes,
                              epf_cuda_part **part)
{
    const size_t table_bytes = (size_t)comm->num_ranks * sizeof(uint8_t *);
    const epf_cuda_transport_ops *ops = ops_of(group->transport);
    void *table;
    epf_status st;
    EPF_CHECK_ARG(ops, "window_create: group->transport is %" PRId32 ", not an epf_cuda_transport",
                  group->transport);
    epf_cuda_part *p = epf_alloc(1, sizeof *p + table_bytes);
    if (p == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "no memory for a window's addresses");
    }
    p->ops = ops;
    p->head.bytes = bytes;
    p->head.rank = comm->rank;
    p->head.num_ranks = comm->num_ranks;
    p->head.base = p->parts;
    EPF_TRY_GOTO(epf_cuda_device_alloc(table_bytes, "window's base table", &table), err);
    p->head.base_table = table;
    EPF_TRY_GOTO(ops->own_create(p), err_table);
    *part = p;
    return EPF_OK;
err_table:
    epf_cuda_free(table);
err:
    epf_free(p);
    return st;
}

/* The same answer on all ranks. */
static epf_status offers_check(const epf_comm *comm, const epf_cuda_offer *offers)
{
    for (int32_t r = 1; r < comm->num_ranks; r++) {
        EPF_CHECK_ARG(offers[r].bytes == offers[0].bytes,
                      "window_create: bytes is %" PRIu64 " on rank 0 and %" PRIu64
                      " on rank %" PRId32 ", must be equal on all ranks",
                      offers[0].bytes, offers[r].bytes, r);
    }
    EPF_CHECK_ARG(offers[0].bytes > 0, "window_create: bytes is 0, must be positive");
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        if (offers[r].status == EPF_OK) {
            continue;
        }
        if (r == comm->rank) {
            return (epf_status)offers[r].status; /* its text is already recorded */
        }
        return epf_cuda_peer_failed(r, (epf_status)offers[r].status, offers[r].text);
    }
    return EPF_OK;
}

static void detach(epf_cuda_part *part)
{
    if (part->attached) {
        part->ops->unmap(part);
        part->attached = false;
    }
}

static void part_destroy(epf_comm *comm, epf_cuda_part *part)
{
    if (part == NULL) {
        return;
    }
    detach(part);
    part->ops->own_destroy(comm, part);
    epf_cuda_free(part->head.base_table);
    epf_free(part);
}

/* Undoes a creation that failed with `st`, keeping its text. */
static void give_up(epf_comm *comm, epf_cuda_part *part, epf_status st)
{
    char text[EPF_CUDA_TEXT];
    if (part == NULL) {
        return;
    }
    epf_cuda_text_copy(text);
    detach(part);
    /* Without all ranks there is nobody to meet: the memory goes all the same. */
    if (part->mapped && st != EPF_E_TIMEOUT && st != EPF_E_PEER && st != EPF_E_STATE) {
        (void)epf_comm_barrier(comm);
    }
    part_destroy(comm, part);
    (void)epf_error_set(st, "%s", text);
}

/* `entered`: whether the device is current.  A rank without its device takes part all the same, so that
 * nobody waits for it. */
static epf_status window_create(epf_comm *comm, const epf_cuda_group *group, epf_status entered,
                                uint64_t bytes, epf_cuda_part **part)
{
    epf_cuda_offer *offers = comm->scratch;
    epf_cuda_offer own;
    epf_status st = entered;
    memset(&own, 0, sizeof own);
    if (st == EPF_OK && bytes > 0) {
        st = part_create(comm, group, bytes, part);
    }
    if (*part != NULL) {
        st = (*part)->ops->offer_fill(*part, &own);
    }
    if (st != EPF_OK) {
        epf_cuda_text_copy(own.text);
    }
    own.bytes = bytes;
    own.status = st;
    EPF_TRY(epf_comm_all_gather(comm, &own, offers, sizeof own));
    EPF_TRY(offers_check(comm, offers));

    epf_cuda_part *p = *part;
    p->attached = true;
    p->mapped = true;
    st = p->ops->map(p, offers);
    if (st == EPF_OK) {
        st = epf_cuda_upload(p->head.base_table, p->parts,
                             (uint64_t)p->head.num_ranks * sizeof *p->parts);
    }
    return epf_comm_agree(comm, st);
}

epf_status epf_cuda_window_create(epf_comm *comm, const epf_cuda_group *group, uint64_t bytes,
                                  epf_cuda_window **window)
{
    epf_cuda_part *part = NULL;
    int previous = 0;
    EPF_CHECK_ARG(window, "epf_cuda_window_create: window is NULL");
    *window = NULL;
    EPF_CHECK_ARG(comm && group, "epf_cuda_window_create: %s is NULL",
                  comm == NULL ? "comm" : "group");
    const epf_status entered = epf_cuda_enter(group->device, &previous);
    const epf_status st = window_create(comm, group, entered, bytes, &part);
    if (st == EPF_OK) {
        *window = &part->head;
    } else {
        give_up(comm, part, st);
    }
    if (entered == EPF_OK) {
        epf_cuda_leave(group->device, previous);
    }
    return st;
}

void epf_cuda_window_detach(const epf_cuda_group *group, epf_cuda_window *window)
{
    int previous;
    if (group == NULL || window == NULL || epf_cuda_enter(group->device, &previous) != EPF_OK) {
        return;
    }
    detach((epf_cuda_part *)window);
    epf_cuda_leave(group->device, previous);
}

void epf_cuda_window_destroy(epf_comm *comm, const epf_cuda_group *group, epf_cuda_window *window)
{
    int previous;
    if (window == NULL) {
        return;
    }
    const epf_status entered = epf_cuda_enter(group->device, &previous);
    part_destroy(comm, (epf_cuda_part *)window);
    if (entered == EPF_OK) {
        epf_cuda_leave(group->device, previous);
    }
}
