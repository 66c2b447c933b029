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
#define APART 0 /* in epf_comm_reset, before all are along */
#define FIRST 1 /* waits in a meeting of the reset */
#define ALIGN 2
#define LAST 3
#define IN_CALL 4
#define RAISING 5
#define LEAVING 6
#define IS_MEETING (at == FIRST || at == ALIGN || at == LAST)
#ifdef TWIN_FAILED_RESET_USABLE
#define IS_FAULT_ASKED true
#else
#define IS_FAULT_ASKED false
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

/* epf_comm_barrier: comes to the next meeting of the generation. */
inline come(next)
{
    store_release(me, COMM(me), word[COMM(me)] + 1);
    at = next
}

inline zero_own_words()
{
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
    forget_words(ENTERED(me, 0), 1, W); /* what zero carries nobody waits for */
    forget_words(DONE(me, 0), 1, W);
    if
    :: me == home -> plain_write(me, 0)
    :: else
    fi
}

/* align_sets: the widest of all, as all find it. */
inline find_widest()
{
    for (p : 0 .. W - 1) {
        most = (rows[p] > most -> rows[p] : most)
    }
    p = 0
}

inline enter()
{
    epoch++;
    if
    :: me == by -> atomic_mark(me)
    :: else
    fi;
    tell_release(me, ENTERED(0, me), epoch);
    at = IN_CALL
}

/* epf_op_reset() and in it epf_comm_reset: a generation above all that were heard of. */
inline start_reset()
{
#ifdef TWIN_ZEROED_FIRST
    zero_own_words();
#endif
    store_release(me, COMM(me), word[COMM(me)] / 8 * 8 + 8);
    most = 0;
    at = APART
}

/* Nobody may call now but again epf_op_reset(), which so comes next. */
inline reset_failed()
{
#ifdef TWIN_FAILED_RESET_USABLE
    if
    :: is_fault -> start_reset()
    :: else -> enter()
    fi
#else
    start_reset()
#endif
}

inline reset_succeeded()
{
    is_fault = false;
    clean[me] = GENERATION(me);
    assert(word[ABORT(me)] == 0 || ANY(GAVE_UP_SINCE));
    enter()
}

/* All have come to the meeting: up to the next one, or into the call. */
inline go_on()
{
    if
#ifdef TWIN_WINDOWS_KEPT
    :: at == FIRST ->
#else
    :: at == FIRST -> find_widest(); come(ALIGN)
    :: at == ALIGN ->
        rows[me] = most;
        most = 0;
#endif
#ifndef TWIN_ZEROED_FIRST
        zero_own_words();
#endif
#ifdef TWIN_NO_SECOND_MEETING
        reset_succeeded()
#else
        come(LAST)
    :: at == LAST -> reset_succeeded()
#endif
    fi
}

/* epf_exec_raise, of all ranks in turn */
inline start_raise()
{
    raised_in[me] = GENERATION(me);
    at = RAISING
}

/* Each option is a step: a wait, or a deadline, and what follows up to where the rank waits again. */
proctype rank(byte me; byte home; byte by; byte epoch)
{
    byte at;
    byte most;
    byte p;
    byte next;
    bool is_fault; /* epf_op_check_ready refuses; asked for by the twin alone */
    atomic {
        enter();
        if
        :: start_raise()
        :: is_fault = IS_FAULT_ASKED; start_reset() /* told */
        :: start_reset()                            /* noticed nothing */
        fi
    }
    do
    :: atomic {
            at == APART && ANY(IS_AHEAD) -> /* those who hear of a reset go along */
            for (p : 0 .. W - 1) {
                if
                :: IS_AHEAD(p) -> store_release(me, COMM(me), GENERATION(p) * 8)
                :: else
                fi
            }
            p = 0
        }
    :: atomic { at == APART && ALL(IS_ALONG) -> learn_from(COMM(0), 1); come(FIRST) }
    :: atomic { IS_MEETING && ALL(HAS_COME) -> learn_from(COMM(0), 1); go_on() }
    :: atomic { IS_MEETING && ANY(IS_AHEAD) -> reset_failed() }
    :: atomic { (at == APART || IS_MEETING) && fails > 0 -> fails--; reset_failed() }
    :: atomic {
            at == IN_CALL && ALL(HAS_ENTERED) ->
            assert(ALL(IS_IN_STEP));
            learn_from(ENTERED(me, 0), 1);
            tell_release(me, DONE(0, me), epoch);
            at = LEAVING /* all are in it: nothing else may end it */
        }
#if W > 2 /* of two ranks, one that waits here has nobody who could tell it */
    :: atomic { at == IN_CALL && word[ABORT(me)] != 0 -> is_fault = IS_FAULT_ASKED; start_reset() }
#endif
    :: atomic { at == IN_CALL && ANY(IS_AHEAD) -> start_raise() }
    :: atomic {
            at == RAISING ->
            word[ABORT(next)] = me + 1;
            next++;
            if
            :: next == W -> next = 0; is_fault = IS_FAULT_ASKED; start_reset()
            :: else
            fi
        }
    :: atomic { at == LEAVING && ALL(IS_DONE) -> learn_from(DONE(me, 0), 1); break }
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
