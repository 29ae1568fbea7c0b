/* The primitives for x86-64-v3: AVX2 and FMA. */
#include "tile_target.h"

#if HAS_X86_TARGETS
TARGET_BEGIN("avx2,fma")

#define LANES_float 8
#define LANES_double 4
#define TILE_ROWS 4

#define FIRST_float(n) _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#define FIRST_double(n) _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3))
#define LOAD_PART_float(p, n) _mm256_maskload_ps(p, FIRST_float(n))
#define LOAD_PART_double(p, n) _mm256_maskload_pd(p, FIRST_double(n))
#define STORE_PART_float(p, n, x) _mm256_maskstore_ps(p, FIRST_float(n), x)
#define STORE_PART_double(p, n, x) _mm256_maskstore_pd(p, FIRST_double(n), x)
#define ANY_LANE(x) (!_mm256_testz_si256((__m256i)(x), (__m256i)(x)))
#define ROOT_float(x) _mm256_sqrt_ps(x)
#define ROOT_double(x) _mm256_sqrt_pd(x)
#define LARGER_float(y, x) _mm256_max_ps(y, x)
#define LARGER_double(y, x) _mm256_max_pd(y, x)
#define SMALLER_float(y, x) _mm256_min_ps(y, x)
#define SMALLER_double(y, x) _mm256_min_pd(y, x)

#define WIDE_PRODUCT(a, b) ((wide)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#include "tile_philox.h"

#define REAL float
#include "tile.h"
#undef REAL
#define REAL double
#include "tile.h"

static const InstructionSet v3 = {"v3", &table_float, &table_double};
const InstructionSet *const tile_v3 = &v3;

TARGET_END
#else
const InstructionSet *const tile_v3 = NULL;
#endif
