/* Programs of elementwise operations: see tiles.c. */

#ifndef CONJOIN_PROGRAM
#define CONJOIN_PROGRAM

#include <stdint.h>

typedef struct {
    int32_t operation;
    int32_t to;     /* register; of STORE, an output; of sums, their number */
    int32_t from;   /* register; of LOAD, an input */
    int32_t other;  /* register, or -1: the constant */
    int32_t third;  /* register of ADD_SCALED's and SELECT's second number; of LOAD and STORE, a dtype */
    float constant;
} Instruction;

/* Run a program over `count` elements, and give which of its numbers were not finite. Sums are
   added to what is in `sums`. */
int conjoin_run(const Instruction *program, int length, const void *const *inputs,
                void *const *outputs, double *sums, int64_t count);

#endif
