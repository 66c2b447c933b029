/*
 * test_preprocess_index: who of a preprocess launch does what, run by hand: no device.
 *
 * Ranges of warps cover all slots once, in order; places made of them (slots of the CTAs before, of the warps before, of
 * the warp's own slots before) are those of one stable pass; the memory maps overlap nowhere.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda/epf_preprocess_index.h"
#include "support/epf_check.h"
#include "support/epf_rng.h"

enum { MAX_SLOTS = 5000, MAX_EXPERTS = 64, MAX_BINS = MAX_EXPERTS + 1 };

static void check_ranges(void)
{
    static const int32_t kSlots[] = {0, 1, 31, 32, 33, 511, 4097, 1 << 20, 1 << 27};
    static const int32_t kWarps[] = {16, 32, 48, 1024};
    for (size_t i = 0; i < sizeof kSlots / sizeof kSlots[0]; i++) {
        for (size_t j = 0; j < sizeof kWarps / sizeof kWarps[0]; j++) {
            int32_t at = 0;
            for (int32_t w = 0; w < kWarps[j]; w++) {
                const epf_preprocess_range range = epf_preprocess_slots_of(kSlots[i], kWarps[j], w);
                CHECK(range.begin == at && range.end >= at, "warp %d of %d: %d..%d after %d", w,
                      kWarps[j], range.begin, range.end, at);
                CHECK(range.end == kSlots[i] || (range.end - range.begin) % 32 == 0,
                      "warp %d ends at %d", w, range.end);
                at = range.end;
            }
            CHECK(at == kSlots[i], "%d slots end at %d", kSlots[i], at);
        }
    }
}

/* As the kernel does: count by warp, sums over warps and CTAs, then a cursor per warp. */
static void place(const int32_t *ids, int32_t num_slots, int32_t experts, int32_t ctas,
                  int32_t *out)
{
    static int32_t bins[EPF_PREPROCESS_MAX_CTAS * EPF_PREPROCESS_WARPS][MAX_BINS];
    const int32_t warps = ctas * EPF_PREPROCESS_WARPS;
    memset(bins, 0, sizeof bins);
    for (int32_t w = 0; w < warps; w++) {
        const epf_preprocess_range range = epf_preprocess_slots_of(num_slots, warps, w);
        for (int32_t slot = range.begin; slot < range.end; slot++) {
            const int32_t bin = epf_preprocess_bin(ids[slot], experts);
            if (bin >= 0) {
                bins[w][bin]++;
            }
        }
    }
    for (int32_t bin = 0; bin < epf_preprocess_num_bins(experts); bin++) {
        int32_t before = 0;
        for (int32_t w = 0; w < warps; w++) {
            const int32_t count = bins[w][bin];
            bins[w][bin] = before;
            before += count;
        }
    }
    for (int32_t w = 0; w < warps; w++) {
        const epf_preprocess_range range = epf_preprocess_slots_of(num_slots, warps, w);
        for (int32_t slot = range.begin; slot < range.end; slot++) {
            const int32_t bin = epf_preprocess_bin(ids[slot], experts);
            out[slot] = bin < 0 ? -1 : bins[w][bin]++;
        }
    }
}

static void check_places(epf_rng *rng)
{
    static int32_t ids[MAX_SLOTS];
    static int32_t got[MAX_SLOTS];
    const int32_t experts = epf_rng_range(rng, 1, MAX_EXPERTS);
    const int32_t num_slots = epf_rng_below(rng, MAX_SLOTS + 1);
    int32_t seen[MAX_BINS] = {0};
    for (int32_t i = 0; i < num_slots; i++) {
        ids[i] = epf_rng_range(rng, -1, experts);
    }
    place(ids, num_slots, experts, epf_rng_range(rng, 1, EPF_PREPROCESS_MAX_CTAS), got);
    for (int32_t i = 0; i < num_slots; i++) {
        const bool is_counted = ids[i] != experts;
        const int32_t want = is_counted ? seen[ids[i] < 0 ? experts : ids[i]]++ : -1;
        CHECK(got[i] == want, "slot %d of expert %d: place %d, want %d", i, ids[i], got[i], want);
    }
}

static void check_bins(void)
{
    CHECK(epf_preprocess_bin(-2, 8) == -1 && epf_preprocess_bin(9, 8) == -1 &&
              epf_preprocess_bin(INT32_MIN, 8) == -1 && epf_preprocess_bin(INT32_MAX, 8) == -1,
          "a bad id has a bin");
    CHECK(epf_preprocess_bin(8, 8) == -1 && epf_preprocess_bin(-1, 8) == 8 &&
              epf_preprocess_bin(0, 8) == 0 && epf_preprocess_bin(7, 8) == 7,
          "a good id has another bin");
}

static void check_owner(epf_rng *rng)
{
    int64_t first[MAX_EXPERTS + 1];
    const int32_t count = epf_rng_range(rng, 1, MAX_EXPERTS);
    first[0] = 0;
    for (int32_t j = 0; j < count; j++) {
        first[j + 1] = first[j] + (epf_rng_below(rng, 2) == 0 ? 0 : epf_rng_below(rng, 4));
    }
    for (int64_t at = 0; at < first[count]; at++) {
        const int32_t owner = epf_preprocess_owner(first, count, at);
        CHECK(first[owner] <= at && at < first[owner + 1], "%lld belongs to %d", (long long)at,
              owner);
    }
}

/* Bases of given scatter indices, from the words of docs/SEMANTICS.md: two ranks of two experts each. */
static void check_given(void)
{
    const int64_t rows[] = {0, 5, 7, 7, 10}; /* experts have 5, 2, 0, 3 rows of both ranks */
    const int64_t own[] = {0, 2, 3, 3, 4};   /* rank 1 sends 2, 1, 0, 1 */
    const int32_t row_first[] = {3, 6, 0, 2};
    const epf_preprocess_given given = {rows, own, row_first, 2, 6};
    const int32_t local[] = {6, 8, 9, 9};
    const int32_t full[] = {3, 6, 7, 9};
    for (int32_t e = 0; e < 4; e++) {
        CHECK(epf_preprocess_local_base(&given, e) == local[e], "local base of %d", e);
        CHECK(epf_preprocess_full_base(&given, e) == full[e], "full base of %d", e);
    }
    CHECK(epf_preprocess_rank_rows(rows, 2, 0) == 7 && epf_preprocess_rank_rows(rows, 2, 1) == 3,
          "rows of a rank");
}

static void check_maps(void)
{
    const epf_shape shape = {64, 1024, 16, 32, 8, 1 << 22, 2, 4};
    const epf_preprocess_scratch_map s = epf_preprocess_scratch_make(&shape);
    const epf_preprocess_shared_map m = epf_preprocess_shared_make(1024);
    CHECK(s.totals - s.counts == 64 * 1025 && s.bad_slot - s.totals == 1025 &&
              s.is_bad - s.bad_slot == 64 && s.taken - s.is_bad == 64 &&
              s.total_ints - s.taken == (int64_t)1 << 27,
          "scratch: %lld ints", (long long)s.total_ints);
    CHECK(m.bins == 4 * 8 * 1025 && m.row_first - m.bins == 16 * 4 * 1025 &&
              m.send_first - m.row_first == 4096 && m.prefix - m.send_first == 4096 &&
              m.total_bytes - m.prefix == 4096,
          "shared: %d bytes", m.total_bytes);
    CHECK(m.total_bytes < 200 * 1024, "shared: %d bytes", m.total_bytes);
}

static void check_num_ctas(void)
{
    CHECK(epf_preprocess_num_ctas(0, 0, 0) == 1, "nothing to do");
    CHECK(epf_preprocess_num_ctas(128 * 8, 0, 0) == 1, "128 tokens");
    CHECK(epf_preprocess_num_ctas(4096 * 8, 0, 0) == 16, "4096 tokens");
    CHECK(epf_preprocess_num_ctas(1 << 27, 0, 0) == EPF_PREPROCESS_MAX_CTAS, "most slots");
    CHECK(epf_preprocess_num_ctas(8, 4096, 0) == 2 && epf_preprocess_num_ctas(8, 0, 1 << 17) == 8,
          "others' slots, and filling");
}

int main(void)
{
    epf_rng rng = epf_rng_make(7, 1);
    check_ranges();
    check_bins();
    check_given();
    check_maps();
    check_num_ctas();
    for (int32_t i = 0; i < 200; i++) {
        check_places(&rng);
        check_owner(&rng);
    }
    return 0;
}
