/*
 * Fuzz: tokenizer.json, and after a zero byte tokenizer_config.json. What is accepted must tokenize into ids that
 * exist and whose pieces join up; and nothing leaks.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/vocab_json.h"

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

static void use(const pr_vocab *v) {
    static const char text[] = "Hello <s>  w\xc3\xb6rld 123\xff\n\n a";
    int32_t ids[256];
    size_t n;
    if (pr_tokenize(v, text, strlen(text), PR_TOKENIZE_BOS | PR_TOKENIZE_SPECIAL, ids, 256, &n, NULL) != PR_OK) return;
    for (size_t i = 0; i < n; i++) {
        size_t len;
        require(pr_vocab_piece(v, ids[i], true, &len) != NULL);
        require(len <= pr_vocab_piece_max(v));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size, rest = zero ? size - n - 1 : 0;
    json_t *tokenizer = NULL, *config = NULL;
    pr_vocab *v = NULL;
    pr_err err = {0};
    size_t before = pr_mem_total();
    if (pr_json_parse((const char *)data, n, "tokenizer.json", &tokenizer, &err) == PR_OK) {
        if (rest) pr_json_parse((const char *)zero + 1, rest, "tokenizer_config.json", &config, &err);
        pr__vocab_json in = {.tokenizer = tokenizer, .config = config, .bos_id = 0, .eos_id = -1};
        err = (pr_err){0};
        pr_status status = pr__vocab_from_json(&in, &v, &err);
        require(status == PR_OK ? v != NULL : v == NULL && err.status == status && err.text[0] != '\0');
    }
    if (v) use(v);
    pr_vocab_free(v);
    json_decref(tokenizer);
    json_decref(config);
    require(pr_mem_total() == before);
    return 0;
}
