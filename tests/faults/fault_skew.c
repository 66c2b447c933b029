/*
 * fault_skew.c: layers whose ranks and workers are held up at random moments for 0 to 100 ms.
 *
 * A rank sleeps before its call.  A worker is held up wherever it happens to be, in the midst of whatever
 * role it plays, by a signal whose handler sleeps.
 */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cli_verify.h"
#include "fault_pool.h"
#include "fault_world.h"
#include "support/epf_check.h"
#include "support/epf_runner.h"

enum { MOST_MS = 100, MAX_TOKENS = 10, LAYERS_PER_GROUP = 20, MAX_THREADS = 256 };

typedef struct skew {
    verify_run *run;
    const fault_pool *pool;
    epf_group *groups[FAULT_MAX_RANKS];
    uint64_t number;
    uint32_t num_layers;
    int quit;          /* atomic */
    uint64_t num_held; /* workers held up */
} skew;

static _Thread_local uint32_t chance; /* of the handler, which may call no generator with a lock */

static void hold_up(int signal_number)
{
    const uint32_t mixed = (chance += 0x9e3779b9u) * 2654435761u;
    const struct timespec time = {0, (long)(mixed >> 8) % (MOST_MS * 1000000L)};

    (void)signal_number;
    (void)nanosleep(&time, NULL);
}

/* The other threads of this process but the main one, which only waits. */
static int32_t list_threads(long threads[MAX_THREADS])
{
    DIR *const folder = opendir("/proc/self/task");
    const struct dirent *entry;
    int32_t count = 0;

    while (folder != NULL && (entry = readdir(folder)) != NULL && count < MAX_THREADS) {
        const long id = strtol(entry->d_name, NULL, 10);
        if (id > 0 && id != (long)getpid() && id != syscall(SYS_gettid)) {
            threads[count++] = id;
        }
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    return count;
}

/* Holds up one thread after the other until told to end. */
static void *tease(void *argument)
{
    skew *const s = argument;
    epf_rng rng = epf_rng_make(s->run->seed ^ s->number, 90);
    long threads[MAX_THREADS];

    while (__atomic_load_n(&s->quit, __ATOMIC_ACQUIRE) == 0) {
        const int32_t count = list_threads(threads);
        if (count > 0 &&
            syscall(SYS_tgkill, getpid(), threads[epf_rng_below(&rng, count)], SIGUSR1) == 0) {
            s->num_held++;
        }
        fault_sleep_ns((uint64_t)epf_rng_below(&rng, 20000) * 1000);
    }
    return NULL;
}

static void run_rank(epf_test_rank *rank)
{
    skew *const s = rank->user;
    epf_rng own = epf_rng_make(s->run->seed ^ s->number, 91 + (uint64_t)rank->rank);
    const fault_knobs knobs = {MAX_TOKENS, 1 + rank->rank % 3, false};
    fault_rank r;
    epf_status st = fault_rank_open(&r, s->pool, s->groups[rank->rank], &knobs);

    for (uint32_t i = 0; i < s->num_layers && st == EPF_OK; i++) {
        fault_sleep_ns((uint64_t)epf_rng_below(&own, MOST_MS * 1000 + 1) * 1000);
        fault_rank_draw(&r, &own);
        st = fault_rank_layer(&r, i);
        if (st == EPF_OK && fault_rank_check(&r) >= 0) {
            verify_fail(s->run, "group %llu, layer %u, rank %d: other bits",
                        (unsigned long long)s->number, i, rank->rank);
        }
        if (st == EPF_OK && rank->rank == 0) {
            verify_done(s->run, 1);
        }
    }
    if (st != EPF_OK) {
        verify_fail(s->run, "group %llu, rank %d: %s", (unsigned long long)s->number, rank->rank,
                    epf_last_error());
    }
    fault_rank_close(&r);
}

static void run_group(skew *s, int32_t num_ranks)
{
    const epf_run run = {.num_ranks = num_ranks, .function = run_rank, .user = s};
    pthread_t teaser;

    s->quit = 0;
    CHECK_OK(epf_group_create_threads(num_ranks, NULL, s->groups));
    CHECK(pthread_create(&teaser, NULL, tease, s) == 0, "thread");
    (void)epf_run_ranks(&run, "skew");
    __atomic_store_n(&s->quit, 1, __ATOMIC_RELEASE);
    CHECK(pthread_join(teaser, NULL) == 0, "thread");
    for (int32_t r = 0; r < num_ranks; r++) {
        epf_group_destroy(s->groups[r]);
    }
}

void verify_skew(const verify_promise *promise, verify_run *run)
{
    const fault_shape shape = {24, 3, 24, 16, 96, EPF_DTYPE_BF16, 0, run->seed};
    struct sigaction action;
    skew s = {.run = run};
    fault_pool *const pool = fault_pool_make(&shape);

    (void)promise;
    s.pool = pool;
    memset(&action, 0, sizeof action);
    action.sa_handler = hold_up;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
    for (; verify_more(run); s.number++) {
        static const int32_t sizes[] = {2, 4, 3, 8};
        const uint64_t left = run->target - run->done;
        s.num_layers = (uint32_t)(left < LAYERS_PER_GROUP ? left : LAYERS_PER_GROUP);
        run_group(&s, sizes[s.number % 4]);
    }
    verify_note(run, "each rank late before each layer, %llu more delays in the midst of workers",
                (unsigned long long)s.num_held);
    fault_pool_free(pool);
}
