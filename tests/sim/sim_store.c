/*
 * sim_store.c: what each fiber sees.
 *
 * A store goes to the end of its fiber's list and becomes visible to the others at a random time.  Lists keep
 * what C11 promises and nothing else: a release store comes after all that its fiber stored before, stores to
 * one place keep their order, everything else may pass everything else.  The fiber itself sees its own
 * stores at once.  Updates act on memory itself; with release order they push out the list first.  Loads
 * are not delayed: a missing acquire is not this simulator's to find.
 */
#include <string.h>

#include "sim_inside.h"
#include "sim_seam.h"

static bool overlaps(const sim_store *s, const uint8_t *at, size_t bytes)
{
    return s->at < at + bytes && at < s->at + s->bytes;
}

static void make_visible(const sim_store *s)
{
    memcpy(s->at, s->data, s->bytes);
    if (s->bytes <= sizeof(uint64_t)) {
        uint64_t value = 0;
        memcpy(&value, s->data, s->bytes);
        sim_trace(SIM_EVENT_VISIBLE, s->at, value, (int)s->bytes);
    }
}

void sim_commit_all(sim_fiber *f)
{
    for (int32_t i = 0; i < f->num_pending; i++) {
        make_visible(&f->pending[i]);
    }
    f->num_pending = 0;
}

static void commit_due_of(sim_fiber *f)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < f->num_pending; i++) {
        if (f->pending[i].due_ns <= sim.now_ns) {
            make_visible(&f->pending[i]);
            continue;
        }
        if (f->pending[i].due_ns < sim.next_due_ns) {
            sim.next_due_ns = f->pending[i].due_ns;
        }
        if (kept != i) {
            f->pending[kept] = f->pending[i];
        }
        kept++;
    }
    f->num_pending = kept;
}

void sim_commit_due(void)
{
    if (sim.now_ns < sim.next_due_ns) {
        return;
    }
    sim.next_due_ns = UINT64_MAX;
    for (int32_t i = 0; i < sim.num_fibers; i++) {
        commit_due_of(sim.fibers[i]);
    }
}

void sim_check_no_store(const void *memory, size_t bytes)
{
    for (int32_t i = 0; i < sim.num_fibers; i++) {
        const sim_fiber *f = sim.fibers[i];
        for (int32_t k = 0; k < f->num_pending; k++) {
            if (overlaps(&f->pending[k], memory, bytes)) {
                sim_fail("rank %d gives memory back that rank %d still writes to",
                         sim.current->rank, f->rank);
            }
        }
    }
}

/* A random time, but none before what this store must not pass. */
static uint64_t due_time(const sim_fiber *f, const uint8_t *at, size_t bytes, bool is_release)
{
    const uint64_t delay = sim.config.max_delay_ns;
    uint64_t due = sim.now_ns;
    if (epf_rng_below(&sim.rng, 2) == 0) {
        due += (uint64_t)epf_rng_below(&sim.rng, (int32_t)delay);
    }
    for (int32_t i = 0; i < f->num_pending; i++) {
        const sim_store *s = &f->pending[i];
        if (s->due_ns > due && (is_release || overlaps(s, at, bytes))) {
            due = s->due_ns;
        }
    }
    return due;
}

static void store_piece(uint8_t *at, const void *data, size_t bytes, bool is_release)
{
    sim_fiber *const f = sim.current;
    sim_store *s;
    if (f->num_pending == MAX_PENDING) {
        sim_commit_all(f);
    }
    s = &f->pending[f->num_pending];
    s->due_ns = due_time(f, at, bytes, is_release);
    s->at = at;
    s->bytes = (uint32_t)bytes;
    memcpy(s->data, data, bytes);
    f->num_pending++;
    if (s->due_ns < sim.next_due_ns) {
        sim.next_due_ns = s->due_ns;
    }
}

/* Memory as the running fiber sees it. */
static void load_bytes(void *to, const void *from, size_t bytes)
{
    const uint8_t *const at = from;
    memcpy(to, from, bytes);
    for (int32_t i = 0; sim.current != NULL && i < sim.current->num_pending; i++) {
        const sim_store *s = &sim.current->pending[i];
        if (overlaps(s, at, bytes)) {
            const uint8_t *begin = s->at > at ? s->at : at;
            const uint8_t *end = s->at + s->bytes < at + bytes ? s->at + s->bytes : at + bytes;
            memcpy((uint8_t *)to + (begin - at), s->data + (begin - s->at), (size_t)(end - begin));
        }
    }
}

static bool is_delayed(void)
{
    return sim.current != NULL && sim.config.max_delay_ns > 0;
}

uint64_t sim_load(const void *word, size_t bytes, int order)
{
    uint64_t value = 0;
    sim_point();
    for (int32_t i = 0; sim.current != NULL && i < sim.current->num_pending; i++) {
        if (overlaps(&sim.current->pending[i], word, bytes)) {
            sim_commit_all(
                sim.current); /* what its fiber reads without the simulator, it reads then */
        }
    }
    memcpy(&value, word, bytes);
    sim_trace(SIM_EVENT_LOAD, word, value, order);
    return value;
}

void sim_store_word(void *word, size_t bytes, uint64_t value, int order)
{
    sim_point();
    sim_trace(SIM_EVENT_STORE, word, value, order);
    if (is_delayed()) {
        store_piece(word, &value, bytes, order == __ATOMIC_RELEASE);
    } else {
        memcpy(word, &value, bytes);
    }
}

/* Before the running fiber goes on, all it has stored is visible: at once, or now and then by waiting, while others
 * see one store and not yet the other. */
void sim_drain(void)
{
    sim_fiber *const f = sim.current;
    if (f->num_pending > 0 && epf_rng_below(&sim.rng, 8) == 0) {
        uint64_t last_ns = sim.now_ns;
        for (int32_t i = 0; i < f->num_pending; i++) {
            last_ns = f->pending[i].due_ns > last_ns ? f->pending[i].due_ns : last_ns;
        }
        sim_sleep(last_ns - sim.now_ns);
    }
    sim_commit_all(f);
}

/* Before an update: what must be visible by then. */
static void push_out(const void *word, size_t bytes, int order)
{
    bool must = order != __ATOMIC_RELAXED && order != __ATOMIC_ACQUIRE;
    for (int32_t i = 0; sim.current != NULL && i < sim.current->num_pending; i++) {
        must = must || overlaps(&sim.current->pending[i], word, bytes);
    }
    if (must && sim.current != NULL) {
        sim_drain();
    }
}

uint64_t sim_update(const char *function, void *word, size_t bytes, uint64_t value, int order)
{
    uint64_t old = 0;
    uint64_t new_value;
    sim_point();
    push_out(word, bytes, order);
    memcpy(&old, word, bytes);
    new_value = strcmp(function, "__atomic_fetch_or") == 0 ? (old | value) : old + value;
    memcpy(word, &new_value, bytes);
    sim_trace(SIM_EVENT_UPDATE, word, new_value, order);
    return old;
}

uint64_t sim_cas(void *word, size_t bytes, uint64_t expected, uint64_t wanted, int order)
{
    uint64_t old = 0;
    sim_point();
    push_out(word, bytes, order);
    memcpy(&old, word, bytes);
    if (old == expected) {
        memcpy(word, &wanted, bytes);
    }
    sim_trace(SIM_EVENT_CAS, word, old == expected ? wanted : old, order);
    return old;
}

static void store_bytes(uint8_t *at, const uint8_t *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        size_t piece = bytes - done < STORE_BYTES ? bytes - done : STORE_BYTES;
        if (piece > 16 && epf_rng_below(&sim.rng, 4) == 0) {
            piece = 16; /* a row may be torn */
        }
        store_piece(at + done, data + done, piece, false);
        done += piece;
    }
}

void *sim_memcpy(void *to, const void *from, size_t bytes)
{
    const bool is_window = sim.current != NULL && bytes > 0 &&
                           (sim_is_shared(to, bytes) || sim_is_shared(from, bytes));
    if (!is_window) {
        return memcpy(to, from, bytes);
    }
    sim_point();
    sim_trace(SIM_EVENT_COPY, to, bytes, 0);
    if (!is_delayed() || !sim_is_shared(to, bytes)) {
        load_bytes(to, from, bytes);
        return to;
    }
    for (size_t done = 0; done < bytes; done += STORE_BYTES) {
        uint8_t piece[STORE_BYTES];
        const size_t count = bytes - done < STORE_BYTES ? bytes - done : STORE_BYTES;
        load_bytes(piece, (const uint8_t *)from + done, count);
        store_bytes((uint8_t *)to + done, piece, count);
    }
    return to;
}

void sim_convert_from_f32(void *to, const float *from, epf_dtype dtype, int64_t count)
{
    uint8_t row[4 * 256];
    const size_t bytes = (size_t)(count * epf_dtype_bytes((int32_t)dtype));
    sim_point();
    if (!is_delayed() || bytes > sizeof row) {
        epf_convert_from_f32(to, from, dtype, count);
        return;
    }
    epf_convert_from_f32(row, from, dtype, count);
    store_bytes(to, row, bytes);
}

/* Others may step between one row and the next. */
void sim_sum_rows(void *to, const void *const *rows, const float *factors, int32_t num_rows,
                  epf_dtype dtype, int64_t count)
{
    float sum[256] = {0};
    float row[256];
    if (count > (int64_t)(sizeof sum / sizeof sum[0])) {
        sim_point();
        epf_sum_rows(to, rows, factors, num_rows, dtype, count);
        return;
    }
    for (int32_t r = 0; r < num_rows; r++) {
        sim_point();
        epf_convert_to_f32(row, rows[r], dtype, count);
        for (int64_t i = 0; i < count; i++) {
            sum[i] += factors[r] * row[i];
        }
    }
    sim_convert_from_f32(to, sum, dtype, count);
}

epf_status sim_gemm_tile(const epf_gemm_weight *weight, const epf_gemm_tile_args *args,
                         epf_gemm_scratch *scratch)
{
    sim_point();
    return epf_gemm_tile(weight, args, scratch);
}
