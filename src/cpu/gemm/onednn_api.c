/* onednn_api.c: oneDNN 2.x and 3.x behind one face. */
#include "cpu/gemm/onednn_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "base/epf_error.h"

static onednn_context context;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int (*get_max_threads)(void);
static void (*set_num_threads)(int);

/* The OpenMP runtime that the library itself brought, whichever it is. */
static bool find_openmp(void)
{
    void *get = dlsym(RTLD_DEFAULT, "omp_get_max_threads");
    void *set = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&get_max_threads, &get, sizeof get);
    memcpy(&set_num_threads, &set, sizeof set);
    return get != NULL && set != NULL;
}

static const char *unusable_runtime(void)
{
    const dnnl_version_t *version = dnnl_version();
    if (version->major != DNNL_VERSION_MAJOR) {
        return "the library's major version is not the header's";
    }
    if (version->cpu_runtime == DNNL_RUNTIME_SEQ) {
        return NULL;
    }
    if (version->cpu_runtime != DNNL_RUNTIME_OMP) {
        return "it is built over a thread runtime that cannot be kept on the calling thread";
    }
    return find_openmp() ? NULL : "its OpenMP runtime cannot be found";
}

static void make_context(void)
{
    context.status = EPF_E_UNSUPPORTED;
    context.why = unusable_runtime();
    if (context.why != NULL) {
        return;
    }
    if (dnnl_engine_create(&context.engine, dnnl_cpu, 0) != dnnl_success) {
        context.why = "it has no CPU engine";
        return;
    }
    if (dnnl_stream_create(&context.stream, context.engine, dnnl_stream_default_flags) !=
        dnnl_success) {
        (void)dnnl_engine_destroy(context.engine);
        context.why = "its CPU engine gave no stream";
        return;
    }
    context.status = EPF_OK;
}

const onednn_context *onednn_context_get(void)
{
    (void)pthread_once(&once, make_context);
    return &context;
}

int onednn_scope_enter(void)
{
    int saved = 0;
    if (get_max_threads != NULL) {
        saved = get_max_threads();
        if (saved != 1) {
            set_num_threads(1);
        }
    }
    return saved;
}

void onednn_scope_leave(int saved)
{
    if (saved > 1) {
        set_num_threads(saved);
    }
}

epf_status onednn_fail(dnnl_status_t status, const char *what)
{
    const epf_status ours = status == dnnl_out_of_memory   ? EPF_E_NO_MEMORY
                            : status == dnnl_unimplemented ? EPF_E_UNSUPPORTED
                                                           : EPF_E_INTERNAL;
    return EPF_FAIL(ours, "oneDNN: %.200s gave status %d", what, (int)status);
}

static dnnl_data_type_t data_type(int32_t dtype)
{
    return dtype == EPF_DTYPE_BF16 ? dnnl_bf16 : dtype == EPF_DTYPE_F16 ? dnnl_f16 : dnnl_f32;
}

#if DNNL_VERSION_MAJOR >= 3

dnnl_status_t onednn_matrix_strided(onednn_matrix *matrix, int32_t dtype, const int64_t size[2],
                                    const int64_t stride[2])
{
    const dnnl_dims_t dims = {size[0], size[1]};
    const dnnl_dims_t strides = {stride[0], stride[1]};
    return dnnl_memory_desc_create_with_strides(&matrix->desc, 2, dims, data_type(dtype), strides);
}

static dnnl_status_t matrix_any(onednn_matrix *matrix, int32_t dtype, const int64_t size[2])
{
    const dnnl_dims_t dims = {size[0], size[1]};
    return dnnl_memory_desc_create_with_tag(&matrix->desc, 2, dims, data_type(dtype),
                                            dnnl_format_tag_any);
}

static dnnl_status_t matrix_copy(onednn_matrix *matrix, const onednn_matrix *from)
{
    return dnnl_memory_desc_clone(&matrix->desc, from->desc);
}

void onednn_matrix_destroy(onednn_matrix *matrix)
{
    if (matrix->desc != NULL) {
        (void)dnnl_memory_desc_destroy(matrix->desc);
        matrix->desc = NULL;
    }
}

dnnl_status_t onednn_matrix_query(const_dnnl_primitive_desc_t desc, dnnl_query_t what,
                                  onednn_matrix *matrix)
{
    return dnnl_memory_desc_clone(&matrix->desc, dnnl_primitive_desc_query_md(desc, what, 0));
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}

static dnnl_status_t make_desc(dnnl_primitive_desc_t *made, const onednn_matrix operand[3],
                               const_dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(made, context.engine, operand[0].desc, operand[1].desc,
                                             NULL, operand[2].desc, attr);
}

#else

dnnl_status_t onednn_matrix_strided(onednn_matrix *matrix, int32_t dtype, const int64_t size[2],
                                    const int64_t stride[2])
{
    const dnnl_dims_t dims = {size[0], size[1]};
    const dnnl_dims_t strides = {stride[0], stride[1]};
    return dnnl_memory_desc_init_by_strides(&matrix->desc, 2, dims, data_type(dtype), strides);
}

static dnnl_status_t matrix_any(onednn_matrix *matrix, int32_t dtype, const int64_t size[2])
{
    const dnnl_dims_t dims = {size[0], size[1]};
    return dnnl_memory_desc_init_by_tag(&matrix->desc, 2, dims, data_type(dtype),
                                        dnnl_format_tag_any);
}

static dnnl_status_t matrix_copy(onednn_matrix *matrix, const onednn_matrix *from)
{
    *matrix = *from;
    return dnnl_success;
}

void onednn_matrix_destroy(onednn_matrix *matrix)
{
    (void)matrix;
}

dnnl_status_t onednn_matrix_query(const_dnnl_primitive_desc_t desc, dnnl_query_t what,
                                  onednn_matrix *matrix)
{
    matrix->desc = *dnnl_primitive_desc_query_md(desc, what, 0);
    return dnnl_success;
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f);
}

static dnnl_status_t make_desc(dnnl_primitive_desc_t *made, const onednn_matrix operand[3],
                               const_dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t desc;
    const dnnl_status_t status =
        dnnl_matmul_desc_init(&desc, &operand[0].desc, &operand[1].desc, NULL, &operand[2].desc);
    if (status != dnnl_success) {
        return status;
    }
    return dnnl_primitive_desc_create(made, &desc, attr, context.engine, NULL);
}

#endif

size_t onednn_matrix_bytes(const onednn_matrix *matrix)
{
    return dnnl_memory_desc_get_size(ONEDNN_DESC(matrix));
}

const char *onednn_implementation(const_dnnl_primitive_desc_t desc)
{
    const char *name = NULL;
    if (dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &name) != dnnl_success) {
        return "";
    }
    return name != NULL ? name : "";
}

/* The caller's scratchpad, so that threads may share the primitive; a sum where C is added to. */
static epf_status make_attributes(const onednn_shape *shape, dnnl_primitive_attr_t *made)
{
    epf_status st = EPF_OK;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    ONEDNN_TRY_GOTO(dnnl_primitive_attr_create(&attr), err_attr);
    ONEDNN_TRY_GOTO(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user),
                    err_attr);
    if (shape->accumulate != 0) {
        ONEDNN_TRY_GOTO(dnnl_post_ops_create(&ops), err_attr);
        ONEDNN_TRY_GOTO(append_sum(ops), err_attr);
        ONEDNN_TRY_GOTO(dnnl_primitive_attr_set_post_ops(attr, ops), err_attr);
        (void)dnnl_post_ops_destroy(ops);
    }
    *made = attr;
    return EPF_OK;

err_attr:
    if (ops != NULL) {
        (void)dnnl_post_ops_destroy(ops);
    }
    if (attr != NULL) {
        (void)dnnl_primitive_attr_destroy(attr);
    }
    return st;
}

static dnnl_status_t make_operands(const onednn_shape *shape, const onednn_matrix *weights,
                                   onednn_matrix operand[3])
{
    const int64_t size[3][2] = {{shape->m, shape->k}, {shape->k, shape->n}, {shape->m, shape->n}};
    const int64_t stride[3][2] = {{shape->k, 1}, {0, 0}, {shape->n, 1}};
    dnnl_status_t status = onednn_matrix_strided(&operand[0], shape->dtype, size[0], stride[0]);
    if (status == dnnl_success) {
        status = weights != NULL ? matrix_copy(&operand[1], weights)
                                 : matrix_any(&operand[1], shape->dtype, size[1]);
    }
    if (status == dnnl_success) {
        status = onednn_matrix_strided(&operand[2], EPF_DTYPE_F32, size[2], stride[2]);
    }
    return status;
}

epf_status onednn_matmul_desc(const onednn_shape *shape, const onednn_matrix *weights,
                              dnnl_primitive_desc_t *made)
{
    epf_status st = EPF_OK;
    onednn_matrix operand[3];
    dnnl_primitive_attr_t attr = NULL;
    memset(operand, 0, sizeof operand);
    EPF_TRY(make_attributes(shape, &attr));
    ONEDNN_TRY_GOTO(make_operands(shape, weights, operand), done);
    ONEDNN_TRY_GOTO(make_desc(made, operand, attr), done);

done:
    for (int i = 0; i < 3; i++) {
        onednn_matrix_destroy(&operand[i]);
    }
    (void)dnnl_primitive_attr_destroy(attr);
    return st;
}

epf_status onednn_reorder_make(const onednn_matrix *from, const onednn_matrix *to,
                               dnnl_primitive_t *made)
{
    epf_status st = EPF_OK;
    dnnl_primitive_desc_t desc = NULL;
    ONEDNN_TRY_GOTO(dnnl_reorder_primitive_desc_create(&desc, ONEDNN_DESC(from), context.engine,
                                                       ONEDNN_DESC(to), context.engine, NULL),
                    done);
    ONEDNN_TRY_GOTO(dnnl_primitive_create(made, desc), done);

done:
    if (desc != NULL) {
        (void)dnnl_primitive_desc_destroy(desc);
    }
    return st;
}
