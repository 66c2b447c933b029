/*
 * epf_counter.h: the words that order work, on every backend.
 *
 * A word is 64 bits: the epoch of the call in the high half, a count (or a row) in the low half.  Every
 * collective call takes the next epoch on all ranks, so words of earlier calls are below every threshold
 * of this one: words only grow and nothing is reset between calls, not even after a call that failed.
 *
 *   remote words   have one writer each and are stored with release order, system scope
 *   local words    have many writers, which add with epf_word_add(): the first add of a call brings
 *                  the word to its epoch
 *
 * Before the epoch would wrap, ranks meet and start again from zeroed words (EPF_EPOCH_LAST).
 */
#ifndef EPF_COUNTER_H
#define EPF_COUNTER_H

#include "core/epf_atomic.h"
#include "core/epf_base.h"

#define EPF_EPOCH_LAST 0xfffffff0u

/* Every object a task may wait for, once: constant, name in error records. */
#define EPF_OBJECT_MAP(X)                                                              \
    X(EPF_OBJECT_NONE, "nothing")                                                      \
    X(EPF_OBJECT_ENTERED, "entered")           /* [W] remote: rank is in this call */  \
    X(EPF_OBJECT_BARRIER, "barrier")           /* [W] remote: rank did its tiles */    \
    X(EPF_OBJECT_POSTED, "posted")             /* [W] remote: rank's counts */         \
    X(EPF_OBJECT_SOURCED, "sourced")           /* [W] remote: rank's row sources */    \
    X(EPF_OBJECT_RECV_FLAG, "recv_flag")       /* [R] remote: row is here */           \
    X(EPF_OBJECT_COMBINE_FLAG, "combine_flag") /* [T K] remote: slot's y is back */    \
    X(EPF_OBJECT_TILE_READY, "tile_ready")     /* [M_grid] local: rows are in place */ \
    X(EPF_OBJECT_EXPERT_READY, "expert_ready") /* [L] local: tiles in place */         \
    X(EPF_OBJECT_TILE_DONE, "tile_done")       /* [M_grid] local: N-tiles finished */  \
    X(EPF_OBJECT_GEMM_DONE, "gemm_done")       /* [1] local: GEMM tasks finished */

typedef enum epf_object {
#define X(name, text) name,
    EPF_OBJECT_MAP(X)
#undef X
        EPF_NUM_OBJECTS
} epf_object;

EPF_HD uint64_t epf_word(uint32_t epoch, uint32_t low)
{
    return ((uint64_t)epoch << 32) | low;
}

EPF_HD uint32_t epf_word_epoch(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

EPF_HD uint32_t epf_word_low(uint64_t word)
{
    return (uint32_t)word;
}

/*
 * Adds n in this epoch with acquire and release order; returns the count before.  What every earlier
 * adder of this epoch wrote before its add is visible after ours.  Only the way to the epoch is a loop,
 * which ends with the first adder to get there: on a device hundreds of warps add to one word at a time,
 * and a compare-and-swap of the sum would fail for all but one of them each time.
 */
EPF_HD uint32_t epf_word_add(uint64_t *word, uint32_t epoch, uint32_t n)
{
    uint64_t old = epf_load_relaxed_gpu_u64(word);
    while (epf_word_epoch(old) != epoch) {
        const uint64_t seen = epf_cas_acq_rel_gpu_u64(word, old, epf_word(epoch, 0));
        if (seen == old) {
            break;
        }
        old = seen;
    }
    return epf_word_low(epf_add_acq_rel_gpu_u64(word, n));
}

#endif
