/*
 * epf_preprocess.cu: routing to layout: one launch, the protocol of src/api/epf_preprocess.c.
 *
 * Launch   1 .. 64 CTAs of 512 threads, all resident; a contiguous range of slots per warp.
 *
 *   count     every CTA: ids -> topk_idx, slots per expert and warp -> scratch
 *   post      the last CTA to get there: prefix over CTAs; head and counts to every rank; `posted`
 *   lay out   every CTA, each for itself: counts of all ranks -> prefix sums in shared memory
 *   place     every CTA: its slots' rows and sending places; (slot, rank) to the row's rank
 *   source    the last CTA to get there: `sourced` to every rank
 *   tables    every CTA, a share of them, while the others' `sourced` is on its way
 *   copy      every CTA: a share of our rows' sources, out of the window
 *   end       the last CTA to leave: state, head, the host's head
 *
 * Synchronization
 *   object           where    target     signalled by              waited on by     order
 *   grid_arrived[0]  state    CTAs       every CTA: counted        nobody: the last CTA goes on to post
 *   posted[r]        control  epoch      rank r's posting CTA      every CTA        release / acquire, system
 *   grid_arrived[1]  state    CTAs, or   every CTA: given places   every CTA        acq_rel / acquire, gpu
 *                             2 CTAs     taken; sources written    nobody: the last CTA signals sourced
 *   sourced[r]       control  epoch      rank r's last CTA         every CTA        release / acquire, system
 *   left             state    CTAs       every CTA: at its end     nobody: the last CTA ends the call
 *
 * Our own `posted` is also what a CTA waits for before it reads the prefix over CTAs.
 * No deadlock  posted depends on CTAs of its rank alone, before they wait for anything; given places on posted;
 *              sourced on given places; all CTAs are resident.
 * Given up     a CTA whose wait failed goes to its end without arriving, so that no later signal of its
 *              rank is sent.  Indices made of what peers wrote are checked before use.
 */
#include "cuda/epf_preprocess_place.cuh"

extern __shared__ __align__(16) uint8_t preprocess_shared[];

static __device__ __forceinline__ preprocess begin(const epf_cuda_preprocess_args &args)
{
    const epf_shape &s = args.call.call.shape;
    const epf_preprocess_shared_map map = epf_preprocess_shared_make(s.num_experts);
    preprocess_words *const words = (preprocess_words *)preprocess_shared;
    uint8_t *const arrays = preprocess_shared + sizeof(preprocess_words);
    const int32_t thread = (int32_t)threadIdx.x;
    const int32_t num_slots = (args.num_tokens > 0 ? args.num_tokens : 0) * s.topk;
    const int32_t warp = thread / 32;
    const preprocess x = {args,
                          args.call.call,
                          s,
                          args.call.state->epoch + 1,
                          (int32_t)(args.call.state->num_preprocess & 1u),
                          num_slots,
                          thread,
                          thread % 32,
                          epf_preprocess_slots_of(num_slots, (int32_t)gridDim.x * kWarps,
                                                  (int32_t)blockIdx.x * kWarps + warp),
                          words,
                          (int64_t *)(arrays + map.scans),
                          (int32_t *)(arrays + map.bins),
                          (int32_t *)(arrays + map.bins) +
                              warp * epf_preprocess_num_bins(s.num_experts),
                          (int32_t *)(arrays + map.row_first),
                          (int32_t *)(arrays + map.send_first),
                          (int32_t *)(arrays + map.prefix),
                          args.scratch,
                          epf_preprocess_scratch_make(&s)};
    if (thread == 0) {
        const epf_layout_head none = {x.epoch, EPF_OK, 0, 0, 0, 0, 0, -1, 0, -1, 0};
        words->head = none;
        words->bad_slot = INT32_MAX;
        words->first_bad = INT32_MAX;
        words->first_over = INT32_MAX;
    }
    return x;
}

/* Ids of this CTA's slots: copied, checked, counted by warp; the CTA's counts go to scratch. */
static __device__ __forceinline__ void count_slots(const preprocess &x)
{
    const int32_t experts = x.shape.num_experts;
    const int32_t num_bins = epf_preprocess_num_bins(experts);
    int32_t bad = INT32_MAX;

    for (int32_t i = x.thread; i < kWarps * num_bins; i += kThreads) {
        x.bins[i] = 0;
    }
    __syncthreads();
    for (int32_t first = x.range.begin; first < x.range.end; first += 32 * kBatch) {
        int32_t ids[kBatch];
#pragma unroll
        for (int32_t b = 0; b < kBatch; b++) {
            const int32_t slot = first + 32 * b + x.lane;
            ids[b] = slot < x.range.end ? load_index(x.args.exp_indices, slot, x.shape.topk) : 0;
        }
#pragma unroll
        for (int32_t b = 0; b < kBatch; b++) {
            const int32_t slot = first + 32 * b + x.lane;
            const int32_t bin = epf_preprocess_bin(ids[b], experts);
            if (slot < x.range.end) {
                x.args.topk_idx[slot] = ids[b];
                bad = !epf_route_is_valid(ids[b], experts) && slot < bad ? slot : bad;
                if (bin >= 0) {
                    (void)atomicAdd(&x.warp_bins[bin], 1);
                }
            }
        }
    }
    if (bad != INT32_MAX) {
        (void)atomicMin(&x.words->bad_slot, bad);
    }
    __syncthreads();
    for (int32_t i = x.thread; i < num_bins; i += kThreads) {
        int32_t before = 0;
        for (int32_t w = 0; w < kWarps; w++) {
            const int32_t count = x.bins[w * num_bins + i];
            x.bins[w * num_bins + i] = before;
            before += count;
        }
        x.scratch[x.at.counts + (int64_t)blockIdx.x * num_bins + i] = before;
    }
    if (x.thread == 0) {
        x.scratch[x.at.bad_slot + blockIdx.x] = x.words->bad_slot;
    }
}

/* Counts of CTAs become sums over the CTAs before; this rank's sums go to scratch. */
static __device__ __forceinline__ void sum_ctas(const preprocess &x)
{
    enum { kColumn = 8 }; /* loads in flight */
    const int32_t num_bins = epf_preprocess_num_bins(x.shape.num_experts);
    const int32_t ctas = (int32_t)gridDim.x;
    for (int32_t i = x.thread; i < num_bins; i += kThreads) {
        int32_t *const column = x.scratch + x.at.counts + i;
        int32_t before = 0;
        for (int32_t first = 0; first < ctas; first += kColumn) {
            int32_t count[kColumn];
#pragma unroll
            for (int32_t c = 0; c < kColumn; c++) {
                count[c] = first + c < ctas ? column[(int64_t)(first + c) * num_bins] : 0;
            }
#pragma unroll
            for (int32_t c = 0; c < kColumn; c++) {
                if (first + c < ctas) {
                    column[(int64_t)(first + c) * num_bins] = before;
                    before += count[c];
                }
            }
        }
        x.scratch[x.at.totals + i] = before;
    }
}

/* The last CTA to count: tells every rank how many slots this one has for each expert, or what is wrong. */
static __device__ __forceinline__ void post(const preprocess &x)
{
    const int32_t experts = x.shape.num_experts;
    sum_ctas(x);
    if (x.thread < (int32_t)gridDim.x) {
        (void)atomicMin(&x.words->bad_slot, x.scratch[x.at.bad_slot + x.thread]);
    }
    __syncthreads();
    if (x.thread == 0) {
        const int32_t where = x.words->bad_slot;
        epf_posted_head head = {EPF_OK, x.args.num_tokens, -1, 0};
        if (x.args.num_tokens < 0) {
            head.status = x.args.refused;
            head.num_tokens = 0;
        } else if (where != INT32_MAX) {
            head.status = EPF_E_INVALID;
            head.where = where;
            head.value = load_index(x.args.exp_indices, where, x.shape.topk);
        }
        x.words->posted = head;
    }
    __syncthreads();
    for (int32_t r = 0; r < x.shape.num_ranks; r++) {
        int32_t *const to = posted_counts(x, r) + (int64_t)x.call.rank * experts;
        for (int32_t e = x.thread; e < experts; e += kThreads) {
            to[e] = x.scratch[x.at.totals + e];
        }
    }
    for (int32_t r = x.thread; r < x.shape.num_ranks; r += kThreads) {
        posted_heads(x, r)[x.call.rank] = x.words->posted;
    }
    /* The barrier orders all threads' stores before each release, which is cumulative. */
    __syncthreads();
    for (int32_t r = x.thread; r < x.shape.num_ranks; r += kThreads) {
        epf_store_release_sys_u64(
            epf_call_control_word(&x.call, r, x.call.control_map.posted, x.call.rank),
            epf_word(x.epoch, 0));
    }
}

/* Counts of all ranks into the scans' arrays; row_first: slots of the ranks before this one. */
static __device__ __forceinline__ void load_counts(const preprocess &x)
{
    const epf_shape &s = x.shape;
    const int32_t *const counts = posted_counts(x, x.call.rank);
    for (int32_t e = x.thread; e < s.num_experts; e += kThreads) {
        const int32_t own = x.scratch[x.at.totals + e];
        const int32_t position = epf_route_send_position(e, s.num_local, s.num_ranks);
        /* our experts come first, whatever our rank */
        const int32_t local = (e + s.num_experts - x.call.rank * s.num_local) % s.num_experts;
        int64_t rows = 0;
        int64_t before = 0;
        x.prefix[e] = x.scratch[x.at.counts +
                                (int64_t)blockIdx.x * epf_preprocess_num_bins(s.num_experts) + e];
        for (int32_t k = 0; k < s.num_ranks; k++) {
            const int32_t count = counts[(int64_t)k * s.num_experts + e];
            rows += count;
            before += k < x.call.rank ? count : 0;
        }
        x.row_first[e] = (int32_t)before;
        scan_of(x, EPF_SCAN_ROWS)[e] = rows;
        scan_of(x, EPF_SCAN_OWN)[e] = own;
        scan_of(x, EPF_SCAN_SENT)[position] = own;
        scan_of(x, EPF_SCAN_TILES)[local] =
            local < s.num_local ? epf_ceil_div(rows, EPF_CUDA_BLOCK_M) : 0;
    }
}

/* One thread: what all posted heads and counts together say; the same in every CTA of every rank. */
static __device__ __forceinline__ void judge_posted(const preprocess &x)
{
    const epf_shape &s = x.shape;
    epf_layout_head *const head = &x.words->head;
    const int64_t rows =
        epf_preprocess_rank_rows(scan_of(x, EPF_SCAN_ROWS), s.num_local, x.call.rank);
    if (x.words->first_bad != INT32_MAX) {
        const epf_posted_head bad = posted_heads(x, x.call.rank)[x.words->first_bad];
        head->status = bad.status;
        head->where = bad.where;
        head->value = bad.value;
        head->rank = x.words->first_bad;
        head->max_rows = 0;
        return;
    }
    head->num_rows = (int32_t)epf_min64(rows, INT32_MAX);
    if (x.words->first_over != INT32_MAX) {
        head->status = EPF_E_CAPACITY; /* num_rows and max_rows say what was needed */
        head->rank = x.words->first_over;
        return;
    }
    head->num_tokens = x.args.num_tokens;
    head->num_slots = (int32_t)scan_of(x, EPF_SCAN_SENT)[s.num_experts];
    head->num_tiles = (int32_t)scan_of(x, EPF_SCAN_TILES)[s.num_local];
}

/* From the counts of all ranks to the first rows and places of this one's slots, and the verdict. */
static __device__ __forceinline__ void lay_out(const preprocess &x)
{
    const epf_shape &s = x.shape;
    const int64_t *const rows = scan_of(x, EPF_SCAN_ROWS);
    const int64_t limit = epf_min64(x.args.row_capacity, INT32_MAX);
    load_counts(x);
    scan_all(x);
    for (int32_t e = x.thread; e < s.num_experts; e += kThreads) {
        const int64_t begin_row =
            rows[e] - epf_preprocess_rank_begin(rows, s.num_local, e / s.num_local);
        const int32_t position = epf_route_send_position(e, s.num_local, s.num_ranks);
        x.row_first[e] = (int32_t)(begin_row + x.row_first[e]);
        x.send_first[e] = (int32_t)scan_of(x, EPF_SCAN_SENT)[position];
    }
    for (int32_t r = x.thread; r < s.num_ranks; r += kThreads) {
        const int64_t num_rows = epf_preprocess_rank_rows(rows, s.num_local, r);
        if (posted_heads(x, x.call.rank)[r].status != EPF_OK) {
            (void)atomicMin(&x.words->first_bad, r);
        }
        if (num_rows > limit) {
            (void)atomicMin(&x.words->first_over, r);
        }
        (void)atomicMax(&x.words->head.max_rows, (int32_t)epf_min64(num_rows, INT32_MAX));
    }
    __syncthreads();
    if (x.thread == 0) {
        judge_posted(x);
    }
    __syncthreads();
}

/* The last CTA to place its slots: tells every rank that all of them are written, or that indices were bad. */
static __device__ __forceinline__ void signal_sourced(const preprocess &x)
{
    const bool is_bad = x.thread < (int32_t)gridDim.x && x.scratch[x.at.is_bad + x.thread] != 0;
    const uint32_t code = __syncthreads_or(is_bad) != 0 ? (uint32_t)-EPF_E_INVALID : 0;
    for (int32_t r = x.thread; r < x.shape.num_ranks; r += kThreads) {
        epf_store_release_sys_u64(
            epf_call_control_word(&x.call, r, x.call.control_map.sourced, x.call.rank),
            epf_word(x.epoch, code));
    }
}

/* Tables that are known from the counts alone; the grid shares the work. */
static __device__ __forceinline__ void write_tables(const preprocess &x)
{
    const epf_shape &s = x.shape;
    const epf_cuda_preprocess_args &a = x.args;
    const int32_t *const counts = posted_counts(x, x.call.rank);
    const int64_t *const rows = scan_of(x, EPF_SCAN_ROWS);
    const int64_t *const tiles = scan_of(x, EPF_SCAN_TILES);
    const int64_t own_begin = epf_preprocess_rank_begin(rows, s.num_local, x.call.rank);
    const int64_t *const own_rows = rows + (int64_t)x.call.rank * s.num_local;
    const int64_t num_tiles =
        epf_min64(x.words->head.num_tiles, epf_cuda_max_tiles(a.row_capacity, s.num_local));

    for (int64_t i = grid_thread(); i < (int64_t)s.num_ranks * s.num_experts; i += grid_threads()) {
        a.counts[i] = counts[i];
    }
    /* neighbouring experts on different CTAs: each has a column of W to sum */
    for (int64_t e = (int64_t)x.thread * gridDim.x + blockIdx.x; e < s.num_experts;
         e += grid_threads()) {
        int32_t row = (int32_t)(rows[e] - epf_preprocess_rank_begin(rows, s.num_local,
                                                                    (int32_t)e / s.num_local));
        a.tokens[e] = (int32_t)(rows[e + 1] - rows[e]);
        for (int32_t k = 0; k < s.num_ranks; k++) {
            a.offset[e * s.num_ranks + k] = row;
            row += counts[(int64_t)k * s.num_experts + e];
        }
    }
    for (int64_t r = grid_thread(); r < s.num_ranks; r += grid_threads()) {
        a.recv[r] = (int32_t)epf_preprocess_rank_rows(rows, s.num_local, (int32_t)r);
        a.input[r] = posted_heads(x, x.call.rank)[r].num_tokens;
    }
    for (int64_t e = grid_thread(); e <= s.num_local; e += grid_threads()) {
        a.row_offset[e] = (int32_t)(own_rows[e] - own_begin);
        a.tile_offset[e] = (int32_t)tiles[e];
    }
    for (int64_t t = grid_thread(); t < num_tiles; t += grid_threads()) {
        const int32_t e = epf_preprocess_owner(tiles, s.num_local, t);
        a.tables[0][t] = e;
        a.tables[1][t] = (int32_t)(own_rows[e] - own_begin);
        a.tables[2][t] = (int32_t)(tiles[e + 1] - tiles[e]);
        a.tables[3][t] = (int32_t)tiles[e + 1];
    }
}

/* After all `sourced`: the first rank whose scatter indices were bad decides for all. */
static __device__ __forceinline__ void judge_sourced(const preprocess &x)
{
    for (int32_t r = x.thread; r < x.shape.num_ranks; r += kThreads) {
        if (epf_word_low(epf_load_acquire_sys_u64(
                epf_call_control_word(&x.call, x.call.rank, x.call.control_map.sourced, r))) != 0) {
            (void)atomicMin(&x.words->first_bad, r);
        }
    }
    __syncthreads();
    if (x.thread == 0 && x.words->first_bad != INT32_MAX) {
        const epf_layout_head refused = {x.epoch, EPF_E_INVALID,      0, 0, 0, 0, 0, -1,
                                         0,       x.words->first_bad, 0};
        x.words->head = refused;
    }
    __syncthreads();
}

/* Our rows' sources, out of the window, which the next call's ranks will write. */
static __device__ __forceinline__ void copy_sources(const preprocess &x)
{
    const int64_t num_rows = x.words->head.num_rows;
    const int2 *const from =
        (const int2 *)(x.call.control[x.call.rank] + x.call.control_map.row_source);
    int2 *const to = (int2 *)x.args.row_source;
    for (int64_t first = grid_thread(); first < num_rows; first += kBatch * grid_threads()) {
        int2 source[kBatch];
#pragma unroll
        for (int32_t b = 0; b < kBatch; b++) {
            const int64_t row = first + b * grid_threads();
            source[b] = row < num_rows ? from[row] : make_int2(-1, -1);
        }
#pragma unroll
        for (int32_t b = 0; b < kBatch; b++) {
            const int64_t row = first + b * grid_threads();
            if (row < num_rows) {
                to[row] = source[b];
            }
        }
    }
}

/* From the verdict on the counts to row sources; false: given up. */
static __device__ __forceinline__ bool exchange_sources(const preprocess &x)
{
    const epf_cuda_preprocess_args &a = x.args;
    const bool is_given = a.local_scatter.data != nullptr || a.full_scatter.data != nullptr;
    uint32_t *const arrived = &a.call.state->grid_arrived[1];
    bool is_bad = false;

    place_slots(x, is_given);
    if (is_given) {
        is_bad = take_places(x);
        if (!grid_barrier(x, arrived)) {
            return false;
        }
        is_bad = push_given(x) || is_bad;
    }
    is_bad = __syncthreads_or(is_bad) != 0;
    if (x.thread == 0) {
        x.scratch[x.at.is_bad + blockIdx.x] = is_bad ? 1 : 0;
    }
    if (arrive(x, arrived, (is_given ? 2 : 1) * gridDim.x - 1)) {
        signal_sourced(x);
    }
    write_tables(x);
    fill_unset(a.sort_slots, x.words->head.num_slots, epf_shape_max_slots(&x.shape));
    if (a.all_row_sources) {
        fill_unset(a.row_source, 2 * (int64_t)x.words->head.num_rows, 2 * a.row_capacity);
    }
    if (!wait_all(x, x.call.control_map.sourced, EPF_OBJECT_SOURCED)) {
        return false;
    }
    judge_sourced(x);
    if (x.words->head.status == EPF_OK) {
        copy_sources(x);
    }
    return true;
}

/* The whole call but for its end; false: given up. */
static __device__ __forceinline__ bool exchange(const preprocess &x)
{
    const epf_cuda_preprocess_args &a = x.args;
    count_slots(x);
    if (arrive(x, &a.call.state->grid_arrived[0], gridDim.x - 1)) {
        post(x);
    }
    fill_unset(a.topk_idx, x.num_slots, epf_shape_max_slots(&x.shape));
    fill_unset(a.dst_row, x.num_slots, epf_shape_max_slots(&x.shape));
    if (!wait_all(x, x.call.control_map.posted, EPF_OBJECT_POSTED)) {
        return false;
    }
    lay_out(x);
    return x.words->head.status != EPF_OK || exchange_sources(x);
}

/* Without a layout there are no rows and no tiles, for whoever looks without asking. */
static __device__ __forceinline__ void empty_tables(const preprocess &x)
{
    for (int32_t e = x.thread; e < x.shape.num_experts; e += kThreads) {
        x.args.tokens[e] = 0;
    }
    for (int32_t e = x.thread; e <= x.shape.num_local; e += kThreads) {
        x.args.row_offset[e] = 0;
        x.args.tile_offset[e] = 0;
    }
    for (int32_t r = x.thread; r < x.shape.num_ranks; r += kThreads) {
        x.args.recv[r] = 0;
    }
}

/* One thread of the last CTA. */
static __device__ __forceinline__ void publish(const preprocess &x)
{
    enum { kFields = offsetof(epf_layout_head, num_finished) / sizeof(int32_t) };
    const uint32_t num_finished = x.args.call.state->num_preprocess + 1;
    x.args.call.state->num_preprocess = num_finished;
    x.words->head.num_finished = num_finished;
    *x.args.head = x.words->head;
#pragma unroll
    for (int32_t i = 0; i < kFields; i++) {
        ((int32_t *)x.args.host_head)[i] = ((const int32_t *)&x.words->head)[i];
    }
    epf_store_release_sys_u32(&x.args.host_head->num_finished, num_finished);
}

/* All threads.  The last CTA ends the call; `status`: what kept this CTA from its end, or EPF_OK. */
static __device__ __forceinline__ void end(const preprocess &x, int32_t status)
{
    epf_cuda_state *const state = x.args.call.state;
    __syncthreads();
    if (x.thread == 0) {
        /* an epoch that was refused is not taken */
        const uint32_t epoch = status == EPF_E_STATE ? x.epoch - 1 : x.epoch;
        x.words->is_last = epf_device_leave(state, epoch);
        /* another CTA may have given up where this one did not have to wait */
        if (status == EPF_OK && epf_load_acquire_gpu_u32(&state->failed) != 0) {
            status = EPF_E_PEER;
        }
        if (status != EPF_OK) {
            const epf_layout_head failed = {epoch, status, 0, 0, 0, 0, 0, -1, 0, -1, 0};
            x.words->head = failed;
        }
    }
    __syncthreads();
    if (x.words->is_last == 0) {
        return;
    }
    if (x.words->head.status != EPF_OK) {
        empty_tables(x);
    }
    __syncthreads();
    if (x.thread == 0) {
        publish(x);
    }
}

static __global__ void __launch_bounds__(kThreads, 1)
    preprocess_kernel(const __grid_constant__ epf_cuda_preprocess_args args)
{
    const preprocess x = begin(args);
    epf_device_delay(args.call.role_delay_ns);
    if (x.epoch > EPF_EPOCH_LAST) {
        if (grid_thread() == 0) {
            raise_fault(args.call, EPF_E_STATE, EPF_EPOCH_LAST, x.epoch);
        }
        end(x, EPF_E_STATE);
        return;
    }
    end(x, exchange(x) ? EPF_OK : EPF_E_PEER);
}

extern "C" const void *epf_preprocess_sm90_kernel(void)
{
    return (const void *)preprocess_kernel;
}

extern "C" int32_t epf_preprocess_sm90_shared_bytes(int32_t num_experts)
{
    return (int32_t)sizeof(preprocess_words) + epf_preprocess_shared_make(num_experts).total_bytes;
}
