/* epf_cuda_profile.c: see epf_cuda_profile.h. */
#include "cuda/epf_cuda_profile.h"

#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "cuda/epf_cuda_backend_internal.h"
#include "cuda/epf_cuda_clock.h"
#include "cuda/epf_cuda_trace.h"

enum {
    NUM_RECORDS = 1 << 19, /* of all lanes together, as long as each has ... */
    LEAST_RECORDS = 1024,
    GRAIN_BYTES = 64, /* in front of the records */
    ALIGN = 64,
    CLOCK_TRIES = 4,
    CLOCK_LOOKS = 16, /* times that the host must have seen */
    CLOCK_LIMIT_NS = 1000000000
};

struct epf_cuda_profile {
    uint8_t *on_device; /* the grain, then the records */
    uint8_t *on_host;   /* as it was after the launch */
    int64_t bytes;      /* of each */
    int64_t records_per_lane;
    epf_cuda_clock *clock; /* host memory */
    uint8_t *tables;       /* of the layout, on the host */
    int64_t table_bytes;   /* that it has room for */
};

/* --- memory --------------------------------------------------------------------------------------- */

epf_status epf_cuda_profile_load(void)
{
    struct cudaFuncAttributes attributes;
    return epf_cuda_check(cudaFuncGetAttributes(&attributes, epf_cuda_clock_kernel()),
                          "loading the profiler's clock");
}

void epf_cuda_profile_destroy(epf_cuda_profile *p)
{
    if (p != NULL) {
        epf_cuda_free(p->on_device);
        epf_cuda_host_free(p->clock);
        epf_free(p->on_host);
        epf_free(p->tables);
        epf_free(p);
    }
}

epf_status epf_cuda_op_check_profile(const epf_cuda_op *o)
{
    return epf_cuda_refuse_capture(o->stream, "enable_profiler");
}

static epf_status take_memory(const epf_cuda_op *o, epf_cuda_profile *p)
{
    const int64_t lanes = (int64_t)o->num_ctas * EPF_CUDA_PROF_LANES;
    void *m = NULL;
    p->records_per_lane = epf_max64(NUM_RECORDS / lanes, LEAST_RECORDS);
    p->bytes = GRAIN_BYTES + lanes * p->records_per_lane * (int64_t)sizeof(epf_prof_record);
    p->on_host = epf_alloc_aligned((size_t)p->bytes, 1, ALIGN);
    if (p->on_host == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "profile: %lld bytes", (long long)p->bytes);
    }
    EPF_TRY(epf_cuda_alloc(&o->group, p->bytes, "profile", &m));
    p->on_device = m;
    EPF_TRY(epf_cuda_host_alloc(&o->group, sizeof *p->clock, "profile's clock", &m));
    p->clock = m;
    return EPF_OK;
}

static epf_status create(epf_cuda_op *o)
{
    epf_cuda_profile *const p = epf_alloc(1, sizeof *p);
    epf_status st;
    if (p == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "profile: %zu bytes", sizeof *p);
    }
    st = take_memory(o, p);
    if (st != EPF_OK) {
        epf_cuda_profile_destroy(p);
        return st;
    }
    o->profile = p;
    return EPF_OK;
}

epf_status epf_cuda_profile_begin(epf_cuda_op *o, epf_cuda_launch *launch)
{
    const int32_t kind = launch->call->phase.kind;
    cudaError_t error;
    int previous;
    if (kind == EPF_PHASE_GEMM || kind == EPF_PHASE_GRAD) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "profile: on a device only the fused phases record");
    }
    if (o->profile == NULL) {
        EPF_TRY(create(o));
    }
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    error = cudaMemsetAsync(o->profile->on_device, 0, (size_t)o->profile->bytes, o->stream);
    epf_cuda_leave(o->group.device, previous);
    EPF_TRY(epf_cuda_check(error, "emptying the profile"));
    launch->grain = (epf_cuda_grain *)(void *)o->profile->on_device;
    launch->records = (epf_prof_record *)(void *)(o->profile->on_device + GRAIN_BYTES);
    launch->records_per_lane = o->profile->records_per_lane;
    return EPF_OK;
}

/* --- the device's clock --------------------------------------------------------------------------- */

/* One run of the kernel: the least difference seen, and at how many times. */
static epf_status watch_clock(epf_cuda_op *o, int64_t *least, int32_t *num_looks)
{
    epf_cuda_clock *shown = o->profile->clock;
    void *params[] = {&shown};
    cudaLaunchConfig_t config = {0};
    const uint64_t limit = epf_now_ns() + CLOCK_LIMIT_NS;
    uint64_t before = 0;
    bool is_last = false;
    epf_store_relaxed_sys_u64(&shown->device_ns, 0);
    epf_store_release_sys_u64(&shown->has_ended, 0);
    config.gridDim = (dim3){1, 1, 1};
    config.blockDim = (dim3){1, 1, 1};
    config.stream = o->side_stream;
    EPF_TRY(epf_cuda_check(cudaLaunchKernelExC(&config, epf_cuda_clock_kernel(), params),
                           "launching the profiler's clock"));
    while (!is_last) {
        uint64_t seen;
        uint64_t now;
        is_last = epf_load_acquire_sys_u64(&shown->has_ended) != 0;
        seen = epf_load_relaxed_sys_u64(&shown->device_ns);
        now = epf_now_ns();
        if (seen != before) {
            *least = epf_min64(*least, (int64_t)(now - seen));
            before = seen;
            ++*num_looks;
        }
        if (now > limit) {
            return EPF_FAIL(EPF_E_TIMEOUT, "profile: the device did not tell its time within 1 s");
        }
    }
    return EPF_OK;
}

/* CLOCK_MONOTONIC less globaltimer.  A host thread that was not running while the kernel was has seen next to nothing:
 * once more then. */
static epf_status read_clock(epf_cuda_op *o, int64_t *host_minus_device_ns)
{
    int64_t least = INT64_MAX;
    int32_t num_looks = 0;
    int previous;
    epf_status st = EPF_OK;
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    for (int i = 0; i < CLOCK_TRIES && num_looks < CLOCK_LOOKS && st == EPF_OK; i++) {
        st = watch_clock(o, &least, &num_looks);
    }
    epf_cuda_leave(o->group.device, previous);
    *host_minus_device_ns = least;
    return st;
}

/* --- what the layout says, on the host ------------------------------------------------------------ */

/* Where the next table goes. */
typedef struct table_copier {
    epf_cuda_op *op;
    uint8_t *at;
} table_copier;

static int64_t room_for(int64_t bytes)
{
    return epf_round_up(bytes, (int64_t)sizeof(uint64_t));
}

static epf_status copy_words(table_copier *t, const void *from, int64_t bytes, const void **to)
{
    uint8_t *const at = t->at;
    *to = at;
    t->at += room_for(bytes);
    return bytes > 0 ? epf_cuda_op_copy(t->op, at, from, bytes) : EPF_OK;
}

static epf_status copy_ints(table_copier *t, int64_t count, const int32_t **table)
{
    const void *made;
    EPF_TRY(copy_words(t, *table, count * (int64_t)sizeof **table, &made));
    *table = made;
    return EPF_OK;
}

static epf_status reserve_tables(epf_cuda_profile *p, const epf_call *call,
                                 const epf_layout_head *head)
{
    const int64_t num_local = call->shape.num_local;
    const int64_t slots = (int64_t)call->num_tokens * call->shape.topk;
    const int64_t ints = (int64_t)sizeof(int32_t);
    const int64_t bytes = room_for(num_local * ints) + 2 * room_for((num_local + 1) * ints) +
                          2 * room_for(slots * ints) + room_for(head->num_slots * ints) +
                          room_for(2 * (int64_t)head->num_rows * ints) +
                          head->num_rows * (int64_t)EPF_WORD_BYTES;
    if (bytes <= p->table_bytes) {
        return EPF_OK;
    }
    epf_free(p->tables);
    p->table_bytes = 0;
    p->tables = epf_alloc_aligned((size_t)bytes, 1, ALIGN);
    if (p->tables == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "profile: %lld bytes of tables", (long long)bytes);
    }
    p->table_bytes = bytes;
    return EPF_OK;
}

/* The tables that a trace of this phase needs, in place of the device's. */
static epf_status copy_tables(epf_cuda_op *o, const epf_cuda_launch *launch,
                              const epf_layout_head *head, epf_call *call,
                              epf_cuda_recording *recording)
{
    table_copier t = {o, o->profile->tables};
    epf_tile_map *const tiles = &call->phase.tiles;
    const int64_t slots = (int64_t)call->num_tokens * call->shape.topk;
    const void *flags = NULL;
    EPF_TRY(copy_ints(&t, tiles->num_experts, &tiles->rows));
    EPF_TRY(copy_ints(&t, tiles->num_experts + 1, &tiles->row_offset));
    EPF_TRY(copy_ints(&t, tiles->num_experts + 1, &tiles->tile_offset));
    if (call->phase.kind == EPF_PHASE_COMBINE_SERIAL) {
        return EPF_OK;
    }
    EPF_TRY(copy_ints(&t, slots, &call->topk_idx));
    EPF_TRY(copy_ints(&t, slots, &call->dst_row));
    if (call->phase.kind == EPF_PHASE_DISPATCH) {
        EPF_TRY(copy_ints(&t, head->num_slots, &call->sort_slots));
        EPF_TRY(copy_ints(&t, 2 * (int64_t)head->num_rows, &call->row_source));
        EPF_TRY(copy_words(&t, launch->own_set + call->set_map.recv_flag,
                           head->num_rows * (int64_t)EPF_WORD_BYTES, &flags));
        recording->recv_flag = flags;
    }
    return EPF_OK;
}

/* --- writing -------------------------------------------------------------------------------------- */

static epf_status fetch(epf_cuda_op *o, const epf_cuda_launch *launch, epf_call *call,
                        epf_cuda_recording *recording)
{
    epf_cuda_profile *const p = o->profile;
    epf_layout_head head;
    EPF_TRY(epf_cuda_op_copy(o, &head, launch->layout->head, sizeof head));
    if (head.status != EPF_OK) {
        return EPF_FAIL(EPF_E_STATE, "profile: nothing ran, since preprocess refused its routing");
    }
    EPF_TRY(epf_cuda_op_copy(o, &call->phase.epoch, &o->state->epoch, sizeof call->phase.epoch));
    EPF_TRY(epf_cuda_op_copy(o, p->on_host, p->on_device, p->bytes));
    call->phase.num_slots = head.num_slots;
    EPF_TRY(reserve_tables(p, call, &head));
    EPF_TRY(copy_tables(o, launch, &head, call, recording));
    memcpy(&recording->grain, p->on_host, sizeof recording->grain);
    recording->call = call;
    recording->records = (const epf_prof_record *)(const void *)(p->on_host + GRAIN_BYTES);
    recording->records_per_lane = p->records_per_lane;
    recording->num_ctas = o->num_ctas;
    return read_clock(o, &recording->host_minus_device_ns);
}

epf_status epf_cuda_profile_write(epf_cuda_op *o, const epf_cuda_launch *launch, const char *name)
{
    epf_call call = *launch->call;
    epf_cuda_recording recording;
    epf_trace *trace;
    epf_status st;
    memset(&recording, 0, sizeof recording);
    EPF_TRY(fetch(o, launch, &call, &recording));
    EPF_TRY(epf_cuda_trace_make(&recording, &trace));
    st = epf_trace_write_rank(trace, NULL, name);
    epf_trace_destroy(trace);
    return st;
}
