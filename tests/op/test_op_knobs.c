/*
 * test_op_knobs: each knob at each of its values, everything else at its default, in both combine modes:
 * the results do not change.
 *
 *     test_op_knobs [name]      only the knobs whose name contains the text
 */
#include <stdio.h>
#include <string.h>

#include "op_device.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

typedef struct knob_case {
    const char *name;
    op_knobs knobs;
} knob_case;

#define KNOB(...)       \
    {                   \
#__VA_ARGS__,   \
        {               \
            __VA_ARGS__ \
        }               \
    }

static const knob_case kCases[] = {
    KNOB(.repeat = 3),
    KNOB(.num_workers = 1),
    KNOB(.num_workers = 4),
    KNOB(.num_workers = 3, .num_sm = 1),
    KNOB(.num_workers = 3, .num_sm = 2),
    KNOB(.num_workers = 3, .num_sm = 3),
    KNOB(.num_workers = 3, .sm_margin = 1),
    KNOB(.num_workers = 6, .sm_margin = 2),
    KNOB(.num_workers = 3, .optional_sm = 1),
    KNOB(.num_workers = 3, .optional_sm = 3),
    KNOB(.num_workers = 2, .num_tail_sms = 1),
    KNOB(.num_workers = 4, .num_tail_sms = 3),
    KNOB(.num_workers = 4, .num_tail_sms = 2, .optional_sm = 1, .block_wise = true),
    KNOB(.num_workers = 3, .combine_sm = 1),
    KNOB(.num_workers = 3, .num_reduce_sms = 1),
    KNOB(.num_workers = 4, .num_reduce_sms = 1),
    KNOB(.num_workers = 6, .combine_sm = 1, .num_reduce_sms = 2),
    KNOB(.block_wise = true),
    KNOB(.block_n = 8),
    KNOB(.block_n = 24),
    KNOB(.block_n = 4096),
    KNOB(.block_n = 256, .block_k = 64),
    KNOB(.num_workers = 8, .num_sm = 4, .num_tail_sms = 2),
    KNOB(.num_workers = 8, .combine_sm = 2, .num_reduce_sms = 2),
    KNOB(.block_k = 8),
    KNOB(.block_k = 24),
    KNOB(.block_n = 8, .block_k = 8, .packed = true),
    KNOB(.group_m = 1),
    KNOB(.group_m = 7),
    KNOB(.group_m = 1000),
    KNOB(.num_warps = 1),
    KNOB(.num_warps = 3),
    KNOB(.num_warps = 32),
    KNOB(.b1_transposed = true),
    KNOB(.b2_transposed = true),
    KNOB(.packed = true),
    KNOB(.packed = true, .b1_transposed = true, .b2_transposed = true),
    KNOB(.weight_gaps = true),
    KNOB(.weight_gaps = true, .packed = true, .b1_transposed = true, .b2_transposed = true),
    KNOB(.weight_gaps = true, .swiglu = true),
    KNOB(.tables = true),
    KNOB(.in_place = true),
    KNOB(.gates = true),
    KNOB(.gates = true, .gates_in_place = true),
    KNOB(.combine_weights = true),
    KNOB(.no_weights = true),
    KNOB(.own_outputs = true),
    KNOB(.own_outputs = true, .guard_cols = 8, .gates = true),
    KNOB(.guard_cols = 3, .own_outputs = true, .combine_weights = true, .gates = true),
    KNOB(.local_scatter = true),
    KNOB(.full_scatter = true),
    KNOB(.local_scatter = true, .full_scatter = false, .reversed = true),
    KNOB(.lazy = true),
    KNOB(.pin = true),
    KNOB(.reversed = true),
    KNOB(.signal = true),
    KNOB(.init_buffer = true),
    KNOB(.num_buffers = 2, .buffer = 1),
    KNOB(.num_buffers = 8, .buffer = 7),
    KNOB(.capacity = 1),
    KNOB(.capacity = 0.01),
    KNOB(.grad_dtype = EPF_DTYPE_F32),
    KNOB(.grad_dtype = EPF_DTYPE_BF16),
    KNOB(.grad_dtype = EPF_DTYPE_F32, .grad_block_m = 8, .grad_block_n = 8, .grad_block_k = 4),
    KNOB(.grad_dtype = EPF_DTYPE_BF16, .grad_block_m = 128, .grad_block_n = 256,
         .grad_block_k = 64),
    KNOB(.grad_dtype = EPF_DTYPE_BF16, .own_outputs = true, .guard_cols = 8),
    KNOB(.grad_dtype = EPF_DTYPE_F32, .own_outputs = true, .guard_cols = 8),
    KNOB(.swiglu = true),
    KNOB(.swiglu = true, .packed = true, .own_outputs = true),
    KNOB(.swiglu = true, .block_n = 16),
    KNOB(.swiglu = true, .drop_gemm_output = true),
    KNOB(.mixed = true, .gates = true),
    KNOB(.profile = true),
    KNOB(.gemm_library = EPF_GEMM_LIBRARY_PORTABLE),
};

/* Ranks without tokens, which may leave out what would have none; all the same they receive. */
static const char *const kEmptyProblems[] = {
    "W3E6K2T9H16N32M4/one_token/seed13",
    "W3E6K2T9H16N32M4/one_token/seed14/fuse_scatter",
    "W2E4K2T9H16N32M4/empty/seed15",
};
static const op_knobs kEmptyKnobs[] = {
    {.omit_empty = true},
    {.omit_empty = true, .swiglu = true},
    {.omit_empty = true, .own_outputs = true, .gates = true},
};

/* Several N-tiles, on one rank and on more: what a combine can be asked for beside its sum. */
static const char *const kWideProblems[] = {
    "W1E3K2T70H264N64/zipf/seed16", "W1E3K2T70H264N64/zipf/seed16/fuse_scatter",
    "W2E4K3T90H520N64/zipf/seed17", "W2E4K3T90H520N64/zipf/seed17/fuse_scatter/fp16",
    "W4E8K2T70H264N72/zipf/seed18", "W4E8K2T70H264N72/zipf/seed18/fuse_scatter",
};
static const op_knobs kWideKnobs[] = {
    {.signal = true, .repeat = 2},
    {.signal = true, .grad_dtype = EPF_DTYPE_F32, .own_outputs = true, .guard_cols = 8},
    {.signal = true,
     .num_workers = 8,
     .combine_sm = 3,
     .num_reduce_sms = 1,
     .gates = true,
     .repeat = 3},
    {.num_workers = 8, .num_reduce_sms = 2, .grad_dtype = EPF_DTYPE_F32, .gates = true},
    {.num_workers = 6,
     .combine_sm = 1,
     .grad_dtype = EPF_DTYPE_F32,
     .signal = true,
     .combine_weights = true,
     .b2_transposed = true,
     .repeat = 2},
};

static const char *const kProblems[] = {
    "W2E4K3T21H40N48M8/zipf/seed11",
    "W2E4K3T21H40N48M8/zipf/seed11/fuse_scatter",
    "W3E9K2T14H24N32M4/some_dropped/seed12",
    "W3E9K2T14H24N32M4/some_dropped/seed12/fuse_scatter",
};

/* The same on a device, with several of its tiles an expert. */
static const char *const kDeviceProblems[] = {
    "W2E4K3T157H72N144/zipf/seed11",
    "W2E4K3T157H72N144/zipf/seed11/fuse_scatter",
    "W4E4K2T134H40N272/some_dropped/seed12/fp16",
    "W4E4K2T134H40N272/some_dropped/seed12/fp16/fuse_scatter",
};
enum { NUM_PROBLEMS = sizeof kProblems / sizeof kProblems[0] };
_Static_assert(NUM_PROBLEMS == sizeof kDeviceProblems / sizeof kDeviceProblems[0], "as many");

int main(int argc, char **argv)
{
    const char *const *problems = epf_space_is_device() ? kDeviceProblems : kProblems;
    int32_t failed = 0;
    int32_t run = 0;

    for (size_t i = 0; i < sizeof kCases / sizeof kCases[0]; i++) {
        if (argc > 1 && strstr(kCases[i].name, argv[1]) == NULL) {
            continue;
        }
        for (size_t p = 0; p < NUM_PROBLEMS; p++) {
            op_knobs knobs = kCases[i].knobs;
            if (epf_space_is_device() && knobs.grad_dtype == EPF_DTYPE_BF16) {
                knobs.grad_dtype = (int32_t)epf_problem_of(problems[p]).dtype;
            }
            if (op_device_refuses(&knobs) != EPF_OK && p > 1) {
                continue; /* whatever the problem */
            }
            failed += !op_run(problems[p], &knobs, false, kCases[i].name);
            run++;
        }
    }
    for (size_t i = 0; i < sizeof kEmptyProblems / sizeof kEmptyProblems[0] && argc == 1; i++) {
        for (size_t k = 0; k < sizeof kEmptyKnobs / sizeof kEmptyKnobs[0]; k++) {
            failed += !op_run(kEmptyProblems[i], &kEmptyKnobs[k], false, "omit_empty");
            run++;
        }
    }
    for (size_t i = 0; i < sizeof kWideProblems / sizeof kWideProblems[0]; i++) {
        for (size_t k = 0; k < sizeof kWideKnobs / sizeof kWideKnobs[0]; k++) {
            if (argc == 1 || strcmp(argv[1], "wide") == 0) {
                failed += !op_run(kWideProblems[i], &kWideKnobs[k], false, "wide");
                run++;
            }
        }
    }
    CHECK(run > 0, "no knob is called %s", argc > 1 ? argv[1] : "");
    return op_finish(failed);
}
