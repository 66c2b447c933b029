/*
 * test_params_pair: two ranks, and one of them passes a bad value.
 *
 * Where arguments are checked by all together (create, preprocess, the layer's routing) both get the same
 * status; elsewhere the bad call is refused before anything is sent, and the other rank waits: for this rank's
 * valid call, or, if none comes, until the timeout.  Nothing hangs, and valid calls work afterwards.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_clock.h"
#include "params_table.h"
#include "params_try.h"
#include "support/epf_check.h"

enum { TIMEOUT_MS = 800, SLACK_MS = 5000 }; /* valid calls must fit on a busy machine */

/* Calls that all ranks take part in. */
static const params_call_id kCollective[] = {PARAMS_OP,      PARAMS_PREPROCESS, PARAMS_DISPATCH,
                                             PARAMS_SWIGLU,  PARAMS_COMBINE,    PARAMS_SCATTER,
                                             PARAMS_FORWARD, PARAMS_BACKWARD};
enum { NUM_COLLECTIVE = sizeof kCollective / sizeof *kCollective };

static params_rank ranks[2];
static pthread_barrier_t meeting;
static int32_t num_cases[2];
static epf_status given[2];

static bool is_in_pair(params_call_id id)
{
    for (size_t i = 0; i < NUM_COLLECTIVE; i++) {
        if (kCollective[i] == id) {
            return true;
        }
    }
    return false;
}

static void meet(void)
{
    (void)pthread_barrier_wait(&meeting);
}

static epf_status call_valid(params_rank *r, params_call_id id)
{
    params_args args;
    memset(&args, 0, sizeof args);
    params_calls[id].make(r, &args);
    return params_calls[id].call(r, &args);
}

/* Rank 1's bad call, then valid ones; rank 0 calls once more if the error was everyone's. */
static void try_one(params_rank *r, params_call_id id, const params_field *f, const params_bad *bad)
{
    const params_call *const c = &params_calls[id];
    if (r->rank == 1) {
        given[1] = c->call(r, &bad->args);
        params_refused(c->function, f->name, bad->what, given[1], bad->want, f->says);
        CHECK_OK(call_valid(r, id));
    } else {
        given[0] = call_valid(r, id);
        CHECK(given[0] == EPF_OK || given[0] == bad->want, "%s, rank 1 with %s %s: status %d: %s",
              c->function, f->name, bad->what, given[0], epf_last_error());
        CHECK(given[0] == EPF_OK || strstr(epf_last_error(), "rank 1") != NULL,
              "%s: the text does not say which rank: %s", c->function, epf_last_error());
        if (given[0] != EPF_OK) {
            CHECK_OK(call_valid(r, id));
        }
    }
    num_cases[r->rank]++;
}

static void try_fields(params_rank *r)
{
    for (size_t t = 0; t < params_num_tables; t++) {
        const params_call_id id = params_tables[t].id;
        for (size_t f = 0; is_in_pair(id) && f < params_tables[t].num_fields; f++) {
            const params_field *const field = &params_tables[t].fields[f];
            params_bad bad;
            int done = 0;
            for (int32_t i = 0; done >= 0; i++) {
                memset(&bad, 0, sizeof bad);
                params_calls[id].make(r, &bad.args);
                done = params_spoil(field, i, &bad);
                if (done == 1) {
                    try_one(r, id, field, &bad);
                }
            }
        }
    }
}

/* Rank 1's bad call and nothing else: rank 0 hears of it in time. */
static void leave_alone(params_rank *r, params_call_id id)
{
    const params_call *const c = &params_calls[id];
    const uint64_t begin = epf_now_ns();
    params_args args;
    uint32_t size = (uint32_t)c->size + 8;
    epf_status st;
    memset(&args, 0, sizeof args);
    c->make(r, &args);
    if (r->rank == 1) {
        args.bytes[c->size] = 1;
        memcpy(args.bytes, &size, sizeof size);
    }
    st = c->call(r, &args);
    if (r->rank == 1) {
        params_refused(c->function, "struct_size", "unknown byte", st, EPF_E_UNSUPPORTED, "byte");
    } else {
        const double ms = (double)(epf_now_ns() - begin) / 1e6;
        CHECK(st == EPF_E_UNSUPPORTED || st == EPF_E_TIMEOUT || st == EPF_E_PEER,
              "%s, rank 1 refused: rank 0 got %d: %s", c->function, st, epf_last_error());
        CHECK(ms < TIMEOUT_MS + SLACK_MS, "%s: after %.0f ms", c->function, ms);
        printf("%-26s rank 1 refused, rank 0: %s after %.0f ms\n", c->function, epf_status_name(st),
               ms);
    }
    num_cases[r->rank]++;
    meet();
    CHECK_OK(epf_op_reset(r->op));
    if (id == PARAMS_BACKWARD || id == PARAMS_FORWARD) {
        CHECK_OK(call_valid(r, PARAMS_FORWARD));
    } else if (id != PARAMS_OP) {
        CHECK_OK(call_valid(r, PARAMS_PREPROCESS));
    }
    CHECK_OK(call_valid(r, id));
    meet();
}

static void *run_fields(void *group)
{
    params_rank *const r = &ranks[epf_group_rank(group)];
    params_open(r, group);
    try_fields(r);
    meet();
    params_close(r);
    return NULL;
}

static void *run_alone(void *group)
{
    params_rank *const r = &ranks[epf_group_rank(group)];
    params_open(r, group);
    for (size_t i = 0; i < NUM_COLLECTIVE; i++) {
        leave_alone(r, kCollective[i]);
    }
    params_close(r);
    return NULL;
}

/* A bound that the clock cannot reach is none, not one in the past. */
static void *run_boundless(void *group)
{
    params_rank *const r = &ranks[epf_group_rank(group)];
    params_open(r, group);
    CHECK_OK(epf_op_barrier(r->op));
    CHECK_OK(epf_op_reset(r->op));
    meet();
    params_close(r);
    return NULL;
}

static void run(void *(*function)(void *), uint64_t timeout_ns)
{
    epf_group_config config;
    epf_group *groups[2];
    pthread_t thread;
    CHECK_OK(epf_group_config_init(&config));
    config.timeout_ns = timeout_ns;
    CHECK_OK(epf_group_create_threads(2, &config, groups));
    CHECK(pthread_barrier_init(&meeting, NULL, 2) == 0, "barrier");
    CHECK(pthread_create(&thread, NULL, function, groups[1]) == 0, "thread");
    (void)function(groups[0]);
    CHECK(pthread_join(thread, NULL) == 0, "join");
    (void)pthread_barrier_destroy(&meeting);
    epf_group_destroy(groups[0]);
    epf_group_destroy(groups[1]);
}

int main(void)
{
    run(run_boundless, UINT64_MAX);
    run(run_fields, UINT64_C(60000000000));
    run(run_alone, TIMEOUT_MS * UINT64_C(1000000));
    CHECK(num_cases[0] == num_cases[1], "%d and %d cases", num_cases[0], num_cases[1]);
    printf("%d bad calls of one rank of two\n", num_cases[0]);
    CHECK(num_cases[0] >= 1400, "only %d", num_cases[0]);
    return 0;
}
