/* cli_plan_memory.c: the sizes of an operator's buffers, from the operator itself. */
#include <string.h>

#include "api/epf_group.h"
#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "cli_plan.h"

/* A group whose only rank speaks for all W: everybody says what it says, and nobody has memory. */
static epf_status echo(epf_comm *comm, const void *send, void *recv, size_t bytes)
{
    for (int32_t r = 0; r < comm->num_ranks; r++) {
        memcpy((char *)recv + (size_t)r * bytes, send, bytes);
    }
    return EPF_OK;
}

static epf_status refuse_window(epf_comm *comm, uint64_t bytes, epf_window **window)
{
    (void)comm;
    (void)window;
    return EPF_FAIL(EPF_E_INTERNAL, "plan: a lazy operator asked for %llu bytes",
                    (unsigned long long)bytes);
}

static void destroy_window(epf_comm *comm, epf_window *window)
{
    (void)comm;
    (void)window;
}

static bool peer_alive(epf_comm *comm, int32_t peer)
{
    (void)comm;
    (void)peer;
    return true;
}

static int32_t find_dead(epf_comm *comm)
{
    (void)comm;
    return -1;
}

static epf_status reset(epf_comm *comm)
{
    (void)comm;
    return EPF_OK;
}

static void destroy(epf_comm *comm)
{
    (void)comm;
}

static const epf_comm_ops echo_ops = {"echo",     echo,      refuse_window, destroy_window,
                                      peer_alive, find_dead, reset,         destroy};

static epf_status ask(plan *p, epf_group *group)
{
    epf_op_config config;
    epf_op *op = NULL;
    epf_status st;

    EPF_TRY(epf_op_config_init(&config));
    config.max_tokens = p->tokens;
    config.hidden = (int32_t)p->shape.hidden;
    config.topk = p->shape.topk;
    config.num_tot_experts = p->shape.num_experts;
    config.dtype = p->shape.dtype;
    config.capacity = p->capacity;
    config.duplicate_comm_buffer = p->num_sets;
    config.lazy = true;
    config.num_workers = 1;
    EPF_TRY(epf_op_create(group, &config, &op));
    EPF_TRY_GOTO(epf_op_symmetric_bytes(op, &p->symmetric_bytes), out);
    EPF_TRY_GOTO(epf_op_symmetric_breakdown(op, p->buffers, PLAN_MAX_BUFFERS, &p->num_buffers),
                 out);
    p->num_buffers = p->num_buffers < PLAN_MAX_BUFFERS ? p->num_buffers : PLAN_MAX_BUFFERS;
out:
    epf_op_destroy(op);
    return st;
}

epf_status plan_memory(plan *p)
{
    const int32_t num_ranks = p->shape.num_ranks;
    epf_comm comm = {
        .ops = &echo_ops, .num_ranks = num_ranks, .node = -1, .timeout_ns = EPF_COMM_TIMEOUT_NS};
    epf_group *group = NULL;
    epf_status st;

    comm.scratch = epf_alloc((size_t)num_ranks, EPF_COMM_SCRATCH_BYTES);
    if (comm.scratch == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "plan: %d ranks", num_ranks);
    }
    st = epf_group_adopt(&comm, &group);
    if (st == EPF_OK) {
        st = ask(p, group);
    }
    epf_group_destroy(group);
    epf_free(comm.scratch);
    return st;
}
