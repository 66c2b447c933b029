/*
 * abort.pml: whatever happens to one rank, at any point, every other returns, and knows why.
 *
 * From: wait_words, wait_loop, epf_exec_raise, raise_once, read_fault, run_queue, epf_exec_run,
 * epf_op_check_ready.
 *
 * Ranks make CALLS calls; in each, a rank says that it entered, waits for all, says that its part is done
 * and waits for all.  At any point, EVENTS times in all, an adversary
 *
 *   kills a rank   its threads end between two steps, in the midst of giving up as well; others can see it
 *   stops a rank   as killed, but nobody can see it: only now may a wait run into its deadline
 *   fails a task   (out of memory, say) on any worker that is just working
 *
 * With TWO_WORKERS rank 0 has a second.  Shown: all threads of ranks that were not killed or stopped end (one
 * that waits for ever is an invalid end state); a rank that returns an error has a whole fault record, its
 * own or that of the rank whose number it found in its abort word; and when all have ended, who gave up has
 * told every other.  The place is the record of rank `by` on rank `on`.
 */
#ifndef CALLS
#define CALLS 2
#endif
#ifndef EVENTS
#define EVENTS 1
#endif
#ifdef TWO_WORKERS
#define THREADS (W + 1)
#else
#define THREADS W
#endif
#define ENTERED(on, from) ((on) * W + (from))
#define DONE(on, from) (W * W + (on) * W + (from))
#define ABORT(r) (2 * W * W + (r))
#define JOB (2 * W * W + W)
#define JOINED (2 * W * W + W + 1)
#define WORDS (2 * W * W + W + 2)
#include "memory.pml"

#define NO_MORE 255 /* as a job: the rank makes no more calls */

#define OK 0
#define REASON 1  /* this worker has one to give up */
#define GAVE_UP 2 /* and has acted on it */
#define TOLD 3    /* EPF_E_STATE: the abort word was not 0 */

byte events = EVENTS;
bool halted[W];
bool any_stopped;
bool any_dead;
bool raised[W]; /* ghost: epf_exec_raise has ended */
bool failed[W]; /* exec->failed */

/* Killed or stopped; what is left to do, nobody does. */
inline halt()
{
    d_step { events--; halted[r] = true }
    if
    :: any_dead = true
    :: any_stopped = true
    fi;
    goto gone
}

/* Before each step, or instead of it: the rank is killed or stopped.  As good as at any time since the last
 * step, for in between it did nothing that others can see. */
inline chance()
{
    if
    :: halted[r] -> goto gone
    :: !halted[r] && events > 0 -> halt()
    :: !halted[r]
    fi
}

inline write_record()
{
    if
#ifdef TWIN_ONE_RECORD_FOR_ALL
    :: p == on -> plain_write(me, 1)
#else
    :: p == on && r == by -> plain_write(me, 1)
#endif
    :: else
    fi
}

inline store_abort()
{
#ifdef TWIN_ABORT_RELAXED
    store_relaxed(ABORT(p), r + 1)
#else
    store_release(me, ABORT(p), r + 1)
#endif
}

/* raise_once and epf_exec_raise: the first worker of the rank; record, then abort, on every rank. */
inline give_up()
{
    if
    :: status == REASON ->
        d_step { first = !failed[r]; failed[r] = true; status = GAVE_UP }
        for (p : 0 .. W - 1) {
#ifdef TWIN_TELLS_ITSELF_ONLY
            first = first && p == r;
#endif
            if
            :: first ->
#ifdef TWIN_ABORT_BEFORE_RECORD
                atomic { chance(); store_abort() }
                atomic { chance(); write_record() }
#else
                atomic { chance(); write_record() }
                atomic { chance(); store_abort() }
#endif
            :: else
            fi
        }
        atomic { raised[r] = raised[r] || first; first = false; p = 0 }
    :: else
    fi
}

/* The wait of all waits, for a word of every rank at once: these words carry no fact that is asked for, and
 * who waits for the second may as well be told of an abort or a death while it waits for the first. */
inline wait_words(first_word)
{
    atomic {
        if
        :: status != OK
        :: status == OK && halted[r] -> goto gone
        :: status == OK && !halted[r] && events > 0 -> halt()
        :: status == OK && ALL_THERE(first_word, epoch)
#ifndef TWIN_WAIT_IGNORES_ABORT
        :: status == OK && word[ABORT(r)] != 0 -> status = TOLD
#endif
#ifndef TWIN_DEATH_UNSEEN
        :: status == OK && any_dead -> status = REASON
#endif
        :: status == OK && any_stopped -> status = REASON /* the deadline */
        fi
    }
    give_up()
}

/* A ticket, and work that may fail. */
inline work()
{
    atomic {
        if
        :: status != OK
        :: status == OK && word[ABORT(r)] != 0 -> status = TOLD
        :: status == OK && word[ABORT(r)] == 0 && events > 0 -> events--; status = REASON
        :: status == OK && word[ABORT(r)] == 0
        fi
    }
    give_up()
}

inline run_worker()
{
    wait_words(ENTERED(r, 0));
    work();
    atomic {
        chance();
        if
        :: status == OK && me == r -> tell_release(me, DONE(0, r), epoch)
        :: else
        fi
    }
    wait_words(DONE(r, 0))
}

/* What ended the call on this rank: its own record, or that of the rank in the abort word. */
inline read_fault()
{
    atomic {
        if
        :: status != OK && !failed[r] ->
            known[me] = known[me] | carried[ABORT(r)];
            if
#ifdef TWIN_ONE_RECORD_FOR_ALL
            :: r == on -> plain_read(me, 1)
#else
            :: r == on && word[ABORT(r)] == by + 1 -> plain_read(me, 1)
#endif
            :: else
            fi
        :: else
        fi
    }
}

proctype rank(byte r; byte on; byte by)
{
    byte epoch = 0;
    byte status = OK;
    byte me = r;
    bool first;
    byte p;
    do
    :: epoch == CALLS || status != OK -> break
    :: else ->
        atomic {
            chance();
            epoch++;
            tell_release(me, ENTERED(0, r), epoch)
        }
#ifdef TWO_WORKERS
        if
        :: r == 0 -> store_release(me, JOB, epoch)
        :: else
        fi;
#endif
        run_worker();
#ifdef TWO_WORKERS
        if
        :: r == 0 ->
            atomic {
                if
                :: halted[r] -> goto gone
                :: !halted[r] && word[JOINED] / 8 == epoch ->
                    known[me] = known[me] | carried[JOINED];
                    status = (status == OK -> word[JOINED] % 8 : status)
                fi
            }
        :: else
        fi;
#endif
        read_fault()
    od;
gone:
#ifdef TWO_WORKERS
    if
    :: r == 0 -> store_release(me, JOB, NO_MORE)
    :: else
    fi
#else
    skip
#endif
}

#ifdef TWO_WORKERS
proctype second_worker(byte r; byte on; byte by)
{
    byte epoch = 0;
    byte status = OK;
    byte me = W;
    bool first;
    byte p;
    do
    :: d_step { word[JOB] == epoch + 1 -> known[me] = known[me] | carried[JOB]; epoch++ }
        run_worker();
        store_release(me, JOINED, COUNTED(epoch, status))
    :: word[JOB] == NO_MORE -> break
    od;
gone:
    skip
}
#endif

init
{
    byte i;
    byte on;
    byte by;
    atomic {
        select(on : 0 .. W - 1);
        select(by : 0 .. W - 1);
        for (i : 0 .. W - 1) {
            run rank(i, on, by)
        }
#ifdef TWO_WORKERS
        run second_worker(0, on, by)
#endif
    }
    _nr_pr == 1; /* all others have ended */
    atomic {
        for (i : 0 .. W - 1) {
            for (on : 0 .. W - 1) {
                assert(!raised[i] || halted[on] || word[ABORT(on)] != 0)
            }
        }
    }
}
