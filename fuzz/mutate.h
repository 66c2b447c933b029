/*
 * mutate.h: structure-aware mutation: what a fuzz target's format is made of is changed as such, and lengths
 * and sizes are made right again, mostly, so that the mutant gets past the first check.
 */
#ifndef EPF_MUTATE_H
#define EPF_MUTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* libFuzzer's own, byte by byte. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

typedef struct mutation {
    uint64_t state; /* of the random numbers */
} mutation;

static inline uint64_t mutate_random(mutation *m, uint64_t below)
{
    m->state = m->state * 6364136223846793005u + 1442695040888963407u;
    return below == 0 ? 0 : (m->state >> 33) % below;
}

/* Bytes [at, at + length) of data become `bytes`; returns the new size, or the old one where it does not fit. */
size_t mutate_splice(uint8_t *data, size_t size, size_t max_size, size_t at, size_t length,
                     const void *bytes, size_t num_bytes);

/* One change to text of JSON or a Python literal: a number, a word, a member, a bracket. */
size_t mutate_text(mutation *m, uint8_t *text, size_t size, size_t max_size);

#endif
