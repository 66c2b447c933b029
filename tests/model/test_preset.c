/*
 * test_preset: names are unique and found, routing is legal, and the FLOP of both GEMMs over a peak
 * of 989 TFLOP/s give the known floors (Qwen3's arithmetic is 2.50 ms; its floor, 2.71, is links).
 */
#include "model/epf_preset.h"

#include <math.h>
#include <string.h>

#include "support/epf_check.h"

/* Milliseconds on 8 ranks with 8192 tokens each. */
static double floor_ms(const char *name)
{
    const epf_preset *p = epf_preset_find(name);
    CHECK(p != NULL, "%s is missing", name);
    const double rows = 8192.0 * p->routing.topk;
    const double columns = epf_preset_gemm1_columns(p) + p->intermediate;
    return 2.0 * rows * p->hidden * columns / 989e12 * 1e3;
}

int main(void)
{
    CHECK(epf_preset_count() == 5, "%d presets", epf_preset_count());
    for (int32_t i = 0; i < epf_preset_count(); i++) {
        const epf_preset *p = epf_preset_at(i);
        const epf_routing *r = &p->routing;
        CHECK(epf_preset_find(p->name) == p, "%s is not the first of its name", p->name);
        CHECK(r->topk <= r->num_experts && r->num_experts % r->num_groups == 0 &&
                  r->topk_groups <= r->num_groups &&
                  r->topk <= r->topk_groups * (r->num_experts / r->num_groups) &&
                  r->scaling_factor > 0.0,
              "%s: routing", p->name);
        CHECK(r->num_experts % p->num_ranks == 0 && p->hidden % 8 == 0 && p->intermediate % 8 == 0,
              "%s: shape", p->name);
    }
    CHECK(epf_preset_find("") == NULL && epf_preset_find("DSV3") == NULL, "unknown names");
    CHECK(fabs(floor_ms("dsv3") - 5.83) < 0.01, "dsv3: %g ms", floor_ms("dsv3"));
    CHECK(fabs(floor_ms("qwen3-235b") - 2.50) < 0.01, "qwen3-235b: %g", floor_ms("qwen3-235b"));
    CHECK(fabs(floor_ms("mixtral") - 5.83) < 0.01, "mixtral: %g ms", floor_ms("mixtral"));
    CHECK(fabs(floor_ms("example") - 0.97) < 0.01, "example: %g ms", floor_ms("example"));
    CHECK(epf_preset_gemm1_columns(epf_preset_find("test")) == 960, "test");
    return 0;
}
