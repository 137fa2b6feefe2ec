/* Counting bit patterns: how many lie in each bin of a window of them, and how many above it. */

#include "numbers.h"

enum { GROUP = 16 };

typedef struct {
    uint32_t low;    /* the first pattern of the window */
    uint32_t high;   /* the first one above it */
    int32_t shift;   /* a bin has 2**shift patterns */
    int64_t *counts; /* of the bins; to be added to */
    int64_t *above;
} Window;

/* Which of a group are not less than a number: a bit for each. */
static inline uint32_t not_less(const uint32_t *bits, uint32_t least) {
#if defined(__AVX512F__)
    return _mm512_cmpge_epu32_mask(_mm512_loadu_si512(bits), _mm512_set1_epi32((int)least));
#elif defined(__AVX2__)
    __m256i limit = _mm256_set1_epi32((int)least), equal[2];
    for (int i = 0; i < 2; i++) {
        __m256i here = _mm256_loadu_si256((const __m256i *)bits + i);
        equal[i] = _mm256_cmpeq_epi32(_mm256_max_epu32(here, limit), here);
    }
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(equal[0])) |
           (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(equal[1])) << 8;
#else
    uint32_t found = 0;
    for (int i = 0; i < GROUP; i++) found |= (uint32_t)(bits[i] >= least) << i;
    return found;
#endif
}

/* A window holds few of all patterns. So whole groups are compared, and only what lies within is
   looked at one by one. */
void conjoin_count(const uint32_t *bits, int64_t size, const Window *windows, int many) {
    for (int k = 0; k < many; k++) {
        Window window = windows[k];
        int64_t above = 0, start = 0;
        for (; start + GROUP <= size; start += GROUP) {
            uint32_t higher = not_less(bits + start, window.high);
            above += __builtin_popcount(higher);
            uint32_t within = not_less(bits + start, window.low) & ~higher;
            for (; within; within &= within - 1) {
                uint32_t place = bits[start + __builtin_ctz(within)] - window.low;
                window.counts[place >> window.shift]++;
            }
        }
        for (; start < size; start++) {
            if (bits[start] >= window.high) above++;
            else if (bits[start] >= window.low)
                window.counts[(bits[start] - window.low) >> window.shift]++;
        }
        *window.above += above;
    }
}
