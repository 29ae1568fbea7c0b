/* The primitives for x86-64-v2: SSE4.2. On other processors these are vectors of 16 bytes too, and where the compiler
 * knows no vectors they are plain loops over single elements. */
#include "tile_target.h"

#if HAS_X86_TARGETS
TARGET_BEGIN("sse4.2,no-mmx")
#define NAME "v2"
#else
#define NAME "plain"
#endif

#if HAS_VECTORS
#define LANES_float 4
#define LANES_double 2
#else
#define LANES_float 1
#define LANES_double 1
#endif
#define TILE_ROWS 4

#if HAS_X86_TARGETS && !defined(__clang__)
typedef int words_of_16_bytes __attribute__((vector_size(16))); /* the intrinsic is not to be had without MMX */
#define WIDE_PRODUCT(a, b) ((wide)__builtin_ia32_pmuludq128((words_of_16_bytes)(a), (words_of_16_bytes)(b)))
#endif
#include "tile_philox.h"

#define REAL float
#include "tile.h"
#undef REAL
#define REAL double
#include "tile.h"

static const InstructionSet v2 = {NAME, &table_float, &table_double};
const InstructionSet *const tile_v2 = &v2;

#if HAS_X86_TARGETS
TARGET_END
#endif
