/*
 * preprocess.pml: heads and counts in two halves by parity, row sources in one; refusals reach everybody.
 *
 * From: epf_preprocess.c: post, read_posted, push_sources, read_sources, run_exchange.
 *
 * CALLS exchanges; in each one rank, any (more would end it alike), may refuse its routing (said in its head) or, later, its scatter indices
 * (said in the low half of its `sourced` word).  After a refusal in a head nobody waits for sources, so ranks
 * may be a call apart: this is why the halves are two.  Shown beside order: all ranks end a call alike, and
 * all return.  The place, on rank `home`, is
 *
 *   HALF     head and counts of rank `by` in the half of odd calls; also what the head says
 *   SOURCE   a row of row_source, written in each call by a rank chosen for it, if none refused
 */
#ifndef CALLS
#define CALLS 3
#endif
#define THREADS W
#define POSTED(on, from) ((on) * W + (from))
#define SOURCED(on, from) (W * W + (on) * W + (from))
#define WORDS (2 * W * W)
#include "memory.pml"

#define HALF 0
#define SOURCE 1

#define NONE 0
#define IN_HEAD 1
#define IN_SOURCES 2

byte refuses[W * (CALLS + 1)]; /* [call, rank] */
byte sender[CALLS + 1];
byte code[W * W];              /* low half of `sourced` */
byte ended[CALLS + 1];         /* ghost: how a rank ended the call, + 1 */

#ifdef TWIN_ONE_HALF
#define IS_PLACE(epoch) true
#else
#define IS_PLACE(epoch) ((epoch) % 2 == 1)
#endif

inline post()
{
#ifdef TWIN_POSTED_BEFORE_COUNTS
    tell_release(me, POSTED(0, me), epoch);
#endif
    if
    :: place == HALF && me == by && IS_PLACE(epoch) -> plain_write(me, epoch)
    :: else
    fi;
#ifdef TWIN_POSTED_RELAXED
    tell_relaxed(POSTED(0, me), epoch)
#endif
#if !defined(TWIN_POSTED_BEFORE_COUNTS) && !defined(TWIN_POSTED_RELAXED)
    tell_release(me, POSTED(0, me), epoch)
#endif
}

/* The heads of this call; which of them refused is what decides. */
inline read_posted()
{
    if
    :: place == HALF && me == home && IS_PLACE(epoch) -> plain_read(me, epoch)
    :: else
    fi;
    d_step {
        p = 0;
        do
        :: p < W ->
            if
            :: refuses[epoch * W + p] == IN_HEAD -> result = IN_HEAD
            :: else
            fi;
            p++
        :: else -> break
        od;
        p = 0
    }
}

inline push_sources()
{
    if
    :: place == SOURCE && me == sender[epoch] && refuses[epoch * W + me] == NONE -> plain_write(me, epoch)
    :: else
    fi;
    d_step {
        p = 0;
        do
        :: p < W ->
#ifdef TWIN_REFUSAL_KEPT
            code[p * W + me] = NONE;
#else
            code[p * W + me] = refuses[epoch * W + me];
#endif
            p++
        :: else -> break
        od;
        p = 0
    }
    tell_release(me, SOURCED(0, me), epoch)
}

inline read_sources()
{
    d_step {
        result = refuses[epoch * W + me];
        p = 0;
        do
        :: p < W ->
            if
            :: code[me * W + p] != NONE -> result = IN_SOURCES
            :: else
            fi;
            p++
        :: else -> break
        od;
        p = 0
    }
    if
    :: place == SOURCE && me == home && result == NONE -> plain_read(me, epoch)
    :: else
    fi
}

proctype rank(byte me; byte home; byte by; byte place)
{
    byte epoch = 1;
    byte result;
    byte p;
    atomic { post() }
    do
    :: atomic {
#ifndef TWIN_SOURCES_UNASKED
            wait_all(me, POSTED(me, 0), epoch);
#endif
            read_posted();
            if
            :: result == NONE -> push_sources()
            :: else
            fi
        }
        atomic {
            if
            :: result == NONE ->
#ifdef TWIN_OWN_SOURCES_ONLY
                wait_acquire(me, SOURCED(me, me), epoch);
#else
                wait_all(me, SOURCED(me, 0), epoch);
#endif
                read_sources()
            :: else
            fi;
            assert(ended[epoch] == 0 || ended[epoch] == result + 1);
            ended[epoch] = result + 1;
            result = NONE;
            if
            :: epoch == CALLS -> break
            :: else -> epoch++; post()
            fi
        }
    od
}

init
{
    byte i;
    byte x;
    byte home;
    byte by;
    byte place;
    atomic {
        select(place : 0 .. 1);
        select(home : 0 .. W - 1);
        if
        :: place == HALF -> select(by : 0 .. W - 1)
        :: else
        fi;
        for (i : 1 .. CALLS) {
            if
            :: place == SOURCE -> select(x : 0 .. W - 1); sender[i] = x
            :: else
            fi
        }
        for (i : 1 .. CALLS) {
            select(x : 0 .. W - 1);
            if
            :: refuses[i * W + x] = IN_HEAD
            :: refuses[i * W + x] = IN_SOURCES
            :: x == 0 /* nobody */
            fi
        }
        x = 0;
        for (i : 0 .. W - 1) {
            run rank(i, home, by, place)
        }
    }
}
