/*
 * epf_gemm_cuda.c: checks a grouped GEMM's arguments, picks its kernel, describes its tensors, launches it.
 */
#include "cuda/epf_gemm_cuda.h"

#include <cuda_runtime_api.h>
#include <stddef.h>

#include "base/epf_error.h"
#include "core/epf_base.h"
#include "cuda/epf_gemm_launch.h"

enum { BLOCK_M = 128, THREADS = EPF_GEMM_THREADS };

typedef CUresult encode_tiled_fn(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                 const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                 const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static epf_status check_cuda(cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        return EPF_FAIL(EPF_E_DEVICE, "%s: %s", what, cudaGetErrorString(error));
    }
    return EPF_OK;
}

/* What the rows of C hold: all columns, or those of the activation. */
static int32_t stored_columns(const epf_gemm_cuda_args *args)
{
    return args->epilogue == EPF_GEMM_SWIGLU ? args->n / 2 : args->n;
}

static int64_t stored_stride(const epf_gemm_cuda_args *args)
{
    return args->c_stride > 0 ? args->c_stride : stored_columns(args);
}

/* Rows from expert to expert of a weight gradient. */
static int64_t grad_pitch(const epf_gemm_cuda_args *args)
{
    return args->c_expert_stride > 0 ? args->c_expert_stride / stored_stride(args) : args->m;
}

static epf_status check_strides(const epf_gemm_cuda_args *args)
{
    const int64_t c_step = args->c_dtype == EPF_DTYPE_F32 ? 4 : 8;
    EPF_CHECK_ARG(
        args->a_stride % 8 == 0 && args->b_stride % 8 == 0 && args->b_expert_stride % 8 == 0 &&
            args->c_stride % c_step == 0 && args->raw_stride % 8 == 0,
        "a_stride, b_stride, b_expert_stride, c_stride, raw_stride are %lld, %lld, %lld, "
        "%lld, %lld; they must be multiples of 16 bytes",
        (long long)args->a_stride, (long long)args->b_stride, (long long)args->b_expert_stride,
        (long long)args->c_stride, (long long)args->raw_stride);
    EPF_CHECK_ARG(!args->gather || args->a_stride == 0 || args->a_stride == args->k,
                  "a_stride is %lld; gathered rows must be dense", (long long)args->a_stride);
    EPF_CHECK_ARG(args->c_expert_stride % stored_stride(args) == 0 &&
                      (!args->weight_grad || grad_pitch(args) >= args->m),
                  "c_expert_stride is %lld; it must be whole rows of %lld, m of them at least",
                  (long long)args->c_expert_stride, (long long)stored_stride(args));
    EPF_CHECK_ARG(!args->weight_grad || grad_pitch(args) * args->num_experts <= INT32_MAX,
                  "m or c_expert_stride: %lld rows of %d experts must be below 2^31",
                  (long long)grad_pitch(args), args->num_experts);
    return EPF_OK;
}

static epf_status check_args(const epf_gemm_cuda_args *args)
{
    EPF_CHECK_ARG(args->dtype == EPF_DTYPE_BF16 || args->dtype == EPF_DTYPE_F16,
                  "dtype is %d; a grouped GEMM on the device takes bf16 or fp16", args->dtype);
    EPF_CHECK_ARG(args->c_dtype == 0 || args->c_dtype == args->dtype ||
                      (args->c_dtype == EPF_DTYPE_F32 && args->weight_grad),
                  "c_dtype is %d; it must be dtype, or fp32 of a weight gradient", args->c_dtype);
    EPF_CHECK_ARG(args->num_experts >= 1 && args->num_experts <= EPF_GEMM_MAX_EXPERTS,
                  "num_experts is %d; it must be 1 .. %d", args->num_experts, EPF_GEMM_MAX_EXPERTS);
    EPF_CHECK_ARG(args->short_last <= 0 || 2 * args->num_experts <= EPF_GEMM_MAX_GROUPS,
                  "short_last is %d; with %d experts it must not be above 0", args->short_last,
                  args->num_experts);
    EPF_CHECK_ARG(args->swapped <= 0 || args->num_experts <= EPF_GEMM_SWAP_MAX_EXPERTS,
                  "swapped is %d; with %d experts it must not be above 0", args->swapped,
                  args->num_experts);
    EPF_CHECK_ARG(args->n > 0 && args->n % 8 == 0, "n is %d; it must be a positive multiple of 8",
                  args->n);
    if (args->weight_grad) {
        EPF_CHECK_ARG(args->m > 0 && args->m % 8 == 0,
                      "m is %d; it must be a positive multiple of 8", args->m);
        EPF_CHECK_ARG(epf_ceil_div(args->m, BLOCK_M) * epf_ceil_div(args->n, BLOCK_M) <=
                          INT32_MAX / args->num_experts,
                      "m, n are %d, %d; %d experts must have fewer than 2^31 tiles together",
                      args->m, args->n, args->num_experts);
        EPF_CHECK_ARG(args->epilogue == EPF_GEMM_STORE && !args->gather,
                      "a weight gradient is stored as it is, from rows in place");
    } else {
        EPF_CHECK_ARG(args->k > 0 && args->k % 8 == 0,
                      "k is %d; it must be a positive multiple of 8", args->k);
    }
    EPF_CHECK_ARG(args->a_rows >= 0 && args->a_rows <= INT32_MAX,
                  "a_rows is %lld; it must be 0 .. 2^31 - 1", (long long)args->a_rows);
    EPF_CHECK_ARG(!args->gather || args->a_rows * (args->k / 8) <= UINT32_MAX,
                  "a has %lld bytes; rows are gathered from 64 GiB at most",
                  (long long)args->a_rows * args->k * 2);
    EPF_CHECK_ARG(args->epilogue == EPF_GEMM_STORE || args->epilogue == EPF_GEMM_SWIGLU,
                  "epilogue is %d; it must be an epf_gemm_epilogue", args->epilogue);
    EPF_CHECK_ARG(args->epilogue == EPF_GEMM_STORE || args->n % 16 == 0,
                  "n is %d; SwiGLU needs a multiple of 16", args->n);
    EPF_CHECK_ARG(!args->row_ptr || args->epilogue == EPF_GEMM_STORE,
                  "row_ptr is given; SwiGLU stores to c only");
    EPF_CHECK_ARG(args->a && args->b && args->rows && (args->c || args->row_ptr),
                  "a, b, rows and one of c and row_ptr must be given");
    return check_strides(args);
}

/* A tensor of 16-bit elements, innermost dimension first, read in boxes; strides of dimensions 1 and 2, in elements,
 * 0: dense. */
typedef struct map_shape {
    int32_t dtype;
    cuuint32_t rank;
    cuuint64_t size[3];
    cuuint32_t box[3];
    int64_t stride;
    int64_t outer_stride;
} map_shape;

static epf_status make_map(CUtensorMap *map, const void *base, const map_shape *shape)
{
    const cuuint32_t steps[3] = {1, 1, 1};
    const cuuint64_t row = shape->stride > 0 ? (cuuint64_t)shape->stride : shape->size[0];
    const cuuint64_t outer =
        shape->outer_stride > 0 ? (cuuint64_t)shape->outer_stride : row * shape->size[1];
    const cuuint64_t strides[2] = {row * 2, outer * 2};
    void *symbol = NULL;
    enum cudaDriverEntryPointQueryResult found;
    encode_tiled_fn *encode;
    CUresult result;

    EPF_TRY(check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol, 12000,
                                                        cudaEnableDefault, &found),
                       "cuTensorMapEncodeTiled"));
    if (found != cudaDriverEntryPointSuccess) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "the driver has no cuTensorMapEncodeTiled");
    }
    encode = (encode_tiled_fn *)symbol;
    result = encode(map,
                    shape->dtype == EPF_DTYPE_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                   : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                    shape->rank, (void *)(uintptr_t)base, shape->size, strides, shape->box, steps,
                    CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) {
        return EPF_FAIL(EPF_E_INVALID,
                        "cuTensorMapEncodeTiled refuses a tensor of %llu x %llu at %p (error %d)",
                        (unsigned long long)shape->size[1], (unsigned long long)shape->size[0],
                        base, (int)result);
    }
    return EPF_OK;
}

static epf_status make_maps(const epf_gemm_cuda_args *args, const epf_gemm_sm90_variant *variant,
                            epf_gemm_sm90_args *out)
{
    const cuuint64_t rows = (cuuint64_t)epf_max64(args->a_rows, 1);
    const cuuint64_t n = (cuuint64_t)args->n;
    const cuuint64_t k = args->weight_grad ? rows : (cuuint64_t)args->k;
    const cuuint64_t experts = args->weight_grad ? 1 : (cuuint64_t)args->num_experts;
    map_shape a = {args->dtype,    2, {0, rows, 1}, {EPF_GEMM_BLOCK_K, EPF_GEMM_SLAB, 1},
                   args->a_stride, 0};
    map_shape c = {args->dtype, 2, {0, 0, 1}, {64, EPF_GEMM_STORE_ROWS, 1}, args->c_stride, 0};
    map_shape b = {args->dtype,     3,
                   {k, n, experts}, {EPF_GEMM_BLOCK_K, 0, 1},
                   args->b_stride,  args->b_expert_stride};

    a.size[0] = (cuuint64_t)(args->weight_grad ? args->m : args->k);
    b.box[1] = (cuuint32_t)variant->block_n / 2;
    if (variant->b_n_major) {
        b.size[0] = n;
        b.size[1] = k;
        b.box[1] = EPF_GEMM_BLOCK_K;
    }
    c.size[0] = args->epilogue == EPF_GEMM_SWIGLU ? n / 2 : n;
    c.size[1] = args->weight_grad ? (cuuint64_t)(args->num_experts * grad_pitch(args)) : INT32_MAX;
    EPF_TRY(make_map(&out->map_a, args->a, &a));
    if (variant->swapped) {
        a.box[1] = EPF_GEMM_SWAP_STEP;
        EPF_TRY(make_map(&out->map_a_rest, args->a, &a));
    }
    EPF_TRY(make_map(&out->map_b, args->b, &b));
    if (!args->row_ptr && args->c_dtype != EPF_DTYPE_F32) {
        EPF_TRY(make_map(&out->map_c, args->c, &c));
    }
    c.size[0] = n;
    c.stride = args->raw_stride;
    return args->raw && args->epilogue == EPF_GEMM_SWIGLU ? make_map(&out->map_raw, args->raw, &c)
                                                          : EPF_OK;
}

static const epf_gemm_sm90_variant *find_variant(const epf_gemm_cuda_args *args,
                                                 const epf_gemm_sm90_variant *wanted)
{
    int32_t num_variants = 0;
    const epf_gemm_sm90_variant *list = epf_gemm_sm90_variants(&num_variants);

    for (int32_t i = 0; i < num_variants; i++) {
        const epf_gemm_sm90_variant *v = &list[i];
        if (v->dtype == args->dtype && v->a_source == wanted->a_source &&
            v->b_n_major == wanted->b_n_major && v->epilogue == wanted->epilogue &&
            v->block_n == wanted->block_n && v->cluster_m == wanted->cluster_m &&
            v->cluster_n == wanted->cluster_n && v->swapped == wanted->swapped) {
            return v;
        }
    }
    return NULL;
}

static int64_t rows_of(const epf_gemm_cuda_args *args)
{
    return args->expected_rows ? args->expected_rows : args->a_rows;
}

/*
 * Whether swapped operands are done sooner: rounds of tasks that the clusters of two CTAs take, times
 * a task's size.  Rows are taken to be dealt out at random: a tile of 128 rows is half empty at an
 * expert's end, and swapped tiles are as wide as the larger experts need.  docs/performance-gpu.md
 * has the shapes at which this was measured.
 */
static int swap_pays(const epf_gemm_cuda_args *args, int32_t num_sms)
{
    const int64_t clusters = num_sms / 2;
    const int64_t experts = args->num_experts;
    const int64_t each = epf_ceil_div(epf_max64(rows_of(args), 1), experts);
    const int64_t more = experts > 1 ? each / 16 : 0;
    const int64_t tiles = epf_ceil_div(each + 2 * more, 2 * EPF_GEMM_SWAP_ROWS);
    const int64_t width = epf_ceil_div(each + more, 16 * tiles) * 8;
    const int64_t half_tiles =
        experts > 1 ? epf_ceil_div(each, BLOCK_M / 2) + 1 : 2 * epf_ceil_div(each, BLOCK_M);
    const int64_t swapped =
        epf_ceil_div(experts * tiles * epf_ceil_div(args->n, 256), clusters) * 2 * width * 256;
    const int64_t plain =
        epf_ceil_div(experts * half_tiles * epf_ceil_div(args->n, 512), 2 * clusters) * BLOCK_M *
        512;
    return each > 64 && swapped * 28 < plain * 25; /* it stores at once, which costs some of it */
}

/*
 * The tile and cluster that measured best: swapped operands where they pay, else side by side where
 * there are many tiles or hardly more rows than one warpgroup takes, one below the other where the
 * tiles are few.
 */
static void pick_tile(const epf_gemm_cuda_args *args, int32_t num_sms,
                      epf_gemm_sm90_variant *wanted)
{
    const int64_t rows = rows_of(args);
    const int64_t tiles = epf_ceil_div(rows, BLOCK_M) * epf_ceil_div(args->n, 256);
    const int below = !args->gather && !args->weight_grad && tiles < 512 &&
                      rows > 64 * (int64_t)args->num_experts;
    const int can_swap =
        wanted->a_source == EPF_GEMM_A_ROWS &&
        (wanted->epilogue == EPF_GEMM_TO_C || wanted->epilogue == EPF_GEMM_TO_SWIGLU) &&
        args->num_experts <= EPF_GEMM_SWAP_MAX_EXPERTS && !args->cluster_m && !args->cluster_n;

    wanted->swapped =
        args->swapped > 0 || (args->swapped == 0 && can_swap && swap_pays(args, num_sms));
    wanted->block_n = args->block_n ? args->block_n : 256;
    if (wanted->swapped) {
        wanted->cluster_m = 2;
        wanted->cluster_n = 1;
        return;
    }
    wanted->cluster_m = args->cluster_m ? args->cluster_m : below && args->cluster_n != 2 ? 2 : 1;
    wanted->cluster_n = args->cluster_n                             ? args->cluster_n
                        : wanted->cluster_m == 2 || args->cluster_m ? 1
                                                                    : 2;
}

static epf_status pick_variant(const epf_gemm_cuda_args *args, int32_t num_sms,
                               const epf_gemm_sm90_variant **picked)
{
    epf_gemm_sm90_variant wanted = {0};

    wanted.a_source = args->weight_grad ? EPF_GEMM_A_COLUMNS
                      : args->gather    ? EPF_GEMM_A_GATHERED
                                        : EPF_GEMM_A_ROWS;
    wanted.b_n_major = args->weight_grad || args->b_n_major;
    wanted.epilogue = args->row_ptr                      ? EPF_GEMM_TO_ROW_PTR
                      : args->epilogue == EPF_GEMM_STORE ? EPF_GEMM_TO_C
                      : args->raw                        ? EPF_GEMM_TO_SWIGLU_RAW
                                                         : EPF_GEMM_TO_SWIGLU;
    pick_tile(args, num_sms, &wanted);
    *picked = find_variant(args, &wanted);
    if (!*picked && !wanted.swapped && !args->block_n && !args->cluster_m && !args->cluster_n) {
        wanted.cluster_m = 1;
        wanted.cluster_n = 2;
        *picked = find_variant(args, &wanted);
    }
    if (!*picked) {
        return EPF_FAIL(
            EPF_E_UNSUPPORTED,
            "no grouped GEMM kernel: dtype %d, tile %s x %d, cluster %d x %d, A source %d, "
            "B %s, epilogue %d",
            args->dtype, wanted.swapped ? "(swapped)" : "128", wanted.block_n, wanted.cluster_m,
            wanted.cluster_n, wanted.a_source, wanted.b_n_major ? "[G, K, N]" : "[G, N, K]",
            wanted.epilogue);
    }
    return EPF_OK;
}

epf_status epf_gemm_sm90_launch(const epf_cuda_kernel *kernel, void *kernel_args, void *stream)
{
    cudaLaunchAttribute attribute = {0};
    cudaLaunchConfig_t config = {0};
    void *params[] = {kernel_args};

    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = (unsigned)kernel->cluster;
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    config.gridDim = (dim3){(unsigned)(kernel->num_ctas / kernel->cluster * kernel->cluster), 1, 1};
    config.blockDim = (dim3){THREADS, 1, 1};
    config.dynamicSmemBytes = (size_t)kernel->smem_bytes;
    config.stream = (cudaStream_t)stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    EPF_TRY(check_cuda(cudaFuncSetAttribute(kernel->function,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            kernel->smem_bytes),
                       "shared memory of a kernel"));
    return check_cuda(cudaLaunchKernelExC(&config, kernel->function, params), "launch");
}

static epf_status launch(const epf_gemm_sm90_variant *variant, epf_gemm_sm90_args *kernel_args,
                         int32_t num_sms, void *stream)
{
    const epf_cuda_kernel kernel = {variant->kernel, variant->smem_bytes,
                                    variant->cluster_m * variant->cluster_n, num_sms};
    return epf_gemm_sm90_launch(&kernel, kernel_args, stream);
}

epf_status epf_gemm_sm90_fill(const epf_gemm_cuda_args *args, const epf_gemm_sm90_variant *variant,
                              epf_gemm_sm90_args *out)
{
    const int32_t task_n = variant->block_n * variant->cluster_n;
    EPF_TRY(make_maps(args, variant, out));
    out->rows = args->rows;
    out->row_offset = args->row_offset;
    out->gather = args->gather;
    out->a = args->a;
    out->c = args->c;
    out->raw = args->raw;
    out->c_stride = stored_stride(args);
    out->raw_stride = args->raw_stride > 0 ? args->raw_stride : args->n;
    out->c_f32 = args->c_dtype == EPF_DTYPE_F32;
    out->row_ptr = args->row_ptr;
    out->row_weight = args->row_weight;
    out->row_weight_bf16 = args->row_weight_dtype == EPF_DTYPE_BF16;
    out->queue = args->queue;
    out->num_experts = args->num_experts;
    out->n = args->n;
    out->k = args->k;
    out->m = args->m;
    out->m_pitch = args->weight_grad ? (int32_t)grad_pitch(args) : 0;
    out->half = args->epilogue == EPF_GEMM_SWIGLU ? args->n / 2 : 0;
    out->num_n_tiles =
        (int32_t)(out->half ? epf_ceil_div(out->half, task_n / 2) : epf_ceil_div(args->n, task_n));
    out->group_m = args->group_m ? args->group_m : 8 / variant->cluster_m;
    out->short_last = args->short_last > 0 && !args->weight_grad && !variant->swapped;
    return EPF_OK;
}

epf_status epf_gemm_cuda(const epf_gemm_cuda_args *args, void *stream)
{
    const epf_gemm_sm90_variant *variant = NULL;
    epf_gemm_sm90_args kernel_args = {0};
    int device = 0;
    int num_sms = 0;
    int major = 0;

    EPF_TRY(check_args(args));
    EPF_TRY(check_cuda(cudaGetDevice(&device), "current device"));
    EPF_TRY(check_cuda(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device),
                       "multiprocessor count"));
    EPF_TRY(check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                       "compute capability"));
    if (major != 9) {
        return EPF_FAIL(EPF_E_UNSUPPORTED, "device %d has compute capability %d.x; 9.0 is needed",
                        device, major);
    }
    EPF_CHECK_ARG(args->sm_margin >= 0 && args->sm_margin <= num_sms - 2,
                  "sm_margin is %d; it must be 0 .. %d", args->sm_margin, num_sms - 2);
    EPF_TRY(pick_variant(args, num_sms - args->sm_margin, &variant));
    EPF_TRY(epf_gemm_sm90_fill(args, variant, &kernel_args));
    return launch(variant, &kernel_args, num_sms - args->sm_margin, stream);
}
