/* Ranges of files, through a program, to a range of a file: block after block, each computed and
   written while it is in the cache, with the digests of all that is read and written.

   Whoever calls it opens the files, and does the same work in another way where this one gives
   up: on numbers that are not finite, and on anything that the system says no to. */

#define _FILE_OFFSET_BITS 64
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "digest.h"
#include "program.h"

enum { MOST = 64 }; /* inputs; sums */

/* As in `files.py`. */
enum { DONE, GAVE_UP };

typedef struct {
    int64_t offset; /* of the first byte */
    int32_t file;   /* its descriptor */
    int32_t size;   /* of an element, in bytes */
} Range;

static int read_all(const Range *range, uint8_t *to, int64_t start, int64_t count) {
    off_t at = range->offset + start * range->size;
    for (size_t left = (size_t)(count * range->size); left;) {
        ssize_t got = pread(range->file, to, left, at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        to += got, at += got, left -= (size_t)got;
    }
    return 1;
}

static int write_all(const Range *range, const uint8_t *from, int64_t start, int64_t count) {
    off_t at = range->offset + start * range->size;
    for (size_t left = (size_t)(count * range->size); left;) {
        ssize_t got = pwrite(range->file, from, left, at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        from += got, at += got, left -= (size_t)got;
    }
    return 1;
}

/* Run a program over `count` elements of files, in blocks of which the first begins at the first one.

   program, length: of the program; without any, the bytes of the only input are written as they are
   inputs:   `inputs` ranges
   output:   where the result goes, or null
   sums:     [number] are added up block by block
   block:    elements; a multiple of 64
   memory:   for a block of all inputs and of the output
   digests:  [inputs, blocks] of what is read, or null; 0 where a block has fewer than 241 bytes
   written:  digest of the result, 0 where it has fewer bytes */
int conjoin_files(const Instruction *program, int length, const Range *input, int inputs,
                  const Range *output, double *sums, int number, int64_t count, int64_t block,
                  uint8_t *memory, uint64_t *digests, uint64_t *written) {
    uint8_t *read[MOST], *made = memory;
    double here[MOST];
    if (inputs > MOST || number > MOST) return GAVE_UP;
    for (int k = 0; k < inputs; k++) {
        read[k] = made;
        made += block * input[k].size;
    }
    if (!length) made = read[0];
    Digest result = digest_of(output ? (uint64_t)(count * output->size) : 0);
    int64_t blocks = (count + block - 1) / block;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t start = i * block, size = count - start < block ? count - start : block;
        for (int k = 0; k < inputs; k++) {
            if (!read_all(input + k, read[k], start, size)) return GAVE_UP;
            if (digests) digests[k * blocks + i] = digest(read[k], (uint64_t)(size * input[k].size));
        }
        memset(here, 0, sizeof here);
        void *outputs[1] = {made};
        if (length && conjoin_run(program, length, (const void *const *)read, outputs, here, size))
            return GAVE_UP;
        for (int k = 0; k < number; k++) sums[k] += here[k];
        if (!output) continue;
        digest_add(&result, made, (uint64_t)(size * output->size));
        if (!write_all(output, made, start, size)) return GAVE_UP;
    }
    if (output) *written = digest_end(&result);
    return DONE;
}
