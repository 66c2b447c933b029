/*
 * epf_gemm.c: weight objects and the tile product, over a provider.
 *
 * A packed weight is one piece of memory:
 *   expert -> segment -> n_tile -> chunk of K, each piece behind the last without gaps.
 * Only the last n_tile of a segment and the last chunk of a panel are shorter, so four block sizes
 * give every address.
 */
#include "cpu/gemm/epf_gemm.h"

#include <sys/mman.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cpu/gemm/epf_convert.h"
#include "cpu/gemm/epf_gemm_internal.h"

enum {
    DEFAULT_BLOCK_N = 256,
    MULTIPLE = 8,          /* N, K and blocks are multiples of this            */
    MAX_BLOCK = 1 << 16,   /* bound on block_n, so that block sizes fit 32 bits */
    WIDENED_BLOCK_K = 256, /* a widened block of 256 columns then takes 256 KiB */
    PAGE_BYTES = 1 << 16,  /* a multiple of every page size                     */
    HUGE_PAGE_BYTES = 1 << 21
};

struct epf_gemm_weight {
    const epf_gemm_provider *provider;
    epf_gemm_weight_desc desc; /* strides and blocks resolved           */
    epf_gemm_weight_info info;
    epf_dtype compute;       /* type the provider multiplies in       */
    int32_t num_chunks;      /* of K                                  */
    int32_t last_n, last_k;  /* columns, K of the last tile and chunk */
    uint64_t elements[2][2]; /* packed elements of a block, by [last n_tile][last chunk] */
    uint64_t panel_bytes[2]; /* by [last n_tile]                      */
    uint64_t segment_bytes;
    char *packed;
};

/* ---- description
 * --------------------------------------------------------------------------------- */

static epf_status check_sizes(const epf_gemm_weight_desc *desc)
{
    const int64_t segments = desc->num_segments;
    EPF_CHECK_ARG(desc->num_experts >= 1, "GEMM weight: num_experts is %d, must be at least 1",
                  desc->num_experts);
    EPF_CHECK_ARG(segments == 1 || segments == 2, "GEMM weight: num_segments is %d, must be 1 or 2",
                  desc->num_segments);
    EPF_CHECK_ARG(desc->k > 0 && desc->k <= INT32_MAX && desc->k % MULTIPLE == 0,
                  "GEMM weight: k is %lld, must be a positive multiple of 8", (long long)desc->k);
    EPF_CHECK_ARG(desc->n > 0 && desc->n <= INT32_MAX && desc->n % (MULTIPLE * segments) == 0,
                  "GEMM weight: n is %lld, must be a positive multiple of %lld", (long long)desc->n,
                  (long long)(MULTIPLE * segments));
    EPF_CHECK_ARG(desc->block_n > 0 && desc->block_n <= MAX_BLOCK && desc->block_n % MULTIPLE == 0,
                  "GEMM weight: block_n is %d, must be a multiple of 8, at most %d", desc->block_n,
                  MAX_BLOCK);
    EPF_CHECK_ARG(desc->block_k >= 0 && desc->block_k % MULTIPLE == 0,
                  "GEMM weight: block_k is %d, must be a multiple of 8", desc->block_k);
    EPF_CHECK_ARG((desc->data != NULL) != (desc->matrix_data != NULL),
                  "GEMM weight: exactly one of data and matrix_data must be given");
    return EPF_OK;
}

static epf_status check_strides(const epf_gemm_weight_desc *desc, int64_t columns, int64_t rows)
{
    EPF_CHECK_ARG(desc->row_stride >= columns,
                  "GEMM weight: row_stride is %lld, must be at least %lld",
                  (long long)desc->row_stride, (long long)columns);
    EPF_CHECK_ARG(desc->matrix_data != NULL || desc->expert_stride >= rows * desc->row_stride ||
                      desc->num_experts == 1 || desc->expert_stride >= columns,
                  "GEMM weight: expert_stride is %lld, must be at least %lld",
                  (long long)desc->expert_stride, (long long)columns);
    return EPF_OK;
}

/* Fills in defaults and dense strides. */
static epf_status resolve_desc(epf_gemm_weight_desc *desc)
{
    int64_t columns;
    int64_t rows;
    int64_t row_width;
    if (desc->num_segments == 0) {
        desc->num_segments = 1;
    }
    if (desc->block_n == 0) {
        desc->block_n = DEFAULT_BLOCK_N;
    }
    EPF_TRY(check_sizes(desc));
    columns = desc->reduce_last_dim ? desc->k : desc->n;
    rows = desc->reduce_last_dim ? desc->n : desc->k;
    row_width = columns; /* of one matrix: with matrix_data a row holds one segment only */
    if (desc->matrix_data != NULL && !desc->reduce_last_dim) {
        row_width = desc->n / desc->num_segments;
    }
    if (desc->row_stride == 0) {
        desc->row_stride = row_width;
    }
    if (desc->expert_stride == 0) {
        desc->expert_stride = rows * desc->row_stride;
    }
    return check_strides(desc, row_width, rows);
}

/* ---- layout
 * -------------------------------------------------------------------------------------- */

static epf_gemm_block block_of(const epf_gemm_weight *w, bool last_n, bool last_k)
{
    const epf_gemm_block block = {w->compute, last_n ? w->last_n : w->info.block_n,
                                  last_k ? w->last_k : w->info.block_k};
    return block;
}

static uint64_t stored_bytes(const epf_gemm_weight *w, uint64_t elements)
{
    const uint64_t bytes = elements * (uint64_t)epf_dtype_bytes((int32_t)w->desc.dtype);
    return (bytes + EPF_GEMM_ALIGNMENT - 1) / EPF_GEMM_ALIGNMENT * EPF_GEMM_ALIGNMENT;
}

static epf_status measure_blocks(epf_gemm_weight *w)
{
    const uint64_t element = (uint64_t)epf_dtype_bytes((int32_t)w->compute);
    for (int last_n = 0; last_n < 2; last_n++) {
        for (int last_k = 0; last_k < 2; last_k++) {
            const epf_gemm_block block = block_of(w, last_n != 0, last_k != 0);
            uint64_t bytes;
            EPF_TRY(w->provider->packed_bytes(&block, &bytes));
            w->elements[last_n][last_k] = (bytes + element - 1) / element;
        }
        w->panel_bytes[last_n] =
            (uint64_t)(w->num_chunks - 1) * stored_bytes(w, w->elements[last_n][0]) +
            stored_bytes(w, w->elements[last_n][1]);
    }
    if (w->provider->strip_rows != NULL && !w->info.widened) {
        const epf_gemm_block block = block_of(w, false, false);
        EPF_TRY(w->provider->strip_rows(&block, &w->info.strip_rows));
    }
    w->segment_bytes = (uint64_t)(w->info.num_n_tiles - 1) * w->panel_bytes[0] + w->panel_bytes[1];
    w->info.packed_bytes =
        (uint64_t)w->desc.num_experts * (uint64_t)w->info.num_segments * w->segment_bytes;
    return EPF_OK;
}

static void cut(epf_gemm_weight *w)
{
    const epf_gemm_weight_desc *desc = &w->desc;
    int64_t block_k = desc->block_k;
    epf_gemm_weight_info *info = &w->info;
    if (block_k == 0) {
        block_k = info->widened ? WIDENED_BLOCK_K : w->provider->default_block_k(w->compute);
    }
    info->num_segments = desc->num_segments;
    info->segment_n = desc->n / desc->num_segments;
    info->block_n = (int32_t)epf_min64(desc->block_n, info->segment_n);
    info->block_k = (int32_t)epf_min64(block_k, desc->k);
    info->num_n_tiles = (int32_t)epf_ceil_div(info->segment_n, info->block_n);
    w->num_chunks = (int32_t)epf_ceil_div(desc->k, info->block_k);
    w->last_n = (int32_t)(info->segment_n - (int64_t)(info->num_n_tiles - 1) * info->block_n);
    w->last_k = (int32_t)(desc->k - (int64_t)(w->num_chunks - 1) * info->block_k);
}

static bool is_last_n(const epf_gemm_weight *w, int32_t n_tile)
{
    return n_tile == w->info.num_n_tiles - 1;
}

static char *panel_at(const epf_gemm_weight *w, int32_t expert, int32_t segment, int32_t n_tile)
{
    const uint64_t index = (uint64_t)expert * (uint64_t)w->info.num_segments + (uint64_t)segment;
    return w->packed + index * w->segment_bytes + (uint64_t)n_tile * w->panel_bytes[0];
}

/* ---- life
 * ---------------------------------------------------------------------------------------- */

static epf_status pack_all(epf_gemm_weight *w)
{
    epf_gemm_scratch *scratch = NULL;
    epf_status st = EPF_OK;
    EPF_TRY(epf_gemm_scratch_create(&scratch));
    for (int32_t expert = 0; expert < w->desc.num_experts && st == EPF_OK; expert++) {
        st = epf_gemm_weight_pack_expert(w, expert, scratch);
    }
    epf_gemm_scratch_destroy(scratch);
    return st;
}

/* Asks for huge pages, where a stream of weights misses the address cache less; a wish, not a
 * need. */
static void prefer_huge_pages(char *memory, uint64_t bytes)
{
#if defined(MADV_HUGEPAGE)
    const uint64_t skip = (uint64_t)(-(uintptr_t)memory % PAGE_BYTES);
    if (bytes >= 2 * HUGE_PAGE_BYTES) {
        (void)madvise(memory + skip, (bytes - skip) / PAGE_BYTES * PAGE_BYTES, MADV_HUGEPAGE);
    }
#else
    (void)memory;
    (void)bytes;
#endif
}

static epf_status allocate(epf_gemm_weight *w)
{
    w->packed = epf_alloc_aligned(w->info.packed_bytes, 1, EPF_GEMM_ALIGNMENT);
    if (w->packed == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "GEMM weight: %llu bytes",
                        (unsigned long long)w->info.packed_bytes);
    }
    prefer_huge_pages(w->packed, w->info.packed_bytes);
    return EPF_OK;
}

static epf_status create(const epf_gemm_weight_desc *desc, epf_gemm_weight **weight)
{
    epf_status st = EPF_OK;
    epf_gemm_weight *w;
    w = epf_alloc(1, sizeof *w);
    if (w == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "GEMM weight: %zu bytes", sizeof *w);
    }
    w->desc = *desc;
    EPF_TRY_GOTO(resolve_desc(&w->desc), err_weight);
    EPF_TRY_GOTO(epf_gemm_provider_resolve(desc->kind, desc->dtype, &w->provider, &w->info.widened),
                 err_weight);
    w->info.kind = w->provider->kind;
    w->compute = w->info.widened ? EPF_DTYPE_F32 : desc->dtype;
    cut(w);
    EPF_TRY_GOTO(measure_blocks(w), err_weight);
    EPF_TRY_GOTO(allocate(w), err_weight);
    if (!desc->defer_pack) {
        EPF_TRY_GOTO(pack_all(w), err_weight);
    }
    *weight = w;
    return EPF_OK;

err_weight:
    epf_gemm_weight_destroy(w);
    return st;
}

/* Multiplies once by the first and the last panel: EPF_E_UNSUPPORTED where the provider will not serve them. */
static epf_status try_panels(const epf_gemm_weight *w)
{
    enum { TRIAL_ROWS = 64 };
    epf_gemm_tile_args args = {.m = TRIAL_ROWS, .lda = w->desc.k, .ldc = w->info.block_n};
    void *const a = epf_alloc((size_t)(TRIAL_ROWS * w->desc.k), sizeof(float));
    epf_gemm_scratch *scratch = NULL;
    epf_status st = epf_gemm_scratch_create(&scratch);
    args.a = a;
    args.c = epf_alloc((size_t)TRIAL_ROWS * (size_t)w->info.block_n, sizeof *args.c);
    if (st == EPF_OK && (a == NULL || args.c == NULL)) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "GEMM weight: trial of k %lld", (long long)w->desc.k);
    }
    for (int32_t i = 0; i < 2 && st == EPF_OK; i++) {
        args.n_tile = i == 0 ? 0 : w->info.num_n_tiles - 1;
        st = epf_gemm_tile(w, &args, scratch);
    }
    epf_gemm_scratch_destroy(scratch);
    epf_free(args.c);
    epf_free(a);
    return st;
}

epf_status epf_gemm_weight_create(const epf_gemm_weight_desc *desc, epf_gemm_weight **weight)
{
    epf_status st = EPF_E_UNSUPPORTED;
    EPF_CHECK_ARG(desc != NULL && weight != NULL, "epf_gemm_weight_create: NULL argument");
    for (int32_t index = 0; st == EPF_E_UNSUPPORTED; index++) {
        epf_gemm_weight_desc tried = *desc;
        epf_gemm_weight *w = NULL;
        if (!epf_dtype_is_token((int32_t)desc->dtype) || epf_gemm_kind_name(desc->kind) == NULL) {
            return create(desc, weight); /* says what is wrong */
        }
        EPF_TRY(epf_gemm_choice(desc->kind, desc->dtype, index, &tried.kind));
        st = create(&tried, &w);
        st = st == EPF_OK ? try_panels(w) : st;
        if (st == EPF_OK) {
            *weight = w;
        } else {
            epf_gemm_weight_destroy(w);
        }
    }
    return st;
}

void epf_gemm_weight_destroy(epf_gemm_weight *weight)
{
    if (weight == NULL) {
        return;
    }
    epf_free(weight->packed);
    epf_free(weight);
}

epf_gemm_weight_info epf_gemm_weight_get_info(const epf_gemm_weight *weight)
{
    return weight->info;
}

int32_t epf_gemm_weight_panel_n(const epf_gemm_weight *weight, int32_t n_tile)
{
    return is_last_n(weight, n_tile) ? weight->last_n : weight->info.block_n;
}

/* ---- packing
 * ------------------------------------------------------------------------------------- */

/* The block of B that starts at (column n0 of its segment, k0). */
static epf_gemm_source source_at(const epf_gemm_weight *w, int32_t expert, int32_t segment,
                                 int64_t n0, int64_t k0)
{
    const epf_gemm_weight_desc *desc = &w->desc;
    epf_gemm_source source = {desc->data, desc->row_stride, desc->reduce_last_dim};
    int64_t offset = 0;
    if (desc->matrix_data != NULL) {
        source.data = desc->matrix_data[(int64_t)expert * desc->num_segments + segment];
    } else {
        offset = (int64_t)expert * desc->expert_stride;
        n0 += (int64_t)segment * w->info.segment_n;
    }
    offset += desc->reduce_last_dim ? n0 * desc->row_stride + k0 : k0 * desc->row_stride + n0;
    source.data = epf_gemm_at(source.data, desc->dtype, offset);
    return source;
}

/* Replaces *source by a dense fp32 copy in scratch. */
static epf_status widen_source(const epf_gemm_weight *w, const epf_gemm_block *block,
                               epf_gemm_source *source, epf_gemm_scratch *scratch)
{
    const int64_t rows = source->reduce_last_dim ? block->n : block->k;
    const int64_t width = source->reduce_last_dim ? block->k : block->n;
    void *copy;
    EPF_TRY(epf_gemm_scratch_get(scratch, EPF_GEMM_SLOT_SOURCE,
                                 (uint64_t)(rows * width) * sizeof(float), &copy));
    for (int64_t row = 0; row < rows; row++) {
        epf_convert_to_f32((float *)copy + row * width,
                           epf_gemm_at(source->data, w->desc.dtype, row * source->row_stride),
                           w->desc.dtype, width);
    }
    source->data = copy;
    source->row_stride = width;
    return EPF_OK;
}

/* Packs in fp32, then keeps the packed elements in the narrow type: each came from it, so this
 * is exact. */
static epf_status pack_widened(const epf_gemm_weight *w, const epf_gemm_block *block,
                               epf_gemm_source *source, char *packed, epf_gemm_scratch *scratch)
{
    uint64_t bytes;
    void *wide;
    EPF_TRY(w->provider->packed_bytes(block, &bytes));
    EPF_TRY(widen_source(w, block, source, scratch));
    EPF_TRY(epf_gemm_scratch_get(scratch, EPF_GEMM_SLOT_B, bytes, &wide));
    EPF_TRY(w->provider->pack(block, source, wide, scratch));
    epf_convert_from_f32(packed, wide, w->desc.dtype, (int64_t)(bytes / sizeof(float)));
    return EPF_OK;
}

static epf_status check_panel(const epf_gemm_weight *w, int32_t expert, int32_t segment,
                              int32_t n_tile)
{
    EPF_CHECK_ARG(expert >= 0 && expert < w->desc.num_experts,
                  "GEMM: expert is %d, must be in [0, %d)", expert, w->desc.num_experts);
    EPF_CHECK_ARG(segment >= 0 && segment < w->info.num_segments,
                  "GEMM: segment is %d, must be in [0, %d)", segment, w->info.num_segments);
    EPF_CHECK_ARG(n_tile >= 0 && n_tile < w->info.num_n_tiles,
                  "GEMM: n_tile is %d, must be in [0, %d)", n_tile, w->info.num_n_tiles);
    return EPF_OK;
}

epf_status epf_gemm_weight_pack_panel(epf_gemm_weight *weight, int32_t expert, int32_t segment,
                                      int32_t n_tile, epf_gemm_scratch *scratch)
{
    char *packed;
    EPF_CHECK_ARG(weight != NULL && scratch != NULL, "epf_gemm_weight_pack_panel: NULL argument");
    EPF_TRY(check_panel(weight, expert, segment, n_tile));
    packed = panel_at(weight, expert, segment, n_tile);
    for (int32_t chunk = 0; chunk < weight->num_chunks; chunk++) {
        const bool last_n = is_last_n(weight, n_tile);
        const bool last_k = chunk == weight->num_chunks - 1;
        const epf_gemm_block block = block_of(weight, last_n, last_k);
        epf_gemm_source source =
            source_at(weight, expert, segment, (int64_t)n_tile * weight->info.block_n,
                      (int64_t)chunk * weight->info.block_k);
        if (weight->info.widened) {
            EPF_TRY(pack_widened(weight, &block, &source, packed, scratch));
        } else {
            EPF_TRY(weight->provider->pack(&block, &source, packed, scratch));
        }
        packed += stored_bytes(weight, weight->elements[last_n][last_k]);
    }
    return EPF_OK;
}

epf_status epf_gemm_weight_pack_expert(epf_gemm_weight *weight, int32_t expert,
                                       epf_gemm_scratch *scratch)
{
    EPF_CHECK_ARG(weight != NULL, "epf_gemm_weight_pack_expert: weight is NULL");
    for (int32_t segment = 0; segment < weight->info.num_segments; segment++) {
        for (int32_t n_tile = 0; n_tile < weight->info.num_n_tiles; n_tile++) {
            EPF_TRY(epf_gemm_weight_pack_panel(weight, expert, segment, n_tile, scratch));
        }
    }
    return EPF_OK;
}

/* ---- product
 * ------------------------------------------------------------------------------------- */

/* Replaces the rows and the block of a product by fp32 copies in scratch. */
static epf_status widen_product(const epf_gemm_weight *w, uint64_t elements,
                                epf_gemm_product *product, epf_gemm_scratch *scratch)
{
    const int64_t k = product->block.k;
    void *rows;
    void *block;
    EPF_TRY(epf_gemm_scratch_get(scratch, EPF_GEMM_SLOT_A,
                                 (uint64_t)product->m * (uint64_t)k * sizeof(float), &rows));
    EPF_TRY(epf_gemm_scratch_get(scratch, EPF_GEMM_SLOT_B, elements * sizeof(float), &block));
    for (int64_t row = 0; row < product->m; row++) {
        epf_convert_to_f32((float *)rows + row * k,
                           epf_gemm_at(product->a, w->desc.dtype, row * product->lda),
                           w->desc.dtype, k);
    }
    epf_convert_to_f32(block, product->packed, w->desc.dtype, (int64_t)elements);
    product->a = rows;
    product->lda = k;
    product->packed = block;
    return EPF_OK;
}

static epf_status check_tile(const epf_gemm_weight *w, const epf_gemm_tile_args *args)
{
    EPF_TRY(check_panel(w, args->expert, args->segment, args->n_tile));
    EPF_CHECK_ARG(args->m >= 0, "GEMM tile: m is %d, must not be negative", args->m);
    EPF_CHECK_ARG(args->m == 0 || (args->a != NULL && args->c != NULL),
                  "GEMM tile: a or c is NULL");
    EPF_CHECK_ARG(args->lda >= w->desc.k, "GEMM tile: lda is %lld, must be at least %lld",
                  (long long)args->lda, (long long)w->desc.k);
    EPF_CHECK_ARG(args->ldc >= epf_gemm_weight_panel_n(w, args->n_tile),
                  "GEMM tile: ldc is %lld, must be at least %d", (long long)args->ldc,
                  epf_gemm_weight_panel_n(w, args->n_tile));
    return EPF_OK;
}

epf_status epf_gemm_tile(const epf_gemm_weight *weight, const epf_gemm_tile_args *args,
                         epf_gemm_scratch *scratch)
{
    const char *packed;
    EPF_CHECK_ARG(weight != NULL && args != NULL && scratch != NULL,
                  "epf_gemm_tile: NULL argument");
    EPF_TRY(check_tile(weight, args));
    if (args->m == 0) {
        return EPF_OK;
    }
    packed = panel_at(weight, args->expert, args->segment, args->n_tile);
    for (int32_t chunk = 0; chunk < weight->num_chunks; chunk++) {
        const bool last_n = is_last_n(weight, args->n_tile);
        const bool last_k = chunk == weight->num_chunks - 1;
        const int64_t k0 = (int64_t)chunk * weight->info.block_k;
        const uint64_t elements = weight->elements[last_n][last_k];
        epf_gemm_product product = {.block = block_of(weight, last_n, last_k),
                                    .packed = packed,
                                    .accumulate = chunk > 0,
                                    .m = args->m,
                                    .a = epf_gemm_at(args->a, weight->desc.dtype, k0),
                                    .lda = args->lda,
                                    .c = args->c,
                                    .ldc = args->ldc};
        if (weight->info.widened) {
            EPF_TRY(widen_product(weight, elements, &product, scratch));
        }
        EPF_TRY(weight->provider->multiply(&product, scratch));
        packed += stored_bytes(weight, elements);
    }
    return EPF_OK;
}
