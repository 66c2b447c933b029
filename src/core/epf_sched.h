/*
 * epf_sched.h: the schedule.  Which tasks a call has, which a worker takes next, what each waits for and
 * what it signals: stated here once, run by the checker, the CPU backend and the CUDA backend.
 *
 * A call is a phase.  Each rank runs its own tasks; tasks of one class form a queue, taken in order
 * by ticket; a worker serves the queues that epf_phase_queue() lists for it, one after the other.
 *
 *   class     one task                  waits for                        signals
 *   DISPATCH  num_warps slots           entered[d] of each destination   recv_flag[row] on d
 *   EXPAND    the rows of M-tile t      recv_flag of each row            tile_ready[t], expert_ready[e]
 *   GEMM      one (M-tile, N-tile)      dispatch: tile_ready[t] or expert_ready[e]
 *                                       combine: entered[all], of a call
 *                                       after the set's last combine     tile_done[t] or gemm_done
 *                                       alone: nothing                   nothing
 *   SCATTER   M-tile t, all columns     tile_done[t] = N-tiles           combine_flag[slot] on the owner
 *   GRAD      one weight-gradient tile  nothing
 *   REDUCE    num_warps tokens          entered of the ranks it hears from, then
 *                                       fuse_scatter: combine_flag of each slot kept
 *                                       serial: barrier[all]
 *
 * The worker that brings gemm_done to the number of GEMM tasks (serial) signals barrier on all ranks; with
 * no GEMM task, worker 0 does.  Where the epilogue writes to the owners itself (`direct`), the worker
 * that brings tile_done[t] to the number of N-tiles signals combine_flag of the tile's rows.
 *
 * Entered      A rank that stores entered = epoch on its peers has ended all calls before: what they brought
 *              it may be overwritten, and so may what it pulled.  Receive rows belong to the caller until the
 *              next call, so DISPATCH waits for this call's epoch.  Combine's buffers live inside a combine
 *              only: it is enough that a peer has entered any call after the last combine of the set
 *              (free_epoch), so a rank may bring rows back to one that is still multiplying.
 * No deadlock  entered is stored before a rank waits for anything.  DISPATCH waits for entered only;
 *              EXPAND for DISPATCH of all ranks; GEMM for EXPAND of its rank; SCATTER for GEMM of its
 *              rank; REDUCE for SCATTER or GEMM of all ranks.  Every rank has a worker whose first
 *              queue is the first class of the phase, no worker of that kind waits on a later class,
 *              and a queue that a worker leaves is empty.  So the least class with unfinished tasks
 *              always moves.  All workers of a rank must be resident.
 */
#ifndef EPF_SCHED_H
#define EPF_SCHED_H

#include "core/epf_counter.h"
#include "core/epf_tile.h"

/* Classes once, in the order of the waits above. */
#define EPF_TASK_MAP(X)              \
    X(EPF_TASK_DISPATCH, "dispatch") \
    X(EPF_TASK_EXPAND, "expand")     \
    X(EPF_TASK_GEMM, "gemm")         \
    X(EPF_TASK_SCATTER, "scatter")   \
    X(EPF_TASK_GRAD, "grad")         \
    X(EPF_TASK_REDUCE, "reduce")

typedef enum epf_task_class {
#define X(name, text) name,
    EPF_TASK_MAP(X)
#undef X
        EPF_NUM_TASK_CLASSES,
    EPF_TASK_NONE = EPF_NUM_TASK_CLASSES
} epf_task_class;

typedef enum epf_phase_kind {
    EPF_PHASE_DISPATCH = 1,        /* dispatch + grouped GEMM */
    EPF_PHASE_COMBINE_SERIAL = 2,  /* grouped GEMM, barrier, pull and sum */
    EPF_PHASE_COMBINE_SCATTER = 3, /* grouped GEMM, push as tiles finish, sum */
    EPF_PHASE_GRAD = 4,            /* weight gradients alone: no peer takes part */
    EPF_PHASE_GEMM = 5             /* a grouped GEMM alone: no peer takes part */
} epf_phase_kind;

enum { EPF_MAX_GRADS = 2 };

/* The tiles of one weight gradient [L, n, k] = grad_output^T x orig_input. */
typedef struct epf_grad_map {
    int32_t n;       /* N': columns of grad_output */
    int32_t k;       /* K'': columns of orig_input */
    int32_t block_n; /* tile along N' */
    int32_t block_k; /* tile along K'' */
    int32_t group;   /* tiles along N' swept together */
} epf_grad_map;

typedef struct epf_phase {
    int32_t kind; /* epf_phase_kind */
    uint32_t epoch;
    int32_t num_ranks;        /* W */
    int32_t num_workers;      /* of this rank */
    int32_t num_comm_workers; /* dispatch: >= 1 that start with DISPATCH; scatter: with SCATTER */
    int32_t num_tail_workers; /* dispatch: that start with EXPAND; scatter: with REDUCE */
    uint32_t free_epoch;      /* combine: who entered this or a later call has left the buffers */
    bool block_wise;          /* dispatch: GEMM waits for its own M-tile, not its expert */
    bool direct;              /* scatter: the GEMM's epilogue writes to the owners */
    int32_t slots_per_task;
    int32_t tokens_per_task;
    int64_t num_slots;  /* sent by this rank (dispatch) */
    int64_t num_tokens; /* T (combine) */
    epf_tile_map tiles;
    int32_t num_grads;
    epf_grad_map grads[EPF_MAX_GRADS];
} epf_phase;

/* Words [begin, end) of `object` must be at least `at_least`. */
typedef struct epf_need {
    int32_t object;
    int64_t begin;
    int64_t end;
    uint64_t at_least;
} epf_need;

typedef struct epf_grad_tile {
    int32_t grad; /* which gradient */
    int32_t expert;
    int32_t n_begin, num_n;
    int32_t k_begin, num_k;
} epf_grad_tile;

EPF_HD bool epf_phase_is_combine(const epf_phase *p)
{
    return p->kind == EPF_PHASE_COMBINE_SERIAL || p->kind == EPF_PHASE_COMBINE_SCATTER;
}

EPF_HD int64_t epf_grad_num_tiles(const epf_grad_map *g, int32_t num_experts)
{
    return epf_ceil_div(g->n, g->block_n) * epf_ceil_div(g->k, g->block_k) * num_experts;
}

EPF_HD int64_t epf_phase_num_tasks(const epf_phase *p, int32_t task_class)
{
    int64_t num = 0;
    switch (task_class) {
    case EPF_TASK_DISPATCH:
        return p->kind == EPF_PHASE_DISPATCH ? epf_ceil_div(p->num_slots, p->slots_per_task) : 0;
    case EPF_TASK_EXPAND:
        return p->kind == EPF_PHASE_DISPATCH ? epf_tile_num_m(&p->tiles) : 0;
    case EPF_TASK_GEMM:
        return p->kind == EPF_PHASE_GRAD ? 0 : epf_tile_num_tasks(&p->tiles);
    case EPF_TASK_SCATTER:
        return p->kind == EPF_PHASE_COMBINE_SCATTER && !p->direct ? epf_tile_num_m(&p->tiles) : 0;
    case EPF_TASK_GRAD:
        for (int32_t i = 0; i < p->num_grads; i++) {
            num += epf_grad_num_tiles(&p->grads[i], p->tiles.num_experts);
        }
        return num;
    case EPF_TASK_REDUCE:
        return epf_phase_is_combine(p) ? epf_ceil_div(p->num_tokens, p->tokens_per_task) : 0;
    default:
        return 0;
    }
}

/* What a worker's role is: which queue it starts with. */
EPF_HD int32_t epf_phase_first_queue(const epf_phase *p, int32_t worker)
{
    if (p->kind == EPF_PHASE_DISPATCH) {
        return worker < p->num_comm_workers                         ? EPF_TASK_DISPATCH
               : worker < p->num_comm_workers + p->num_tail_workers ? EPF_TASK_EXPAND
                                                                    : EPF_TASK_GEMM;
    }
    if (p->kind == EPF_PHASE_COMBINE_SCATTER) {
        return worker < p->num_comm_workers                         ? EPF_TASK_SCATTER
               : worker < p->num_comm_workers + p->num_tail_workers ? EPF_TASK_REDUCE
                                                                    : EPF_TASK_GEMM;
    }
    return p->kind == EPF_PHASE_GRAD ? EPF_TASK_GRAD : EPF_TASK_GEMM;
}

/* The step-th queue this worker serves, step >= 0; EPF_TASK_NONE when it is done.  Classes ascend. */
EPF_HD int32_t epf_phase_queue(const epf_phase *p, int32_t worker, int32_t step)
{
    const int32_t task_class = epf_phase_first_queue(p, worker) + step;
    return task_class < EPF_NUM_TASK_CLASSES ? task_class : EPF_TASK_NONE;
}

/* Words of tile_done[t] when M-tile t is finished. */
EPF_HD uint32_t epf_phase_tile_done_count(const epf_phase *p)
{
    return (uint32_t)p->tiles.num_n_tiles;
}

/*
 * What task `index` of a class waits for as a whole.  DISPATCH waits per destination
 * (epf_phase_need_entered), REDUCE of fuse_scatter per slot kept (epf_phase_need_slot).
 */
EPF_HD epf_need epf_phase_need(const epf_phase *p, int32_t task_class, int64_t index)
{
    epf_need need = {EPF_OBJECT_NONE, 0, 0, 0};
    need.at_least = epf_word(p->epoch, 0);
    if (task_class == EPF_TASK_EXPAND) {
        const epf_tile tile = epf_tile_of_m(&p->tiles, (int32_t)index);
        need.object = EPF_OBJECT_RECV_FLAG;
        need.begin = tile.row_begin;
        need.end = (int64_t)tile.row_begin + tile.num_rows;
    } else if (task_class == EPF_TASK_GEMM && p->kind == EPF_PHASE_DISPATCH) {
        const epf_tile tile = epf_tile_at(&p->tiles, index);
        need.object = p->block_wise ? EPF_OBJECT_TILE_READY : EPF_OBJECT_EXPERT_READY;
        need.begin = p->block_wise ? tile.m_tile : tile.expert;
        need.end = need.begin + 1;
        need.at_least =
            epf_word(p->epoch, p->block_wise ? 1u
                                             : (uint32_t)(p->tiles.tile_offset[tile.expert + 1] -
                                                          p->tiles.tile_offset[tile.expert]));
    } else if (task_class == EPF_TASK_GEMM && epf_phase_is_combine(p)) {
        need.object = EPF_OBJECT_ENTERED;
        need.end = p->num_ranks;
        need.at_least = epf_word(p->free_epoch, 0);
    } else if (task_class == EPF_TASK_SCATTER) {
        need.object = EPF_OBJECT_TILE_DONE;
        need.begin = index;
        need.end = index + 1;
        need.at_least = epf_word(p->epoch, epf_phase_tile_done_count(p));
    } else if (task_class == EPF_TASK_REDUCE && p->kind == EPF_PHASE_COMBINE_SERIAL) {
        need.object = EPF_OBJECT_BARRIER;
        need.end = p->num_ranks;
    }
    return need;
}

EPF_HD epf_need epf_phase_need_word(const epf_phase *p, int32_t object, int64_t index)
{
    epf_need need;
    need.object = object;
    need.begin = index;
    need.end = index + 1;
    need.at_least = epf_word(p->epoch, 0);
    return need;
}

/* Before anything is written into rank `peer`'s windows. */
EPF_HD epf_need epf_phase_need_entered(const epf_phase *p, int32_t peer)
{
    return epf_phase_need_word(p, EPF_OBJECT_ENTERED, peer);
}

/* Before slot `slot`, which was not dropped, is summed (fuse_scatter). */
EPF_HD epf_need epf_phase_need_slot(const epf_phase *p, int64_t slot)
{
    return epf_phase_need_word(p, EPF_OBJECT_COMBINE_FLAG, slot);
}

/* Task `index` of the GRAD queue: gradient after gradient, expert after expert, groups along N'. */
EPF_HD epf_grad_tile epf_grad_tile_at(const epf_phase *p, int64_t index)
{
    epf_grad_tile tile;
    int64_t num_n, num_k, per_group, group_begin, group_size, in_group;
    tile.grad = 0;
    while (index >= epf_grad_num_tiles(&p->grads[tile.grad], p->tiles.num_experts)) {
        index -= epf_grad_num_tiles(&p->grads[tile.grad], p->tiles.num_experts);
        tile.grad++;
    }
    {
        const epf_grad_map *const g = &p->grads[tile.grad];
        num_n = epf_ceil_div(g->n, g->block_n);
        num_k = epf_ceil_div(g->k, g->block_k);
        tile.expert = (int32_t)(index / (num_n * num_k));
        index %= num_n * num_k;
        per_group = (int64_t)g->group * num_k;
        group_begin = index / per_group * g->group;
        group_size = epf_min64(g->group, num_n - group_begin);
        in_group = index % per_group;
        tile.n_begin = (int32_t)(group_begin + in_group % group_size) * g->block_n;
        tile.k_begin = (int32_t)(in_group / group_size) * g->block_k;
        tile.num_n = (int32_t)epf_min64(g->block_n, g->n - tile.n_begin);
        tile.num_k = (int32_t)epf_min64(g->block_k, g->k - tile.k_begin);
    }
    return tile;
}

#endif
