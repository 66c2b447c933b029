/*
 * epochs.pml: words only grow, and before the epoch would wrap all ranks meet and start from zero.
 *
 * From: epf_op_next_epoch, zero_own_words, epf_exec_zero, epf_word_add, epf_op_signal_entered,
 * epf_phase_need.
 *
 * Every rank calls for ever; LAST stands for EPF_EPOCH_LAST.  Calls take turns: a dispatch from rank
 * call % W to HOME, then a combine that HOME's row is pulled in by that rank, with a local word that
 * only combines use, so that values of the time before the wrap meet the same epoch again.
 *
 * The ghost `call[r]` (which call rank r is in, modulo ROUND) says what no word may: whether a wait that
 * passed was right.  The place is a row of recv_tokens, a row of combine_rows, or the word entered[PEER]
 * on HOME, which memset zeroes.
 */
#define THREADS W
#define LAST 3
#define ROUND 12 /* a multiple of W and 2, more than a rank can be ahead */
#define HOME 0
#define PEER (W - 1)
#define ENTERED(on, by) ((on) * W + (by))
#define BARRIER(on, by) (W * W + (on) * W + (by))
#define RECV_FLAG (2 * W * W)
#define LOCAL(r) (2 * W * W + 1 + (r)) /* tile_done[t] of rank r */
#define MET(parity) (2 * W * W + 1 + W + (parity))
#define WORDS (2 * W * W + 3 + W)
#include "memory.pml"

#define RECV 0
#define COMBINE 1
#define THE_WORD 2

byte place;
byte call[W];
byte arrived;
byte meeting; /* low bit of the number of meetings */

/* epf_comm_barrier: nobody leaves before all have come; what they knew, all know. */
inline meet()
{
    d_step {
        mine = meeting;
        carried[MET(mine)] = carried[MET(mine)] | known[me];
        arrived++;
        if
        :: arrived == W -> arrived = 0; meeting = 1 - mine; carried[MET(1 - mine)] = 0
        :: else
        fi
    }
    d_step { meeting != mine -> known[me] = known[me] | carried[MET(mine)]; mine = 0 }
}

inline zero_own_words()
{
    d_step {
        p = 0;
        do
        :: p < W ->
            word[ENTERED(me, p)] = 0;
            word[BARRIER(me, p)] = 0;
            p++
        :: else -> break
        od;
        p = 0;
        if
        :: me == HOME -> word[RECV_FLAG] = 0
        :: else
        fi;
#ifndef TWIN_LOCAL_KEPT
        word[LOCAL(me)] = 0;
#endif
    }
    if
    :: place == THE_WORD && me == HOME -> plain_write(me, 0)
    :: else
    fi;
#ifndef TWIN_FREE_EPOCH_KEPT
    combined = 0
#endif
}

inline next_epoch()
{
    if
    :: epoch >= LAST ->
#ifndef TWIN_NO_FIRST_MEETING
        meet();
#endif
#ifndef TWIN_NOT_ZEROED
        zero_own_words();
#endif
#ifndef TWIN_NO_SECOND_MEETING
        meet();
#endif
        epoch = 0
    :: else
    fi;
    d_step { epoch++; call[me] = (call[me] + 1) % ROUND }
}

inline signal_entered()
{
    atomic {
        if
        :: place == THE_WORD && me == PEER -> atomic_mark(me)
        :: else
        fi;
        tell_release(me, ENTERED(0, me), epoch)
    }
}

/* A wait for `entered` of this call passed, so the peer is in it or beyond, by no more than to the next
 * meeting. */
inline entered_is_true(peer)
{
    assert((call[peer] + ROUND - call[me]) % ROUND <= LAST)
}

inline dispatch()
{
    if
    :: me == other ->
        wait_acquire(me, ENTERED(me, HOME), epoch);
        entered_is_true(HOME);
        if
        :: place == RECV -> plain_write(me, call[me])
        :: else
        fi;
        store_release(me, RECV_FLAG, epoch)
    :: else
    fi;
    if
    :: me == HOME ->
        wait_acquire(me, RECV_FLAG, epoch);
        if
        :: place == RECV -> plain_read(me, call[me])
        :: else
        fi
    :: else
    fi
}

inline combine()
{
    for (p : 0 .. W - 1) {
        wait_acquire(me, ENTERED(me, p), combined + 1)
    }
    p = 0;
    assert(word[LOCAL(me)] < COUNTED(epoch, 1)); /* who waits for its tiles does not pass yet */
    if
    :: me == HOME && place == COMBINE -> plain_write(me, call[me])
    :: else
    fi;
    add_acq_rel(me, LOCAL(me), epoch, before);
    assert(before == 0);
    tell_release(me, BARRIER(0, me), epoch);
    if
    :: me == other ->
        wait_acquire(me, ENTERED(me, HOME), epoch);
        wait_acquire(me, BARRIER(me, HOME), epoch);
        entered_is_true(HOME);
        if
        :: place == COMBINE -> plain_read(me, call[me])
        :: else
        fi
    :: else
    fi;
    combined = epoch
}

proctype rank(byte me)
{
    byte epoch = 0;
    byte combined = 0;
    byte other;
    byte before;
    byte mine;
    byte p;
    do
    :: next_epoch();
        other = call[me] % W;
        signal_entered();
        if
        :: call[me] % 2 == 0 -> dispatch()
        :: else -> combine()
        fi;
        if
        :: me == 0 ->
progress:   skip /* a call of rank 0 has returned; it cannot go on alone past the next meeting */
        :: else
        fi
    od
}

init
{
    byte i;
    atomic {
        select(place : 0 .. 2);
        for (i : 0 .. W - 1) {
            run rank(i)
        }
    }
}
