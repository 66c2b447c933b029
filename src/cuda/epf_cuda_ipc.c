/*
 * epf_cuda_ipc.c: windows of processes, by CUDA's IPC handles.
 *
 * A handle stands for whole blocks of the driver's allocator, not for what cudaMalloc returned of them: a part
 * is made of whole blocks (EPF_CUDA_PART_ALIGN), so that a peer sees this part, from its first byte, and
 * nothing else.  A process cannot open its own handles; own memory is used as it is.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/epf_error.h"
#include "cuda/epf_cuda_memory_internal.h"

static epf_status ipc_offer_fill(const epf_cuda_part *part, epf_cuda_offer *offer)
{
    return epf_cuda_check(cudaIpcGetMemHandle(&offer->handle, part->own),
                          "cudaIpcGetMemHandle of a window");
}

static epf_status ipc_map(epf_cuda_part *part, const epf_cuda_offer *offers)
{
    part->parts[part->head.rank] = part->own;
    for (int32_t r = 0; r < part->head.num_ranks; r++) {
        char what[64];
        void *memory = NULL;
        if (r == part->head.rank) {
            continue;
        }
        (void)snprintf(what, sizeof what, "cudaIpcOpenMemHandle of rank %" PRId32 "'s window", r);
        /* The flag is the only one there is: it lets the call reach a peer's device. */
        EPF_TRY(epf_cuda_check(
            cudaIpcOpenMemHandle(&memory, offers[r].handle, cudaIpcMemLazyEnablePeerAccess), what));
        part->parts[r] = memory;
    }
    return EPF_OK;
}

static void ipc_unmap(epf_cuda_part *part)
{
    for (int32_t r = 0; r < part->head.num_ranks; r++) {
        if (r != part->head.rank && part->parts[r] != NULL &&
            cudaIpcCloseMemHandle(part->parts[r]) != cudaSuccess) {
            (void)cudaGetLastError();
        }
        part->parts[r] = NULL;
    }
}

const epf_cuda_transport_ops epf_cuda_ipc_ops = {
    .name = "ipc",
    .own_create = epf_cuda_own_create,
    .offer_fill = ipc_offer_fill,
    .map = ipc_map,
    .unmap = ipc_unmap,
    .own_destroy = epf_cuda_own_destroy,
};
