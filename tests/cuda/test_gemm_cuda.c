/*
 * test_gemm_cuda: the grouped GEMM on the device against double precision, bit for bit.
 *
 * Operands are small integers, so every sum is exact in fp32 in any order and one rounding gives the same
 * bits everywhere.  Whatever a kernel must not read as a value is NaN: rows that no expert has.  Whatever
 * it must not write is a pattern that is looked for afterwards.
 *
 *   test_gemm_cuda [number of random problems] [seed]
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/epf_error.h"
#include "core/epf_half.h"
#include "cuda/epf_gemm_cuda.h"
#include "cuda/epf_gemm_sm90.h"

enum { MAX_G = 40, POISON = 0x7b7b };

typedef struct problem {
    epf_gemm_sm90_variant variant;
    int g, n, k, m;
    int swiglu, raw, row_ptr, weight;
    int c_f32; /* of a weight gradient            */
    int m_gap; /* the same: rows between experts */
    int short_last;
    int sm_margin; /* few SMs: many tiles for each                   */
    int queue;     /* tiles from a queue, not in fixed turns        */
    int gap;       /* rows between experts that belong to none     */
    int rows[MAX_G];
} problem;

/* Host copies; `total` rows of C, of which `gap` rows after each expert stay untouched. */
typedef struct buffers {
    int total, a_rows, c_rows;
    int offset[MAX_G];
    int *gather, *target;
    uint16_t *a, *b, *c, *raw;
    float *a_value, *b_value; /* the same as a and b */
    float *weight;
    size_t a_size, b_size, c_size, raw_size; /* elements of two bytes */
} buffers;

static uint64_t random_state = 1;
static int failures;

static int random_below(int bound)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int)((random_state >> 33) % (uint64_t)bound);
}

static uint16_t from_float(const problem *p, double value)
{
    return p->variant.dtype == EPF_DTYPE_BF16 ? epf_bf16_from_f32((float)value)
                                              : epf_f16_from_f32((float)value);
}

static double to_double(const problem *p, uint16_t value)
{
    return (double)(p->variant.dtype == EPF_DTYPE_BF16 ? epf_bf16_to_f32(value)
                                                       : epf_f16_to_f32(value));
}

static void must(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "test set-up failed: %s\n", what);
        exit(1);
    }
}

static void *device_copy(const void *from, size_t bytes)
{
    void *to = NULL;
    must(cudaMalloc(&to, bytes + 16) == cudaSuccess, "cudaMalloc");
    must(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice) == cudaSuccess, "cudaMemcpy");
    return to;
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes + 16);
    must(memory != NULL, "malloc");
    return memory;
}

static uint16_t *integers(const problem *p, size_t count, int bound)
{
    uint16_t *values = allocate(count * 2);
    for (size_t i = 0; i < count; i++) {
        values[i] = from_float(p, random_below(2 * bound + 1) - bound);
    }
    return values;
}

static float *values_of(const problem *p, const uint16_t *halves, size_t count)
{
    float *values = allocate(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)to_double(p, halves[i]);
    }
    return values;
}

static int is_grad(const problem *p)
{
    return p->variant.a_source == EPF_GEMM_A_COLUMNS;
}

/* Rows of A (or B) that no expert has become NaN. */
static void spoil_gaps(const problem *p, const buffers *b, uint16_t *values, int columns)
{
    const uint16_t nan = from_float(p, NAN);
    int row = 0;
    for (int g = 0; g <= p->g; g++) {
        const int end = g < p->g ? b->offset[g] : b->a_rows;
        for (; row < end; row++) {
            for (int i = 0; i < columns; i++) {
                values[(size_t)row * (size_t)columns + (size_t)i] = nan;
            }
        }
        row = g < p->g ? end + p->rows[g] : row;
    }
}

static void permutation(int *out, int count)
{
    for (int i = 0; i < count; i++) {
        const int j = random_below(i + 1);
        out[i] = out[j];
        out[j] = i;
    }
}

static void make_buffers(const problem *p, buffers *b)
{
    const int gathered = p->variant.a_source == EPF_GEMM_A_GATHERED;
    const int a_columns = is_grad(p) ? p->m : p->k;
    memset(b, 0, sizeof *b);
    for (int g = 0; g < p->g; g++) {
        b->offset[g] = b->total;
        b->total += p->rows[g] + p->gap;
    }
    b->a_rows = gathered ? b->total / 2 + 1 : b->total + 3;
    b->c_rows = is_grad(p) ? p->g * (p->m + p->m_gap) : b->total + 3;
    b->a_size = (size_t)b->a_rows * (size_t)a_columns;
    b->b_size =
        is_grad(p) ? (size_t)b->a_rows * (size_t)p->n : (size_t)p->g * (size_t)p->n * (size_t)p->k;
    b->c_size = (size_t)b->c_rows * (size_t)((p->swiglu ? p->n / 2 : p->n) << p->c_f32);
    b->raw_size = (size_t)b->c_rows * (size_t)p->n;
    b->a = integers(p, b->a_size, p->c_f32 ? 60 : 2); /* sums that two bytes do not hold */
    b->b = integers(p, b->b_size, 1);
    b->c = allocate(b->c_size * 2);
    b->raw = allocate(b->raw_size * 2);
    b->weight = allocate((size_t)b->c_rows * sizeof *b->weight);
    b->gather = allocate((size_t)(b->total + 3) * sizeof *b->gather);
    b->target = allocate((size_t)(b->c_rows + 3) * sizeof *b->target);
    permutation(b->target, b->c_rows);
    for (int i = 0; i < b->total; i++) {
        b->gather[i] = random_below(b->a_rows);
    }
    for (int i = 0; i < b->c_rows; i++) {
        b->weight[i] = p->weight ? (float)(random_below(9) - 4) * 0.25f : 1.0f;
    }
    for (size_t i = 0; i < b->c_size; i++) {
        b->c[i] = POISON;
    }
    for (size_t i = 0; i < b->raw_size; i++) {
        b->raw[i] = POISON;
    }
    if (!gathered) {
        spoil_gaps(p, b, b->a, a_columns);
    }
    if (is_grad(p)) {
        spoil_gaps(p, b, b->b, p->n);
    }
    b->a_value = values_of(p, b->a, b->a_size);
    b->b_value = values_of(p, b->b, b->b_size);
}

static void describe(const problem *p)
{
    printf("%s %s x %d cluster %dx%d A%d B%s G%d N%d K%d M%d swiglu%d raw%d ptr%d w%d queue%d "
           "last%d margin%d gap%d f32%d m_gap%d rows",
           p->variant.dtype == EPF_DTYPE_BF16 ? "bf16" : "fp16",
           p->variant.swapped ? "swapped" : "128", p->variant.block_n, p->variant.cluster_m,
           p->variant.cluster_n, p->variant.a_source, p->variant.b_n_major ? "KN" : "NK", p->g,
           p->n, p->k, p->m, p->swiglu, p->raw, p->row_ptr, p->weight, p->queue, p->short_last,
           p->sm_margin, p->gap, p->c_f32, p->m_gap);
    for (int g = 0; g < p->g; g++) {
        printf(" %d", p->rows[g]);
    }
    printf("\n");
}

/* `device` as run() has it. */
static void fill_args(const problem *p, const buffers *b, void *const device[10],
                      epf_gemm_cuda_args *args)
{
    args->dtype = p->variant.dtype;
    args->c_dtype = p->c_f32 ? EPF_DTYPE_F32 : 0;
    args->weight_grad = is_grad(p);
    args->b_n_major = p->variant.b_n_major;
    args->epilogue = p->swiglu ? EPF_GEMM_SWIGLU : EPF_GEMM_STORE;
    args->num_experts = p->g;
    args->n = p->n;
    args->k = p->k;
    args->m = p->m;
    args->a_rows = b->a_rows;
    args->a = device[0];
    args->b = device[1];
    args->c = device[2];
    args->raw = p->raw ? device[3] : NULL;
    args->row_ptr = p->row_ptr ? (void *const *)device[8] : NULL;
    args->row_weight = p->weight ? device[4] : NULL;
    args->gather = p->variant.a_source == EPF_GEMM_A_GATHERED ? device[5] : NULL;
    args->rows = device[6];
    args->row_offset = p->gap ? device[7] : NULL;
    args->short_last = p->short_last ? 1 : -1;
    args->sm_margin = p->sm_margin;
    args->queue = p->queue ? device[9] : NULL;
    args->c_expert_stride = p->m_gap ? (int64_t)(p->m + p->m_gap) * p->n : 0;
    args->block_n = p->variant.block_n;
    args->cluster_m = p->variant.cluster_m;
    args->cluster_n = p->variant.cluster_n;
    args->swapped = p->variant.swapped ? 1 : -1;
}

/* Returns 0 where the launch failed. */
static int run(const problem *p, buffers *b)
{
    epf_gemm_cuda_args args = {0};
    void *device[10] = {0};
    const uint32_t zeros[2] = {0, 0};
    uint32_t queue[2];
    void **targets = allocate((size_t)(b->c_rows + 1) * sizeof *targets);
    const size_t row_bytes = (size_t)(p->swiglu ? p->n / 2 : p->n) * 2;
    epf_status st;
    cudaError_t error;

    device[0] = device_copy(b->a, b->a_size * 2);
    device[1] = device_copy(b->b, b->b_size * 2);
    device[2] = device_copy(b->c, b->c_size * 2);
    device[3] = device_copy(b->raw, b->raw_size * 2);
    device[4] = device_copy(b->weight, (size_t)b->c_rows * sizeof *b->weight);
    device[5] = device_copy(b->gather, (size_t)(b->total + 3) * sizeof *b->gather);
    device[6] = device_copy(p->rows, sizeof p->rows);
    device[7] = device_copy(b->offset, sizeof b->offset);
    for (int i = 0; i < b->c_rows; i++) {
        targets[i] = (char *)device[2] + (size_t)b->target[i] * row_bytes;
    }
    device[8] = device_copy(targets, (size_t)b->c_rows * sizeof *targets);
    device[9] = device_copy(zeros, sizeof zeros);
    fill_args(p, b, device, &args);
    st = epf_gemm_cuda(&args, NULL);
    error = cudaDeviceSynchronize();
    if (st != EPF_OK || error != cudaSuccess) {
        printf("FAILED: %s; %s\n", st != EPF_OK ? epf_error_text() : "", cudaGetErrorString(error));
        exit(1);
    }
    must(cudaMemcpy(b->c, device[2], b->c_size * 2, cudaMemcpyDeviceToHost) == cudaSuccess, "copy");
    must(cudaMemcpy(b->raw, device[3], b->raw_size * 2, cudaMemcpyDeviceToHost) == cudaSuccess,
         "copy");
    must(cudaMemcpy(queue, device[9], sizeof queue, cudaMemcpyDeviceToHost) == cudaSuccess, "copy");
    if (queue[0] != 0 || queue[1] != 0) {
        printf("queue is left at %u, %u: ", queue[0], queue[1]);
        describe(p);
        failures++;
    }
    for (size_t i = 0; i < sizeof device / sizeof device[0]; i++) {
        cudaFree(device[i]);
    }
    free(targets);
    return 1;
}

/* The exact product of one element. */
static double product(const problem *p, const buffers *b, int g, int row, int column)
{
    double sum = 0;
    const size_t n = (size_t)p->n;
    const size_t k = (size_t)p->k;
    if (is_grad(p)) {
        for (int r = b->offset[g]; r < b->offset[g] + p->rows[g]; r++) {
            sum += (double)b->a_value[(size_t)r * (size_t)p->m + (size_t)row] *
                   (double)b->b_value[(size_t)r * n + (size_t)column];
        }
        return sum;
    }
    if (p->variant.a_source == EPF_GEMM_A_GATHERED) {
        row = b->gather[row];
    }
    for (size_t i = 0; i < k; i++) {
        const size_t at = p->variant.b_n_major ? ((size_t)g * k + i) * n + (size_t)column
                                               : ((size_t)g * n + (size_t)column) * k + i;
        sum += (double)b->a_value[(size_t)row * k + i] * (double)b->b_value[at];
    }
    return sum;
}

static void expect(const problem *p, uint16_t seen, uint16_t wanted, const char *what, int row,
                   int column)
{
    const int zeros = (seen | wanted) == 0x8000; /* the sign of zero is left open */
    if (seen == wanted || zeros) {
        return;
    }
    if (failures++ < 20) {
        printf("%s [%d, %d] is %g (0x%04x), must be %g (0x%04x): ", what, row, column,
               to_double(p, seen), seen, to_double(p, wanted), wanted);
        describe(p);
    }
}

/* SwiGLU takes an approximate exp: within half a unit of rounding plus 2^-18 of the exact value. */
static void expect_swiglu(const problem *p, uint16_t seen, double gate, double up, double weight)
{
    const double exact = gate / (1.0 + exp(-gate)) * up * weight;
    const double unit = p->variant.dtype == EPF_DTYPE_BF16 ? 1.0 / 256 : 1.0 / 2048;
    const double bound = fabs(exact) * (unit + 1.0 / (1 << 18)) + 1e-7;
    if (!(fabs(to_double(p, seen) - exact) <= bound) && failures++ < 20) {
        printf("swiglu(%g, %g) * %g is %g, must be %g: ", gate, up, weight, to_double(p, seen),
               exact);
        describe(p);
    }
}

/* The same of fp32. */
static void expect_sum(const problem *p, uint16_t *seen, double wanted, int row, int column)
{
    float value;
    memcpy(&value, seen, sizeof value);
    if ((double)value != wanted && failures++ < 20) {
        printf("c [%d, %d] is %g, must be %g: ", row, column, (double)value, wanted);
        describe(p);
    }
    seen[0] = seen[1] = POISON;
}

/* Marks each row it checks, so that what is left must still be POISON. */
static void check_row(const problem *p, buffers *b, int g, int row, int c_row)
{
    const int out_n = p->swiglu ? p->n / 2 : p->n;
    uint16_t *c =
        b->c + (size_t)(p->row_ptr ? b->target[c_row] : c_row) * (size_t)(out_n << p->c_f32);
    uint16_t *raw = b->raw + (size_t)c_row * (size_t)p->n;
    for (int i = 0; i < p->n; i++) {
        const uint16_t wanted = from_float(p, product(p, b, g, row, i));
        if (p->swiglu && p->raw) {
            expect(p, raw[i], wanted, "raw", c_row, i);
            raw[i] = POISON;
        }
        if (p->c_f32) {
            expect_sum(p, c + 2 * i, product(p, b, g, row, i), c_row, i);
        } else if (!p->swiglu) {
            expect(p, c[i], wanted, "c", c_row, i);
            c[i] = POISON;
        } else if (i < out_n) {
            const uint16_t up = from_float(p, product(p, b, g, row, i + out_n));
            expect_swiglu(p, c[i], to_double(p, wanted), to_double(p, up),
                          (double)b->weight[c_row]);
            c[i] = POISON;
        }
    }
}

static void check(const problem *p, buffers *b)
{
    for (int g = 0; g < p->g; g++) {
        const int rows = is_grad(p) ? p->m : p->rows[g];
        const int c_first = is_grad(p) ? g * (p->m + p->m_gap) : b->offset[g];
        for (int r = 0; r < rows; r++) {
            check_row(p, b, g, is_grad(p) ? r : b->offset[g] + r, c_first + r);
        }
    }
    for (size_t i = 0; i < b->c_size; i++) {
        expect(p, b->c[i], POISON, "untouched c", (int)i, 0);
    }
    for (size_t i = 0; i < b->raw_size; i++) {
        expect(p, b->raw[i], POISON, "untouched raw", (int)i, 0);
    }
}

static void run_problem(const problem *p)
{
    buffers b;
    const int before = failures;
    make_buffers(p, &b);
    run(p, &b);
    check(p, &b);
    if (failures != before) {
        printf("FAILED (%d elements): ", failures - before);
        describe(p);
    }
    free(b.a);
    free(b.a_value);
    free(b.b_value);
    free(b.b);
    free(b.c);
    free(b.raw);
    free(b.weight);
    free(b.gather);
    free(b.target);
}

/* Row counts, columns and depths around every edge of a tile. */
static void random_problem(problem *p, const epf_gemm_sm90_variant *variant, int num_sms)
{
    static const int edges[] = {0,   1,   7,   8,   9,   15,  16,  17,  48,  63,
                                64,  65,  100, 127, 128, 129, 191, 192, 193, 255,
                                256, 257, 265, 303, 304, 305, 320, 512};
    static const int widths[] = {8, 16, 56, 64, 72, 128, 136, 248, 256, 264, 384, 512, 520};
    static const int depths[] = {8, 16, 56, 64, 72, 128, 136, 200, 256, 328, 448};
    memset(p, 0, sizeof *p);
    p->variant = *variant;
    p->g = 1 + random_below(6);
    p->n = widths[random_below(13)];
    p->k = depths[random_below(11)];
    p->m = is_grad(p) ? widths[random_below(13)] : 0;
    p->c_f32 = is_grad(p) && random_below(2);
    p->m_gap = is_grad(p) && random_below(2) ? 1 + random_below(20) : 0;
    p->gap = random_below(3) ? 0 : random_below(4);
    p->queue = random_below(2);
    p->short_last = random_below(2);
    p->sm_margin = random_below(2) ? num_sms - 2 - 2 * random_below(3) : 0;
    p->row_ptr = variant->epilogue == EPF_GEMM_TO_ROW_PTR;
    p->raw = variant->epilogue == EPF_GEMM_TO_SWIGLU_RAW;
    p->swiglu = variant->epilogue == EPF_GEMM_TO_SWIGLU || p->raw;
    p->n = p->swiglu ? (p->n + 15) / 16 * 16 : p->n;
    p->weight = p->swiglu && random_below(2);
    for (int g = 0; g < p->g; g++) {
        p->rows[g] = random_below(3) ? edges[random_below((int)(sizeof edges / sizeof edges[0]))]
                                     : random_below(330);
    }
}

int main(int argc, char **argv)
{
    const int rounds = argc > 1 ? atoi(argv[1]) : 12;
    int num_variants = 0;
    int num_devices = 0;
    const epf_gemm_sm90_variant *variants = epf_gemm_sm90_variants(&num_variants);
    struct cudaDeviceProp device;

    if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0 ||
        cudaGetDeviceProperties(&device, 0) != cudaSuccess || device.major != 9) {
        printf("skipped: no device of compute capability 9.0\n");
        return 77;
    }
    random_state = argc > 2 ? (uint64_t)atoll(argv[2]) : 1;
    for (int v = 0; v < num_variants; v++) {
        const int before = failures;
        for (int i = 0; i < rounds; i++) {
            problem p;
            random_problem(&p, &variants[v], device.multiProcessorCount);
            run_problem(&p);
        }
        printf("variant %d (dtype %d, %s x %d, cluster %d x %d, A %d, B %d, to %d): %d problems, "
               "%d wrong\n",
               v, variants[v].dtype, variants[v].swapped ? "swapped" : "128", variants[v].block_n,
               variants[v].cluster_m, variants[v].cluster_n, variants[v].a_source,
               variants[v].b_n_major, variants[v].epilogue, rounds, failures - before);
    }
    return failures != 0;
}
