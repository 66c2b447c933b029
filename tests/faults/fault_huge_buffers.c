/*
 * fault_huge_buffers.c: the operator's own buffers with more than 2^31 and 2^32 elements.
 *
 *   0, 1   as many tokens as fill the send buffer past 2^31 and 2^32 elements, of which the last few go
 *          anywhere: the far end of the send buffer, of the ids and of the output is used
 *   2      more than 2^31 elements are really received, and multiplied
 *
 * The output of 0 and 1 is written over and over into the same few pages, all but its last rows.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/epf_half.h"
#include "epfuse/epfuse.h"
#include "fault_huge.h"
#include "support/epf_check.h"

enum { NUM_SENT = 3, NUM_EXPERTS = 2, NUM_COLUMNS = 8, ALIAS = 1 << 26 };

/* T x H is past 2^31 or 2^32. */
typedef struct far_shape {
    const char *name;
    int64_t num_tokens, hidden;
    bool is_dense; /* every token is sent: only then memory is really taken */
} far_shape;

static const far_shape shapes[] = {
    {"a send buffer of more than 2^31 elements", (1 << 18) + NUM_SENT, 8192, false},
    {"a send buffer of more than 2^32 elements", (1 << 19) + NUM_SENT, 8192, false},
    {"more than 2^31 elements received", (1 << 15) + NUM_SENT, 65536, true},
};

/* A line of /proc/meminfo, in bytes: "MemAvailable: %lld kB" may be taken without pressing others out. */
static int64_t memory_bytes(const char *format)
{
    FILE *const file = fopen("/proc/meminfo", "re");
    char line[128];
    long long kib = 0;

    while (file != NULL && kib == 0 && fgets(line, sizeof line, file) != NULL) {
        (void)sscanf(line, format, &kib);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return (int64_t)kib * 1024;
}

/* `bytes` of addresses, all of them the same ALIAS bytes of memory, but the last ALIAS, which are real. */
static void *alias_alloc(size_t bytes)
{
    const int file = memfd_create("alias", MFD_CLOEXEC);
    char *const memory = fault_far_alloc(bytes);

    CHECK(file >= 0 && ftruncate(file, ALIAS) == 0 && memory != NULL, "%zu bytes of addresses",
          bytes);
    for (size_t at = 0; at + 2 * (size_t)ALIAS <= bytes; at += ALIAS) {
        CHECK(mmap(memory + at, ALIAS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) !=
                  MAP_FAILED,
              "an alias");
    }
    (void)close(file);
    return memory;
}

/* One operator of one rank, and its call. */
typedef struct buffers {
    verify_run *run;
    const far_shape *s;
    epf_group *group;
    epf_op *op;
    epf_layout *layout;
    uint16_t *b1;   /* [E, N, H] */
    uint16_t *b2;   /* [E, H, N] */
    uint16_t *gemm; /* [R, N]: what the first product gave */
    int32_t *ids;   /* [T, 1] */
    int64_t num_rows;
} buffers;

/* Small integers, few of them not 0, so that every sum is exact. */
static int token_at(int64_t token, int64_t column)
{
    return column % 97 == 0 ? (int)((token * 7 + column) % 5) - 2 : 0;
}

static int b1_at(int64_t expert, int64_t n, int64_t column)
{
    return (int)((expert + n + column / 97) % 3) - 1;
}

static bool is_marked(const far_shape *s, int64_t token)
{
    return token >= s->num_tokens - NUM_SENT;
}

static epf_tensor tensor(void *data, int32_t dtype, int64_t rows, int64_t cols)
{
    const int64_t shape[] = {rows, cols};
    epf_tensor t;

    CHECK_OK(epf_tensor_make(&t, data, (epf_dtype)dtype, 2, shape));
    return t;
}

static void fill_weights(buffers *b)
{
    const int64_t hidden = b->s->hidden;

    b->b1 = epf_test_alloc((size_t)(NUM_EXPERTS * NUM_COLUMNS * hidden), sizeof *b->b1);
    b->b2 = epf_test_alloc((size_t)(NUM_EXPERTS * NUM_COLUMNS * hidden), sizeof *b->b2);
    b->ids = epf_test_alloc((size_t)b->s->num_tokens, sizeof *b->ids);
    for (int64_t i = 0; i < NUM_EXPERTS * NUM_COLUMNS * hidden; i++) {
        const int64_t n = i / hidden % NUM_COLUMNS;
        b->b1[i] = epf_bf16_from_f32((float)b1_at(i / hidden / NUM_COLUMNS, n, i % hidden));
        /* every column of the output is the first product's column 0 */
        b->b2[i] = epf_bf16_from_f32(i % NUM_COLUMNS == 0 ? 1.0f : 0.0f);
    }
    for (int64_t t = 0; t < b->s->num_tokens; t++) {
        b->ids[t] = b->s->is_dense || is_marked(b->s, t) ? (int32_t)(t % NUM_EXPERTS) : -1;
        b->num_rows += b->ids[t] >= 0;
    }
    b->gemm = epf_test_alloc((size_t)(b->num_rows * NUM_COLUMNS), sizeof *b->gemm);
}

static epf_status open_buffers(buffers *b)
{
    epf_op_config config;
    epf_preprocess_args args;
    epf_status st;

    CHECK_OK(epf_op_config_init(&config));
    config.max_tokens = (int32_t)b->s->num_tokens;
    config.hidden = (int32_t)b->s->hidden;
    config.topk = 1;
    config.num_tot_experts = NUM_EXPERTS;
    config.capacity = b->s->is_dense ? 1 : 0.001; /* few rows are received */
    CHECK_OK(epf_preprocess_args_init(&args));
    args.exp_indices = tensor(b->ids, EPF_DTYPE_I32, b->s->num_tokens, 1);
    st = epf_group_create_threads(1, NULL, &b->group);
    st = st == EPF_OK ? epf_op_create(b->group, &config, &b->op) : st;
    return st == EPF_OK ? epf_preprocess(b->op, &args, &b->layout) : st;
}

static void close_buffers(buffers *b)
{
    epf_layout_destroy(b->layout);
    epf_op_destroy(b->op);
    epf_group_destroy(b->group);
    free(b->b1);
    free(b->b2);
    free(b->ids);
    free(b->gemm);
}

/* The tokens that are not 0, wherever they are. */
static void mark(const far_shape *s, uint16_t *tokens)
{
    for (int64_t t = s->num_tokens - NUM_SENT; t < s->num_tokens; t++) {
        for (int64_t c = 0; c < s->hidden; c++) {
            tokens[t * s->hidden + c] = epf_bf16_from_f32((float)token_at(t, c));
        }
    }
}

/* Tokens come from the send buffer, or densely from memory that is 0 almost everywhere. */
static epf_status dispatch(buffers *b, uint16_t *dense)
{
    const int64_t hidden = b->s->hidden;
    const int64_t b1[] = {NUM_EXPERTS, NUM_COLUMNS, hidden};
    epf_dispatch_group_gemm_args args;
    epf_tensor send;
    epf_status st = EPF_OK;

    CHECK_OK(epf_dispatch_group_gemm_args_init(&args));
    args.layout = b->layout;
    args.with_cpy_flag = dense != NULL;
    if (dense != NULL) {
        args.input = tensor(dense, EPF_DTYPE_BF16, b->s->num_tokens, hidden);
        mark(b->s, dense);
    } else {
        st = epf_op_send_buffer(b->op, 0, &send);
        if (st != EPF_OK) {
            return st;
        }
        mark(b->s, send.data);
    }
    CHECK_OK(epf_tensor_make(&args.gemm_weight, b->b1, EPF_DTYPE_BF16, 3, b1));
    args.gemm_output_data = tensor(b->gemm, EPF_DTYPE_BF16, b->num_rows, NUM_COLUMNS);
    return epf_dispatch_group_gemm(b->op, &args, NULL);
}

static int product(const far_shape *s, int64_t token, int64_t n)
{
    int sum = 0;

    for (int64_t c = 0; c < s->hidden && is_marked(s, token); c += 97) {
        sum += token_at(token, c) * b1_at(token % NUM_EXPERTS, n, c);
    }
    return sum;
}

/* Rows are ordered by (expert, token): every row of the first product, the last ones above all. */
static bool check_gemm(const buffers *b)
{
    int64_t row = 0;

    for (int64_t i = 0; i < NUM_EXPERTS * b->s->num_tokens; i++) {
        const int64_t token = i % b->s->num_tokens;
        if (b->ids[token] != i / b->s->num_tokens) {
            continue;
        }
        for (int64_t n = 0; n < NUM_COLUMNS; n++) {
            if (b->gemm[row * NUM_COLUMNS + n] !=
                epf_bf16_from_f32((float)product(b->s, token, n))) {
                verify_fail(b->run, "%s: row %lld, column %d", b->s->name, (long long)row, (int)n);
                return false;
            }
        }
        row++;
    }
    return true;
}

/* The last tokens' rows of an output that has all of them. */
static epf_status combine(buffers *b)
{
    const size_t bytes = (size_t)(b->s->num_tokens * b->s->hidden) * sizeof(uint16_t);
    const int64_t b2[] = {NUM_EXPERTS, b->s->hidden, NUM_COLUMNS};
    uint16_t *const output = alias_alloc(bytes);
    epf_group_gemm_combine_args args;
    epf_status st;

    CHECK_OK(epf_group_gemm_combine_args_init(&args));
    args.layout = b->layout;
    args.gemm_input_data = tensor(b->gemm, EPF_DTYPE_BF16, b->num_rows, NUM_COLUMNS);
    CHECK_OK(epf_tensor_make(&args.gemm_weight, b->b2, EPF_DTYPE_BF16, 3, b2));
    args.combine_output = tensor(output, EPF_DTYPE_BF16, b->s->num_tokens, b->s->hidden);
    args.combine_mode = EPF_COMBINE_FUSE_SCATTER;
    st = epf_group_gemm_combine(b->op, &args, NULL);
    for (int64_t t = b->s->num_tokens - NUM_SENT; t < b->s->num_tokens && st == EPF_OK; t++) {
        for (int64_t c = 0; c < b->s->hidden; c++) {
            if (output[t * b->s->hidden + c] != epf_bf16_from_f32((float)product(b->s, t, 0))) {
                verify_fail(b->run, "%s: token %lld, column %lld of the output", b->s->name,
                            (long long)t, (long long)c);
                break;
            }
        }
    }
    (void)munmap(output, bytes);
    return st;
}

/* What cannot be run here is told, and is no failure. */
static bool is_possible(verify_run *run, const far_shape *s)
{
    const int64_t bytes = s->num_tokens * s->hidden * (int64_t)sizeof(uint16_t);

    /* the library refuses windows larger than the machine (this one is twice the tokens); a dense one
     * is really filled */
    if (memory_bytes("MemTotal: %lld kB") < 2 * bytes + bytes / 8 ||
        (s->is_dense && memory_bytes("MemAvailable: %lld kB") < 2 * bytes)) {
        verify_note(run, "not run for want of memory: %s", s->name);
        return false;
    }
    return true;
}

bool fault_huge_buffers(verify_run *run, int which)
{
    buffers b = {.run = run, .s = &shapes[which]};
    const size_t bytes = (size_t)(b.s->num_tokens * b.s->hidden) * sizeof(uint16_t);
    uint16_t *dense;
    epf_status st;

    if (!is_possible(run, b.s)) {
        return false;
    }
    dense = b.s->is_dense ? fault_far_alloc(bytes) : NULL;
    fill_weights(&b);
    st = open_buffers(&b);
    st = st == EPF_OK ? dispatch(&b, dense) : st;
    if (st == EPF_OK && check_gemm(&b) && !b.s->is_dense) {
        verify_beat(run);
        st = combine(&b);
    }
    if (st != EPF_OK) {
        verify_fail(run, "%s: %s", b.s->name, epf_last_error());
    }
    close_buffers(&b);
    if (dense != NULL) {
        (void)munmap(dense, bytes);
    }
    return true;
}
