/* The passes over all weights, for CPU tensors. Each function gives the same bits as its eager twin, which its comment names.
 *
 * `kept` is a packed mask: bit j of byte i is weight 8 i + j, 1 = kept. The loops work on eight weights, one byte of mask, at
 * a time; the last weights go through the same code in a padded copy. Pointers are aligned to one weight only, because a
 * shard starts anywhere in a flat partition.
 */
#include <stdint.h>
#include <string.h>

typedef int32_t lanes __attribute__((vector_size(32), aligned(4))); /* a comparison of lanes gives 0 or -1 */
typedef int16_t half_lanes __attribute__((vector_size(16), aligned(2)));
typedef uint64_t wide_lanes __attribute__((vector_size(32)));

static const lanes BIT = {1, 2, 4, 8, 16, 32, 64, 128};
static const half_lanes HALF_BIT = {1, 2, 4, 8, 16, 32, 64, 128};

static inline lanes all(int32_t value) { return (lanes){0} + value; }
static inline lanes choose(lanes condition, lanes yes, lanes no) { return (condition & yes) | (~condition & no); }

/* Packs eight conditions to a byte of mask. */
static inline uint32_t pack(lanes condition) {
    const wide_lanes pairs = (wide_lanes)(condition & BIT);
    const uint64_t folded = (pairs[0] | pairs[1]) | (pairs[2] | pairs[3]);
    return (uint32_t)(folded | folded >> 32);
}

/* bits.apply_ for 32-bit weights: pruned weights become +0.0, all bits zero. */
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

/* keys.to_keys for eight scores, given as the bits of floats. */
static inline lanes keys_of(const int32_t *scores, uint8_t kept) {
    const lanes bits = *(const lanes *)scores;
    lanes keys = (bits ^ (bits >> 31 & INT32_MAX)) - (bits == INT32_MIN); /* -0.0 gets the key of +0.0 */
    keys = choose((bits & INT32_MAX) > 0x7f800000, all(INT32_MAX), keys); /* NaN */
    return choose((all(kept) & BIT) == BIT, keys, all(INT32_MIN));
}

/* keys.scan: counts the keys below `low` and the NaNs, copies the keys in [low, high], and returns how many it copied. */
int64_t scan(const int32_t *scores, const uint8_t *kept, int64_t n, int32_t low, int32_t high, int32_t *inside,
             int64_t *num_below, int64_t *num_nan) {
    int64_t copied = 0, total_below = 0, total_nan = 0;
    for (int64_t block = 0; block < n / 8; block += 1024) { /* lanes count to 1024, never near overflow */
        const int64_t end = block + 1024 < n / 8 ? block + 1024 : n / 8;
        lanes below = {0}, nan = {0};
        for (int64_t i = block; i < end; i++) {
            const lanes keys = keys_of(scores + 8 * i, kept[i]);
            below -= keys < low;
            nan -= keys == INT32_MAX;
            for (uint32_t hits = pack((keys >= low) & (keys <= high)); hits; hits &= hits - 1)
                inside[copied++] = keys[__builtin_ctz(hits)];
        }
        for (int j = 0; j < 8; j++) total_below += below[j], total_nan += nan[j];
    }
    *num_below = total_below;
    *num_nan = total_nan;
    return copied;
}

/* keys.cut: prunes the keys below the threshold and the first `quota` of those equal to it; returns the quota left. */
int64_t cut(const int32_t *scores, const uint8_t *kept, int64_t n, int32_t threshold, int64_t quota, uint8_t *out) {
    for (int64_t i = 0; i < n / 8; i++) {
        const lanes keys = keys_of(scores + 8 * i, kept[i]);
        uint32_t keep = pack(keys >= threshold);
        if (quota)
            for (uint32_t ties = pack(keys == threshold); ties && quota; ties &= ties - 1, quota--)
                keep &= ~(ties & -ties);
        out[i] = (uint8_t)keep;
    }
    return quota;
}
