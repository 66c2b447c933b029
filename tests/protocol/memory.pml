/*
 * memory.pml: memory with release and acquire order, for every model.
 *
 * One place of plain memory is tracked: a row, a record or a word that is also zeroed by memset.  Which one
 * is chosen when a run starts, so a verification covers all of them; what the others hold never decides
 * what a rank does, so leaving them out loses nothing.
 *
 * Instead of guessing how late a store may become visible, the models ask what the C memory model asks: a
 * plain access must come after every earlier access that conflicts with it by a chain of release stores
 * and acquire loads.  What is not so ordered may be seen late, early or torn, so it is an error, in
 * whatever order the search happens to meet the two.
 *
 *   fact              the last write of the place, or thread t's last read of it
 *   known[t]          facts that come before what thread t does next
 *   carried[w]        facts that come with the value of word w: what its writer knew if it stored with
 *                     release order, none if relaxed
 *
 * A new write or read takes its fact from everybody else.  Words are read at their newest value: each
 * grows, and each wait is for "at least", so an older value seen is a wait that goes on, which the
 * search covers by letting the waiter step later.
 *
 * Before the include: W (ranks), THREADS (at most 7), WORDS.
 */
#define WRITTEN 1
#define READ_BY(t) (2 << (t))
#define ALL_FACTS ((2 << THREADS) - 1)

byte word[WORDS];
byte carried[WORDS];
byte known[THREADS] = ALL_FACTS;
byte value; /* of the place: which call wrote it */
byte scan;

inline forget(fact)
{
    scan = 0;
    do
    :: scan < THREADS -> known[scan] = known[scan] & (ALL_FACTS - (fact)); scan++
    :: else -> break
    od;
    scan = 0;
    do
    :: scan < WORDS -> carried[scan] = carried[scan] & (ALL_FACTS - (fact)); scan++
    :: else -> break
    od;
    scan = 0
}

/* The place is read: its last write came before, and is the one expected. */
inline plain_read(t, expected)
{
    d_step {
        assert((known[t] & WRITTEN) != 0); /* a read beside a write */
        assert(value == (expected));       /* a stale read, or one of the future */
        forget(READ_BY(t));
        known[t] = known[t] | READ_BY(t)
    }
}

/* The place is written: its last write and all reads came before. */
inline plain_write(t, written)
{
    d_step {
        assert(known[t] == ALL_FACTS); /* a write beside a write, or under a reader's eyes */
        value = (written);
        forget(WRITTEN);
        known[t] = known[t] | WRITTEN
    }
}

/* The tracked place is a word: a store of it is atomic, so only memset must not come beside it. */
inline atomic_mark(t)
{
    d_step {
        assert((known[t] & WRITTEN) != 0); /* a store beside the zeroing */
        forget(WRITTEN);
        known[t] = known[t] | WRITTEN
    }
}

inline store_release(t, w, stored)
{
    d_step { word[w] = (stored); carried[w] = known[t] }
}

inline store_relaxed(w, stored)
{
    d_step { word[w] = (stored); carried[w] = 0 }
}

/* The same value to W words, `first` on rank 0, then every W-th, in one step.  Between the stores of such a
 * loop a rank looks at nothing, and who waits for a word that comes later is as good as not yet asked to
 * step; so single steps would add states but no outcome.  Not for ranks that may be killed in the loop. */
inline tell_release(t, first, stored)
{
    d_step {
        scan = 0;
        do
        :: scan < W -> word[(first) + scan * W] = (stored); carried[(first) + scan * W] = known[t]; scan++
        :: else -> break
        od;
        scan = 0
    }
}

inline tell_relaxed(first, stored)
{
    d_step {
        scan = 0;
        do
        :: scan < W -> word[(first) + scan * W] = (stored); carried[(first) + scan * W] = 0; scan++
        :: else -> break
        od;
        scan = 0
    }
}

inline wait_acquire(t, w, least)
{
    d_step { word[w] >= (least) -> known[t] = known[t] | carried[w] }
}

/* Of W words, `first` and those after it. */
#if W == 2
#define ALL_THERE(first, least) (word[first] >= (least) && word[(first) + 1] >= (least))
#else
#define ALL_THERE(first, least) \
    (word[first] >= (least) && word[(first) + 1] >= (least) && word[(first) + 2] >= (least))
#endif

/* Waits for all of them at once.  Where nobody tells the next epoch before all have told this one, each is
 * at `least` when the last of them comes, so one after the other would learn no less. */
inline wait_all(t, first, least)
{
    d_step {
        ALL_THERE(first, least) ->
        scan = 0;
        do
        :: scan < W -> known[t] = known[t] | carried[(first) + scan]; scan++
        :: else -> break
        od;
        scan = 0
    }
}

/* What words carry that nobody will wait for again: told apart, it would be states without a meaning. */
inline forget_words(first, stride, count)
{
    d_step {
        scan = 0;
        do
        :: scan < (count) -> carried[(first) + scan * (stride)] = 0; scan++
        :: else -> break
        od;
        scan = 0
    }
}

/* The same of those of W words, `first` and those after it, that are of an epoch before. */
inline forget_older(first, epoch)
{
    d_step {
        scan = 0;
        do
        :: scan < W ->
            carried[(first) + scan] = (word[(first) + scan] < (epoch) -> 0 : carried[(first) + scan]);
            scan++
        :: else -> break
        od;
        scan = 0
    }
}

/* epf_word_add(..., 1): words of many writers hold epoch * 8 + count. */
#define COUNTED(epoch, count) ((epoch) * 8 + (count))

inline add_acq_rel(t, w, epoch, before)
{
    d_step {
        before = (word[w] / 8 == (epoch) -> word[w] % 8 : 0);
        word[w] = COUNTED(epoch, before + 1);
        known[t] = known[t] | carried[w];
        carried[w] = known[t]
    }
}

/* As above without order: the facts of earlier adders stay with the word, ours do not join them. */
inline add_relaxed(t, w, epoch, before)
{
    d_step {
        before = (word[w] / 8 == (epoch) -> word[w] % 8 : 0);
        word[w] = COUNTED(epoch, before + 1)
    }
}
