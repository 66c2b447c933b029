/*
 * epf_gemm.h: the tile product of the CPU backend, over one of several libraries.
 *
 * A weight object holds the B of a grouped GEMM, packed once:
 *
 *     expert e, segment s, n_tile j   ->   panel [columns, K]
 *
 * Columns of a segment are cut into n_tiles of block_n, the last one shorter.  With two segments
 * (gate | up) each half is cut on its own, so that n_tile j of both halves holds the same columns
 * of the activation.  epf_gemm_tile() multiplies rows by one panel; epf_gemm_tn() is the weight
 * gradient.
 *
 * Letters   m rows of a tile; N columns and K reduction length of the weight, multiples of 8;
 *           L experts.
 * Numerics  fp32 accumulation over all of K, fp32 result, the caller rounds.  The bits of a result
 *           row depend only on that row of A, the panel, and the provider and blocks of the weight:
 *           not on m, not on other rows, not on the thread.
 * Threads   every call does its work on the calling thread and starts none.  Any number of threads
 *           may use one weight at once, each with its own scratch.
 * Memory    nothing is read or written outside the matrices that the arguments describe.  What lies
 *           between their rows (lda > K) may hold anything, and need not exist after the last row.
 * Speed     a, b, c need the alignment of their element type only.  Nothing is copied where
 *           lda == K and ldc == panel_n.
 */
#ifndef EPF_GEMM_H
#define EPF_GEMM_H

#include "core/epf_base.h"
#include "epfuse/epfuse_dtype.h"
#include "epfuse/epfuse_status.h"

/* AUTO is a choice per dtype and machine; the environment variable EPFUSE_GEMM (a name of this
 * list) replaces AUTO, never an explicit kind. */
#define EPF_GEMM_KIND_MAP(X)          \
    X(EPF_GEMM_AUTO, 0, "auto")       \
    X(EPF_GEMM_ONEDNN, 1, "onednn")   \
    X(EPF_GEMM_LIBXSMM, 2, "libxsmm") \
    X(EPF_GEMM_PORTABLE, 3, "portable")

typedef enum epf_gemm_kind {
#define X(name, value, text) name = (value),
    EPF_GEMM_KIND_MAP(X)
#undef X
} epf_gemm_kind;

typedef struct epf_gemm_weight epf_gemm_weight;   /* packed B of one grouped GEMM             */
typedef struct epf_gemm_scratch epf_gemm_scratch; /* a thread's working memory; grows, is kept */

/* B as the caller holds it.  Start from {0}. */
typedef struct epf_gemm_weight_desc {
    epf_gemm_kind kind;    /* provider                                                        */
    epf_dtype dtype;       /* of A and B: F32, BF16 or F16                                     */
    int32_t num_experts;   /* L >= 1                                                           */
    int64_t n;             /* N: columns of the result, over all segments                      */
    int64_t k;             /* K: reduction length                                              */
    bool reduce_last_dim;  /* true: data is [L, N, K]; false: [L, K, N]                        */
    int64_t expert_stride; /* elements from expert to expert; 0: dense                         */
    int64_t row_stride;    /* elements from row to row of one expert; 0: dense                 */
    const void *data;      /* expert 0, or NULL when matrix_data is given                      */
    /* Instead of data: [L * num_segments] pointers, entry e * num_segments + s is the first element
     * of that expert's segment, [N / num_segments, K] or [K, N / num_segments], rows row_stride
     * apart (0: dense within the segment).  The array must live as long as packing goes on. */
    const void *const *matrix_data;
    int32_t num_segments; /* 1 (also 0), or 2 for gate | up: N / 2 columns each, a multiple of 8 */
    int32_t block_n;      /* columns of a panel, a multiple of 8; 0: 256                          */
    int32_t block_k; /* K is summed in chunks of this, a multiple of 8; 0: the provider's choice */
    bool defer_pack; /* create() packs nothing: the caller packs every panel before its use  */
} epf_gemm_weight_desc;

typedef struct epf_gemm_weight_info {
    epf_gemm_kind kind;    /* the provider in use, never AUTO                      */
    bool widened;          /* panels are kept in fp32 although dtype is narrower   */
    int32_t strip_rows;    /* rows that are multiplied at a time; 0: whatever a tile has */
    int32_t num_segments;  /* 1 or 2                                               */
    int32_t num_n_tiles;   /* panels per segment                                   */
    int32_t block_n;       /* columns of all but a segment's last panel            */
    int32_t block_k;       /* chunk of K in use; K itself when it is not cut       */
    int64_t segment_n;     /* columns of a segment: N / num_segments               */
    uint64_t packed_bytes; /* memory of the packed weight                          */
} epf_gemm_weight_info;

/**
 * Makes a weight object and, unless desc->defer_pack, packs all of it on this thread.  The caller's
 * tensors are not needed once they are packed.
 *
 * @return EPF_E_INVALID      a field is out of range
 * @return EPF_E_UNSUPPORTED  the provider asked for is not built in, or cannot serve dtype here
 * @return EPF_E_NO_MEMORY
 */
epf_status epf_gemm_weight_create(const epf_gemm_weight_desc *desc, epf_gemm_weight **weight);
/* Accepts NULL. */
void epf_gemm_weight_destroy(epf_gemm_weight *weight);
epf_gemm_weight_info epf_gemm_weight_get_info(const epf_gemm_weight *weight);
/* Columns of panel (any segment, n_tile): block_n, or what is left for the last one. */
int32_t epf_gemm_weight_panel_n(const epf_gemm_weight *weight, int32_t n_tile);

/**
 * Packs (again) one panel, or all panels of one expert, from where the description said the tensors
 * are.  Different panels may be packed by different threads at once; the caller orders packing of a
 * panel before its use.  Needed only with defer_pack, or after the caller changed the tensors.
 */
epf_status epf_gemm_weight_pack_panel(epf_gemm_weight *weight, int32_t expert, int32_t segment,
                                      int32_t n_tile, epf_gemm_scratch *scratch);
epf_status epf_gemm_weight_pack_expert(epf_gemm_weight *weight, int32_t expert,
                                       epf_gemm_scratch *scratch);

typedef struct epf_gemm_tile_args {
    int32_t expert;  /* 0 .. L - 1                                            */
    int32_t segment; /* 0 .. num_segments - 1                                 */
    int32_t n_tile;  /* 0 .. num_n_tiles - 1                                  */
    int32_t m;       /* rows; 0 does nothing                                  */
    const void *a;   /* [m, K] dtype, rows lda elements apart, lda >= K       */
    int64_t lda;
    float *c; /* [m, panel_n] out, rows ldc elements apart             */
    int64_t ldc;
} epf_gemm_tile_args;

/* c = a x panel^T. */
epf_status epf_gemm_tile(const epf_gemm_weight *weight, const epf_gemm_tile_args *args,
                         epf_gemm_scratch *scratch);

typedef struct epf_gemm_tn_args {
    epf_gemm_kind kind; /* provider                                              */
    epf_dtype dtype;    /* of a and b                                            */
    int64_t rows;       /* summed over; 0 gives zeros                            */
    int32_t m, n;       /* tile of the result; any size >= 1                     */
    const void *a;      /* [rows, m] dtype: points at the tile's first column    */
    int64_t lda;
    const void *b; /* [rows, n] dtype                                       */
    int64_t ldb;
    float *c; /* [m, n] out                                            */
    int64_t ldc;
} epf_gemm_tn_args;

/* c = a^T x b.  Rows are summed in order; for one (kind, dtype, m, n) the bits depend on a and b
 * only. */
epf_status epf_gemm_tn(const epf_gemm_tn_args *args, epf_gemm_scratch *scratch);

/* One per thread; memory grows to what the thread's calls need and is kept. */
epf_status epf_gemm_scratch_create(epf_gemm_scratch **scratch);
/* Accepts NULL. */
void epf_gemm_scratch_destroy(epf_gemm_scratch *scratch);

/* What serves (kind, dtype) on this machine, for choosing and for showing. */
typedef struct epf_gemm_provider_info {
    epf_gemm_kind kind; /* as asked, or AUTO's choice                                  */
    bool built;         /* compiled in                                                 */
    bool usable;        /* serves dtype on this machine                                */
    bool widened;       /* dtype is widened to fp32 before the product                 */
    char text[160];     /* library version and instruction set, or why it is not usable */
} epf_gemm_provider_info;

epf_status epf_gemm_provider_query(epf_gemm_kind kind, epf_dtype dtype,
                                   epf_gemm_provider_info *info);
/* "onednn", ...; NULL for a value that is no kind. */
const char *epf_gemm_kind_name(epf_gemm_kind kind);
/* The kind of this name, or EPF_E_INVALID. */
epf_status epf_gemm_kind_parse(const char *name, epf_gemm_kind *kind);

#endif
