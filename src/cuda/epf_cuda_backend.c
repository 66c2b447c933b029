/* epf_cuda_backend.c: making and ending an operator on a device, its stream, its failures, its zeroes. */
#include <stdlib.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "comm/epf_wait.h"
#include "cuda/epf_cuda_backend_internal.h"
#include "cuda/epf_cuda_phase.h"
#include "cuda/epf_gemm_sm90.h"
#include "cuda/epf_preprocess_index.h"

enum { WAIT_FACTOR = 4 }; /* several calls may be enqueued, each with waits of its own */

/* --- making and ending ------------------------------------------------------------------------ */

static epf_status check_shape(const epf_shape *s)
{
    if (s->num_ranks > EPF_PREPROCESS_MAX_RANKS) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "num_ranks: %d, the CUDA backend takes %d at most",
                        s->num_ranks, (int)EPF_PREPROCESS_MAX_RANKS);
    }
    if (s->num_experts > EPF_PREPROCESS_MAX_EXPERTS) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "num_tot_experts: %d, the CUDA backend takes %d at most",
                        s->num_experts, (int)EPF_PREPROCESS_MAX_EXPERTS);
    }
    if (epf_shape_max_slots(s) > EPF_PREPROCESS_MAX_SLOTS) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "max_tokens: %d with topk %d, the CUDA backend takes %d slots at most",
                        s->max_tokens, s->topk, (int)EPF_PREPROCESS_MAX_SLOTS);
    }
    return EPF_OK;
}

enum { DEFAULT_QUEUES = 8, STREAMS_OF_RANK = 2 };

/*
 * Ranks that are threads share the device's work queues: with more streams than queues a rank's kernel may stand
 * behind what waits for another rank's kernel, which waits for the first.
 */
static epf_status check_queues(const epf_cuda_group *g)
{
    const char *const text = secure_getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    const long num = text != NULL ? strtol(text, NULL, 10) : DEFAULT_QUEUES;
    if (g->transport == EPF_CUDA_TRANSPORT_LOCAL && g->num_sharing > 1 &&
        num < (long)g->num_sharing * STREAMS_OF_RANK) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "device %d: %d ranks of this process share it, which needs %d work queues, "
                        "but CUDA_DEVICE_MAX_CONNECTIONS is %s; set it (up to 32) before the "
                        "process first uses CUDA",
                        g->device, g->num_sharing, g->num_sharing * STREAMS_OF_RANK,
                        text != NULL ? text : "not set, which means 8");
    }
    return EPF_OK;
}

/* All ranks' CTAs on one device must be resident together. */
static epf_status take_share(epf_cuda_op *o, const epf_cuda_op_config *c)
{
    int32_t max_ctas = 0;
    int32_t share;
    EPF_TRY(check_queues(&o->group));
    EPF_TRY(epf_cuda_phase_max_ctas(&max_ctas));
    share = (int32_t)epf_min64(max_ctas, o->group.num_sms) / o->group.num_sharing / 2 * 2;
    if (share < 2) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "device %d: %d CTAs at a time are too few for the %d ranks on it",
                        o->group.device, max_ctas, o->group.num_sharing);
    }
    if (c->num_workers > share) {
        return EPF_FAIL(EPF_E_UNSUPPORTED,
                        "num_workers: %d CTAs, but this rank's share of device %d is %d",
                        c->num_workers, o->group.device, share);
    }
    o->num_workers = c->num_workers > 0 ? c->num_workers : share;
    o->num_ctas = (o->num_workers - c->sm_margin) / 2 * 2;
    EPF_CHECK_ARG(o->num_ctas >= 2, "sm_margin: %d, must leave 2 of the %d CTAs", c->sm_margin,
                  o->num_workers);
    return EPF_OK;
}

static epf_status load_kernels(void)
{
    int32_t num = 0;
    const epf_gemm_sm90_variant *const gemms = epf_gemm_sm90_variants(&num);
    for (int32_t i = 0; i < num; i++) {
        struct cudaFuncAttributes attributes;
        EPF_TRY(epf_cuda_check(cudaFuncGetAttributes(&attributes, gemms[i].kernel),
                               "loading the grouped GEMM"));
    }
    EPF_TRY(epf_cuda_preprocess_load());
    EPF_TRY(epf_cuda_profile_load());
    return epf_rows_backward_load();
}

static epf_status take_memory(epf_cuda_op *o, int64_t max_rows)
{
    const epf_cuda_group *const g = &o->group;
    void *m = NULL;
    EPF_TRY(epf_cuda_alloc(g, sizeof *o->state, "operator's state", &m));
    o->state = m;
    EPF_TRY(epf_cuda_host_alloc(g, sizeof *o->report, "operator's report", &m));
    o->report = m;
    EPF_TRY(epf_cuda_alloc(g, o->shape.num_local * EPF_WORD_BYTES, "expert_ready", &m));
    o->expert_ready = m;
    EPF_TRY(epf_cuda_alloc(g, epf_cuda_preprocess_scratch(&o->shape), "preprocess's memory", &m));
    o->scratch = m;
    return epf_cuda_op_reserve_rows(o, max_rows);
}

static epf_status take_streams(epf_cuda_op *o, void *stream)
{
    EPF_TRY(epf_cuda_check(cudaStreamCreateWithFlags(&o->own_stream, cudaStreamNonBlocking),
                           "operator's stream"));
    EPF_TRY(epf_cuda_check(cudaStreamCreateWithFlags(&o->side_stream, cudaStreamNonBlocking),
                           "operator's side stream"));
    EPF_TRY(epf_cuda_check(cudaEventCreateWithFlags(&o->event, cudaEventDisableTiming),
                           "operator's event"));
    o->stream = stream != NULL ? (cudaStream_t)stream : o->own_stream;
    return EPF_OK;
}

/* This rank's part of making the operator, its device current. */
static epf_status make(epf_cuda_op *o, const epf_cuda_op_config *c)
{
    EPF_TRY(take_share(o, c));
    EPF_TRY(load_kernels());
    EPF_TRY(take_streams(o, c->stream));
    return take_memory(o, c->max_rows);
}

epf_status epf_cuda_op_create(const epf_cuda_op_config *c, epf_cuda_op **op)
{
    epf_cuda_op *const o = epf_alloc(1, sizeof *o);
    int previous;
    epf_status st = o != NULL ? check_shape(c->shape)
                              : EPF_FAIL(EPF_E_NO_MEMORY, "operator: %zu bytes", sizeof *o);
    EPF_TRY_GOTO(epf_comm_agree(c->comm, st), err_op);
    EPF_TRY_GOTO(epf_cuda_group_join(c->comm, c->device, &o->group), err_op);
    o->comm = c->comm;
    o->shape = *c->shape;
    st = epf_cuda_enter(o->group.device, &previous);
    if (st == EPF_OK) {
        st = make(o, c);
        epf_cuda_leave(o->group.device, previous);
    }
    EPF_TRY_GOTO(epf_comm_agree(c->comm, st), err_joined);
    *op = o;
    return EPF_OK;

err_joined:
    epf_cuda_op_destroy(o);
    return st;
err_op:
    epf_free(o);
    return st;
}

void epf_cuda_op_destroy(epf_cuda_op *o)
{
    if (o == NULL) {
        return;
    }
    if (o->own_stream != NULL) {
        (void)cudaStreamDestroy(o->own_stream);
    }
    if (o->side_stream != NULL) {
        (void)cudaStreamDestroy(o->side_stream);
    }
    if (o->event != NULL) {
        (void)cudaEventDestroy(o->event);
    }
    epf_cuda_profile_destroy(o->profile);
    epf_cuda_free(o->state);
    epf_cuda_free(o->expert_ready);
    epf_cuda_free(o->tile_ready);
    epf_cuda_free(o->tile_done);
    epf_cuda_free(o->scratch);
    epf_cuda_host_free(o->report);
    epf_cuda_group_leave(o->comm, &o->group);
    epf_free(o);
}

epf_status epf_cuda_op_reserve_rows(epf_cuda_op *o, int64_t rows)
{
    const int64_t tiles = epf_cuda_max_tiles(rows, o->shape.num_local);
    void *ready = NULL;
    void *done = NULL;
    epf_status st;
    if (tiles <= o->max_tiles) {
        return EPF_OK;
    }
    EPF_TRY(epf_cuda_alloc(&o->group, tiles * EPF_WORD_BYTES, "tile_ready", &ready));
    EPF_TRY_GOTO(
        epf_cuda_alloc(&o->group, tiles * EPF_CUDA_TILE_PARTS * EPF_WORD_BYTES, "tile_done", &done),
        err_ready);
    epf_cuda_free(o->tile_ready);
    epf_cuda_free(o->tile_done);
    o->tile_ready = ready;
    o->tile_done = done;
    o->max_tiles = tiles;
    return EPF_OK;

err_ready:
    epf_cuda_free(ready);
    return st;
}

const epf_cuda_group *epf_cuda_op_group(const epf_cuda_op *o)
{
    return &o->group;
}

int32_t epf_cuda_op_num_workers(const epf_cuda_op *o)
{
    return o->num_workers;
}

int32_t epf_cuda_op_num_ctas(const epf_cuda_op *o)
{
    return o->num_ctas;
}

void epf_cuda_op_set_windows(epf_cuda_op *o, const epf_cuda_windows *windows)
{
    o->windows = *windows;
}

/* --- streams and waits ------------------------------------------------------------------------ */

epf_status epf_cuda_is_capturing(cudaStream_t stream, bool *is_capturing)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    EPF_TRY(epf_cuda_check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing"));
    *is_capturing = status != cudaStreamCaptureStatusNone;
    return EPF_OK;
}

epf_status epf_cuda_refuse_capture(cudaStream_t stream, const char *function)
{
    bool is_capturing;
    EPF_TRY(epf_cuda_is_capturing(stream, &is_capturing));
    if (is_capturing) {
        return EPF_FAIL(EPF_E_STATE, "%s: the stream is being captured", function);
    }
    return EPF_OK;
}

void *epf_cuda_op_stream(const epf_cuda_op *o)
{
    return o->stream;
}

bool epf_cuda_op_is_capturing(const epf_cuda_op *o)
{
    bool is_capturing;
    return epf_cuda_is_capturing(o->stream, &is_capturing) != EPF_OK || is_capturing;
}

static epf_status move_to(epf_cuda_op *o, cudaStream_t to)
{
    EPF_TRY(epf_cuda_refuse_capture(o->stream, "epf_op_set_stream"));
    EPF_TRY(epf_cuda_refuse_capture(to, "epf_op_set_stream"));
    EPF_TRY(epf_cuda_check(cudaEventRecord(o->event, o->stream), "cudaEventRecord"));
    EPF_TRY(epf_cuda_check(cudaStreamWaitEvent(to, o->event, 0), "cudaStreamWaitEvent"));
    o->stream = to;
    return EPF_OK;
}

epf_status epf_cuda_op_set_stream(epf_cuda_op *o, void *stream)
{
    int previous;
    epf_status st;
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    st = move_to(o, stream != NULL ? (cudaStream_t)stream : o->own_stream);
    epf_cuda_leave(o->group.device, previous);
    return st;
}

/* A stream asked again and again; what it said last. */
typedef struct stream_end {
    cudaStream_t stream;
    cudaError_t error;
} stream_end;

static bool is_at_end(void *context)
{
    stream_end *const end = context;
    end->error = cudaStreamQuery(end->stream);
    return end->error != cudaErrorNotReady;
}

/* A rank has died: its signals will not come, so that this rank's kernels need not wait for them. */
static void raise_dead(epf_cuda_op *o, int32_t peer)
{
    epf_fault fault;
    memset(&fault, 0, sizeof fault);
    fault.status = EPF_E_PEER;
    fault.rank = o->comm->rank;
    fault.peer = peer;
    epf_cuda_op_raise(o, &fault);
}

epf_wait_code epf_cuda_wait_until(epf_cuda_op *o, bool (*ready)(void *), void *context)
{
    const uint64_t limit = UINT64_MAX / WAIT_FACTOR;
    epf_wait_watch watch = {o->comm, NULL,
                            o->comm->timeout_ns < limit ? o->comm->timeout_ns * WAIT_FACTOR
                                                        : UINT64_MAX};
    epf_wait_report report;
    epf_wait_code code = epf_wait_until(&watch, ready, context, &report);
    if (code == EPF_WAIT_PEER_DEAD) {
        raise_dead(o, report.peer);
        watch.comm = NULL;
        code = epf_wait_until(&watch, ready, context, &report);
    }
    return code;
}

static epf_status wait_stream(epf_cuda_op *o)
{
    stream_end end = {o->stream, cudaSuccess};
    EPF_TRY(epf_cuda_refuse_capture(o->stream, "epf_op_synchronize"));
    if (epf_cuda_wait_until(o, is_at_end, &end) != EPF_WAIT_READY) {
        return EPF_FAIL(EPF_E_TIMEOUT, "the operator's stream did not end within %d x %.3g s",
                        (int)WAIT_FACTOR, (double)o->comm->timeout_ns * 1e-9);
    }
    return epf_cuda_check(end.error, "the operator's stream");
}

epf_status epf_cuda_op_wait(epf_cuda_op *o)
{
    int previous;
    epf_status st;
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    st = wait_stream(o);
    epf_cuda_leave(o->group.device, previous);
    return st;
}

epf_status epf_cuda_op_copy(epf_cuda_op *o, void *to, const void *from, int64_t bytes)
{
    int previous;
    cudaError_t error;
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    error = cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDefault, o->side_stream);
    if (error == cudaSuccess) {
        error = cudaStreamSynchronize(o->side_stream);
    }
    epf_cuda_leave(o->group.device, previous);
    return epf_cuda_check(error, "copying device memory");
}

/* --- failures --------------------------------------------------------------------------------- */

void epf_cuda_op_poll(const epf_cuda_op *o, epf_fault *fault)
{
    if (epf_load_acquire_sys_u32(&o->report->is_set) != 0) {
        *fault = o->report->fault;
    }
}

static uint8_t *abort_of(const epf_cuda_op *o, int32_t rank)
{
    return o->windows.control[rank] + o->windows.control_map->abort;
}

bool epf_cuda_op_is_aborted(epf_cuda_op *o)
{
    uint32_t word = 0;
    return epf_cuda_op_copy(o, &word, abort_of(o, o->comm->rank), sizeof word) != EPF_OK ||
           word != 0;
}

void epf_cuda_op_raise(epf_cuda_op *o, const epf_fault *fault)
{
    const uint32_t by = (uint32_t)o->comm->rank + 1;
    for (int32_t r = 0; o->windows.control != NULL && r < o->shape.num_ranks; r++) {
        uint8_t *const faults = o->windows.control[r] + o->windows.control_map->faults;
        uint8_t *const own = faults + (int64_t)sizeof *fault * o->comm->rank;
        /* A rank that cannot be told finds out by its own timeout. */
        if (epf_cuda_op_copy(o, own, fault, sizeof *fault) == EPF_OK) {
            (void)epf_cuda_op_copy(o, abort_of(o, r), &by, sizeof by);
        }
    }
}

static epf_status zero_words(epf_cuda_op *o)
{
    const epf_cuda_windows *const w = &o->windows;
    const int64_t tile_bytes = o->max_tiles * EPF_WORD_BYTES;
    EPF_TRY(epf_cuda_zero(w->control[o->comm->rank], (uint64_t)w->control_map->posted_head));
    for (int32_t i = 0; i < w->num_sets; i++) {
        EPF_TRY(epf_cuda_zero(w->own_set[i], (uint64_t)w->set_bytes[i]));
    }
    EPF_TRY(epf_cuda_zero(o->tile_ready, (uint64_t)tile_bytes));
    EPF_TRY(epf_cuda_zero(o->tile_done, (uint64_t)tile_bytes * EPF_CUDA_TILE_PARTS));
    EPF_TRY(epf_cuda_zero(o->expert_ready, (uint64_t)(o->shape.num_local * EPF_WORD_BYTES)));
    return epf_cuda_zero(o->state, sizeof *o->state);
}

epf_status epf_cuda_op_zero(epf_cuda_op *o)
{
    int previous;
    epf_status st;
    EPF_TRY(epf_cuda_enter(o->group.device, &previous));
    st = zero_words(o);
    epf_cuda_leave(o->group.device, previous);
    memset(o->report, 0, sizeof *o->report);
    o->num_preprocess = 0;
    o->generation++;
    return st;
}
