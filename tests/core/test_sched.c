/*
 * test_sched: the schedule's checker, one of its executors.  For random routings, worker counts and
 * knobs it runs all ranks' queues on one thread and shows that
 *   - every task of every class is taken exactly once, every (row, column tile) is covered once;
 *   - at any time some worker can go on: whatever the order workers are stepped in, all queues empty
 *     (no deadlock), with waits satisfied only by signals that tasks have really given;
 *   - each wait's threshold is reached exactly: the counts that tasks add sum to what is waited for;
 *   - within a worker's walk classes ascend, and within a queue tickets ascend.
 * No device, no threads; the order of steps is random and the seed is printed.
 */
#include <string.h>

#include "core/epf_route.h"
#include "core/epf_sched.h"
#include "core_check.h"

enum {
    MAX_RANKS = 4,
    MAX_LOCAL = 5,
    MAX_WORKERS = 5,
    MAX_SLOTS = 200,
    MAX_ROWS = 800,
    MAX_TILES = 900,
    MAX_GRAD_TASKS = 4000
};

typedef struct rank_state {
    epf_phase phase;
    int32_t rows[MAX_LOCAL];
    int32_t row_offset[MAX_LOCAL + 1];
    int32_t tile_offset[MAX_LOCAL + 1];
    int32_t slot_dst[MAX_SLOTS]; /* destination rank of each slot sent, in sending order */
    int32_t slot_row[MAX_SLOTS];
    int32_t row_src[MAX_ROWS]; /* source rank and slot place of each row */
    int32_t row_slot[MAX_ROWS];
    uint64_t tickets[EPF_NUM_TASK_CLASSES];
    uint64_t entered[MAX_RANKS];
    uint64_t barrier[MAX_RANKS];
    uint64_t recv_flag[MAX_ROWS];
    uint64_t combine_flag[MAX_SLOTS];
    uint64_t tile_ready[MAX_TILES];
    uint64_t expert_ready[MAX_LOCAL];
    uint64_t tile_done[MAX_TILES];
    uint64_t gemm_done;
    uint8_t covered[MAX_ROWS * 8]; /* (row, N-tile) pairs multiplied */
    uint8_t grads[MAX_GRAD_TASKS];
    int64_t done[EPF_NUM_TASK_CLASSES];
} rank_state;

typedef struct walker { /* one worker: where it is in its walk */
    int32_t rank, worker, step;
    int64_t ticket; /* -1: none in hand */
    bool is_done;
} walker;

static rank_state ranks[MAX_RANKS];
static int32_t num_ranks;

static uint64_t *word(rank_state *s, int32_t object, int64_t index)
{
    switch (object) {
    case EPF_OBJECT_ENTERED:
        return &s->entered[index];
    case EPF_OBJECT_BARRIER:
        return &s->barrier[index];
    case EPF_OBJECT_RECV_FLAG:
        return &s->recv_flag[index];
    case EPF_OBJECT_COMBINE_FLAG:
        return &s->combine_flag[index];
    case EPF_OBJECT_TILE_READY:
        return &s->tile_ready[index];
    case EPF_OBJECT_EXPERT_READY:
        return &s->expert_ready[index];
    case EPF_OBJECT_TILE_DONE:
        return &s->tile_done[index];
    default:
        return &s->gemm_done;
    }
}

static bool is_met(rank_state *s, const epf_need *need)
{
    for (int64_t i = need->begin; i < need->end; i++) {
        const uint64_t seen = *word(s, need->object, i);
        if (seen < need->at_least) {
            return false;
        }
        CHECK(epf_word_epoch(seen) > epf_word_epoch(need->at_least) ||
                  need->object == EPF_OBJECT_RECV_FLAG || need->object == EPF_OBJECT_ENTERED ||
                  epf_word_low(seen) == epf_word_low(need->at_least),
              "%d[%lld] overshoots: %u, needs %u", need->object, (long long)i, epf_word_low(seen),
              epf_word_low(need->at_least));
    }
    return true;
}

/* All a task waits for, the per-slot waits included. */
static bool can_run(int32_t rank, int32_t task_class, int64_t index)
{
    rank_state *const s = &ranks[rank];
    const epf_phase *const p = &s->phase;
    const epf_need whole = epf_phase_need(p, task_class, index);
    if (!is_met(s, &whole)) {
        return false;
    }
    if (task_class == EPF_TASK_DISPATCH) {
        const int64_t end = epf_min64((index + 1) * p->slots_per_task, p->num_slots);
        for (int64_t i = index * p->slots_per_task; i < end; i++) {
            const epf_need need = epf_phase_need_entered(p, s->slot_dst[i]);
            if (!is_met(s, &need)) {
                return false;
            }
        }
    }
    if (task_class == EPF_TASK_REDUCE && p->kind == EPF_PHASE_COMBINE_SCATTER) {
        /* here a "token" is a run of slots: all slots of the task must be back */
        const int64_t per_task =
            epf_ceil_div(p->num_slots, epf_max64(p->num_tokens, 1)) * p->tokens_per_task;
        for (int64_t i = index * per_task; i < epf_min64((index + 1) * per_task, p->num_slots);
             i++) {
            const epf_need need = epf_phase_need_slot(p, i);
            if (!is_met(s, &need)) {
                return false;
            }
        }
    }
    return true;
}

static void signal_rows(rank_state *s, const epf_tile *tile)
{
    for (int32_t row = tile->row_begin; row < tile->row_begin + tile->num_rows; row++) {
        uint64_t *const flag = &ranks[s->row_src[row]].combine_flag[s->row_slot[row]];
        CHECK(epf_word_epoch(*flag) < s->phase.epoch, "row %d is brought back twice", row);
        *flag = epf_word(s->phase.epoch, 0);
    }
}

static void signal_barrier(int32_t rank)
{
    for (int32_t r = 0; r < num_ranks; r++) {
        ranks[r].barrier[rank] = epf_word(ranks[rank].phase.epoch, 0);
    }
}

static void run_gemm(int32_t rank, int64_t index)
{
    rank_state *const s = &ranks[rank];
    const epf_phase *const p = &s->phase;
    const epf_tile tile = epf_tile_at(&p->tiles, index);
    CHECK(tile.num_rows >= 1 && tile.num_rows <= p->tiles.block_m, "%d rows", tile.num_rows);
    CHECK(tile.row_begin >= s->row_offset[tile.expert] &&
              tile.row_begin + tile.num_rows <= s->row_offset[tile.expert + 1],
          "tile %d leaves expert %d", tile.m_tile, tile.expert);
    for (int32_t row = tile.row_begin; row < tile.row_begin + tile.num_rows; row++) {
        uint8_t *const seen = &s->covered[(int64_t)row * p->tiles.num_n_tiles + tile.n_tile];
        CHECK(*seen == 0, "row %d, N-tile %d multiplied twice", row, tile.n_tile);
        *seen = 1;
    }
    if (p->kind == EPF_PHASE_COMBINE_SERIAL) {
        if (epf_word_add(&s->gemm_done, p->epoch, 1) + 1 == epf_phase_num_tasks(p, EPF_TASK_GEMM)) {
            signal_barrier(rank);
        }
    } else if (p->kind == EPF_PHASE_COMBINE_SCATTER &&
               epf_word_add(&s->tile_done[tile.m_tile], p->epoch, 1) + 1 ==
                   epf_phase_tile_done_count(p) &&
               p->direct) {
        signal_rows(s, &tile);
    }
}

static void run_task(int32_t rank, int32_t task_class, int64_t index)
{
    rank_state *const s = &ranks[rank];
    const epf_phase *const p = &s->phase;
    if (task_class == EPF_TASK_DISPATCH) {
        const int64_t end = epf_min64((index + 1) * p->slots_per_task, p->num_slots);
        for (int64_t i = index * p->slots_per_task; i < end; i++) {
            uint64_t *const flag = &ranks[s->slot_dst[i]].recv_flag[s->slot_row[i]];
            CHECK(epf_word_epoch(*flag) < p->epoch, "row %d of rank %d is sent twice",
                  s->slot_row[i], s->slot_dst[i]);
            *flag = epf_word(p->epoch, (uint32_t)s->slot_row[i]);
        }
    } else if (task_class == EPF_TASK_EXPAND) {
        const epf_tile tile = epf_tile_of_m(&p->tiles, (int32_t)index);
        const epf_need need = epf_phase_need(p, EPF_TASK_EXPAND, index);
        CHECK(need.begin == tile.row_begin && need.end == (int64_t)tile.row_begin + tile.num_rows,
              "M-tile %lld waits for other rows than its own", (long long)index);
        (void)epf_word_add(&s->tile_ready[index], p->epoch, 1);
        (void)epf_word_add(&s->expert_ready[tile.expert], p->epoch, 1);
    } else if (task_class == EPF_TASK_GEMM) {
        run_gemm(rank, index);
    } else if (task_class == EPF_TASK_SCATTER) {
        const epf_tile tile = epf_tile_of_m(&p->tiles, (int32_t)index);
        signal_rows(s, &tile);
    } else if (task_class == EPF_TASK_GRAD) {
        const epf_grad_tile tile = epf_grad_tile_at(p, index);
        const epf_grad_map *const g = &p->grads[tile.grad];
        const int64_t num_k = epf_ceil_div(g->k, g->block_k);
        const int64_t place = (tile.grad * (int64_t)p->tiles.num_experts + tile.expert) *
                                  (epf_ceil_div(g->n, g->block_n) * num_k) +
                              tile.n_begin / g->block_n * num_k + tile.k_begin / g->block_k;
        CHECK(tile.num_n >= 1 && tile.n_begin + tile.num_n <= g->n && tile.num_k >= 1 &&
                  tile.k_begin + tile.num_k <= g->k,
              "gradient tile leaves its matrix");
        CHECK(s->grads[place] == 0, "gradient tile %lld taken twice", (long long)place);
        s->grads[place] = 1;
    }
    s->done[task_class]++;
}

/* One step of a worker; false if it waits. */
static bool step(walker *w)
{
    rank_state *const s = &ranks[w->rank];
    const int32_t task_class = epf_phase_queue(&s->phase, w->worker, w->step);
    if (task_class == EPF_TASK_NONE) {
        w->is_done = true;
        return true;
    }
    if (w->ticket < 0) {
        const int64_t ticket = epf_phase_num_tasks(&s->phase, task_class) == 0
                                   ? 0
                                   : epf_word_add(&s->tickets[task_class], s->phase.epoch, 1);
        if (ticket >= epf_phase_num_tasks(&s->phase, task_class)) {
            w->step++;
            return true;
        }
        w->ticket = ticket;
    }
    if (!can_run(w->rank, task_class, w->ticket)) {
        return false;
    }
    run_task(w->rank, task_class, w->ticket);
    w->ticket = -1;
    return true;
}

/* Slots of every rank for every expert; rows and slots as epf_route.h orders them. */
static void make_routing(uint64_t *seed, int32_t num_local)
{
    int32_t counts[MAX_RANKS * MAX_RANKS * MAX_LOCAL];
    int32_t tokens[MAX_RANKS * MAX_LOCAL], offset[MAX_RANKS * MAX_LOCAL * MAX_RANKS],
        recv[MAX_RANKS];
    const int32_t num_experts = num_ranks * num_local;
    const epf_route_tables tables = {num_ranks, num_local, counts, tokens, offset, recv};
    const int32_t busiest = core_pick(seed, 0, 30);
    for (int32_t r = 0; r < num_ranks; r++) {
        const bool is_empty = core_pick(seed, 0, 4) == 0;
        int32_t left = MAX_SLOTS;
        for (int32_t e = 0; e < num_experts; e++) {
            const int32_t most = core_pick(seed, 0, 2) == 0 ? busiest : 3;
            int32_t n = is_empty ? 0 : core_pick(seed, 0, most);
            n = n < left ? n : left;
            counts[r * num_experts + e] = n;
            left -= n;
        }
    }
    CHECK(epf_route_fill(&tables), "rows overflow");
    for (int32_t r = 0; r < num_ranks; r++) {
        rank_state *const s = &ranks[r];
        int32_t at = 0;
        for (int32_t p = 0; p < num_experts; p++) {
            const int32_t e = epf_route_send_expert(p, num_local, num_ranks);
            CHECK(epf_route_send_position(e, num_local, num_ranks) == p, "position of expert %d",
                  e);
            for (int32_t i = 0; i < counts[r * num_experts + e]; i++, at++) {
                const int32_t row = offset[e * num_ranks + r] + i;
                s->slot_dst[at] = e / num_local;
                s->slot_row[at] = row;
                ranks[e / num_local].row_src[row] = r;
                ranks[e / num_local].row_slot[row] = at;
            }
        }
        s->phase.num_slots = at;
        memcpy(s->rows, tokens + r * num_local, (size_t)num_local * sizeof(int32_t));
    }
}

static void make_phase(uint64_t *seed, int32_t r, int32_t kind, int32_t num_local, uint32_t epoch)
{
    rank_state *const s = &ranks[r];
    epf_phase *const p = &s->phase;
    const int32_t workers = core_pick(seed, 1, MAX_WORKERS);
    p->kind = kind;
    p->epoch = epoch;
    p->num_ranks = num_ranks;
    p->free_epoch = (uint32_t)core_pick(seed, 1, (int32_t)epoch);
    p->num_workers = workers;
    p->block_wise = core_pick(seed, 0, 1) == 1;
    p->slots_per_task = core_pick(seed, 1, 8);
    p->tokens_per_task = core_pick(seed, 1, 8);
    p->num_tokens = epf_ceil_div(p->num_slots, 2);
    p->tiles.num_experts = num_local;
    p->tiles.block_m = core_pick(seed, 1, 9);
    p->tiles.num_n_tiles = core_pick(seed, 1, 5);
    p->tiles.group_m = core_pick(seed, 1, 4);
    p->tiles.rows = s->rows;
    p->tiles.row_offset = s->row_offset;
    p->tiles.tile_offset = s->tile_offset;
    (void)epf_route_tiles(s->rows, num_local, p->tiles.block_m, s->row_offset, s->tile_offset);
    p->num_comm_workers = p->num_tail_workers = 0;
    if (kind == EPF_PHASE_DISPATCH) {
        p->num_comm_workers = core_pick(seed, 1, workers);
        p->num_tail_workers = core_pick(seed, 0, workers - p->num_comm_workers);
    } else if (kind == EPF_PHASE_COMBINE_SCATTER) {
        p->num_comm_workers = core_pick(seed, 0, workers - 1);
        p->num_tail_workers = core_pick(seed, 0, workers - 1 - p->num_comm_workers);
        p->direct = p->num_comm_workers == 0 && core_pick(seed, 0, 1) == 1;
    }
    p->num_grads = kind == EPF_PHASE_DISPATCH ? 0 : core_pick(seed, 0, EPF_MAX_GRADS);
    for (int32_t g = 0; g < EPF_MAX_GRADS; g++) { /* the same shape twice: places stay simple */
        const epf_grad_map map = {37, 21, 8, 5, core_pick(seed, 1, 4)};
        p->grads[g] = map;
    }
}

static void check_end(int32_t r)
{
    rank_state *const s = &ranks[r];
    const epf_phase *const p = &s->phase;
    for (int32_t c = 0; c < EPF_NUM_TASK_CLASSES; c++) {
        CHECK(s->done[c] == epf_phase_num_tasks(p, c), "rank %d class %d: %lld of %lld tasks", r, c,
              (long long)s->done[c], (long long)epf_phase_num_tasks(p, c));
    }
    for (int64_t i = 0; i < (int64_t)s->row_offset[p->tiles.num_experts] * p->tiles.num_n_tiles &&
                        p->kind != EPF_PHASE_GRAD;
         i++) {
        CHECK(s->covered[i] == 1, "row %lld never multiplied",
              (long long)(i / p->tiles.num_n_tiles));
    }
}

/* Runs one phase on all ranks, stepping workers in random order. */
static void run_phase(uint64_t *seed)
{
    walker walkers[MAX_RANKS * MAX_WORKERS];
    int32_t num = 0;
    int32_t left;
    for (int32_t r = 0; r < num_ranks; r++) {
        for (int32_t w = 0; w < ranks[r].phase.num_workers; w++, num++) {
            const walker fresh = {r, w, 0, -1, false};
            walkers[num] = fresh;
        }
        memset(ranks[r].covered, 0, sizeof ranks[r].covered);
        memset(ranks[r].grads, 0, sizeof ranks[r].grads);
        memset(ranks[r].done, 0, sizeof ranks[r].done);
    }
    for (int32_t r = 0; r < num_ranks; r++) { /* the first act of every rank */
        const uint64_t entered = epf_word(ranks[r].phase.epoch, (uint32_t)ranks[r].phase.kind);
        for (int32_t p = 0; p < num_ranks; p++) {
            ranks[p].entered[r] = entered;
        }
        if (ranks[r].phase.kind == EPF_PHASE_COMBINE_SERIAL &&
            epf_phase_num_tasks(&ranks[r].phase, EPF_TASK_GEMM) == 0) {
            signal_barrier(r);
        }
    }
    for (left = num; left > 0;) {
        const int32_t first = core_pick(seed, 0, num - 1);
        const int32_t run = core_pick(seed, 1, 20); /* one worker may run far ahead */
        bool has_moved = false;
        for (int32_t i = 0; i < num && !has_moved; i++) {
            walker *const w = &walkers[(first + i) % num];
            for (int32_t k = 0; k < run && !w->is_done && step(w); k++) {
                has_moved = true;
                left -= w->is_done ? 1 : 0;
            }
        }
        CHECK(has_moved, "deadlock: %d workers wait for ever", left);
    }
    for (int32_t r = 0; r < num_ranks; r++) {
        check_end(r);
    }
}

int main(int argc, char **argv)
{
    const uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    const uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : 4000;
    static const int32_t kinds[] = {EPF_PHASE_DISPATCH, EPF_PHASE_COMBINE_SERIAL,
                                    EPF_PHASE_COMBINE_SCATTER, EPF_PHASE_GRAD};
    for (uint64_t s = first; s < first + count; s++) {
        uint64_t seed = s;
        const int32_t num_local = core_pick(&seed, 1, MAX_LOCAL);
        memset(ranks, 0, sizeof ranks);
        num_ranks = core_pick(&seed, 1, MAX_RANKS);
        for (uint32_t epoch = 1; epoch <= 4; epoch++) { /* words are never reset between calls */
            const int32_t kind = kinds[core_pick(&seed, 0, 3)];
            make_routing(&seed, num_local);
            for (int32_t r = 0; r < num_ranks; r++) {
                make_phase(&seed, r, kind, num_local, epoch);
            }
            if (argc > 1) {
                printf("seed %llu epoch %u kind %d\n", (unsigned long long)s, epoch, kind);
            }
            run_phase(&seed);
        }
    }
    printf("%llu seeds from %llu: ok\n", (unsigned long long)count, (unsigned long long)first);
    return 0;
}
