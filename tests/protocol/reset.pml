/*
 * reset.pml: after a failure all ranks start again: words zeroed, windows alike, one epoch.
 *
 * From: epf_op_reset, align_sets, zero_own_words, epf_op_check_ready, epf_exec_raise, and what epf_comm.h
 * promises of reset() and of a barrier (a generation that never sinks; nobody leaves with EPF_OK before all
 * have come; a rank may run into its deadline though others passed, and then is told to reset).
 *
 * Each rank comes from a call, in which it may have given up, been told, or noticed nothing; one may be a call
 * behind, one may have a wider window than the others.  Then its user calls reset until it succeeds, with a try at a
 * call in between where one is allowed, and ends with a call of all ranks.  A meeting of the communicator
 * runs into its deadline FAILS times in all; a call does where a peer has gone back to reset.
 *
 * Shown: a call runs only with all ranks of one reset, over windows of one size, with no abort of the past,
 * and every rank returns.  The place is the word entered[by] on rank `home`: memset must not come beside a
 * store of it, neither of the old call nor of the new one.
 */
#ifndef FAILS
#define FAILS 1
#endif
#define THREADS W
#define ENTERED(on, from) ((on) * W + (from))
#define DONE(on, from) (W * W + (on) * W + (from))
#define ABORT(r) (2 * W * W + (r))
#define COMM(r) (2 * W * W + W + (r)) /* generation * 8 + meetings of it that r came to */
#define WORDS (2 * W * W + 2 * W)
#include "memory.pml"

#define GENERATION(r) (word[COMM(r)] / 8)

byte fails = FAILS;
byte rows[W];      /* of the rank's window */
byte clean[W];     /* ghost: the generation whose reset the rank has ended well */
byte raised_in[W]; /* ghost: the last generation in which the rank gave up, or began to */

#if W == 2
#define ALL(test) (test(0) && test(1))
#define ANY(test) (test(0) || test(1))
#else
#define ALL(test) (test(0) && test(1) && test(2))
#define ANY(test) (test(0) || test(1) || test(2))
#endif
#define IS_AHEAD(p) (GENERATION(p) > GENERATION(me))
#define IS_ALONG(p) (GENERATION(p) == GENERATION(me))
#define HAS_COME(p) (GENERATION(p) == GENERATION(me) && word[COMM(p)] >= word[COMM(me)])
#define HAS_ENTERED(p) (word[ENTERED(me, p)] >= epoch)
#define IS_DONE(p) (word[DONE(me, p)] >= epoch)
#define IS_IN_STEP(p) (clean[p] == clean[me] && rows[p] == rows[me])
#define GAVE_UP_SINCE(p) (raised_in[p] == GENERATION(me))

inline learn_from(first, stride)
{
    for (p : 0 .. W - 1) {
        known[me] = known[me] | carried[(first) + p * (stride)]
    }
    p = 0
}

/* epf_comm_reset: a generation above all that were heard of; those who hear of it go along. */
inline comm_reset()
{
    atomic {
        store_release(me, COMM(me), word[COMM(me)] / 8 * 8 + 8);
    }
    do
    :: atomic {
            ANY(IS_AHEAD) ->
            for (p : 0 .. W - 1) {
                if
                :: IS_AHEAD(p) -> store_release(me, COMM(me), GENERATION(p) * 8)
                :: else
                fi
            }
            p = 0
        }
    :: atomic { ALL(IS_ALONG) -> learn_from(COMM(0), 1); break }
    :: atomic { fails > 0 -> fails--; ok = false; break }
    od
}

/* epf_comm_barrier */
inline meet()
{
    if
    :: ok ->
        store_release(me, COMM(me), word[COMM(me)] + 1);
        if
        :: atomic { ALL(HAS_COME) -> learn_from(COMM(0), 1) }
        :: atomic { ANY(IS_AHEAD) -> ok = false }
        :: atomic { fails > 0 -> fails--; ok = false }
        fi
    :: else
    fi
}

/* The widest of all, as all find it. */
inline align_sets()
{
    atomic {
        if
        :: ok ->
            for (p : 0 .. W - 1) {
                most = (rows[p] > most -> rows[p] : most)
            }
            p = 0
        :: else
        fi
    }
    meet();
    if
    :: ok -> rows[me] = most
    :: else
    fi;
    most = 0
}

inline zero_own_words()
{
    if
    :: ok ->
        d_step {
            p = 0;
            do
            :: p < W -> word[ENTERED(me, p)] = 0; word[DONE(me, p)] = 0; p++
            :: else -> break
            od;
            p = 0;
#ifndef TWIN_ABORT_KEPT
            word[ABORT(me)] = 0;
#endif
#ifndef TWIN_EPOCH_KEPT
            epoch = 0;
#endif
        }
        if
        :: me == home -> plain_write(me, 0)
        :: else
        fi
    :: else
    fi
}

inline reset()
{
    ok = true;
#ifdef TWIN_ZEROED_FIRST
    zero_own_words();
#endif
    comm_reset();
    meet();
#ifndef TWIN_WINDOWS_KEPT
    align_sets();
#endif
#ifndef TWIN_ZEROED_FIRST
    zero_own_words();
#endif
#ifndef TWIN_NO_SECOND_MEETING
    meet();
#endif
    d_step {
        if
        :: ok ->
            fault = false;
            clean[me] = GENERATION(me);
            assert(word[ABORT(me)] == 0 || ANY(GAVE_UP_SINCE))
        :: else ->
#ifndef TWIN_FAILED_RESET_USABLE
            fault = true
#endif
        fi
    }
}

/* epf_exec_raise */
inline raise_all()
{
    raised_in[me] = GENERATION(me);
    for (p : 0 .. W - 1) {
        word[ABORT(p)] = me + 1
    }
    atomic { p = 0; fault = true; ok = false }
}

inline enter()
{
    atomic {
        epoch++;
        if
        :: me == by -> atomic_mark(me)
        :: else
        fi;
        tell_release(me, ENTERED(0, me), epoch)
    }
}

/* A call of all ranks, where the operator lets itself be called. */
inline call()
{
    ok = true;
    enter();
    if
    :: atomic { ALL(HAS_ENTERED) -> assert(ALL(IS_IN_STEP)); learn_from(ENTERED(me, 0), 1) }
#if W > 2 /* of two ranks, one that waits here has nobody who could tell it */
    :: atomic { word[ABORT(me)] != 0 -> fault = true; ok = false }
#endif
    :: ANY(IS_AHEAD) -> raise_all()
    fi;
    if
    :: ok ->
        tell_release(me, DONE(0, me), epoch);
        atomic { ALL(IS_DONE) -> learn_from(DONE(me, 0), 1) } /* all are in it: nothing else may end it */
    :: else
    fi
}

proctype rank(byte me; byte home; byte by; byte epoch)
{
    byte most;
    byte p;
    bool fault;
    bool ok;
    enter();
    if
    :: raise_all()
    :: fault = true /* told */
    :: true         /* noticed nothing */
    fi;
    do
    :: reset();
        if
        :: fault /* EPF_E_STATE: refused */
        :: else ->
            call();
            if
            :: ok -> break
            :: else
            fi
        fi
    od
}

init
{
    byte i;
    byte home;
    byte by;
    byte behind;
    byte wide;
    atomic {
        select(home : 0 .. W - 1);
        select(by : 0 .. W - 1);
        select(behind : 0 .. W);
        select(wide : 0 .. W);
        for (i : 0 .. W - 1) {
            rows[i] = (i == wide -> 2 : 1);
            run rank(i, home, by, (i == behind -> 0 : 1))
        }
    }
}
