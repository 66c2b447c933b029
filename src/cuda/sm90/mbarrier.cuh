/*
 * mbarrier.cuh: shared-memory barriers with transaction counts, one wrapper per instruction.
 * PTX ISA, section "Parallel Synchronization and Communication Instructions: mbarrier".
 */
#ifndef EPF_SM90_MBARRIER_CUH
#define EPF_SM90_MBARRIER_CUH

#include <stdint.h>

static __device__ __forceinline__ uint32_t smem_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

static __device__ __forceinline__ void mbarrier_init(uint64_t *bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(bar)), "r"(arrivals));
}

/* Makes initialized barriers visible to the cluster and to the copy engine. */
static __device__ __forceinline__ void fence_mbarrier_init(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void mbarrier_arrive(uint64_t *bar, uint32_t count)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(bar)), "r"(count)
                 : "memory");
}

static __device__ __forceinline__ void mbarrier_arrive_expect_tx(uint64_t *bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(bar)),
                 "r"(bytes)
                 : "memory");
}

/*
 * Arrives on the barrier at the same offset in CTA `cta` of the cluster; what the warp did before is ordered for the
 * threads of its own CTA.  Why no more: a release of cluster scope is a fence of the whole GPU, hundreds of cycles;
 * who frees a stage has nothing to show to another CTA but that its reads are over.
 */
static __device__ __forceinline__ void mbarrier_arrive_cluster(uint64_t *bar, uint32_t cta)
{
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.release.cta.shared::cluster.b64 _, [remote];\n"
                 "}" ::"r"(smem_address(bar)),
                 "r"(cta)
                 : "memory");
}

/* Writes a word of CTA `cta` of the cluster and counts its 4 bytes on that CTA's barrier. */
static __device__ __forceinline__ void store_async_cluster(uint32_t *to, uint32_t value, uint64_t *bar,
                                                           uint32_t cta)
{
    asm volatile("{\n"
                 ".reg .b32 remote_to, remote_bar;\n"
                 "mapa.shared::cluster.u32 remote_to, %0, %3;\n"
                 "mapa.shared::cluster.u32 remote_bar, %2, %3;\n"
                 "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [remote_to], %1, "
                 "[remote_bar];\n"
                 "}" ::"r"(smem_address(to)),
                 "r"(value), "r"(smem_address(bar)), "r"(cta)
                 : "memory");
}

static __device__ __forceinline__ bool mbarrier_try_wait(uint64_t *bar, uint32_t parity)
{
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.b32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(done)
                 : "r"(smem_address(bar)), "r"(parity)
                 : "memory");
    return done != 0;
}

/* Whether the phase of parity `parity` has completed; does not wait. */
static __device__ __forceinline__ bool mbarrier_test(uint64_t *bar, uint32_t parity)
{
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.b32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(done)
                 : "r"(smem_address(bar)), "r"(parity)
                 : "memory");
    return done != 0;
}

/* Returns once the phase of parity `parity` has completed. */
static __device__ __forceinline__ void mbarrier_wait(uint64_t *bar, uint32_t parity)
{
    while (!mbarrier_try_wait(bar, parity)) {
    }
}

static __device__ __forceinline__ uint32_t cluster_cta_rank(void)
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* Returns at once; cluster_wait() when every thread of the cluster has come, and sees what they did before. */
static __device__ __forceinline__ void cluster_arrive(void)
{
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}

static __device__ __forceinline__ void cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

static __device__ __forceinline__ void cluster_sync(void)
{
    cluster_arrive();
    cluster_wait();
}

/* Ordinary shared-memory stores before it are seen by wgmma and the copy engine after it. */
static __device__ __forceinline__ void fence_proxy_async_shared(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* A barrier of `threads` threads of the CTA; id 0 is __syncthreads(). */
static __device__ __forceinline__ void named_barrier_sync(uint32_t id, uint32_t threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#endif
