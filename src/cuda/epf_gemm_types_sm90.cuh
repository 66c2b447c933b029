/*
 * epf_gemm_types_sm90.cuh: a grouped GEMM kernel's constants, its shared memory, and the ring of stages.
 */
#ifndef EPF_GEMM_TYPES_SM90_CUH
#define EPF_GEMM_TYPES_SM90_CUH

#include "core/epf_tile.h"
#include "cuda/epf_gemm_sm90.h"
#include "cuda/sm90/mbarrier.cuh"
#include "cuda/sm90/tma.cuh"
#include "cuda/sm90/wgmma.cuh"

static constexpr int kBlockM = 128;
static constexpr int kBlockK = EPF_GEMM_BLOCK_K;
static constexpr int kSlab = EPF_GEMM_SLAB;
static constexpr int kSlabBytes = kSlab * kBlockK * 2; /* 64 x 64, also one 64-column block of B */
static constexpr int kThreads = 384;
static constexpr int kLoadThreads = 128;
static constexpr int kMathThreads = kThreads - kLoadThreads;
static constexpr int kMathWarps = kMathThreads / 32;
static constexpr int kPlanThread = 32;        /* finds the CTA's next task               */
static constexpr int kFirstGatherThread = 64; /* to the last load thread: gathers rows   */
static constexpr int kGatherThreads = kLoadThreads - kFirstGatherThread;
static constexpr int kTaskSlots = 8;
static constexpr int kNextSlots = 8;
static constexpr int kFetchAhead =
    5; /* k-steps before a task's end at which the next one is asked for */
static constexpr int kOutBytes = EPF_GEMM_STORE_ROWS * 64 * 2; /* a warp's store buffer */
static constexpr int kMaxGroups = EPF_GEMM_MAX_GROUPS;         /* of tiles; see build_tables() */
static constexpr int kMaxSmem = 232448;
static constexpr int kSwapRows = EPF_GEMM_SWAP_ROWS;

template <typename T_, int kBlockN_, int kClusterM_, int kClusterN_, int kSource_, bool kBNMajor_,
          int kEpilogue_>
struct gemm_config {
    using T = T_;
    static constexpr int kBlockN = kBlockN_;
    static constexpr int kClusterM = kClusterM_;
    static constexpr int kClusterN = kClusterN_;
    static constexpr int kCluster = kClusterM * kClusterN;
    static constexpr bool kGathered = kSource_ == EPF_GEMM_A_GATHERED;
    static constexpr bool kColumns = kSource_ == EPF_GEMM_A_COLUMNS;
    static constexpr bool kBNMajor = kBNMajor_;
    static constexpr bool kRaw = kEpilogue_ == EPF_GEMM_TO_SWIGLU_RAW;
    static constexpr bool kSwiglu = kEpilogue_ == EPF_GEMM_TO_SWIGLU || kRaw;
    static constexpr bool kScatter = kEpilogue_ == EPF_GEMM_TO_ROW_PTR;
    static constexpr bool kSwapped = false;
    static constexpr bool kStoreLate = true;              /* beneath the next task's k-steps */
    static constexpr int kTaskRows = kBlockM * kClusterM; /* at most, of a cluster's task */
    static constexpr int kGroups = kMaxGroups;
    static constexpr int kStages = 4;
    static constexpr int kBytesA = kBlockM * kBlockK * 2;
    static constexpr int kBytesB = kBlockN * kBlockK * 2;
    static constexpr int kStoreParts = 4;
    static constexpr int kMinSteps =
        kStoreParts; /* beneath each k-step of a task a part is stored */
    static constexpr int kFullArrivals = kGathered ? 2 : 1;
    static constexpr int kWanted = kGathered ? 1 + kGatherThreads : 1;
    static_assert(kCluster == 1 || kCluster == 2, "a cluster has one or two CTAs");
    static_assert(!kGathered || kClusterN == 2, "each CTA gathers half of the rows for both");
};

/*
 * Weights are wgmma's M dimension and rows its N: 128 columns of C a warpgroup, and as many rows as the expert has
 * for this tile, in eights.  Two CTAs share the weights and halve the rows.  See epf_gemm_swap_sm90.cuh.
 */
template <typename T_, bool kBNMajor_, int kEpilogue_>
struct gemm_swap_config : gemm_config<T_, 256, 2, 1, EPF_GEMM_A_ROWS, kBNMajor_, kEpilogue_> {
    static constexpr bool kSwapped = true;
    static constexpr bool kStoreLate = false;
    static constexpr int kTaskRows = 2 * kSwapRows;
    static constexpr int kBytesA = kSwapRows * kBlockK * 2;
    static constexpr int kMinSteps = 1;
    static constexpr int kGroups = EPF_GEMM_SWAP_MAX_EXPERTS;
};

/* Rows that are computed where `rows` exist: a width of wgmma that is compiled. */
static __device__ __forceinline__ int32_t swap_width(int32_t rows)
{
    const int32_t step = rows <= 128 ? 16 : 8;
    return (rows + step - 1) / step * step;
}

/* What the math warpgroups of this CTA need to know of a task. */
struct gemm_task {
    int32_t row_begin; /* first row of C                                          */
    int32_t rows;      /* 0 .. 128 (swapped: kSwapRows), this CTA's               */
    int32_t expert;
    int32_t n_tile;  /* in units of kBlockN                                     */
    int32_t num_k;   /* k-steps, at least C::kMinSteps; those past K hold zeros    */
    int32_t k_begin; /* weight gradient: first of the rows that are K           */
    int32_t k_rows;  /* weight gradient: their number                           */
    int32_t end;     /* 1: no task, and none to come                            */
};

/* Shared memory of kernels whose rings have these stages: the parts of a fused kernel use one. */
template <int kStages, int kStageBytes, int kGroups = kMaxGroups> struct gemm_shared {
    uint8_t ring[kStages][kStageBytes];
    uint8_t out[kMathWarps][kOutBytes];
    gemm_task task[kTaskSlots];
    uint64_t full[kStages];
    uint64_t empty[kStages];
    uint64_t gathered[kStages]; /* this CTA's rows are there: to be handed on */
    uint64_t next_full[kNextSlots];
    uint64_t task_free[kTaskSlots]; /* math has read the slot for the last time */
    uint64_t wanted;                /* load nears a task's end              */
    uint64_t ready;                 /* the next task is in its slot, or none */
    uint32_t next[kNextSlots];      /* index of the cluster's next task */
    int32_t rows[kGroups];
    int32_t row_offset[kGroups];
    int32_t tile_offset[kGroups + 1];
};

template <class C> using gemm_smem = gemm_shared<C::kStages, C::kBytesA + C::kBytesB, C::kGroups>;

/*
 * Position in the ring of stages, in two rounds of which the phase tells one from the other, and the number
 * of tasks taken: together, since the math role has no register to spare.
 */
template <int kStages> struct gemm_ring {
    static_assert(2 * kStages <= 16, "the position has four bits");
    uint32_t packed = 0;
    __device__ __forceinline__ uint32_t stage() const
    {
        return packed % 16 % kStages;
    }
    __device__ __forceinline__ uint32_t phase() const
    {
        return packed % 16 / kStages;
    }
    __device__ __forceinline__ void advance()
    {
        packed += packed % 16 == 2 * kStages - 1 ? 1 - 2 * kStages : 1;
    }
    __device__ __forceinline__ uint32_t tasks() const
    {
        return packed / 16;
    }
    __device__ __forceinline__ void count_task()
    {
        packed += 16;
    }
};

/* Where fused kernels differ from the plain one. */
struct gemm_no_hooks {
    /* Plan thread, before the task is handed on: returns when its rows of A have been written. */
    static __device__ __forceinline__ void before_task(const epf_gemm_sm90_args &,
                                                       const gemm_task &, uint32_t)
    {}
    /* Load thread, before the task's first load: what before_task() waited for is seen by the copy engine. */
    static __device__ __forceinline__ void before_loads(void)
    {}
    /* Each math warp, after it stored its rows [row, row + rows) of the task. */
    static __device__ __forceinline__ void after_store(const epf_gemm_sm90_args &,
                                                       const gemm_task &, int, int)
    {}
    /* Each math thread: the task's first k-step is there; its last one is multiplied. */
    static __device__ __forceinline__ void task_begins(const epf_gemm_sm90_args &)
    {}
    static __device__ __forceinline__ void task_ends(const epf_gemm_sm90_args &, const gemm_task &)
    {}
    /* Each math warp, before it stores its rows [row, row + rows) of a task, and where its row `row + i` goes
     * (EPF_GEMM_TO_ROW_PTR). */
    static __device__ __forceinline__ void store_begins(const epf_gemm_sm90_args &, int, int)
    {}
    static __device__ __forceinline__ char *row_address(const epf_gemm_sm90_args &args, int64_t row,
                                                        int i)
    {
        return (char *)args.row_ptr[row + i];
    }
};

#endif
