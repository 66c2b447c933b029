/*
 * scatter.pml: fuse_scatter: rows come back to their owner when all N-tiles of their M-tile are done.
 *
 * From: epf_phase_queue, signal_tile, epf_task_scatter, epf_signal_row, epf_word_add, epf_phase_need
 * (SCATTER), wait_slot, epf_phase_tile_done_count.
 *
 * In each call rank `sender[e]` has one M-tile of two N-tiles, on two workers; a row of it belongs to rank
 * `home`.  The call is one of
 *
 *   DIRECT   the epilogue of each N-tile writes its part into home's window; who finishes the last one flags
 *   STAGED   parts go into the sender's own memory; a SCATTER task waits for both, pushes the row
 *            and flags it
 *
 * The place is one part (0 or 1) of the row in home's window, or of the staged row on home where home is
 * the sender as well.  Any worker of home may be the one that sums, so thread `home` does.  Thread W is
 * the second worker of whoever sends; it starts with GEMM or, as a scatter worker, with SCATTER.
 */
#ifndef CALLS
#define CALLS 2
#endif
#define THREADS (W + 1)
#define ENTERED(on, by) ((on) * W + (by))
#define COMBINE_FLAG (W * W)
#define TICKET_GEMM(r) (W * W + 1 + (r))
#define TICKET_SCATTER(r) (W * W + 1 + W + (r))
#define TILE_DONE(r) (W * W + 1 + 2 * W + (r))
#define JOB(r) (W * W + 1 + 3 * W + (r))
#define JOINED(r) (W * W + 1 + 4 * W + (r))
#define WORDS (W * W + 1 + 5 * W)
#include "memory.pml"

#define DIRECT 0
#define STAGED 1
#define N_TILES 2

byte sender[CALLS + 1];
byte mode[CALLS + 1];

#ifdef TWIN_ONE_TILE_EARLY
#define ALL_TILES (N_TILES - 1)
#else
#define ALL_TILES N_TILES
#endif

/* epf_signal_row */
inline flag_row()
{
#ifdef TWIN_FLAG_RELAXED
    store_relaxed(COMBINE_FLAG, epoch)
#else
    store_release(me, COMBINE_FLAG, epoch)
#endif
}

/* Both parts of the row go from the sender's memory to home. */
inline push_row()
{
    if
    :: is_staged && r == home -> plain_read(me, epoch)
    :: !is_staged -> plain_write(me, epoch)
    :: else
    fi
}

inline gemm_task()
{
    n_tile = ticket;
    for (p : 0 .. W - 1) {
        wait_acquire(me, ENTERED(r, p), epoch) /* free_epoch: the call before was a combine of the set */
    }
    p = 0;
#ifdef TWIN_COUNT_BEFORE_STORE
    add_acq_rel(me, TILE_DONE(r), epoch, ticket);
#endif
    if
    :: n_tile == part && how == DIRECT && !is_staged -> plain_write(me, epoch)
    :: n_tile == part && how == STAGED && is_staged && r == home -> plain_write(me, epoch)
    :: else
    fi;
#ifdef TWIN_ADD_RELAXED
    add_relaxed(me, TILE_DONE(r), epoch, ticket);
#endif
#if !defined(TWIN_COUNT_BEFORE_STORE) && !defined(TWIN_ADD_RELAXED)
    add_acq_rel(me, TILE_DONE(r), epoch, ticket);
#endif
    if
    :: ticket + 1 == ALL_TILES && how == DIRECT -> flag_row()
    :: else
    fi;
    n_tile = 0
}

inline scatter_task()
{
#ifdef TWIN_COUNT_OF_ANY_CALL
    wait_acquire(me, TILE_DONE(r), ALL_TILES);
#else
    wait_acquire(me, TILE_DONE(r), COUNTED(epoch, ALL_TILES));
#endif
#ifdef TWIN_FLAG_BEFORE_PUSH
    flag_row();
    push_row()
#else
    push_row();
    flag_row()
#endif
}

inline gemm_queue()
{
    do
    :: add_acq_rel(me, TICKET_GEMM(r), epoch, ticket);
        if
        :: ticket >= N_TILES -> break
        :: else -> gemm_task()
        fi
    od;
    ticket = 0
}

inline scatter_queue()
{
    do
    :: how == DIRECT -> break
    :: how == STAGED ->
        add_acq_rel(me, TICKET_SCATTER(r), epoch, ticket);
        if
        :: ticket >= 1 -> break
        :: else -> scatter_task()
        fi
    od;
    ticket = 0
}

proctype rank(byte r; byte home; byte part; bool is_staged)
{
    byte epoch = 0;
    byte ticket;
    byte n_tile;
    byte p;
    byte who;
    byte how;
    byte me = r;
    do
    :: epoch == CALLS -> break
    :: else ->
        epoch++;
        d_step { who = sender[epoch]; how = mode[epoch] }
        tell_release(me, ENTERED(0, r), epoch);
        if
        :: r == who ->
            store_release(me, JOB(r), epoch);
            gemm_queue();
            scatter_queue()
        :: else
        fi;
        if
        :: r == home -> /* REDUCE */
            wait_acquire(me, ENTERED(r, who), epoch);
            wait_acquire(me, COMBINE_FLAG, epoch);
            if
            :: !is_staged -> plain_read(me, epoch)
            :: else
            fi
        :: else
        fi;
        if
        :: r == who -> wait_acquire(me, JOINED(r), epoch)
        :: else
        fi
    od
}

/* The sender's second. */
proctype second_worker(byte home; byte part; bool is_staged)
{
    byte epoch = 0;
    byte ticket;
    byte n_tile;
    byte p;
    byte r;
    byte how;
    byte me = W;
    do
    :: epoch == CALLS -> break
    :: else ->
        epoch++;
        d_step { r = sender[epoch]; how = mode[epoch] }
        wait_acquire(me, JOB(r), epoch);
        if
        :: how == STAGED -> scatter_queue()
        :: how == DIRECT || true -> gemm_queue(); scatter_queue()
        fi;
        store_release(me, JOINED(r), epoch)
    od
}

init
{
    byte i;
    byte x;
    byte home;
    byte part;
    bool is_staged;
    atomic {
        select(home : 0 .. W - 1);
        select(part : 0 .. 1);
        if
        :: is_staged = true
        :: is_staged = false
        fi;
        for (i : 1 .. CALLS) {
            select(x : 0 .. W - 1);
            sender[i] = x;
            if
            :: mode[i] = DIRECT
            :: mode[i] = STAGED
            fi
        }
        for (i : 0 .. W - 1) {
            run rank(i, home, part, is_staged)
        }
        run second_worker(home, part, is_staged)
    }
}
