/* epf_cuda_trace.c: see epf_cuda_trace.h. */
#include "cuda/epf_cuda_trace.h"

#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "core/epf_route.h"
#include "prof/epf_prof_flow.h"

_Static_assert((int)EPF_TRACE_NUM_ROLES == (int)EPF_CUDA_PROF_LANES &&
                   (int)EPF_TRACE_ROLE_PLAN == (int)EPF_CUDA_LANE_PLAN &&
                   (int)EPF_TRACE_ROLE_COMM_0 == (int)EPF_CUDA_LANE_COMM_0 &&
                   (int)EPF_TRACE_ROLE_COMM_1 == (int)EPF_CUDA_LANE_COMM_1 &&
                   (int)EPF_TRACE_ROLE_MATH == (int)EPF_CUDA_LANE_MATH,
               "a trace's roles are a launch's lanes");

enum { COLUMNS = 256, CLUSTER_N = 2, NO_RECORD = -1 };

typedef struct builder {
    const epf_cuda_recording *recording;
    epf_call call;        /* the recording's, num_n_tiles as the kernels count them */
    int64_t *last_filled; /* [M-tiles] dispatch: the record of the part filled last, or NO_RECORD */
    epf_prof_buffer lane; /* being made */
    int32_t role;         /* its */
    int64_t end;          /* of its raw records */
    uint64_t now_ns;      /* its last record's end */
} builder;

/* What a record is about; flows need to know which of them. */
typedef enum subject { OF_NOTHING, OF_TILE, OF_ROWS, OF_TOKEN } subject;

typedef struct place {
    subject subject;
    int32_t task;
    epf_tile tile; /* expert, M-tile, N-tile and rows where they mean something; else -1 */
} place;

/* --- where a record belongs: false where the call has no such task ------------------------------ */

static bool find_tile(const builder *b, const epf_prof_record *raw, place *p)
{
    const epf_tile_map *const map = &b->call.phase.tiles;
    int64_t row;
    int32_t m_tile;
    if (raw->expert < 0 || raw->expert >= map->num_experts || raw->task < 0 ||
        raw->task >= map->num_n_tiles) {
        return false;
    }
    row = (int64_t)raw->rows - map->row_offset[raw->expert];
    if (row < 0 || row >= map->rows[raw->expert]) {
        return false;
    }
    m_tile = map->tile_offset[raw->expert] + (int32_t)row / map->block_m;
    p->subject = OF_TILE;
    p->tile = epf_tile_of_m(map, m_tile);
    p->tile.n_tile = raw->task;
    p->task = m_tile * map->num_n_tiles + raw->task;
    return true;
}

static bool find_grad(const builder *b, const epf_prof_record *raw, place *p)
{
    const epf_phase *const phase = &b->call.phase;
    const epf_grad_map *const map = &phase->grads[0];
    const int32_t num_m = (int32_t)epf_ceil_div(map->n, EPF_CUDA_BLOCK_M);
    const int32_t num_n = (int32_t)epf_round_up(epf_ceil_div(map->k, COLUMNS), CLUSTER_N);
    const int64_t row = raw->rows - (int64_t)raw->expert * map->n;
    if (raw->expert < 0 || raw->expert >= phase->tiles.num_experts) {
        return false;
    }
    p->tile.expert = raw->expert;
    p->tile.num_rows = phase->tiles.rows[raw->expert];
    p->task = EPF_PROF_NONE;
    if (phase->num_grads != 1) {
        return true;
    }
    p->task = (raw->expert * num_m + (int32_t)(row / EPF_CUDA_BLOCK_M)) * num_n + raw->task;
    return row >= 0 && row < map->n && raw->task >= 0 && raw->task < num_n;
}

static bool find_m_tile(const builder *b, int32_t m_tile, place *p)
{
    const epf_tile_map *const map = &b->call.phase.tiles;
    if (m_tile < 0 || m_tile >= epf_tile_num_m(map)) {
        return false;
    }
    p->subject = OF_TILE;
    p->tile = epf_tile_of_m(map, m_tile);
    return true;
}

/* A part of an M-tile, counted over all of them. */
static bool find_part(const builder *b, const epf_prof_record *raw, int32_t part_rows, place *p)
{
    int32_t parts;
    int32_t first;
    if (part_rows < 1 || part_rows > EPF_CUDA_BLOCK_M || raw->task < 0) {
        return false;
    }
    parts = EPF_CUDA_BLOCK_M / part_rows;
    if (!find_m_tile(b, raw->task / parts, p)) {
        return false;
    }
    p->subject = OF_ROWS;
    first = raw->task % parts * part_rows;
    p->tile.row_begin += first;
    p->tile.num_rows =
        (int32_t)epf_max64(epf_min64(part_rows, (int64_t)p->tile.num_rows - first), 0);
    return true;
}

static bool find_send(const builder *b, const epf_prof_record *raw, place *p)
{
    const int64_t per_task = b->recording->grain.slots_per_task;
    const int64_t first = raw->task * per_task;
    if (per_task < 1 || raw->task < 0 || first >= b->call.phase.num_slots) {
        return false;
    }
    p->subject = OF_ROWS;
    p->tile.row_begin = (int32_t)first; /* a slot, in sending order */
    p->tile.num_rows = (int32_t)epf_min64(per_task, b->call.phase.num_slots - first);
    return true;
}

static bool find_token(const builder *b, const epf_prof_record *raw, place *p)
{
    p->subject = OF_TOKEN;
    p->tile.num_rows = 1;
    return raw->task >= 0 && raw->task < b->call.num_tokens;
}

/* The comm roles wait for M-tiles.  The math role waits for tokens as well: what it does next tells which it was. */
static bool find_wait(const builder *b, const epf_prof_record *raw, place *p)
{
    const bool has_next = raw + 1 < b->recording->records + b->end;
    if (b->role != EPF_CUDA_LANE_MATH ||
        (has_next && raw[1].event == EPF_PROF_COMBINE_SCATTER_TOKEN)) {
        return find_m_tile(b, raw->task, p);
    }
    return !has_next || find_token(b, raw, p);
}

static bool find_any(const builder *b, const epf_prof_record *raw, place *p)
{
    switch (raw->event) {
    case EPF_PROF_GROUP_GEMM_WAIT:
    case EPF_PROF_GROUP_GEMM_MAIN:
        return find_tile(b, raw, p);
    case EPF_PROF_WEIGHT_GRAD_MAIN:
        return find_grad(b, raw, p);
    case EPF_PROF_DISPATCH_EXPAND_WAIT:
    case EPF_PROF_DISPATCH_EXPAND_MAIN:
        return find_part(b, raw, b->recording->grain.part_rows, p);
    case EPF_PROF_COMBINE_SCATTER_TOKEN:
        return find_part(b, raw, EPF_CUDA_PART_ROWS, p);
    case EPF_PROF_DISPATCH_TOKEN_MAIN:
        return find_send(b, raw, p);
    case EPF_PROF_COMBINE_WAIT:
        return find_wait(b, raw, p);
    case EPF_PROF_COMBINE_TOPK_REDUCE:
        return find_token(b, raw, p);
    case EPF_PROF_GROUP_GEMM_TAIL_NOTIFY:
        return find_m_tile(b, raw->task, p);
    default:
        return raw->event < EPF_PROF_NUM_EVENTS;
    }
}

static epf_status find_place(const builder *b, const epf_prof_record *raw, place *p)
{
    const epf_tile nothing = {EPF_PROF_NONE, EPF_PROF_NONE, EPF_PROF_NONE, EPF_PROF_NONE,
                              EPF_PROF_NONE};
    p->subject = OF_NOTHING;
    p->task = raw->task;
    p->tile = nothing;
    if (!find_any(b, raw, p)) {
        return EPF_FAIL(EPF_E_INTERNAL,
                        "profile of rank %d: a record of event %u, task %d, expert %d, row %d, "
                        "which the call cannot have",
                        b->call.rank, raw->event, raw->task, raw->expert, raw->rows);
    }
    return EPF_OK;
}

/* --- flows ---------------------------------------------------------------------------------------- */

static void send_rows(builder *b, epf_prof_record *rec, const place *p)
{
    const epf_call *const c = &b->call;
    const epf_shape *const s = &c->shape;
    for (int32_t i = 0; i < p->tile.num_rows; i++) {
        const int64_t slot = c->sort_slots[p->tile.row_begin + i];
        const int32_t k = (int32_t)(slot % s->topk);
        const int32_t *const experts = c->topk_idx + (slot - k);
        if (epf_route_carrier(experts, s->topk, s->num_experts, s->num_local, k) == k) {
            epf_prof_send(&b->lane, rec,
                          epf_flow_of_row(c->phase.epoch, c->rank, experts[k] / s->num_local,
                                          c->dst_row[slot]));
        }
    }
}

/* What the last row of a part came with. */
static void receive_part(builder *b, epf_prof_record *rec, const place *p)
{
    const epf_call *const c = &b->call;
    const int64_t last = (int64_t)p->tile.row_begin + p->tile.num_rows - 1;
    if (p->tile.num_rows > 0) {
        epf_prof_recv(&b->lane, rec,
                      epf_flow_of_row(c->phase.epoch, c->row_source[2 * last + 1], c->rank,
                                      epf_word_low(b->recording->recv_flag[last])));
    }
}

/* Every N-tile of the M-tile: sent to its readers, or waited for. */
static void join_tiles(builder *b, epf_prof_record *rec, epf_prof_object object, const place *p)
{
    for (int32_t n = 0; n < b->call.phase.tiles.num_n_tiles; n++) {
        const uint64_t flow = epf_flow_of_tile(&b->call, object, p->tile.m_tile, n);
        if (object == EPF_PROF_FLOW_EXPAND) {
            epf_prof_send(&b->lane, rec, flow);
        } else {
            epf_prof_recv(&b->lane, rec, flow);
        }
    }
}

/* Somebody waits for M-tiles: who flags their rows, brings them or counts them. */
static bool tiles_are_awaited(const epf_call *c)
{
    return c->phase.kind == EPF_PHASE_COMBINE_SCATTER || c->signal != NULL;
}

static void join_gemm(builder *b, epf_prof_record *rec, const place *p)
{
    const epf_tile *const t = &p->tile;
    if (b->call.phase.kind == EPF_PHASE_DISPATCH) {
        if (b->last_filled[t->m_tile] == NO_RECORD) {
            return;
        }
        epf_prof_recv(&b->lane, rec,
                      epf_flow_of_tile(&b->call, EPF_PROF_FLOW_EXPAND, t->m_tile, t->n_tile));
    } else if (tiles_are_awaited(&b->call)) {
        epf_prof_send(&b->lane, rec,
                      epf_flow_of_tile(&b->call, EPF_PROF_FLOW_GEMM, t->m_tile, t->n_tile));
    }
}

/* The last of the token's slots that was waited for. */
static void receive_token(builder *b, epf_prof_record *rec, const place *p)
{
    const epf_call *const c = &b->call;
    const epf_shape *const s = &c->shape;
    for (int32_t k = s->topk - 1; k >= 0; k--) {
        const int64_t slot = (int64_t)p->task * s->topk + k;
        if (!epf_route_is_dropped(c->topk_idx[slot], s->num_experts)) {
            epf_prof_recv(&b->lane, rec,
                          epf_flow_of_slot(c->phase.epoch, c->topk_idx[slot] / s->num_local,
                                           c->dst_row[slot]));
            return;
        }
    }
}

static void add_flows(builder *b, epf_prof_record *rec, int64_t raw_idx, const place *p)
{
    switch (rec->event) {
    case EPF_PROF_DISPATCH_TOKEN_MAIN:
        send_rows(b, rec, p);
        break;
    case EPF_PROF_DISPATCH_EXPAND_WAIT:
        receive_part(b, rec, p);
        break;
    case EPF_PROF_DISPATCH_EXPAND_MAIN:
        if (b->last_filled[p->tile.m_tile] == raw_idx) {
            join_tiles(b, rec, EPF_PROF_FLOW_EXPAND, p);
        }
        break;
    case EPF_PROF_GROUP_GEMM_MAIN:
        join_gemm(b, rec, p);
        break;
    case EPF_PROF_COMBINE_WAIT:
        if (p->subject == OF_TOKEN) {
            receive_token(b, rec, p);
        } else if (p->subject == OF_TILE) {
            join_tiles(b, rec, EPF_PROF_FLOW_GEMM, p);
        }
        break;
    case EPF_PROF_COMBINE_SCATTER_TOKEN:
    case EPF_PROF_GROUP_GEMM_TAIL_NOTIFY:
        for (int32_t i = 0; i < p->tile.num_rows; i++) {
            epf_prof_send(
                &b->lane, rec,
                epf_flow_of_slot(b->call.phase.epoch, b->call.rank, p->tile.row_begin + i));
        }
        break;
    default:
        break;
    }
}

/* Records that a task and its flows come to at most: each flow but the first takes one of its own. */
static uint64_t max_records(const builder *b, const epf_prof_record *raw, const place *p)
{
    switch (raw->event) {
    case EPF_PROF_DISPATCH_TOKEN_MAIN:
    case EPF_PROF_COMBINE_SCATTER_TOKEN:
    case EPF_PROF_GROUP_GEMM_TAIL_NOTIFY:
        return 1 + (uint64_t)p->tile.num_rows;
    case EPF_PROF_DISPATCH_EXPAND_MAIN:
    case EPF_PROF_COMBINE_WAIT:
        return 1 + (uint64_t)b->call.phase.tiles.num_n_tiles;
    default:
        return 1;
    }
}

/* --- lanes ---------------------------------------------------------------------------------------- */

static int64_t first_of(const epf_cuda_recording *r, int32_t worker)
{
    return worker * r->records_per_lane;
}

/* The index after the lane's last record. */
static int64_t end_of(const epf_cuda_recording *r, int32_t worker)
{
    const int64_t first = first_of(r, worker);
    int64_t i = first;
    while (i < first + r->records_per_lane && r->records[i].begin_ns != 0) {
        i++;
    }
    return i;
}

static void note_filled(builder *b, int64_t idx, const place *p)
{
    const epf_prof_record *const records = b->recording->records;
    int64_t *const last = &b->last_filled[p->tile.m_tile];
    if (*last == NO_RECORD || records[idx].end_ns > records[*last].end_ns) {
        *last = idx;
    }
}

/* Looks at a lane's records: how much room they need, and which parts were filled last. */
static epf_status survey_lane(builder *b, int32_t worker, uint64_t *capacity)
{
    const epf_cuda_recording *const r = b->recording;
    const int64_t end = end_of(r, worker);
    *capacity = 0;
    b->role = worker % EPF_CUDA_PROF_LANES;
    b->end = end;
    for (int64_t i = first_of(r, worker); i < end; i++) {
        const epf_prof_record *const raw = &r->records[i];
        place p;
        if (raw->end_ns == 0) {
            continue;
        }
        EPF_TRY(find_place(b, raw, &p));
        *capacity += max_records(b, raw, &p);
        if (raw->event == EPF_PROF_DISPATCH_EXPAND_MAIN) {
            note_filled(b, i, &p);
        }
    }
    return EPF_OK;
}

/* Times of the host; globaltimer may be set back a little, a lane's time may not. */
static void add_record(builder *b, int64_t raw_idx, const place *p)
{
    const epf_prof_record *const raw = &b->recording->records[raw_idx];
    const uint64_t shift = (uint64_t)b->recording->host_minus_device_ns;
    epf_prof_record *const rec = &b->lane.records[b->lane.num_records++];
    memset(rec, 0, sizeof *rec);
    rec->begin_ns = raw->begin_ns + shift > b->now_ns ? raw->begin_ns + shift : b->now_ns;
    rec->end_ns = raw->end_ns + shift > rec->begin_ns ? raw->end_ns + shift : rec->begin_ns;
    b->now_ns = rec->end_ns;
    rec->event = raw->event;
    rec->task = p->task;
    rec->expert = p->tile.expert;
    rec->rows = p->tile.num_rows;
    add_flows(b, rec, raw_idx, p);
}

static epf_status make_lane(builder *b, int32_t worker, uint64_t capacity, epf_trace_lane *lane)
{
    const epf_cuda_recording *const r = b->recording;
    const int64_t end = end_of(r, worker);
    lane->rank = b->call.rank;
    lane->worker = worker;
    lane->records = epf_alloc(capacity, sizeof *lane->records);
    if (lane->records == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "profile of rank %d: %llu records", b->call.rank,
                        (unsigned long long)capacity);
    }
    memset(&b->lane, 0, sizeof b->lane);
    b->lane.records = lane->records;
    b->lane.capacity = capacity;
    b->role = worker % EPF_CUDA_PROF_LANES;
    b->end = end;
    b->now_ns = 1; /* a trace has no time 0 */
    for (int64_t i = first_of(r, worker); i < end; i++) {
        place p;
        if (r->records[i].end_ns != 0) {
            EPF_TRY(find_place(b, &r->records[i], &p));
            add_record(b, i, &p);
        }
    }
    lane->num_records = b->lane.num_records;
    return EPF_OK;
}

static epf_status make_lanes(builder *b, uint64_t *capacity, epf_trace *trace)
{
    const epf_cuda_recording *const r = b->recording;
    const int32_t num_workers = r->num_ctas * EPF_CUDA_PROF_LANES;
    for (int32_t w = 0; w < num_workers; w++) {
        EPF_TRY(survey_lane(b, w, &capacity[w]));
        trace->ranks[0].num_lost += end_of(r, w) == first_of(r, w) + r->records_per_lane;
    }
    for (int32_t w = 0; w < num_workers; w++) {
        if (capacity[w] > 0) {
            EPF_TRY(make_lane(b, w, capacity[w], &trace->lanes[trace->num_lanes++]));
        }
    }
    return EPF_OK;
}

static epf_status make_trace(builder *b, epf_trace *trace)
{
    const size_t num_workers = (size_t)b->recording->num_ctas * EPF_CUDA_PROF_LANES;
    const int32_t num_m = epf_tile_num_m(&b->call.phase.tiles);
    uint64_t *const capacity = epf_alloc(num_workers, sizeof *capacity);
    epf_status st = EPF_OK;
    b->last_filled = epf_alloc((size_t)num_m, sizeof *b->last_filled);
    if (capacity == NULL || b->last_filled == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "profile of rank %d: %zu lanes, %d tiles", b->call.rank,
                      num_workers, num_m);
    } else {
        for (int32_t i = 0; i < num_m; i++) {
            b->last_filled[i] = NO_RECORD;
        }
        st = make_lanes(b, capacity, trace);
    }
    epf_free(b->last_filled);
    epf_free(capacity);
    return st;
}

epf_status epf_cuda_trace_make(const epf_cuda_recording *recording, epf_trace **trace)
{
    epf_tile_map *tiles;
    epf_trace *made;
    epf_status st;
    builder b;
    *trace = NULL;
    memset(&b, 0, sizeof b);
    b.recording = recording;
    b.call = *recording->call;
    tiles = &b.call.phase.tiles;
    tiles->num_n_tiles = (int32_t)epf_round_up(tiles->num_n_tiles, CLUSTER_N);
    EPF_TRY(epf_trace_create(EPF_PROF_NUM_EVENTS, 1,
                             (uint32_t)recording->num_ctas * EPF_CUDA_PROF_LANES, &made));
    memcpy(made->events, epf_prof_events, sizeof epf_prof_events);
    made->num_events = EPF_PROF_NUM_EVENTS;
    made->owns_records = true;
    made->num_ranks = 1;
    made->ranks[0].rank = b.call.rank;
    made->ranks[0].on_device = true;
    epf_trace_read_clocks(&made->ranks[0]);
    st = make_trace(&b, made);
    if (st != EPF_OK) {
        epf_trace_destroy(made);
        return st;
    }
    *trace = made;
    return EPF_OK;
}
