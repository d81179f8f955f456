/*
 * The catalogue.
 *
 * Names are kept in memory so that a request costs no look at the folder; one that is not known is worth a second look, at
 * most once a second, for models pulled while the server runs. Whether there is a companion is seen when a model is loaded.
 */
#include "cmd/catalogue.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/os.h"
#include "cmd/companion.h"
#include "cmd/models.h"

typedef struct entry {
    char name[PR_API_MODEL_NAME];
    char *path; /* of the model itself, not its companion */
} entry;

struct pr_catalogue {
    pthread_mutex_t lock;
    entry *entries;
    size_t n;
    bool fixed; /* the models were given */
    double looked_at;
};

/* "dir/tiny.planes.gguf" -> "tiny". */
static void name_of(const char *path, char out[PR_API_MODEL_NAME]) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    static const char *const suffixes[] = {".gguf", ".planes"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t len = strlen(suffixes[i]);
        if (end - start > len && !memcmp(path + end - len, suffixes[i], len)) end -= len;
    }
    snprintf(out, PR_API_MODEL_NAME, "%.*s", (int)(end - start), path + start);
}

static entry *find(const pr_catalogue *c, const char *name) {
    for (size_t i = 0; i < c->n; i++)
        if (!strcasecmp(c->entries[i].name, name)) return &c->entries[i];
    return NULL;
}

/* Takes path over. */
static pr_status add(pr_catalogue *c, char *path, pr_err *err) {
    char name[PR_API_MODEL_NAME];
    name_of(path, name);
    if (find(c, name)) { /* its companion, which sorts behind it */
        pr_free(path);
        return PR_OK;
    }
    entry *more = pr_realloc_array(PR_TAG_MISC, c->entries, c->n + 1, sizeof *more);
    if (!more) {
        pr_free(path);
        return pr_fail_nomem(err, "the list of models", sizeof *more);
    }
    c->entries = more;
    more[c->n].path = path;
    memcpy(more[c->n++].name, name, sizeof name);
    return PR_OK;
}

static void forget(pr_catalogue *c) {
    for (size_t i = 0; i < c->n; i++) pr_free(c->entries[i].path);
    c->n = 0;
}

/* The folder anew. */
static pr_status look(pr_catalogue *c, pr_err *err) {
    char *dir = NULL;
    pr_model_names names = {0};
    c->looked_at = pr_now();
    pr_status st = pr__models_dir(&dir, err);
    if (!st) st = pr__models_names(dir, &names, err);
    if (!st) forget(c);
    for (int companions = 0; companions < 2; companions++) { /* a source goes before its companion */
        for (size_t i = 0; i < names.n && !st; i++) {
            if (pr_str_ends(names.name[i], PR_COMPANION_SUFFIX) != (companions == 1)) continue;
            char *path = pr__path_join(dir, names.name[i]);
            st = path ? add(c, path, err) : pr_fail_nomem(err, "a path", 0);
        }
    }
    pr__models_names_free(&names);
    pr_free(dir);
    return st;
}

pr_status pr__catalogue_open(const char *const *given, size_t n, pr_catalogue **out, pr_err *err) {
    pr_status st = PR_OK;
    *out = NULL;
    pr_catalogue *c = pr_calloc(PR_TAG_MISC, 1, sizeof *c);
    if (!c) return pr_fail_nomem(err, "the list of models", sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    c->fixed = n > 0;
    if (!c->fixed) st = look(c, err);
    for (size_t i = 0; i < n && !st; i++) {
        char *path = NULL;
        st = pr__models_resolve(given[i], &path, err);
        if (!st) st = add(c, path, err);
    }
    if (st) pr__catalogue_close(c);
    else *out = c;
    return st;
}

void pr__catalogue_close(pr_catalogue *c) {
    if (!c) return;
    forget(c);
    pr_free(c->entries);
    pthread_mutex_destroy(&c->lock);
    pr_free(c);
}

/* ---- asking ------------------------------------------------------------ */

/* By its name, with ".gguf", or as `precis pull` knows it; "": the first one, the default model of pull before others. */
static entry *find_asked(const pr_catalogue *c, const char *name) {
    char bare[PR_API_MODEL_NAME];
    const pr_known_model *known = pr__models_known(name[0] || c->fixed ? name : pr__models_known_names());
    if (strchr(name, '/')) return NULL;
    name_of(name, bare);
    entry *e = find(c, bare);
    if (!e && known) {
        name_of(known->file, bare);
        e = find(c, bare);
    }
    return !e && !name[0] && c->n ? &c->entries[0] : e;
}

static bool on_find(void *arg, const char *name, char out[PR_API_MODEL_NAME]) {
    pr_catalogue *c = arg;
    pthread_mutex_lock(&c->lock);
    const entry *e = find_asked(c, name);
    if (!e && !c->fixed && pr_now() - c->looked_at > 1 && look(c, NULL) == PR_OK) e = find_asked(c, name);
    if (e) memcpy(out, e->name, PR_API_MODEL_NAME);
    pthread_mutex_unlock(&c->lock);
    return e != NULL;
}

static size_t on_list(void *arg, char (*out)[PR_API_MODEL_NAME], size_t max) {
    pr_catalogue *c = arg;
    pthread_mutex_lock(&c->lock);
    if (!c->fixed && pr_now() - c->looked_at > 1) look(c, NULL);
    size_t n = c->n < max ? c->n : max;
    for (size_t i = 0; i < n; i++) memcpy(out[i], c->entries[i].name, PR_API_MODEL_NAME);
    pthread_mutex_unlock(&c->lock);
    return n;
}

pr_status pr__catalogue_path(pr_catalogue *c, const char *name, char **path, pr_err *err) {
    pr_companion companion = {0};
    pthread_mutex_lock(&c->lock);
    const entry *e = find(c, name);
    *path = e ? pr_strdup(PR_TAG_MISC, e->path) : NULL;
    pthread_mutex_unlock(&c->lock);
    if (!e) return pr_fail(err, PR_ERR_NOTFOUND, "there is no model \"%.100s\"", name);
    if (!*path) return pr_fail_nomem(err, "a path", 0);
    if (pr__companion_look(*path, &companion) && companion.fits) {
        char *own = *path;
        *path = companion.path;
        companion.path = NULL;
        pr_free(own);
    }
    pr__companion_free(&companion);
    return PR_OK;
}

static pr_status on_path(void *arg, const char *name, char **path, pr_err *err) {
    return pr__catalogue_path(arg, name, path, err);
}

pr_api_models pr__catalogue_models(pr_catalogue *c) { return (pr_api_models){on_find, on_path, on_list, c}; }
