/* How far the softmax of each row of a matrix is from that of another one's row.

   D = sum_j p_j log(p_j / q_j),   p = softmax(w) + eps,   q = softmax(v) + eps

   is of the second order of d = w - v, and what is left of terms of the first order. Here it is a
   sum of numbers that are not negative, since p and q have the same sum:

   D = sum_j q_j f(p_j / q_j - 1),   f(x) = (1 + x) log(1 + x) - x

   p / q - 1 = s (exp(d - c) - 1) / q with s = q - eps, the softmax of v, and c the logarithm of
   sum_j s_j exp(d_j). So nothing cancels, and float32 is enough: D is right to a few 1e-7 of it. An
   error of c adds half its square (and less than that for eps).

   The polynomials are of least largest relative error, below 1e-8. */

#include "numbers.h"

/* Where they hold, and nothing leaves the range of float32. Torch does the rows beyond. */
static const float MOST_WEIGHT = 64.f, MOST_CHANGE = .5f;

/* Of the numbers that are there, and some behind them, up to whole vectors. */
#define EACH for (int i = 0; i < width; i++)

static inline float exponential(float x) {
    /* x = n log(2) + r. Adding 1.5 * 2**23 leaves n in the lowest bits. */
    float shifted = SCALED(12582912.f, x, 1.44269504f);
    float n = shifted - 12582912.f;
    float r = SCALED(SCALED(x, n, -.693145752f), n, -1.42860677e-6f);
    float p = SCALED(.00836878041f, r, .00138144671f);
    p = SCALED(.0416683942f, r, p);
    p = SCALED(.166665201f, r, p);
    p = SCALED(.499999934f, r, p);
    float scale = as_float((as_bits(shifted) - 0x4b400000u + 127u) << 23);
    return scale * (1.f + SCALED(r, r * r, p));
}

/* exp(x) - 1 for x in [-1, 1]. */
static inline float exponential_less_one(float x) {
    float p = SCALED(2.54121620e-5f, x, 2.75705329e-6f);
    p = SCALED(.000198476929f, x, p);
    p = SCALED(.00138844704f, x, p);
    p = SCALED(.00833328288f, x, p);
    p = SCALED(.0416667818f, x, p);
    p = SCALED(.166666676f, x, p);
    p = SCALED(.499999992f, x, p);
    return SCALED(x, x * x, p);
}

/* q f(a / q). With z = a / (2 q + a), log(1 + a / q) is 2 (z + z**3 / 3 + z**5 / 5 + ...), so that
   f(x) = x z + 2 (1 + x) z**3 (1/3 + z**2 / 5 + ...). */
static inline float term(float a, float q) {
    float z = a / (2.f * q + a), u = z * z;
    float p = SCALED(.0732325936f, u, .141527142f);
    p = SCALED(.113210668f, u, p);
    p = SCALED(.1427469f, u, p);
    p = SCALED(.200002097f, u, p);
    p = SCALED(.333333327f, u, p);
    return z * SCALED(a, 2.f * (q + a) * u, p);
}

static float greatest(const float *numbers, int width) {
    uint32_t most = 0;
    EACH most = larger(most, as_bits(numbers[i]) & 0x7fffffffu);
    return as_float(most);
}

typedef struct {
    const void *model, *base;
    int model_dtype, base_dtype;
    int64_t start; /* of the row */
} Row;

static int whole_vectors(int count) { return (count + LANES - 1) / LANES * LANES; }

/* Load a tile of the base and of the change from it. */
static int load_both(const Row *row, int64_t at, int count, float *restrict base,
                     float *restrict change) {
    int width = whole_vectors(count);
    load(change, row->model, row->model_dtype, row->start + at, count);
    load(base, row->base, row->base_dtype, row->start + at, count);
    EACH change[i] -= base[i];
    /* False for NaN. */
    return greatest(base, width) <= MOST_WEIGHT && greatest(change, width) <= MOST_CHANGE;
}

static double divergence(const Row *row, int64_t columns, float eps) {
    float base[TILE], change[TILE], results[TILE];
    double total = 0, changed = 0, found = 0;
    for (int64_t at = 0; at < columns; at += TILE) {
        int count = columns - at < TILE ? (int)(columns - at) : TILE;
        int width = whole_vectors(count);
        if (!load_both(row, at, count, base, change)) return NAN;
        EACH base[i] = exponential(base[i]);
        EACH change[i] = exponential_less_one(change[i]);
        total += sum(base, 0, count);
        changed += sum(base, change, count);
    }
    /* Of two parts, since it may be nearly all of every change. */
    double constant = log1p(changed / total);
    float most = (float)constant, rest = (float)(constant - (double)most);
    float scale = (float)(1 / total);
    for (int64_t at = 0; at < columns; at += TILE) {
        int count = columns - at < TILE ? (int)(columns - at) : TILE;
        int width = whole_vectors(count);
        load_both(row, at, count, base, change);
        EACH {
            float softmax = exponential(base[i]) * scale;
            float moved = exponential_less_one((change[i] - most) - rest);
            results[i] = term(softmax * moved, softmax + eps);
        }
        found += sum(results, 0, count);
    }
    /* Nearly one number is added to all weights, and float32 does not tell what else there is. */
    return constant * constant > 200 * found ? NAN : found;
}

/* The divergence of each row of a matrix from that of `base`; NaN for a row that torch has to do. */
void conjoin_divergence(const void *model, int model_dtype, const void *base, int base_dtype,
                        int64_t rows, int64_t columns, float eps, double *found) {
    for (int64_t k = 0; k < rows; k++) {
        Row row = {model, base, model_dtype, base_dtype, k * columns};
        found[k] = divergence(&row, columns, eps);
    }
}
