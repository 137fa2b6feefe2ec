/* XXH3 of 64 bits, of data that come in parts and whose size is known before. Collet, xxHash fast
   digest algorithm, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md: the long form,
   which is that of more than 240 bytes, with seed 0. */

#ifndef CONJOIN_DIGEST
#define CONJOIN_DIGEST

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { STRIPE = 64, STRIPES = 16, SECRET = 192, SHORTEST = 241 };

#define PRIME32_1 0x9E3779B1u
#define PRIME32_2 0x85EBCA77u
#define PRIME32_3 0xC2B2AE3Du
#define PRIME64_1 0x9E3779B185EBCA87u
#define PRIME64_2 0xC2B2AE3D27D4EB4Fu
#define PRIME64_3 0x165667B19E3779F9u
#define PRIME64_4 0x85EBCA77C2B2AE63u
#define PRIME64_5 0x27D4EB2F165667C5u

static const uint8_t secret[SECRET] __attribute__((aligned(64))) = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

typedef struct {
    uint64_t sums[8];
    uint64_t size, done; /* bytes */
    uint8_t last[STRIPE]; /* those before `done` */
} Digest;

static inline uint64_t word(const uint8_t *from) {
    uint64_t value;
    memcpy(&value, from, 8); /* little-endian, as all that conjoin is compiled for */
    return value;
}

static inline Digest digest_of(uint64_t size) {
    Digest one = {{PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3,
                   PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1}, size, 0, {0}};
    return one;
}

/* Add so many stripes, which follow each other in one block of 16, from a number on. */
static inline void add_stripes(uint64_t *restrict sums, const uint8_t *restrict data,
                               const uint8_t *restrict key, int count) {
#if defined(__AVX512F__)
    __m512i total = _mm512_loadu_si512(sums);
    for (int k = 0; k < count; k++) {
        __m512i value = _mm512_loadu_si512(data + STRIPE * k);
        __m512i mixed = _mm512_xor_si512(value, _mm512_loadu_si512(key + 8 * k));
        __m512i product = _mm512_mul_epu32(mixed, _mm512_srli_epi64(mixed, 32));
        __m512i swapped = _mm512_shuffle_epi32(value, (_MM_PERM_ENUM)_MM_SHUFFLE(1, 0, 3, 2));
        total = _mm512_add_epi64(total, _mm512_add_epi64(product, swapped));
    }
    _mm512_storeu_si512(sums, total);
#elif defined(__AVX2__)
    __m256i total[2];
    memcpy(total, sums, sizeof total);
    for (int k = 0; k < count; k++) {
        for (int i = 0; i < 2; i++) {
            const uint8_t *from = data + STRIPE * k + 32 * i, *by = key + 8 * k + 32 * i;
            __m256i value = _mm256_loadu_si256((const __m256i *)from);
            __m256i mixed = _mm256_xor_si256(value, _mm256_loadu_si256((const __m256i *)by));
            __m256i product = _mm256_mul_epu32(mixed, _mm256_srli_epi64(mixed, 32));
            __m256i swapped = _mm256_shuffle_epi32(value, _MM_SHUFFLE(1, 0, 3, 2));
            total[i] = _mm256_add_epi64(total[i], _mm256_add_epi64(product, swapped));
        }
    }
    memcpy(sums, total, sizeof total);
#else
    for (int k = 0; k < count; k++) {
        for (int i = 0; i < 8; i++) {
            uint64_t value = word(data + STRIPE * k + 8 * i), mixed = value ^ word(key + 8 * (k + i));
            sums[i ^ 1] += value;
            sums[i] += (mixed & 0xffffffffu) * (mixed >> 32);
        }
    }
#endif
}

/* Take the next bytes: a multiple of 64, unless they are the last ones. */
static inline void digest_add(Digest *one, const uint8_t *data, uint64_t count) {
    uint64_t stripe = one->done / STRIPE, begin = one->done;
    one->done += count;
    /* The last stripe of all is added at the end, in another way. */
    uint64_t all = (one->size - 1) / STRIPE, end = one->done / STRIPE < all ? one->done / STRIPE : all;
    for (const uint8_t *at = data; stripe < end;) {
        int first = (int)(stripe % STRIPES);
        int number = end - stripe < (uint64_t)(STRIPES - first) ? (int)(end - stripe) : STRIPES - first;
        add_stripes(one->sums, at, secret + 8 * first, number);
        at += STRIPE * number, stripe += (uint64_t)number;
        if (stripe % STRIPES) continue;
        for (int i = 0; i < 8; i++) {
            uint64_t sum = one->sums[i] ^ one->sums[i] >> 47;
            one->sums[i] = (sum ^ word(secret + SECRET - STRIPE + 8 * i)) * PRIME32_1;
        }
    }
    if (count >= STRIPE) {
        memcpy(one->last, data + count - STRIPE, STRIPE);
    } else if (begin) {
        memmove(one->last, one->last + count, STRIPE - count);
        memcpy(one->last + STRIPE - count, data, count);
    }
}

/* Give the digest, 0 if there are fewer than 241 bytes. */
static inline uint64_t digest_end(const Digest *one) {
    if (one->size < SHORTEST) return 0;
    uint64_t sums[8], total = one->size * PRIME64_1;
    memcpy(sums, one->sums, sizeof sums);
    add_stripes(sums, one->last, secret + SECRET - STRIPE - 7, 1);
    for (int i = 0; i < 8; i += 2) {
        const uint8_t *key = secret + 11 + 8 * i;
        __uint128_t product = (__uint128_t)(sums[i] ^ word(key)) * (sums[i + 1] ^ word(key + 8));
        total += (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    total = (total ^ total >> 37) * 0x165667919E3779F9u;
    return total ^ total >> 32;
}

static inline uint64_t digest(const uint8_t *data, uint64_t size) {
    Digest one = digest_of(size);
    digest_add(&one, data, size);
    return digest_end(&one);
}

#endif
