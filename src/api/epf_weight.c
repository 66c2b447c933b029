/* epf_weight.c: packing this rank's experts' weights for the tile product. */
#include "api/epf_weight.h"

#include <string.h>

#include "api/epf_backend.h"
#include "api/epf_phase_args.h"
#include "api/epf_spec.h"
#include "base/epf_alloc.h"

enum { MAX_BLOCK = 65536 };

static epf_status check_block(const char *name, int32_t block)
{
    EPF_CHECK_ARG(block == EPF_AUTO || (block >= 8 && block <= MAX_BLOCK && block % 8 == 0),
                  "%s: %d, must be 0 (AUTO) or a multiple of 8 in 8..%d", name, block,
                  (int)MAX_BLOCK);
    return EPF_OK;
}

static epf_status check_weight(const epf_op *op, const epf_weight_config *c, const char *name,
                               epf_weight *w)
{
    const epf_tensor_want want = {
        name,  3,    {op->shape.num_local, EPF_ANY_SIZE, EPF_ANY_SIZE}, op->config.dtype, 0,
        false, false};
    EPF_CHECK_ARG(epf_tensor_given(&c->tensor), "%s: not given, but required", name);
    EPF_TRY(epf_tensor_check(&c->tensor, &want));
    w->n = c->tensor.shape[c->reduce_last_dim ? 1 : 2];
    w->k = c->tensor.shape[c->reduce_last_dim ? 2 : 1];
    w->gate_up = c->gate_up;
    w->reduce_last_dim = c->reduce_last_dim;
    EPF_TRY(epf_phase_check_align(op, &c->tensor, name));
    EPF_CHECK_ARG(w->n >= 8 && w->n % 8 == 0 && w->n <= INT32_MAX,
                  "%s: N is %lld, must be a positive multiple of 8", name, (long long)w->n);
    EPF_CHECK_ARG(w->k >= 8 && w->k % 8 == 0 && w->k <= INT32_MAX,
                  "%s: the reduced dimension is %lld, must be a positive multiple of 8", name,
                  (long long)w->k);
    EPF_CHECK_ARG(!c->gate_up || w->n % 16 == 0,
                  "%s: N is %lld, with gate_up it must be a multiple of 16", name, (long long)w->n);
    EPF_TRY(check_block("gemm_block_size_n", c->gemm_block_size_n));
    EPF_TRY(check_block("gemm_block_size_k", c->gemm_block_size_k));
    w->block_n =
        c->gemm_block_size_n == EPF_AUTO ? op->config.fwd_gemm_block_size_n : c->gemm_block_size_n;
    w->block_k = c->gemm_block_size_k;
    return op->backend->weight_check(op, c, w);
}

static epf_status create(epf_op *op, const epf_weight_config *c, const char *name, epf_weight **out)
{
    epf_status st;
    epf_weight *const w = epf_alloc(1, sizeof *w);
    if (w == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: %zu bytes", name, sizeof *w);
    }
    w->op = op;
    w->backend = op->backend;
    EPF_TRY_GOTO(check_weight(op, c, name, w), err_weight);
    EPF_TRY_GOTO(op->backend->weight_make(op, c, w), err_weight);
    *out = w;
    return EPF_OK;

err_weight:
    epf_free(w);
    return st;
}

epf_status epf_weight_create(epf_op *op, const epf_weight_config *config, epf_weight **weight)
{
    epf_weight_config c;
    EPF_CHECK_ARG(op != NULL, "op: NULL");
    EPF_CHECK_ARG(weight != NULL, "weight: NULL");
    EPF_TRY(epf_struct_import(&epf_spec_weight_config, config, &c));
    return create(op, &c, "tensor", weight);
}

void epf_weight_destroy(epf_weight *weight)
{
    if (weight == NULL) {
        return;
    }
    weight->backend->weight_free(weight);
    epf_free(weight);
}

static epf_status check_fit(const epf_op *op, const epf_weight_use *use, const epf_weight *w)
{
    const char *const name = use->packed != NULL ? use->packed_name : use->name;
    EPF_CHECK_ARG(w->op == op, "%s: belongs to another operator", name);
    EPF_CHECK_ARG(w->k == use->k, "%s: reduced dimension %lld, must be %lld", name, (long long)w->k,
                  (long long)use->k);
    EPF_CHECK_ARG(use->n == EPF_ANY_SIZE || w->n == use->n, "%s: N is %lld, must be %lld", name,
                  (long long)w->n, (long long)use->n);
    EPF_CHECK_ARG(w->gate_up == use->gate_up,
                  "%s: gate_up is %s, the call's activation needs it %s", name,
                  w->gate_up ? "true" : "false", use->gate_up ? "true" : "false");
    EPF_CHECK_ARG(use->block_n == EPF_AUTO || use->block_n == w->block_n,
                  "gemm_block_size_n: %d, but %s was packed for %d", use->block_n, name,
                  w->block_n);
    EPF_CHECK_ARG(use->block_k == EPF_AUTO || use->block_k == w->block_k,
                  "gemm_block_size_k: %d, but %s was packed for %d", use->block_k, name,
                  w->block_k);
    return EPF_OK;
}

/* What packing the raw tensor of a use would be asked for. */
static epf_status config_of(const epf_weight_use *use, epf_weight_config *c)
{
    EPF_TRY(epf_weight_config_init(c));
    c->tensor = *use->raw;
    c->reduce_last_dim = use->reduce_last_dim;
    c->gate_up = use->gate_up;
    c->gemm_block_size_n = use->block_n;
    c->gemm_block_size_k = use->block_k;
    return EPF_OK;
}

epf_status epf_weight_check(epf_op *op, const epf_weight_use *use)
{
    epf_weight_config c;
    epf_weight w;
    EPF_CHECK_ARG(epf_tensor_given(use->raw) != (use->packed != NULL),
                  "%s and %s: %s given, must be exactly one", use->name, use->packed_name,
                  use->packed != NULL ? "both" : "neither");
    if (use->packed != NULL) {
        return check_fit(op, use, use->packed);
    }
    memset(&w, 0, sizeof w);
    w.op = op;
    EPF_TRY(config_of(use, &c));
    EPF_TRY(check_weight(op, &c, use->name, &w));
    return check_fit(op, use, &w);
}

epf_status epf_weight_resolve(epf_op *op, const epf_weight_use *use, const epf_weight **weight,
                              epf_weight **temporary)
{
    epf_weight_config c;
    *temporary = NULL;
    *weight = use->packed;
    EPF_TRY(epf_weight_check(op, use));
    if (use->packed == NULL) {
        EPF_TRY(config_of(use, &c));
        EPF_TRY(create(op, &c, use->name, temporary));
        *weight = *temporary;
    }
    return EPF_OK;
}
