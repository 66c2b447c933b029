/*
 * epf_cuda_nvshmem.c: windows in NVSHMEM's symmetric heap, by its host library, found at run time.
 *
 * Only for the memory: kernels use the plain pointers that nvshmem_ptr gives, so every peer must have one.
 * NVSHMEM has one world per process, whose PE numbers must be our ranks: groups that fit it share it.  Its own
 * collectives have no time limit, so all ranks meet in one of ours before they enter one of those.
 */
#include <dlfcn.h>
#include <inttypes.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_error.h"
#include "cuda/epf_cuda_memory_internal.h"

/* The library's documented binary interface, version 3: names and sizes of what it takes. */
enum {
    VENDOR_MAJOR = 3,
    INIT_WITH_UNIQUEID = 1 << 3,
    STATUS_IS_INITIALIZED = 2, /* 3 and 4: also, with several PEs on one GPU */
    STATUS_FULL_MPG = 4,
    STRUCT_VERSION = 1 << 16, /* the size of the struct is added to it */
    ANY_DEVICE = -1
};
typedef struct unique_id {
    int version;
    char internal[124];
} unique_id;
typedef struct init_attr {
    int version;
    void *mpi_comm;
    struct {
        int version;
        struct {
            int version;
            const unique_id *id;
            int rank;
            int num_ranks;
        } uid_args;
        int device; /* of the second version of the struct; the first leaves it alone */
        char content[92];
    } args;
} init_attr;
_Static_assert(sizeof(unique_id) == 128, "nvshmemx_uniqueid_v1");
_Static_assert(sizeof(((init_attr *)NULL)->args) == 128, "nvshmemx_init_args_v1");
_Static_assert(sizeof(init_attr) == 144, "nvshmemx_init_attr_v1");

static struct api {
    void (*get_version)(int *major, int *minor, int *patch);
    int (*init_status)(void);
    int (*get_uniqueid)(unique_id *id);
    int (*set_uniqueid_args)(int rank, int num_ranks, const unique_id *id, init_attr *attr);
    int (*init)(unsigned int flags, init_attr *attr);
    void (*finalize)(void);
    int (*my_pe)(void);
    int (*n_pes)(void);
    void *(*align)(size_t alignment, size_t bytes);
    void *(*ptr)(const void *memory, int pe);
    void (*release)(void *memory);
} api;

static const struct {
    const char *name;
    size_t offset;
} symbols[] = {
    {"nvshmemx_vendor_get_version_info", offsetof(struct api, get_version)},
    {"nvshmemx_init_status", offsetof(struct api, init_status)},
    {"nvshmemx_get_uniqueid", offsetof(struct api, get_uniqueid)},
    {"nvshmemx_set_attr_uniqueid_args", offsetof(struct api, set_uniqueid_args)},
    {"nvshmemx_hostlib_init_attr", offsetof(struct api, init)},
    {"nvshmemx_hostlib_finalize", offsetof(struct api, finalize)},
    {"nvshmem_my_pe", offsetof(struct api, my_pe)},
    {"nvshmem_n_pes", offsetof(struct api, n_pes)},
    {"nvshmem_align", offsetof(struct api, align)},
    {"nvshmem_ptr", offsetof(struct api, ptr)},
    {"nvshmem_free", offsetof(struct api, release)},
};

/* All under the lock but the functions themselves, which are called once they are complete. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_loaded;
static bool is_own_world; /* made here, so ended here */
static int32_t num_groups;

static epf_status symbols_find(void *library, const char *path, struct api *found)
{
    int major = 0;
    int minor = 0;
    int patch = 0;
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (address == NULL) {
            return EPF_FAIL(EPF_E_UNSUPPORTED, "NVSHMEM: %.80s has no %s", path, symbols[i].name);
        }
        memcpy((char *)found + symbols[i].offset, &address, sizeof address);
    }
    found->get_version(&major, &minor, &patch);
    if (major != VENDOR_MAJOR) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "NVSHMEM: %.80s is version %d.%d.%d, must be %d.x", path,
                        major, minor, patch, VENDOR_MAJOR);
    }
    return EPF_OK;
}

/* Before the library starts: plain loads and stores on one machine are all that is asked of it. */
static void environment_set(void)
{
    (void)setenv("NVSHMEM_REMOTE_TRANSPORT", "none", 0);
    (void)setenv("NVSHMEM_DISABLE_NVLS", "1", 0);
    (void)setenv("NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME", "lo", 0);
}

static epf_status load(void)
{
    const char *path = secure_getenv("EPFUSE_NVSHMEM_LIB");
    struct api found;
    if (is_loaded) {
        return EPF_OK;
    }
    path = path == NULL || path[0] == '\0' ? "libnvshmem_host.so.3" : path;
    environment_set();
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "NVSHMEM: %.200s; EPFUSE_NVSHMEM_LIB may name the file of its host library",
                        dlerror());
    }
    const epf_status st = symbols_find(library, path, &found);
    if (st != EPF_OK) {
        (void)dlclose(library);
        return st;
    }
    api = found;
    is_loaded = true; /* for good: the library keeps threads of its own */
    return EPF_OK;
}

epf_status epf_cuda_nvshmem_load(void)
{
    (void)pthread_mutex_lock(&lock);
    const epf_status st = load();
    (void)pthread_mutex_unlock(&lock);
    return st;
}

/* What a rank says of its process before a world is made or shared. */
typedef struct world_offer {
    int32_t status;
    int32_t has_world;
    int32_t pe;
    int32_t num_pes;
    unique_id id; /* of rank 0 */
} world_offer;
_Static_assert(sizeof(world_offer) <= EPF_COMM_SCRATCH_BYTES, "offers go through comm->scratch");

static bool has_world(void)
{
    const int status = api.init_status();
    return status >= STATUS_IS_INITIALIZED && status <= STATUS_FULL_MPG;
}

static void offer_make(const epf_comm *comm, world_offer *own)
{
    memset(own, 0, sizeof *own);
    own->status = load();
    if (own->status != EPF_OK) {
        return;
    }
    own->id.version = STRUCT_VERSION + (int)sizeof own->id;
    own->has_world = has_world();
    if (own->has_world) {
        own->pe = api.my_pe();
        own->num_pes = api.n_pes();
    } else if (comm->rank == 0 && api.get_uniqueid(&own->id) != 0) {
        own->status = EPF_FAIL(EPF_E_DEVICE, "NVSHMEM: nvshmemx_get_uniqueid failed");
    }
}

/* The same answer on all ranks: is there a world to share, or one to make? */
static epf_status offers_check(const epf_comm *comm, const world_offer *offers)
{
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        const epf_status st = (epf_status)offers[r].status;
        if (st != EPF_OK && offers[comm->rank].status == st) {
            return st; /* our own text is already recorded */
        }
        if (st != EPF_OK) {
            return EPF_FAIL(st, "NVSHMEM: rank %" PRId32 " cannot use it", r);
        }
    }
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        const bool fits = offers[r].pe == r && offers[r].num_pes == comm->num_ranks;
        if (offers[r].has_world != offers[0].has_world || (offers[r].has_world && !fits)) {
            return EPF_FAIL(EPF_E_UNSUPPORTED,
                            "NVSHMEM: rank %" PRId32 " is already PE %" PRId32 " of %" PRId32
                            ", must be PE %" PRId32 " of %" PRId32 " as all ranks, or none yet",
                            r, offers[r].pe, offers[r].num_pes, r, comm->num_ranks);
        }
    }
    return EPF_OK;
}

static epf_status world_make(const epf_comm *comm, const unique_id *id)
{
    init_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.version = STRUCT_VERSION + (int)sizeof attr;
    attr.args.version = STRUCT_VERSION + (int)sizeof attr.args;
    attr.args.uid_args.version = STRUCT_VERSION + (int)sizeof attr.args.uid_args;
    attr.args.device = ANY_DEVICE;
    if (api.set_uniqueid_args(comm->rank, comm->num_ranks, id, &attr) != 0) {
        return EPF_FAIL(EPF_E_DEVICE, "NVSHMEM: nvshmemx_set_attr_uniqueid_args failed");
    }
    const int error = api.init(INIT_WITH_UNIQUEID, &attr);
    if (error != 0 || !has_world()) {
        return EPF_FAIL(
            EPF_E_DEVICE,
            "NVSHMEM: nvshmemx_hostlib_init_attr gave %d and status %d on rank %" PRId32, error,
            api.init_status(), comm->rank);
    }
    return EPF_OK;
}

static epf_status join(epf_comm *comm)
{
    world_offer own;
    world_offer *offers = comm->scratch;
    offer_make(comm, &own);
    EPF_TRY(epf_comm_all_gather(comm, &own, offers, sizeof own));
    EPF_TRY(offers_check(comm, offers));
    if (!own.has_world) {
        const unique_id id = offers[0].id;
        EPF_TRY(epf_comm_agree(comm, world_make(comm, &id)));
        is_own_world = true;
    }
    num_groups++;
    return EPF_OK;
}

epf_status epf_cuda_nvshmem_join(epf_comm *comm)
{
    (void)pthread_mutex_lock(&lock);
    const epf_status st = join(comm);
    (void)pthread_mutex_unlock(&lock);
    return st;
}

void epf_cuda_nvshmem_leave(epf_comm *comm)
{
    const bool all_here = epf_comm_barrier(comm) == EPF_OK;
    (void)pthread_mutex_lock(&lock);
    if (--num_groups == 0 && is_own_world && all_here) {
        api.finalize();
        is_own_world = false;
    }
    (void)pthread_mutex_unlock(&lock);
}

/* --- windows ---------------------------------------------------------------------------------- */

/* The heap is asked in map(), where all ranks are known to ask it. */
static epf_status nvshmem_own_create(epf_cuda_part *part)
{
    if (part->head.bytes > INT64_MAX) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "window: no device memory for %" PRIu64 " bytes",
                        part->head.bytes);
    }
    return epf_cuda_device_ask(part->head.bytes, "window");
}

static epf_status nvshmem_offer_fill(const epf_cuda_part *part, epf_cuda_offer *offer)
{
    (void)part;
    (void)offer;
    return EPF_OK;
}

static epf_status nvshmem_map(epf_cuda_part *part, const epf_cuda_offer *offers)
{
    (void)offers;
    part->own = api.align(EPF_COMM_WINDOW_ALIGN, part->head.bytes);
    if (part->own == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY,
                        "window: NVSHMEM's heap has no %" PRIu64
                        " bytes left (NVSHMEM_SYMMETRIC_SIZE)",
                        part->head.bytes);
    }
    for (int32_t r = 0; r < part->head.num_ranks; r++) {
        part->parts[r] = api.ptr(part->own, r);
        if (part->parts[r] == NULL) {
            return EPF_FAIL(EPF_E_UNSUPPORTED,
                            "NVSHMEM: nvshmem_ptr gives rank %" PRId32
                            " no way to the memory of rank %" PRId32,
                            part->head.rank, r);
        }
    }
    return epf_cuda_zero(part->own, part->head.bytes);
}

static void nvshmem_unmap(epf_cuda_part *part)
{
    (void)part;
}

/* Freeing is a collective of NVSHMEM's.  Where not all ranks come, or not all got memory, it stays taken until
 * the world ends: better than a wait without end. */
static void nvshmem_own_destroy(epf_comm *comm, epf_cuda_part *part)
{
    const int32_t have = part->own != NULL;
    int32_t *all = comm->scratch;
    if (!part->mapped || epf_comm_all_gather(comm, &have, all, sizeof have) != EPF_OK) {
        return;
    }
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        if (!all[r]) {
            return;
        }
    }
    api.release(part->own);
    part->own = NULL;
}

const epf_cuda_transport_ops epf_cuda_nvshmem_ops = {
    .name = "nvshmem",
    .own_create = nvshmem_own_create,
    .offer_fill = nvshmem_offer_fill,
    .map = nvshmem_map,
    .unmap = nvshmem_unmap,
    .own_destroy = nvshmem_own_destroy,
};
