/*
 * Finding the tokenizer of a model file.
 *
 * GGUF metadata is read here, tokenizer.json in vocab_json.c; both end in a
 * pr_vocab_spec whose arrays live just until pr_vocab_build() has copied them.
 * The token texts themselves are never copied here: they are references into
 * the metadata, so a vocabulary of a quarter of a million tokens costs 4 MB for a moment.
 *
 * Defaults for what GGUF files leave out follow the readers that these files
 * were made for: a SentencePiece vocabulary has <unk>, <s>, </s> as 0, 1, 2 and
 * begins with BOS and a space; a byte-level one begins with BOS only if its
 * pre-tokenizer says so. One default is different: where a byte-level vocabulary names no
 * BOS or EOS it has none here, not token 11 (an accident of one old model).
 */
#include "engine/vocab_load.h"

#include <ctype.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/str.h"
#include "engine/vocab_json.h"
#include "text/pretok.h"

#define TOKENIZER_MAX ((size_t)128 << 20)
#define CONFIG_MAX    ((size_t)16 << 20)

static const char key_json[] = "precis.tokenizer.json";

/* ---- GGUF ---- */

/* An array under key, of strings when strings is set; NULL when absent. */
static pr_status find_array(const pr_model_file *file, const char *key, bool strings, const pr_meta **out,
                            pr_err *err) {
    const char *data;
    size_t len;
    *out = pr_model_file_meta(file, key);
    if (!*out) return PR_OK;
    bool fits = pr_meta_kind(*out) == PR_META_ARRAY;
    if (fits && strings && pr_meta_len(*out) > 0) fits = pr_meta_at_str(*out, 0, &data, &len);
    return fits ? PR_OK
                : pr_fail(err, PR_ERR_FORMAT, "%s must be an array of %s", key, strings ? "strings" : "numbers");
}

static pr_status read_texts(const pr_model_file *file, const char *key, pr_arena *arena, const pr_text_ref **out,
                            size_t *n, pr_err *err) {
    const pr_meta *m;
    pr_status status = find_array(file, key, true, &m, err);
    if (status != PR_OK || !m) return status;
    *n = (size_t)pr_meta_len(m);
    pr_text_ref *refs = pr_arena_array(arena, *n, sizeof *refs);
    if (!refs) return pr_fail_nomem(err, key, *n * sizeof *refs);
    for (size_t i = 0; i < *n; i++) pr_meta_at_str(m, i, &refs[i].data, &refs[i].len);
    *out = refs;
    return PR_OK;
}

/* An array of one number a token; NULL in *m when absent. */
static pr_status find_column(const pr_model_file *file, const char *key, size_t n_tokens, const pr_meta **m,
                             pr_err *err) {
    pr_status status = find_array(file, key, false, m, err);
    if (status == PR_OK && *m && pr_meta_len(*m) != n_tokens) {
        status = pr_fail(err, PR_ERR_FORMAT, "%s has %zu elements for %zu tokens", key, (size_t)pr_meta_len(*m),
                         n_tokens);
    }
    return status;
}

static pr_status read_scores(const pr_model_file *file, pr_arena *arena, pr_vocab_spec *spec, pr_err *err) {
    const char *key = "tokenizer.ggml.scores";
    const pr_meta *m;
    pr_status status = find_column(file, key, spec->n_tokens, &m, err);
    if (status != PR_OK || !m) return status;
    float *scores = pr_arena_array(arena, spec->n_tokens, sizeof *scores);
    if (!scores) return pr_fail_nomem(err, key, spec->n_tokens * sizeof *scores);
    for (size_t i = 0; i < spec->n_tokens; i++) {
        double v;
        if (!pr_meta_at_f64(m, i, &v) || v != v) return pr_fail(err, PR_ERR_FORMAT, "%s[%zu] is not a number", key, i);
        scores[i] = (float)v;
    }
    spec->scores = scores;
    return PR_OK;
}

static pr_status read_attrs(const pr_model_file *file, pr_arena *arena, pr_vocab_spec *spec, uint8_t **out,
                            pr_err *err) {
    /* by GGUF token type: undefined, normal, unknown, control, user-defined, unused, byte */
    static const uint8_t attr_of[] = {
        0, 0, PR_TOKEN_UNKNOWN, PR_TOKEN_CONTROL, PR_TOKEN_USER_DEFINED, PR_TOKEN_UNUSED, PR_TOKEN_BYTE};
    const char *key = "tokenizer.ggml.token_type";
    const pr_meta *m;
    pr_status status = find_column(file, key, spec->n_tokens, &m, err);
    if (status != PR_OK) return status;
    uint8_t *attrs = pr_arena_alloc(arena, spec->n_tokens);
    if (!attrs) return pr_fail_nomem(err, key, spec->n_tokens);
    for (size_t i = 0; m && i < spec->n_tokens; i++) {
        int64_t type;
        if (!pr_meta_at_i64(m, i, &type) || type < 0 || type >= (int64_t)sizeof attr_of) {
            return pr_fail(err, PR_ERR_FORMAT, "%s[%zu] must be from 0 to 6", key, i);
        }
        attrs[i] = attr_of[type];
    }
    spec->attrs = *out = attrs;
    return PR_OK;
}

/* A token id; absent keeps *id when that is a token, or gives -1. 0xffffffff is how some writers say "none". */
static pr_status read_id(const pr_model_file *file, const char *key, size_t n_tokens, int32_t *id, pr_err *err) {
    uint32_t v = (uint32_t)*id;
    pr_status status = pr_meta_u32(file, key, &v, err);
    if (status != PR_OK) return status;
    bool given = pr_model_file_meta(file, key) != NULL && v != UINT32_MAX;
    if (given && v >= n_tokens)
        return pr_fail(err, PR_ERR_FORMAT, "%s is %u, but there are %zu tokens", key, v, n_tokens);
    *id = v < n_tokens ? (int32_t)v : -1;
    return PR_OK;
}

static pr_status read_ids(const pr_model_file *file, pr_vocab_spec *spec, pr_err *err) {
    struct {
        const char *key;
        int32_t *id;
    } ids[] = {
        {"tokenizer.ggml.bos_token_id", &spec->bos},     {"tokenizer.ggml.eos_token_id", &spec->eos},
        {"tokenizer.ggml.unknown_token_id", &spec->unk}, {"tokenizer.ggml.padding_token_id", &spec->pad},
        {"tokenizer.ggml.eot_token_id", &spec->eot},
    };
    bool spm = spec->kind == PR_VOCAB_SPM;
    spec->bos = spm ? 1 : -1;
    spec->eos = spm ? 2 : -1;
    spec->unk = spm ? 0 : -1;
    spec->pad = spec->eot = -1;
    pr_status status = PR_OK;
    for (size_t i = 0; i < sizeof ids / sizeof *ids && status == PR_OK; i++) {
        status = read_id(file, ids[i].key, spec->n_tokens, ids[i].id, err);
    }
    return status;
}

static pr_status read_flags(const pr_model_file *file, pr_vocab_spec *spec, pr_err *err) {
    bool spm = spec->kind == PR_VOCAB_SPM;
    const pr__pre_entry *pre = spm ? NULL : pr__pre_find(spec->pre);
    spec->add_bos = spm || (pre && pre->add_bos);
    spec->add_space_prefix = spm;
    spec->escape_whitespaces = spm;
    spec->ignore_merges = pre && pre->ignore_merges;
    pr_status status = pr_meta_bool(file, "tokenizer.ggml.add_bos_token", &spec->add_bos, err);
    if (status == PR_OK) status = pr_meta_bool(file, "tokenizer.ggml.add_eos_token", &spec->add_eos, err);
    if (status == PR_OK) status = pr_meta_bool(file, "tokenizer.ggml.add_space_prefix", &spec->add_space_prefix, err);
    if (status == PR_OK) {
        status = pr_meta_bool(file, "tokenizer.ggml.remove_extra_whitespaces", &spec->remove_extra_whitespaces, err);
    }
    return status;
}

/* Phi-3 files do not say that their special tokens swallow the space after them; readers know it by the name. */
static void mark_phi3(const pr_model_file *file, const pr_vocab_spec *spec, uint8_t *attrs) {
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    const uint8_t special = PR_TOKEN_CONTROL | PR_TOKEN_USER_DEFINED | PR_TOKEN_UNKNOWN;
    const char *name = "";
    char lower[5] = "";
    if (pr_meta_str(file, "general.name", &name, NULL) != PR_OK) return;
    bool phi3 = false;
    for (; *name && !phi3; name++) {
        for (size_t i = 0; i < 4; i++) lower[i] = (char)tolower((unsigned char)(strnlen(name, 5) > i ? name[i] : 0));
        phi3 = strcmp(lower, "phi3") == 0 || (strncmp(lower, "phi-", 4) == 0 && name[4] == '3');
    }
    for (size_t i = 0; phi3 && i < spec->n_tokens; i++) {
        bool kept = !(attrs[i] & special);
        for (size_t k = 0; k < sizeof keep / sizeof *keep; k++) {
            kept = kept || (spec->tokens[i].len == strlen(keep[k]) &&
                            memcmp(spec->tokens[i].data, keep[k], strlen(keep[k])) == 0);
        }
        if (!kept) attrs[i] |= PR_TOKEN_RSTRIP;
    }
}

static pr_status read_kind(const pr_model_file *file, pr_vocab_spec *spec, pr_err *err) {
    const char *model = NULL;
    pr_status status = pr_meta_str(file, "tokenizer.ggml.model", &model, err);
    if (status != PR_OK) return status;
    if (!model) return pr_fail(err, PR_ERR_FORMAT, "the file has no tokenizer (tokenizer.ggml.model is missing)");
    if (strcmp(model, "llama") == 0) spec->kind = PR_VOCAB_SPM;
    else if (strcmp(model, "gpt2") == 0) spec->kind = PR_VOCAB_BPE;
    else {
        return pr_fail(err, PR_ERR_UNSUPPORTED,
                       "tokenizer.ggml.model is \"%.40s\"; \"llama\" and \"gpt2\" are supported", model);
    }
    return PR_OK;
}

static pr_status from_gguf(const pr_model_file *file, pr_texts *texts, pr_arena *arena, pr_vocab **out, pr_err *err) {
    pr_vocab_spec spec = {.texts = texts};
    uint8_t *attrs = NULL;
    pr_status status = read_kind(file, &spec, err);
    if (status == PR_OK) status = read_texts(file, "tokenizer.ggml.tokens", arena, &spec.tokens, &spec.n_tokens, err);
    if (status != PR_OK) return status;
    if (spec.n_tokens == 0) return pr_fail(err, PR_ERR_FORMAT, "tokenizer.ggml.tokens is missing or empty");
    status = read_scores(file, arena, &spec, err);
    if (status == PR_OK) status = read_attrs(file, arena, &spec, &attrs, err);
    if (status == PR_OK && spec.kind == PR_VOCAB_BPE) {
        status = read_texts(file, "tokenizer.ggml.merges", arena, &spec.merges, &spec.n_merges, err);
        if (status == PR_OK && !spec.merges) status = pr_fail(err, PR_ERR_FORMAT, "tokenizer.ggml.merges is missing");
    }
    if (status == PR_OK) status = pr_meta_str(file, "tokenizer.ggml.pre", &spec.pre, err);
    if (status == PR_OK) status = read_ids(file, &spec, err);
    if (status == PR_OK) status = read_flags(file, &spec, err);
    if (status != PR_OK) return status;
    mark_phi3(file, &spec, attrs);
    return pr_vocab_build(&spec, out, err);
}

/* ---- a folder with tokenizer.json ---- */

static pr_status load_beside(const pr_model_file *file, const char *name, size_t bytes_max, json_t **out, pr_err *err) {
    pr_str path = {0};
    pr_str_printf(&path, "%s/%s", pr_model_file_dir(file), name);
    pr_status status = pr_str_ok(&path) ? PR_OK : pr_fail_nomem(err, "path", path.len);
    if (status == PR_OK && pr_path_exists(path.data)) status = pr_json_load(path.data, bytes_max, out, err);
    pr_str_free(&path);
    return status;
}

/* A field of config.json that is an id or a list of them, of which the first counts. */
static int64_t config_id(const pr_model_file *file, const char *key) {
    const pr_meta *m = pr_model_file_meta(file, key);
    uint32_t id;
    int64_t first;
    if (m && pr_meta_kind(m) == PR_META_ARRAY) return pr_meta_at_i64(m, 0, &first) ? first : -1;
    return m && pr_meta_u32(file, key, &id, NULL) == PR_OK ? (int64_t)id : -1;
}

/* tokenizer_config.json holds one template, or a list of {name, template}. */
static const json_t *template_of(const json_t *config) {
    const json_t *t = json_object_get(config, "chat_template"), *found = NULL;
    if (!json_is_array(t)) return t;
    for (size_t i = 0; i < json_array_size(t); i++) {
        const json_t *entry = json_array_get(t, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        bool is_default = name && strcmp(name, "default") == 0;
        if (!found || is_default) found = json_object_get(entry, "template");
        if (is_default) break;
    }
    return found;
}

/* A chat_template.jinja beside the model is newer than what tokenizer_config.json says. */
static pr_status read_template(const pr_model_file *file, const json_t *config, char **out, pr_err *err) {
    pr_str path = {0};
    pr_str_printf(&path, "%s/chat_template.jinja", pr_model_file_dir(file));
    pr_status status = pr_str_ok(&path) ? PR_OK : pr_fail_nomem(err, "path", path.len);
    if (status == PR_OK && pr_path_exists(path.data)) {
        size_t len;
        status = pr_file_slurp(path.data, CONFIG_MAX, out, &len, err);
    }
    pr_str_free(&path);
    const char *text = status == PR_OK && !*out ? json_string_value(template_of(config)) : NULL;
    if (text) {
        *out = pr_strdup(PR_TAG_VOCAB, text);
        if (!*out) status = pr_fail_nomem(err, "chat template", strlen(text));
    }
    return status;
}

static pr_status from_folder(const pr_model_file *file, pr_texts *texts, pr_vocab **vocab, char **chat_template,
                             pr_err *err) {
    json_t *tokenizer = NULL, *config = NULL, *special_map = NULL;
    pr_status status = load_beside(file, "tokenizer.json", TOKENIZER_MAX, &tokenizer, err);
    if (status == PR_OK && !tokenizer) {
        status = pr_fail(err, PR_ERR_NOTFOUND, "tokenizer.json is missing in %s", pr_model_file_dir(file));
    }
    if (status == PR_OK) status = load_beside(file, "tokenizer_config.json", CONFIG_MAX, &config, err);
    if (status == PR_OK) status = load_beside(file, "special_tokens_map.json", CONFIG_MAX, &special_map, err);
    if (status == PR_OK) {
        pr__vocab_json in = {.tokenizer = tokenizer,
                             .config = config,
                             .special_map = special_map,
                             .bos_id = config_id(file, "bos_token_id"),
                             .eos_id = config_id(file, "eos_token_id"),
                             .texts = texts};
        status = pr__vocab_from_json(&in, vocab, err);
        if (status != PR_OK) pr_err_context(err, "%s/tokenizer.json", pr_model_file_dir(file));
    }
    if (status == PR_OK) status = read_template(file, config, chat_template, err);
    json_decref(tokenizer);
    json_decref(config);
    json_decref(special_map);
    return status;
}

/* ---- a folder's JSON texts inside a GGUF file ---- */

static pr_status parse_inside(const pr_model_file *file, const char *key, json_t **out, pr_err *err) {
    const char *text = NULL;
    pr_status status = pr_meta_str(file, key, &text, err);
    if (status != PR_OK || !text) return status;
    return pr_json_parse(text, strlen(text), key, out, err);
}

/* As from_folder(), for a file that was packed from a folder (compress/pack_meta.c). */
static pr_status from_inside(const pr_model_file *file, pr_texts *texts, pr_vocab **vocab, pr_err *err) {
    json_t *tokenizer = NULL, *config = NULL, *special_map = NULL;
    pr_status status = parse_inside(file, key_json, &tokenizer, err);
    if (status == PR_OK) status = parse_inside(file, "precis.tokenizer.config", &config, err);
    if (status == PR_OK) status = parse_inside(file, "precis.tokenizer.special_map", &special_map, err);
    if (status == PR_OK) {
        pr__vocab_json in = {.tokenizer = tokenizer,
                             .config = config,
                             .special_map = special_map,
                             .bos_id = config_id(file, "tokenizer.ggml.bos_token_id"),
                             .eos_id = config_id(file, "tokenizer.ggml.eos_token_id"),
                             .texts = texts};
        status = pr__vocab_from_json(&in, vocab, err);
        if (status != PR_OK) pr_err_context(err, "%s", key_json);
    }
    json_decref(tokenizer);
    json_decref(config);
    json_decref(special_map);
    return status;
}

/* ---- both ---- */

static pr_status load_gguf(const pr_model_file *file, pr_texts *texts, pr_vocab **vocab, char **chat_template,
                           pr_err *err) {
    pr_arena arena;
    const char *text = NULL;
    pr_arena_init(&arena, PR_TAG_VOCAB);
    bool inside = pr_model_file_meta(file, key_json) != NULL;
    pr_status status = inside ? from_inside(file, texts, vocab, err) : from_gguf(file, texts, &arena, vocab, err);
    if (status == PR_OK) status = pr_meta_str(file, "tokenizer.chat_template", &text, err);
    if (text) {
        *chat_template = pr_strdup(PR_TAG_VOCAB, text);
        if (!*chat_template) status = pr_fail_nomem(err, "chat template", strlen(text));
    }
    pr_arena_free(&arena);
    return status;
}

pr_status pr__vocab_load(const pr_model_file *file, pr_texts *texts, pr_vocab **vocab, char **chat_template,
                         pr_err *err) {
    *vocab = NULL;
    *chat_template = NULL;
    bool gguf = pr_model_file_kind(file) == PR_FILE_GGUF;
    pr_status status = gguf ? load_gguf(file, texts, vocab, chat_template, err)
                            : from_folder(file, texts, vocab, chat_template, err);
    if (status == PR_OK) return PR_OK;
    pr_vocab_free(*vocab);
    pr_free(*chat_template);
    *vocab = NULL;
    *chat_template = NULL;
    return status;
}
