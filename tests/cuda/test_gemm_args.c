/*
 * test_gemm_args: a grouped GEMM's arguments are refused one by one, by name, before any device is asked for.
 */
#include <stdio.h>
#include <string.h>

#include "base/epf_error.h"
#include "cuda/epf_gemm_cuda.h"
#include "cuda/epf_gemm_sm90.h"

static int failures;

static epf_gemm_cuda_args good_args(void)
{
    static int memory[4];
    epf_gemm_cuda_args args;
    memset(&args, 0, sizeof args);
    args.dtype = EPF_DTYPE_BF16;
    args.num_experts = 4;
    args.n = 64;
    args.k = 64;
    args.m = 64;
    args.a_rows = 16;
    args.a = memory;
    args.b = memory;
    args.c = memory;
    args.rows = memory;
    return args;
}

static void refused(const epf_gemm_cuda_args *args, const char *name)
{
    const epf_status st = epf_gemm_cuda(args, NULL);
    if (st != EPF_E_INVALID || strstr(epf_error_text(), name) == NULL) {
        printf("%s: status %d, text \"%s\"\n", name, (int)st, epf_error_text());
        failures++;
    }
}

#define REFUSED(field, value, name)            \
    do {                                       \
        epf_gemm_cuda_args args = good_args(); \
        args.field = (value);                  \
        refused(&args, name);                  \
    } while (0)

int main(void)
{
    epf_gemm_cuda_args grad = good_args();
    epf_gemm_cuda_args scatter = good_args();
    void *rows[4] = {0};

    REFUSED(dtype, EPF_DTYPE_F32, "dtype");
    REFUSED(c_dtype, EPF_DTYPE_F32, "c_dtype");
    REFUSED(c_dtype, EPF_DTYPE_F16, "c_dtype");
    REFUSED(num_experts, 0, "num_experts");
    REFUSED(num_experts, EPF_GEMM_MAX_EXPERTS + 1, "num_experts");
    REFUSED(n, 0, "n is 0");
    REFUSED(n, 12, "n is 12");
    REFUSED(k, 12, "k is 12");
    REFUSED(a_rows, -1, "a_rows");
    REFUSED(epilogue, 7, "epilogue");
    REFUSED(a, NULL, "a, b, rows");
    REFUSED(b, NULL, "a, b, rows");
    REFUSED(rows, NULL, "a, b, rows");
    REFUSED(c, NULL, "a, b, rows");
    REFUSED(b_expert_stride, 12, "b_expert_stride");
    grad.weight_grad = 1;
    grad.m = 12;
    refused(&grad, "m is 12");
    grad.m = 64;
    grad.epilogue = EPF_GEMM_SWIGLU;
    refused(&grad, "weight gradient");
    grad.epilogue = EPF_GEMM_STORE;
    grad.c_dtype = EPF_DTYPE_F32;
    grad.c_stride = 514;
    refused(&grad, "c_stride");
    grad.c_stride = 0;
    grad.c_expert_stride = 63 * 64;
    refused(&grad, "c_expert_stride");
    grad.c_expert_stride = 64 * 64 + 8;
    refused(&grad, "c_expert_stride");
    scatter.row_ptr = rows;
    scatter.epilogue = EPF_GEMM_SWIGLU;
    refused(&scatter, "row_ptr");
    return failures != 0;
}
