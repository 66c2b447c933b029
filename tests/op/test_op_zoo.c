/*
 * test_op_zoo: every routing of the zoo on 1, 2, 3, 4 and 8 ranks, in both combine modes, to the bit.
 *
 *     test_op_zoo [threads|processes] [problem]      a problem alone: only that one
 */
#include <stdio.h>
#include <string.h>

#include "op_case.h"
#include "support/epf_check.h"
#include "support/epf_space.h"

static const char *const kShapes[] = {"W1E4K2T20H24N16M8C1", "W2E6K3T17H16N24M8C1",
                                      "W3E6K2T12H16N16M4", "W4E8K4T9H32N16M8C1",
                                      "W8E16K2T7H16N8M4"};

/* With several tiles an expert, and tiles that end inside a row's columns. */
static const char *const kDeviceShapes[] = {"W1E4K2T300H136N16C1", "W2E6K3T170H64N272C1",
                                            "W3E6K2T140H264N40", "W4E8K4T100H72N144C1",
                                            "W8E16K2T150H80N64"};
enum { NUM_SHAPES = sizeof kShapes / sizeof kShapes[0] };
_Static_assert(NUM_SHAPES == sizeof kDeviceShapes / sizeof kDeviceShapes[0], "as many");

static int32_t run_zoo(bool processes)
{
    const char *const *shapes = epf_space_is_device() ? kDeviceShapes : kShapes;
    int32_t failed = 0;

    for (size_t i = 0; i < NUM_SHAPES; i++) {
        for (const char *const *name = epf_zoo_names(); *name != NULL; name++) {
            for (int32_t mode = 0; mode < 2; mode++) {
                const op_knobs knobs = {.repeat = 2,
                                        .block_wise = mode == 1,
                                        .own_outputs = mode == 1,
                                        .gates = true,
                                        .reversed = true};
                char text[EPF_PROBLEM_TEXT];
                (void)snprintf(text, sizeof text, "%s/%s/seed%zu%s", shapes[i], *name, i,
                               mode == 1 ? "/fuse_scatter" : "");
                failed += !op_run(text, &knobs, processes, "zoo");
            }
        }
    }
    return failed;
}

int main(int argc, char **argv)
{
    const bool processes = argc > 1 && strcmp(argv[1], "processes") == 0;
    const op_knobs knobs = {.repeat = 2, .gates = true, .reversed = true};

    if (argc > 2) {
        return op_finish(!op_run(argv[2], &knobs, processes, "zoo"));
    }
    return op_finish(run_zoo(processes));
}
