/*
 * serial.pml: serial combine: the last worker of a rank to finish a tile signals the barrier for all.
 *
 * From: run_worker, run_queue, epf_task_gemm, signal_tile, epf_word_add, epf_signal_barrier, wait_slots,
 * epf_exec_run (how workers are woken and joined).
 *
 * Workers draw tickets: GEMM tiles first, then one REDUCE task.  Rank HOME has two workers and 0 .. 2 tiles,
 * the others 0 or 1 tile and one worker (which of a rank's threads stores its words is all that its second
 * would change), or two of them with TWO_EACH.  Tiles are chosen for each call.  The place is tile `tile` of
 * HOME; the REDUCE task of rank `puller`, on either worker, reads it in every call in which HOME has that
 * tile.  Ranks differ by number alone: any other choice of HOME and puller is one of these with ranks renamed.
 */
#ifndef CALLS
#define CALLS 2
#endif
#define HOME 0
#ifdef TWO_EACH
#define THREADS (2 * W)
#define HAS_SECOND(r) true
#else
#define THREADS (W + 1)
#define HAS_SECOND(r) ((r) == HOME)
#endif
#define ENTERED(on, by) ((on) * W + (by))
#define BARRIER(on, by) (W * W + (on) * W + (by))
#define TICKET_GEMM(r) (2 * W * W + (r))
#define TICKET_REDUCE(r) (2 * W * W + W + (r))
#define GEMM_DONE(r) (2 * W * W + 2 * W + (r))
#define JOB(r) (2 * W * W + 3 * W + (r))
#define JOINED(r) (2 * W * W + 4 * W + (r))
#define WORDS (2 * W * W + 5 * W)
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

inline store_tile(which)
{
    if
    :: r == HOME && (which) == tile -> plain_write(me, epoch)
    :: else
    fi
}

/* A call starts: what words of this rank alone carry, both its workers know, so it is forgotten, and so is
 * what words of calls before carry, which nobody waits for any more. */
inline start()
{
    num_tiles = tiles[epoch * W + r];
    if
    :: me == r ->
        forget_words(TICKET_GEMM(r), W, 5);
        forget_older(ENTERED(r, 0), epoch);
        forget_older(BARRIER(r, 0), epoch);
        tell_release(me, ENTERED(0, r), epoch);
        if
        :: HAS_SECOND(r) -> store_release(me, JOB(r), epoch)
        :: else
        fi;
#ifndef TWIN_EMPTY_RANK_SILENT
        if
        :: num_tiles == 0 -> signal_barrier()
        :: else
        fi
#endif
    :: else -> wait_acquire(me, JOB(r), epoch)
    fi
}

inline store_drawn()
{
    wait_all(me, ENTERED(r, 0), epoch); /* free_epoch: the call before was a combine of the set */
#ifdef TWIN_COUNT_BEFORE_STORE
    mine = ticket;
    count_tile();
    store_tile(mine);
    mine = 0
#else
    store_tile(ticket)
#endif
}

inline reduce_task()
{
    wait_all(me, ENTERED(r, 0), epoch);
#ifdef TWIN_BARRIER_OF_BEFORE
    wait_all(me, BARRIER(r, 0), epoch - 1);
#else
    wait_all(me, BARRIER(r, 0), epoch);
#endif
    if
    :: r == puller && tiles[epoch * W + HOME] > tile -> plain_read(me, epoch)
    :: else
    fi
}

inline reduce_queue()
{
    do
    :: add_acq_rel(me, TICKET_REDUCE(r), epoch, ticket);
        if
        :: ticket == 0 -> reduce_task()
        :: else -> break
        fi
    od;
    ticket = 0
}

/* The second worker is joined; between calls it knows nothing that its first does not. */
inline join()
{
    if
    :: me != r -> store_release(me, JOINED(r), epoch); known[me] = 0
    :: me == r && HAS_SECOND(r) -> wait_acquire(me, JOINED(r), epoch)
    :: else
    fi
}

/* Steps end at tiles alone.  When none is left the call is over but for waits: what one worker draws after
 * that decides nothing for the other, and what it knows by then, the first learns when it joins the second. */
proctype worker(byte r; byte me; byte tile; byte puller)
{
    byte epoch = 1;
    byte ticket;
    byte num_tiles;
    bool has_tile;
#ifdef TWIN_COUNT_BEFORE_STORE
    byte mine;
#endif
    atomic { start() }
    do
    :: atomic {
            !has_tile ->
            add_acq_rel(me, TICKET_GEMM(r), epoch, ticket);
            if
            :: ticket < num_tiles -> has_tile = true; store_drawn()
            :: else ->
                reduce_queue();
                join();
                if
                :: epoch == CALLS -> break
                :: else -> epoch++; start()
                fi
            fi
        }
    :: atomic {
            has_tile ->
#ifndef TWIN_COUNT_BEFORE_STORE
            count_tile();
#endif
            if
            :: ticket + 1 == ALL_TILES -> signal_barrier()
            :: else
            fi;
            d_step { has_tile = false; ticket = 0 }
        }
    od
}

init
{
    byte i;
    byte x;
    byte tile;
    byte puller;
    atomic {
        select(puller : 0 .. 1);
        select(tile : 0 .. 1);
        for (i : W .. W * (CALLS + 1) - 1) {
            select(x : 0 .. (i % W == HOME -> 2 : 1));
            tiles[i] = x
        }
        for (i : 0 .. W - 1) {
            run worker(i, i, tile, puller);
            if
            :: HAS_SECOND(i) -> run worker(i, W + i, tile, puller)
            :: else
            fi
        }
    }
}
