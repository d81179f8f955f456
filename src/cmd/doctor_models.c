/*
 * precis doctor: the model folder.
 *
 * Of each model only the header is read. One that cannot be read is broken; one that cannot fit here even at its lowest
 * level is, too; a copy of a source that has changed since is only worth knowing, because it is not used.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "cmd/companion.h"
#include "cmd/doctor.h"
#include "cmd/models.h"

static const uint64_t DISK_LEAST = UINT64_C(1000000000);

/* The nearest folder above path that exists: where a download would end up. */
static void existing_part(char *path) {
    while (path[0] && !pr_path_exists(path)) {
        char *slash = strrchr(path, '/');
        if (!slash || slash == path) {
            snprintf(path, 2, "%s", slash ? "/" : ".");
            return;
        }
        *slash = '\0';
    }
}

static void look_at_folder(pr_doctor *d, const char *dir, size_t n) {
    char size[32];
    struct stat st;
    char *there = pr_strdup(PR_TAG_MISC, dir);
    if (there) existing_part(there);
    bool writable = there && pr_path_is_dir(there) && access(there, W_OK | X_OK) == 0;
    uint64_t left = there ? pr_disk_free(there) : 0;
    pr_format_bytes(size, sizeof size, left);
    if (!writable)
        pr__doctor_tell(d, PR_BAD, "models", "set PRECIS_MODELS to a folder that can, or chown it",
                        "%s cannot be written", dir);
    else if (n == 0)
        pr__doctor_tell(d, PR_NOTE, "models", "precis pull smollm2", "none yet in %s (%s free)", dir, size);
    else pr__doctor_tell(d, PR_GOOD, "models", NULL, "%zu in %s, %s free", n, dir, size);
    if (writable && left < DISK_LEAST)
        pr__doctor_tell(d, PR_NOTE, "disk", "make room there, or set PRECIS_MODELS to another disk",
                        "%s free: a model or its elastic copy may not fit", size);
    if (stat(dir, &st) == 0 && (st.st_mode & S_IWOTH))
        pr__doctor_tell(d, PR_NOTE, "folder", "chmod o-w on it", "everybody may put models into %s, and change them",
                        dir);
    pr_free(there);
}

static void look_at_parts(pr_doctor *d, const char *dir) {
    DIR *folder = opendir(dir);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        char what[96];
        bool pull = pr_str_starts(e->d_name, ".pull-");
        if (!pull && !pr_str_ends(e->d_name, ".part")) continue;
        snprintf(what, sizeof what, "part %.80s", pull ? e->d_name + strlen(".pull-") : e->d_name);
        pr__doctor_tell(d, PR_NOTE, what, "the same `precis pull` goes on with it; or remove it",
                        "a download that was not finished");
    }
    if (folder) closedir(folder);
}

/* Whether a model fits at its lowest level, with the context that the server gives it. */
static void look_at_need(pr_doctor *d, const char *what, const char *path, const char *copied) {
    char size[32], least[96], there[32];
    pr_estimate *estimate = NULL;
    pr_engine_info info;
    pr_elastic_info elastic;
    pr_err err = {0};
    pr_engine_opts opts = {.context_max = d->settings.context_length, .context_fit = true};
    if (pr_engine_estimate(path, &opts, &estimate, &err) != PR_OK) {
        pr__doctor_tell(d, PR_BAD, what, "fetch or pack it again; `precis show` says more", "%s", err.text);
        return;
    }
    pr_estimate_describe(estimate, &info);
    pr_estimate_elastic(estimate, &elastic);
    pr_estimate_close(estimate);
    uint64_t need = info.peak_bytes - info.weight_bytes + (elastic.elastic ? elastic.bytes_min : info.weight_bytes);
    uint64_t limit = pr_memory_limit(), available = pr_memory_available();
    if (d->settings.memory_bytes && d->settings.memory_bytes < limit) limit = d->settings.memory_bytes;
    pr_format_bytes(size, sizeof size, need);
    snprintf(least, sizeof least, "%s with a context of %u tokens", size, info.context_max);
    pr_format_bytes(there, sizeof there, need > limit ? limit : available);
    const char *smaller = elastic.elastic ? "a smaller context (PRECIS_CONTEXT_LENGTH), more memory, or a smaller model"
                                          : "`precis pack` makes a copy that can take less; or more memory";
    if (need > limit)
        pr__doctor_tell(d, PR_BAD, what, smaller, "it takes at least %s, and only %s may be used", least, there);
    else if (need > available)
        pr__doctor_tell(d, PR_NOTE, what, "end other programs before it is loaded",
                        "it takes at least %s, and %s is available now", least, there);
    else pr__doctor_tell(d, PR_GOOD, what, NULL, "from %s%s", least, copied);
}

static void look_at_model(pr_doctor *d, const char *dir, const char *name) {
    char what[96];
    pr_companion c = {0};
    char *path = pr__path_join(dir, name);
    if (!path) return;
    snprintf(what, sizeof what, "model %.80s", name);
    bool looked = pr__companion_look(path, &c);
    bool copy = looked && !c.elastic && pr_path_exists(c.path);
    bool fits = copy && c.fits;
    look_at_need(d, what, fits ? c.path : path,
                 fits                   ? ", and elastic"
                 : !looked || c.elastic ? ""
                                        : ", of one precision");
    if (copy && !c.fits && !pr__companion_busy(&c)) {
        char remedy[256];
        snprintf(remedy, sizeof remedy, "precis pack %.200s", name);
        snprintf(what, sizeof what, "copy of %.80s", name);
        pr__doctor_tell(d, PR_NOTE, what, remedy, "the elastic copy is broken, or of another source: it is not used");
    }
    pr__companion_free(&c);
    pr_free(path);
}

void pr__doctor_models(pr_doctor *d) {
    char *dir = NULL;
    pr_err err = {0};
    pr_model_names names = {0};
    if (d->settings.models[0]) (void)setenv("PRECIS_MODELS", d->settings.models, 1);
    pr_status st = pr__models_dir(&dir, &err);
    if (!st) st = pr__models_names(dir, &names, &err);
    if (st) {
        pr__doctor_tell(d, PR_BAD, "models", "set PRECIS_MODELS to a folder that can be read", "%s", err.text);
    } else {
        look_at_folder(d, dir, names.n);
        look_at_parts(d, dir);
        for (size_t i = 0; i < names.n; i++) look_at_model(d, dir, names.name[i]);
    }
    pr__models_names_free(&names);
    pr_free(dir);
}
