/*
 * Reading tokenizer.json.
 *
 * The file describes a pipeline: normalizer, pre-tokenizer, model, post-processor,
 * decoder, each one of many kinds. precis has no such pipeline; it has two
 * tokenizers, and this file decides whether a pipeline is one of them:
 *
 *   byte-level BPE          a ByteLevel step somewhere; the splits before it
 *                           become patterns, one after another
 *   SentencePiece-like BPE  byte fallback; spaces become U+2581 in a normalizer
 *                           or in Metaspace
 *
 * Any step that would change the result and has no place there is refused by
 * its name: a tokenizer that is nearly right is worse than none. What is let through:
 * NFC normalization is ignored, as GGUF readers do, since text is nearly always in
 * that form; Metaspace puts no mark before a text that begins with a space, here it
 * gets one; and its `split` makes no difference, since no merge learned with it
 * crosses a space.
 *
 * Token texts are borrowed from the JSON until pr_vocab_build() has copied them.
 */
#include "engine/vocab_json.h"

#include <string.h>

#include "base/arena.h"
#include "base/str.h"

#define PATTERNS_MAX 16
#define DEPTH_MAX    8

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */

/* GPT-2's pre-tokenizer, which ByteLevel applies unless told not to. */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef struct builder {
    const pr__vocab_json *in;
    pr_arena arena;
    pr_vocab_spec spec;
    pr_text_ref *tokens; /* [spec.n_tokens] */
    uint8_t *attrs;
    const char *patterns[PATTERNS_MAX];
    size_t n_patterns;
    bool byte_fallback;
} builder;

static const char *type_of(const json_t *step) {
    const char *type = json_string_value(json_object_get(step, "type"));
    return type ? type : "";
}

static bool is_type(const json_t *step, const char *type) { return strcmp(type_of(step), type) == 0; }

static bool is_true(const json_t *obj, const char *key, bool absent) {
    const json_t *v = json_object_get(obj, key);
    return v && !json_is_null(v) ? json_is_true(v) : absent;
}

static pr_status refuse(const char *part, const char *what, pr_err *err) {
    return pr_fail(err, PR_ERR_UNSUPPORTED, "%s \"%.64s\" is not supported", part, what);
}

/* The steps of a Sequence, under whichever name, or the step itself. Calls fn for each; NULL steps are none. */
typedef pr_status (*step_fn)(builder *b, const json_t *step, pr_err *err);

static pr_status each_step(builder *b, const json_t *step, int depth, step_fn fn, pr_err *err) {
    static const char *const lists[] = {"normalizers", "pretokenizers", "processors", "decoders"};
    if (!step || json_is_null(step)) return PR_OK;
    if (depth > DEPTH_MAX) return pr_fail(err, PR_ERR_LIMIT, "sequences are nested more than %d deep", DEPTH_MAX);
    if (!is_type(step, "Sequence")) return fn(b, step, err);
    for (size_t k = 0; k < sizeof lists / sizeof *lists; k++) {
        const json_t *list = json_object_get(step, lists[k]);
        for (size_t i = 0; i < json_array_size(list); i++) {
            pr_status status = each_step(b, json_array_get(list, i), depth + 1, fn, err);
            if (status != PR_OK) return status;
        }
    }
    return PR_OK;
}

/* ---- tokens ---- */

/* Id of a token by its text; -1: none. */
static int32_t find_token(const builder *b, const char *text) {
    const json_t *id = json_object_get(json_object_get(json_object_get(b->in->tokenizer, "model"), "vocab"), text);
    if (json_is_integer(id)) return (int32_t)json_integer_value(id);
    const json_t *added = json_object_get(b->in->tokenizer, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *entry = json_array_get(added, i);
        const char *content = json_string_value(json_object_get(entry, "content"));
        if (content && strcmp(content, text) == 0) return (int32_t)json_integer_value(json_object_get(entry, "id"));
    }
    return -1;
}

/* Every id must be below the number of entries: there are no holes then, and a hostile id cannot ask for memory. */
static pr_status put_token(builder *b, size_t n_max, const json_t *id, const char *text, size_t len, pr_err *err) {
    json_int_t i = json_is_integer(id) ? json_integer_value(id) : -1;
    if (i < 0 || (uint64_t)i >= n_max) {
        return pr_fail(err, PR_ERR_FORMAT, "token \"%.64s\" has no id from 0 to %zu: %zu tokens are listed", text,
                       n_max - 1, n_max);
    }
    pr_text_ref *slot = &b->tokens[i];
    if (slot->data && (slot->len != len || memcmp(slot->data, text, len) != 0)) {
        return pr_fail(err, PR_ERR_FORMAT, "tokens \"%.64s\" and \"%.64s\" have the same id %lld", slot->data, text,
                       (long long)i);
    }
    *slot = (pr_text_ref){.data = text, .len = len};
    if ((size_t)i >= b->spec.n_tokens) b->spec.n_tokens = (size_t)i + 1;
    return PR_OK;
}

static bool is_byte_token(const char *text, size_t len) {
    return len == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>' && strspn(text + 3, "0123456789abcdefABCDEF") == 2;
}

static pr_status read_vocab(builder *b, const json_t *vocab, size_t n_max, pr_err *err) {
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)vocab, text, id) {
        size_t len = strlen(text);
        pr_status status = put_token(b, n_max, id, text, len, err);
        if (status != PR_OK) return status;
        if (b->byte_fallback && is_byte_token(text, len)) b->attrs[json_integer_value(id)] = PR_TOKEN_BYTE;
    }
    return PR_OK;
}

static pr_status read_added(builder *b, const json_t *added, size_t n_max, pr_err *err) {
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *entry = json_array_get(added, i), *id = json_object_get(entry, "id");
        const json_t *content = json_object_get(entry, "content");
        if (!json_is_string(content)) return pr_fail(err, PR_ERR_FORMAT, "added_tokens[%zu] has no content", i);
        pr_status status = put_token(b, n_max, id, json_string_value(content), json_string_length(content), err);
        if (status != PR_OK) return status;
        uint8_t attr = is_true(entry, "special", false) ? PR_TOKEN_CONTROL : PR_TOKEN_USER_DEFINED;
        if (is_true(entry, "lstrip", false)) attr |= PR_TOKEN_LSTRIP;
        if (is_true(entry, "rstrip", false)) attr |= PR_TOKEN_RSTRIP;
        b->attrs[json_integer_value(id)] = attr;
    }
    return PR_OK;
}

static pr_status read_tokens(builder *b, const json_t *model, pr_err *err) {
    const json_t *vocab = json_object_get(model, "vocab"), *added = json_object_get(b->in->tokenizer, "added_tokens");
    if (!json_is_object(vocab)) return pr_fail(err, PR_ERR_FORMAT, "model.vocab is missing");
    if (added && !json_is_array(added)) return pr_fail(err, PR_ERR_FORMAT, "added_tokens must be a list");
    size_t n_max = json_object_size(vocab) + json_array_size(added);
    b->tokens = pr_arena_array(&b->arena, n_max, sizeof *b->tokens);
    b->attrs = pr_arena_array(&b->arena, n_max, 1);
    if (!b->tokens || !b->attrs) return pr_fail_nomem(err, "tokens", n_max * sizeof *b->tokens);
    pr_status status = read_vocab(b, vocab, n_max, err);
    if (status == PR_OK) status = read_added(b, added, n_max, err);
    if (status != PR_OK) return status;
    for (size_t i = 0; i < b->spec.n_tokens; i++) {
        if (!b->tokens[i].data)
            return pr_fail(err, PR_ERR_FORMAT, "no token has the id %zu, but there are higher ones", i);
    }
    b->spec.tokens = b->tokens;
    b->spec.attrs = b->attrs;
    return PR_OK;
}

/* ---- merges ---- */

/* "left right", or [left, right] since 2024. */
static pr_status read_merge(builder *b, const json_t *merge, size_t i, pr_text_ref *out, pr_err *err) {
    if (json_is_string(merge)) {
        *out = (pr_text_ref){.data = json_string_value(merge), .len = json_string_length(merge)};
        return PR_OK;
    }
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    if (!json_is_string(left) || !json_is_string(right) || json_array_size(merge) != 2) {
        return pr_fail(err, PR_ERR_FORMAT, "model.merges[%zu] is neither a string nor a pair of strings", i);
    }
    const char *l = json_string_value(left), *r = json_string_value(right);
    size_t n = json_string_length(left), m = json_string_length(right);
    if (memchr(l, ' ', n) || memchr(r, ' ', m)) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "model.merges[%zu] joins texts with spaces in them", i);
    }
    char *text = pr_arena_alloc(&b->arena, n + m + 2);
    if (!text) return pr_fail_nomem(err, "merges", n + m + 2);
    memcpy(text, l, n);
    text[n] = ' ';
    memcpy(text + n + 1, r, m);
    *out = (pr_text_ref){.data = text, .len = n + 1 + m};
    return PR_OK;
}

static pr_status read_merges(builder *b, const json_t *model, pr_err *err) {
    const json_t *list = json_object_get(model, "merges");
    if (!json_is_array(list)) return pr_fail(err, PR_ERR_FORMAT, "model.merges is missing");
    size_t n = json_array_size(list);
    pr_text_ref *merges = pr_arena_array(&b->arena, n, sizeof *merges);
    if (!merges) return pr_fail_nomem(err, "merges", n * sizeof *merges);
    for (size_t i = 0; i < n; i++) {
        pr_status status = read_merge(b, json_array_get(list, i), i, &merges[i], err);
        if (status != PR_OK) return status;
    }
    b->spec.merges = merges;
    b->spec.n_merges = n;
    return PR_OK;
}

static pr_status read_model(builder *b, pr_err *err) {
    const json_t *model = json_object_get(b->in->tokenizer, "model");
    if (!json_is_object(model)) return pr_fail(err, PR_ERR_FORMAT, "model is missing");
    if (!is_type(model, "BPE") && (*type_of(model) || !json_object_get(model, "merges"))) {
        return refuse("model type", *type_of(model) ? type_of(model) : "(none)", err);
    }
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof affixes / sizeof *affixes; i++) {
        const char *affix = json_string_value(json_object_get(model, affixes[i]));
        if (affix && *affix) return refuse(affixes[i], affix, err);
    }
    b->byte_fallback = is_true(model, "byte_fallback", false);
    b->spec.ignore_merges = is_true(model, "ignore_merges", false);
    pr_status status = read_tokens(b, model, err);
    if (status == PR_OK) status = read_merges(b, model, err);
    if (status != PR_OK) return status;
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    b->spec.unk = unk ? find_token(b, unk) : -1;
    if (b->spec.unk >= 0) b->attrs[b->spec.unk] |= PR_TOKEN_UNKNOWN;
    return PR_OK;
}

/* ---- normalizer ---- */

static pr_status normalize_step(builder *b, const json_t *step, pr_err *err) {
    bool spm = b->spec.kind != PR_VOCAB_BPE;
    const char *prepend = json_string_value(json_object_get(step, "prepend"));
    const char *from = json_string_value(json_object_get(json_object_get(step, "pattern"), "String"));
    const char *to = json_string_value(json_object_get(step, "content"));
    if (is_type(step, "NFC")) return PR_OK;
    if (spm && is_type(step, "Prepend") && prepend && strcmp(prepend, space_mark) == 0) {
        b->spec.add_space_prefix = true;
    } else if (spm && is_type(step, "Replace") && from && to && strcmp(from, " ") == 0 && strcmp(to, space_mark) == 0) {
        b->spec.escape_whitespaces = true;
    } else {
        return refuse("normalizer", type_of(step), err);
    }
    return PR_OK;
}

/* ---- pre-tokenizer ---- */

static pr_status add_pattern(builder *b, const char *pattern, pr_err *err) {
    if (b->n_patterns == PATTERNS_MAX)
        return pr_fail(err, PR_ERR_LIMIT, "pre_tokenizer has more than %d splits", PATTERNS_MAX);
    if (!pattern) return pr_fail_nomem(err, "pre_tokenizer pattern", 0);
    b->patterns[b->n_patterns++] = pattern;
    return PR_OK;
}

/* text as a pattern that matches just that */
static const char *quote(builder *b, const char *text) {
    char *quoted = pr_arena_array(&b->arena, strlen(text) + 1, 2), *at = quoted;
    for (; quoted && *text; text++) {
        if (strchr("\\^$.[]|()?*+{}#-", *text)) *at++ = '\\';
        *at++ = *text;
    }
    return quoted;
}

/* Patterns cut a text into matches and gaps; that is Isolated, and Removed with invert when nothing is left over. */
static pr_status split_step(builder *b, const json_t *step, pr_err *err) {
    const json_t *pattern = json_object_get(step, "pattern");
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *text = json_string_value(json_object_get(pattern, "String"));
    bool invert = is_true(step, "invert", false);
    if (!regex && !text) return pr_fail(err, PR_ERR_FORMAT, "pre_tokenizer: a Split without pattern");
    if (!regex && !(regex = quote(b, text))) return pr_fail_nomem(err, "pre_tokenizer pattern", strlen(text));
    if (!behavior) behavior = "(none)";
    if (strcmp(behavior, "Contiguous") == 0 && !invert) {
        return add_pattern(b, pr_arena_printf(&b->arena, "(?:%s)+", regex), err);
    }
    bool same = strcmp(behavior, "Isolated") == 0 || (strcmp(behavior, "Removed") == 0 && invert);
    return same ? add_pattern(b, regex, err) : refuse("pre_tokenizer Split with behavior", behavior, err);
}

static pr_status byte_level_step(builder *b, const json_t *step, pr_err *err) {
    if (is_type(step, "ByteLevel")) {
        if (is_true(step, "add_prefix_space", true))
            return refuse("pre_tokenizer ByteLevel with", "add_prefix_space", err);
        return is_true(step, "use_regex", true) ? add_pattern(b, gpt2_pattern, err) : PR_OK;
    }
    if (is_type(step, "Split")) return split_step(b, step, err);
    if (is_type(step, "Digits"))
        return add_pattern(b, is_true(step, "individual_digits", false) ? "\\p{N}" : "\\p{N}+", err);
    if (is_type(step, "Punctuation")) {
        const char *behavior = json_string_value(json_object_get(step, "behavior"));
        if (!behavior || strcmp(behavior, "Isolated") == 0) return add_pattern(b, "[!-/:-@\\[-`{-~\\p{P}]", err);
        if (strcmp(behavior, "Contiguous") == 0) return add_pattern(b, "[!-/:-@\\[-`{-~\\p{P}]+", err);
    }
    return refuse("pre_tokenizer", type_of(step), err);
}

static pr_status space_mark_step(builder *b, const json_t *step, pr_err *err) {
    const char *mark = json_string_value(json_object_get(step, "replacement"));
    const char *scheme = json_string_value(json_object_get(step, "prepend_scheme"));
    const char *split = json_string_value(json_object_get(json_object_get(step, "pattern"), "String"));
    if (is_type(step, "Metaspace") && mark && strcmp(mark, space_mark) == 0) {
        b->spec.escape_whitespaces = true;
        b->spec.add_space_prefix = scheme ? strcmp(scheme, "never") != 0 : is_true(step, "add_prefix_space", true);
        return PR_OK;
    }
    /* Splitting at spaces does nothing once the normalizer has replaced them all. */
    if (is_type(step, "Split") && split && strcmp(split, " ") == 0 && b->spec.escape_whitespaces) return PR_OK;
    return refuse("pre_tokenizer", type_of(step), err);
}

static pr_status look_for_byte_level(builder *b, const json_t *step, pr_err *err) {
    (void)err;
    if (is_type(step, "ByteLevel")) b->spec.kind = PR_VOCAB_BPE;
    return PR_OK;
}

static pr_status read_pipeline(builder *b, pr_err *err) {
    const json_t *t = b->in->tokenizer, *pre = json_object_get(t, "pre_tokenizer");
    b->spec.kind = PR_VOCAB_SPM_MERGES;
    pr_status status = each_step(b, pre, 0, look_for_byte_level, err);
    if (status == PR_OK) status = each_step(b, json_object_get(t, "decoder"), 0, look_for_byte_level, err);
    if (status == PR_OK) status = each_step(b, json_object_get(t, "normalizer"), 0, normalize_step, err);
    if (status != PR_OK) return status;
    bool bpe = b->spec.kind == PR_VOCAB_BPE;
    status = each_step(b, pre, 0, bpe ? byte_level_step : space_mark_step, err);
    if (status != PR_OK) return status;
    if (!bpe && !b->byte_fallback) return refuse("a BPE model with neither ByteLevel nor", "byte_fallback", err);
    if (bpe && b->n_patterns == 0) status = add_pattern(b, "[\\s\\S]+", err);
    b->spec.pre_patterns = b->patterns;
    b->spec.n_pre_patterns = b->n_patterns;
    return status;
}

/* ---- special tokens ---- */

/* A token before or after the text. The one before it is BOS, whatever other files call so. */
static pr_status template_token(builder *b, const char *text, bool after, pr_err *err) {
    int32_t id = find_token(b, text);
    bool *add = after ? &b->spec.add_eos : &b->spec.add_bos;
    if (id < 0) return pr_fail(err, PR_ERR_FORMAT, "post_processor adds \"%.64s\", which is no token", text);
    bool other_end = after && b->spec.eos >= 0 && b->spec.eos != id;
    if (*add || other_end) return refuse("post_processor that adds", text, err);
    *add = true;
    *(after ? &b->spec.eos : &b->spec.bos) = id;
    return PR_OK;
}

static pr_status template_step(builder *b, const json_t *step, pr_err *err) {
    if (is_type(step, "ByteLevel")) return PR_OK; /* about offsets only */
    if (!is_type(step, "TemplateProcessing")) return refuse("post_processor", type_of(step), err);
    const json_t *single = json_object_get(step, "single");
    bool seen_text = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const char *special = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        pr_status status = special ? template_token(b, special, seen_text, err) : PR_OK;
        if (status != PR_OK) return status;
        seen_text = seen_text || !special;
    }
    return PR_OK;
}

/* What tokenizer_config.json or special_tokens_map.json call "bos_token" and so on: a string or {content}. */
static int32_t named_token(const builder *b, const char *key) {
    const json_t *v = json_object_get(b->in->config, key);
    if (!v || json_is_null(v)) v = json_object_get(b->in->special_map, key);
    if (json_is_object(v)) v = json_object_get(v, "content");
    return json_is_string(v) ? find_token(b, json_string_value(v)) : -1;
}

static pr_status read_special(builder *b, pr_err *err) {
    pr_vocab_spec *s = &b->spec;
    s->bos = named_token(b, "bos_token");
    s->eos = named_token(b, "eos_token");
    s->pad = named_token(b, "pad_token");
    s->eot = -1;
    if (s->unk < 0) s->unk = named_token(b, "unk_token");
    pr_status status = each_step(b, json_object_get(b->in->tokenizer, "post_processor"), 0, template_step, err);
    if (status != PR_OK) return status;
    int32_t bos = b->in->bos_id < (int64_t)s->n_tokens ? (int32_t)b->in->bos_id : -1;
    int32_t eos = b->in->eos_id < (int64_t)s->n_tokens ? (int32_t)b->in->eos_id : -1;
    if (s->bos < 0) s->bos = bos;
    if (s->eos < 0) s->eos = eos;
    else if (eos >= 0 && eos != s->eos) s->eot = eos; /* a chat model whose base model ended otherwise */
    s->add_bos = is_true(b->in->config, "add_bos_token", s->add_bos);
    s->add_eos = is_true(b->in->config, "add_eos_token", s->add_eos);
    return PR_OK;
}

pr_status pr__vocab_from_json(const pr__vocab_json *in, pr_vocab **out, pr_err *err) {
    builder b = {.in = in};
    *out = NULL;
    pr_arena_init(&b.arena, PR_TAG_VOCAB);
    pr_status status = read_model(&b, err);
    if (status == PR_OK) status = read_pipeline(&b, err);
    if (status == PR_OK) status = read_special(&b, err);
    b.spec.texts = in->texts;
    if (status == PR_OK) status = pr_vocab_build(&b.spec, out, err);
    pr_arena_free(&b.arena);
    return status;
}
