/*
 * epf_wait.h: the one wait loop of the CPU side.
 *
 * Every wait of the CPU backend is one of these: bounded by a timeout, ended by an abort word, and
 * watching that peers live.  A wait already satisfied costs one acquire load.  Otherwise: pauses,
 * then yields, then sleeps that grow with the time already waited, so that more ranks than cores
 * make progress and an idle rank does not burn the machine.
 */
#ifndef EPF_WAIT_H
#define EPF_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#include "comm/epf_comm.h"
#include "core/epf_atomic.h"

typedef enum epf_wait_code {
    EPF_WAIT_READY = 0,
    EPF_WAIT_ABORTED,  /* the abort word was not 0                              */
    EPF_WAIT_TIMEOUT,  /* timeout_ns passed                                     */
    EPF_WAIT_PEER_DEAD /* report->peer died, or is `source` and has left        */
} epf_wait_code;

/* What a wait watches beside its counter; one per call or phase, shared by its waits, never
 * written. */
typedef struct epf_wait_watch {
    epf_comm *comm;             /* whose peers must live; NULL: nobody's            */
    const uint32_t *abort_word; /* NULL: none                                       */
    uint64_t timeout_ns;        /* from the moment the wait begins                  */
} epf_wait_watch;

/* Filled when the answer is not READY. */
typedef struct epf_wait_report {
    int32_t peer;  /* PEER_DEAD: who; else -1                                */
    uint64_t seen; /* the counter's last value                               */
    uint64_t expected;
    uint64_t waited_ns;
} epf_wait_report;

/* The rank whose signal is waited for, where no single rank is. */
#define EPF_WAIT_ANY_RANK (-1)

/* Out of line; use the inline functions below. */
epf_wait_code epf_wait_slow_u32(const epf_wait_watch *watch, const uint32_t *counter,
                                uint32_t at_least, int32_t source, epf_wait_report *report);
epf_wait_code epf_wait_slow_u64(const epf_wait_watch *watch, const uint64_t *counter,
                                uint64_t at_least, int32_t source, epf_wait_report *report);

/* Waits, with acquire order, until *counter >= at_least.  `source`: the rank that signals, or
 * EPF_WAIT_ANY_RANK.  `report` may be NULL. */
static inline epf_wait_code epf_wait_u64(const epf_wait_watch *watch, const uint64_t *counter,
                                         uint64_t at_least, int32_t source, epf_wait_report *report)
{
    if (epf_load_acquire_sys_u64(counter) >= at_least) {
        return EPF_WAIT_READY;
    }
    return epf_wait_slow_u64(watch, counter, at_least, source, report);
}

/* As epf_wait_u64, for a counter that wraps: it may be at most 2^31 - 1 ahead of or behind
 * at_least. */
static inline epf_wait_code epf_wait_u32(const epf_wait_watch *watch, const uint32_t *counter,
                                         uint32_t at_least, int32_t source, epf_wait_report *report)
{
    if ((int32_t)(epf_load_acquire_sys_u32(counter) - at_least) >= 0) {
        return EPF_WAIT_READY;
    }
    return epf_wait_slow_u32(watch, counter, at_least, source, report);
}

/* Waits until ready(context) is true: for conditions that are not one counter.  report->seen is 0.
 */
epf_wait_code epf_wait_until(const epf_wait_watch *watch, bool (*ready)(void *context),
                             void *context, epf_wait_report *report);

/* READY: EPF_OK; ABORTED: EPF_E_PEER; TIMEOUT: EPF_E_TIMEOUT; PEER_DEAD: EPF_E_PEER. */
epf_status epf_wait_status(epf_wait_code code);

#endif
