/* onednn_try.c: running a kernel, and the trial that decides whether its rows have the strip's
 * bits. */
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cpu/gemm/onednn_cache.h"

enum { NUM_PATTERNS = 8 /* different rows of a trial; the others repeat them */ };

epf_status onednn_kernel_run(const onednn_kernel *kernel, const onednn_operands *operands)
{
    epf_status st = EPF_OK;
    const onednn_context *context = onednn_context_get();
    const onednn_matrix *matrix[4] = {&kernel->a, &kernel->weights, &kernel->c,
                                      &kernel->scratchpad};
    const void *data[4] = {operands->a, operands->packed, operands->c, operands->scratchpad};
    const int role[4] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    dnnl_memory_t memory[4] = {NULL, NULL, NULL, NULL};
    dnnl_exec_arg_t args[4];
    for (int i = 0; i < 4; i++) {
        ONEDNN_TRY_GOTO(dnnl_memory_create(&memory[i], ONEDNN_DESC(matrix[i]), context->engine,
                                           (void *)(uintptr_t)data[i]),
                        done);
        args[i] = (dnnl_exec_arg_t){role[i], memory[i]};
    }
    ONEDNN_TRY_GOTO(dnnl_primitive_execute(kernel->primitive, context->stream, 4, args), done);

done:
    for (int i = 0; i < 4; i++) {
        if (memory[i] != NULL) {
            (void)dnnl_memory_destroy(memory[i]);
        }
    }
    return st;
}

/* Random signs and mantissas, exponents over eight octaves: rounding happens everywhere. */
static void fill(void *data, int32_t dtype, uint64_t count, uint64_t seed)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t z = (seed + i) * 0x9e3779b97f4a7c15u;
        uint32_t bits;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z ^= z >> 27;
        bits = (uint32_t)(z & 0x80000000u) | (uint32_t)(120u + (z >> 60 & 7u)) << 23 |
               (uint32_t)(z >> 8 & 0x7fffffu);
        if (dtype == EPF_DTYPE_F32) {
            ((uint32_t *)data)[i] = bits;
        } else if (dtype == EPF_DTYPE_BF16) {
            ((uint16_t *)data)[i] = (uint16_t)(bits >> 16);
        } else { /* fp16: exponents 2^-8 .. 2^-1 */
            ((uint16_t *)data)[i] =
                (uint16_t)((bits >> 16 & 0x83ffu) | (7u + (z >> 60 & 7u)) << 10);
        }
    }
}

typedef struct trial {
    void *a;
    void *packed;
    float *c[2];
    void *scratchpad[2];
    int64_t n, k;
} trial;

static void trial_free(trial *t)
{
    epf_free(t->a);
    epf_free(t->packed);
    for (int i = 0; i < 2; i++) {
        epf_free(t->c[i]);
        epf_free(t->scratchpad[i]);
    }
}

static epf_status trial_make(trial *t, const onednn_kernel *const kernel[2])
{
    const onednn_shape *shape = &kernel[1]->shape;
    const uint64_t element = (uint64_t)epf_dtype_bytes(shape->dtype);
    const uint64_t k = (uint64_t)shape->k;
    const uint64_t rows = (uint64_t)kernel[1]->rows;
    bool whole;
    t->n = shape->n;
    t->k = shape->k;
    t->a = epf_alloc_aligned(rows * k, element, EPF_GEMM_ALIGNMENT);
    t->packed = epf_alloc_aligned(kernel[1]->weights_bytes, 1, EPF_GEMM_ALIGNMENT);
    whole = t->a != NULL && t->packed != NULL;
    for (int i = 0; i < 2; i++) {
        t->c[i] = epf_alloc(rows * (uint64_t)shape->n, sizeof(float));
        t->scratchpad[i] =
            epf_alloc_aligned(kernel[i]->scratchpad_bytes + 1, 1, EPF_GEMM_ALIGNMENT);
        whole = whole && t->c[i] != NULL && t->scratchpad[i] != NULL;
    }
    if (!whole) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "oneDNN trial: %llu bytes",
                        (unsigned long long)(rows * k * element + kernel[1]->weights_bytes));
    }
    fill(t->packed, shape->dtype, kernel[1]->weights_bytes / element, 1);
    for (uint64_t row = 0; row < rows; row++) {
        fill((char *)t->a + row * k * element, shape->dtype, k,
             1000000007u * (1 + row % NUM_PATTERNS));
    }
    return EPF_OK;
}

/* Each of the kernel's rows, against the strip kernel's row of the same contents at another
 * place. */
static epf_status compare(const trial *t, const onednn_kernel *kernel)
{
    const size_t bytes = (size_t)t->n * sizeof(float);
    for (int64_t row = 0; row < kernel->rows; row++) {
        const float *want = t->c[1] + row % NUM_PATTERNS * t->n;
        if (memcmp(t->c[0] + row * t->n, want, bytes) != 0) {
            return EPF_FAIL(EPF_E_UNSUPPORTED,
                            "oneDNN sums %d rows of n %lld k %lld in another order", kernel->rows,
                            (long long)t->n, (long long)t->k);
        }
    }
    return EPF_OK;
}

epf_status onednn_kernel_try(const onednn_kernel *kernel, const onednn_kernel *strip)
{
    const onednn_kernel *const both[2] = {kernel, strip};
    epf_status st = EPF_OK;
    trial t;
    memset(&t, 0, sizeof t);
    EPF_TRY_GOTO(trial_make(&t, both), done);
    for (int i = 0; i < 2 && st == EPF_OK; i++) {
        const onednn_operands operands = {t.a, t.packed, t.c[i], t.scratchpad[i]};
        st = onednn_kernel_run(both[i], &operands);
    }
    if (st == EPF_OK) {
        st = compare(&t, kernel);
    }

done:
    trial_free(&t);
    return st;
}
