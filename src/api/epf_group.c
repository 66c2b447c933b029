/* epf_group.c: groups of ranks: threads of this process, or processes that found each other. */
#include "api/epf_group.h"

#include "api/epf_spec.h"
#include "base/epf_alloc.h"

static epf_status import_config(const epf_group_config *user, epf_group_config *config,
                                epf_comm_config *comm_config)
{
    if (user == NULL) {
        EPF_TRY(epf_group_config_init(config));
    } else {
        EPF_TRY(epf_struct_import(&epf_spec_group_config, user, config));
    }
    EPF_CHECK_ARG(config->timeout_ns > 0, "timeout_ns: 0, must be at least 1");
    epf_comm_config_init(comm_config);
    comm_config->timeout_ns = config->timeout_ns;
    return EPF_OK;
}

epf_status epf_group_adopt(epf_comm *comm, epf_group **group)
{
    epf_group *const g = epf_alloc(1, sizeof *g);
    if (g == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "group: %zu bytes", sizeof *g);
    }
    g->comm = comm;
    *group = g;
    return EPF_OK;
}

epf_status epf_group_create_threads(int32_t num_ranks, const epf_group_config *user,
                                    epf_group **groups)
{
    epf_group_config config;
    epf_comm_config comm_config;
    epf_comm **comms;
    epf_status st;
    EPF_CHECK_ARG(groups != NULL, "groups: NULL");
    EPF_CHECK_ARG(num_ranks >= 1 && num_ranks <= EPF_COMM_MAX_RANKS, "num_ranks: %d, must be 1..%d",
                  num_ranks, (int)EPF_COMM_MAX_RANKS);
    for (int32_t r = 0; r < num_ranks; r++) {
        groups[r] = NULL;
    }
    EPF_TRY(import_config(user, &config, &comm_config));
    comm_config.num_ranks = num_ranks;
    comms = epf_alloc((size_t)num_ranks, sizeof *comms);
    if (comms == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "group: %d ranks", num_ranks);
    }
    st = epf_comm_create_threads(&comm_config, comms);
    for (int32_t r = 0; r < num_ranks && st == EPF_OK; r++) {
        st = epf_group_adopt(comms[r], &groups[r]);
    }
    if (st != EPF_OK) {
        for (int32_t r = 0; r < num_ranks; r++) {
            epf_comm_destroy(comms[r]);
            epf_free(groups[r]);
            groups[r] = NULL;
        }
    }
    epf_free(comms);
    return st;
}

epf_status epf_group_create(const epf_group_config *user, epf_group **group)
{
    epf_group_config config;
    epf_comm_config comm_config;
    epf_comm *comm = NULL;
    epf_status st;
    EPF_CHECK_ARG(group != NULL, "group: NULL");
    EPF_TRY(import_config(user, &config, &comm_config));
    if (config.all_gather != NULL) {
        EPF_CHECK_ARG(config.num_ranks >= 1 && config.num_ranks <= EPF_COMM_MAX_RANKS,
                      "num_ranks: %d, must be 1..%d", config.num_ranks, (int)EPF_COMM_MAX_RANKS);
        EPF_CHECK_ARG(config.rank >= 0 && config.rank < config.num_ranks, "rank: %d, must be 0..%d",
                      config.rank, config.num_ranks - 1);
        comm_config.rank = config.rank;
        comm_config.num_ranks = config.num_ranks;
        EPF_TRY(epf_comm_create_callback(&comm_config, config.all_gather, config.all_gather_context,
                                         &comm));
    } else {
        EPF_CHECK_ARG(config.rank == -1 && config.num_ranks == 0,
                      "rank: %d and num_ranks: %d are given without all_gather", config.rank,
                      config.num_ranks);
        EPF_TRY(epf_comm_create_env(&comm_config, &comm));
    }
    st = epf_group_adopt(comm, group);
    if (st != EPF_OK) {
        epf_comm_destroy(comm);
    }
    return st;
}

int32_t epf_group_rank(const epf_group *group)
{
    return group == NULL ? -1 : group->comm->rank;
}

int32_t epf_group_num_ranks(const epf_group *group)
{
    return group == NULL ? 0 : group->comm->num_ranks;
}

void epf_group_destroy(epf_group *group)
{
    if (group == NULL) {
        return;
    }
    epf_comm_destroy(group->comm);
    epf_free(group);
}
