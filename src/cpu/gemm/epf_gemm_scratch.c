/* epf_gemm_scratch.c: a thread's working memory, one growing buffer per use. */
#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cpu/gemm/epf_gemm_internal.h"

struct epf_gemm_scratch {
    void *memory[EPF_GEMM_NUM_SLOTS];
    uint64_t bytes[EPF_GEMM_NUM_SLOTS];
};

epf_status epf_gemm_scratch_create(epf_gemm_scratch **scratch)
{
    epf_gemm_scratch *made;
    EPF_CHECK_ARG(scratch != NULL, "epf_gemm_scratch_create: scratch is NULL");
    made = epf_alloc(1, sizeof *made);
    if (made == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "GEMM scratch: %zu bytes", sizeof *made);
    }
    *scratch = made;
    return EPF_OK;
}

void epf_gemm_scratch_destroy(epf_gemm_scratch *scratch)
{
    if (scratch == NULL) {
        return;
    }
    for (int slot = 0; slot < EPF_GEMM_NUM_SLOTS; slot++) {
        epf_free(scratch->memory[slot]);
    }
    epf_free(scratch);
}

epf_status epf_gemm_scratch_get(epf_gemm_scratch *scratch, epf_gemm_slot slot, uint64_t bytes,
                                void **memory)
{
    if (scratch->bytes[slot] < bytes) {
        void *grown = epf_alloc_aligned(bytes, 1, EPF_GEMM_ALIGNMENT);
        if (grown == NULL) {
            return EPF_FAIL(EPF_E_NO_MEMORY, "GEMM scratch: %llu bytes", (unsigned long long)bytes);
        }
        epf_free(scratch->memory[slot]);
        scratch->memory[slot] = grown;
        scratch->bytes[slot] = bytes;
    }
    *memory = scratch->memory[slot];
    return EPF_OK;
}
