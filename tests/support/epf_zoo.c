/*
 * The routing zoo: each name is one function that fills token counts and expert ids.
 *
 * Every routing starts as T_max tokens on every rank, all slots dropped; what a function leaves alone
 * stays so.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/epf_check.h"
#include "support/epf_problem.h"
#include "support/epf_rng.h"

typedef struct zoo {
    const epf_problem *p;
    int32_t *num_tokens;      /* [W]                 */
    int32_t *const *topk_idx; /* [W] -> [T_max, K]   */
    epf_rng rng;
} zoo;

static int32_t num_local(const zoo *z)
{
    return z->p->num_experts / z->p->num_ranks;
}

static int32_t num_slots(const zoo *z, int32_t rank)
{
    return z->num_tokens[rank] * z->p->num_topk;
}

/* K experts of [first, first + count), distinct as long as count allows it. */
static void pick_distinct(zoo *z, int32_t *ids, int32_t first, int32_t count)
{
    for (int32_t k = 0; k < z->p->num_topk; k++) {
        bool taken = true;
        while (taken) {
            ids[k] = first + epf_rng_below(&z->rng, count);
            taken = false;
            for (int32_t j = 0; j < k && k < count; j++) {
                taken = taken || ids[j] == ids[k];
            }
        }
    }
}

static bool fill_uniform(zoo *z)
{
    for (int32_t r = 0; r < z->p->num_ranks; r++) {
        for (int32_t t = 0; t < z->num_tokens[r]; t++) {
            pick_distinct(z, z->topk_idx[r] + t * z->p->num_topk, 0, z->p->num_experts);
        }
    }
    return true;
}

/* Expert i, in an order drawn from the seed, is chosen in proportion to 1 / (i + 1). */
static bool fill_zipf(zoo *z)
{
    const int32_t experts = z->p->num_experts;
    int32_t *order = epf_test_alloc((size_t)experts, sizeof *order);

    for (int32_t e = 0; e < experts; e++) { /* a shuffle, from the inside out */
        const int32_t at = epf_rng_below(&z->rng, e + 1);
        order[e] = order[at];
        order[at] = e;
    }
    for (int32_t r = 0; r < z->p->num_ranks; r++) {
        for (int32_t s = 0; s < num_slots(z, r); s++) {
            /* The integral of 1 / x, inverted. */
            const double x = pow((double)experts + 1, epf_rng_uniform(&z->rng));
            z->topk_idx[r][s] = order[(int32_t)x - 1];
        }
    }
    free(order);
    return true;
}

static bool fill_empty(zoo *z)
{
    memset(z->num_tokens, 0, (size_t)z->p->num_ranks * sizeof *z->num_tokens);
    return true;
}

static bool fill_one_token(zoo *z)
{
    const int32_t rank = epf_rng_below(&z->rng, z->p->num_ranks);

    (void)fill_empty(z);
    z->num_tokens[rank] = z->p->max_tokens > 0 ? 1 : 0;
    return fill_uniform(z);
}

static bool fill_one_expert(zoo *z)
{
    const int32_t expert = epf_rng_below(&z->rng, z->p->num_experts);

    for (int32_t r = 0; r < z->p->num_ranks; r++) {
        for (int32_t s = 0; s < num_slots(z, r); s++) {
            z->topk_idx[r][s] = expert;
        }
    }
    return true;
}

static void fill_towards(zoo *z, int32_t source, int32_t destination)
{
    for (int32_t t = 0; t < z->num_tokens[source]; t++) {
        pick_distinct(z, z->topk_idx[source] + t * z->p->num_topk, destination * num_local(z),
                      num_local(z));
    }
}

static bool fill_one_rank(zoo *z)
{
    const int32_t rank = epf_rng_below(&z->rng, z->p->num_ranks);

    for (int32_t r = 0; r < z->p->num_ranks; r++) {
        fill_towards(z, r, rank);
    }
    return true;
}

static bool fill_self(zoo *z)
{
    for (int32_t r = 0; r < z->p->num_ranks; r++) {
        fill_towards(z, r, r);
    }
    return true;
}

static bool fill_neighbour(zoo *z)
{
    for (int32_t r = 0; r < z->p->num_ranks; r++) {
        fill_towards(z, r, (r + 1) % z->p->num_ranks);
    }
    return true;
}

/* The i-th slot of all, T_max tokens on every rank. */
static int32_t *global_slot(const zoo *z, int32_t i)
{
    const int32_t per_rank = z->p->max_tokens * z->p->num_topk;
    return &z->topk_idx[i / per_rank][i % per_rank];
}

/* Experts get `chunk` slots each, in turn; the slots that are left stay dropped. */
static bool fill_chunks(zoo *z, int32_t chunk)
{
    const int32_t slots = z->p->num_ranks * z->p->max_tokens * z->p->num_topk;
    const int32_t first = epf_rng_below(&z->rng, z->p->num_experts);

    for (int32_t i = 0; i < slots / chunk * chunk; i++) {
        *global_slot(z, i) = (first + i / chunk) % z->p->num_experts;
    }
    for (int32_t i = slots - 1; i > 0; i--) { /* shuffled, or each rank would feed few experts */
        int32_t *a = global_slot(z, i);
        int32_t *b = global_slot(z, epf_rng_below(&z->rng, i + 1));
        const int32_t id = *a;
        *a = *b;
        *b = id;
    }
    return true;
}

static bool fill_exact_tile(zoo *z)
{
    return fill_chunks(z, z->p->block_m);
}

static bool fill_tile_plus_one(zoo *z)
{
    return fill_chunks(z, z->p->block_m + 1);
}

static int32_t dropped_id(zoo *z)
{
    return epf_rng_below(&z->rng, 2) == 0 ? -1 : z->p->num_experts;
}

static bool drop_some(zoo *z, int32_t percent)
{
    (void)fill_uniform(z);
    for (int32_t r = 0; r < z->p->num_ranks; r++) {
        for (int32_t s = 0; s < num_slots(z, r); s++) {
            if (epf_rng_below(&z->rng, 100) < percent) {
                z->topk_idx[r][s] = dropped_id(z);
            }
        }
    }
    return true;
}

static bool fill_all_dropped(zoo *z)
{
    return drop_some(z, 100);
}

static bool fill_some_dropped(zoo *z)
{
    return drop_some(z, 35);
}

/* Each slot repeats the one before it with probability 1/2. */
static bool fill_duplicates(zoo *z)
{
    (void)fill_uniform(z);
    for (int32_t r = 0; r < z->p->num_ranks; r++) {
        for (int32_t s = 0; s < num_slots(z, r); s++) {
            if (s % z->p->num_topk > 0 && epf_rng_below(&z->rng, 2) == 0) {
                z->topk_idx[r][s] = z->topk_idx[r][s - 1];
            }
        }
    }
    return true;
}

static bool fill_uneven(zoo *z)
{
    for (int32_t r = 1; r < z->p->num_ranks; r++) {
        z->num_tokens[r] = epf_rng_below(&z->rng, z->p->max_tokens + 1);
    }
    return fill_uniform(z);
}

/* Odd ranks send nothing and receive nothing. */
static bool fill_empty_ranks(zoo *z)
{
    const int32_t senders = (z->p->num_ranks + 1) / 2;

    for (int32_t r = 1; r < z->p->num_ranks; r += 2) {
        z->num_tokens[r] = 0;
    }
    for (int32_t r = 0; r < z->p->num_ranks; r += 2) {
        fill_towards(z, r, 2 * epf_rng_below(&z->rng, senders));
    }
    return true;
}

/* Rank 0 receives `extra` rows more than its buffers hold at first; the others share what is left. */
static bool fill_capacity(zoo *z, int32_t extra)
{
    const epf_problem *p = z->p;
    const int32_t slots = p->num_ranks * p->max_tokens * p->num_topk;
    const int32_t rows = (int32_t)ceil(p->max_tokens * p->num_topk * p->capacity) + extra;

    if (rows < 0 || rows > slots) {
        return false;
    }
    for (int32_t i = 0; i < slots; i++) {
        const int32_t local = epf_rng_below(&z->rng, num_local(z));
        const int32_t other = p->num_ranks == 1 ? 0 : epf_rng_range(&z->rng, 1, p->num_ranks - 1);
        if (i < rows) {
            *global_slot(z, i) = local;
        } else if (other > 0 && i - rows < rows) {
            *global_slot(z, i) = other * num_local(z) + local;
        }
    }
    return true;
}

static bool fill_capacity_minus_one(zoo *z)
{
    return fill_capacity(z, -1);
}

static bool fill_capacity_equal(zoo *z)
{
    return fill_capacity(z, 0);
}

static bool fill_capacity_plus_one(zoo *z)
{
    return fill_capacity(z, 1);
}

/* Every routing once: the problem's name for it and the function. */
#define ZOO_MAP(X)                                 \
    X(uniform, fill_uniform)                       \
    X(zipf, fill_zipf)                             \
    X(empty, fill_empty)                           \
    X(one_token, fill_one_token)                   \
    X(all_to_one_expert, fill_one_expert)          \
    X(all_to_one_rank, fill_one_rank)              \
    X(self, fill_self)                             \
    X(neighbour, fill_neighbour)                   \
    X(exact_tile, fill_exact_tile)                 \
    X(tile_plus_one, fill_tile_plus_one)           \
    X(all_dropped, fill_all_dropped)               \
    X(some_dropped, fill_some_dropped)             \
    X(duplicates, fill_duplicates)                 \
    X(uneven_T_per_rank, fill_uneven)              \
    X(empty_ranks, fill_empty_ranks)               \
    X(capacity_minus_one, fill_capacity_minus_one) \
    X(capacity_equal, fill_capacity_equal)         \
    X(capacity_plus_one, fill_capacity_plus_one)

const char *const *epf_zoo_names(void)
{
#define X(name, fill) #name,
    static const char *const names[] = {ZOO_MAP(X) NULL};
#undef X
    return names;
}

bool epf_zoo_route(const epf_problem *problem, int32_t *num_tokens, int32_t *const *topk_idx)
{
    zoo z = {problem, num_tokens, topk_idx, epf_rng_make(problem->seed, 2)};

    for (int32_t r = 0; r < problem->num_ranks; r++) {
        num_tokens[r] = problem->max_tokens;
        for (int32_t s = 0; s < problem->max_tokens * problem->num_topk; s++) {
            topk_idx[r][s] = -1;
        }
    }
#define X(name, fill)                           \
    if (strcmp(#name, problem->routing) == 0) { \
        return fill(&z);                        \
    }
    ZOO_MAP(X)
#undef X
    epf_check_failed(__FILE__, __LINE__, "routing", "no routing %s", problem->routing);
}
