/*
 * epf_phase_hooks_sm90.cuh: a fused kernel's shared memory, and where its tiles meet its communication: the hooks of the
 * grouped GEMM's roles (gemm_no_hooks says when each is called).
 */
#ifndef EPF_PHASE_HOOKS_SM90_CUH
#define EPF_PHASE_HOOKS_SM90_CUH

#include "cuda/epf_gemm_sm90.cuh"
#include "cuda/epf_phase_sum_sm90.cuh"

static __device__ __forceinline__ const epf_cuda_call &call_of(const epf_gemm_sm90_args &args)
{
    return ((const epf_phase_sm90_args &)args).call;
}

/* Of the launch under way: state->epoch moves on when its last CTA leaves. */
static __device__ __forceinline__ uint32_t epoch_of(const epf_cuda_call &c)
{
    return c.state->epoch + 1;
}

/* Every phase has the same tiles, so its shared memory is one type. */
using phase_gemm_smem = gemm_shared<4, (kBlockM + 256) * kBlockK * 2>;
struct phase_smem {
    phase_gemm_smem gemm;
    phase_shared shared;
    epf_tile_map tiles;
    char
        *row_address[kMathWarps][EPF_GEMM_STORE_ROWS]; /* scatter: where the rows being stored go */
    int32_t stored_tile[kMathWarps]; /* whose rows are stored but not counted; -1: none */
};
extern __shared__ __align__(1024) uint8_t phase_memory[];
static __device__ __forceinline__ phase_smem &phase_smem_of(void)
{
    return *reinterpret_cast<phase_smem *>(phase_memory);
}

/* record_end() of a tile: epf_cuda_call.h says what its numbers are. */
static __device__ __forceinline__ void record_tile(phase_shared &shared, int32_t lane,
                                                   epf_prof_event event, const gemm_task &tile)
{
    epf_prof_record *const record = shared.record[lane];
    if (record) {
        record->end_ns = epf_device_clock_ns();
        record->event = event;
        record->task = tile.n_tile;
        record->expert = tile.expert;
        record->rows = tile.row_begin;
        shared.record[lane] = record == shared.last_record[lane] ? nullptr : record + 1;
    }
}

/* Tiles as the profile shows them: what the first math warp multiplies, what the plan thread waits for. */
struct phase_hooks : gemm_no_hooks {
    static __device__ __forceinline__ void task_begins(const epf_gemm_sm90_args &)
    {
        if (threadIdx.x == kLoadThreads) {
            record_begin(phase_smem_of().shared, EPF_CUDA_LANE_MATH);
        }
    }
    static __device__ __forceinline__ void task_ends(const epf_gemm_sm90_args &,
                                                     const gemm_task &task)
    {
        if (threadIdx.x == kLoadThreads) {
            record_tile(phase_smem_of().shared, EPF_CUDA_LANE_MATH, EPF_PROF_GROUP_GEMM_MAIN, task);
        }
    }
};

/* The same for the tiles of weight gradients. */
struct grad_hooks : gemm_no_hooks {
    static __device__ __forceinline__ void task_begins(const epf_gemm_sm90_args &args)
    {
        phase_hooks::task_begins(args);
    }
    static __device__ __forceinline__ void task_ends(const epf_gemm_sm90_args &,
                                                     const gemm_task &task)
    {
        if (threadIdx.x == kLoadThreads) {
            record_tile(phase_smem_of().shared, EPF_CUDA_LANE_MATH, EPF_PROF_WEIGHT_GRAD_MAIN,
                        task);
        }
    }
};

struct dispatch_hooks : phase_hooks {
    static __device__ __forceinline__ void before_task(const epf_gemm_sm90_args &args,
                                                       const gemm_task &task, uint32_t)
    {
        const epf_cuda_call &c = call_of(args);
        const phase_smem &smem = phase_smem_of();
        const epf_tile_map &tiles = smem.tiles;
        const int32_t first = tiles.tile_offset[task.expert];
        const uint32_t parts = (uint32_t)parts_per_tile(smem.shared);
        if (task.rows == 0) {
            return;
        }
        record_begin(smem.shared, EPF_CUDA_LANE_PLAN);
        if (c.call.phase.block_wise) {
            const int32_t tile =
                first + (task.row_begin - tiles.row_offset[task.expert]) / EPF_CUDA_BLOCK_M;
            const tile_group group = group_of_tile(tiles, task.expert, tile);
            (void)epf_device_wait(c, &c.tile_ready[group.first],
                                  epf_word(smem.shared.epoch, (uint32_t)group.num * parts),
                                  {EPF_OBJECT_TILE_READY, c.call.rank, group.first});
        } else {
            const int32_t num = tiles.tile_offset[task.expert + 1] - first;
            (void)epf_device_wait(c, &c.expert_ready[task.expert],
                                  epf_word(smem.shared.epoch, (uint32_t)num * parts),
                                  {EPF_OBJECT_EXPERT_READY, c.call.rank, task.expert});
        }
        record_tile(phase_smem_of().shared, EPF_CUDA_LANE_PLAN, EPF_PROF_GROUP_GEMM_WAIT, task);
    }
    static __device__ __forceinline__ void before_loads(void)
    {
        epf_fence_proxy_async_global();
    }
};

/* Before the first row of a combine is stored: all ranks have left the buffers of the set's last one. */
static __device__ __forceinline__ void wait_free(const epf_cuda_call &c)
{
    const epf_call &call = c.call;
    const uint64_t free_epoch = epf_word(c.state->combine_epoch[call.set_index] + 1, 0);
    for (int32_t r = 0; r < call.shape.num_ranks; r++) {
        if (!epf_device_wait(c,
                             epf_call_control_word(&call, call.rank, call.control_map.entered, r),
                             free_epoch, {EPF_OBJECT_ENTERED, r, r})) {
            return;
        }
    }
}

struct combine_hooks : phase_hooks {
    static __device__ __forceinline__ void before_task(const epf_gemm_sm90_args &args,
                                                       const gemm_task &, uint32_t before)
    {
        if (before == 0) {
            wait_free(call_of(args));
        }
    }
};

static __device__ __forceinline__ int32_t math_warp(void)
{
    return ((int32_t)threadIdx.x - kLoadThreads) / 32;
}

/*
 * Counts the rows that the calling math warp has stored of a tile.  Called before the next tile's rows are: by then
 * the stores have long arrived, and neither the release nor, of rows stored by TMA, the wait before it takes long.
 */
template <bool kByTma> static __device__ __forceinline__ void count_stored(const epf_cuda_call &c)
{
    int32_t &tile = phase_smem_of().stored_tile[math_warp()];
    __syncwarp();
    if (threadIdx.x % 32 == 0 && tile >= 0) {
        if (kByTma) {
            bulk_wait_all();
            epf_fence_proxy_async_global();
        }
        (void)epf_add_release_gpu_u64(&c.tile_done[tile], 1);
        tile = -1;
    }
}

/* The calling math warp has stored rows of the task; `words` of tile_done are an M-tile's. */
static __device__ __forceinline__ void note_stored(const gemm_task &task, int32_t words)
{
    phase_smem &smem = phase_smem_of();
    if (threadIdx.x % 32 == 0) {
        smem.stored_tile[math_warp()] =
            words * (smem.gemm.tile_offset[task.expert] +
                     (task.row_begin - smem.gemm.row_offset[task.expert]) / EPF_CUDA_BLOCK_M);
    }
}

/* Rows stay here first: serial, and fuse_scatter with CTAs that bring them to their owners. */
struct keep_hooks : combine_hooks {
    static __device__ __forceinline__ void store_begins(const epf_gemm_sm90_args &args, int, int)
    {
        count_stored<true>(call_of(args));
    }
    static __device__ __forceinline__ void after_store(const epf_gemm_sm90_args &,
                                                       const gemm_task &task, int, int)
    {
        if (phase_smem_of().shared.counts_tiles) {
            note_stored(task, EPF_CUDA_TILE_PARTS);
        }
    }
};

struct scatter_hooks : combine_hooks {
    static __device__ __forceinline__ void store_begins(const epf_gemm_sm90_args &args, int row,
                                                        int rows)
    {
        const epf_call &call = call_of(args).call;
        const int i = (int)threadIdx.x % EPF_GEMM_STORE_ROWS;
        count_stored<false>(call_of(args));
        /* Without a branch, past the end the last row again: it costs the fewest registers. */
        const int2 source = ((const int2 *)call.row_source)[row + min(i, rows - 1)];
        phase_smem_of().row_address[math_warp()][i] =
            (char *)call.set[source.y] + call.set_map.combine_rows +
            (uint64_t)(uint32_t)source.x * ((uint32_t)args.n * 2); /* N is H: rows are dense */
        __syncwarp();
    }
    static __device__ __forceinline__ char *row_address(const epf_gemm_sm90_args &, int64_t, int i)
    {
        return phase_smem_of().row_address[math_warp()][i];
    }
    static __device__ __forceinline__ void after_store(const epf_gemm_sm90_args &,
                                                       const gemm_task &task, int, int)
    {
        note_stored(task, 1);
    }
};

#endif
