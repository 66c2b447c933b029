#include "gemm_case.h"
#include "base/epf_error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/epf_half.h"

const epf_gemm_kind gemm_kinds[3] = {EPF_GEMM_ONEDNN, EPF_GEMM_LIBXSMM, EPF_GEMM_PORTABLE};
const epf_dtype gemm_dtypes[3] = {EPF_DTYPE_F32, EPF_DTYPE_BF16, EPF_DTYPE_F16};

bool gemm_kind_usable(epf_gemm_kind kind, epf_dtype dtype)
{
    static bool told[8][8];
    epf_gemm_provider_info info;
    CHECK_OK(epf_gemm_provider_query(kind, dtype, &info));
    if (!told[kind][dtype]) {
        told[kind][dtype] = true;
        (void)printf("%s %s: %s%s\n", epf_gemm_kind_name(kind), epf_dtype_name((int32_t)dtype),
                     info.text, info.widened ? ", widened" : "");
    }
    return info.usable;
}

const char *gemm_case_name(const gemm_case *p)
{
    static char name[160];
    (void)snprintf(name, sizeof name, "%s %s L%d N%lld K%lld S%d %s block %d x %d gap %d%s%s",
                   epf_gemm_kind_name(p->kind), epf_dtype_name((int32_t)p->dtype), p->num_experts,
                   (long long)p->n, (long long)p->k, p->num_segments,
                   p->reduce_last_dim ? "nk" : "kn", p->block_n, p->block_k, p->row_gap,
                   p->matrices ? " matrices" : "", p->normal ? " normal" : "");
    return name;
}

double gemm_store(void *data, epf_dtype dtype, int64_t index, double value)
{
    if (dtype == EPF_DTYPE_F32) {
        ((float *)data)[index] = (float)value;
        return (double)(float)value;
    }
    if (dtype == EPF_DTYPE_BF16) {
        const uint16_t bits = epf_bf16_from_f32((float)value);
        ((uint16_t *)data)[index] = bits;
        return (double)epf_bf16_to_f32(bits);
    }
    {
        const uint16_t bits = epf_f16_from_f32((float)value);
        ((uint16_t *)data)[index] = bits;
        return (double)epf_f16_to_f32(bits);
    }
}

double gemm_draw(epf_rng *rng, bool normal)
{
    return normal ? epf_rng_normal(rng) : (double)epf_rng_range(rng, -2, 2);
}

/* Where element (column, k) of an expert's B lies in the tensor given to the library. */
static int64_t place(const gemm_case *p, int64_t row_stride, int64_t expert, const int64_t at[2])
{
    const int64_t rows = p->reduce_last_dim ? p->n : p->k;
    const int64_t first = expert * rows * row_stride;
    return first + (p->reduce_last_dim ? at[0] * row_stride + at[1] : at[1] * row_stride + at[0]);
}

static void fill_weight(gemm_weight *w, int64_t row_stride, uint64_t seed)
{
    const gemm_case *p = &w->problem;
    epf_rng rng = epf_rng_make(seed, 1);
    for (int64_t expert = 0; expert < p->num_experts; expert++) {
        for (int64_t column = 0; column < p->n; column++) {
            for (int64_t k = 0; k < p->k; k++) {
                const int64_t at[2] = {column, k};
                w->b[(expert * p->n + column) * p->k + k] =
                    gemm_store(w->data, p->dtype, place(p, row_stride, expert, at),
                               gemm_draw(&rng, p->normal));
            }
        }
    }
}

static void point_at_matrices(gemm_weight *w, int64_t row_stride)
{
    const gemm_case *p = &w->problem;
    const int64_t bytes = epf_dtype_bytes((int32_t)p->dtype);
    for (int32_t expert = 0; expert < p->num_experts; expert++) {
        for (int32_t segment = 0; segment < p->num_segments; segment++) {
            const int64_t at[2] = {segment * (p->n / p->num_segments), 0};
            w->matrices[expert * p->num_segments + segment] =
                (const char *)w->data + place(p, row_stride, expert, at) * bytes;
        }
    }
}

epf_status gemm_weight_create_or_auto(const epf_gemm_weight_desc *desc, epf_gemm_weight **weight)
{
    epf_gemm_weight_desc other = *desc;
    const epf_status st = epf_gemm_weight_create(desc, weight);
    if (st != EPF_E_UNSUPPORTED || strstr(epf_error_text(), "in another order") == NULL) {
        return st;
    }
    printf("refused, and left to AUTO: %s\n", epf_error_text());
    other.kind = EPF_GEMM_AUTO;
    return epf_gemm_weight_create(&other, weight);
}

gemm_weight gemm_weight_make(const gemm_case *p, uint64_t seed)
{
    const int64_t row_stride = (p->reduce_last_dim ? p->k : p->n) + p->row_gap;
    const int64_t rows = p->reduce_last_dim ? p->n : p->k;
    gemm_weight w = {.problem = *p};
    epf_gemm_weight_desc desc = {.kind = p->kind,
                                 .dtype = p->dtype,
                                 .num_experts = p->num_experts,
                                 .n = p->n,
                                 .k = p->k,
                                 .reduce_last_dim = p->reduce_last_dim,
                                 .row_stride = row_stride,
                                 .num_segments = p->num_segments,
                                 .block_n = p->block_n,
                                 .block_k = p->block_k};
    w.b = epf_test_alloc((size_t)(p->num_experts * p->n * p->k), sizeof *w.b);
    w.data = epf_test_alloc((size_t)(p->num_experts * rows * row_stride),
                            (size_t)epf_dtype_bytes((int32_t)p->dtype));
    w.matrices = epf_test_alloc((size_t)(p->num_experts * p->num_segments), sizeof *w.matrices);
    fill_weight(&w, row_stride, seed);
    point_at_matrices(&w, row_stride);
    if (p->matrices) {
        desc.matrix_data = w.matrices;
    } else {
        desc.data = w.data;
    }
    CHECK_OK(gemm_weight_create_or_auto(&desc, &w.weight));
    CHECK_OK(epf_gemm_scratch_create(&w.scratch));
    w.info = epf_gemm_weight_get_info(w.weight);
    return w;
}

void gemm_weight_free(gemm_weight *w)
{
    epf_gemm_weight_destroy(w->weight);
    epf_gemm_scratch_destroy(w->scratch);
    free(w->b);
    free(w->data);
    free(w->matrices);
}

gemm_rows gemm_rows_make(epf_dtype dtype, const int64_t size[3], bool normal, uint64_t seed)
{
    const int64_t width = size[1];
    epf_rng rng = epf_rng_make(seed, 2);
    gemm_rows rows = {.stride = size[2]};
    rows.data =
        epf_test_alloc((size_t)(size[0] * size[2]), (size_t)epf_dtype_bytes((int32_t)dtype));
    rows.value = epf_test_alloc((size_t)(size[0] * width), sizeof *rows.value);
    for (int64_t row = 0; row < size[0]; row++) {
        for (int64_t i = 0; i < size[2]; i++) {
            /* what lies between the rows must not be used */
            const double value = i < width ? gemm_draw(&rng, normal) : (double)NAN;
            const double stored = gemm_store(rows.data, dtype, row * size[2] + i, value);
            if (i < width) {
                rows.value[row * width + i] = stored;
            }
        }
    }
    return rows;
}

void gemm_rows_free(gemm_rows *rows)
{
    free(rows->data);
    free(rows->value);
}

void gemm_run(const gemm_weight *w, const epf_gemm_tile_args *args)
{
    CHECK_OK(epf_gemm_tile(w->weight, args, w->scratch));
}

int64_t gemm_first_column(const gemm_weight *w, int32_t segment, int32_t n_tile)
{
    return segment * w->info.segment_n + (int64_t)n_tile * w->info.block_n;
}
