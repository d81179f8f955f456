/*
 * Test support: files built byte by byte, so that the readers are tested against the format and not
 * against our own writer.
 */
#ifndef PRECIS_TEST_BLOB_H
#define PRECIS_TEST_BLOB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct blob {
    unsigned char data[1 << 16];
    size_t n;
} blob;

static inline size_t blob_bytes(blob *b, const void *data, size_t n) {
    size_t at = b->n;
    assert_true(n <= sizeof b->data - b->n);
    if (n) memcpy(b->data + b->n, data, n);
    b->n += n;
    return at;
}

/* The low bytes of v; returns where they stand. */
static inline size_t blob_int(blob *b, uint64_t v, size_t bytes) { return blob_bytes(b, &v, bytes); }

/* A GGUF string; returns where its length stands. */
static inline size_t blob_str(blob *b, const char *text) {
    size_t at = blob_int(b, strlen(text), 8);
    blob_bytes(b, text, strlen(text));
    return at;
}

static inline void blob_pad(blob *b, size_t to) {
    while (b->n % to) blob_int(b, 0, 1);
}

static inline void blob_save_part(const blob *b, size_t n, const char *path) {
    unlink(path); /* overwriting makes some file systems write to disk at once */
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b->data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void blob_save(const blob *b, const char *path) { blob_save_part(b, b->n, path); }

static inline void save_text(const char *path, const char *text) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* A fresh folder. */
static inline void temp_folder(char *out, size_t len) {
    const char *base = getenv("TMPDIR");
    snprintf(out, len, "%s/precis-test-XXXXXX", base && *base ? base : "/tmp");
    assert_non_null(mkdtemp(out));
}

/* Where the shared models are; false (said once) when they are not there. */
static inline int shared_path(char *out, size_t len, const char *name) {
    const char *base = getenv("PRECIS_TEST_DATA");
    snprintf(out, len, "%s/%s", base && *base ? base : "../shared/data", name);
    if (access(out, R_OK) == 0) return 1;
    printf("SKIPPED no %s\n", out);
    return 0;
}

#endif
