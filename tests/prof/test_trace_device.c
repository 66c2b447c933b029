/*
 * test_trace_device: records as a kernel leaves them, made into a trace: which lanes, tasks, experts and rows they
 * come to, on whose clock, which flows join them; what is refused, and what a full lane, an unfinished record and a
 * failed allocation come to.  No device is needed.
 *
 * Rank 1 of 2, two experts each, has 140 and 30 rows: M-tiles of 128, 12 and 30 rows.  It sends 5 slots of 3 tokens.
 */
#include <string.h>

#include "base/epf_alloc.h"
#include "cuda/epf_cuda_trace.h"
#include "prof/epf_prof_flow.h"
#include "prof/epf_trace_flow.h"
#include "prof/epf_trace_summary.h"
#include "prof_fixture.h"

enum {
    RANK = 1,
    EPOCH = 9,
    CTAS = 2,
    LANES = CTAS * EPF_CUDA_PROF_LANES,
    PER_LANE = 4,
    ROWS = 170,
    SLOTS = 6,
    SENT = 5,
    N_TILES = 3, /* a launch has 4: clusters of two */
    SHIFT = -500000
};

static const int32_t rows[] = {140, 30};
static const int32_t row_offset[] = {0, 140, 170};
static const int32_t tile_offset[] = {0, 2, 3};
static const int32_t topk_idx[SLOTS] = {0, 1, 2, 0, 3, 4}; /* the last one is dropped */
static const int32_t dst_row[SLOTS] = {10, 20, 0, 11, 150, -1};
static const int32_t sort_slots[SENT] = {0, 3, 1, 2, 4};

typedef struct world {
    epf_call call;
    epf_cuda_recording recording;
    epf_prof_record records[LANES * PER_LANE];
    int32_t row_source[2 * ROWS];
    uint64_t recv_flag[ROWS];
    int32_t used[LANES];
    uint64_t now_ns; /* of the device */
} world;

static void begin_world(world *w, int32_t kind)
{
    epf_phase *const p = &w->call.phase;
    memset(w, 0, sizeof *w);
    w->now_ns = 1000000;
    w->call.shape = (epf_shape){2, 4, 2, 2, 64, 3, 2, 4};
    w->call.rank = RANK;
    w->call.num_tokens = SLOTS / 2;
    p->kind = kind;
    p->epoch = EPOCH;
    p->num_slots = SENT;
    p->tiles = (epf_tile_map){2, EPF_CUDA_BLOCK_M, N_TILES, 1, rows, row_offset, tile_offset};
    w->call.topk_idx = topk_idx;
    w->call.dst_row = dst_row;
    w->call.sort_slots = sort_slots;
    w->call.row_source = w->row_source;
    for (int32_t r = 0; r < ROWS; r++) {
        w->row_source[2 * r + 1] = r % 2;
        w->recv_flag[r] = epf_word(EPOCH, (uint32_t)(r / 2));
    }
    w->recording =
        (epf_cuda_recording){&w->call, w->records, PER_LANE, CTAS, {2, 16, 1}, w->recv_flag, SHIFT};
}

/* One more record of the lane, 100 ns after the last one of any, 50 ns long. */
static epf_prof_record *add(world *w, int32_t cta, int32_t lane, epf_prof_event event, int32_t task)
{
    const int32_t at = cta * EPF_CUDA_PROF_LANES + lane;
    epf_prof_record *const rec = &w->records[at * PER_LANE + w->used[at]++];
    w->now_ns += 100;
    *rec = (epf_prof_record){w->now_ns,     w->now_ns + 50, 0, 0, event, task,
                             EPF_PROF_NONE, EPF_PROF_NONE};
    return rec;
}

static epf_prof_record *add_tile(world *w, int32_t cta, int32_t lane, epf_prof_event event,
                                 const int32_t tile[3])
{
    epf_prof_record *const rec = add(w, cta, lane, event, tile[0]);
    rec->expert = tile[1];
    rec->rows = tile[2];
    return rec;
}

static const epf_trace_lane *lane_of(const epf_trace *trace, int32_t cta, int32_t role)
{
    for (uint32_t i = 0; i < trace->num_lanes; i++) {
        if (trace->lanes[i].worker == cta * EPF_TRACE_NUM_ROLES + role) {
            return &trace->lanes[i];
        }
    }
    CHECK(false, "no lane of CTA %d, role %d", cta, role);
}

/* The lane's `nth` record that is no link, with its task, expert and rows. */
static const epf_prof_record *expect(const epf_trace_lane *lane, int32_t nth,
                                     const int32_t numbers[3])
{
    for (uint64_t i = 0; i < lane->num_records; i++) {
        const epf_prof_record *const rec = &lane->records[i];
        if (rec->event == EPF_PROF_LINK || nth-- > 0) {
            continue;
        }
        CHECK(rec->task == numbers[0] && rec->expert == numbers[1] && rec->rows == numbers[2],
              "task %d, expert %d, rows %d", rec->task, rec->expert, rec->rows);
        return rec;
    }
    CHECK(false, "no such record");
}

#define NUMBERS(...)  \
    (const int32_t[]) \
    {                 \
        __VA_ARGS__   \
    }

static uint32_t count_flow(const epf_trace_lane *lane, uint64_t flow, bool leaves)
{
    uint32_t count = 0;
    for (uint64_t i = 0; i < lane->num_records; i++) {
        count += (leaves ? lane->records[i].flow_out : lane->records[i].flow_in) == flow;
    }
    return count;
}

static void check_dispatch(void)
{
    epf_prof_record *first;
    const epf_trace_lane *lane;
    const epf_prof_record *rec;
    epf_trace *trace;
    world w;
    begin_world(&w, EPF_PHASE_DISPATCH);
    first = add(&w, 0, EPF_CUDA_LANE_COMM_0, EPF_PROF_DISPATCH_TOKEN_MAIN, 0);
    (void)add(&w, 0, EPF_CUDA_LANE_COMM_1, EPF_PROF_DISPATCH_TOKEN_MAIN, 1);
    (void)add(&w, 0, EPF_CUDA_LANE_MATH, EPF_PROF_DISPATCH_TOKEN_MAIN, 2);
    (void)add(&w, 1, EPF_CUDA_LANE_COMM_0, EPF_PROF_DISPATCH_EXPAND_WAIT, 16); /* of tile 2 */
    (void)add(&w, 1, EPF_CUDA_LANE_COMM_0, EPF_PROF_DISPATCH_EXPAND_MAIN, 16);
    (void)add(&w, 1, EPF_CUDA_LANE_COMM_1, EPF_PROF_DISPATCH_EXPAND_MAIN, 17); /* its last one */
    (void)add(&w, 0, EPF_CUDA_LANE_COMM_1, EPF_PROF_DISPATCH_EXPAND_WAIT, 9);  /* without rows */
    (void)add_tile(&w, 1, EPF_CUDA_LANE_PLAN, EPF_PROF_GROUP_GEMM_WAIT, NUMBERS(2, 1, 140));
    (void)add_tile(&w, 1, EPF_CUDA_LANE_MATH, EPF_PROF_GROUP_GEMM_MAIN, NUMBERS(2, 1, 140));
    (void)add_tile(&w, 1, EPF_CUDA_LANE_MATH, EPF_PROF_GROUP_GEMM_MAIN, NUMBERS(3, 0, 128));
    CHECK_OK(epf_cuda_trace_make(&w.recording, &trace));

    CHECK(trace->num_lanes == 7 && trace->num_ranks == 1, "%u lanes", trace->num_lanes);
    CHECK(trace->ranks[0].rank == RANK && trace->ranks[0].on_device, "rank");
    CHECK(trace->ranks[0].num_lost == 0, "lost");
    lane = lane_of(trace, 0, EPF_TRACE_ROLE_COMM_0);
    rec = expect(lane, 0, NUMBERS(0, -1, 2)); /* slots 0 and 3, both carry a row to rank 0 */
    CHECK(rec->begin_ns == first->begin_ns + (uint64_t)SHIFT &&
              rec->end_ns == first->end_ns + (uint64_t)SHIFT,
          "the host's time");
    CHECK(count_flow(lane, epf_flow_of_row(EPOCH, RANK, 0, 10), true) == 1, "slot 0");
    CHECK(count_flow(lane, epf_flow_of_row(EPOCH, RANK, 0, 11), true) == 1, "slot 3");
    lane = lane_of(trace, 0, EPF_TRACE_ROLE_COMM_1);
    (void)expect(lane, 0, NUMBERS(1, -1, 2)); /* slot 1 is carried by slot 0, slot 2 goes to us */
    CHECK(count_flow(lane, epf_flow_of_row(EPOCH, RANK, 0, 20), true) == 0, "slot 1");
    CHECK(count_flow(lane, epf_flow_of_row(EPOCH, RANK, RANK, 0), true) == 1, "slot 2");
    rec = expect(lane, 1, NUMBERS(9, 0, 0));
    CHECK(rec->flow_in == 0, "nothing was waited for");
    (void)expect(lane_of(trace, 0, EPF_TRACE_ROLE_MATH), 0, NUMBERS(2, -1, 1));

    lane = lane_of(trace, 1, EPF_TRACE_ROLE_COMM_0);
    rec = expect(lane, 0, NUMBERS(16, 1, 16)); /* rows 140 to 155: the last came with row 77 */
    CHECK(rec->flow_in == epf_flow_of_row(EPOCH, 1, RANK, 77), "the last row's carrier");
    rec = expect(lane, 1, NUMBERS(16, 1, 16));
    CHECK(rec->flow_out == 0, "not the last part of its tile");
    (void)expect(lane_of(trace, 1, EPF_TRACE_ROLE_COMM_1), 0, NUMBERS(17, 1, 14));
    (void)expect(lane_of(trace, 1, EPF_TRACE_ROLE_PLAN), 0, NUMBERS(2 * 4 + 2, 1, 30));
    rec = expect(lane_of(trace, 1, EPF_TRACE_ROLE_MATH), 0, NUMBERS(2 * 4 + 2, 1, 30));
    CHECK(rec->flow_in != 0 &&
              count_flow(lane_of(trace, 1, EPF_TRACE_ROLE_COMM_1), rec->flow_in, true) == 1,
          "the part filled last sends to the tile");
    rec = expect(lane_of(trace, 1, EPF_TRACE_ROLE_MATH), 1, NUMBERS(1 * 4 + 3, 0, 12));
    CHECK(rec->flow_in == 0, "nobody recorded who filled tile 1");
    epf_trace_destroy(trace);
}

static void check_combine(void)
{
    const epf_trace_lane *lane;
    const epf_prof_record *rec;
    epf_trace *trace;
    epf_trace_flow *flows;
    uint64_t num_flows, num_lost;
    world w;
    begin_world(&w, EPF_PHASE_COMBINE_SCATTER);
    w.call.phase.num_grads = 1;
    w.call.phase.grads[0] = (epf_grad_map){200, 300, EPF_CUDA_BLOCK_M, 256, 1};
    for (int32_t n = 0; n < 4; n++) {
        (void)add_tile(&w, n / 2, EPF_CUDA_LANE_MATH, EPF_PROF_GROUP_GEMM_MAIN, NUMBERS(n, 1, 140));
    }
    (void)add(&w, 0, EPF_CUDA_LANE_COMM_1, EPF_PROF_COMBINE_WAIT, 2);
    (void)add(&w, 0, EPF_CUDA_LANE_COMM_1, EPF_PROF_GROUP_GEMM_TAIL_NOTIFY, 2);
    (void)add_tile(&w, 0, EPF_CUDA_LANE_MATH, EPF_PROF_WEIGHT_GRAD_MAIN, NUMBERS(1, 1, 200 + 128));
    (void)add(&w, 1, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_WAIT, 2);
    (void)add(&w, 1, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_TOPK_REDUCE, 2);
    CHECK_OK(epf_cuda_trace_make(&w.recording, &trace));

    (void)expect(lane_of(trace, 0, EPF_TRACE_ROLE_MATH), 0, NUMBERS(8, 1, 30));
    /* two tiles of 128 along 200, of 256 along 300: expert 1's third of four, then the next column */
    (void)expect(lane_of(trace, 0, EPF_TRACE_ROLE_MATH), 2, NUMBERS((1 * 2 + 1) * 2 + 1, 1, 30));
    lane = lane_of(trace, 0, EPF_TRACE_ROLE_COMM_1);
    (void)expect(lane, 0, NUMBERS(2, 1, 30));
    (void)expect(lane, 1, NUMBERS(2, 1, 30));
    for (int64_t row = 140; row < 170; row++) {
        CHECK(count_flow(lane, epf_flow_of_slot(EPOCH, RANK, row), true) == 1, "row %d", (int)row);
    }
    lane = lane_of(trace, 1, EPF_TRACE_ROLE_MATH);
    rec = expect(lane, 2, NUMBERS(2, -1, 1)); /* the token's one slot that was not dropped */
    CHECK(rec->flow_in == epf_flow_of_slot(EPOCH, 1, 150), "the slot that token 2 waits for");
    CHECK_OK(epf_trace_match_flows(trace, &flows, &num_flows, &num_lost));
    CHECK(num_flows == 5 && num_lost == 0, "%llu: four tiles, one row",
          (unsigned long long)num_flows);
    epf_free(flows);
    epf_trace_destroy(trace);
}

/* CTAs that bring rows: their math role waits for M-tiles, then for tokens. */
static void check_bring(void)
{
    const epf_trace_lane *lane;
    const epf_prof_record *rec;
    epf_trace *trace;
    world w;
    begin_world(&w, EPF_PHASE_COMBINE_SCATTER);
    (void)add(&w, 0, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_WAIT, 2);
    (void)add(&w, 0, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_SCATTER_TOKEN, 2 * 8 + 1);
    (void)add(&w, 0, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_WAIT, 1);
    (void)add(&w, 0, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_TOPK_REDUCE, 1);
    (void)add(&w, 1, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_WAIT, 7); /* what for, it did not say */
    CHECK_OK(epf_cuda_trace_make(&w.recording, &trace));
    lane = lane_of(trace, 0, EPF_TRACE_ROLE_MATH);
    (void)expect(lane, 0, NUMBERS(2, 1, 30));
    CHECK(count_flow(lane, epf_flow_of_tile(&w.call, EPF_PROF_FLOW_GEMM, 2, 0), false) == 0,
          "numbered by the call's 3 N-tiles");
    w.call.phase.tiles.num_n_tiles = 4;
    for (int32_t n = 0; n < 4; n++) {
        CHECK(count_flow(lane, epf_flow_of_tile(&w.call, EPF_PROF_FLOW_GEMM, 2, n), false) == 1,
              "N-tile %d", n);
    }
    (void)expect(lane, 1, NUMBERS(2 * 8 + 1, 1, 14)); /* rows 156 to 169 */
    for (int64_t row = 140; row < 170; row++) {
        CHECK(count_flow(lane, epf_flow_of_slot(EPOCH, RANK, row), true) == (row >= 156), "row %d",
              (int)row);
    }
    rec = expect(lane, 2, NUMBERS(1, -1, 1));
    CHECK(rec->flow_in == epf_flow_of_slot(EPOCH, 0, 11), "the last slot of token 1");
    rec = expect(lane_of(trace, 1, EPF_TRACE_ROLE_MATH), 0, NUMBERS(7, -1, -1));
    CHECK(rec->flow_in == 0, "no flow");
    epf_trace_destroy(trace);
}

/* Written, read back and summed up: it is a device's still. */
static void check_file(void)
{
    const char *const folder = fixture_folder("test_trace_device");
    char path[512];
    epf_trace *trace;
    FILE *const table = tmpfile();
    char text[4096];
    size_t size;
    world w;
    begin_world(&w, EPF_PHASE_COMBINE_SERIAL);
    (void)add(&w, 1, EPF_CUDA_LANE_MATH, EPF_PROF_BARRIER_ALL, EPF_PROF_NONE);
    (void)add(&w, 1, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_TOPK_REDUCE, 1);
    CHECK_OK(epf_cuda_trace_make(&w.recording, &trace));
    trace->ranks[0].num_lost = 3;
    CHECK_OK(epf_trace_write_rank(trace, folder, "device"));
    epf_trace_destroy(trace);
    (void)snprintf(path, sizeof path, "%s/device_rank_1.perfetto-trace", folder);
    CHECK_OK(epf_trace_read(path, &trace));
    CHECK(trace->ranks[0].on_device && trace->ranks[0].num_lost == 3, "labels");
    CHECK(trace->num_lanes == 1 && trace->lanes[0].num_records == 2, "records");
    CHECK(table != NULL, "tmpfile");
    CHECK_OK(epf_trace_print(trace, table));
    rewind(table);
    size = fread(text, 1, sizeof text - 1, table);
    text[size] = '\0';
    CHECK(strstr(text, "   math ") != NULL && strstr(text, "      7 ") == NULL, "%s", text);
    (void)fclose(table);
    epf_trace_destroy(trace);
}

/* What the kernel could not finish, or had no room for; a clock that goes back. */
static void check_edges(void)
{
    const epf_trace_lane *lane;
    epf_trace *trace;
    world w;
    begin_world(&w, EPF_PHASE_COMBINE_SERIAL);
    for (int32_t i = 0; i < PER_LANE; i++) {
        epf_prof_record *const rec =
            add(&w, 0, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_TOPK_REDUCE, i % 3);
        rec->begin_ns -= i == 2 ? 120 : 0; /* before the last one's end */
    }
    add(&w, 1, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_TOPK_REDUCE, 0)->end_ns = 0;
    CHECK_OK(epf_cuda_trace_make(&w.recording, &trace));
    CHECK(trace->ranks[0].num_lost == 1, "a full lane");
    CHECK(trace->num_lanes == 1, "a lane without a finished record");
    lane = &trace->lanes[0];
    CHECK(lane->num_records == PER_LANE && lane->records[2].begin_ns == lane->records[1].end_ns,
          "a lane's time does not go back");
    epf_trace_destroy(trace);
}

static void refuse(int32_t lane, epf_prof_event event, const int32_t numbers[3])
{
    epf_trace *trace;
    world w;
    begin_world(&w, EPF_PHASE_DISPATCH);
    (void)add_tile(&w, 0, lane, event, numbers);
    CHECK(epf_cuda_trace_make(&w.recording, &trace) == EPF_E_INTERNAL && trace == NULL,
          "event %d, task %d, expert %d, row %d", (int)event, numbers[0], numbers[1], numbers[2]);
}

static void check_refused(void)
{
    const int32_t math = EPF_CUDA_LANE_MATH, comm = EPF_CUDA_LANE_COMM_0;
    refuse(math, EPF_PROF_GROUP_GEMM_MAIN, NUMBERS(4, 1, 140)); /* N-tile */
    refuse(math, EPF_PROF_GROUP_GEMM_MAIN, NUMBERS(-1, 1, 140));
    refuse(math, EPF_PROF_GROUP_GEMM_MAIN, NUMBERS(0, 2, 140)); /* expert */
    refuse(math, EPF_PROF_GROUP_GEMM_MAIN, NUMBERS(0, -1, 140));
    refuse(math, EPF_PROF_GROUP_GEMM_MAIN, NUMBERS(0, 1, 139)); /* row */
    refuse(math, EPF_PROF_GROUP_GEMM_MAIN, NUMBERS(0, 1, 170));
    refuse(math, EPF_PROF_WEIGHT_GRAD_MAIN, NUMBERS(0, 2, 0));
    refuse(comm, EPF_PROF_DISPATCH_EXPAND_MAIN, NUMBERS(24, 0, 0));
    refuse(comm, EPF_PROF_DISPATCH_EXPAND_MAIN, NUMBERS(-1, 0, 0));
    refuse(comm, EPF_PROF_DISPATCH_TOKEN_MAIN, NUMBERS(3, 0, 0));
    refuse(comm, EPF_PROF_COMBINE_WAIT, NUMBERS(3, 0, 0));
    refuse(comm, EPF_PROF_GROUP_GEMM_TAIL_NOTIFY, NUMBERS(-1, 0, 0));
    refuse(math, EPF_PROF_COMBINE_TOPK_REDUCE, NUMBERS(3, 0, 0));
    refuse(comm, EPF_PROF_COMBINE_SCATTER_TOKEN, NUMBERS(24, 0, 0));
    refuse(math, EPF_PROF_NUM_EVENTS, NUMBERS(0, 0, 0));
}

static void check_memory(void)
{
    world w;
    begin_world(&w, EPF_PHASE_COMBINE_SERIAL);
    (void)add(&w, 0, EPF_CUDA_LANE_MATH, EPF_PROF_COMBINE_TOPK_REDUCE, 1);
    for (uint64_t nth = 1;; nth++) {
        epf_trace *trace;
        epf_status st;
        epf_alloc_fail_at(nth);
        st = epf_cuda_trace_make(&w.recording, &trace);
        if (epf_alloc_count() < nth) {
            epf_alloc_fail_at(0);
            CHECK(st == EPF_OK && nth > 5, "%d after %d", (int)st, (int)nth);
            epf_trace_destroy(trace);
            return;
        }
        CHECK(st == EPF_E_NO_MEMORY && trace == NULL, "allocation %d", (int)nth);
    }
}

int main(void)
{
    check_dispatch();
    check_combine();
    check_bring();
    check_file();
    check_edges();
    check_refused();
    check_memory();
    return 0;
}
