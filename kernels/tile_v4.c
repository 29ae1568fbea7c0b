/* The primitives for x86-64-v4: AVX-512. */
#include "tile_target.h"

#if HAS_X86_TARGETS
TARGET_BEGIN("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")

#define LANES_float 16
#define LANES_double 8
#define TILE_ROWS 8

#define FIRST(n) ((1u << (n)) - 1)
#define LOAD_PART_float(p, n) _mm512_maskz_loadu_ps((__mmask16)FIRST(n), p)
#define LOAD_PART_double(p, n) _mm512_maskz_loadu_pd((__mmask8)FIRST(n), p)
#define STORE_PART_float(p, n, x) _mm512_mask_storeu_ps(p, (__mmask16)FIRST(n), x)
#define STORE_PART_double(p, n, x) _mm512_mask_storeu_pd(p, (__mmask8)FIRST(n), x)
#define ANY_LANE(x) (_mm512_test_epi32_mask((__m512i)(x), (__m512i)(x)) != 0)
#define ROOT_float(x) _mm512_sqrt_ps(x)
#define ROOT_double(x) _mm512_sqrt_pd(x)
#define LARGER_float(y, x) _mm512_max_ps(y, x)
#define LARGER_double(y, x) _mm512_max_pd(y, x)
#define SMALLER_float(y, x) _mm512_min_ps(y, x)
#define SMALLER_double(y, x) _mm512_min_pd(y, x)
#define SCALE_float(x, n) _mm512_scalef_ps(x, n)
#define SCALE_double(x, n) _mm512_scalef_pd(x, n)

/* A vector's indices, shifted together in a register: the form that writes to memory is microcoded. */
static INLINE int LIST_NONZERO_float(__m512 x, __m512 other, int32_t first, int32_t *list) {
    const __mmask16 mask = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ) |
                          _mm512_cmp_ps_mask(other, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_storeu_si512(list, _mm512_maskz_compress_epi32(mask, _mm512_add_epi32(lanes, _mm512_set1_epi32(first))));
    return __builtin_popcount(mask);
}

static INLINE int LIST_NONZERO_double(__m512d x, __m512d other, int32_t first, int32_t *list) {
    const __mmask8 mask = _mm512_cmp_pd_mask(x, _mm512_setzero_pd(), _CMP_NEQ_UQ) |
                          _mm512_cmp_pd_mask(other, _mm512_setzero_pd(), _CMP_NEQ_UQ);
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_storeu_si256((__m256i *)list,
                        _mm256_maskz_compress_epi32(mask, _mm256_add_epi32(lanes, _mm256_set1_epi32(first))));
    return __builtin_popcount(mask);
}
#define LIST_NONZERO_float LIST_NONZERO_float

#define WIDE_PRODUCT(a, b) ((wide)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#include "tile_philox.h"

#define REAL float
#include "tile.h"
#undef REAL
#define REAL double
#include "tile.h"

static const InstructionSet v4 = {"v4", &table_float, &table_double};
const InstructionSet *const tile_v4 = &v4;

TARGET_END
#else
const InstructionSet *const tile_v4 = NULL;
#endif
