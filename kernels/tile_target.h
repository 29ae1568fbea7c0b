/* What a tile_v*.c needs before it includes tile.h: the compilers' ways to choose instructions and to write vectors. */
#ifndef FASTBP_TILE_TARGET_H
#define FASTBP_TILE_TARGET_H

#include <float.h>
#include <math.h>
#include <stdint.h>

#include "tile_table.h"

#if HAS_X86_TARGETS
#include <immintrin.h>
#endif

typedef int32_t integer_float;
typedef int64_t integer_double;

/* Probabilities are held this far from 0 and 1 in losses. */
static const float margin_float = FLT_EPSILON;
static const double margin_double = DBL_EPSILON;

#define PASTE(a, b) a##_##b
#define JOIN(a, b) PASTE(a, b)
#define PRAGMA(text) _Pragma(#text)

/* TARGET_BEGIN(features): from here on the compiler may use these processor features, up to TARGET_END. Flags for the
 * whole extension would put such instructions into its start-up code, too, and crash processors without them. MMX
 * registers are left out: whoever uses them breaks the long doubles of the whole thread. */
#if defined(__clang__)
#define TARGET_BEGIN(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END PRAGMA(clang attribute pop)
#define UNROLL PRAGMA(unroll)
#define ZIP(half, a, b) __builtin_shufflevector(a, b, JOIN(half, LANES))
#define SHUFFLE(x, index) __builtin_shufflevector(x, index)
#elif defined(__GNUC__)
#define TARGET_BEGIN(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define TARGET_END PRAGMA(GCC pop_options)
#define UNROLL PRAGMA(GCC unroll 16)
#define ZIP(half, a, b) __builtin_shuffle(a, b, (bits){JOIN(half, LANES)})
#define SHUFFLE(x, index) __builtin_shuffle(x, index)
#else
#define UNROLL
#endif

/* FASTBP_PLAIN stands for a compiler without vectors, to test that variant with one that has them. */
#if defined(__GNUC__) && !defined(FASTBP_PLAIN)
#define HAS_VECTORS 1
#else
#define HAS_VECTORS 0
#endif

/* A vector that lies across two cache lines is read and written twice. */
#if defined(__GNUC__)
#define ALIGNED __attribute__((aligned(64)))
#define PREFETCH(p) __builtin_prefetch(p)

#define IN_MEMORY(p) __asm__ volatile("" : : "r"(p) : "memory") /* the compiler must believe that others read *p */
#define INLINE inline __attribute__((always_inline, unused))
#define NOINLINE __attribute__((noinline))
#else
#define ALIGNED
#define PREFETCH(p) (void)(p)
#define IN_MEMORY(p) (void)(p)
#define INLINE __inline
#define NOINLINE
#endif

/* What a sum over a batch is of. */
enum { PLAIN_SUM, SQUARES, PRODUCTS };

static const integer_float lane_numbers_float[] = {0, 1, 2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                                   12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};
static const integer_double lane_numbers_double[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

/* The lanes of the lower and the higher halves of two vectors, by turns. */
#define LOW_2 0, 2
#define HIGH_2 1, 3
#define LOW_4 0, 4, 1, 5
#define HIGH_4 2, 6, 3, 7
#define LOW_8 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_8 4, 12, 5, 13, 6, 14, 7, 15
#define LOW_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31

#endif
