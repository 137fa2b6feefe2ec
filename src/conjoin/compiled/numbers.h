/* Numbers as they are stored, a tile of 512 at a time: widened to float32, rounded, added up. */

#ifndef CONJOIN_NUMBERS
#define CONJOIN_NUMBERS

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

enum { TILE = 512, LANES = 16 };

/* As in `program.py`. */
enum { BFLOAT16, FLOAT16, FLOAT32, INT8, BITS };

enum { INPUT_NOT_FINITE = 1, OUTPUT_NOT_FINITE = 2 };

typedef float Lanes __attribute__((vector_size(4 * LANES)));

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline uint32_t larger(uint32_t one, uint32_t other) { return one > other ? one : other; }

/* Of numbers without their sign the bits of larger ones are larger integers; those of infinity are
   0x7f800000, and those of NaN are larger still. So the largest tells whether all are finite. */
static inline int load(float *restrict to, const void *input, int dtype, int64_t start, int count) {
    uint32_t most = 0;
    if (dtype == BFLOAT16) {
        const uint16_t *from = (const uint16_t *)input + start;
        uint16_t largest = 0;
        for (int i = 0; i < count; i++) to[i] = as_float((uint32_t)from[i] << 16);
        for (int i = 0; i < count; i++) {
            uint16_t size = from[i] & 0x7fff;
            largest = size > largest ? size : largest;
        }
        most = (uint32_t)largest << 16;
    } else if (dtype == FLOAT32) {
        const float *from = (const float *)input + start;
        for (int i = 0; i < count; i++) {
            most = larger(most, as_bits(from[i]) & 0x7fffffffu);
            to[i] = from[i];
        }
    } else if (dtype == FLOAT16) {
        const uint16_t *from = (const uint16_t *)input + start;
        int i = 0;
#if defined(__F16C__)
        for (; i + 8 <= count; i += 8)
            _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
        for (; i < count; i++) {
            _Float16 half;
            memcpy(&half, from + i, 2);
            to[i] = (float)half;
        }
        for (i = 0; i < count; i++) most = larger(most, as_bits(to[i]) & 0x7fffffffu);
    } else if (dtype == INT8) { /* a mask: all bits of the number, for BITS_AND */
        const int8_t *from = (const int8_t *)input + start;
        for (int i = 0; i < count; i++) to[i] = as_float((uint32_t)(int32_t)from[i]);
    } else { /* a mask of one bit for each number, the highest of a byte first */
        const uint8_t *from = (const uint8_t *)input + start / 8;
        for (int k = 0; k < (count + 7) / 8; k++) {
            uint32_t byte = from[k];
            for (int i = 0; i < 8; i++) to[8 * k + i] = as_float(0u - (byte >> (7 - i) & 1u));
        }
    }
    /* What lies behind the end is computed with as well, and then left out. */
    for (int i = count; i < TILE; i++) to[i] = 0;
    return most >= 0x7f800000u ? INPUT_NOT_FINITE : 0;
}

static inline int store(void *output, const float *restrict from, int dtype, int64_t start, int count) {
    uint32_t most = 0, end = 0x7f800000u;
    if (dtype == BFLOAT16) {
        uint16_t *to = (uint16_t *)output + start;
        for (int i = 0; i < count; i++) { /* to nearest, and of two as near the even one */
            uint32_t bits = as_bits(from[i]);
            most = larger(most, bits & 0x7fffffffu);
            to[i] = (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
        }
        end = 0x7f7f8000u; /* from here on it is rounded to infinity */
    } else if (dtype == FLOAT32) {
        float *to = (float *)output + start;
        for (int i = 0; i < count; i++) {
            most = larger(most, as_bits(from[i]) & 0x7fffffffu);
            to[i] = from[i];
        }
    } else {
        uint16_t *to = (uint16_t *)output + start;
        int i = 0;
#if defined(__F16C__)
        for (; i + 8 <= count; i += 8)
            _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
        for (; i < count; i++) {
            _Float16 half = (_Float16)from[i];
            memcpy(to + i, &half, 2);
        }
        for (i = 0; i < count; i++) most = larger(most, as_bits(from[i]) & 0x7fffffffu);
        end = 0x477ff000u; /* 65520 */
    }
    return most >= end ? OUTPUT_NOT_FINITE : 0;
}

/* Float32 within the lanes of a tile, which is 8 additions, and 2 of the
   chains; float64 from there on. Several additions
   are under way at once: each takes as long as four begin in. */
enum { CHAINS = 4 };

static inline double sum(const float *restrict one, const float *restrict other, int count) {
    double total = 0;
    if (count == TILE) {
        Lanes lanes[CHAINS] = {{0}};
        for (int i = 0; i < TILE; i += CHAINS * LANES) {
            for (int k = 0; k < CHAINS; k++) {
                Lanes a, b;
                memcpy(&a, one + i + k * LANES, sizeof a);
                if (other) {
                    memcpy(&b, other + i + k * LANES, sizeof b);
                    a *= b;
                }
                lanes[k] += a;
            }
        }
        lanes[0] = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
        for (int i = 0; i < LANES; i++) total += (double)lanes[0][i];
    } else {
        for (int i = 0; i < count; i++) {
            float product = other ? one[i] * other[i] : one[i];
            total += (double)product;
        }
    }
    return total;
}

/* Fused where torch fuses: it has vectors of a machine with fused operations. */
#if defined(__FMA__) || defined(__aarch64__)
#define SCALED(a, b, c) __builtin_fmaf(b, c, a)
#else
#define SCALED(a, b, c) ((a) + (b) * (c))
#endif

#endif
