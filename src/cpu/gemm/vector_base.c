/* vector_base.c: 16-byte vectors, which x86-64 and 64-bit Arm always have (elsewhere the compiler
 * makes them from scalars). */
#define VECTOR_OPS epf_vector_base
#if defined(__aarch64__)
#define VECTOR_NAME "neon"
#define ROWS 12
#else
#define VECTOR_NAME "base"
#define ROWS 6
#endif
#define LANES 4
#include "cpu/gemm/vector_body.h"
