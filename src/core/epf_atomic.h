/*
 * epf_atomic.h: atomic accesses whose names say order, scope and width.
 *
 * The only way to touch a word that another worker, rank or device touches at the same time; a
 * search for epf_load_acquire and epf_store_release is the index of the protocol.  Words are plain
 * uint32_t or uint64_t, naturally aligned, so that they can live in a window.
 *
 *   epf_<operation>_<order>[_<scope>]_<width>
 *   operation   load, store; add, or, cas return the old value
 *   order       relaxed, acquire, release, acq_rel
 *   scope       gpu: seen by threads of one device;  sys: by every device and the host;  none: sys.
 *               Host code treats all the same.
 *
 * Under nvcc each function serves host and device: the device body is the PTX instruction of that
 * name (PTX ISA, "Memory Consistency Model"), the host body a compiler builtin.
 */
#ifndef EPF_ATOMIC_H
#define EPF_ATOMIC_H

#include "core/epf_base.h"

#if defined(__CUDA_ARCH__)

#define EPF_ATOMIC_LOAD(name, ptx_order, host_order, width, letter) \
    EPF_HD uint##width##_t name(const uint##width##_t *word)        \
    {                                                               \
        uint##width##_t value;                                      \
        asm volatile("ld." ptx_order ".u" #width " %0, [%1];"       \
                     : "=" letter(value)                            \
                     : "l"(word)                                    \
                     : "memory");                                   \
        return value;                                               \
    }
#define EPF_ATOMIC_STORE(name, ptx_order, host_order, width, letter)                     \
    EPF_HD void name(uint##width##_t *word, uint##width##_t value)                       \
    {                                                                                    \
        asm volatile("st." ptx_order ".u" #width " [%0], %1;" ::"l"(word), letter(value) \
                     : "memory");                                                        \
    }
#define EPF_ATOMIC_UPDATE(name, operation, ptx_type, host_function, ptx_order, host_order, width, \
                          letter)                                                                 \
    EPF_HD uint##width##_t name(uint##width##_t *word, uint##width##_t value)                     \
    {                                                                                             \
        uint##width##_t old;                                                                      \
        asm volatile("atom." operation "." ptx_order "." ptx_type #width " %0, [%1], %2;"         \
                     : "=" letter(old)                                                            \
                     : "l"(word), letter(value)                                                   \
                     : "memory");                                                                 \
        return old;                                                                               \
    }
#define EPF_ATOMIC_CAS(name, ptx_order, host_order, width, letter)               \
    EPF_HD uint##width##_t name(uint##width##_t *word, uint##width##_t expected, \
                                uint##width##_t wanted)                          \
    {                                                                            \
        uint##width##_t old;                                                     \
        asm volatile("atom.cas." ptx_order ".b" #width " %0, [%1], %2, %3;"      \
                     : "=" letter(old)                                           \
                     : "l"(word), letter(expected), letter(wanted)               \
                     : "memory");                                                \
        return old;                                                              \
    }

#else

/* The host's accesses; the simulator, which decides what each one sees, brings its own (tests/sim). */
#if !defined(EPFUSE_SIM)
#define EPF_HOST_LOAD(word, order) __atomic_load_n(word, order)
#define EPF_HOST_STORE(word, value, order) __atomic_store_n(word, value, order)
#define EPF_HOST_UPDATE(function, word, value, order) function(word, value, order)
#define EPF_HOST_CAS(word, expected, wanted, order) \
    __atomic_compare_exchange_n(word, expected, wanted, 0, order, __ATOMIC_ACQUIRE)
#endif

#define EPF_ATOMIC_LOAD(name, ptx_order, host_order, width, letter) \
    EPF_HD uint##width##_t name(const uint##width##_t *word)        \
    {                                                               \
        return EPF_HOST_LOAD(word, host_order);                     \
    }
#define EPF_ATOMIC_STORE(name, ptx_order, host_order, width, letter) \
    EPF_HD void name(uint##width##_t *word, uint##width##_t value)   \
    {                                                                \
        EPF_HOST_STORE(word, value, host_order);                     \
    }
#define EPF_ATOMIC_UPDATE(name, operation, ptx_type, host_function, ptx_order, host_order, width, \
                          letter)                                                                 \
    EPF_HD uint##width##_t name(uint##width##_t *word, uint##width##_t value)                     \
    {                                                                                             \
        return EPF_HOST_UPDATE(host_function, word, value, host_order);                           \
    }
#define EPF_ATOMIC_CAS(name, ptx_order, host_order, width, letter)               \
    EPF_HD uint##width##_t name(uint##width##_t *word, uint##width##_t expected, \
                                uint##width##_t wanted)                          \
    {                                                                            \
        (void)EPF_HOST_CAS(word, &expected, wanted, host_order);                 \
        return expected;                                                         \
    }

#endif

/* Every operation of one scope ("" for none, _gpu, _sys) and width. */
#define EPF_ATOMIC_ALL(scope, ptx, width, letter)                                                  \
    EPF_ATOMIC_LOAD(epf_load_relaxed##scope##_u##width, "relaxed." ptx, __ATOMIC_RELAXED, width,   \
                    letter)                                                                        \
    EPF_ATOMIC_LOAD(epf_load_acquire##scope##_u##width, "acquire." ptx, __ATOMIC_ACQUIRE, width,   \
                    letter)                                                                        \
    EPF_ATOMIC_STORE(epf_store_relaxed##scope##_u##width, "relaxed." ptx, __ATOMIC_RELAXED, width, \
                     letter)                                                                       \
    EPF_ATOMIC_STORE(epf_store_release##scope##_u##width, "release." ptx, __ATOMIC_RELEASE, width, \
                     letter)                                                                       \
    EPF_ATOMIC_UPDATE(epf_add_relaxed##scope##_u##width, "add", "u", __atomic_fetch_add,           \
                      "relaxed." ptx, __ATOMIC_RELAXED, width, letter)                             \
    EPF_ATOMIC_UPDATE(epf_add_release##scope##_u##width, "add", "u", __atomic_fetch_add,           \
                      "release." ptx, __ATOMIC_RELEASE, width, letter)                             \
    EPF_ATOMIC_UPDATE(epf_add_acq_rel##scope##_u##width, "add", "u", __atomic_fetch_add,           \
                      "acq_rel." ptx, __ATOMIC_ACQ_REL, width, letter)                             \
    EPF_ATOMIC_UPDATE(epf_or_acq_rel##scope##_u##width, "or", "b", __atomic_fetch_or,              \
                      "acq_rel." ptx, __ATOMIC_ACQ_REL, width, letter)                             \
    EPF_ATOMIC_CAS(epf_cas_acq_rel##scope##_u##width, "acq_rel." ptx, __ATOMIC_ACQ_REL, width,     \
                   letter)

EPF_ATOMIC_ALL(, "sys", 32, "r")
EPF_ATOMIC_ALL(, "sys", 64, "l")
EPF_ATOMIC_ALL(_sys, "sys", 32, "r")
EPF_ATOMIC_ALL(_sys, "sys", 64, "l")
EPF_ATOMIC_ALL(_gpu, "gpu", 32, "r")
EPF_ATOMIC_ALL(_gpu, "gpu", 64, "l")

#endif
