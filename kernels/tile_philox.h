/* Philox4x32-10 (Salmon et al. 2011) on vectors of counters, included by each tile_v*.c before tile.h.
 *
 * A word of 32 bits has a lane of 64, which also holds its products; what stands above it does not matter. */

#if HAS_VECTORS
typedef uint64_t wide __attribute__((vector_size(LANES_double * sizeof(uint64_t))));
#else
typedef uint64_t wide;
#endif

#ifndef WIDE_PRODUCT
#define WIDE_PRODUCT(a, b) (((a) & 0xFFFFFFFFu) * (b)) /* of the lower halves */
#endif

static INLINE wide all_lanes(uint64_t x) {
    return x - (wide){0};
}

/* start, start + step, start + 2 step, ... */
static INLINE wide counted(uint64_t start, uint64_t step) {
    uint64_t lanes[LANES_double];
    wide x;
    for (int l = 0; l < LANES_double; l++)
        lanes[l] = start + (uint64_t)l * step;
    memcpy(&x, lanes, sizeof x);
    return x;
}

/* Turn counters into random words. */
static INLINE void philox(wide words[4], const Masks *masks) {
    uint32_t key[] = {(uint32_t)masks->seed, (uint32_t)(masks->seed >> 32)};
    UNROLL for (int round = 0; round < 10; round++) {
        const wide first = WIDE_PRODUCT(words[0], all_lanes(0xD2511F53u));
        const wide second = WIDE_PRODUCT(words[2], all_lanes(0xCD9E8D57u));
        words[0] = (second >> 32) ^ words[1] ^ all_lanes(key[0]);
        words[2] = (first >> 32) ^ words[3] ^ all_lanes(key[1]);
        words[1] = second;
        words[3] = first;
        key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
    }
}

/* The words of 4 units of some samples, or of 4 times as many units of one. */
static INLINE void draw(wide words[4], wide quads, wide samples, const Masks *masks) {
    words[0] = quads, words[1] = samples, words[2] = all_lanes((uint32_t)masks->number);
    words[3] = all_lanes((uint64_t)(masks->stream + (masks->number >> 32 << 16)));
    philox(words, masks);
}

/* The largest word that is less than 2^32 p. */
static INLINE uint32_t last_kept(double p) {
    return (uint32_t)(int64_t)(ceil(p * 4294967296.0) - 1);
}
