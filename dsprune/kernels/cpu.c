/* The loops over all weights, for CPU tensors. Each function returns the same bits as the Python function in its comment.
 *
 * `kept` is a packed mask: bit j of byte i is weight 8 i + j, 1 = kept. The loops process one vector of weights, one or two
 * bytes of mask, at a time. Pointers are aligned to one weight only: a shard may start anywhere in a flat partition.
 */
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
typedef int32_t lanes __attribute__((vector_size(4 * LANES), aligned(4))); /* comparing lanes gives 0 or -1 */
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t eight_lanes __attribute__((vector_size(32), aligned(4)));
typedef int16_t short_lanes __attribute__((vector_size(32), aligned(2)));

static const eight_lanes BIT = {1, 2, 4, 8, 16, 32, 64, 128};
static const short_lanes SHORT_BIT = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                      1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, INT16_MIN};

static inline lanes all(int32_t value) { return (lanes){0} + value; }

/* Returns one bit a lane: where `keys` is at least `bound`. */
static inline uint32_t at_least(lanes keys, int32_t bound) {
#if defined(__AVX512F__)
    return _mm512_cmpge_epi32_mask((__m512i)keys, _mm512_set1_epi32(bound));
#elif defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps((__m256)(keys >= all(bound)));
#else
    uint32_t bits = 0;
    for (int j = 0; j < LANES; j++) bits |= (uint32_t)(keys[j] >= bound) << j;
    return bits;
#endif
}

/* Writes the lanes of `hits` to `keys` and their places to `places`, and may write arbitrary values after them. */
static inline void compress(lanes values, int64_t i, uint32_t hits, int32_t *keys, int32_t *places) {
#if defined(__AVX512F__)
    const __m512i at = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_storeu_si512(keys, _mm512_maskz_compress_epi32((__mmask16)hits, (__m512i)values));
    _mm512_storeu_si512(places, _mm512_maskz_compress_epi32((__mmask16)hits, (__m512i)((lanes)at + (int32_t)i)));
#else
    for (; hits; hits &= hits - 1) {
        const int j = __builtin_ctz(hits);
        *keys++ = values[j];
        *places++ = (int32_t)i + j;
    }
#endif
}

/* bits.apply_ for 32-bit weights: pruned weights become +0.0, with all bits zero. */
void apply_32(const uint8_t *kept, int32_t *weights, int64_t n) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < n / 8; i++)
        *(eight_lanes *)(weights + 8 * i) &= ((((eight_lanes){0} + kept[i])) & BIT) == BIT;
    for (int64_t i = n / 8 * 8; i < n; i++) weights[i] &= -(kept[i / 8] >> i % 8 & 1);
}

/* bits.apply_ for 16-bit weights. */
void apply_16(const uint8_t *kept, int16_t *weights, int64_t n) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < n / 16; i++) {
        int16_t bits;
        memcpy(&bits, kept + 2 * i, 2);
        *(short_lanes *)(weights + 16 * i) &= (((short_lanes){0} + bits) & SHORT_BIT) == SHORT_BIT;
    }
    for (int64_t i = n / 16 * 16; i < n; i++) weights[i] &= -(kept[i / 8] >> i % 8 & 1);
}

/* The scores of a product: `first`, times the square root of `root` unless it is NULL, times `scale`. */
typedef struct {
    const float *first, *root;
    float scale;
    int32_t absolute;
} product;

/* The next `count` values, then zeros. */
static inline __attribute__((always_inline)) floats load(const float *values, int64_t count) {
    floats found = {0};
    if (count == LANES) return *(const floats *)values;
    memcpy(&found, values, 4 * count);
    return found;
}

/* scan.to_keys. */
static inline __attribute__((always_inline)) lanes to_keys(product scores, floats values, floats root) {
    if (scores.root) {
        for (int j = 0; j < LANES; j++) root[j] = __builtin_sqrtf(root[j]);
        values *= root;
    }
    if (scores.scale != 1) values *= scores.scale;
    lanes bits = (lanes)values & (scores.absolute ? INT32_MAX : -1); /* without the sign */
    const lanes nan = (bits & INT32_MAX) > 0x7f800000;
    if (!scores.absolute) bits = (bits ^ (bits >> 31 & INT32_MAX)) - (bits == INT32_MIN); /* -0.0 gets the key of +0.0 */
    return (nan & INT32_MAX) | (~nan & bits);
}

typedef struct {
    int64_t num_kept, num_nan, num_inside;
} counts;

/* What `scan` does for `count` weights from the i-th on. */
static inline __attribute__((always_inline)) void scan_vector(product scores, const uint8_t *kept, int64_t i, int64_t count,
        int32_t low, int32_t high, uint8_t *new_kept, int32_t *inside, int32_t *places, counts *found) {
    uint32_t keep = 0;
    memcpy(&keep, kept + i / 8, (count + 7) / 8);
    const lanes keys = to_keys(scores, load(scores.first + i, count), scores.root ? load(scores.root + i, count) : (floats){0});
    found->num_nan += __builtin_popcount(at_least(keys, INT32_MAX) & keep);
    keep &= at_least(keys, low);
    memcpy(new_kept + i / 8, &keep, (count + 7) / 8);
    found->num_kept += __builtin_popcount(keep);
    const uint32_t hits = keep & ~at_least(keys, high + 1);
    compress(keys, i, hits, inside + found->num_inside, places + found->num_inside);
    found->num_inside += __builtin_popcount(hits);
}

/* scan.scan_eager: prunes the keys below `low`, counts them and the NaNs, copies the keys in [low, high] with their places,
 * and returns the number of copied keys. It may write up to sixteen entries after them. */
int64_t scan(const product *given, const uint8_t *kept, int64_t n, int32_t low, int32_t high, uint8_t *new_kept,
             int32_t *inside, int32_t *places, int64_t *num_below, int64_t *num_nan) {
    const product scores = *given, magnitude = {scores.first, 0, 1, 1};
    const int64_t whole = n / LANES * LANES;
    counts found = {0};
    if (scores.absolute && !scores.root && scores.scale == 1) /* the compiler leaves out what magnitude does not need */
        for (int64_t i = 0; i < whole; i += LANES)
            scan_vector(magnitude, kept, i, LANES, low, high, new_kept, inside, places, &found);
    else
        for (int64_t i = 0; i < whole; i += LANES)
            scan_vector(scores, kept, i, LANES, low, high, new_kept, inside, places, &found);
    if (whole < n) scan_vector(scores, kept, whole, n - whole, low, high, new_kept, inside, places, &found);
    *num_below = n - found.num_kept;
    *num_nan = found.num_nan;
    return found.num_inside;
}

/* scan.sample_eager: the keys of every `stride`-th weight from `start` on. */
void sample(const product *given, const uint8_t *kept, int64_t start, int64_t stride, int64_t count, int32_t *keys) {
    const product scores = *given;
    for (int64_t k = 0; k < count; k += LANES) {
        const int64_t size = count - k < LANES ? count - k : LANES;
        floats values = {0}, root = {0};
        lanes keep = {0};
        for (int64_t j = 0; j < size; j++) {
            const int64_t i = start + (k + j) * stride;
            values[j] = scores.first[i];
            if (scores.root) root[j] = scores.root[i];
            keep[j] = -(kept[i / 8] >> i % 8 & 1);
        }
        const lanes found = (to_keys(scores, values, root) & keep) | (~keep & INT32_MIN);
        memcpy(keys + k, &found, 4 * size);
    }
}

/* scan.settle_eager: prunes the keys below the threshold, and the first `quota` ties with it; returns how many ties. */
int64_t settle(uint8_t *kept, const int32_t *keys, const int64_t *places, int64_t n, int32_t threshold, int64_t quota) {
    int64_t ties = 0;
    for (int64_t k = 0; k < n; k++) {
        const int tie = (keys[k] == threshold) & (ties < quota);
        ties += tie;
        kept[places[k] / 8] &= (uint8_t) ~(((keys[k] < threshold) | tie) << places[k] % 8);
    }
    return ties;
}

/* search.histograms_eager: counts the keys from `low` on in 256 bins of 2**bin_bits keys each, for each of `ranges`. The
 * ranges of a group, `groups` apart, are often the same. */
void histograms(const int32_t *keys, int64_t groups, int64_t ranges, const int64_t *begins, const int64_t *sizes,
                const int64_t *low, const int64_t *bin_bits, int64_t *counts) {
    for (int64_t r = 0; r < ranges; r++, counts += 256) {
        if (r >= groups && low[r] == low[r - groups] && bin_bits[r] == bin_bits[r - groups]) {
            memcpy(counts, counts - 256 * groups, 256 * sizeof *counts);
            continue;
        }
        const int32_t *own = keys + begins[r % groups];
        int64_t parts[4][257] = {{0}}; /* several, since neighbours are often in one bin; the last bin is for keys outside */
        for (int64_t i = 0; i < sizes[r % groups]; i++) {
            const uint64_t bin = (uint64_t)(own[i] - low[r]) >> bin_bits[r]; /* a key below wraps around to a huge bin */
            parts[i % 4][bin < 256 ? bin : 256]++;
        }
        for (int b = 0; b < 256; b++) counts[b] = parts[0][b] + parts[1][b] + parts[2][b] + parts[3][b];
    }
}

/* randomness.mix64. */
static inline uint64_t mix64(uint64_t word) {
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9;
    word = (word ^ word >> 27) * 0x94D049BB133111EB;
    return word ^ word >> 31;
}

/* mask_set.digest_eager: the sum of the hashes of the pruned weights, whose numbers begin at `first`. */
uint64_t digest(const uint8_t *kept, int64_t n, uint64_t first) {
    uint64_t total = 0;
    for (int64_t i = 0; i < n / 8; i++)
        for (int j = 0; j < 8; j++) total += mix64(first + 8 * i + j) & ((uint64_t)(kept[i] >> j & 1) - 1);
    for (int64_t i = n / 8 * 8; i < n; i++) total += mix64(first + i) & ((uint64_t)(kept[i / 8] >> i % 8 & 1) - 1);
    return total;
}
