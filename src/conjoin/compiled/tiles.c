/* Elementwise programs over blocks of numbers, a tile of 512 at a time.

   Torch runs one operation after the other, each over a whole block: what is between two of them
   goes through the second cache. Here all operations are done on a tile before the next one, so
   that it stays in the first cache, and numbers are widened and rounded on the way.

   An instruction is `to = from (operation) other`, of registers that hold a tile of float32 each.
   The operations are those of torch to the last bit, which `programs.py` checks for every program.
   Nothing here knows of methods, files or Python; nothing is allocated or kept. */

#include "numbers.h"
#include "program.h"

enum { REGISTERS = 48 };

/* As in `program.py`. */
enum {
    LOAD, STORE, FILL, COPY,
    ADD, SUBTRACT, MULTIPLY, DIVIDE, ADD_SCALED,
    ABSOLUTE, NEGATE, SIGN, RELU, BITS_AND,
    EQUAL, NOT_EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL,
    MAXIMUM, MINIMUM, HARD_SHRINK, COPY_SIGN,
    SELECT, SUM, SUM_OF_PRODUCTS
};

/* CRC-32 of all C here, so that no library is used that was compiled of another version of it. */
#if !defined(SOURCE)
#define SOURCE 0u
#endif
uint32_t conjoin_source(void) { return SOURCE; }

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
