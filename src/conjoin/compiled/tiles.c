/* Elementwise programs over blocks of numbers, a tile of 512 at a time.

   Torch runs one operation after the other, each over a whole block: what is between two of them
   goes through the second cache. Here all operations are done on a tile before the next one, so
   that it stays in the first cache, and numbers are widened and rounded on the way.

   An instruction is `to = from (operation) other`, of registers that hold a tile of float32 each.
   The operations are those of torch to the last bit, which `programs.py` checks for every program.
   Nothing here knows of methods, files or Python; nothing is allocated or kept. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

enum { TILE = 512, LANES = 16, REGISTERS = 48 };

/* As in `program.py`. */
enum { BFLOAT16, FLOAT16, FLOAT32, INT8, BITS };
enum {
    LOAD, STORE, FILL, COPY,
    ADD, SUBTRACT, MULTIPLY, DIVIDE, ADD_SCALED,
    ABSOLUTE, NEGATE, SIGN, RELU, BITS_AND,
    EQUAL, NOT_EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL,
    MAXIMUM, MINIMUM, HARD_SHRINK, COPY_SIGN,
    SELECT, SUM, SUM_OF_PRODUCTS
};
enum { INPUT_NOT_FINITE = 1, OUTPUT_NOT_FINITE = 2 };

/* CRC-32 of this file, so that no library is used that was compiled of another version of it. */
#if !defined(SOURCE)
#define SOURCE 0u
#endif
uint32_t conjoin_source(void) { return SOURCE; }

typedef struct {
    int32_t operation;
    int32_t to;     /* register; of STORE, an output; of sums, their number */
    int32_t from;   /* register; of LOAD, an input */
    int32_t other;  /* register, or -1: the constant */
    int32_t third;  /* register of ADD_SCALED's and SELECT's second number; of LOAD and STORE, a dtype */
    float constant;
} Instruction;

typedef float Lanes __attribute__((vector_size(4 * LANES)));

static float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static uint32_t larger(uint32_t one, uint32_t other) { return one > other ? one : other; }

/* Of numbers without their sign the bits of larger ones are larger integers; those of infinity are
   0x7f800000, and those of NaN are larger still. So the largest tells whether all are finite. */
static int load(float *restrict to, const void *input, int dtype, int64_t start, int count) {
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

static int store(void *output, const float *restrict from, int dtype, int64_t start, int count) {
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

/* Float32 within a lane of a tile, which is 32 additions; float64 from there on. */
static double sum(const float *restrict one, const float *restrict other, int count) {
    double total = 0;
    if (count == TILE) {
        Lanes lanes = {0};
        for (int i = 0; i < TILE; i += LANES) {
            Lanes a, b;
            memcpy(&a, one + i, sizeof a);
            if (other) {
                memcpy(&b, other + i, sizeof b);
                a *= b;
            }
            lanes += a;
        }
        for (int i = 0; i < LANES; i++) total += (double)lanes[i];
    } else {
        for (int i = 0; i < count; i++) {
            float product = other ? one[i] * other[i] : one[i];
            total += (double)product;
        }
    }
    return total;
}

#define EACH(expression) for (int i = 0; i < TILE; i++) to[i] = (expression)
/* Of registers, or of a register and the constant. */
#define BINARY(operator)                          \
    if (other) EACH(from[i] operator other[i]);   \
    else EACH(from[i] operator constant)
#define COMPARE(operator)                                    \
    if (other) EACH(from[i] operator other[i] ? 1.f : 0.f);  \
    else EACH(from[i] operator constant ? 1.f : 0.f)

/* The greater or smaller one; the second of equal ones, and NaN if one is. */
#define CHOOSE(operator)                                                             \
    if (other) EACH(from[i] operator other[i] || from[i] != from[i] ? from[i] : other[i]); \
    else EACH(from[i] operator constant || from[i] != from[i] ? from[i] : constant)

/* Fused where torch fuses: it has vectors of a machine with fused operations. */
#if defined(__FMA__) || defined(__aarch64__)
#define SCALED(a, b, c) __builtin_fmaf(b, c, a)
#else
#define SCALED(a, b, c) ((a) + (b) * (c))
#endif

/* Run a program over `count` elements, and give which of its numbers were not finite. Sums are
   added to what is in `sums`. */
int conjoin_run(const Instruction *program, int length, const void *const *inputs,
                void *const *outputs, double *sums, int64_t count) {
    static const int most = TILE;
    float tiles[REGISTERS][TILE] __attribute__((aligned(64)));
    int found = 0;
    for (int64_t start = 0; start < count; start += most) {
        int here = count - start < most ? (int)(count - start) : most;
        for (int k = 0; k < length; k++) {
            const Instruction *one = program + k;
            int operation = one->operation;
            float constant = one->constant;
            if (operation == LOAD) {
                found |= load(tiles[one->to], inputs[one->from], one->third, start, here);
                continue;
            }
            const float *restrict from = tiles[one->from];
            const float *other = one->other < 0 ? 0 : tiles[one->other];
            if (operation == STORE) {
                found |= store(outputs[one->to], from, one->third, start, here);
                continue;
            }
            if (operation == SUM || operation == SUM_OF_PRODUCTS) {
                sums[one->to] += sum(from, operation == SUM ? 0 : other, here);
                continue;
            }
            float *restrict to = tiles[one->to]; /* never one of those that are read */
            switch (operation) {
            case FILL: EACH(constant); break;
            case COPY: EACH(from[i]); break;
            case ADD: BINARY(+); break;
            case SUBTRACT: BINARY(-); break;
            case MULTIPLY: BINARY(*); break;
            case DIVIDE: BINARY(/); break;
            case ADD_SCALED: EACH(SCALED(from[i], other[i], constant)); break;
            case ABSOLUTE: EACH(__builtin_fabsf(from[i])); break;
            case NEGATE: EACH(-from[i]); break;
            case SIGN: EACH((float)((from[i] > 0) - (from[i] < 0))); break;
            case RELU: EACH(from[i] < 0 ? 0 : from[i]); break;
            case BITS_AND: EACH(as_float(as_bits(from[i]) & as_bits(other[i]))); break;
            case EQUAL: COMPARE(==); break;
            case NOT_EQUAL: COMPARE(!=); break;
            case LESS: COMPARE(<); break;
            case LESS_EQUAL: COMPARE(<=); break;
            case GREATER: COMPARE(>); break;
            case GREATER_EQUAL: COMPARE(>=); break;
            case MAXIMUM: CHOOSE(>); break;
            case MINIMUM: CHOOSE(<); break;
            case HARD_SHRINK: EACH(from[i] >= -constant && from[i] <= constant ? 0 : from[i]); break;
            case COPY_SIGN: EACH(__builtin_copysignf(from[i], other[i])); break;
            case SELECT: {
                const float *third = tiles[one->third];
                EACH(from[i] != 0 ? other[i] : third[i]);
                break;
            }
            }
        }
    }
    return found;
}
