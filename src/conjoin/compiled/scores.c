/* Changes of a matrix from another one, scored: |w - v|, times a factor of the row. */

#include "numbers.h"

typedef struct {
    const void *model, *base;
    int model_dtype, base_dtype;
    const float *factors; /* one for each row */
    int64_t columns;
} Matrix;

/* Make a tile of changes from `start` on, of numbers of the base, and of scores. */
static int make_tile(const Matrix *matrix, int64_t start, int count, float *restrict base,
                     float *restrict change, float *restrict score) {
    int found = load(change, matrix->model, matrix->model_dtype, start, count);
    found |= load(base, matrix->base, matrix->base_dtype, start, count);
    int64_t row = start / matrix->columns, left = matrix->columns - start % matrix->columns;
    for (int i = 0; i < count; left = matrix->columns, row++) {
        int end = count - i < left ? count : i + (int)left;
        float factor = matrix->factors[row];
        for (; i < end; i++) score[i] = factor;
    }
    for (int i = 0; i < TILE; i++) {
        change[i] -= base[i];
        score[i] *= __builtin_fabsf(change[i]);
    }
    return found;
}

void conjoin_scores(const void *model, int model_dtype, const void *base, int base_dtype,
                    const float *factors, int64_t rows, int64_t columns, float *found) {
    Matrix matrix = {model, base, model_dtype, base_dtype, factors, columns};
    float ancestor[TILE], change[TILE], score[TILE] = {0};
    int64_t size = rows * columns;
    for (int64_t start = 0; start < size; start += TILE) {
        int count = size - start < TILE ? (int)(size - start) : TILE;
        make_tile(&matrix, start, count, ancestor, change, score);
        memcpy(found + start, score, 4 * (size_t)count);
    }
}

/* Add to the base the changes whose scores are not less than a threshold, and give which numbers
   were not finite. The result has the dtype of the base. */
int conjoin_add_scored(const void *model, int model_dtype, const void *base, int base_dtype,
                       const float *factors, int64_t rows, int64_t columns, float threshold,
                       void *result) {
    Matrix matrix = {model, base, model_dtype, base_dtype, factors, columns};
    float ancestor[TILE], change[TILE], score[TILE] = {0};
    int64_t size = rows * columns;
    int found = 0;
    for (int64_t start = 0; start < size; start += TILE) {
        int count = size - start < TILE ? (int)(size - start) : TILE;
        found |= make_tile(&matrix, start, count, ancestor, change, score);
        for (int i = 0; i < TILE; i++)
            change[i] = change[i] * (score[i] >= threshold ? 1.f : 0.f) + ancestor[i];
        found |= store(result, change, base_dtype, start, count);
    }
    return found;
}
