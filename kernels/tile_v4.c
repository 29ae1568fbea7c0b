/* The primitives for x86-64-v4: AVX-512. */
#include "tile_target.h"

#if HAS_X86_TARGETS
TARGET_BEGIN("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")

#define LANES_float 16
#define LANES_double 8
#define MAX_ROWS 8

#define FIRST(n) ((1u << (n)) - 1)
#define LOAD_PART_float(p, n) _mm512_maskz_loadu_ps((__mmask16)FIRST(n), p)
#define LOAD_PART_double(p, n) _mm512_maskz_loadu_pd((__mmask8)FIRST(n), p)
#define STORE_PART_float(p, n, x) _mm512_mask_storeu_ps(p, (__mmask16)FIRST(n), x)
#define STORE_PART_double(p, n, x) _mm512_mask_storeu_pd(p, (__mmask8)FIRST(n), x)
#define ROOT_float(x) _mm512_sqrt_ps(x)
#define ROOT_double(x) _mm512_sqrt_pd(x)

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
