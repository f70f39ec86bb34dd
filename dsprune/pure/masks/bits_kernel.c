/* The passes over all weights, for CPU tensors. Each function gives the same bits as its eager twin, which its comment names.
 *
 * `kept` is a packed mask: bit j of byte i is weight 8 i + j, 1 = kept. The loops work on eight weights, one byte of mask, at
 * a time. Pointers are aligned to one weight only, because a shard starts anywhere in a flat partition.
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

/* keys.to_keys for the i-th eight of n scores, given as the bits of floats; past the end, the key of a pruned weight. */
static inline lanes keys_at(const int32_t *scores, const uint8_t *kept, int64_t i, int64_t n) {
    lanes bits = {0};
    if (8 * i + 8 <= n)
        bits = *(const lanes *)(scores + 8 * i);
    else
        memcpy(&bits, scores + 8 * i, 4 * (n - 8 * i));
    lanes keys = (bits ^ (bits >> 31 & INT32_MAX)) - (bits == INT32_MIN); /* -0.0 gets the key of +0.0 */
    keys = choose((bits & INT32_MAX) > 0x7f800000, all(INT32_MAX), keys); /* NaN */
    return choose((all(kept[i]) & BIT) == BIT, keys, all(INT32_MIN));
}

/* passes.scan: counts keys below `low` and NaNs, copies the keys in [low, high], and returns how many it copied. */
int64_t scan(const int32_t *scores, const uint8_t *kept, int64_t n, int32_t low, int32_t high, int32_t *inside,
             int64_t *num_below, int64_t *num_nan) {
    const int64_t num_bytes = (n + 7) / 8, block = 1 << 20; /* within a block the lanes count without overflow */
    int64_t copied = 0;
    *num_below = n - 8 * num_bytes; /* what lies past the end has pruned keys, which are below any `low` */
    *num_nan = 0;
    for (int64_t start = 0; start < num_bytes; start += block) {
        lanes below = {0}, nan = {0};
        for (int64_t i = start; i < num_bytes && i < start + block; i++) {
            const lanes keys = keys_at(scores, kept, i, n);
            below -= keys < low;
            nan -= keys == INT32_MAX;
            const lanes hits = (keys >= low) & (keys <= high);
            if (pack(hits)) /* few: and where there are some, not to branch on which ones is faster */
                for (int j = 0; j < 8; j++) inside[copied] = keys[j], copied -= hits[j];
        }
        for (int j = 0; j < 8; j++) *num_below += below[j], *num_nan += nan[j];
    }
    return copied;
}

/* passes.cut: keeps the keys above the threshold, and those equal to it after the first `quota`; returns the quota left. */
int64_t cut(const int32_t *scores, const uint8_t *kept, int64_t n, int32_t threshold, int64_t quota, uint8_t *new_kept) {
    for (int64_t i = 0; i < (n + 7) / 8; i++) {
        const lanes keys = keys_at(scores, kept, i, n);
        uint32_t keep = pack(keys >= threshold);
        if (quota)
            for (uint32_t ties = pack(keys == threshold); ties && quota; ties &= ties - 1, quota--)
                keep &= ~(ties & -ties);
        new_kept[i] = (uint8_t)keep;
    }
    return quota;
}
