/* bench_draw.c: the picture of a bench: the unfused pass above the fused one, from their traces. */
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "bench.h"
#include "prof/epf_trace_svg.h"

enum { PATH_BYTES = 128, MAX_PARTS = 5 };

/* All parts of a pass of all ranks as one trace. */
static epf_status read_pass(const char *const *parts, int32_t num_parts, int32_t num_ranks,
                            epf_trace **trace)
{
    char(*const paths)[PATH_BYTES] = epf_alloc((size_t)(num_parts * num_ranks), sizeof *paths);
    const char **const list = epf_alloc((size_t)(num_parts * num_ranks), sizeof *list);
    epf_status st = EPF_OK;
    if (paths == NULL || list == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "bench: %d traces", num_parts * num_ranks);
    }
    for (int32_t i = 0; i < num_parts * num_ranks && st == EPF_OK; i++) {
        (void)snprintf(paths[i], PATH_BYTES, "prof/mega/%s_rank_%d.perfetto-trace",
                       parts[i / num_ranks], i % num_ranks);
        list[i] = paths[i];
    }
    st = st == EPF_OK ? epf_trace_read_all(list, num_parts * num_ranks, trace) : st;
    epf_free(list);
    epf_free(paths);
    return st;
}

epf_status bench_draw(const bench_problem *p, const char *path)
{
    static const char *const fused[] = {"bench_dispatch", "bench_combine"};
    static const char *const gated[] = {"bench_unfused_dispatch", "bench_unfused_gemm1",
                                        "bench_swiglu", "bench_unfused_gemm2",
                                        "bench_unfused_combine"};
    static const char *const plain[] = {"bench_unfused_dispatch", "bench_unfused_gemm1",
                                        "bench_unfused_gemm2", "bench_unfused_combine"};
    char title[128];
    const epf_trace_svg_config config = {title, 0, 40, false, 0};
    epf_trace *above = NULL;
    epf_trace *below = NULL;
    epf_status st;
    (void)snprintf(title, sizeof title, "%s, %d ranks, %d tokens each, top-%d of %d experts",
                   p->preset, p->num_ranks, p->num_tokens, p->topk, p->num_experts);
    st = p->gated ? read_pass(gated, MAX_PARTS, p->num_ranks, &above)
                  : read_pass(plain, MAX_PARTS - 1, p->num_ranks, &above);
    st = st == EPF_OK ? read_pass(fused, 2, p->num_ranks, &below) : st;
    if (st == EPF_OK) {
        const epf_trace_panel panels[] = {{above, "one phase after another", 0, 0},
                                          {below, "fused", 0, 0}};
        st = epf_trace_svg(panels, 2, &config, path);
    }
    epf_trace_destroy(above);
    epf_trace_destroy(below);
    return st;
}
