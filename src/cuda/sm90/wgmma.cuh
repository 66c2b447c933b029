/*
 * wgmma.cuh: warpgroup matrix multiply, m64 x kN x k16, fp32 accumulators, operands in shared memory.
 * PTX ISA, section "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".
 *
 * Accumulators   thread t of the warpgroup holds, for each 8 columns j: d[4j], d[4j + 1] of row
 *                16 * (t / 32) + (t % 32) / 4 at columns 8j + 2 * (t % 4) + {0, 1}, and d[4j + 2],
 *                d[4j + 3] of the row eight further down.
 */
#ifndef EPF_SM90_WGMMA_CUH
#define EPF_SM90_WGMMA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

static __device__ __forceinline__ void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kPending> static __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

static __device__ __forceinline__ void setmaxnreg_inc_224(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
}

static __device__ __forceinline__ void setmaxnreg_dec_56(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
}

static __device__ __forceinline__ void setmaxnreg_inc_232(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
}

static __device__ __forceinline__ void setmaxnreg_dec_40(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
}

/*
 * Descriptor of an operand in the 128-byte swizzle.  Rows of 128 bytes come in groups of eight, 1024
 * bytes from group to group.  `leading_bytes` is the distance of two 64-element blocks along M or N and
 * matters only where that dimension is the contiguous one.
 */
static __device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t smem, uint32_t leading_bytes)
{
    const uint64_t swizzle_128 = (uint64_t)1 << 62;
    const uint64_t group_stride = (uint64_t)(1024 >> 4) << 32;
    const uint64_t leading = (uint64_t)(leading_bytes >> 4) << 16;
    return swizzle_128 | group_stride | leading | ((smem & 0x3FFFF) >> 4);
}

/* clang-format off */
#define EPF_E8(t)  "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7"
#define EPF_E10(t) EPF_E8(t) ",%" #t "8,%" #t "9"
#define EPF_S10(t) EPF_E10(t) ","
#define EPF_S20 EPF_S10() EPF_S10(1)
#define EPF_S40 EPF_S20 EPF_S10(2) EPF_S10(3)
#define EPF_S60 EPF_S40 EPF_S10(4) EPF_S10(5)
#define EPF_S120 EPF_S60 EPF_S10(6) EPF_S10(7) EPF_S10(8) EPF_S10(9) EPF_S10(10) EPF_S10(11)
#define EPF_F8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
                     "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define EPF_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define EPF_F16(d, i) EPF_F8(d, i), EPF_F8(d, i + 8)
#define EPF_F32(d, i) EPF_F16(d, i), EPF_F16(d, i + 16)
#define EPF_F64(d, i) EPF_F32(d, i), EPF_F32(d, i + 32)
/* clang-format on */

#define EPF_WGMMA(n, type, list, a, b, p, ta, tb)                                            \
    "{\n"                                                                                    \
    ".reg .pred accumulate;\n"                                                               \
    "setp.ne.b32 accumulate, " p ", 0;\n"                                                    \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" list "}, " a ", " b  \
    ", accumulate, 1, 1, " ta ", " tb ";\n"                                                  \
    "}"

/* One width's instruction: `list` names its accumulators, the numbers are those of the operands after them. */
#define EPF_WGMMA_WIDTH(n, list, a_at, b_at, p_at, ta_at, tb_at, ...)                        \
    if constexpr (kN == n && kBf16) {                                                        \
        asm volatile(EPF_WGMMA(#n, "bf16", list, a_at, b_at, p_at, ta_at, tb_at)             \
                     : __VA_ARGS__                                                           \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(kMajorA), "n"(kMajorB));         \
    } else if constexpr (kN == n) {                                                          \
        asm volatile(EPF_WGMMA(#n, "f16", list, a_at, b_at, p_at, ta_at, tb_at)              \
                     : __VA_ARGS__                                                           \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(kMajorA), "n"(kMajorB));         \
    }

/*
 * d = a * b + (accumulate ? d : 0).  kMajorA, kMajorB: 0 where K is the operand's contiguous dimension,
 * 1 where M or N is.
 */
template <typename T, int kN, int kMajorA, int kMajorB>
static __device__ __forceinline__ void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, int accumulate)
{
    constexpr bool kBf16 = sizeof(T) == 2 && __is_same(T, __nv_bfloat16);
    static_assert(kN == 256 || (kN >= 16 && kN <= 152 && kN % (kN > 128 ? 8 : 16) == 0),
                  "widths this function spells out");
    /* clang-format off */
    EPF_WGMMA_WIDTH(16, EPF_E8(), "%8", "%9", "%10", "%11", "%12", EPF_F8(d, 0))
    EPF_WGMMA_WIDTH(32, EPF_S10() "%10,%11,%12,%13,%14,%15",
                    "%16", "%17", "%18", "%19", "%20", EPF_F16(d, 0))
    EPF_WGMMA_WIDTH(48, EPF_S20 "%20,%21,%22,%23",
                    "%24", "%25", "%26", "%27", "%28", EPF_F16(d, 0), EPF_F8(d, 16))
    EPF_WGMMA_WIDTH(64, EPF_S20 EPF_S10(2) "%30,%31",
                    "%32", "%33", "%34", "%35", "%36", EPF_F32(d, 0))
    EPF_WGMMA_WIDTH(80, EPF_S20 EPF_S10(2) EPF_E10(3),
                    "%40", "%41", "%42", "%43", "%44", EPF_F32(d, 0), EPF_F8(d, 32))
    EPF_WGMMA_WIDTH(96, EPF_S40 EPF_E8(4),
                    "%48", "%49", "%50", "%51", "%52", EPF_F32(d, 0), EPF_F16(d, 32))
    EPF_WGMMA_WIDTH(112, EPF_S40 EPF_S10(4) "%50,%51,%52,%53,%54,%55",
                    "%56", "%57", "%58", "%59", "%60", EPF_F32(d, 0), EPF_F16(d, 32), EPF_F8(d, 48))
    EPF_WGMMA_WIDTH(128, EPF_S60 "%60,%61,%62,%63",
                    "%64", "%65", "%66", "%67", "%68", EPF_F64(d, 0))
    EPF_WGMMA_WIDTH(136, EPF_S60 EPF_E8(6),
                    "%68", "%69", "%70", "%71", "%72", EPF_F64(d, 0), EPF_F4(d, 64))
    EPF_WGMMA_WIDTH(144, EPF_S60 EPF_S10(6) "%70,%71",
                    "%72", "%73", "%74", "%75", "%76", EPF_F64(d, 0), EPF_F8(d, 64))
    EPF_WGMMA_WIDTH(152, EPF_S60 EPF_S10(6) "%70,%71,%72,%73,%74,%75",
                    "%76", "%77", "%78", "%79", "%80", EPF_F64(d, 0), EPF_F8(d, 64), EPF_F4(d, 72))
    EPF_WGMMA_WIDTH(256, EPF_S120 EPF_E8(12),
                    "%128", "%129", "%130", "%131", "%132", EPF_F64(d, 0), EPF_F64(d, 64))
    /* clang-format on */
}

static __device__ __forceinline__ void load_shared_16(uint4 &to, uint32_t from)
{
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "r"(from)
                 : "memory");
}

/* Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void stmatrix_x4(uint32_t to, uint32_t r0, uint32_t r1, uint32_t r2,
                                                   uint32_t r3)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(r0),
                 "r"(r1), "r"(r2), "r"(r3)
                 : "memory");
}

/* The same, each matrix transposed: lane l gives the address of column l % 8 of matrix l / 8. */
static __device__ __forceinline__ void stmatrix_x4_trans(uint32_t to, const uint32_t (&r)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

#endif
