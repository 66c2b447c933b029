/* test_edges: the last index of one thing and the first of the next; sums that do not fit 32 bits. */
#include <stdint.h>
#include <string.h>

#include "core/epf_route.h"
#include "core/epf_sched.h"
#include "core_check.h"

/* Two gradients of one phase: the queue goes from the last tile of the first to the first of the second. */
static void check_two_gradients(void)
{
    const epf_grad_map first = {16, 24, 8, 8, 1};
    const epf_grad_map second = {8, 8, 8, 8, 1};
    epf_phase p;
    epf_grad_tile tile;
    memset(&p, 0, sizeof p);
    p.kind = EPF_PHASE_GRAD;
    p.tiles.num_experts = 2;
    p.num_grads = 2;
    p.grads[0] = first;
    p.grads[1] = second;
    CHECK(epf_phase_num_tasks(&p, EPF_TASK_GRAD) == 14, "2 x 3 x 2 + 2 tiles");
    tile = epf_grad_tile_at(&p, 11);
    CHECK(tile.grad == 0 && tile.expert == 1 && tile.n_begin == 8 && tile.k_begin == 16,
          "tile 11: gradient %d, expert %d, %d, %d", tile.grad, tile.expert, tile.n_begin,
          tile.k_begin);
    for (int32_t expert = 0; expert < 2; expert++) {
        tile = epf_grad_tile_at(&p, 12 + expert);
        CHECK(tile.grad == 1 && tile.expert == expert && tile.n_begin == 0 && tile.k_begin == 0 &&
                  tile.num_n == 8 && tile.num_k == 8,
              "tile %d: gradient %d, expert %d", 12 + expert, tile.grad, tile.expert);
    }
}

/* Rows of one rank: 2^31 - 1 are counted, one more is refused. */
static void check_row_overflow(void)
{
    int32_t counts[2] = {INT32_MAX - 5, 5}; /* of two experts of one rank */
    int32_t tokens[2];
    int32_t offset[2];
    int32_t recv[1];
    const epf_route_tables tables = {1, 2, counts, tokens, offset, recv};
    CHECK(epf_route_fill(&tables), "2^31 - 1 rows");
    CHECK(recv[0] == INT32_MAX && offset[1] == INT32_MAX - 5, "%d rows", recv[0]);
    counts[1] = 6;
    CHECK(!epf_route_fill(&tables), "2^31 rows must be refused");
}

/* A combine's tiles wait until peers have left the buffers, not until they come to this call. */
static void check_free_buffers(void)
{
    epf_phase p;
    epf_need need;

    memset(&p, 0, sizeof p);
    p.kind = EPF_PHASE_COMBINE_SERIAL;
    p.num_ranks = 3;
    p.epoch = 9;
    p.free_epoch = 7;
    need = epf_phase_need(&p, EPF_TASK_GEMM, 0);
    CHECK(need.object == EPF_OBJECT_ENTERED && need.begin == 0 && need.end == 3,
          "object %d of ranks %lld to %lld", (int)need.object, (long long)need.begin,
          (long long)need.end);
    CHECK(need.at_least == epf_word(7, 0), "at least %#llx", (unsigned long long)need.at_least);
}

int main(void)
{
    check_free_buffers();
    check_two_gradients();
    check_row_overflow();
    return 0;
}
