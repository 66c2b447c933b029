/*
 * gemm_case.h: one weight with random contents, its double copy, and products to compare with.
 */
#ifndef GEMM_CASE_H
#define GEMM_CASE_H

#include "core/epf_dtype.h"
#include "cpu/gemm/epf_gemm.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

typedef struct gemm_case {
    epf_gemm_kind kind;
    epf_dtype dtype;
    int32_t num_experts;
    int64_t n, k;
    int32_t num_segments;
    bool reduce_last_dim;
    int32_t block_n, block_k;
    int32_t row_gap; /* elements between rows of the weight beyond dense */
    bool matrices;   /* one pointer per matrix instead of one tensor      */
    bool normal;     /* normal numbers instead of small integers           */
} gemm_case;

typedef struct gemm_weight {
    gemm_case problem;
    double *b; /* [L, N, K] whatever the layout given to the library */
    void *data;
    const void **matrices;
    epf_gemm_weight *weight;
    epf_gemm_weight_info info;
    epf_gemm_scratch *scratch;
} gemm_weight;

/* Providers of the list, built in and usable for dtype; prints those that are not, once per
 * program. */
bool gemm_kind_usable(epf_gemm_kind kind, epf_dtype dtype);
extern const epf_gemm_kind gemm_kinds[3];
extern const epf_dtype gemm_dtypes[3];

/* "onednn bf16 L2 N48 K64 ..." */
const char *gemm_case_name(const gemm_case *problem);

gemm_weight gemm_weight_make(const gemm_case *problem, uint64_t seed);
void gemm_weight_free(gemm_weight *w);

/* value, rounded to dtype, stored at data[index]; returns what was stored. */
double gemm_store(void *data, epf_dtype dtype, int64_t index, double value);
/* A value of the case's kind. */
double gemm_draw(epf_rng *rng, bool normal);

/* [rows, width] of dtype, stride apart, and its double copy [rows, width]; both to be freed. */
typedef struct gemm_rows {
    void *data;
    double *value;
    int64_t stride;
} gemm_rows;
gemm_rows gemm_rows_make(epf_dtype dtype, const int64_t size[3], bool normal, uint64_t seed);
void gemm_rows_free(gemm_rows *rows);

/* c[m, panel] from the library. */
void gemm_run(const gemm_weight *w, const epf_gemm_tile_args *args);
/* Columns before panel (segment, n_tile) in N. */
int64_t gemm_first_column(const gemm_weight *w, int32_t segment, int32_t n_tile);

/* As epf_gemm_weight_create(); a shape that a library refuses, since it would sum its rows unlike (oneDNN 3.7
 * with AMX does), is said and left to AUTO's next choice. */
epf_status gemm_weight_create_or_auto(const epf_gemm_weight_desc *desc, epf_gemm_weight **weight);

#endif
