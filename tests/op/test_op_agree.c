/*
 * test_op_agree: what must be alike on all ranks and is not, or memory that one rank cannot have, is the
 * same error on every rank when the operator is made; the group stays usable.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

typedef struct field {
    const char *name;
    size_t offset;
    int32_t value; /* of rank 1 alone */
} field;

#define FIELD(name, value)                            \
    {                                                 \
#name, offsetof(epf_op_config, name), (value) \
    }

static const field kFields[] = {
    FIELD(max_tokens, 10),
    FIELD(hidden, 24),
    FIELD(topk, 3),
    FIELD(num_tot_experts, 12),
    FIELD(dtype, EPF_DTYPE_F32),
    FIELD(weight_dtype, EPF_DTYPE_BF16),
    FIELD(duplicate_comm_buffer, 2),
    FIELD(hidden, 7), /* refused on rank 1 itself */
    FIELD(num_workers, -1),
    FIELD(sm_margin, INT32_MAX),
};

static bool disagree_on_capacity(op_rank *r)
{
    epf_op_config config = op_config_of(r->c);
    epf_op *op = NULL;

    config.capacity = r->id == 1 ? 1.5 : 1.25;
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_create(r->group, &config, &op));
    RANK_CHECK(r->rank, strstr(epf_last_error(), "capacity: 1.25 on rank 0, 1.5 on rank 1") != NULL,
               "the text: %s", epf_last_error());
    config = op_config_of(r->c); /* 2^63 bytes: on all ranks alike */
    config.max_tokens = INT32_MAX / 96;
    config.topk = 32;
    config.hidden = 80000000;
    config.lazy = true;
    RANK_STATUS(r->rank, EPF_E_INVALID, epf_op_create(r->group, &config, &op));
    RANK_CHECK(r->rank, strstr(epf_last_error(), "more than 2^63 bytes") != NULL, "the text: %s",
               epf_last_error());
    return true;
}

static bool disagree(op_rank *r)
{
    for (size_t i = 0; i < sizeof kFields / sizeof kFields[0]; i++) {
        epf_op_config config = op_config_of(r->c);
        epf_op *op = NULL;
        epf_status status;
        if (epf_space_is_device() && kFields[i].value == EPF_DTYPE_F32 &&
            strcmp(kFields[i].name, "dtype") == 0) {
            continue; /* on its own it is EPF_E_UNSUPPORTED */
        }
        if (r->id == 1) {
            memcpy((char *)&config + kFields[i].offset, &kFields[i].value, sizeof(int32_t));
        }
        status = epf_op_create(r->group, &config, &op);
        RANK_CHECK(r->rank, status == EPF_E_INVALID && op == NULL, "%s %d on rank 1: status %d: %s",
                   kFields[i].name, kFields[i].value, status, epf_last_error());
        RANK_CHECK(r->rank, r->id != 1 || strstr(epf_last_error(), kFields[i].name) != NULL,
                   "%s on rank 1: the text does not name it: %s", kFields[i].name,
                   epf_last_error());
    }
    return disagree_on_capacity(r) && op_preprocess(r) && op_dispatch(r) && op_combine(r);
}

static void run_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_open(&r, rank->user, rank) && disagree(&r));
    op_close(&r);
}

static int32_t run(bool processes)
{
    const epf_problem problem = epf_problem_of("W3E6K2T9H16N16M8/zipf/seed121");
    const op_knobs knobs = {.gates = true};
    epf_data *data = epf_data_make(&problem);
    op_case *c = op_case_make(data, &knobs, processes);
    const int32_t failed = op_run_function(c, run_rank, 0, "agree");

    op_case_free(c);
    epf_data_free(data);
    return failed;
}

int main(void)
{
    return op_finish(run(false) + run(true));
}
