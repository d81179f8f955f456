/*
 * Keys of caches: SHA-256 over a sequence of fields.
 *
 * Each field goes in with its length before it, so two sequences with the same bytes but other borders have different
 * keys. Fields have no names: whoever builds a key always adds the same ones in the same order.
 *
 * Threads: a builder belongs to one thread; keys are plain values.
 */
#ifndef PRECIS_CACHE_KEY_H
#define PRECIS_CACHE_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pr_cache_key {
    uint8_t bytes[32];
} pr_cache_key;

typedef struct pr_cache_hash {
    void *ctx;
    bool failed; /* from the first failure on nothing is added */
} pr_cache_hash;

void pr_cache_hash_begin(pr_cache_hash *h);
void pr_cache_hash_bytes(pr_cache_hash *h, const void *data, size_t len);
void pr_cache_hash_text(pr_cache_hash *h, const char *text); /* NULL is not "" */
void pr_cache_hash_u64(pr_cache_hash *h, uint64_t n);
void pr_cache_hash_f32(pr_cache_hash *h, float x); /* 0 and -0 are one number */
/* Ends the builder, always. False: out of memory at some point; *out is not to be used. */
bool pr_cache_hash_end(pr_cache_hash *h, pr_cache_key *out);

#endif
