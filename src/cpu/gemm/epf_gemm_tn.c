/*
 * epf_gemm_tn.c: c = a^T x b over the rows of a and b, the weight gradient, on a provider's blocks.
 *
 * Rows are taken in chunks.  A chunk of b is packed like a weight of n columns and K = rows; the
 * same chunk of a is transposed to m rows of K.  The last chunk is filled up with rows of zeros to a
 * multiple of ROW_MULTIPLE, which adds nothing and keeps the number of shapes small.
 */
#include <string.h>

#include "base/epf_error.h"
#include "cpu/gemm/epf_convert.h"
#include "cpu/gemm/epf_gemm_internal.h"

enum {
    CHUNK_ROWS = 512,
    ROW_MULTIPLE = 64,
    TRANSPOSE = 16 /* side of the squares that a transposition moves: one cache line of fp32 */
};

/* What one call works with. */
typedef struct tn_job {
    const epf_gemm_tn_args *args;
    const epf_gemm_provider *provider;
    epf_gemm_scratch *scratch;
    epf_dtype compute;
    int64_t element; /* bytes of compute */
} tn_job;

static epf_status check_args(const epf_gemm_tn_args *args)
{
    EPF_CHECK_ARG(args->rows >= 0, "GEMM tn: rows is %lld, must not be negative",
                  (long long)args->rows);
    EPF_CHECK_ARG(args->m >= 1 && args->n >= 1, "GEMM tn: m %d and n %d must be at least 1", args->m,
                  args->n);
    EPF_CHECK_ARG(args->c != NULL && (args->rows == 0 || (args->a != NULL && args->b != NULL)),
                  "GEMM tn: a, b or c is NULL");
    EPF_CHECK_ARG(args->lda >= args->m && args->ldb >= args->n && args->ldc >= args->n,
                  "GEMM tn: lda %lld, ldb %lld, ldc %lld must be at least %d, %d, %d",
                  (long long)args->lda, (long long)args->ldb, (long long)args->ldc, args->m, args->n,
                  args->n);
    return EPF_OK;
}

/* A dense copy [padded_rows, width] in the compute type, zeros past `rows`. */
static void gather(const tn_job *job, void *to, const void *from, int64_t stride, const int64_t size[3])
{
    const int64_t rows = size[0];
    const int64_t padded_rows = size[1];
    const int64_t width = size[2];
    char *out = to;
    for (int64_t row = 0; row < rows; row++) {
        const void *in = epf_gemm_at(from, job->args->dtype, row * stride);
        if (job->compute == job->args->dtype) {
            memcpy(out + row * width * job->element, in, (size_t)(width * job->element));
        } else {
            epf_convert_to_f32((float *)(void *)(out + row * width * job->element), in,
                               job->args->dtype, width);
        }
    }
    memset(out + rows * width * job->element, 0,
           (size_t)((padded_rows - rows) * width * job->element));
}

#define DEFINE_TRANSPOSE(name, type)                                                              \
    static void name(type *to, const type *from, int64_t rows, int64_t width)                     \
    {                                                                                             \
        for (int64_t r0 = 0; r0 < rows; r0 += TRANSPOSE) {                                        \
            const int64_t r1 = epf_min64(r0 + TRANSPOSE, rows);                                   \
            for (int64_t column = 0; column < width; column++) {                                  \
                for (int64_t row = r0; row < r1; row++) {                                         \
                    to[column * rows + row] = from[row * width + column];                         \
                }                                                                                 \
            }                                                                                     \
        }                                                                                         \
    }
DEFINE_TRANSPOSE(transpose_32, uint32_t)
DEFINE_TRANSPOSE(transpose_16, uint16_t)

/* rows [row0, row0 + rows) of a, as [m, padded_rows] in SLOT_A. */
static epf_status transpose_a(const tn_job *job, int64_t row0, const int64_t size[3], void **made)
{
    const epf_gemm_tn_args *args = job->args;
    const uint64_t bytes = (uint64_t)(size[1] * size[2] * job->element);
    void *dense;
    EPF_TRY(epf_gemm_scratch_get(job->scratch, EPF_GEMM_SLOT_SOURCE, bytes, &dense));
    EPF_TRY(epf_gemm_scratch_get(job->scratch, EPF_GEMM_SLOT_A, bytes, made));
    gather(job, dense, epf_gemm_at(args->a, args->dtype, row0 * args->lda), args->lda, size);
    if (job->element == (int64_t)sizeof(uint32_t)) {
        transpose_32(*made, dense, size[1], size[2]);
    } else {
        transpose_16(*made, dense, size[1], size[2]);
    }
    return EPF_OK;
}

/* The same rows of b, packed in SLOT_B. */
static epf_status pack_b(const tn_job *job, int64_t row0, const int64_t size[3], void **made)
{
    const epf_gemm_tn_args *args = job->args;
    const epf_gemm_block block = {job->compute, args->n, (int32_t)size[1]};
    epf_gemm_source source = {NULL, size[2], false};
    uint64_t bytes;
    void *dense;
    EPF_TRY(job->provider->packed_bytes(&block, &bytes));
    EPF_TRY(epf_gemm_scratch_get(job->scratch, EPF_GEMM_SLOT_SOURCE,
                                 (uint64_t)(size[1] * size[2] * job->element), &dense));
    EPF_TRY(epf_gemm_scratch_get(job->scratch, EPF_GEMM_SLOT_B, bytes, made));
    gather(job, dense, epf_gemm_at(args->b, args->dtype, row0 * args->ldb), args->ldb, size);
    source.data = dense;
    return job->provider->pack(&block, &source, *made, job->scratch);
}

static epf_status add_chunk(const tn_job *job, int64_t row0)
{
    const epf_gemm_tn_args *args = job->args;
    const int64_t rows = epf_min64(CHUNK_ROWS, args->rows - row0);
    const int64_t padded_rows = epf_round_up(rows, ROW_MULTIPLE);
    const int64_t a_size[3] = {rows, padded_rows, args->m};
    const int64_t b_size[3] = {rows, padded_rows, args->n};
    epf_gemm_product product = {.block = {job->compute, args->n, (int32_t)padded_rows},
                                .accumulate = row0 > 0,
                                .m = args->m,
                                .lda = padded_rows,
                                .c = args->c,
                                .ldc = args->ldc};
    void *a;
    void *b;
    EPF_TRY(transpose_a(job, row0, a_size, &a));
    EPF_TRY(pack_b(job, row0, b_size, &b));
    product.a = a;
    product.packed = b;
    return job->provider->multiply(&product, job->scratch);
}

epf_status epf_gemm_tn(const epf_gemm_tn_args *args, epf_gemm_scratch *scratch)
{
    tn_job job = {.args = args, .scratch = scratch};
    bool widened;
    EPF_CHECK_ARG(args != NULL && scratch != NULL, "epf_gemm_tn: NULL argument");
    EPF_TRY(check_args(args));
    EPF_TRY(epf_gemm_provider_resolve(args->kind, args->dtype, &job.provider, &widened));
    job.compute = widened ? EPF_DTYPE_F32 : args->dtype;
    job.element = epf_dtype_bytes((int32_t)job.compute);
    if (args->rows == 0) {
        for (int64_t row = 0; row < args->m; row++) {
            memset(args->c + row * args->ldc, 0, (size_t)args->n * sizeof(float));
        }
    }
    for (int64_t row0 = 0; row0 < args->rows; row0 += CHUNK_ROWS) {
        EPF_TRY(add_chunk(&job, row0));
    }
    return EPF_OK;
}
