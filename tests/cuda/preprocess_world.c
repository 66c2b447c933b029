/* preprocess_world.c: making ranks on one GPU, calling both backends, comparing what they say. */
#include "preprocess_world.h"

#include <stdlib.h>
#include <string.h>

#include "core/epf_route.h"
#include "support/epf_check.h"

enum { SPOILT = 0x5a, STRIDE_GAP = 3 };
#define GROUP_TIMEOUT_NS ((uint64_t)20000000000u)

static void must(cudaError_t error, const char *what)
{
    CHECK(error == cudaSuccess, "%s: %s", what, cudaGetErrorString(error));
}

static void *device_array(world_rank *r, int64_t count, size_t size)
{
    void *memory = NULL;
    CHECK(r->num_memory < WORLD_MAX_MEMORY, "more arrays than WORLD_MAX_MEMORY");
    must(cudaMalloc(&memory, (size_t)epf_max64(count, 1) * size), "cudaMalloc");
    must(cudaMemset(memory, 0, (size_t)epf_max64(count, 1) * size), "cudaMemset");
    r->memory[r->num_memory++] = memory;
    return memory;
}

static int32_t *ints(world_rank *r, int64_t count)
{
    return device_array(r, count, sizeof(int32_t));
}

static void make_indices(world_rank *r, const epf_shape *s, int32_t gap, world_indices *indices)
{
    indices->stride = s->topk + gap;
    indices->device = ints(r, (int64_t)s->max_tokens * indices->stride);
    indices->host =
        epf_test_alloc((size_t)s->max_tokens * (size_t)indices->stride, sizeof(int32_t));
}

static void make_rank(world *w, int32_t rank, uint64_t timeout_ns)
{
    const epf_shape *const s = &w->shape;
    const int64_t slots = epf_shape_max_slots(s);
    const int64_t rows = epf_shape_max_rows(s);
    world_rank *const r = &w->ranks[rank];
    epf_cuda_preprocess_args *const a = &r->args;

    must(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    must(cudaHostAlloc((void **)&r->host_head, sizeof *r->host_head, cudaHostAllocMapped), "host");
    must(cudaHostAlloc((void **)&r->report, sizeof *r->report, cudaHostAllocMapped), "host");
    memset(r->host_head, 0, sizeof *r->host_head);
    memset(r->report, 0, sizeof *r->report);
    a->call.call.shape = *s;
    epf_control_map_make(s, &a->call.call.control_map);
    a->call.call.rank = rank;
    a->call.state = device_array(r, 1, sizeof *a->call.state);
    a->call.report = r->report;
    a->call.timeout_ns = timeout_ns;
    a->topk_idx = ints(r, slots);
    a->dst_row = ints(r, slots);
    a->sort_slots = ints(r, slots);
    a->row_source = ints(r, 2 * rows);
    a->row_capacity = rows;
    a->all_row_sources = true;
    a->counts = ints(r, (int64_t)s->num_ranks * s->num_experts);
    a->tokens = ints(r, s->num_experts);
    a->offset = ints(r, (int64_t)s->num_experts * s->num_ranks);
    a->recv = ints(r, s->num_ranks);
    a->input = ints(r, s->num_ranks);
    a->row_offset = ints(r, s->num_local + 1);
    a->tile_offset = ints(r, s->num_local + 1);
    for (int32_t i = 0; i < 4; i++) {
        a->tables[i] = ints(r, epf_cuda_max_tiles(rows, s->num_local));
    }
    a->head = device_array(r, 1, sizeof *a->head);
    a->host_head = r->host_head;
    a->scratch = device_array(r, epf_cuda_preprocess_scratch(s), 1);
    must(cudaMemset(a->scratch, SPOILT, (size_t)epf_cuda_preprocess_scratch(s)), "cudaMemset");
    make_indices(r, s, 0, &r->ids);
    make_indices(r, s, STRIDE_GAP, &r->local);
    make_indices(r, s, 0, &r->full);
    r->landing = epf_test_alloc((size_t)epf_max64(2 * rows, (int64_t)s->num_ranks * s->num_experts),
                                sizeof(int32_t));
    w->windows[rank] = device_array(r, a->call.call.control_map.total_bytes, 1);
}

world *world_make(const char *problem, uint64_t timeout_ns)
{
    world *const w = epf_test_alloc(1, sizeof *w);
    const epf_problem p = epf_problem_of(problem);
    struct cudaDeviceProp device;

    must(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
    CHECK(p.num_ranks <= WORLD_MAX_RANKS, "%d ranks", p.num_ranks);
    w->problem = p;
    w->shape = (epf_shape){.num_ranks = p.num_ranks,
                           .num_experts = p.num_experts,
                           .num_local = p.num_experts / p.num_ranks,
                           .topk = p.num_topk,
                           .hidden = p.hidden,
                           .max_tokens = p.max_tokens,
                           .token_bytes = 2,
                           .weight_bytes = 4};
    for (int32_t r = 0; r < p.num_ranks; r++) {
        make_rank(w, r, timeout_ns);
    }
    for (int32_t r = 0; r < p.num_ranks; r++) {
        uint8_t **const table = device_array(&w->ranks[r], p.num_ranks, sizeof *table);
        must(cudaMemcpy(table, w->windows, (size_t)p.num_ranks * sizeof *table,
                        cudaMemcpyHostToDevice),
             "cudaMemcpy");
        w->ranks[r].args.call.call.control = table;
        w->ranks[r].args.num_ctas = device.multiProcessorCount / p.num_ranks;
    }
    must(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    return w;
}

void world_free(world *w)
{
    for (int32_t r = 0; r < w->problem.num_ranks; r++) {
        world_rank *const rank = &w->ranks[r];
        must(cudaStreamSynchronize(rank->stream), "cudaStreamSynchronize");
        for (int32_t i = 0; i < rank->num_memory; i++) {
            must(cudaFree(rank->memory[i]), "cudaFree");
        }
        must(cudaFreeHost(rank->host_head), "cudaFreeHost");
        must(cudaFreeHost(rank->report), "cudaFreeHost");
        must(cudaStreamDestroy(rank->stream), "cudaStreamDestroy");
        free(rank->ids.host);
        free(rank->local.host);
        free(rank->full.host);
        free(rank->landing);
    }
    free(w);
}

static bool open_op(world *w, epf_test_rank *rank)
{
    epf_op_config config;
    RANK_CUDA(rank, cudaSetDevice(0));
    RANK_OK(rank, epf_op_config_init(&config));
    config.backend = EPF_BACKEND_CPU;
    config.max_tokens = w->problem.max_tokens;
    config.hidden = w->problem.hidden;
    config.topk = w->problem.num_topk;
    config.num_tot_experts = w->problem.num_experts;
    config.capacity = 1;
    config.need_reversed_token_scatter_idx = true;
    config.num_workers = 1;
    RANK_OK(rank, epf_op_create(w->groups[rank->rank], &config, &w->ranks[rank->rank].op));
    return true;
}

static void run_rank(epf_test_rank *rank)
{
    world *const w = rank->user;
    world_rank *const r = &w->ranks[rank->rank];
    if (open_op(w, rank)) {
        (void)w->steps(w, rank);
    }
    epf_layout_destroy(r->layout);
    epf_op_destroy(r->op);
    r->layout = NULL;
    r->op = NULL;
}

bool world_run(world *w, bool (*steps)(world *, epf_test_rank *), const char *name)
{
    const epf_run run = {.num_ranks = w->problem.num_ranks, .function = run_rank, .user = w};
    epf_group_config config;
    int32_t failed;
    CHECK_OK(epf_group_config_init(&config));
    config.timeout_ns = GROUP_TIMEOUT_NS;
    CHECK_OK(epf_group_create_threads(w->problem.num_ranks, &config, w->groups));
    w->steps = steps;
    failed = epf_run_ranks(&run, name);
    for (int32_t r = 0; r < w->problem.num_ranks; r++) {
        epf_group_destroy(w->groups[r]);
    }
    return failed == 0;
}

static void take(world_indices *to, const int32_t *from, int32_t tokens, int32_t topk)
{
    to->is_given = from != NULL;
    for (int32_t t = 0; t < tokens && from != NULL; t++) {
        memcpy(to->host + (int64_t)t * to->stride, from + (int64_t)t * topk,
               (size_t)topk * sizeof *from);
    }
}

void world_take(world *w, int32_t rank, const epf_data *data, bool local, bool full)
{
    world_rank *const r = &w->ranks[rank];
    const int32_t tokens = data->num_tokens[rank];
    const int32_t topk = w->problem.num_topk;
    r->args.num_tokens = tokens;
    take(&r->ids, data->topk_idx[rank], tokens, topk);
    take(&r->local, local ? data->local_scatter[rank] : NULL, tokens, topk);
    take(&r->full, full ? data->full_scatter[rank] : NULL, tokens, topk);
}

static bool upload(world_rank *r, epf_test_rank *rank, const world_indices *from,
                   epf_cuda_indices *to)
{
    to->data = from->is_given ? from->device : NULL;
    to->stride = from->stride;
    if (from->is_given && r->args.num_tokens > 0) {
        RANK_CUDA(rank,
                  cudaMemcpyAsync(from->device, from->host,
                                  (size_t)r->args.num_tokens * (size_t)from->stride * sizeof(int),
                                  cudaMemcpyHostToDevice, r->stream));
    }
    return true;
}

bool world_upload(world *w, epf_test_rank *rank)
{
    world_rank *const r = &w->ranks[rank->rank];
    const epf_cuda_preprocess_args *const a = &r->args;
    const size_t slots = (size_t)epf_shape_max_slots(&w->shape) * sizeof(int32_t);
    const size_t rows = (size_t)epf_shape_max_rows(&w->shape) * 2 * sizeof(int32_t);
    RANK_CUDA(rank, cudaMemsetAsync(a->topk_idx, SPOILT, slots, r->stream));
    RANK_CUDA(rank, cudaMemsetAsync(a->dst_row, SPOILT, slots, r->stream));
    RANK_CUDA(rank, cudaMemsetAsync(a->sort_slots, SPOILT, slots, r->stream));
    RANK_CUDA(rank, cudaMemsetAsync(a->row_source, SPOILT, rows, r->stream));
    return upload(r, rank, &r->ids, &r->args.exp_indices) &&
           upload(r, rank, &r->local, &r->args.local_scatter) &&
           upload(r, rank, &r->full, &r->args.full_scatter);
}

bool world_finish(world *w, epf_test_rank *rank)
{
    world_rank *const r = &w->ranks[rank->rank];
    epf_layout_head head;
    RANK_CUDA(rank, cudaStreamSynchronize(r->stream));
    RANK_CHECK(rank, r->host_head->num_finished == r->num_calls, "%u calls ended, want %u",
               r->host_head->num_finished, r->num_calls);
    RANK_CUDA(rank,
              cudaMemcpyAsync(&head, r->args.head, sizeof head, cudaMemcpyDeviceToHost, r->stream));
    RANK_CUDA(rank, cudaStreamSynchronize(r->stream));
    RANK_CHECK(rank, memcmp(&head, r->host_head, sizeof head) == 0, "the two heads differ");
    return true;
}

static bool same(world_rank *r, epf_test_rank *rank, const char *name, const int32_t *device,
                 const int32_t *want, int64_t count)
{
    if (count == 0) {
        return true;
    }
    RANK_CUDA(rank, cudaMemcpyAsync(r->landing, device, (size_t)count * sizeof *device,
                                    cudaMemcpyDeviceToHost, r->stream));
    RANK_CUDA(rank, cudaStreamSynchronize(r->stream));
    for (int64_t i = 0; i < count; i++) {
        RANK_CHECK(rank, r->landing[i] == want[i], "call %u: %s[%lld] is %d, want %d", r->num_calls,
                   name, (long long)i, r->landing[i], want[i]);
    }
    return true;
}

static bool same_tables(world *w, epf_test_rank *rank, const epf_layout_view *v)
{
    world_rank *const r = &w->ranks[rank->rank];
    const epf_cuda_preprocess_args *const a = &r->args;
    const int32_t local = w->shape.num_local;
    return same(r, rank, "row_offset", a->row_offset, v->split_size_cum_per_expert, local) &&
           same(r, rank, "row_offset[L]", a->row_offset + local, &v->num_recv_rows, 1) &&
           same(r, rank, "tile_offset", a->tile_offset, v->expert_tile_offset, local) &&
           same(r, rank, "tile_offset[L]", a->tile_offset + local, &v->num_tiles_total, 1) &&
           same(r, rank, "expert_ids", a->tables[0], v->expert_ids, v->num_tiles_total) &&
           same(r, rank, "split_size_cum", a->tables[1], v->split_size_cum, v->num_tiles_total) &&
           same(r, rank, "tile_num", a->tables[2], v->tile_num, v->num_tiles_total) &&
           same(r, rank, "tile_num_cum", a->tables[3], v->tile_num_cum, v->num_tiles_total);
}

/* counts [W, E] follow from the first rows of the segments, which the view has. */
static bool same_counts(world *w, epf_test_rank *rank, const epf_layout_view *v)
{
    const epf_shape *const s = &w->shape;
    const int64_t count = (int64_t)s->num_ranks * s->num_experts;
    int32_t *const want = epf_test_alloc((size_t)count, sizeof *want);
    bool ok;
    for (int32_t e = 0; e < s->num_experts; e++) {
        const int64_t at = (int64_t)e * s->num_ranks;
        int32_t left = v->recv_buf_tokens_per_expert[e];
        for (int32_t k = s->num_ranks - 1; k >= 0; k--) {
            const int32_t first = v->recv_buf_offset_per_expert[at + k];
            const int32_t begin = v->recv_buf_offset_per_expert[at];
            want[(int64_t)k * s->num_experts + e] = begin + left - first;
            left = first - begin;
        }
    }
    ok = same(&w->ranks[rank->rank], rank, "counts", w->ranks[rank->rank].args.counts, want, count);
    free(want);
    return ok;
}

bool world_compare(world *w, epf_test_rank *rank, epf_status want)
{
    world_rank *const r = &w->ranks[rank->rank];
    const epf_cuda_preprocess_args *const a = &r->args;
    const epf_shape *const s = &w->shape;
    const int64_t slots = epf_shape_max_slots(s);
    const epf_layout_head *const h = r->host_head;
    int32_t num_slots = 0;
    epf_layout_view v;
    RANK_CHECK(rank, h->status == (int32_t)want, "status %d on the device, want %d", h->status,
               (int)want);
    if (want != EPF_OK) {
        return true;
    }
    RANK_OK(rank, epf_layout_get(r->layout, &v));
    for (int64_t i = 0; i < slots; i++) {
        num_slots += v.token_dst_scatter_idx[i] >= 0 ? 1 : 0;
    }
    RANK_CHECK(rank,
               h->num_tokens == v.num_dispatch_token_cur_rank && h->num_slots == num_slots &&
                   h->num_rows == v.num_recv_rows && h->max_rows == v.max_recv_rows &&
                   h->num_tiles == v.num_tiles_total && h->where == -1,
               "head: %d tokens, %d slots, %d rows, %d at most, %d tiles", h->num_tokens,
               h->num_slots, h->num_rows, h->max_rows, h->num_tiles);
    return same(r, rank, "topk_idx", a->topk_idx, v.topk_indices_tensor, slots) &&
           same(r, rank, "dst_row", a->dst_row, v.token_dst_scatter_idx, slots) &&
           same(r, rank, "sort_slots", a->sort_slots, v.token_sort_indices, slots) &&
           same(r, rank, "row_source", a->row_source, v.reversed_token_scatter_idx,
                2 * (a->all_row_sources ? a->row_capacity : v.num_recv_rows)) &&
           same(r, rank, "tokens", a->tokens, v.recv_buf_tokens_per_expert, s->num_experts) &&
           same(r, rank, "offset", a->offset, v.recv_buf_offset_per_expert,
                (int64_t)s->num_experts * s->num_ranks) &&
           same(r, rank, "recv", a->recv, v.num_recv_tokens_per_rank, s->num_ranks) &&
           same(r, rank, "input", a->input, v.num_input_tokens_per_rank, s->num_ranks) &&
           same_counts(w, rank, &v) && same_tables(w, rank, &v);
}

static bool tensor_of(const world *w, epf_test_rank *rank, const world_indices *from,
                      epf_tensor *to)
{
    const int64_t shape[2] = {w->ranks[rank->rank].args.num_tokens, w->problem.num_topk};
    if (from->is_given) {
        RANK_OK(rank, epf_tensor_make(to, from->host, EPF_DTYPE_I32, 2, shape));
        to->stride[0] = from->stride;
    }
    return true;
}

bool world_call(world *w, epf_test_rank *rank, epf_status want)
{
    world_rank *const r = &w->ranks[rank->rank];
    epf_preprocess_args args;
    RANK_OK(rank, epf_preprocess_args_init(&args));
    if (!tensor_of(w, rank, &r->ids, &args.exp_indices) ||
        !tensor_of(w, rank, &r->local, &args.local_scatter_indices) ||
        !tensor_of(w, rank, &r->full, &args.full_scatter_indices) || !world_upload(w, rank)) {
        return false;
    }
    RANK_OK(rank, epf_cuda_preprocess(&r->args, r->stream));
    r->num_calls++;
    RANK_STATUS(rank, want, epf_preprocess(r->op, &args, &r->layout));
    return world_finish(w, rank) && world_compare(w, rank, want);
}
