/* pair.c: see pair.h. */
#include "pair.h"

static void *create(void *rank)
{
    pair_rank *const r = rank;
    epf_op_config config;
    r->status = epf_op_config_init(&config);
    config.max_tokens = 4;
    config.hidden = 8;
    config.topk = 1;
    config.num_tot_experts = PAIR_SIZE;
    config.num_workers = 1;
    if (r->status == EPF_OK) {
        r->status = epf_op_create(r->group, &config, &r->op);
    }
    return NULL;
}

void *pair_meet(void *rank)
{
    pair_rank *const r = rank;
    r->status = epf_op_barrier(r->op);
    return NULL;
}

void *pair_reset(void *rank)
{
    pair_rank *const r = rank;
    r->status = epf_op_reset(r->op);
    return NULL;
}

void pair_run(pair_rank *ranks, void *(*first)(void *), void *(*second)(void *))
{
    CHECK(pthread_create(&ranks[0].thread, NULL, first, &ranks[0]) == 0, "no thread");
    CHECK(pthread_create(&ranks[1].thread, NULL, second, &ranks[1]) == 0, "no thread");
    for (int32_t r = 0; r < PAIR_SIZE; r++) {
        CHECK(pthread_join(ranks[r].thread, NULL) == 0, "not joined");
    }
}

void pair_run_ok(pair_rank *ranks, void *(*function)(void *))
{
    pair_run(ranks, function, function);
    for (int32_t r = 0; r < PAIR_SIZE; r++) {
        CHECK(ranks[r].status == EPF_OK, "rank %d: %s", r, epf_status_name(ranks[r].status));
    }
}

void pair_create(pair_rank *ranks, uint64_t timeout_ns)
{
    epf_group *groups[PAIR_SIZE];
    epf_group_config config;
    CHECK_OK(epf_group_config_init(&config));
    config.timeout_ns = timeout_ns;
    CHECK_OK(epf_group_create_threads(PAIR_SIZE, &config, groups));
    for (int32_t r = 0; r < PAIR_SIZE; r++) {
        ranks[r] = (pair_rank){.group = groups[r]};
    }
    pair_run_ok(ranks, create);
}

void pair_destroy(pair_rank *ranks)
{
    for (int32_t r = 0; r < PAIR_SIZE; r++) {
        epf_op_destroy(ranks[r].op);
        epf_group_destroy(ranks[r].group);
    }
}
