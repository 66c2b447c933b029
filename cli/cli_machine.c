/* cli_machine.c: how fast this machine multiplies and copies, measured for a moment. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_clock.h"
#include "base/epf_error.h"
#include "cli_cost.h"
#include "core/epf_dtype.h"
#include "cpu/gemm/epf_gemm.h"

enum {
    TILE_M = 64,
    TILE_N = 256,
    TILE_K = 1024,
    MIN_COPY_BYTES = 64 << 10, /* per thread, each of two */
    MAX_COPY_BYTES = 16 << 20,
    NUM_WINDOWS = 3,
    MAX_THREADS = 1024
};
#define WINDOW_NS ((uint64_t)12000000u)

/* One thread's work until told otherwise. */
typedef struct meter {
    pthread_t thread;
    const epf_gemm_weight *weight;
    const void *a;
    size_t copy_bytes;
    double flop_per_s, copy_bytes_per_s; /* best window */
    epf_status status;
} meter;

int32_t cli_num_cpus(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
}

void cli_device_name(char *text, size_t size)
{
    FILE *const f = fopen("/proc/cpuinfo", "re");
    char line[256];
    (void)snprintf(text, size, "unknown CPU");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *const colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            (void)snprintf(text, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
}

static epf_status multiply(meter *m, epf_gemm_scratch *scratch, float *c)
{
    const epf_gemm_tile_args args = {.m = TILE_M, .a = m->a, .lda = TILE_K, .c = c, .ldc = TILE_N};

    EPF_TRY(epf_gemm_tile(m->weight, &args, scratch)); /* warm */
    for (int i = 0; i < NUM_WINDOWS; i++) {
        const uint64_t begin_ns = epf_now_ns();
        uint64_t now_ns = begin_ns;
        double flop = 0;
        while (now_ns - begin_ns < WINDOW_NS) {
            EPF_TRY(epf_gemm_tile(m->weight, &args, scratch));
            flop += 2.0 * TILE_M * TILE_N * TILE_K;
            now_ns = epf_now_ns();
        }
        flop /= 1e-9 * (double)(now_ns - begin_ns);
        m->flop_per_s = flop > m->flop_per_s ? flop : m->flop_per_s;
    }
    return EPF_OK;
}

static void copy(meter *m, uint8_t *to, uint8_t *from)
{
    memset(from, 1, m->copy_bytes);
    memset(to, 0, m->copy_bytes);
    for (int i = 0; i < NUM_WINDOWS; i++) {
        const uint64_t begin_ns = epf_now_ns();
        uint64_t now_ns = begin_ns;
        double bytes = 0;
        while (now_ns - begin_ns < WINDOW_NS) {
            memcpy(to, from, m->copy_bytes);
            from[i] = to[m->copy_bytes - 1 - (size_t)i]; /* the copy is used */
            bytes += 2.0 * (double)m->copy_bytes;
            now_ns = epf_now_ns();
        }
        bytes /= 1e-9 * (double)(now_ns - begin_ns);
        m->copy_bytes_per_s = bytes > m->copy_bytes_per_s ? bytes : m->copy_bytes_per_s;
    }
}

static void *meter_main(void *argument)
{
    meter *m = argument;
    epf_gemm_scratch *scratch = NULL;
    float *c = epf_alloc((size_t)TILE_M * TILE_N, sizeof *c);
    uint8_t *to = epf_alloc_aligned(m->copy_bytes, 1, 4096);
    uint8_t *from = epf_alloc_aligned(m->copy_bytes, 1, 4096);

    m->status = c != NULL && to != NULL && from != NULL ? epf_gemm_scratch_create(&scratch)
                                                        : EPF_E_NO_MEMORY;
    if (m->status == EPF_OK) {
        m->status = multiply(m, scratch, c);
    }
    if (m->status == EPF_OK) {
        copy(m, to, from);
    }
    epf_gemm_scratch_destroy(scratch);
    epf_free(c);
    epf_free(to);
    epf_free(from);
    return NULL;
}

static epf_status run_meters(meter *meters, int32_t count, cli_rates *rates)
{
    int32_t started = 0;
    epf_status st = EPF_OK;

    while (started < count &&
           pthread_create(&meters[started].thread, NULL, meter_main, &meters[started]) == 0) {
        started++;
    }
    for (int32_t i = 0; i < started; i++) {
        (void)pthread_join(meters[i].thread, NULL);
        st = meters[i].status != EPF_OK ? meters[i].status : st;
        rates->flop_per_s += meters[i].flop_per_s;
        rates->memory_bytes_per_s += meters[i].copy_bytes_per_s;
    }
    if (started == 0 || st != EPF_OK) {
        return EPF_FAIL(st == EPF_OK ? EPF_E_DEVICE : st, "measuring the machine failed");
    }
    return EPF_OK;
}

static size_t copy_size(double touched_bytes, int32_t num_threads)
{
    const double each = touched_bytes / 2 / num_threads;
    return touched_bytes <= 0 || each > MAX_COPY_BYTES ? (size_t)MAX_COPY_BYTES
           : each < MIN_COPY_BYTES                     ? (size_t)MIN_COPY_BYTES
                                                       : (size_t)each;
}

epf_status cli_rates_measure(int32_t dtype, int32_t num_threads, double touched_bytes,
                             cli_rates *rates)
{
    const size_t width = (size_t)epf_dtype_bytes(dtype);
    const int32_t count = num_threads < 1             ? 1
                          : num_threads > MAX_THREADS ? MAX_THREADS
                                                      : num_threads;
    meter *const meters = epf_alloc((size_t)count, sizeof *meters);
    void *const data = epf_alloc((size_t)TILE_N * TILE_K, width);
    epf_gemm_weight *weight = NULL;
    const epf_gemm_weight_desc desc = {.dtype = (epf_dtype)dtype,
                                       .num_experts = 1,
                                       .n = TILE_N,
                                       .k = TILE_K,
                                       .reduce_last_dim = true,
                                       .data = data};
    epf_status st;

    memset(rates, 0, sizeof *rates);
    rates->name = "this machine, measured";
    if (meters == NULL || data == NULL) {
        st = EPF_FAIL(EPF_E_NO_MEMORY, "measuring the machine: %d threads", count);
        goto out;
    }
    memset(data, 0x3c, (size_t)TILE_N * TILE_K * width); /* some number, not 0, in every type */
    EPF_TRY_GOTO(epf_gemm_weight_create(&desc, &weight), out);
    for (int32_t i = 0; i < count; i++) {
        meters[i].weight = weight;
        meters[i].copy_bytes = copy_size(touched_bytes, count);
        meters[i].a = data; /* its first 64 rows serve as A */
    }
    st = run_meters(meters, count, rates);
out:
    epf_gemm_weight_destroy(weight);
    epf_free(meters);
    epf_free(data);
    return st;
}
