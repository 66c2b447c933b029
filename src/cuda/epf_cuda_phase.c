/*
 * epf_cuda_phase.c: the host side of a fused phase: picks its kernel, describes its operands, launches it.
 */
#include "cuda/epf_cuda_phase.h"

#include <cuda_runtime_api.h>
#include <string.h>

#include "base/epf_error.h"
#include "cuda/epf_gemm_launch.h"
#include "cuda/epf_phase_sm90.h"

typedef const epf_phase_sm90_variant *list_fn(int32_t *num_variants);

static list_fn *const lists[] = {epf_phase_sm90_dispatch, epf_phase_sm90_combine,
                                 epf_phase_sm90_combine_grad};

static epf_status check_cuda(cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        return EPF_FAIL(EPF_E_DEVICE, "%s: %s", what, cudaGetErrorString(error));
    }
    return EPF_OK;
}

static bool is_dispatch(const epf_call *call)
{
    return call->phase.kind == EPF_PHASE_DISPATCH;
}

/* The epilogue brings rows to their owners. */
static bool is_direct(const epf_call *call)
{
    return call->phase.kind == EPF_PHASE_COMBINE_SCATTER && call->phase.direct;
}

static int32_t epilogue_of(const epf_call *call)
{
    if (!is_dispatch(call)) {
        return is_direct(call) ? EPF_GEMM_TO_ROW_PTR : EPF_GEMM_TO_C;
    }
    if (call->activation_output.data == NULL) {
        return EPF_GEMM_TO_C;
    }
    return call->gemm_output.data != NULL ? EPF_GEMM_TO_SWIGLU_RAW : EPF_GEMM_TO_SWIGLU;
}

static epf_status find_variant(const epf_cuda_phase_args *args,
                               const epf_phase_sm90_variant **variant)
{
    const epf_call *const call = &args->call.call;
    const int32_t with_grad = call->phase.num_grads > 0 ? 1 : 0;
    const int32_t n_major = args->weight_n_major ? 1 : 0;
    const int32_t epilogue = epilogue_of(call);
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        int32_t num = 0;
        const epf_phase_sm90_variant *const list = lists[i](&num);
        for (int32_t v = 0; v < num; v++) {
            if ((list[v].kind == EPF_PHASE_DISPATCH) == is_dispatch(call) &&
                list[v].with_grad == with_grad && list[v].gemm.dtype == call->dtype &&
                list[v].gemm.b_n_major == n_major && list[v].gemm.epilogue == epilogue) {
                *variant = &list[v];
                return EPF_OK;
            }
        }
    }
    return EPF_FAIL(EPF_E_UNSUPPORTED, "no kernel for phase %d, dtype %d, weight %s, epilogue %d",
                    call->phase.kind, call->dtype, n_major ? "[L, K, N]" : "[L, N, K]", epilogue);
}

/* Rows of A and C of the phase's own GEMM. */
static void fill_rows(const epf_cuda_phase_args *args, epf_gemm_cuda_args *g)
{
    const epf_call *const call = &args->call.call;
    uint8_t *const own = args->own_set;
    if (is_dispatch(call)) {
        g->a = own + call->set_map.recv_tokens;
        g->a_stride = call->shape.hidden;
        g->a_rows = call->set_map.rows;
        g->c = call->gemm_output.data;
        g->c_stride = call->gemm_output.stride;
        if (call->activation_output.data != NULL) {
            g->epilogue = EPF_GEMM_SWIGLU;
            g->raw = call->gemm_output.data;
            g->raw_stride = call->gemm_output.stride;
            g->c = call->activation_output.data;
            g->c_stride = call->activation_output.stride;
            g->row_weight = own + call->set_map.recv_weight;
            g->row_weight_dtype = call->weight_dtype;
        }
        return;
    }
    g->a = call->gemm_input.data;
    g->a_stride = call->gemm_input.stride;
    g->a_rows = args->call.capacity;
    g->row_ptr = is_direct(call) ? (void *const *)args->own_set : NULL;
    g->c = call->phase.kind == EPF_PHASE_COMBINE_SERIAL ? own + call->set_map.combine_rows
                                                        : call->staged.data;
    g->c_stride = call->shape.hidden;
}

static epf_status fill_gemm(const epf_cuda_phase_args *args, const epf_phase_sm90_variant *variant,
                            epf_phase_sm90_args *out)
{
    const epf_call *const call = &args->call.call;
    const epf_tile_map *const tiles = &call->phase.tiles;
    epf_gemm_cuda_args g;
    memset(&g, 0, sizeof g);
    g.dtype = call->dtype;
    g.b_n_major = args->weight_n_major ? 1 : 0;
    g.num_experts = call->shape.num_local;
    g.n = (int32_t)call->gemm_n;
    g.k = (int32_t)call->gemm_k;
    g.b = call->gemm_weight;
    g.b_stride = args->weight_stride;
    g.b_expert_stride = args->weight_expert_stride;
    g.rows = tiles->rows;
    g.row_offset = tiles->row_offset;
    g.queue = args->call.state->queue;
    g.expected_rows = args->expected_rows;
    g.group_m = tiles->group_m;
    fill_rows(args, &g);
    return epf_gemm_sm90_fill(&g, &variant->gemm, &out->gemm);
}

static epf_status fill_grad(const epf_cuda_phase_args *args, int32_t index,
                            const epf_gemm_sm90_variant *like, epf_gemm_sm90_args *out)
{
    const epf_call *const call = &args->call.call;
    const epf_grad_map *const map = &call->phase.grads[index];
    const epf_grad_operands *const operands = &call->grads[index];
    epf_gemm_sm90_variant variant = *like;
    epf_gemm_cuda_args g;
    memset(&g, 0, sizeof g);
    g.dtype = call->dtype;
    g.c_dtype = operands->out_dtype;
    g.weight_grad = 1;
    g.num_experts = call->shape.num_local;
    g.m = map->n;
    g.n = map->k;
    g.a_rows = args->call.capacity;
    g.a = operands->grad_output.data;
    g.a_stride = operands->grad_output.stride;
    g.b = operands->orig_input.data;
    g.b_stride = operands->orig_input.stride;
    g.c = operands->out.data;
    g.c_stride = operands->out.stride;
    g.c_expert_stride = operands->expert_stride;
    g.rows = call->phase.tiles.rows;
    g.row_offset = call->phase.tiles.row_offset;
    g.group_m = map->group;
    variant.b_n_major = 1;
    variant.a_source = EPF_GEMM_A_COLUMNS;
    variant.epilogue = EPF_GEMM_TO_C;
    return epf_gemm_sm90_fill(&g, &variant, out);
}

/* Pairs of CTAs that take no tiles: what the first ones do, the second ones do too. */
static void fill_pairs(epf_phase_sm90_args *args)
{
    epf_phase *const phase = &args->call.call.phase;
    int32_t num;
    if (phase->kind != EPF_PHASE_COMBINE_SCATTER) {
        return;
    }
    num = phase->num_comm_workers + phase->num_tail_workers;
    if (num % 2 != 0) {
        *(phase->num_tail_workers > 0 ? &phase->num_tail_workers : &phase->num_comm_workers) += 1;
    }
    args->gemm.first_cluster = (num + 1) / 2;
    for (int32_t i = 0; i < EPF_MAX_GRADS; i++) {
        args->grad[i].first_cluster = args->gemm.first_cluster;
    }
}

epf_status epf_cuda_phase_run(const epf_cuda_phase_args *args, void *stream)
{
    const epf_phase *const phase = &args->call.call.phase;
    const epf_phase_sm90_variant *variant = NULL;
    epf_phase_sm90_args kernel_args;
    epf_cuda_kernel kernel;
    EPF_TRY(find_variant(args, &variant));
    memset(&kernel_args, 0, sizeof kernel_args);
    kernel_args.call = args->call;
    EPF_TRY(fill_gemm(args, variant, &kernel_args));
    for (int32_t i = 0; i < phase->num_grads; i++) {
        EPF_TRY(fill_grad(args, i, &variant->gemm, &kernel_args.grad[i]));
    }
    fill_pairs(&kernel_args);
    kernel.function = variant->gemm.kernel;
    kernel.smem_bytes = variant->gemm.smem_bytes;
    kernel.cluster = variant->gemm.cluster_n;
    kernel.num_ctas = args->num_ctas;
    EPF_CHECK_ARG(args->num_ctas >= kernel.cluster * (kernel_args.gemm.first_cluster + 1),
                  "num_ctas: %d, must be at least %d", args->num_ctas,
                  kernel.cluster * (kernel_args.gemm.first_cluster + 1));
    return epf_gemm_sm90_launch(&kernel, &kernel_args, stream);
}

/* Clusters of this kernel that the device holds at a time. */
static epf_status count_clusters(const epf_gemm_sm90_variant *v, int *num_clusters)
{
    cudaLaunchAttribute attribute = {0};
    cudaLaunchConfig_t config = {0};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = (unsigned)v->cluster_n;
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    config.gridDim = (dim3){(unsigned)v->cluster_n, 1, 1};
    config.blockDim = (dim3){EPF_GEMM_THREADS, 1, 1};
    config.dynamicSmemBytes = (size_t)v->smem_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    EPF_TRY(check_cuda(
        cudaFuncSetAttribute(v->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v->smem_bytes),
        "shared memory of a phase"));
    return check_cuda(cudaOccupancyMaxActiveClusters(num_clusters, v->kernel, &config),
                      "clusters of a phase");
}

epf_status epf_cuda_phase_max_ctas(int32_t *max_ctas)
{
    int device = 0;
    int major = 0;
    int32_t least = INT32_MAX;
    *max_ctas = 0;
    EPF_TRY(check_cuda(cudaGetDevice(&device), "current device"));
    EPF_TRY(check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                       "compute capability"));
    if (major != 9) {
        return EPF_OK;
    }
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        int32_t num = 0;
        const epf_phase_sm90_variant *const list = lists[i](&num);
        for (int32_t v = 0; v < num; v++) {
            int clusters = 0;
            EPF_TRY(count_clusters(&list[v].gemm, &clusters));
            least = (int32_t)epf_min64(least, (int64_t)clusters * list[v].gemm.cluster_n);
        }
    }
    *max_ctas = least;
    return EPF_OK;
}
