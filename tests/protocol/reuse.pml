/*
 * reuse.pml: buffers and double buffers are written again only when their last reader has left.
 *
 * From: epf_op_signal_entered, epf_op_fill_call (free_epoch), epf_phase_need (GEMM of a combine),
 * epf_phase_need_entered, send_token, epf_signal_barrier, epf_signal_row, wait_slots.
 *
 * A script of CALLS calls, the same on all ranks, is chosen at the start among all there are.  The place is
 * one row of rank `home` in one buffer set: of recv_tokens, or of combine_rows.
 *
 *   DISPATCH   rank `other` brings the row to home; home and its caller read it until the next call
 *   SERIAL     home puts the row into its own window, rank `other` pulls it
 *   SCATTER    rank `other` pushes the row to home, home sums it
 *   ELSEWHERE  a call of the other buffer set, or one with no data for the place: it enters, no more
 *   SILENT     preprocess or barrier: takes an epoch and enters nothing (less order than the code has)
 *
 * A place has one writer and one reader that waits for it in each call, so one thread a rank is enough;
 * workers among themselves are in serial.pml and scatter.pml.
 */
#ifndef CALLS
#define CALLS 3
#endif
#define THREADS W
#define ENTERED(on, by) ((on) * W + (by))
#define BARRIER(on, by) (W * W + (on) * W + (by))
#define FLAG (2 * W * W) /* recv_flag or combine_flag of the place, on home */
#define WORDS (2 * W * W + 1)
#include "memory.pml"

#define DISPATCH 1
#define SERIAL 2
#define SCATTER 3
#define ELSEWHERE 4
#define SILENT 5

byte kind[CALLS + 1];
byte other[CALLS + 1];

#if defined(TWIN_FREE_EPOCH_EARLY)
#define FREE_EPOCH combined
#elif defined(TWIN_FREE_EPOCH_NONE)
#define FREE_EPOCH 1
#else
#define FREE_EPOCH (combined + 1)
#endif

inline signal_entered()
{
#ifdef TWIN_ENTERED_RELAXED
    tell_relaxed(ENTERED(0, me), epoch)
#else
    tell_release(me, ENTERED(0, me), epoch)
#endif
}

inline wait_all_entered(least)
{
    for (p : 0 .. W - 1) {
        wait_acquire(me, ENTERED(me, p), least)
    }
    p = 0
}

/* Flags the row that `who` has brought to home. */
inline flag_row()
{
#ifdef TWIN_FLAG_RELAXED
    store_relaxed(FLAG, epoch);
#else
    store_release(me, FLAG, epoch);
#endif
#ifdef TWIN_FLAG_BEFORE_DATA
    plain_write(me, epoch)
#endif
}

/* What a rank waits for and does before it signals more than that it entered. */
inline before_signal()
{
    if
    :: what == DISPATCH && me == who ->
#ifndef TWIN_DISPATCH_UNASKED
        wait_acquire(me, ENTERED(me, home), epoch)
#else
        skip
#endif
    :: what == SERIAL && me == home -> wait_all_entered(FREE_EPOCH)
    :: what == SCATTER && me == who ->
#ifdef TWIN_OWNER_ONLY
        wait_acquire(me, ENTERED(me, home), FREE_EPOCH)
#else
        wait_all_entered(FREE_EPOCH)
#endif
    :: else
    fi;
    if
    :: what == SERIAL && me == home -> plain_write(me, epoch)
#ifndef TWIN_FLAG_BEFORE_DATA
    :: (what == DISPATCH || what == SCATTER) && me == who -> plain_write(me, epoch)
#endif
    :: else
    fi
}

inline pull()
{
    wait_all_entered(epoch);
    for (p : 0 .. W - 1) {
        wait_acquire(me, BARRIER(me, p), epoch)
    }
    p = 0;
    plain_read(me, epoch)
}

/* The signal, and what comes after. */
inline signal()
{
    if
    :: what == SERIAL -> tell_release(me, BARRIER(0, me), epoch)
    :: what != SERIAL && me == who -> flag_row()
    :: else
    fi;
    if
    :: what == SERIAL && me == who -> pull()
    :: what == DISPATCH && me == home ->
        wait_acquire(me, FLAG, epoch);
        plain_read(me, epoch);
        held = epoch
    :: what == SCATTER && me == home ->
        wait_acquire(me, ENTERED(me, who), epoch);
        wait_acquire(me, FLAG, epoch);
        plain_read(me, epoch)
    :: else
    fi;
    combined = (what == DISPATCH -> combined : epoch)
}

/* A step begins with what a rank tells, and goes on to where it waits: a wait as early as it can end learns
 * least, and plain accesses are judged by what is known, not by when. */
proctype rank(byte me; byte home)
{
    byte epoch = 0;
    byte combined = 0; /* combine_epoch of the set */
    byte held = 0;     /* the dispatch whose rows the caller has */
    byte p;
    byte what; /* the script's entry, where only this rank looks: fewer steps to interleave */
    byte who;
    do
    :: atomic {
            what == 0 ->
            if
            :: epoch == CALLS -> break
            :: else
            fi;
            if
            :: held != 0 -> plain_read(me, held); held = 0 /* the caller's last look */
            :: else
            fi;
            epoch++;
            d_step { what = kind[epoch]; who = other[epoch] }
            if
            :: what != SILENT -> signal_entered()
            :: else
            fi;
            if
            :: what == SERIAL || (what != ELSEWHERE && what != SILENT && (me == home || me == who)) ->
                before_signal()
            :: else -> combined = (what == SCATTER -> epoch : combined); what = 0; who = 0
            fi
        }
    :: atomic { what != 0 -> signal(); what = 0; who = 0 }
    od
}

init
{
    byte i;
    byte x;
    byte home;
    bool is_recv;
    atomic {
        select(home : 0 .. W - 1);
        if
        :: is_recv = true
        :: is_recv = false
        fi;
        for (i : 1 .. CALLS) {
            select(x : 0 .. W - 1);
            if
            :: is_recv -> kind[i] = DISPATCH; other[i] = x
            :: !is_recv -> kind[i] = SERIAL; other[i] = x
            :: !is_recv -> kind[i] = SCATTER; other[i] = x
            :: x == 0 -> kind[i] = ELSEWHERE
            :: x == 0 -> kind[i] = SILENT
            fi
        }
        x = 0;
        is_recv = false; /* what the ranks cannot see must not tell states apart */
        for (i : 0 .. W - 1) {
            run rank(i, home)
        }
    }
}
