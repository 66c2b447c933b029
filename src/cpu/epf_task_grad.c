/* epf_task_grad.c: GRAD: one tile of a weight gradient, summed over an expert's rows. */
#include <string.h>

#include "base/epf_error.h"
#include "cpu/epf_worker.h"
#include "cpu/gemm/epf_convert.h"

static const uint8_t *element(const epf_call *call, const epf_rows *rows, int64_t row,
                              int64_t column)
{
    return (const uint8_t *)rows->data + (row * rows->stride + column) * call->shape.token_bytes;
}

/* tile[0] = the sum over all rows of the expert, in steps of block_rows. */
static epf_status sum_rows(epf_worker *worker, const epf_grad_tile *tile)
{
    const epf_call *const call = worker->exec->call;
    const epf_grad_operands *const g = &call->grads[tile->grad];
    const int64_t first = call->phase.tiles.row_offset[tile->expert];
    const int64_t num_rows = call->phase.tiles.rows[tile->expert];
    const int64_t floats = (int64_t)tile->num_n * tile->num_k;
    int64_t done = 0;
    do {
        const int64_t step = epf_min64(g->block_rows, num_rows - done);
        epf_gemm_tn_args args;
        memset(&args, 0, sizeof args);
        args.kind = (epf_gemm_kind)call->gemm_kind;
        args.dtype = (epf_dtype)call->dtype;
        args.rows = step;
        args.m = tile->num_n;
        args.n = tile->num_k;
        args.a = step == 0 ? NULL : element(call, &g->grad_output, first + done, tile->n_begin);
        args.lda = g->grad_output.stride;
        args.b = step == 0 ? NULL : element(call, &g->orig_input, first + done, tile->k_begin);
        args.ldb = g->orig_input.stride;
        args.c = worker->tile[done == 0 ? 0 : 1];
        args.ldc = tile->num_k;
        EPF_TRY(epf_gemm_tn(&args, worker->scratch));
        for (int64_t i = 0; i < floats && done > 0; i++) {
            worker->tile[0][i] += worker->tile[1][i];
        }
        done += step;
    } while (done < num_rows);
    return EPF_OK;
}

epf_status epf_task_grad(epf_worker *worker, int64_t index)
{
    const epf_call *const call = worker->exec->call;
    const epf_grad_tile tile = epf_grad_tile_at(&call->phase, index);
    const epf_grad_operands *const g = &call->grads[tile.grad];
    const epf_grad_map *const map = &call->phase.grads[tile.grad];
    const int64_t out_bytes = epf_dtype_bytes(g->out_dtype);
    epf_prof_record *const rec =
        epf_prof_begin(worker->lane, EPF_PROF_WEIGHT_GRAD_MAIN, (int32_t)index);
    epf_prof_detail(rec, tile.expert, call->phase.tiles.rows[tile.expert]);
    EPF_TRY(epf_worker_reserve(worker, (int64_t)map->block_n * map->block_k));
    EPF_TRY(sum_rows(worker, &tile));
    for (int64_t i = 0; i < tile.num_n; i++) {
        const int64_t at =
            tile.expert * g->expert_stride + (tile.n_begin + i) * g->out.stride + tile.k_begin;
        epf_convert_from_f32((uint8_t *)g->out.data + at * out_bytes,
                             worker->tile[0] + i * tile.num_k, (epf_dtype)g->out_dtype, tile.num_k);
    }
    epf_prof_end(rec);
    return EPF_OK;
}
