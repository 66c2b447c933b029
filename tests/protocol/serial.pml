/*
 * serial.pml: serial combine: the last worker of a rank to finish a tile signals the barrier for all.
 *
 * From: run_worker, run_queue, epf_task_gemm, signal_tile, epf_word_add, epf_signal_barrier, wait_slots,
 * epf_exec_run (how workers are woken and joined).
 *
 * Workers draw tickets: GEMM tiles first, then one REDUCE task.  Rank `home` has two workers and 0 .. 2 tiles,
 * the others one worker and 0 or 1 tile (which of a rank's threads stores its words is all that its second
 * would change), chosen for each call.  The place is tile `tile` of home; the REDUCE task of rank `puller`,
 * on either worker where that is home, reads it in every call in which home has that tile.  With
 * ONE_READER only puller has tokens.
 */
#ifndef CALLS
#define CALLS 2
#endif
#define THREADS (W + 1) /* W: the second worker of home */
#define ENTERED(on, by) ((on) * W + (by))
#define BARRIER(on, by) (W * W + (on) * W + (by))
#define TICKET_GEMM(r) (2 * W * W + (r))
#define TICKET_REDUCE(r) (2 * W * W + W + (r))
#define GEMM_DONE(r) (2 * W * W + 2 * W + (r))
#define JOB (2 * W * W + 3 * W)
#define JOINED (2 * W * W + 3 * W + 1)
#define WORDS (2 * W * W + 3 * W + 2)
#include "memory.pml"

byte tiles[W * (CALLS + 1)]; /* [call, rank] */

#ifdef TWIN_ONE_TILE_EARLY
#define ALL_TILES (num_tiles - 1)
#else
#define ALL_TILES num_tiles
#endif

inline signal_barrier()
{
#ifdef TWIN_BARRIER_RELAXED
    tell_relaxed(BARRIER(0, r), epoch)
#else
    tell_release(me, BARRIER(0, r), epoch)
#endif
}

inline count_tile()
{
#ifdef TWIN_ADD_RELAXED
    add_relaxed(me, GEMM_DONE(r), epoch, ticket);
#else
    add_acq_rel(me, GEMM_DONE(r), epoch, ticket);
#endif
#ifdef TWIN_COUNT_GOES_ON /* the first add of a call does not start from nothing */
    d_step {
        if
        :: ticket == 0 && epoch > 1 -> ticket = 1; word[GEMM_DONE(r)] = COUNTED(epoch, 2)
        :: else
        fi
    }
#endif
}

inline gemm_task()
{
    for (p : 0 .. W - 1) {
        wait_acquire(me, ENTERED(r, p), epoch) /* free_epoch: the call before was a combine of the set */
    }
    p = 0;
#ifdef TWIN_COUNT_BEFORE_STORE
    mine = ticket;
    count_tile();
    if
    :: r == home && mine == tile -> plain_write(me, epoch)
    :: else
    fi;
#else
    if
    :: r == home && ticket == tile -> plain_write(me, epoch)
    :: else
    fi;
    count_tile();
#endif
    if
    :: ticket + 1 == ALL_TILES -> signal_barrier()
    :: else
    fi
}

inline reduce_task()
{
    for (p : 0 .. W - 1) {
        wait_acquire(me, ENTERED(r, p), epoch)
    }
    for (p : 0 .. W - 1) {
#ifdef TWIN_BARRIER_OF_BEFORE
        wait_acquire(me, BARRIER(r, p), epoch - 1)
#else
        wait_acquire(me, BARRIER(r, p), epoch)
#endif
    }
    p = 0;
    if
    :: r == puller && tiles[epoch * W + home] > tile -> plain_read(me, epoch)
    :: else
    fi
}

inline run_queues()
{
    d_step { num_tiles = tiles[epoch * W + r] }
#ifndef TWIN_EMPTY_RANK_SILENT
    if
    :: num_tiles == 0 && me == r -> signal_barrier()
    :: else
    fi;
#endif
    do
    :: add_acq_rel(me, TICKET_GEMM(r), epoch, ticket);
        if
        :: ticket >= num_tiles -> break
        :: else -> gemm_task()
        fi
    od;
    do
    :: add_acq_rel(me, TICKET_REDUCE(r), epoch, ticket);
        if
        :: ticket >= num_tasks -> break
        :: else -> reduce_task()
        fi
    od;
    ticket = 0
}

proctype first_worker(byte r; byte me; byte home; byte tile; byte puller; byte num_tasks)
{
    byte epoch = 0;
    byte ticket;
    byte num_tiles;
#ifdef TWIN_COUNT_BEFORE_STORE
    byte mine;
#endif
    byte p;
    do
    :: epoch == CALLS -> break
    :: else ->
        epoch++;
        tell_release(me, ENTERED(0, r), epoch);
        if
        :: r == home -> store_release(me, JOB, epoch)
        :: else
        fi;
        run_queues();
        if
        :: r == home -> wait_acquire(me, JOINED, epoch)
        :: else
        fi
    od
}

proctype second_worker(byte r; byte me; byte home; byte tile; byte puller; byte num_tasks)
{
    byte epoch = 0;
    byte ticket;
    byte num_tiles;
#ifdef TWIN_COUNT_BEFORE_STORE
    byte mine;
#endif
    byte p;
    do
    :: epoch == CALLS -> break
    :: else ->
        epoch++;
        wait_acquire(me, JOB, epoch);
        run_queues();
        store_release(me, JOINED, epoch)
    od
}

init
{
    byte i;
    byte x;
    byte home;
    byte tile;
    byte puller;
    byte num_home;
    atomic {
        select(home : 0 .. W - 1);
        select(puller : 0 .. W - 1);
        select(tile : 0 .. 1);
        for (i : W .. W * (CALLS + 1) - 1) {
            select(x : 0 .. 2);
            tiles[i] = (i % W == home || x < 2 -> x : 1)
        }
        for (i : 0 .. W - 1) {
#ifdef ONE_READER
            x = (i == puller -> 1 : 0);
#else
            x = 1;
#endif
            num_home = (i == home -> x : num_home);
            run first_worker(i, i, home, tile, puller, x)
        }
        run second_worker(home, W, home, tile, puller, num_home)
    }
}
