/*
 * epf_cuda_preprocess.c: checks a preprocess call's arguments and launches its kernel.
 */
#include <cuda_runtime_api.h>

#include "base/epf_error.h"
#include "cuda/epf_preprocess_sm90.h"

enum { VECTOR_BYTES = 16, SHARED_BY_DEFAULT = 48 * 1024 };

static epf_status check_cuda(cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        return EPF_FAIL(EPF_E_DEVICE, "%s: %s", what, cudaGetErrorString(error));
    }
    return EPF_OK;
}

static epf_status check_shape(const epf_shape *s)
{
    EPF_CHECK_ARG(s->num_ranks >= 1 && s->num_ranks <= EPF_PREPROCESS_MAX_RANKS,
                  "num_ranks is %d; preprocess on the device takes 1..%d", s->num_ranks,
                  EPF_PREPROCESS_MAX_RANKS);
    EPF_CHECK_ARG(s->num_experts >= 1 && s->num_experts <= EPF_PREPROCESS_MAX_EXPERTS,
                  "num_experts is %d; preprocess on the device takes 1..%d", s->num_experts,
                  EPF_PREPROCESS_MAX_EXPERTS);
    EPF_CHECK_ARG((int64_t)s->num_local * s->num_ranks == s->num_experts,
                  "num_local is %d; must be num_experts %d / num_ranks %d", s->num_local,
                  s->num_experts, s->num_ranks);
    EPF_CHECK_ARG(s->topk >= 1 && s->topk <= EPF_MAX_TOPK,
                  "topk is %d; preprocess on the device takes 1..%d", s->topk, EPF_MAX_TOPK);
    EPF_CHECK_ARG(s->max_tokens >= 1 && epf_shape_max_slots(s) <= EPF_PREPROCESS_MAX_SLOTS,
                  "max_tokens is %d; max_tokens * topk must be 1..%d", s->max_tokens,
                  EPF_PREPROCESS_MAX_SLOTS);
    return EPF_OK;
}

static epf_status check_indices(const epf_cuda_indices *indices, const epf_shape *s,
                                const char *name)
{
    EPF_CHECK_ARG(indices->data == NULL || indices->stride >= s->topk,
                  "%s: stride is %lld; must be at least topk %d", name, (long long)indices->stride,
                  s->topk);
    return EPF_OK;
}

static epf_status check_input(const epf_cuda_preprocess_args *a)
{
    const epf_shape *const s = &a->call.call.shape;
    EPF_CHECK_ARG(a->num_tokens >= -1 && a->num_tokens <= s->max_tokens,
                  "num_tokens is %d; must be -1..%d", a->num_tokens, s->max_tokens);
    EPF_CHECK_ARG(a->num_tokens >= 0 || a->refused < 0,
                  "refused is %d; must be an error where num_tokens is -1", a->refused);
    EPF_CHECK_ARG(a->num_tokens <= 0 || a->exp_indices.data != NULL,
                  "exp_indices: not given, but there are %d tokens", a->num_tokens);
    EPF_TRY(check_indices(&a->exp_indices, s, "exp_indices"));
    EPF_TRY(check_indices(&a->full_scatter, s, "full_scatter"));
    EPF_TRY(check_indices(&a->local_scatter, s, "local_scatter"));
    EPF_CHECK_ARG(a->row_capacity >= 0 && a->row_capacity <= epf_shape_max_rows(s),
                  "row_capacity is %lld; must be 0..%lld", (long long)a->row_capacity,
                  (long long)epf_shape_max_rows(s));
    EPF_CHECK_ARG(a->num_ctas >= 1, "num_ctas is %d; must be at least 1", a->num_ctas);
    EPF_CHECK_ARG(a->call.call.rank >= 0 && a->call.call.rank < s->num_ranks,
                  "rank is %d; must be 0..%d", a->call.call.rank, s->num_ranks - 1);
    return EPF_OK;
}

/* Everything that the kernel follows without asking; it stores to most of it 16 bytes at a time. */
static epf_status check_memory(const epf_cuda_preprocess_args *a)
{
    const struct {
        const char *name;
        const void *memory;
    } list[] = {
        {"control", a->call.call.control},
        {"state", a->call.state},
        {"report", a->call.report},
        {"topk_idx", a->topk_idx},
        {"dst_row", a->dst_row},
        {"sort_slots", a->sort_slots},
        {"row_source", a->row_source},
        {"counts", a->counts},
        {"tokens", a->tokens},
        {"offset", a->offset},
        {"recv", a->recv},
        {"input", a->input},
        {"row_offset", a->row_offset},
        {"tile_offset", a->tile_offset},
        {"tables[0]", a->tables[0]},
        {"tables[1]", a->tables[1]},
        {"tables[2]", a->tables[2]},
        {"tables[3]", a->tables[3]},
        {"head", a->head},
        {"host_head", a->host_head},
        {"scratch", a->scratch},
    };
    const int32_t *const vectors[] = {a->topk_idx, a->dst_row, a->sort_slots, a->row_source};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        EPF_CHECK_ARG(list[i].memory != NULL, "%s: NULL", list[i].name);
    }
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        EPF_CHECK_ARG((uintptr_t)vectors[i] % VECTOR_BYTES == 0,
                      "topk_idx, dst_row, sort_slots and row_source must be aligned to %d bytes",
                      VECTOR_BYTES);
    }
    return EPF_OK;
}

/* Own slots are known; others may send as many as T_max K, and of those a CTA takes more. */
static int32_t num_ctas_of(const epf_cuda_preprocess_args *a)
{
    enum { UNKNOWN_SHARE = 8 };
    const epf_shape *const s = &a->call.call.shape;
    const int64_t own = a->num_tokens > 0 ? (int64_t)a->num_tokens * s->topk : 0;
    const int64_t max = epf_shape_max_slots(s);
    const int64_t other = s->num_ranks > 1 ? epf_min64(a->row_capacity, max) / UNKNOWN_SHARE : 0;
    const int64_t fill = 3 * (max - own) + (a->all_row_sources ? 2 * a->row_capacity - own : 0);
    return (int32_t)epf_min64(epf_preprocess_num_ctas(own, other, fill), a->num_ctas);
}

/* Always the most that any shape needs, so that no operator lowers what another one is about to use. */
static epf_status allow_shared(void)
{
    return check_cuda(cudaFuncSetAttribute(
                          epf_preprocess_sm90_kernel(), cudaFuncAttributeMaxDynamicSharedMemorySize,
                          epf_preprocess_sm90_shared_bytes(EPF_PREPROCESS_MAX_EXPERTS)),
                      "shared memory of preprocess");
}

int64_t epf_cuda_preprocess_scratch(const epf_shape *shape)
{
    return epf_preprocess_scratch_make(shape).total_ints * (int64_t)sizeof(int32_t);
}

epf_status epf_cuda_preprocess_load(void)
{
    struct cudaFuncAttributes attributes;
    EPF_TRY(check_cuda(cudaFuncGetAttributes(&attributes, epf_preprocess_sm90_kernel()),
                       "loading preprocess"));
    return allow_shared();
}

epf_status epf_cuda_preprocess(const epf_cuda_preprocess_args *args, void *stream)
{
    epf_cuda_preprocess_args copy;
    void *params[] = {&copy};
    struct cudaLaunchConfig_st config = {0};
    EPF_CHECK_ARG(args != NULL, "args: NULL");
    EPF_TRY(check_shape(&args->call.call.shape));
    EPF_TRY(check_input(args));
    EPF_TRY(check_memory(args));
    copy = *args;
    config.gridDim.x = (unsigned)num_ctas_of(args);
    config.gridDim.y = 1;
    config.gridDim.z = 1;
    config.blockDim.x = EPF_PREPROCESS_THREADS;
    config.blockDim.y = 1;
    config.blockDim.z = 1;
    config.dynamicSmemBytes =
        (size_t)epf_preprocess_sm90_shared_bytes(args->call.call.shape.num_experts);
    config.stream = (cudaStream_t)stream;
    if (config.dynamicSmemBytes > SHARED_BY_DEFAULT) {
        EPF_TRY(allow_shared());
    }
    return check_cuda(cudaLaunchKernelExC(&config, epf_preprocess_sm90_kernel(), params),
                      "launching preprocess");
}
