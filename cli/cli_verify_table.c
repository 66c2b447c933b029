/* cli_verify_table.c: the promises. */
#include "cli_verify.h"

/* Those that the command shows by itself; their code lies with the tests (tests/faults). */
#define INSIDE_MAP(X)     \
    X(verify_routing)     \
    X(verify_layers)      \
    X(verify_kills)       \
    X(verify_stops)       \
    X(verify_leftovers)   \
    X(verify_bad_routing) \
    X(verify_skew)        \
    X(verify_capacity)    \
    X(verify_huge)        \
    X(verify_checks)

#define X(name) extern verify_function name;
INSIDE_MAP(X)
#undef X

#ifdef CLI_VERIFY_INSIDE
#define INSIDE(function) (function)
#else
#define INSIDE(function) NULL
#endif

enum { TESTS_PATIENCE_S = 7300 };

#define BY_TESTS(name, claim, tests)                                              \
    {                                                                             \
        name, claim, "test programs", 0, 0, verify_tests, tests, TESTS_PATIENCE_S \
    }

const verify_promise verify_promises[] = {
    {"routing", "any routing is planned right", "routings", 100000000, 1000000,
     INSIDE(verify_routing), NULL, 0},
    {"layers", "results are the same bits for any ranks, workers and batch around a token",
     "layers", 1000000, 10000, INSIDE(verify_layers), NULL, 0},
    {"kills", "a killed rank gives every other the same error in time, and a new group works",
     "kills", 1000, 50, INSIDE(verify_kills), NULL, 0},
    {"stops", "a stopped rank is a timeout at the configured time, and reset brings all back",
     "stops", 1000, 50, INSIDE(verify_stops), NULL, 0},
    {"leftovers", "nothing is left behind when ranks are killed at any moment", "kills", 1000, 20,
     INSIDE(verify_leftovers), NULL, 0},
    {"bad-routing", "bad routing on one rank is the same error on all, and the next call works",
     "bad calls", 10000, 200, INSIDE(verify_bad_routing), NULL, 0},
    {"skew", "delays of 0 to 100 ms of ranks and workers do not change results", "layers", 1000, 20,
     INSIDE(verify_skew), NULL, 0},
    {"capacity", "capacity is never overrun and nothing is dropped in silence", "cases", 10000, 200,
     INSIDE(verify_capacity), NULL, 0},
    {"huge", "tensors of more than 2^31 and 2^32 elements", "shapes", 12, 10, INSIDE(verify_huge),
     NULL, 0},
    {"checks", "checking a call's arguments costs at most 1 % of a layer", "pairs of timings", 2000,
     200, INSIDE(verify_checks), NULL, 0},
    BY_TESTS("parameters", "every parameter of every function is checked", "^params[.]"),
    BY_TESTS("allocations", "every allocation may fail", "alloc|^gemm[.]faults"),
    BY_TESTS("readers", "readers survive any file",
             "^fuzz[.]|hostile|comm_frames|^model.*(safetensors|npy|config|file)"),
    {"fuzz", "readers survive what a fuzzer makes of good files", "executions of each reader",
     100000000, 50000, verify_fuzz, NULL, 0},
    BY_TESTS("others", "nobody else gets in, and a setuid caller's environment is not read",
             "^faults[.](other_user|secure_env|getenv)|^comm_(link|bootstrap|processes)"),
    BY_TESTS("protocol", "the protocol is right in every interleaving of its models",
             "^protocol[.]models"),
    {"simulator", "the real schedule is right in interleavings drawn at random", "interleavings",
     3000000, 10000, verify_simulator, NULL, 0},
    BY_TESTS("twins", "faults put into the schedule and the protocol are found by the simulator",
             "^sim[.]twin"),
    {"clean", "the code is clean under Valgrind, and under ASan, UBSan and TSan in CI",
     "programs under Valgrind", VERIFY_CLEAN_FULL, VERIFY_CLEAN_SHARE, verify_clean, "",
     TESTS_PATIENCE_S},
};

const int32_t verify_num_promises = (int32_t)(sizeof verify_promises / sizeof verify_promises[0]);
