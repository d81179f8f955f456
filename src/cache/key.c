/*
 * Keys: a thin layer over libcrypto's SHA-256.
 *
 * A hash of 256 bits is taken for the question itself: nothing compares the texts again. That rests on nobody being able to
 * make two questions with one SHA-256, which is why it is no quicker hash.
 */
#include "cache/key.h"

#include <openssl/evp.h>
#include <string.h>

void pr_cache_hash_begin(pr_cache_hash *h) {
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    h->failed = !ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1;
    h->ctx = ctx;
}

static void add(pr_cache_hash *h, const void *data, size_t len) {
    h->failed = h->failed || EVP_DigestUpdate(h->ctx, data, len) != 1;
}

void pr_cache_hash_bytes(pr_cache_hash *h, const void *data, size_t len) {
    uint64_t n = len;
    add(h, &n, sizeof n);
    if (len) add(h, data, len);
}

void pr_cache_hash_text(pr_cache_hash *h, const char *text) {
    pr_cache_hash_u64(h, text != NULL);
    if (text) pr_cache_hash_bytes(h, text, strlen(text));
}

void pr_cache_hash_u64(pr_cache_hash *h, uint64_t n) { pr_cache_hash_bytes(h, &n, sizeof n); }

void pr_cache_hash_f32(pr_cache_hash *h, float x) {
    if (x == 0) x = 0;
    pr_cache_hash_bytes(h, &x, sizeof x);
}

bool pr_cache_hash_end(pr_cache_hash *h, pr_cache_key *out) {
    unsigned len = 0;
    bool ok = !h->failed && EVP_DigestFinal_ex(h->ctx, out->bytes, &len) == 1 && len == sizeof out->bytes;
    EVP_MD_CTX_free(h->ctx);
    h->ctx = NULL;
    h->failed = true;
    return ok;
}
