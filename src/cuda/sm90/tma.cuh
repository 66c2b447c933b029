/*
 * tma.cuh: tensor copies from global to shared memory and cp.async, one wrapper per instruction.
 * PTX ISA, section "Data Movement and Conversion Instructions: cp.async.bulk.tensor, cp.async".
 */
#ifndef EPF_SM90_TMA_CUH
#define EPF_SM90_TMA_CUH

#include <cuda.h>
#include <stdint.h>

#include "cuda/sm90/mbarrier.cuh"

/* L2 eviction policies, as createpolicy.fractional.L2 makes them for the whole of an access. */
static constexpr uint64_t kEvictNormal = 0x1000000000000000;
static constexpr uint64_t kEvictFirst = 0x12F0000000000000;
static constexpr uint64_t kEvictLast = 0x14F0000000000000;

static __device__ __forceinline__ void tma_prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

static __device__ __forceinline__ void tma_load_2d(uint32_t to, const CUtensorMap *map, uint64_t *bar,
                                                   int2 at, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
                 "l"(map), "r"(smem_address(bar)), "r"(at.x), "r"(at.y), "l"(policy)
                 : "memory");
}

/* The same offset in every CTA of `mask` receives the data and its barrier the bytes. */
static __device__ __forceinline__ void tma_load_2d_multicast(uint32_t to, const CUtensorMap *map,
                                                             uint64_t *bar, int2 at, uint16_t mask,
                                                             uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(to),
                 "l"(map), "r"(smem_address(bar)), "r"(at.x), "r"(at.y), "h"(mask), "l"(policy)
                 : "memory");
}

static __device__ __forceinline__ void tma_load_3d(uint32_t to, const CUtensorMap *map, uint64_t *bar,
                                                   int3 at, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
                 "l"(map), "r"(smem_address(bar)), "r"(at.x), "r"(at.y), "r"(at.z), "l"(policy)
                 : "memory");
}

static __device__ __forceinline__ void tma_load_3d_multicast(uint32_t to, const CUtensorMap *map,
                                                             uint64_t *bar, int3 at, uint16_t mask,
                                                             uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6, %7;" ::"r"(to),
                 "l"(map), "r"(smem_address(bar)), "r"(at.x), "r"(at.y), "r"(at.z), "h"(mask), "l"(policy)
                 : "memory");
}

/* Stores a box from shared memory; what of it lies outside the tensor is left out. */
static __device__ __forceinline__ void tma_store_2d(const CUtensorMap *map, uint32_t from, int2 at)
{
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(from), "r"(at.x), "r"(at.y)
                 : "memory");
}

static __device__ __forceinline__ void bulk_commit(void)
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Returns once the calling thread's stores have read their shared memory. */
static __device__ __forceinline__ void bulk_wait_read(void)
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* Waits until this thread's bulk stores are complete, not only read. */
static __device__ __forceinline__ void bulk_wait_all(void)
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* Copies shared memory of this CTA to the same offset in CTA `cta` of the cluster and counts the bytes on its barrier. */
static __device__ __forceinline__ void bulk_copy_cluster(uint32_t place, uint32_t bytes,
                                                         uint64_t *bar, uint32_t cta)
{
    asm volatile(
        "{\n"
        ".reg .b32 remote_to, remote_bar;\n"
        "mapa.shared::cluster.u32 remote_to, %0, %3;\n"
        "mapa.shared::cluster.u32 remote_bar, %2, %3;\n"
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [remote_to], "
        "[%0], %1, [remote_bar];\n"
        "}" ::"r"(place),
        "r"(bytes), "r"(smem_address(bar)), "r"(cta)
        : "memory");
}

/* Loads a word for the sake of its cache line; nobody waits for it. */
static __device__ __forceinline__ void touch_global(const void *from)
{
    uint32_t ignored;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(ignored) : "l"(from));
}

/* Copies 16 bytes, or writes 16 zero bytes where `valid` is false. */
static __device__ __forceinline__ void cp_async_16(uint32_t to, const void *from, bool valid,
                                                   uint64_t policy)
{
    const uint32_t bytes = valid ? 16 : 0;
    asm volatile(
        "cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(to),
        "l"(from), "r"(bytes), "l"(policy)
        : "memory");
}

/* Arrives on the barrier, which counts on it, once this thread's copies so far are complete. */
static __device__ __forceinline__ void cp_async_arrive(uint64_t *bar)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(smem_address(bar))
                 : "memory");
}

#endif
