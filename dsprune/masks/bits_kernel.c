/* The loops over all weights, for CPU tensors. Each function returns the same bits as the Python function in its comment.
 *
 * `kept` is a packed mask: bit j of byte i is weight 8 i + j, 1 = kept. The loops process eight weights, one byte of mask, at
 * a time. Pointers are aligned to one weight only, because a shard may start anywhere in a flat partition.
 */
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef int32_t lanes __attribute__((vector_size(32), aligned(4))); /* comparing lanes gives 0 or -1 */
typedef int16_t half_lanes __attribute__((vector_size(16), aligned(2)));
typedef uint64_t wide_lanes __attribute__((vector_size(32)));

static const lanes BIT = {1, 2, 4, 8, 16, 32, 64, 128};
static const half_lanes HALF_BIT = {1, 2, 4, 8, 16, 32, 64, 128};

static inline lanes all(int32_t value) { return (lanes){0} + value; }
static inline lanes choose(lanes condition, lanes yes, lanes no) { return (condition & yes) | (~condition & no); }

/* Packs eight conditions into a byte of mask. */
static inline uint32_t pack(lanes condition) {
#ifdef __AVX2__
    return (uint32_t)_mm256_movemask_ps((__m256)condition);
#else
    const wide_lanes pairs = (wide_lanes)(condition & BIT);
    const uint64_t folded = (pairs[0] | pairs[1]) | (pairs[2] | pairs[3]);
    return (uint32_t)(folded | folded >> 32);
#endif
}

/* bits.apply_ for 32-bit weights: pruned weights become +0.0, with all bits zero. */
void apply_32(const uint8_t *kept, int32_t *weights, int64_t n) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < n / 8; i++) *(lanes *)(weights + 8 * i) &= (all(kept[i]) & BIT) == BIT;
    for (int64_t i = n / 8 * 8; i < n; i++) weights[i] &= -(kept[i / 8] >> i % 8 & 1);
}

/* bits.apply_ for 16-bit weights. */
void apply_16(const uint8_t *kept, int16_t *weights, int64_t n) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < n / 8; i++)
        *(half_lanes *)(weights + 8 * i) &= (((half_lanes){0} + (int16_t)kept[i]) & HALF_BIT) == HALF_BIT;
    for (int64_t i = n / 8 * 8; i < n; i++) weights[i] &= -(kept[i / 8] >> i % 8 & 1);
}

/* keys.to_keys for the i-th group of eight of n scores, given as the bits of floats; arbitrary after the end. */
static inline lanes keys_at(const int32_t *scores, int64_t i, int64_t n, int32_t absolute) {
    lanes bits = {0};
    if (8 * i + 8 <= n)
        bits = *(const lanes *)(scores + 8 * i);
    else
        memcpy(&bits, scores + 8 * i, 4 * (n - 8 * i));
    bits &= absolute ? INT32_MAX : -1; /* the sign bit */
    const lanes keys = (bits ^ (bits >> 31 & INT32_MAX)) - (bits == INT32_MIN); /* -0.0 gets the key of +0.0 */
    return choose((bits & INT32_MAX) > 0x7f800000, all(INT32_MAX), keys);       /* NaN */
}

/* scan.scan_eager: prunes the keys below `low`, counts them and the NaNs, copies the keys in [low, high] with their places,
 * and returns the number of copied keys. */
int64_t scan(const int32_t *scores, const uint8_t *kept, int64_t n, int32_t absolute, int32_t low, int32_t high,
             uint8_t *new_kept, int32_t *inside, int64_t *places, int64_t *num_below, int64_t *num_nan) {
    int64_t copied = 0, num_kept = 0;
    *num_nan = 0;
    for (int64_t i = 0; i < (n + 7) / 8; i++) {
        const lanes keys = keys_at(scores, i, n, absolute);
        const uint32_t keep = pack(keys >= low) & kept[i];
        new_kept[i] = (uint8_t)keep;
        num_kept += __builtin_popcount(keep);
        *num_nan += __builtin_popcount(pack(keys == INT32_MAX) & kept[i]);
        for (uint32_t hits = keep & ~pack(keys > high); hits; hits &= hits - 1, copied++) {
            const int j = __builtin_ctz(hits);
            inside[copied] = keys[j];
            places[copied] = 8 * i + j;
        }
    }
    *num_below = n - num_kept;
    return copied;
}

/* search.histogram_eager: counts the keys from `low` on in 256 bins of 2**bin_bits keys each. */
void histogram(const int32_t *keys, int64_t n, int64_t low, int32_t bin_bits, int64_t *counts) {
    for (int64_t i = 0; i < n; i++) {
        const uint64_t bin = (uint64_t)(keys[i] - low) >> bin_bits; /* a key below `low` wraps around to a huge bin */
        if (bin < 256) counts[bin]++;
    }
}
