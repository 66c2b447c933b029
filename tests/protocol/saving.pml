/*
 * saving.pml: token saving: a row's flag names the row that carries its data, and comes after that data.
 *
 * From: send_token, send_weight, epf_task_expand, expand_rows, epf_phase_need (EXPAND, GEMM of a dispatch),
 * epf_op_signal_entered.
 *
 * Two rows A and B of rank HOME, in M-tiles of two experts, are filled in each of CALLS dispatches:
 *
 *   source[e]    the rank whose token goes to both rows
 *   carrier[e]   the row that crosses; the other gets a flag {epoch, carrier} and is copied by EXPAND
 *   ALONE        no saving: the two rows are of two tokens, each crosses
 *
 * HOME has two workers: thread HOME expands A, thread W expands B; then each multiplies the tile that the
 * other one expanded, after tile_ready.  The place is row A, row B or row B's routing weight.
 */
#ifndef CALLS
#define CALLS 2
#endif
#define HOME (W - 1)
#define SECOND W /* HOME's second worker */
#define THREADS (W + 1)
#define ENTERED(by) (by) /* on HOME's peers; a peer waits for HOME's only */
#define FLAG(row) (W + (row))
#define READY(row) (W + 2 + (row))
#define JOB (W + 4)
#define JOINED (W + 5)
#define WORDS (W + 6)
#include "memory.pml"

#define A 0
#define B 1
#define ALONE 2
#define WEIGHT_B 2 /* as a place; 0 and 1 are the rows */

byte source[CALLS + 1];
byte carrier[CALLS + 1];
byte place;
byte named[2]; /* low half of recv_flag: the carrier's row */

inline store_flag(row, epoch)
{
    d_step {
        word[FLAG(row)] = epoch;
#ifdef TWIN_FLAG_RELAXED
        carried[FLAG(row)] = 0;
#else
        carried[FLAG(row)] = known[me];
#endif
        named[row] = (what == ALONE -> row : what)
    }
}

inline bring_row(row)
{
    if
    :: place == row -> plain_write(me, epoch)
    :: else
    fi
}

inline bring_weight()
{
    if
    :: place == WEIGHT_B -> plain_write(me, epoch)
    :: else
    fi
}

/* send_token: the row, then weight and flag of each slot it stands for, k ascending. */
inline send()
{
    if
    :: what == ALONE ->
        bring_row(A);
        store_flag(A, epoch);
        bring_row(B);
        bring_weight();
        store_flag(B, epoch)
    :: else ->
#ifdef TWIN_FLAG_BEFORE_DATA
        store_flag(A, epoch);
        bring_weight();
        store_flag(B, epoch);
        bring_row(what)
#else
#ifdef TWIN_FLAG_BESIDE_CARRIER
        if /* the other row's flag goes out when its own part is done, which is none */
        :: what == A -> store_flag(B, epoch); bring_row(A); bring_weight(); store_flag(A, epoch)
        :: else -> store_flag(A, epoch); bring_row(B); bring_weight(); store_flag(B, epoch)
        fi
#else
        bring_row(what);
        store_flag(A, epoch);
        bring_weight();
        store_flag(B, epoch)
#endif
#endif
    fi
}

/* EXPAND of row `row`, then GEMM of row `done`, by thread t. */
inline expand(t, row, done)
{
#ifdef TWIN_CARRIER_READ_EARLY
    from = named[row];
    wait_acquire(t, FLAG(row), epoch);
#else
#ifdef TWIN_OLD_FLAG
    wait_acquire(t, FLAG(row), epoch - 1);
#else
    wait_acquire(t, FLAG(row), epoch);
#endif
    from = named[row];
#endif
    if
    :: from != row && place == from -> plain_read(t, epoch)
    :: from != row && place == row -> plain_write(t, epoch)
    :: else
    fi;
    store_release(t, READY(row), epoch);
    wait_acquire(t, READY(done), epoch);
    if
    :: place == done || (place == WEIGHT_B && done == B) -> plain_read(t, epoch)
    :: else
    fi;
    from = 0
}

proctype rank(byte me)
{
    byte epoch = 0;
    byte from = 0;
    byte what;
    do
    :: epoch == CALLS -> break
    :: else ->
        epoch++;
        what = carrier[epoch];
        store_release(me, ENTERED(me), epoch);
        if
        :: me == HOME -> store_release(me, JOB, epoch) /* wakes the second worker */
        :: else
        fi;
        if
        :: me == source[epoch] ->
            wait_acquire(me, ENTERED(HOME), epoch);
            send()
        :: else
        fi;
        if
        :: me == HOME ->
            expand(me, A, B);
#ifdef TWIN_NO_JOIN
            skip
#else
            wait_acquire(me, JOINED, epoch)
#endif
        :: else
        fi
    od
}

proctype second_worker()
{
    byte epoch = 0;
    byte from = 0;
    do
    :: epoch == CALLS -> break
    :: else ->
        epoch++;
        wait_acquire(SECOND, JOB, epoch);
        expand(SECOND, B, A);
        store_release(SECOND, JOINED, epoch)
    od
}

init
{
    byte i;
    byte x;
    atomic {
        select(place : 0 .. 2);
        for (i : 1 .. CALLS) {
            select(x : 0 .. W - 1);
            source[i] = x;
            select(x : 0 .. 2);
            carrier[i] = x
        }
        x = 0;
        for (i : 0 .. W - 1) {
            run rank(i)
        }
        run second_worker()
    }
}
