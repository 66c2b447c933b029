/*
 * gemm_onednn.c: the provider over oneDNN's matmul with packed weights (brgemm: AVX-512,
 * AVX512-BF16, AMX).
 *
 * Rows are multiplied in strips (onednn_cache.h says why).  The library's fast kernels take dense A
 * and C only, so others are copied beside; a short strip is filled up with rows of zeros.
 */
#include <stdio.h>
#include <string.h>

#include "base/epf_error.h"
#include "cpu/gemm/onednn_cache.h"

enum { PROBE = 64 };

/* The implementation that the library would take for a middling block of this type. */
static epf_status probe(epf_dtype dtype, char *name, size_t bytes)
{
    const onednn_shape shape = {(int32_t)dtype, PROBE, PROBE, PROBE, 0};
    const int saved = onednn_scope_enter();
    dnnl_primitive_desc_t desc = NULL;
    const epf_status st = onednn_matmul_desc(&shape, NULL, &desc);
    onednn_scope_leave(saved);
    EPF_TRY(st);
    (void)snprintf(name, bytes, "%s", onednn_implementation(desc));
    (void)dnnl_primitive_desc_destroy(desc);
    return EPF_OK;
}

/* True if blocks of this type run on instructions made for it; name says which. */
static bool serves(epf_dtype dtype, char *name, size_t bytes)
{
    name[0] = '\0';
    if (probe(dtype, name, bytes) != EPF_OK || strncmp(name, "brg", 3) != 0) {
        return false;
    }
    return dtype == EPF_DTYPE_F32 || strstr(name, "amx") != NULL || strstr(name, "bf16") != NULL ||
           strstr(name, "fp16") != NULL;
}

static void query(epf_dtype dtype, epf_gemm_provider_info *info)
{
    const onednn_context *context = onednn_context_get();
    const dnnl_version_t *version = dnnl_version();
    char name[80];
    info->kind = EPF_GEMM_ONEDNN;
    info->built = true;
    info->usable = false;
    if (context->status != EPF_OK) {
        (void)snprintf(info->text, sizeof info->text, "oneDNN %d.%d.%d: %s", version->major,
                       version->minor, version->patch, context->why);
        return;
    }
    info->usable = serves(dtype, name, sizeof name);
    if (!info->usable) {
        info->usable = serves(EPF_DTYPE_F32, name, sizeof name);
        info->widened = info->usable;
    }
    (void)snprintf(info->text, sizeof info->text, "oneDNN %d.%d.%d, %s%s", version->major,
                   version->minor, version->patch,
                   info->usable ? "" : "needs AVX-512; here it would take ", name);
}

/* The whole of K: a chunk costs a pass over C. */
static int32_t default_block_k(epf_dtype compute)
{
    (void)compute;
    return INT32_MAX;
}

static epf_status packed_bytes(const epf_gemm_block *block, uint64_t *bytes)
{
    const onednn_kernel *kernel;
    EPF_TRY(onednn_kernel_of_block(block, &kernel));
    *bytes = kernel->weights_bytes;
    onednn_kernel_release(kernel);
    return EPF_OK;
}

static epf_status strip_rows(const epf_gemm_block *block, int32_t *rows)
{
    const onednn_kernel *kernel;
    EPF_TRY(onednn_kernel_of_block(block, &kernel));
    *rows = kernel->strip;
    onednn_kernel_release(kernel);
    return EPF_OK;
}

static epf_status run_reorder(dnnl_primitive_t primitive, const onednn_matrix *const matrix[2],
                              const void *source, void *packed)
{
    epf_status st = EPF_OK;
    const onednn_context *context = onednn_context_get();
    const int role[2] = {DNNL_ARG_FROM, DNNL_ARG_TO};
    void *data[2] = {(void *)(uintptr_t)source, packed};
    dnnl_memory_t memory[2] = {NULL, NULL};
    dnnl_exec_arg_t args[2];
    for (int i = 0; i < 2; i++) {
        ONEDNN_TRY_GOTO(
            dnnl_memory_create(&memory[i], ONEDNN_DESC(matrix[i]), context->engine, data[i]), done);
        args[i] = (dnnl_exec_arg_t){role[i], memory[i]};
    }
    ONEDNN_TRY_GOTO(dnnl_primitive_execute(primitive, context->stream, 2, args), done);

done:
    for (int i = 0; i < 2; i++) {
        if (memory[i] != NULL) {
            (void)dnnl_memory_destroy(memory[i]);
        }
    }
    return st;
}

/* From any strides, by a primitive for this once. */
static epf_status pack_strided(const onednn_kernel *kernel, const epf_gemm_source *source,
                               void *packed)
{
    epf_status st = EPF_OK;
    const int64_t size[2] = {kernel->shape.k, kernel->shape.n};
    const int64_t stride[2] = {source->reduce_last_dim ? 1 : source->row_stride,
                               source->reduce_last_dim ? source->row_stride : 1};
    dnnl_primitive_t primitive = NULL;
    onednn_matrix from;
    const onednn_matrix *const both[2] = {&from, &kernel->weights};
    memset(&from, 0, sizeof from);
    ONEDNN_TRY_GOTO(onednn_matrix_strided(&from, kernel->shape.dtype, size, stride), done);
    EPF_TRY_GOTO(onednn_reorder_make(&from, &kernel->weights, &primitive), done);
    st = run_reorder(primitive, both, source->data, packed);

done:
    if (primitive != NULL) {
        (void)dnnl_primitive_destroy(primitive);
    }
    onednn_matrix_destroy(&from);
    return st;
}

static epf_status pack(const epf_gemm_block *block, const epf_gemm_source *source, void *packed,
                       epf_gemm_scratch *scratch)
{
    epf_status st;
    const onednn_kernel *kernel;
    int saved;
    (void)scratch;
    EPF_TRY(onednn_kernel_of_block(block, &kernel));
    saved = onednn_scope_enter();
    if (!source->reduce_last_dim && source->row_stride == block->n) {
        const onednn_matrix *const both[2] = {&kernel->source_kn, &kernel->weights};
        st = run_reorder(kernel->pack_kn, both, source->data, packed);
    } else {
        st = pack_strided(kernel, source, packed);
    }
    onednn_scope_leave(saved);
    onednn_kernel_release(kernel);
    return st;
}

/* Copies rows between matrices whose rows are `stride` bytes apart. */
static void copy_rows(void *to, int64_t to_stride, const void *from, int64_t from_stride,
                      const int64_t size[2])
{
    for (int64_t row = 0; row < size[0]; row++) {
        memcpy((char *)to + row * to_stride, (const char *)from + row * from_stride,
               (size_t)size[1]);
    }
}

/* Makes a dense copy of A, with zeros past its last row. */
static epf_status copy_a(epf_gemm_product *p, int32_t rows, epf_gemm_scratch *scratch)
{
    const int64_t element = epf_dtype_bytes((int32_t)p->block.dtype);
    const int64_t size[2] = {p->m, p->block.k * element};
    void *a;
    EPF_TRY(epf_gemm_scratch_get(scratch, EPF_GEMM_SLOT_LIB_A, (uint64_t)(rows * size[1]), &a));
    copy_rows(a, size[1], p->a, p->lda * element, size);
    memset((char *)a + p->m * size[1], 0, (size_t)((rows - p->m) * size[1]));
    p->a = a;
    p->lda = p->block.k;
    return EPF_OK;
}

/* Makes a dense C, with C's values where they are added to. */
static epf_status copy_c(epf_gemm_product *p, int32_t rows, epf_gemm_scratch *scratch)
{
    const int64_t size[2] = {p->m, p->block.n * (int64_t)sizeof(float)};
    void *c;
    EPF_TRY(epf_gemm_scratch_get(scratch, EPF_GEMM_SLOT_LIB_C, (uint64_t)(rows * size[1]), &c));
    if (p->accumulate) {
        copy_rows(c, size[1], p->c, p->ldc * (int64_t)sizeof(float), size);
        memset((char *)c + p->m * size[1], 0, (size_t)((rows - p->m) * size[1]));
    }
    p->c = c;
    p->ldc = p->block.n;
    return EPF_OK;
}

/* At most kernel->rows rows. */
static epf_status multiply_with(const onednn_kernel *kernel, const epf_gemm_product *product,
                                epf_gemm_scratch *scratch)
{
    const int32_t rows = kernel->rows;
    epf_gemm_product p = *product;
    onednn_operands operands;
    int saved;
    epf_status st;
    if (p.m != rows || p.lda != p.block.k) {
        EPF_TRY(copy_a(&p, rows, scratch));
    }
    if (p.m != rows || p.ldc != p.block.n) {
        EPF_TRY(copy_c(&p, rows, scratch));
    }
    EPF_TRY(epf_gemm_scratch_get(scratch, EPF_GEMM_SLOT_LIBRARY, kernel->scratchpad_bytes + 1,
                                 &operands.scratchpad));
    operands.a = p.a;
    operands.packed = p.packed;
    operands.c = p.c;
    saved = onednn_scope_enter();
    st = onednn_kernel_run(kernel, &operands);
    onednn_scope_leave(saved);
    if (st == EPF_OK && p.c != product->c) {
        const int64_t size[2] = {product->m, p.block.n * (int64_t)sizeof(float)};
        copy_rows(product->c, product->ldc * (int64_t)sizeof(float), p.c, size[1], size);
    }
    return st;
}

/* Rows [row0, ...) of a product, at most `limit`. */
static epf_gemm_product rows_of(const epf_gemm_product *p, int32_t row0, int32_t limit)
{
    epf_gemm_product part = *p;
    part.m = (int32_t)epf_min64(p->m - row0, limit);
    part.a = epf_gemm_at(p->a, p->block.dtype, row0 * p->lda);
    part.c = p->c + row0 * p->ldc;
    return part;
}

static epf_status multiply_strip(const epf_gemm_product *p, epf_gemm_scratch *scratch)
{
    const onednn_shape shape = {(int32_t)p->block.dtype, p->m, p->block.n, p->block.k,
                                p->accumulate};
    const onednn_kernel *kernel;
    epf_status st;
    EPF_TRY(onednn_kernel_get(&shape, &kernel));
    st = multiply_with(kernel, p, scratch);
    onednn_kernel_release(kernel);
    return st;
}

static epf_status multiply(const epf_gemm_product *p, epf_gemm_scratch *scratch)
{
    int32_t strip;
    EPF_TRY(strip_rows(&p->block, &strip));
    for (int32_t row0 = 0; row0 < p->m; row0 += strip) {
        const epf_gemm_product part = rows_of(p, row0, strip);
        EPF_TRY(multiply_strip(&part, scratch));
    }
    return EPF_OK;
}

const epf_gemm_provider epf_gemm_onednn = {
    .kind = EPF_GEMM_ONEDNN,
    .query = query,
    .default_block_k = default_block_k,
    .packed_bytes = packed_bytes,
    .strip_rows = strip_rows,
    .pack = pack,
    .multiply = multiply,
};
