/*
 * A GGUF metadata walker for tests: reads the keys of tokenizer.ggml.*, skips
 * every other key by its type, and never looks at tensors.
 */
#include "vocab_gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, N_TYPES };

static const uint8_t type_size[N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct reader {
    const char *at, *end;
    bool bad;
} reader;

static uint64_t number(reader *r, size_t bytes) {
    uint64_t value = 0;
    if ((size_t)(r->end - r->at) < bytes) r->bad = true;
    if (r->bad) return 0;
    memcpy(&value, r->at, bytes);
    r->at += bytes;
    return value;
}

static pr_text_ref string(reader *r) {
    uint64_t len = number(r, 8);
    if (len > (uint64_t)(r->end - r->at)) r->bad = true;
    if (r->bad) return (pr_text_ref){"", 0};
    pr_text_ref s = {r->at, (size_t)len};
    r->at += len;
    return s;
}

static void skip(reader *r, uint32_t type, uint64_t count) {
    for (uint64_t i = 0; i < count && !r->bad; i++) {
        if (type == STRING) string(r);
        else if (type < N_TYPES && type != ARRAY) number(r, type_size[type]);
        else r->bad = true;
    }
}

static char *copy(pr_text_ref s) { return pr_strndup(PR_TAG_MISC, s.data, s.len); }

static bool is(pr_text_ref key, const char *name) {
    static const char prefix[] = "tokenizer.";
    size_t n = sizeof prefix - 1;
    return key.len == n + strlen(name) && memcmp(key.data, prefix, n) == 0 &&
           memcmp(key.data + n, name, key.len - n) == 0;
}

static void read_strings(reader *r, uint64_t count, pr_text_ref **out, size_t *n) {
    *out = pr_calloc(PR_TAG_MISC, (size_t)count, sizeof **out);
    *n = (size_t)count;
    if (!*out) r->bad = true;
    for (uint64_t i = 0; i < count && !r->bad; i++) (*out)[i] = string(r);
}

static uint8_t attr_of_type(uint64_t type) {
    static const uint8_t attrs[] = {
        0, 0, PR_TOKEN_UNKNOWN, PR_TOKEN_CONTROL, PR_TOKEN_USER_DEFINED, PR_TOKEN_UNUSED, PR_TOKEN_BYTE};
    return type < sizeof attrs ? attrs[type] : 0;
}

static void read_array(reader *r, pr_text_ref key, vocab_gguf *v) {
    uint32_t type = (uint32_t)number(r, 4);
    uint64_t count = number(r, 8);
    if (count > (uint64_t)(r->end - r->at)) r->bad = true;
    if (r->bad) return;
    if (is(key, "ggml.tokens") && type == STRING && !v->tokens) {
        read_strings(r, count, &v->tokens, &v->spec.n_tokens);
    } else if (is(key, "ggml.merges") && type == STRING && !v->merges) {
        read_strings(r, count, &v->merges, &v->spec.n_merges);
    } else if (is(key, "ggml.scores") && type == F32 && !v->scores) {
        v->scores = pr_calloc(PR_TAG_MISC, (size_t)count, sizeof *v->scores);
        for (uint64_t i = 0; i < count && v->scores && !r->bad; i++) {
            uint32_t bits = (uint32_t)number(r, 4);
            memcpy(&v->scores[i], &bits, 4);
        }
    } else if (is(key, "ggml.token_type") && type == I32 && !v->attrs) {
        v->attrs = pr_calloc(PR_TAG_MISC, (size_t)count, 1);
        for (uint64_t i = 0; i < count && v->attrs && !r->bad; i++) v->attrs[i] = attr_of_type(number(r, 4));
    } else {
        skip(r, type, count);
    }
}

static void read_value(reader *r, pr_text_ref key, vocab_gguf *v, pr_text_ref *model, bool *add_bos_given) {
    pr_vocab_spec *s = &v->spec;
    uint32_t type = (uint32_t)number(r, 4);
    if (type == ARRAY) {
        read_array(r, key, v);
    } else if (type == STRING) {
        pr_text_ref text = string(r);
        if (is(key, "ggml.model")) *model = text;
        if (is(key, "ggml.pre") && !v->pre) v->pre = copy(text);
        if (is(key, "chat_template") && !v->chat_template) v->chat_template = copy(text);
    } else if (type == U32) {
        int32_t id = (int32_t)number(r, 4);
        if (is(key, "ggml.bos_token_id")) s->bos = id;
        if (is(key, "ggml.eos_token_id")) s->eos = id;
        if (is(key, "ggml.unknown_token_id")) s->unk = id;
        if (is(key, "ggml.padding_token_id")) s->pad = id;
        if (is(key, "ggml.eot_token_id")) s->eot = id;
    } else if (type == BOOL) {
        bool on = number(r, 1) != 0;
        if (is(key, "ggml.add_bos_token")) s->add_bos = on, *add_bos_given = true;
        if (is(key, "ggml.add_eos_token")) s->add_eos = on;
        if (is(key, "ggml.add_space_prefix")) s->add_space_prefix = on;
        if (is(key, "ggml.remove_extra_whitespaces")) s->remove_extra_whitespaces = on;
    } else {
        skip(r, type, 1);
    }
}

static pr_status parse(vocab_gguf *v, const char *path, pr_err *err) {
    reader r = {.at = v->data, .end = v->data + v->len};
    uint64_t magic = number(&r, 4), version = number(&r, 4);
    number(&r, 8);
    uint64_t n_keys = number(&r, 8);
    if (r.bad || magic != 0x46554747 || version < 2 || version > 3)
        return pr_fail(err, PR_ERR_FORMAT, "%s: no GGUF", path);
    v->spec = (pr_vocab_spec){.bos = -1, .eos = -1, .unk = -1, .pad = -1, .eot = -1};
    v->spec.add_space_prefix = v->spec.escape_whitespaces = true;
    pr_text_ref model = {"", 0};
    bool add_bos_given = false;
    for (uint64_t i = 0; i < n_keys && !r.bad; i++) {
        pr_text_ref key = string(&r);
        read_value(&r, key, v, &model, &add_bos_given);
    }
    bool spm = model.len == 5 && memcmp(model.data, "llama", 5) == 0;
    bool bpe = model.len == 4 && memcmp(model.data, "gpt2", 4) == 0;
    if (r.bad || !v->tokens || (!spm && !bpe)) return pr_fail(err, PR_ERR_FORMAT, "%s: no vocabulary", path);
    v->spec.kind = spm ? PR_VOCAB_SPM : PR_VOCAB_BPE;
    v->spec.tokens = v->tokens;
    v->spec.merges = v->merges;
    v->spec.scores = v->scores;
    v->spec.attrs = v->attrs;
    v->spec.pre = v->pre;
    if (!add_bos_given) v->spec.add_bos = spm || pr_vocab_pre_adds_bos(v->pre);
    return PR_OK;
}

pr_status vocab_gguf_load(const char *path, vocab_gguf *out, pr_err *err) {
    *out = (vocab_gguf){0};
    pr_status status = pr_file_slurp(path, (size_t)1 << 30, &out->data, &out->len, err);
    if (!status) status = parse(out, path, err);
    if (status) vocab_gguf_free(out);
    return status;
}

void vocab_gguf_free(vocab_gguf *v) {
    pr_free(v->data);
    pr_free(v->tokens);
    pr_free(v->merges);
    pr_free(v->scores);
    pr_free(v->attrs);
    pr_free(v->pre);
    pr_free(v->chat_template);
    *v = (vocab_gguf){0};
}

const char *test_data_path(const char *name, char *buf, size_t buf_len) {
    const char *root = getenv("PRECIS_TEST_DATA");
    snprintf(buf, buf_len, "%s/%s", root ? root : "../shared/data", name);
    return pr_path_exists(buf) ? buf : NULL;
}
