/* Counting bit patterns: how many lie in each bin of a window of them, and how many above it. */

#include "numbers.h"

enum { GROUP = 16, PART = 1024 };

typedef struct {
    uint32_t low;    /* the first pattern of the window */
    uint32_t high;   /* the first one above it */
    int32_t shift;   /* a bin has 2**shift patterns */
    int64_t *counts; /* of the bins; to be added to */
    int64_t *above;
} Window;

static const uint32_t MAGNITUDE = 0x7fffffffu;

/* Hold those of a group that lie in a window, and say how many; count those above it.

   A window holds few of all patterns, so whole groups are compared. */
static inline int hold_group(const uint32_t *bits, const Window *window, uint32_t *restrict held,
                             int64_t *above) {
#if defined(__AVX512F__)
    __m512i here = _mm512_and_si512(_mm512_loadu_si512(bits), _mm512_set1_epi32(MAGNITUDE));
    uint32_t higher = _mm512_cmpge_epu32_mask(here, _mm512_set1_epi32((int)window->high));
    uint32_t within = _mm512_cmpge_epu32_mask(here, _mm512_set1_epi32((int)window->low)) & ~higher;
    *above += __builtin_popcount(higher);
    _mm512_storeu_si512(held, _mm512_maskz_compress_epi32((__mmask16)within, here));
    return __builtin_popcount(within);
#else
    uint32_t higher = 0, within = 0;
#if defined(__AVX2__)
    __m256i low = _mm256_set1_epi32((int)window->low), high = _mm256_set1_epi32((int)window->high);
    for (int i = 0; i < 2; i++) {
        __m256i here = _mm256_loadu_si256((const __m256i *)bits + i);
        here = _mm256_and_si256(here, _mm256_set1_epi32(MAGNITUDE));
        __m256i above_it = _mm256_cmpeq_epi32(_mm256_max_epu32(here, high), here);
        __m256i not_below = _mm256_cmpeq_epi32(_mm256_max_epu32(here, low), here);
        higher |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(above_it)) << 8 * i;
        within |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(not_below)) << 8 * i;
    }
#else
    for (int i = 0; i < GROUP; i++) {
        higher |= (uint32_t)((bits[i] & MAGNITUDE) >= window->high) << i;
        within |= (uint32_t)((bits[i] & MAGNITUDE) >= window->low) << i;
    }
#endif
    int count = 0;
    *above += __builtin_popcount(higher);
    for (within &= ~higher; within; within &= within - 1)
        held[count++] = bits[__builtin_ctz(within)] & MAGNITUDE;
    return count;
#endif
}

static void count_part(const uint32_t *bits, int size, const Window *window) {
    /* Counting at once what is in the window would be a jump that nobody foresees. */
    uint32_t held[PART + GROUP];
    int64_t above = 0;
    int count = 0, start = 0;
    for (; start + GROUP <= size; start += GROUP)
        count += hold_group(bits + start, window, held + count, &above);
    for (; start < size; start++) {
        uint32_t here = bits[start] & MAGNITUDE;
        if (here >= window->high) above++;
        else if (here >= window->low) held[count++] = here;
    }
    for (int i = 0; i < count; i++) window->counts[(held[i] - window->low) >> window->shift]++;
    *window->above += above;
}

/* Signs are not looked at. */
void conjoin_count(const uint32_t *bits, int64_t size, const Window *windows, int many) {
    for (int64_t start = 0; start < size; start += PART) {
        int count = size - start < PART ? (int)(size - start) : PART;
        for (int k = 0; k < many; k++) count_part(bits + start, count, windows + k);
    }
}
