/*
 * Pre-tokenizer: runs the patterns, through PCRE2 with its JIT.
 *
 * PCRE2 is given valid UTF-8 only: the text is checked once, here, so its own
 * check is off, and bytes that are not UTF-8 never reach it. Every step works
 * on the pieces of the step before it, depth first, so a text is walked once
 * and no list of pieces exists.
 *
 * What can go wrong while matching: the JIT runs out of its 32 KB stack, which
 * a pattern with nested repeats can make it do: then this one match is done
 * again by PCRE2's interpreter, which keeps its state on the heap, bounded by
 * HEAP_KB. Over that, or over MATCH_LIMIT steps of backtracking (a pattern from
 * a hostile model file), the text is refused with PR_ERR_LIMIT. Without JIT
 * (a kernel that forbids executable memory) everything is interpreted.
 *
 * Patterns come in Onigmo's dialect, since that is what tokenizer.json means.
 * The differences that matter are translated: \s there is White_Space, in PCRE2
 * also U+180E; script names mean Script, not Script_Extensions; \w has another
 * extent; classes nest. Class intersections are refused.
 */
#include "text/pretok.h"

#include <stdatomic.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/mem.h"
#include "base/str.h"
#include "text/texts.h"

#define HEAP_KB     65536
#define MATCH_LIMIT 50000000
#define STEPS_MAX   32

struct pr__pattern {
    atomic_uint refs;
    pcre2_general_context *general;
    pcre2_code *code;
};

typedef struct compiled_step {
    pr__pattern *pattern;
    pr__cut cut;
} compiled_step;

struct pr_pretok {
    pcre2_general_context *general;
    size_t n;
    compiled_step steps[];
};

struct pr_pretok_run {
    const pr_pretok *p;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pr__piece_fn fn;
    void *arg;
    pr_err *err;
};

/* ---- Onigmo to PCRE2 ---- */

/* Names of scripts, which in PCRE2 would mean their Script_Extensions. */
static bool is_script(const char *name, size_t len) {
    static const char *const scripts[] = {
        "Arabic",  "Bengali",  "Cyrillic", "Devanagari", "Greek", "Gujarati", "Han",   "Hangul",
        "Hebrew",  "Hiragana", "Kannada",  "Katakana",   "Khmer", "Lao",      "Latin", "Malayalam",
        "Myanmar", "Oriya",    "Tamil",    "Telugu",     "Thai",  "Tibetan",
    };
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++)
        if (strlen(scripts[i]) == len && memcmp(scripts[i], name, len) == 0) return true;
    return false;
}

/* What \w holds there: with the fractions and superscripts of Latin-1, but no others. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xB2\\xB3\\xB9\\xBC-\\xBE"

/* The escape at p (which points at the backslash) of a pattern; returns its length, 0 if it has no equal. */
static size_t translate_escape(const char *p, bool in_class, pr_str *out) {
    switch (p[1]) {
    case 's': pr_str_puts(out, "\\p{White_Space}"); return 2;
    case 'S': pr_str_puts(out, "\\P{White_Space}"); return 2;
    case 'h': pr_str_puts(out, in_class ? "0-9A-Fa-f" : "[0-9A-Fa-f]"); return 2;
    case 'w': pr_str_puts(out, in_class ? WORD : "[" WORD "]"); return 2;
    case 'W':
        if (in_class) return 0;
        pr_str_puts(out, "[^" WORD "]");
        return 2;
    case 'b':
        if (in_class) break;
        pr_str_puts(out, "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))");
        return 2;
    case 'B':
        if (in_class) return 0;
        pr_str_puts(out, "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
        return 2;
    case 'p':
    case 'P': {
        const char *end = p[2] == '{' ? strchr(p, '}') : NULL;
        if (!end) break;
        size_t not_sign = p[3] == '^';
        const char *name = p + 3 + not_sign;
        pr_str_append(out, p, 3 + not_sign);
        if (is_script(name, (size_t)(end - name))) pr_str_puts(out, "sc:");
        pr_str_append(out, name, (size_t)(end + 1 - name));
        return (size_t)(end + 1 - p);
    }
    case 'u':
        if (strspn(p + 2, "0123456789abcdefABCDEF") < 4) return 0;
        pr_str_printf(out, "\\x{%.4s}", p + 2);
        return 6;
    case 'H':
    case '\0': return 0;
    default: break;
    }
    pr_str_append(out, p, 2);
    return 2;
}

/* A bracketed class at p; nested classes are flattened into it. Returns its length, 0 for what PCRE2 cannot say. */
static size_t translate_class(const char *p, pr_str *out) {
    const char *start = p;
    int depth = 0;
    bool first = true; /* a ']' right after the opening stands for itself */
    do {
        if (*p == '\0' || strncmp(p, "&&", 2) == 0) return 0;
        if (*p == '[' && depth > 0 && p[1] == ':') {
            const char *end = strstr(p, ":]");
            if (!end) return 0;
            pr_str_append(out, p, (size_t)(end + 2 - p));
            p = end + 2;
            first = false;
        } else if (*p == '[') {
            if (depth > 0 && p[1] == '^') return 0;
            size_t n = p[1] == '^' ? 2 : 1;
            if (depth == 0) pr_str_append(out, p, n);
            depth++;
            p += n;
            first = true;
        } else if (*p == ']' && !first) {
            if (--depth == 0) pr_str_puts(out, "]");
            p++;
        } else if (*p == '\\') {
            size_t n = translate_escape(p, true, out);
            if (!n) return 0;
            p += n;
            first = false;
        } else {
            pr_str_append(out, p++, 1);
            first = false;
        }
    } while (depth > 0);
    return (size_t)(p - start);
}

pr_status pr__pattern_translate(const char *pattern, char **out, pr_err *err) {
    pr_str s = {0};
    for (const char *p = pattern; *p;) {
        size_t n = 1;
        if (*p == '\\') n = translate_escape(p, false, &s);
        else if (*p == '[') n = translate_class(p, &s);
        else pr_str_append(&s, p, 1);
        if (!n) {
            pr_str_free(&s);
            return pr_fail(err, PR_ERR_UNSUPPORTED, "pre-tokenizer pattern: cannot express \"%.40s\" of \"%.200s\"", p,
                           pattern);
        }
        p += n;
    }
    *out = pr_str_take(&s);
    return *out ? PR_OK : pr_fail_nomem(err, "a pattern", strlen(pattern));
}

/* ---- building ---- */

/* What a context allocates is of one tag, which its `arg` points to. */
static void *pcre_malloc(size_t bytes, void *arg) { return pr_alloc(*(const pr_tag *)arg, bytes); }

static void pcre_free(void *p, void *arg) {
    (void)arg;
    pr_free(p);
}

static pcre2_general_context *new_context(pr_tag tag) {
    static pr_tag cache = PR_TAG_CACHE, vocab = PR_TAG_VOCAB;
    return pcre2_general_context_create(pcre_malloc, pcre_free, tag == PR_TAG_CACHE ? &cache : &vocab);
}

static pr_status compile(pcre2_general_context *general, const char *pattern, pcre2_code **out, pr_err *err) {
    char *translated = NULL;
    pr_status status = pr__pattern_translate(pattern, &translated, err);
    if (status) return status;
    pcre2_compile_context *context = pcre2_compile_context_create(general);
    if (!context) {
        pr_free(translated);
        return pr_fail_nomem(err, "a pattern", strlen(pattern));
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE at = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    *out = pcre2_compile((PCRE2_SPTR)translated, PCRE2_ZERO_TERMINATED, options, &code, &at, context);
    pcre2_compile_context_free(context);
    pr_free(translated);
    if (*out) {
        (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it matching is interpreted */
        return PR_OK;
    }
    if (code == PCRE2_ERROR_HEAP_FAILED) return pr_fail_nomem(err, "a pattern", strlen(pattern));
    char why[128];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return pr_fail(err, PR_ERR_UNSUPPORTED, "pre-tokenizer pattern \"%.200s\": %s", pattern, why);
}

pr_status pr__pattern_compile(const char *pattern, pr_tag tag, pr__pattern **out, pr_err *err) {
    *out = NULL;
    pr__pattern *p = pr_calloc(tag, 1, sizeof *p);
    if (!p) return pr_fail_nomem(err, "a pattern", sizeof *p);
    atomic_init(&p->refs, 1);
    p->general = new_context(tag);
    pr_status status = p->general ? compile(p->general, pattern, &p->code, err)
                                  : pr_fail_nomem(err, "a pattern", sizeof *p);
    if (status) pr__pattern_unref(p);
    else *out = p;
    return status;
}

pr__pattern *pr__pattern_ref(pr__pattern *p) {
    atomic_fetch_add(&p->refs, 1);
    return p;
}

void pr__pattern_unref(pr__pattern *p) {
    if (!p || atomic_fetch_sub(&p->refs, 1) != 1) return;
    pcre2_code_free(p->code);
    pcre2_general_context_free(p->general);
    pr_free(p);
}

size_t pr__pattern_bytes(const pr__pattern *p) {
    size_t code = 0, jit = 0;
    (void)pcre2_pattern_info(p->code, PCRE2_INFO_SIZE, &code);
    (void)pcre2_pattern_info(p->code, PCRE2_INFO_JITSIZE, &jit);
    return sizeof *p + code + jit;
}

pr_status pr__pretok_build(const pr__pre_step *steps, size_t n_steps, pr_texts *texts, pr_pretok **out, pr_err *err) {
    *out = NULL;
    if (n_steps > STEPS_MAX) return pr_fail(err, PR_ERR_LIMIT, "pre-tokenizer: over %d patterns", STEPS_MAX);
    size_t bytes = sizeof(pr_pretok) + n_steps * sizeof(compiled_step);
    pr_pretok *p = pr_calloc(PR_TAG_VOCAB, 1, bytes);
    if (!p) return pr_fail_nomem(err, "a pre-tokenizer", bytes);
    p->n = n_steps;
    pr_status status = PR_OK;
    p->general = new_context(PR_TAG_VOCAB);
    if (!p->general) status = pr_fail_nomem(err, "a pre-tokenizer", bytes);
    for (size_t i = 0; i < n_steps && !status; i++) {
        p->steps[i].cut = steps[i].cut;
        status = pr__texts_pattern(texts, steps[i].pattern, &p->steps[i].pattern, err);
    }
    if (status) pr__pretok_free(p);
    else *out = p;
    return status;
}

void pr__pretok_free(pr_pretok *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n; i++) pr__pattern_unref(p->steps[i].pattern);
    pcre2_general_context_free(p->general);
    pr_free(p);
}

/* ---- splitting ---- */

pr_status pr__pretok_run_open(const pr_pretok *p, pr_pretok_run **out, pr_err *err) {
    pr_pretok_run *run = pr_calloc(PR_TAG_VOCAB, 1, sizeof *run);
    *out = run;
    if (!run) return pr_fail_nomem(err, "a pre-tokenizer run", sizeof *run);
    run->p = p;
    run->data = pcre2_match_data_create(1, p->general);
    run->context = pcre2_match_context_create(p->general);
    if (!run->data || !run->context) {
        pr__pretok_run_close(run);
        *out = NULL;
        return pr_fail_nomem(err, "a pre-tokenizer run", sizeof *run);
    }
    pcre2_set_match_limit(run->context, MATCH_LIMIT);
    pcre2_set_heap_limit(run->context, HEAP_KB);
    return PR_OK;
}

void pr__pretok_run_close(pr_pretok_run *run) {
    if (!run) return;
    pcre2_match_data_free(run->data);
    pcre2_match_context_free(run->context);
    pr_free(run);
}

/* The next match in text[pos..len) as [*from, *to); *found is false at the end. */
static pr_status find(pr_pretok_run *run, const pcre2_code *code, const char *text, size_t len, size_t pos, bool *found,
                      size_t *from, size_t *to) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int rc = pcre2_match(code, subject, len, pos, PCRE2_NO_UTF_CHECK, run->data, run->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, subject, len, pos, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, run->data, run->context);
    *found = rc >= 0;
    if (rc >= 0) {
        const PCRE2_SIZE *ovector = pcre2_get_ovector_pointer(run->data);
        *from = ovector[0];
        *to = ovector[1];
        if (*from >= pos && *to >= *from) return PR_OK;
        return pr_fail(run->err, PR_ERR_UNSUPPORTED, "pre-tokenizer: a pattern matches before where it began");
    }
    if (rc == PCRE2_ERROR_NOMATCH) return PR_OK;
    if (rc == PCRE2_ERROR_NOMEMORY) return pr_fail_nomem(run->err, "matching a pattern", len);
    char why[128];
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return pr_fail(run->err, PR_ERR_LIMIT, "text: the pre-tokenizer gives up on a stretch of %zu bytes: %s", len, why);
}

static pr_status split(pr_pretok_run *run, size_t step, const char *text, size_t len);

/* Hand text[*done..to) on to the steps after `step`. */
static pr_status hand_on(pr_pretok_run *run, size_t step, const char *text, size_t *done, size_t to) {
    pr_status status = split(run, step + 1, text + *done, to - *done);
    *done = to;
    return status;
}

/* Cut in the digits text[from..to) wherever three, or six, or nine, ... of them are left. */
static pr_status cut_before_threes(pr_pretok_run *run, size_t step, const char *text, size_t from, size_t to,
                                   size_t *done) {
    size_t left = 0;
    for (size_t i = from; i < to; i += pr_utf8_len((unsigned char)text[i])) left++;
    pr_status status = PR_OK;
    for (size_t i = from; i < to && !status; i += pr_utf8_len((unsigned char)text[i]), left--)
        if (left % 3 == 0) status = hand_on(run, step, text, done, i);
    return status;
}

static pr_status cut(pr_pretok_run *run, size_t step, const char *text, size_t from, size_t to, size_t *done) {
    pr_status status = PR_OK;
    switch (run->p->steps[step].cut) {
    case PR__BEFORE_THREES: return cut_before_threes(run, step, text, from, to, done);
    case PR__THREES:
        if ((status = hand_on(run, step, text, done, from))) return status;
        if ((status = cut_before_threes(run, step, text, from, to, done))) return status;
        return hand_on(run, step, text, done, to);
    case PR__MATCH:
        if ((status = hand_on(run, step, text, done, from))) return status;
        return hand_on(run, step, text, done, to);
    }
    return status;
}

/* Cut a piece by step `step` and those after it. Recursion is as deep as there are steps. */
static pr_status split(pr_pretok_run *run, size_t step, const char *text, size_t len) {
    if (len == 0) return PR_OK;
    if (step == run->p->n) return run->fn(run->arg, text, len, run->err);
    const pcre2_code *code = run->p->steps[step].pattern->code;
    size_t done = 0; /* everything before it has been handed on */
    pr_status status = PR_OK;
    for (size_t pos = 0; pos < len && !status;) {
        bool found;
        size_t from, to;
        if ((status = find(run, code, text, len, pos, &found, &from, &to))) return status;
        if (!found) break;
        status = cut(run, step, text, from, to, &done);
        pos = to;
        if (from == to && to < len) pos += pr_utf8_len((unsigned char)text[to]); /* an empty match cuts, and moves on */
    }
    return status ? status : hand_on(run, step, text, &done, len);
}

/* Length of the valid UTF-8 that text[0..len) begins with. */
static size_t valid_run(const char *text, size_t len) {
    size_t i = 0;
    while (i < len) {
        if ((unsigned char)text[i] < 0x80) {
            i++;
            continue;
        }
        int32_t cp;
        size_t n = pr_utf8_decode(text + i, len - i, &cp);
        if (cp < 0) break;
        i += n;
    }
    return i;
}

pr_status pr__pretok_split(pr_pretok_run *run, const char *text, size_t len, pr__piece_fn fn, void *arg, pr_err *err) {
    run->fn = fn;
    run->arg = arg;
    run->err = err;
    pr_status status = PR_OK;
    for (size_t i = 0; i < len && !status;) {
        size_t n = valid_run(text + i, len - i);
        status = n ? split(run, 0, text + i, n) : fn(arg, text + i, n = 1, err);
        i += n;
    }
    return status;
}
