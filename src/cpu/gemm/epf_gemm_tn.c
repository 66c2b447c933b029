/*
 * epf_gemm_tn.c: c = a^T x b over the rows of a and b, the weight gradient, on a provider's blocks.
 *
 * Rows are taken in chunks.  A chunk of b is packed like a weight of n columns and K = rows; the
 * same chunk of a is transposed to m rows of K.  The last chunk is filled up with rows of zeros to
 * a multiple of ROW_MULTIPLE, which adds nothing and keeps the number of shapes small.
 */
#include <string.h>

#include "base/epf_error.h"
#include "cpu/gemm/epf_convert.h"
#include "cpu/gemm/epf_gemm_internal.h"

enum { CHUNK_ROWS = 512, ROW_MULTIPLE = 64 };

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
    EPF_CHECK_ARG(args->m >= 1 && args->n >= 1, "GEMM tn: m %d and n %d must be at least 1",
                  args->m, args->n);
    EPF_CHECK_ARG(args->c != NULL && (args->rows == 0 || (args->a != NULL && args->b != NULL)),
                  "GEMM tn: a, b or c is NULL");
    EPF_CHECK_ARG(args->lda >= args->m && args->ldb >= args->n && args->ldc >= args->n,
                  "GEMM tn: lda %lld, ldb %lld, ldc %lld must be at least %d, %d, %d",
                  (long long)args->lda, (long long)args->ldb, (long long)args->ldc, args->m,
                  args->n, args->n);
    return EPF_OK;
}

/* A dense copy [padded_rows, width] in the compute type, zeros past `rows`. */
static void gather(const tn_job *job, void *to, const void *from, int64_t stride,
                   const int64_t size[3])
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

/* Shapes of a transposition: to[column * to_stride + row] = from[row * from_stride + column]. */
typedef struct flip {
    int64_t rows, width;
    int64_t to_stride, from_stride;
} flip;

typedef uint16_t half_vector __attribute__((vector_size(16)));
typedef uint32_t word_vector __attribute__((vector_size(16)));

/*
 * A square of `side` vectors.  Interleaving row i with row i + side / 2, for all i, log2(side)
 * times is a transposition.
 */
#define DEFINE_SQUARE(name, type, vector, side, rounds, low, high)     \
    static inline void name(type *to, const type *from, const flip *f) \
    {                                                                  \
        vector r[side];                                                \
        vector s[side];                                                \
        for (int i = 0; i < (side); i++) {                             \
            memcpy(&r[i], from + i * f->from_stride, sizeof r[i]);     \
        }                                                              \
        for (int round = 0; round < (rounds); round++) {               \
            for (int i = 0; i < (side) / 2; i++) {                     \
                s[2 * i] = low(r[i], r[i + (side) / 2]);               \
                s[2 * i + 1] = high(r[i], r[i + (side) / 2]);          \
            }                                                          \
            memcpy(r, s, sizeof r);                                    \
        }                                                              \
        for (int i = 0; i < (side); i++) {                             \
            memcpy(to + i * f->to_stride, &r[i], sizeof r[i]);         \
        }                                                              \
    }

#define LOW_16(x, y) __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH_16(x, y) __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15)
#define LOW_32(x, y) __builtin_shufflevector(x, y, 0, 4, 1, 5)
#define HIGH_32(x, y) __builtin_shufflevector(x, y, 2, 6, 3, 7)
DEFINE_SQUARE(square_16, uint16_t, half_vector, 8, 3, LOW_16, HIGH_16)
DEFINE_SQUARE(square_32, uint32_t, word_vector, 4, 2, LOW_32, HIGH_32)

#define DEFINE_TRANSPOSE(name, type, square, side)                                                 \
    static void name(type *to, const type *from, const flip *f)                                    \
    {                                                                                              \
        const int64_t rows = f->rows / (side) * (side);                                            \
        const int64_t width = f->width / (side) * (side);                                          \
        for (int64_t column = 0; column < width; column += (side)) {                               \
            for (int64_t row = 0; row < rows; row += (side)) {                                     \
                square(to + column * f->to_stride + row, from + row * f->from_stride + column, f); \
            }                                                                                      \
        }                                                                                          \
        for (int64_t column = 0; column < f->width; column++) {                                    \
            for (int64_t row = column < width ? rows : 0; row < f->rows; row++) {                  \
                to[column * f->to_stride + row] = from[row * f->from_stride + column];             \
            }                                                                                      \
        }                                                                                          \
    }
DEFINE_TRANSPOSE(transpose_16, uint16_t, square_16, 8)
DEFINE_TRANSPOSE(transpose_32, uint32_t, square_32, 4)

/* Rows [row0, row0 + rows) of a, as [m, padded_rows] in SLOT_A, zeros past `rows`. */
static epf_status transpose_a(const tn_job *job, int64_t row0, const int64_t size[3], void **made)
{
    const epf_gemm_tn_args *args = job->args;
    const int64_t row_bytes = size[1] * job->element;
    const void *from = epf_gemm_at(args->a, args->dtype, row0 * args->lda);
    flip f = {size[0], size[2], size[1], args->lda};
    EPF_TRY(
        epf_gemm_scratch_get(job->scratch, EPF_GEMM_SLOT_A, (uint64_t)(size[2] * row_bytes), made));
    if (job->compute != args->dtype) {
        const int64_t unpadded[3] = {size[0], size[0], size[2]};
        void *dense;
        EPF_TRY(epf_gemm_scratch_get(job->scratch, EPF_GEMM_SLOT_SOURCE,
                                     (uint64_t)(size[0] * size[2] * job->element), &dense));
        gather(job, dense, from, args->lda, unpadded);
        from = dense;
        f.from_stride = size[2];
    }
    for (int64_t column = 0; column < size[2] && size[0] < size[1]; column++) {
        memset((char *)*made + column * row_bytes + size[0] * job->element, 0,
               (size_t)((size[1] - size[0]) * job->element));
    }
    if (job->element == (int64_t)sizeof(uint32_t)) {
        transpose_32(*made, from, &f);
    } else {
        transpose_16(*made, from, &f);
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

static epf_status run(const epf_gemm_tn_args *args, epf_gemm_kind kind, epf_gemm_scratch *scratch)
{
    tn_job job = {.args = args, .scratch = scratch};
    bool widened;
    EPF_TRY(epf_gemm_provider_resolve(kind, args->dtype, &job.provider, &widened));
    job.compute = widened ? EPF_DTYPE_F32 : args->dtype;
    job.element = epf_dtype_bytes((int32_t)job.compute);
    for (int64_t row0 = 0; row0 < args->rows; row0 += CHUNK_ROWS) {
        EPF_TRY(add_chunk(&job, row0));
    }
    return EPF_OK;
}

epf_status epf_gemm_tn(const epf_gemm_tn_args *args, epf_gemm_scratch *scratch)
{
    epf_status st = EPF_E_UNSUPPORTED;
    EPF_CHECK_ARG(args != NULL && scratch != NULL, "epf_gemm_tn: NULL argument");
    EPF_TRY(check_args(args));
    if (args->rows == 0) {
        for (int64_t row = 0; row < args->m; row++) {
            memset(args->c + row * args->ldc, 0, (size_t)args->n * sizeof(float));
        }
    }
    for (int32_t index = 0; st == EPF_E_UNSUPPORTED; index++) {
        epf_gemm_kind kind;
        EPF_TRY(epf_gemm_choice(args->kind, args->dtype, index, &kind));
        st = run(args, kind, scratch);
    }
    return st;
}
