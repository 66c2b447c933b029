/*
 * fault_routing.c: random routings of up to 8 ranks, planned as preprocess plans them (epf_route_fill(),
 * epf_layout_place(), epf_layout_tile_on_host()), against the plain statement of what a plan is:
 *
 *   - a rank's counts and offsets add up, and its rows are a permutation: each is written exactly once
 *   - rows ascend by (local expert, source rank, slot), slots are sent by (local expert, destination, slot)
 *   - a token has one carrier for each rank it goes to, the first in sending order
 *   - tiles cover each row once and never two experts
 */
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/epf_layout.h"
#include "cli_cost.h"
#include "cli_verify.h"
#include "core/epf_route.h"
#include "fault_pool.h"
#include "support/epf_check.h"

enum {
    MAX_RANKS = FAULT_MAX_RANKS,
    MAX_LOCAL = 4,
    MAX_EXPERTS = MAX_RANKS * MAX_LOCAL,
    MAX_TOPK = 4,
    MAX_TOKENS = 6,
    MAX_SLOTS = MAX_TOKENS * MAX_TOPK,
    MAX_ROWS = MAX_RANKS * MAX_SLOTS,
    BATCH = 1000, /* routings between two counts */
    MAX_SHARDS = 4
};

/* How experts are drawn. */
typedef enum kind {
    UNIFORM,
    ZIPF,
    ONE_EXPERT,
    ONE_RANK,
    EMPTY_RANKS,
    ONE_TOKEN,
    ALL_DROPPED,
    DUPLICATES,
    NUM_KINDS
} kind;

/* A row as the plan says it: which slot of which rank, for which local expert. */
typedef struct row {
    int32_t expert, source, slot;
} row;

/* One routing and its plan. */
typedef struct plan {
    uint64_t seed, number;
    epf_shape shape;
    epf_comm comm;
    epf_op op;
    epf_layout layout; /* of one rank after the other; its arrays are the ones below */
    int32_t num_tokens[MAX_RANKS];
    int32_t ids[MAX_RANKS][MAX_SLOTS];
    int32_t counts[MAX_RANKS * MAX_EXPERTS], tokens[MAX_EXPERTS];
    int32_t offset[MAX_EXPERTS * MAX_RANKS], recv[MAX_RANKS];
    int32_t send_begin[MAX_EXPERTS + 1], cursor[MAX_EXPERTS];
    int32_t dst_row[MAX_RANKS][MAX_SLOTS], sort_slots[MAX_RANKS][MAX_SLOTS];
    int32_t row_offset[MAX_LOCAL + 1], tile_offset[MAX_LOCAL + 1];
    row rows[MAX_RANKS][MAX_ROWS];
    int32_t num_written[MAX_RANKS];
} plan;

static int32_t draw_expert(epf_rng *rng, const plan *p, kind k, int32_t chosen)
{
    const int32_t experts = p->shape.num_experts;
    const int32_t local = p->shape.num_local;

    switch (k) {
    case ZIPF: /* half of what is left, again and again */
        for (int32_t e = 0; e < experts - 1; e++) {
            if ((epf_rng_next(rng) >> 40 & 1u) == 0) {
                return (chosen + e) % experts;
            }
        }
        return chosen;
    case ONE_EXPERT:
        return chosen;
    case ONE_RANK:
        return chosen / local * local + epf_rng_below(rng, local);
    case EMPTY_RANKS: /* odd ranks receive nothing */
        return epf_rng_below(rng, (p->shape.num_ranks + 1) / 2) * 2 * local +
               epf_rng_below(rng, local);
    case ALL_DROPPED:
        return epf_rng_below(rng, 2) == 0 ? -1 : experts;
    default:
        return epf_rng_below(rng, experts + 2) - 1; /* both ways of dropping among them */
    }
}

static void draw(plan *p)
{
    epf_rng rng = epf_rng_make(p->seed, p->number);
    epf_shape *const s = &p->shape;
    const kind k = (kind)epf_rng_below(&rng, NUM_KINDS);
    int32_t chosen;

    s->num_ranks = epf_rng_range(&rng, 1, MAX_RANKS);
    s->num_local = epf_rng_range(&rng, 1, MAX_LOCAL);
    s->num_experts = s->num_ranks * s->num_local;
    s->topk = epf_rng_range(&rng, 1, MAX_TOPK);
    s->max_tokens = epf_rng_range(&rng, 1, MAX_TOKENS);
    chosen = epf_rng_below(&rng, s->num_experts);
    for (int32_t r = 0; r < s->num_ranks; r++) {
        p->num_tokens[r] =
            k == ONE_TOKEN ? r == chosen % s->num_ranks : epf_rng_below(&rng, s->max_tokens + 1);
        for (int32_t i = 0; i < p->num_tokens[r] * s->topk; i++) {
            const bool repeat = k == DUPLICATES && i % s->topk != 0 && epf_rng_below(&rng, 2) == 0;
            p->ids[r][i] = repeat ? p->ids[r][i - 1] : draw_expert(&rng, p, k, chosen);
        }
    }
}

static void count(plan *p)
{
    const epf_shape *const s = &p->shape;

    memset(p->counts, 0, sizeof p->counts);
    for (int32_t r = 0; r < s->num_ranks; r++) {
        for (int32_t i = 0; i < p->num_tokens[r] * s->topk; i++) {
            if (!epf_route_is_dropped(p->ids[r][i], s->num_experts)) {
                p->counts[r * s->num_experts + p->ids[r][i]]++;
            }
        }
    }
}

/* Plans rank r's slots as preprocess does, and notes each slot in the row it is sent to. */
static const char *place(plan *p, int32_t r)
{
    const epf_shape *const s = &p->shape;
    epf_layout *const l = &p->layout;
    const int32_t slots = p->num_tokens[r] * s->topk;

    l->num_tokens = p->num_tokens[r];
    l->topk_idx = p->ids[r];
    l->dst_row = p->dst_row[r];
    l->sort_slots = p->sort_slots[r];
    epf_layout_place(l, s, r);
    for (int32_t i = 0; i < slots; i++) {
        const int32_t id = p->ids[r][i];
        const int32_t to = l->dst_row[i];
        if (epf_route_is_dropped(id, s->num_experts)) {
            if (to != -1) {
                return "a dropped slot has a row";
            }
            continue;
        }
        if (to < 0 || to >= p->recv[id / s->num_local]) {
            return "a row past the end";
        }
        if (p->rows[id / s->num_local][to].source >= 0) {
            return "a row is written twice";
        }
        p->rows[id / s->num_local][to] = (row){id % s->num_local, r, i};
        p->num_written[id / s->num_local]++;
    }
    return NULL;
}

static const char *check_rows(const plan *p, int32_t r)
{
    const row *const rows = p->rows[r];

    if (p->num_written[r] != p->recv[r]) {
        return "a row is never written";
    }
    for (int32_t i = 0; i < p->recv[r]; i++) {
        const int32_t *const segment =
            p->offset + (r * p->shape.num_local + rows[i].expert) * p->shape.num_ranks;
        const row *const before = i == 0 ? NULL : &rows[i - 1];
        const bool is_new =
            before == NULL || before->expert != rows[i].expert || before->source != rows[i].source;
        if (before != NULL &&
            (before->expert > rows[i].expert ||
             (before->expert == rows[i].expert &&
              (before->source > rows[i].source ||
               (before->source == rows[i].source && before->slot >= rows[i].slot))))) {
            return "rows are out of order";
        }
        if (is_new && segment[rows[i].source] != i) {
            return "an offset is not where its rows begin";
        }
    }
    return NULL;
}

/* By (local expert, destination, slot), each slot once; one carrier a token and rank. */
static const char *check_sending(const plan *p, int32_t r)
{
    const epf_shape *const s = &p->shape;
    int32_t num_sent = 0;
    int64_t last = -1;

    for (int32_t e = 0; e < s->num_experts; e++) {
        num_sent += p->counts[r * s->num_experts + e];
    }
    for (int32_t i = 0; i < num_sent; i++) {
        const int32_t slot = p->sort_slots[r][i];
        const int32_t *const ids = p->ids[r] + slot / s->topk * s->topk;
        const int32_t id = p->ids[r][slot];
        const int64_t key =
            ((int64_t)(id % s->num_local) * s->num_ranks + id / s->num_local) * MAX_SLOTS + slot;
        const int32_t carrier =
            epf_route_carrier(ids, s->topk, s->num_experts, s->num_local, slot % s->topk);
        if (key <= last) {
            return "slots are sent out of order";
        }
        last = key;
        for (int32_t k = 0; k < s->topk; k++) {
            if (!epf_route_is_dropped(ids[k], s->num_experts) &&
                ids[k] / s->num_local == id / s->num_local &&
                (ids[k] < ids[carrier] || (ids[k] == ids[carrier] && k < carrier))) {
                return "a token's carrier is not its first slot for that rank";
            }
        }
    }
    return NULL;
}

/* Tiles cover the rows of each expert, in order. */
static const char *check_tiles(plan *p, int32_t r, int32_t block_m)
{
    const epf_layout *const l = &p->layout;
    int32_t at = 0;

    p->comm.rank = r;
    p->layout.num_rows = p->recv[r];
    p->layout.block_m = 0;
    if (epf_layout_tile_on_host(&p->layout, block_m) != EPF_OK) {
        return "no tiles";
    }
    for (int32_t t = 0; t < l->num_tiles; t++) {
        const int32_t expert = l->tables[EPF_TABLE_EXPERT_IDS][t];
        const int32_t first = l->tables[EPF_TABLE_SPLIT_SIZE_CUM][t];
        const int32_t end = first + p->tokens[r * p->shape.num_local + expert];
        const int32_t in_expert =
            t - (l->tables[EPF_TABLE_TILE_NUM_CUM][t] - l->tables[EPF_TABLE_TILE_NUM][t]);
        if (first + in_expert * block_m != at || at >= end) {
            return "a tile begins where no row is left";
        }
        at = at + block_m < end ? at + block_m : end;
    }
    return at == p->recv[r] ? NULL : "tiles do not cover the rows";
}

/* NULL, or what is wrong with the plan of this number. */
static const char *run_one(plan *p)
{
    const epf_shape *const s = &p->shape;
    const char *wrong = NULL;

    draw(p);
    count(p);
    const epf_route_tables tables = {s->num_ranks, s->num_local, p->counts,
                                     p->tokens,    p->offset,    p->recv};
    if (!epf_route_fill(&tables)) {
        return "too many rows";
    }
    for (int32_t r = 0; r < s->num_ranks; r++) {
        p->num_written[r] = 0;
        for (int32_t i = 0; i < p->recv[r]; i++) {
            p->rows[r][i].source = -1;
        }
    }
    p->op.shape = p->shape;
    for (int32_t r = 0; r < s->num_ranks && wrong == NULL; r++) {
        wrong = place(p, r);
    }
    for (int32_t r = 0; r < s->num_ranks && wrong == NULL; r++) {
        wrong = check_rows(p, r);
        wrong = wrong == NULL ? check_sending(p, r) : wrong;
        wrong = wrong == NULL ? check_tiles(p, r, 1 << p->number % 5) : wrong;
    }
    return wrong;
}

static void bind_arrays(plan *p)
{
    epf_layout *const l = &p->layout;

    p->op.comm = &p->comm;
    l->op = &p->op;
    l->counts = p->counts;
    l->send_begin = p->send_begin;
    l->cursor = p->cursor;
    l->tokens = p->tokens;
    l->offset = p->offset;
    l->recv = p->recv;
    l->row_offset = p->row_offset;
    l->tile_offset = p->tile_offset;
}

static void run_shard(verify_run *run, uint64_t shard, uint64_t num_shards)
{
    static plan p;
    const uint64_t batches = (run->target + BATCH - 1) / BATCH;

    p.seed = run->seed;
    bind_arrays(&p);
    for (uint64_t b = shard; b < batches && verify_more(run); b += num_shards) {
        const uint64_t end = (b + 1) * BATCH < run->target ? (b + 1) * BATCH : run->target;
        for (p.number = b * BATCH; p.number < end; p.number++) {
            const char *const wrong = run_one(&p);
            if (wrong != NULL) {
                verify_fail(run, "routing %llu: %s", (unsigned long long)p.number, wrong);
                return;
            }
        }
        verify_done(run, end - b * BATCH);
    }
}

void verify_routing(const verify_promise *promise, verify_run *run)
{
    const int32_t cpus = cli_num_cpus();
    const int32_t num_shards = cpus < MAX_SHARDS ? cpus : MAX_SHARDS;
    pid_t pids[MAX_SHARDS];

    (void)promise;
    for (int32_t i = 0; i < num_shards; i++) {
        pids[i] = fork();
        CHECK(pids[i] >= 0, "fork");
        if (pids[i] == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            run_shard(run, (uint64_t)i, (uint64_t)num_shards);
            _exit(0);
        }
    }
    for (int32_t i = 0; i < num_shards; i++) {
        int status = 0;
        if (waitpid(pids[i], &status, 0) != pids[i] || status != 0) {
            verify_fail(run, "a process ended with status %d", status);
        }
    }
    verify_note(run, "1 to 8 ranks, 8 kinds of routing");
}
