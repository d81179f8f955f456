/*
 * A cache of texts made ready: a list by last use, searched from its newest end.
 *
 * The key is the text itself. There are few of them (a model has a template and one to a handful of patterns), so a list of
 * at most ENTRIES_MAX is searched by length first, and no hash could be mistaken for another's. Patterns are counted
 * references: what is evicted lives on in the vocabularies that use it. What a template was recognised as is a row of a table
 * that never goes away, "unknown" included.
 *
 * Two locks. `making` is held from looking for a text to keeping it, so that it is made once; `lock` for moments only, so that
 * who counts or clears never waits for a compiler that a hostile pattern keeps busy.
 */
#include "text/texts.h"

#include <pthread.h>
#include <string.h>

enum { ENTRIES_MAX = 64, BYTES_MAX = 1 << 20 };

typedef enum text_kind { TEXT_PATTERN, TEXT_TEMPLATE } text_kind;

typedef struct made {
    pr__pattern *pattern;
    const pr_chat_template *template; /* NULL: not known */
} made;

typedef struct entry {
    struct entry *newer, *older; /* by last use */
    text_kind kind;
    made made;
    size_t bytes, len;
    char text[];
} entry;

struct pr_texts {
    pthread_mutex_t making, lock;
    entry *newest, *oldest;
    pr_texts_stats stats;
};

/* ---- the list, under the lock ------------------------------------------- */

static void unlink_entry(pr_texts *t, entry *e) {
    if (e->newer) e->newer->older = e->older;
    else t->newest = e->older;
    if (e->older) e->older->newer = e->newer;
    else t->oldest = e->newer;
}

static void link_newest(pr_texts *t, entry *e) {
    e->newer = NULL;
    e->older = t->newest;
    if (t->newest) t->newest->newer = e;
    else t->oldest = e;
    t->newest = e;
}

static void drop(pr_texts *t, entry *e) {
    unlink_entry(t, e);
    t->stats.bytes -= e->bytes;
    t->stats.entries--;
    pr__pattern_unref(e->made.pattern);
    pr_free(e);
}

static entry *find(pr_texts *t, text_kind kind, const char *text, size_t len) {
    entry *e = t->newest;
    while (e && (e->kind != kind || e->len != len || memcmp(e->text, text, len) != 0)) e = e->older;
    if (!e) return NULL;
    unlink_entry(t, e);
    link_newest(t, e);
    return e;
}

/* ---- looking and keeping ------------------------------------------------ */

/* What is kept of a text, its pattern with a reference for the caller. False: nothing. */
static bool look(pr_texts *t, text_kind kind, const char *text, size_t len, made *out) {
    pthread_mutex_lock(&t->lock);
    entry *e = find(t, kind, text, len);
    if (e) {
        *out = e->made;
        if (out->pattern) pr__pattern_ref(out->pattern);
        t->stats.hits++;
    } else t->stats.misses++;
    pthread_mutex_unlock(&t->lock);
    return e != NULL;
}

/* One text must not empty the cache of all others. */
static void keep(pr_texts *t, text_kind kind, const char *text, size_t len, made what) {
    size_t compiled = sizeof(entry) + 1 + (what.pattern ? pr__pattern_bytes(what.pattern) : 0), bytes;
    bool fits = pr_size_add(compiled, len, &bytes) && bytes <= BYTES_MAX / 4;
    entry *e = fits ? pr_calloc(PR_TAG_CACHE, 1, sizeof *e + len + 1) : NULL;
    pthread_mutex_lock(&t->lock);
    if (e) {
        e->kind = kind;
        e->made = what;
        if (what.pattern) pr__pattern_ref(what.pattern);
        e->bytes = bytes;
        e->len = len;
        memcpy(e->text, text, len + 1);
        for (; t->stats.entries == ENTRIES_MAX || t->stats.bytes + bytes > BYTES_MAX; t->stats.evictions++)
            drop(t, t->oldest);
        link_newest(t, e);
        t->stats.bytes += bytes;
        t->stats.entries++;
        t->stats.insertions++;
    } else t->stats.refused++;
    pthread_mutex_unlock(&t->lock);
}

pr_status pr__texts_pattern(pr_texts *t, const char *pattern, pr__pattern **out, pr_err *err) {
    if (!t) return pr__pattern_compile(pattern, PR_TAG_VOCAB, out, err);
    made found = {0};
    pr_status status = PR_OK;
    size_t len = strlen(pattern);
    pthread_mutex_lock(&t->making);
    if (!look(t, TEXT_PATTERN, pattern, len, &found)) {
        status = pr__pattern_compile(pattern, PR_TAG_CACHE, &found.pattern, err);
        if (!status) keep(t, TEXT_PATTERN, pattern, len, found);
    }
    pthread_mutex_unlock(&t->making);
    *out = found.pattern;
    return status;
}

const pr_chat_template *pr__texts_template(pr_texts *t, const char *jinja) {
    if (!t || !jinja) return pr_chat_detect(jinja);
    made found = {0};
    size_t len = strlen(jinja);
    pthread_mutex_lock(&t->making);
    if (!look(t, TEXT_TEMPLATE, jinja, len, &found)) {
        found.template = pr_chat_detect(jinja);
        keep(t, TEXT_TEMPLATE, jinja, len, found);
    }
    pthread_mutex_unlock(&t->making);
    return found.template;
}

/* ---- the whole ---------------------------------------------------------- */

pr_status pr_texts_open(pr_texts **out, pr_err *err) {
    pr_texts *t = pr_calloc(PR_TAG_CACHE, 1, sizeof *t);
    *out = t;
    if (!t) return pr_fail_nomem(err, "cache of texts", sizeof *t);
    pthread_mutex_init(&t->making, NULL);
    pthread_mutex_init(&t->lock, NULL);
    t->stats = (pr_texts_stats){.bytes_max = BYTES_MAX, .entries_max = ENTRIES_MAX};
    return PR_OK;
}

size_t pr_texts_clear(pr_texts *t) {
    pthread_mutex_lock(&t->lock);
    size_t bytes = t->stats.bytes;
    t->stats.cleared += t->stats.entries;
    while (t->oldest) drop(t, t->oldest);
    pthread_mutex_unlock(&t->lock);
    return bytes;
}

void pr_texts_close(pr_texts *t) {
    if (!t) return;
    pr_texts_clear(t);
    pthread_mutex_destroy(&t->making);
    pthread_mutex_destroy(&t->lock);
    pr_free(t);
}

void pr_texts_stats_get(pr_texts *t, pr_texts_stats *out) {
    pthread_mutex_lock(&t->lock);
    *out = t->stats;
    pthread_mutex_unlock(&t->lock);
}
