/* vector_avx2.c: AVX2, FMA and F16C. */
#define VECTOR_OPS epf_vector_avx2
#define VECTOR_NAME "avx2"
#define LANES 8
#define ROWS 6
#include "cpu/gemm/vector_body.h"
