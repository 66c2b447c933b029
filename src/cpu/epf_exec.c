/*
 * epf_exec.c: worker threads, tickets, waits and giving up.
 *
 * Every worker runs the same loop: for each queue the schedule lists for it, take the next ticket, wait
 * for what the task needs, do it, signal.  What is next and what it needs is epf_sched.h's to say.
 */
#include "cpu/epf_exec.h"

#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "comm/epf_place.h"
#include "cpu/epf_worker.h"

static uint32_t *abort_word(const epf_call *call, int32_t rank)
{
    return (uint32_t *)(void *)(call->control[rank] + call->control_map.abort);
}

static epf_fault *fault_of(const epf_call *call, int32_t on, int32_t by)
{
    return (epf_fault *)(void *)(call->control[on] + call->control_map.faults) + by;
}

void epf_exec_raise(const epf_call *call, const epf_fault *fault)
{
    for (int32_t r = 0; r < call->shape.num_ranks; r++) {
        memcpy(fault_of(call, r, call->rank), fault, sizeof *fault);
        epf_store_release_sys_u32(abort_word(call, r), (uint32_t)call->rank + 1);
    }
}

/* The word `index` of an object as rank call->rank sees it. */
static const uint64_t *word_at(const epf_exec *exec, const epf_call *call, int32_t object,
                               int64_t index)
{
    const epf_control_map *const control = &call->control_map;
    switch (object) {
    case EPF_OBJECT_ENTERED:
        return epf_call_control_word(call, call->rank, control->entered, index);
    case EPF_OBJECT_BARRIER:
        return epf_call_control_word(call, call->rank, control->barrier, index);
    case EPF_OBJECT_POSTED:
        return epf_call_control_word(call, call->rank, control->posted, index);
    case EPF_OBJECT_SOURCED:
        return epf_call_control_word(call, call->rank, control->sourced, index);
    case EPF_OBJECT_RECV_FLAG:
        return epf_call_set_word(call, call->rank, call->set_map.recv_flag, index);
    case EPF_OBJECT_COMBINE_FLAG:
        return epf_call_set_word(call, call->rank, call->set_map.combine_flag, index);
    case EPF_OBJECT_TILE_READY:
        return exec->tile_ready + index;
    case EPF_OBJECT_EXPERT_READY:
        return exec->expert_ready + index;
    case EPF_OBJECT_TILE_DONE:
        return exec->tile_done + index;
    default:
        return &exec->gemm_done;
    }
}

/* Objects whose word `i` rank `i` signals. */
static bool is_by_rank(int32_t object)
{
    return object == EPF_OBJECT_ENTERED || object == EPF_OBJECT_BARRIER ||
           object == EPF_OBJECT_POSTED || object == EPF_OBJECT_SOURCED;
}

/* Rank `peer` entered this epoch with another operation, buffer set or layout than ours. */
static bool is_mismatch(const epf_exec *exec, const epf_call *call, const epf_need *need,
                        int64_t peer, epf_fault *fault)
{
    uint64_t word;
    if (need->object != EPF_OBJECT_ENTERED) {
        return false;
    }
    word = epf_load_relaxed_sys_u64(word_at(exec, call, need->object, peer));
    if (!epf_entered_is_mismatch(epf_word(call->phase.epoch, epf_call_tag(call)), word)) {
        return false;
    }
    memset(fault, 0, sizeof *fault);
    fault->status = EPF_E_INVALID;
    fault->rank = call->rank;
    fault->object = need->object;
    fault->peer = (int32_t)peer;
    fault->index = peer;
    fault->expected = epf_word(call->phase.epoch, epf_call_tag(call));
    fault->seen = word;
    return true;
}

/* The wait of all waits.  On failure fills `fault` as far as this rank knows. */
static epf_status wait_words(const epf_exec *exec, const epf_call *call, const epf_need *need,
                             int32_t source, epf_fault *fault)
{
    const epf_wait_watch watch = {exec->comm, abort_word(call, call->rank), exec->comm->timeout_ns};
    for (int64_t i = need->begin; i < need->end; i++) {
        const int32_t from = is_by_rank(need->object) ? (int32_t)i : source;
        epf_wait_report report;
        const epf_wait_code code = epf_wait_u64(&watch, word_at(exec, call, need->object, i),
                                                need->at_least, from, &report);
        if (code == EPF_WAIT_READY) {
            if (is_mismatch(exec, call, need, i, fault)) {
                return EPF_E_INVALID;
            }
            continue;
        }
        memset(fault, 0, sizeof *fault);
        fault->status = epf_wait_status(code);
        fault->rank = call->rank;
        fault->object = need->object;
        fault->peer = code == EPF_WAIT_PEER_DEAD ? report.peer : from;
        fault->index = i;
        fault->expected = report.expected;
        fault->seen = report.seen;
        return code == EPF_WAIT_ABORTED ? EPF_E_STATE : epf_wait_status(code);
    }
    return EPF_OK;
}

/* After an abort that another rank raised: its record. */
static void read_fault(const epf_call *call, epf_fault *fault)
{
    const uint32_t by = epf_load_acquire_sys_u32(abort_word(call, call->rank));
    if (by >= 1 && by <= (uint32_t)call->shape.num_ranks) {
        memcpy(fault, fault_of(call, call->rank, (int32_t)by - 1), sizeof *fault);
    }
}

epf_status epf_exec_wait(epf_exec *exec, const epf_call *call, const epf_need *need,
                         epf_fault *fault)
{
    const epf_status st = wait_words(exec, call, need, EPF_WAIT_ANY_RANK, fault);
    if (st == EPF_OK) {
        return EPF_OK;
    }
    if (st == EPF_E_STATE) {
        read_fault(call, fault);
    } else {
        epf_exec_raise(call, fault);
    }
    return (epf_status)fault->status;
}

/* The first worker of this rank to give up tells everybody. */
static void raise_once(epf_worker *worker, epf_fault *fault)
{
    epf_exec *const exec = worker->exec;
    if (epf_cas_acq_rel_gpu_u32(&exec->failed, 0, 1) == 0) {
        fault->worker = worker->index;
        *exec->fault = *fault;
        epf_exec_raise(exec->call, fault);
    }
}

epf_status epf_worker_wait(epf_worker *worker, const epf_need *need, int32_t source)
{
    epf_fault fault;
    const epf_status st = wait_words(worker->exec, worker->exec->call, need, source, &fault);
    if (st != EPF_OK && st != EPF_E_STATE) {
        raise_once(worker, &fault);
    }
    return st;
}

epf_status epf_worker_raise(epf_worker *worker, epf_status status)
{
    epf_fault fault;
    memset(&fault, 0, sizeof fault);
    fault.status = status;
    fault.rank = worker->exec->call->rank;
    fault.peer = -1;
    raise_once(worker, &fault);
    return status;
}

epf_status epf_worker_reserve(epf_worker *worker, int64_t tile_floats)
{
    if (tile_floats <= worker->tile_floats) {
        return EPF_OK;
    }
    worker->tile_floats = 0;
    for (int i = 0; i < 2; i++) {
        epf_free(worker->tile[i]);
        worker->tile[i] = epf_alloc_aligned((size_t)tile_floats, sizeof(float), 64);
        if (worker->tile[i] == NULL) {
            return EPF_FAIL(EPF_E_NO_MEMORY, "tile of a worker: %lld floats",
                            (long long)tile_floats);
        }
    }
    worker->tile_floats = tile_floats;
    return EPF_OK;
}

static epf_status run_task(epf_worker *worker, int32_t task_class, int64_t index)
{
    switch (task_class) {
    case EPF_TASK_DISPATCH:
        return epf_task_dispatch(worker, index);
    case EPF_TASK_EXPAND:
        return epf_task_expand(worker, index);
    case EPF_TASK_GEMM:
        return epf_task_gemm(worker, index);
    case EPF_TASK_SCATTER:
        return epf_task_scatter(worker, index);
    case EPF_TASK_GRAD:
        return epf_task_grad(worker, index);
    default:
        return epf_task_reduce(worker, index);
    }
}

static epf_status run_queue(epf_worker *worker, int32_t task_class)
{
    epf_exec *const exec = worker->exec;
    const epf_call *const call = exec->call;
    const int64_t num_tasks = epf_phase_num_tasks(&call->phase, task_class);
    while (num_tasks > 0) {
        const int64_t ticket = epf_word_add(&exec->tickets[task_class], call->phase.epoch, 1);
        if (ticket >= num_tasks) {
            break;
        }
        if (epf_load_relaxed_sys_u32(abort_word(call, call->rank)) != 0) {
            return EPF_E_STATE;
        }
        EPF_TRY(run_task(worker, task_class, ticket));
    }
    return EPF_OK;
}

static epf_status run_worker(epf_worker *worker)
{
    const epf_call *const call = worker->exec->call;
    if (worker->index == 0 && call->phase.kind == EPF_PHASE_COMBINE_SERIAL &&
        epf_phase_num_tasks(&call->phase, EPF_TASK_GEMM) == 0) {
        epf_signal_barrier(call);
    }
    for (int32_t step = 0;; step++) {
        const int32_t task_class = epf_phase_queue(&call->phase, worker->index, step);
        epf_status st;
        if (task_class == EPF_TASK_NONE) {
            return EPF_OK;
        }
        st = run_queue(worker, task_class);
        if (st != EPF_OK) {
            if (st != EPF_E_STATE) {
                (void)epf_worker_raise(worker, st); /* unless the task already did */
            }
            return st;
        }
    }
}

static void *thread_main(void *argument)
{
    epf_worker *const worker = argument;
    epf_exec *const exec = worker->exec;
    uint64_t seen = 0;
    if (worker->cpu >= 0) {
        (void)epf_place_pin(worker->cpu); /* a preference: work goes on where it is */
    }
    pthread_mutex_lock(&exec->lock);
    for (;;) {
        while (exec->job == seen && !exec->quit) {
            pthread_cond_wait(&exec->wake, &exec->lock);
        }
        if (exec->quit) {
            break;
        }
        seen = exec->job;
        if (worker->index >= exec->num_active) {
            continue;
        }
        pthread_mutex_unlock(&exec->lock);
        worker->status = run_worker(worker);
        pthread_mutex_lock(&exec->lock);
        if (--exec->num_running == 0) {
            pthread_cond_signal(&exec->idle);
        }
    }
    pthread_mutex_unlock(&exec->lock);
    return NULL;
}

/* Local words for the call's tiles; new ones start at 0, which is below every epoch. */
static epf_status reserve_words(epf_exec *exec, const epf_phase *phase)
{
    const int64_t tiles = epf_tile_num_m(&phase->tiles);
    if (tiles > exec->max_tiles) {
        epf_free(exec->tile_ready);
        epf_free(exec->tile_done);
        exec->max_tiles = 0;
        exec->tile_ready = epf_alloc((size_t)tiles, sizeof(uint64_t));
        exec->tile_done = epf_alloc((size_t)tiles, sizeof(uint64_t));
        if (exec->tile_ready == NULL || exec->tile_done == NULL) {
            return EPF_FAIL(EPF_E_NO_MEMORY, "counters of %lld tiles", (long long)tiles);
        }
        exec->max_tiles = tiles;
    }
    if (phase->tiles.num_experts > exec->max_experts) {
        epf_free(exec->expert_ready);
        exec->max_experts = 0;
        exec->expert_ready = epf_alloc((size_t)phase->tiles.num_experts, sizeof(uint64_t));
        if (exec->expert_ready == NULL) {
            return EPF_FAIL(EPF_E_NO_MEMORY, "counters of %d experts", phase->tiles.num_experts);
        }
        exec->max_experts = phase->tiles.num_experts;
    }
    return EPF_OK;
}

epf_status epf_exec_run(epf_exec *exec, const epf_call *call, epf_prof *prof, epf_fault *fault)
{
    const int32_t num_workers = call->phase.num_workers;
    epf_status st = EPF_OK;
    exec->call = call;
    exec->fault = fault;
    exec->failed = 0;
    for (int32_t w = 0; w < num_workers; w++) {
        exec->workers[w].lane = epf_prof_worker(prof, w);
        exec->workers[w].status = EPF_OK;
    }
    st = reserve_words(exec, &call->phase);
    if (st != EPF_OK) {
        return epf_worker_raise(&exec->workers[0], st); /* peers already wait for our part */
    }
    pthread_mutex_lock(&exec->lock);
    exec->num_active = num_workers;
    exec->num_running = num_workers - 1;
    exec->job++;
    if (num_workers > 1) {
        pthread_cond_broadcast(&exec->wake);
    }
    pthread_mutex_unlock(&exec->lock);

    exec->workers[0].status = run_worker(&exec->workers[0]);

    pthread_mutex_lock(&exec->lock);
    while (exec->num_running > 0) {
        pthread_cond_wait(&exec->idle, &exec->lock);
    }
    pthread_mutex_unlock(&exec->lock);
    for (int32_t w = 0; w < num_workers && st == EPF_OK; w++) {
        st = exec->workers[w].status;
    }
    if (st == EPF_OK) {
        return EPF_OK;
    }
    if (epf_load_acquire_gpu_u32(&exec->failed) == 0) {
        read_fault(call, fault);
    }
    return (epf_status)fault->status;
}

void epf_exec_zero(epf_exec *exec)
{
    memset(exec->tickets, 0, sizeof exec->tickets);
    exec->gemm_done = 0;
    for (int64_t t = 0; t < exec->max_tiles; t++) {
        exec->tile_ready[t] = 0;
        exec->tile_done[t] = 0;
    }
    for (int64_t e = 0; e < exec->max_experts; e++) {
        exec->expert_ready[e] = 0;
    }
}

int32_t epf_exec_num_workers(const epf_exec *exec)
{
    return exec->num_workers;
}

static epf_status start_threads(epf_exec *exec)
{
    for (int32_t w = 1; w < exec->num_workers; w++) {
        const int error =
            pthread_create(&exec->workers[w].thread, NULL, thread_main, &exec->workers[w]);
        if (error != 0) {
            return EPF_FAIL(EPF_E_DEVICE, "worker thread %d of %d: %s", w, exec->num_workers,
                            strerror(error));
        }
        exec->num_threads++;
    }
    return EPF_OK;
}

epf_status epf_exec_create(const epf_exec_config *config, epf_exec **out)
{
    epf_status st = EPF_OK;
    epf_exec *const exec = epf_alloc(1, sizeof *exec);
    if (exec == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "executor: %zu bytes", sizeof *exec);
    }
    exec->comm = config->comm;
    (void)pthread_mutex_init(&exec->lock, NULL);
    (void)pthread_cond_init(&exec->wake, NULL);
    (void)pthread_cond_init(&exec->idle, NULL);
    exec->workers = epf_alloc((size_t)config->num_workers, sizeof *exec->workers);
    if (exec->workers == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "executor: %d workers", config->num_workers);
        goto err_exec;
    }
    exec->num_workers = config->num_workers;
    for (int32_t w = 0; w < exec->num_workers; w++) {
        exec->workers[w].exec = exec;
        exec->workers[w].index = w;
        exec->workers[w].cpu = config->cpus != NULL ? config->cpus[w % config->num_cpus] : -1;
        EPF_TRY_GOTO(epf_gemm_scratch_create(&exec->workers[w].scratch), err_exec);
    }
    EPF_TRY_GOTO(start_threads(exec), err_exec);
    *out = exec;
    return EPF_OK;

err_exec:
    epf_exec_destroy(exec);
    return st;
}

void epf_exec_destroy(epf_exec *exec)
{
    if (exec == NULL) {
        return;
    }
    pthread_mutex_lock(&exec->lock);
    exec->quit = true;
    pthread_cond_broadcast(&exec->wake);
    pthread_mutex_unlock(&exec->lock);
    for (int32_t w = 1; w <= exec->num_threads; w++) {
        (void)pthread_join(exec->workers[w].thread, NULL);
    }
    for (int32_t w = 0; w < exec->num_workers; w++) {
        epf_gemm_scratch_destroy(exec->workers[w].scratch);
        epf_free(exec->workers[w].tile[0]);
        epf_free(exec->workers[w].tile[1]);
    }
    epf_free(exec->workers);
    epf_free(exec->tile_ready);
    epf_free(exec->tile_done);
    epf_free(exec->expert_ready);
    (void)pthread_cond_destroy(&exec->idle);
    (void)pthread_cond_destroy(&exec->wake);
    (void)pthread_mutex_destroy(&exec->lock);
    epf_free(exec);
}
