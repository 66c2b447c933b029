/*
 * onednn_cache.c: an open-addressing table of pointers to immutable kernels.
 *
 * A slot goes from NULL to a kernel once (release) and never changes again, so readers need only an
 * acquire; writers take the mutex.  Kernels live until the process ends, as do the library's own.
 */
#include "cpu/gemm/onednn_cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"

enum {
    NUM_SLOTS = 2048,   /* a power of two                                           */
    MAX_KERNELS = 1024, /* half full at most: probes stay short                     */
    AMX_STRIP = 64,     /* longer strips gain nothing with AMX, 5 % without         */
    STRIP = 128
};

static _Atomic(const onednn_kernel *) slots[NUM_SLOTS];
static pthread_mutex_t insert_mutex = PTHREAD_MUTEX_INITIALIZER;
static int num_kernels; /* under insert_mutex */

static uint64_t hash_of(const onednn_shape *shape)
{
    const int32_t parts[5] = {shape->dtype, shape->m, shape->n, shape->k, shape->accumulate};
    uint64_t hash = 0x9e3779b97f4a7c15u;
    for (int i = 0; i < 5; i++) {
        hash = (hash ^ (uint64_t)parts[i]) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
    }
    return hash;
}

static bool same_shape(const onednn_shape *x, const onednn_shape *y)
{
    return x->dtype == y->dtype && x->m == y->m && x->n == y->n && x->k == y->k &&
           x->accumulate == y->accumulate;
}

/* The kernel, or the free slot where it belongs. */
static const onednn_kernel *find(const onednn_shape *shape, uint64_t *free_slot)
{
    uint64_t slot = hash_of(shape) % NUM_SLOTS;
    for (;;) {
        const onednn_kernel *kernel = atomic_load_explicit(&slots[slot], memory_order_acquire);
        if (kernel == NULL) {
            *free_slot = slot;
            return NULL;
        }
        if (same_shape(&kernel->shape, shape)) {
            return kernel;
        }
        slot = (slot + 1) % NUM_SLOTS;
    }
}

static void kernel_destroy(onednn_kernel *kernel)
{
    if (kernel->primitive != NULL) {
        (void)dnnl_primitive_destroy(kernel->primitive);
    }
    if (kernel->pack_kn != NULL) {
        (void)dnnl_primitive_destroy(kernel->pack_kn);
    }
    onednn_matrix_destroy(&kernel->source_kn);
    onednn_matrix_destroy(&kernel->a);
    onednn_matrix_destroy(&kernel->weights);
    onednn_matrix_destroy(&kernel->c);
    onednn_matrix_destroy(&kernel->scratchpad);
    epf_free(kernel);
}

static epf_status fill_kernel(onednn_kernel *kernel, dnnl_primitive_desc_t desc)
{
    epf_status st = EPF_OK;
    ONEDNN_TRY_GOTO(onednn_matrix_query(desc, dnnl_query_src_md, &kernel->a), done);
    ONEDNN_TRY_GOTO(onednn_matrix_query(desc, dnnl_query_weights_md, &kernel->weights), done);
    ONEDNN_TRY_GOTO(onednn_matrix_query(desc, dnnl_query_dst_md, &kernel->c), done);
    ONEDNN_TRY_GOTO(onednn_matrix_query(desc, dnnl_query_scratchpad_md, &kernel->scratchpad), done);
    ONEDNN_TRY_GOTO(dnnl_primitive_create(&kernel->primitive, desc), done);
    kernel->weights_bytes = onednn_matrix_bytes(&kernel->weights);
    kernel->scratchpad_bytes = onednn_matrix_bytes(&kernel->scratchpad);

done:
    return st;
}

/* Puts a kernel where it can be found; another thread's equal one wins. */
static const onednn_kernel *publish(onednn_kernel *kernel)
{
    uint64_t slot;
    const onednn_kernel *found;
    (void)pthread_mutex_lock(&insert_mutex);
    found = find(&kernel->shape, &slot);
    if (found == NULL && num_kernels < MAX_KERNELS) {
        kernel->cached = true;
        num_kernels++;
        atomic_store_explicit(&slots[slot], kernel, memory_order_release);
    }
    (void)pthread_mutex_unlock(&insert_mutex);
    if (found == NULL) {
        return kernel;
    }
    kernel_destroy(kernel);
    return found;
}

/* `layout` NULL: the library chooses the layout of the packed operand. */
static epf_status make_desc(const onednn_shape *shape, const onednn_kernel *layout,
                            dnnl_primitive_desc_t *desc)
{
    const char *name;
    EPF_TRY(onednn_matmul_desc(shape, layout != NULL ? &layout->weights : NULL, desc));
    name = onednn_implementation(*desc);
    if (strncmp(name, "brg", 3) != 0) {
        const epf_status st = EPF_FAIL(EPF_E_UNSUPPORTED, "oneDNN serves m %d n %d k %d by '%s'",
                                       shape->m, shape->n, shape->k, name);
        (void)dnnl_primitive_desc_destroy(*desc);
        return st;
    }
    return EPF_OK;
}

/* A kernel of exactly `rows` rows, not yet tried. */
static epf_status kernel_make(const onednn_shape *asked, int32_t rows, const onednn_kernel *layout,
                              onednn_kernel **made)
{
    epf_status st = EPF_OK;
    dnnl_primitive_desc_t desc = NULL;
    onednn_shape shape = *asked;
    onednn_kernel *kernel = epf_alloc(1, sizeof *kernel);
    if (kernel == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "oneDNN kernel: %zu bytes", sizeof *kernel);
    }
    shape.m = rows;
    kernel->shape = *asked;
    kernel->rows = rows;
    EPF_TRY_GOTO(make_desc(&shape, layout, &desc), err_kernel);
    kernel->amx = strstr(onednn_implementation(desc), "amx") != NULL;
    kernel->strip = layout != NULL ? layout->strip : kernel->amx ? AMX_STRIP : STRIP;
    st = fill_kernel(kernel, desc);
    (void)dnnl_primitive_desc_destroy(desc);
    if (st == EPF_OK) {
        *made = kernel;
        return EPF_OK;
    }

err_kernel:
    kernel_destroy(kernel);
    return st;
}

/* A kernel of exactly `rows` rows with the bits of `strip` (NULL: which is itself the strip). */
static epf_status kernel_make_tried(const onednn_shape *asked, int32_t rows,
                                    const onednn_kernel *layout, const onednn_kernel *strip,
                                    onednn_kernel **made)
{
    epf_status st;
    EPF_TRY(kernel_make(asked, rows, layout, made));
    st = onednn_kernel_try(*made, strip != NULL ? strip : *made);
    if (st != EPF_OK) {
        kernel_destroy(*made);
    }
    return st;
}

/* The strip kernel that writes C and fixes the layout.  With AMX its strip is the shorter one. */
static epf_status make_layout(const onednn_shape *shape, onednn_kernel **made)
{
    EPF_TRY(kernel_make_tried(shape, AMX_STRIP, NULL, NULL, made));
    if ((*made)->strip == AMX_STRIP) {
        return EPF_OK;
    }
    kernel_destroy(*made);
    return kernel_make_tried(shape, STRIP, NULL, NULL, made);
}

/* The gradient packs such a source for every chunk of rows: worth keeping.  Destroys kernel if
 * it fails. */
static epf_status make_pack_kn(onednn_kernel *kernel)
{
    epf_status st = EPF_OK;
    const int64_t size[2] = {kernel->shape.k, kernel->shape.n};
    const int64_t stride[2] = {kernel->shape.n, 1};
    ONEDNN_TRY_GOTO(onednn_matrix_strided(&kernel->source_kn, kernel->shape.dtype, size, stride),
                    done);
    st = onednn_reorder_make(&kernel->source_kn, &kernel->weights, &kernel->pack_kn);

done:
    if (st != EPF_OK) {
        kernel_destroy(kernel);
    }
    return st;
}

epf_status onednn_kernel_of_block(const epf_gemm_block *block, const onednn_kernel **kernel)
{
    /* m = 0 stands for the strip, whose length is not known before. */
    const onednn_shape shape = {(int32_t)block->dtype, 0, block->n, block->k, 0};
    onednn_kernel *made = NULL;
    epf_status st;
    uint64_t slot;
    int saved;
    *kernel = find(&shape, &slot);
    if (*kernel != NULL) {
        return EPF_OK;
    }
    saved = onednn_scope_enter();
    st = make_layout(&shape, &made);
    if (st == EPF_OK) {
        st = make_pack_kn(made);
    }
    onednn_scope_leave(saved);
    EPF_TRY(st);
    *kernel = publish(made);
    return EPF_OK;
}

/* The strip kernel of a shape, writing or adding as the shape says. */
static epf_status strip_get(const onednn_shape *shape, const onednn_kernel *layout,
                            const onednn_kernel **kernel)
{
    const onednn_shape asked = {shape->dtype, 0, shape->n, shape->k, shape->accumulate};
    onednn_kernel *made = NULL;
    uint64_t slot;
    *kernel = find(&asked, &slot);
    if (*kernel == NULL) {
        EPF_TRY(kernel_make_tried(&asked, layout->strip, layout, NULL, &made));
        *kernel = publish(made);
    }
    return EPF_OK;
}

/* The number of rows for which a kernel exists, at or above m. */
static int32_t rows_for(int32_t m, const onednn_kernel *layout)
{
    int32_t rows = 1;
    if (m > ONEDNN_ROWS_MULTIPLE / 2 || layout->amx) {
        return (int32_t)epf_round_up(m, ONEDNN_ROWS_MULTIPLE);
    }
    while (rows < m) {
        rows *= 2;
    }
    return rows;
}

/* Tries m rows, then more, up to the strip. */
static epf_status kernel_get(const onednn_shape *shape, const onednn_kernel *layout,
                             const onednn_kernel **kernel)
{
    const onednn_kernel *strip;
    onednn_kernel *made = NULL;
    epf_status st = EPF_E_UNSUPPORTED;
    EPF_TRY(strip_get(shape, layout, &strip));
    for (int32_t rows = shape->m; rows <= strip->strip && st == EPF_E_UNSUPPORTED;
         rows = rows_for(rows + 1, layout)) {
        st = kernel_make_tried(shape, rows, layout, strip, &made);
    }
    onednn_kernel_release(strip);
    EPF_TRY(st);
    *kernel = publish(made);
    return EPF_OK;
}

epf_status onednn_kernel_get(const onednn_shape *shape, const onednn_kernel **kernel)
{
    epf_status st = EPF_OK;
    uint64_t slot;
    int saved;
    const onednn_kernel *layout;
    const epf_gemm_block block = {(epf_dtype)shape->dtype, shape->n, shape->k};
    onednn_shape rounded = *shape;
    EPF_TRY(onednn_kernel_of_block(&block, &layout));
    rounded.m = rows_for(shape->m, layout);
    *kernel = find(&rounded, &slot);
    if (*kernel == NULL) {
        saved = onednn_scope_enter();
        st = kernel_get(&rounded, layout, kernel);
        onednn_scope_leave(saved);
    }
    onednn_kernel_release(layout);
    return st;
}

void onednn_kernel_release(const onednn_kernel *kernel)
{
    if (kernel != NULL && !kernel->cached) {
        kernel_destroy((onednn_kernel *)(uintptr_t)kernel);
    }
}
