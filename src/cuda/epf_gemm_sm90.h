/*
 * epf_gemm_sm90.h: what the host side of the Hopper grouped GEMM and its kernels share (C11 and CUDA C++).
 */
#ifndef EPF_GEMM_SM90_H
#define EPF_GEMM_SM90_H

#include <cuda.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    EPF_GEMM_BLOCK_K = 64,    /* one k-step: 128 bytes, the width of the shared-memory swizzle  */
    EPF_GEMM_SLAB = 64,       /* rows of a warpgroup, and of one TMA box of A                   */
    EPF_GEMM_STORE_ROWS = 16, /* a TMA box of C: a warp's rows, 64 columns                      */
    EPF_GEMM_SWAP_ROWS = 152, /* operands swapped: most rows of a CTA's task                    */
    EPF_GEMM_SWAP_STEP = 8,   /* they come in slabs, the last ones in boxes of so many          */
    EPF_GEMM_MAX_EXPERTS = 1024,
    EPF_GEMM_SWAP_MAX_EXPERTS = 512,
    EPF_GEMM_MAX_GROUPS = 1024, /* of tiles: experts, twice as many where short tiles come last   */
};

/* How the rows of operand A are found. */
enum {
    EPF_GEMM_A_ROWS = 0,     /* a row of the output is a row of A at the same place      */
    EPF_GEMM_A_GATHERED = 1, /* row r of the output is row gather[r] of A                */
    EPF_GEMM_A_COLUMNS = 2,  /* weight gradient: A [rows, M], B [rows, N], K is the rows */
};

/* What becomes of a tile. */
enum {
    EPF_GEMM_TO_C = 0,          /* stored at its place                    */
    EPF_GEMM_TO_SWIGLU = 1,     /* activated, then stored                 */
    EPF_GEMM_TO_ROW_PTR = 2,    /* each row stored at a place of its own  */
    EPF_GEMM_TO_SWIGLU_RAW = 3, /* activated and stored, the product also */
};

/* The kernels' only argument.  Letters: rows [R], experts G, columns N, inner dimension K. */
typedef struct epf_gemm_sm90_args {
    CUtensorMap map_a;         /* A [R, K] or, weight gradient, [R, M]; unused where gathered     */
    CUtensorMap map_a_rest;    /* operands swapped: A in boxes of EPF_GEMM_SWAP_STEP rows         */
    CUtensorMap map_b;         /* B [G, N, K], [G, K, N] or, weight gradient, [1, R, N]           */
    CUtensorMap map_c;         /* C as stored in place                                            */
    CUtensorMap map_raw;       /* the product itself, as stored                                   */
    const int32_t *rows;       /* [G]  rows of each expert, in device memory                      */
    const int32_t *row_offset; /* [G]  first row of each expert; NULL: experts follow each other  */
    const int32_t *gather;     /* [R]  row of A for each row                                      */
    const void *a;             /* A, where gathered                                               */
    void *c;                   /* [R, N], SwiGLU [R, half], weight gradient [G, M, N]             */
    void *raw;                 /* [R, N] SwiGLU's input, or NULL                                  */
    void *const *row_ptr;      /* [R] where each row of C goes instead of c, or NULL              */
    const void *row_weight;    /* [R] factor of each row of SwiGLU, fp32 or bf16, or NULL         */
    int64_t c_stride;          /* elements from row to row of c                                   */
    int64_t raw_stride;        /* and of raw                                                      */
    int32_t c_f32;             /* weight gradient, 1: c is fp32                                   */
    int32_t row_weight_bf16;   /* 1: row_weight is bf16                                           */
    uint32_t *queue; /* {next, done}, both 0 between launches; NULL: tasks in fixed turns */
    int32_t num_experts;
    int32_t n;             /* columns of B                                              */
    int32_t k;             /* inner dimension; weight gradient: unused                  */
    int32_t m;             /* weight gradient: rows of one expert's gradient            */
    int32_t m_pitch;       /* and from one expert's to the next's                       */
    int32_t half;          /* SwiGLU: gate columns [0, half), up [half, 2 half); else 0 */
    int32_t num_n_tiles;   /* tasks along N                                             */
    int32_t group_m;       /* see epf_tile.h                                            */
    int32_t short_last;    /* 1: tiles of fewer rows after all the full ones            */
    int32_t first_cluster; /* of a fused kernel: clusters before it take no task        */
} epf_gemm_sm90_args;

/* A compiled kernel. */
typedef struct epf_gemm_sm90_variant {
    int32_t dtype;     /* epf_dtype                                                       */
    int32_t block_n;   /* columns of a CTA's tile                                         */
    int32_t cluster_m; /* CTAs that share columns of B, one below the other               */
    int32_t cluster_n; /* CTAs that share rows of A, side by side                         */
    int32_t a_source;  /* EPF_GEMM_A_*                                                    */
    int32_t b_n_major; /* 1: B is [G, K, N]                                               */
    int32_t epilogue;  /* EPF_GEMM_TO_*                                                   */
    int32_t swapped;   /* 1: block_n columns by rows, see epf_gemm_swap_sm90.cuh              */
    int32_t smem_bytes;
    const void *kernel; /* of one epf_gemm_sm90_args                                      */
} epf_gemm_sm90_variant;

/* The compiled kernels of the grouped GEMM alone; stores their number. */
const epf_gemm_sm90_variant *epf_gemm_sm90_variants(int32_t *num_variants);

#ifdef __cplusplus
}
#endif

#endif
