/*
 * Test support: the vocabulary of a GGUF file, read without src/store.
 *
 * Deliberately independent of the real reader, so that a mistake there cannot
 * hide one in the tokenizers, and strict: anything unexpected is an error.
 */
#ifndef PRECIS_TEST_VOCAB_GGUF_H
#define PRECIS_TEST_VOCAB_GGUF_H

#include "text/vocab.h"

typedef struct vocab_gguf {
    pr_vocab_spec spec; /* borrows everything below */
    char *data;         /* the file */
    size_t len;
    pr_text_ref *tokens, *merges;
    float *scores;
    uint8_t *attrs;
    char *pre;
    char *chat_template; /* NULL: none */
} vocab_gguf;

/* PR_ERR_NOTFOUND when there is no such file. */
pr_status vocab_gguf_load(const char *path, vocab_gguf *out, pr_err *err);
void vocab_gguf_free(vocab_gguf *v);

/* Path of a test data file into buf, from PRECIS_TEST_DATA or ../shared/data; NULL when it is not there. */
const char *test_data_path(const char *name, char *buf, size_t buf_len);

#endif
