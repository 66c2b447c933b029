/* test_window: buffers do not overlap, are aligned, and offsets are a function of the shape alone. */
#include "core/epf_window.h"
#include "core_check.h"

static void check_control(const epf_shape *s)
{
    epf_control_map map;
    int64_t end = 0;
    epf_control_map_make(s, &map);
#define X(name, bytes, alignment)                                                           \
    CHECK(map.name >= end, "%s overlaps what is before it", #name);                         \
    CHECK(map.name % (alignment) == 0, "%s is not aligned to %d", #name, (int)(alignment)); \
    end = map.name + (bytes);
    EPF_CONTROL_MAP(X, s)
#undef X
    CHECK(map.abort == 0, "the window begins with a gap");
    CHECK(map.total_bytes >= end && map.total_bytes % 4096 == 0, "total");
    /* epf_op_reset() clears everything before the posted heads */
    CHECK(map.abort < map.posted_head && map.faults < map.posted_head &&
              map.entered < map.posted_head && map.barrier < map.posted_head &&
              map.posted < map.posted_head && map.sourced < map.posted_head,
          "a word is not where reset clears");
}

static void check_set(const epf_shape *s, int64_t rows)
{
    epf_set_map map;
    int64_t end = 0;
    epf_set_map_make(s, rows, &map);
#define X(name, bytes, alignment)                                                           \
    CHECK(map.name >= end, "%s overlaps what is before it", #name);                         \
    CHECK(map.name % (alignment) == 0, "%s is not aligned to %d", #name, (int)(alignment)); \
    end = map.name + (bytes);
    EPF_SET_MAP(X, s, rows)
#undef X
    CHECK(map.recv_flag == 0, "a set begins with a gap");
    CHECK(map.total_bytes >= end && map.rows == rows, "total");
    CHECK(map.recv_flag < map.recv_weight && map.combine_flag < map.recv_weight,
          "a flag is not where reset clears");
}

int main(void)
{
    for (uint64_t seed = 1; seed <= 500; seed++) {
        uint64_t state = seed;
        epf_shape s;
        s.num_ranks = core_pick(&state, 1, 64);
        s.num_local = core_pick(&state, 1, 40);
        s.num_experts = s.num_ranks * s.num_local;
        s.topk = core_pick(&state, 1, 32);
        s.hidden = 8 * core_pick(&state, 1, 2000);
        s.max_tokens = core_pick(&state, 1, 32768);
        s.token_bytes = core_pick(&state, 1, 2) * 2;
        s.weight_bytes = core_pick(&state, 1, 2) * 2;
        check_control(&s);
        check_set(&s, core_pick(&state, 1, 1 << 24));
        check_set(&s, ((int64_t)1 << 31) - 1); /* 2^31 rows of 16000 elements: far past 32 bits */
    }
    return 0;
}
