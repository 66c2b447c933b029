/*
 * test_gemm_guard: nothing is read or written outside the operands.  Each lies so that its last
 * byte is followed by a page that may not be touched, and once so that its first byte is preceded
 * by one; generated code, which sanitizers do not see, included.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gemm_case.h"

/* Memory between two forbidden pages; `bytes` of it end at the second or begin after the first. */
typedef struct guarded {
    char *map;
    size_t map_bytes;
    void *data;
} guarded;

static guarded guard(size_t bytes, bool at_end)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t inside = (bytes + page - 1) / page * page;
    guarded g = {.map_bytes = inside + 2 * page};
    g.map = mmap(NULL, g.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(g.map != MAP_FAILED, "mmap of %zu bytes", g.map_bytes);
    CHECK(mprotect(g.map + page, inside, PROT_READ | PROT_WRITE) == 0, "mprotect");
    g.data = g.map + page + (at_end ? inside - bytes : 0);
    return g;
}

static void unguard(guarded *g)
{
    (void)munmap(g->map, g->map_bytes);
}

/* Bytes from the first to the last element of a matrix. */
static size_t span(int64_t rows, int64_t width, int64_t stride, int64_t element)
{
    return (size_t)(((rows - 1) * stride + width) * element);
}

static void fill(void *data, epf_dtype dtype, size_t bytes)
{
    const int64_t count = (int64_t)bytes / epf_dtype_bytes((int32_t)dtype);
    for (int64_t i = 0; i < count; i++) {
        (void)gemm_store(data, dtype, i, (double)(i % 5 - 2));
    }
}

typedef struct guard_case {
    int64_t n, k;
    int32_t block_n, block_k;
    int32_t gap; /* elements between rows of every operand */
} guard_case;

static epf_gemm_weight *make_weight(const gemm_case *p, const guard_case *g, bool at_end)
{
    const int64_t rows = p->reduce_last_dim ? g->n : g->k;
    const int64_t width = p->reduce_last_dim ? g->k : g->n;
    const size_t bytes = span(rows, width, width + g->gap, epf_dtype_bytes((int32_t)p->dtype));
    guarded b = guard(bytes, at_end);
    epf_gemm_weight *weight = NULL;
    epf_gemm_weight_desc desc = {.kind = p->kind,
                                 .dtype = p->dtype,
                                 .num_experts = 1,
                                 .n = g->n,
                                 .k = g->k,
                                 .reduce_last_dim = p->reduce_last_dim,
                                 .row_stride = width + g->gap,
                                 .data = b.data,
                                 .block_n = g->block_n,
                                 .block_k = g->block_k};
    fill(b.data, p->dtype, bytes);
    CHECK_OK(gemm_weight_create_or_auto(&desc, &weight));
    unguard(&b); /* once packed, the tensor is not needed */
    return weight;
}

static void check_tiles(const gemm_case *p, const guard_case *g, bool at_end)
{
    static const int32_t ms[] = {1, 3, 16, 31, 64, 130};
    epf_gemm_weight *weight = make_weight(p, g, at_end);
    const int32_t num_n_tiles = epf_gemm_weight_get_info(weight).num_n_tiles;
    epf_gemm_scratch *scratch = NULL;
    CHECK_OK(epf_gemm_scratch_create(&scratch));
    for (int i = 0; i < 6; i++) {
        for (int32_t n_tile = 0; n_tile < num_n_tiles; n_tile++) {
            const int64_t columns = epf_gemm_weight_panel_n(weight, n_tile);
            const size_t a_bytes =
                span(ms[i], g->k, g->k + g->gap, epf_dtype_bytes((int32_t)p->dtype));
            guarded a = guard(a_bytes, at_end);
            guarded c = guard(span(ms[i], columns, columns + g->gap, 4), at_end);
            const epf_gemm_tile_args args = {.n_tile = n_tile,
                                             .m = ms[i],
                                             .a = a.data,
                                             .lda = g->k + g->gap,
                                             .c = c.data,
                                             .ldc = columns + g->gap};
            fill(a.data, p->dtype, a_bytes);
            CHECK_OK(epf_gemm_tile(weight, &args, scratch));
            unguard(&a);
            unguard(&c);
        }
    }
    epf_gemm_scratch_destroy(scratch);
    epf_gemm_weight_destroy(weight);
}

static void check_tn(const gemm_case *p, int64_t rows, int32_t gap, bool at_end)
{
    enum { M = 24, N = 40 };
    const int64_t element = epf_dtype_bytes((int32_t)p->dtype);
    const size_t a_bytes = span(rows, M, M + gap, element);
    const size_t b_bytes = span(rows, N, N + gap, element);
    guarded a = guard(a_bytes, at_end);
    guarded b = guard(b_bytes, at_end);
    guarded c = guard(span(M, N, N + gap, 4), at_end);
    const epf_gemm_tn_args args = {.kind = p->kind,
                                   .dtype = p->dtype,
                                   .rows = rows,
                                   .m = M,
                                   .n = N,
                                   .a = a.data,
                                   .lda = M + gap,
                                   .b = b.data,
                                   .ldb = N + gap,
                                   .c = c.data,
                                   .ldc = N + gap};
    epf_gemm_scratch *scratch = NULL;
    CHECK_OK(epf_gemm_scratch_create(&scratch));
    fill(a.data, p->dtype, a_bytes);
    fill(b.data, p->dtype, b_bytes);
    CHECK_OK(epf_gemm_tn(&args, scratch));
    epf_gemm_scratch_destroy(scratch);
    unguard(&a);
    unguard(&b);
    unguard(&c);
}

int main(void)
{
    static const guard_case shapes[] = {{.n = 8, .k = 8},
                                        {.n = 264, .k = 72},
                                        {.n = 88, .k = 264, .gap = 1, .block_n = 40},
                                        {.n = 256, .k = 512, .block_k = 200},
                                        {.n = 48, .k = 1032, .gap = 3}};
    for (int kind = 0; kind < 3; kind++) {
        for (int dtype = 0; dtype < 3; dtype++) {
            gemm_case problem = {.kind = gemm_kinds[kind], .dtype = gemm_dtypes[dtype]};
            for (int i = 0; i < 20 && gemm_kind_usable(problem.kind, problem.dtype); i++) {
                problem.reduce_last_dim = i % 2 == 0;
                check_tiles(&problem, &shapes[i / 4], i / 2 % 2 == 0);
                check_tn(&problem, 1 + 67 * i, i % 3, i / 2 % 2 == 0);
            }
        }
    }
    return 0;
}
