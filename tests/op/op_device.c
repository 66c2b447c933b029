/* op_device.c: what differs where the operator runs on a device. */
#include "op_device.h"

#include "support/epf_check.h"
#include "support/epf_space.h"

/* Tiles that the kernels have; a caller may name them, or leave them to the library. */
enum {
    BLOCK_N = 256,
    BLOCK_K = 64,
    GRAD_BLOCK_M = 128,
    GRAD_BLOCK_N = 256,
    GRAD_BLOCK_K = 64,
    ALIGN_ELEMENTS = 8 /* of two bytes: rows start at multiples of 16 bytes */
};

void op_device_config(epf_op_config *config)
{
    if (epf_space_is_device()) {
        config->backend = EPF_BACKEND_CUDA;
        config->stream = epf_space_stream();
    }
}

epf_status op_device_settle(const op_rank *r)
{
    return epf_space_is_device() ? epf_op_synchronize(r->op) : EPF_OK;
}

static bool is_other(int32_t value, int32_t only)
{
    return value != EPF_AUTO && value != only;
}

static bool has_other_tiles(const op_knobs *k)
{
    return is_other(k->block_n, BLOCK_N) || is_other(k->block_k, BLOCK_K) ||
           (k->grad_dtype != 0 &&
            (is_other(k->grad_block_m, GRAD_BLOCK_M) || is_other(k->grad_block_n, GRAD_BLOCK_N) ||
             is_other(k->grad_block_k, GRAD_BLOCK_K)));
}

epf_status op_device_refuses(const op_knobs *k)
{
    if (!epf_space_is_device()) {
        return EPF_OK;
    }
    if (k->num_workers % 2 != 0) {
        return EPF_E_INVALID;
    }
    return has_other_tiles(k) || k->pin || k->gemm_library != EPF_GEMM_LIBRARY_AUTO ||
                   k->guard_cols % ALIGN_ELEMENTS != 0
               ? EPF_E_UNSUPPORTED
               : EPF_OK;
}

/* The first status that is not EPF_OK. */
static epf_status first_refusal(op_rank *r)
{
    const epf_op_config config = op_config_of(r->c);
    epf_status st = epf_op_create(r->group, &config, &r->op);

    st = st == EPF_OK && r->c->knobs.packed ? op_pack(r) : st;
    return st == EPF_OK ? op_try_calls(r, OP_ALL_CALLS) : st;
}

static bool check_refusal(op_rank *r)
{
    const epf_status want = op_device_refuses(&r->c->knobs);
    const epf_status st = first_refusal(r);

    RANK_CHECK(r->rank, st == want, "%s, want %s: %s", epf_status_name(st), epf_status_name(want),
               epf_last_error());
    RANK_CHECK(r->rank, epf_last_error()[0] != '\0', "no text");
    return true;
}

void op_device_refused_rank(epf_test_rank *rank)
{
    op_rank r;

    (void)(op_prepare(&r, rank->user, rank) && check_refusal(&r));
    op_close(&r);
}

void op_device_tame(op_knobs *k)
{
    if (!epf_space_is_device()) {
        return;
    }
    k->block_n = k->block_n != 0 ? BLOCK_N : 0;
    k->block_k = k->block_k != 0 ? BLOCK_K : 0;
    k->grad_block_m = k->grad_block_m != 0 ? GRAD_BLOCK_M : 0;
    k->grad_block_n = k->grad_block_n != 0 ? GRAD_BLOCK_N : 0;
    k->grad_block_k = k->grad_block_k != 0 ? GRAD_BLOCK_K : 0;
    k->pin = false;
    k->gemm_library = EPF_GEMM_LIBRARY_AUTO;
    k->guard_cols = k->guard_cols != 0 ? ALIGN_ELEMENTS : 0;
    k->num_workers += k->num_workers % 2;
    if ((k->combine_sm + k->num_reduce_sms + 1) / 2 * 2 >= k->num_workers) {
        k->combine_sm = k->num_reduce_sms = 0; /* a pair must be left to multiply */
    }
}

epf_tile_tables op_device_tables(const epf_layout_view *v, int64_t num_local)
{
    epf_tile_tables t = {.expert_ids = {.ndim = 0}};

    t.expert_ids = op_vector(v->expert_ids, EPF_DTYPE_I32, v->num_tiles_total);
    t.split_size = op_vector(v->split_size, EPF_DTYPE_I32, num_local);
    t.split_size_cum = op_vector(v->split_size_cum, EPF_DTYPE_I32, v->num_tiles_total);
    t.tile_num = op_vector(v->tile_num, EPF_DTYPE_I32, v->num_tiles_total);
    t.tile_num_cum = op_vector(v->tile_num_cum, EPF_DTYPE_I32, v->num_tiles_total);
    t.expert_offs = op_vector(v->expert_tile_offset, EPF_DTYPE_I32, num_local);
    return t;
}
