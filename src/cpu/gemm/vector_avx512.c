/* vector_avx512.c: AVX-512 F, BW, VL. */
#define VECTOR_OPS epf_vector_avx512
#define VECTOR_NAME "avx512"
#define LANES 16
#define ROWS 12
#include "cpu/gemm/vector_body.h"
