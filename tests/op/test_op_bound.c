/*
 * test_op_bound: normal inputs against double precision, within the bound that the reference derives, for
 * every token and weight type, with and without SwiGLU.
 */
#include <stdio.h>

#include "op_device.h"
#include "support/epf_check.h"

static const char *const kTypes[] = {"", "/fp16", "/fp32", "/wbf16", "/fp16/wbf16", "/fp32/wbf16"};

int main(void)
{
    int32_t failed = 0;

    for (size_t t = 0; t < sizeof kTypes / sizeof kTypes[0]; t++) {
        for (int32_t variant = 0; variant < 4; variant++) {
            op_knobs knobs = {.swiglu = variant % 2 == 1,
                              .gates = true,
                              .combine_weights = variant == 2,
                              .grad_dtype = EPF_DTYPE_F32};
            char text[EPF_PROBLEM_TEXT];
            (void)snprintf(text, sizeof text, "W2E4K2T24H96N64M16/zipf/seed%d%s/normal%s", variant,
                           kTypes[t], variant < 2 ? "" : "/fuse_scatter");
            op_device_tame(&knobs);
            failed += !op_run(text, &knobs, false, "bound");
        }
    }
    return op_finish(failed);
}
