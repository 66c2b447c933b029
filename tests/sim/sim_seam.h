/*
 * sim_seam.h: what the library's sources call while they are simulated.
 *
 * Compiled with -DEPFUSE_SIM and this header before everything else, the sources that run the protocol
 * reach counters, windows, threads, time and memory through the simulator.  Nothing else of them
 * changes.
 */
#ifndef SIM_SEAM_H
#define SIM_SEAM_H

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "cpu/gemm/epf_convert.h"
#include "cpu/gemm/epf_gemm.h"

uint64_t sim_load(const void *word, size_t bytes, int order);
void sim_store_word(void *word, size_t bytes, uint64_t value, int order);
uint64_t sim_update(const char *function, void *word, size_t bytes, uint64_t value, int order);
uint64_t sim_cas(void *word, size_t bytes, uint64_t expected, uint64_t wanted, int order);

void *sim_memcpy(void *to, const void *from, size_t bytes);
void sim_convert_from_f32(void *to, const float *from, epf_dtype dtype, int64_t count);
void sim_sum_rows(void *to, const void *const *rows, const float *factors, int32_t num_rows,
                  epf_dtype dtype, int64_t count);
epf_status sim_gemm_tile(const epf_gemm_weight *weight, const epf_gemm_tile_args *args,
                         epf_gemm_scratch *scratch);

int sim_clock_gettime(clockid_t clock, struct timespec *time);
int sim_nanosleep(const struct timespec *duration, struct timespec *left);
int sim_yield(void);
void sim_pause(void);

void *sim_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset);
int sim_munmap(void *memory, size_t bytes);
int sim_madvise(void *memory, size_t bytes, int advice);

int sim_thread_create(pthread_t *thread, const void *attributes, void *(*function)(void *),
                      void *argument);
int sim_thread_join(pthread_t thread, void **result);
int sim_mutex_init(pthread_mutex_t *mutex, const void *attributes);
int sim_mutex_destroy(pthread_mutex_t *mutex);
int sim_mutex_lock(pthread_mutex_t *mutex);
int sim_mutex_unlock(pthread_mutex_t *mutex);
int sim_cond_init(pthread_cond_t *cond, const void *attributes);
int sim_cond_destroy(pthread_cond_t *cond);
int sim_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int sim_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until);
int sim_cond_signal(pthread_cond_t *cond);
int sim_cond_broadcast(pthread_cond_t *cond);

/* The twin that runs, by its place in twins.cmake; 0: none. */
extern int32_t sim_twin;

static inline bool sim_is_twin(int32_t number)
{
    return sim_twin == number;
}

#if defined(EPFUSE_SIM)

#define EPF_HOST_LOAD(word, order) ((__typeof__(*(word) + 0))sim_load(word, sizeof *(word), order))
#define EPF_HOST_STORE(word, value, order) sim_store_word(word, sizeof *(word), value, order)
#define EPF_HOST_UPDATE(function, word, value, order) \
    ((__typeof__(*(word) + 0))sim_update(#function, word, sizeof *(word), value, order))
#define EPF_HOST_CAS(word, expected, wanted, order) \
    (*(expected) =                                  \
         (__typeof__(*(word) + 0))sim_cas(word, sizeof *(word), *(expected), wanted, order))

#define memcpy sim_memcpy
#define epf_convert_from_f32 sim_convert_from_f32
#define epf_sum_rows sim_sum_rows
#define epf_gemm_tile sim_gemm_tile

#define clock_gettime sim_clock_gettime
#define nanosleep sim_nanosleep
#define sched_yield sim_yield
#define __builtin_ia32_pause sim_pause

#define mmap sim_mmap
#define munmap sim_munmap
#define madvise sim_madvise

#define pthread_create sim_thread_create
#define pthread_join sim_thread_join
#define pthread_mutex_init sim_mutex_init
#define pthread_mutex_destroy sim_mutex_destroy
#define pthread_mutex_lock sim_mutex_lock
#define pthread_mutex_unlock sim_mutex_unlock
#define pthread_cond_init sim_cond_init
#define pthread_cond_destroy sim_cond_destroy
#define pthread_cond_wait sim_cond_wait
#define pthread_cond_timedwait sim_cond_timedwait
#define pthread_cond_signal sim_cond_signal
#define pthread_cond_broadcast sim_cond_broadcast

#endif
#endif
