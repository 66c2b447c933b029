/*
 * fault_leftovers.c: groups whose processes are killed at any moment from their first instruction on, some
 * of them or all, leave no file, process, socket or descriptor.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli_verify.h"
#include "fault_pool.h"
#include "fault_world.h"
#include "support/epf_check.h"

enum { MOMENT_MOST_US = 15000, GRACE_MOST_US = 5000, TIMEOUT_MS = 20000 };

static pid_t start(const fault_pool *pool, const fault_seat *seat, uint64_t seed)
{
    const fault_knobs knobs = {6, 1, false};
    const pid_t pid = fork();
    epf_rng own = epf_rng_make(seed ^ seat->job, (uint64_t)seat->rank);
    epf_group *group = NULL;
    fault_rank r;
    epf_status st;

    CHECK(pid >= 0, "fork of rank %d", seat->rank);
    if (pid > 0) {
        return pid;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    st = fault_join(seat, &group);
    st = st == EPF_OK ? fault_rank_open(&r, pool, group, &knobs) : st;
    for (uint32_t i = 0; st == EPF_OK; i++) {
        fault_rank_draw(&r, &own);
        st = fault_rank_layer(&r, i);
    }
    _exit(0); /* with all it has open: as good as killed */
}

/* Some are killed at one moment, the others a little later. */
static void run_round(verify_run *run, const fault_pool *const *pools, fault_place *place)
{
    const uint64_t number = run->done;
    epf_rng rng = epf_rng_make(run->seed ^ number, 30);
    fault_seat seat = {0, epf_rng_range(&rng, 2, FAULT_MAX_RANKS), TIMEOUT_MS * UINT64_C(1000000),
                       number};
    const uint32_t first = 1u << epf_rng_below(&rng, seat.num_ranks) |
                           (uint32_t)epf_rng_below(&rng, 1 << seat.num_ranks);
    pid_t pids[FAULT_MAX_RANKS];
    char text[160];

    for (seat.rank = 0; seat.rank < seat.num_ranks; seat.rank++) {
        pids[seat.rank] = start(pools[seat.num_ranks], &seat, run->seed);
    }
    fault_sleep_ns((uint64_t)epf_rng_below(&rng, MOMENT_MOST_US) * 1000);
    for (int32_t r = 0; r < seat.num_ranks; r++) {
        if ((first >> r & 1u) != 0) {
            (void)kill(pids[r], SIGKILL);
        }
    }
    fault_sleep_ns((uint64_t)epf_rng_below(&rng, GRACE_MOST_US) * 1000);
    for (int32_t r = 0; r < seat.num_ranks; r++) {
        (void)kill(pids[r], SIGKILL);
        (void)waitpid(pids[r], NULL, 0);
    }
    if (fault_place_check(place, text) != NULL) {
        verify_fail(run, "round %llu: %s", (unsigned long long)number, text);
        return;
    }
    verify_done(run, 1);
}

void verify_leftovers(const verify_promise *promise, verify_run *run)
{
    fault_pool *pools[FAULT_MAX_RANKS + 1] = {NULL};
    fault_place place;

    (void)promise;
    if (!fault_place_enter(&place)) {
        verify_skip(run, "no temp folder can be made");
        return;
    }
    for (int32_t w = 2; w <= FAULT_MAX_RANKS; w++) {
        const fault_shape shape = {2 * w, 2, 16, 8, 48, EPF_DTYPE_BF16, 0, run->seed};
        pools[w] = fault_pool_make(&shape);
    }
    place.num_descriptors = fault_num_descriptors();
    while (verify_more(run)) {
        run_round(run, (const fault_pool *const *)pools, &place);
    }
    if (run->outcome == VERIFY_OK) {
        verify_note(run, "0 temp files, 0 processes, 0 descriptors%s",
                    place.is_private
                        ? ", 0 files in /dev/shm, 0 sockets"
                        : " (/dev/shm and sockets are shared with others here: not counted)");
    }
    for (int32_t w = 2; w <= FAULT_MAX_RANKS; w++) {
        fault_pool_free(pools[w]);
    }
    fault_place_leave(&place);
}
