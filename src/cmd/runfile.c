/*
 * Run files.
 */
#include "cmd/runfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/json.h"
#include "base/os.h"
#include "base/str.h"
#include "cmd/models.h"

struct pr_runfile {
    int fd;
    char *path;
};

/* pr_free() it. */
static char *folder(void) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char *models = NULL, *dir = NULL;
    if (runtime && runtime[0] == '/') return pr__path_join(runtime, "precis");
    if (pr__models_dir(&models, NULL) != PR_OK) return NULL;
    size_t len = strlen(models);
    while (len > 1 && models[len - 1] == '/') len--;
    while (len > 0 && models[len - 1] != '/') len--;
    models[len] = '\0';
    dir = pr__path_join(len ? models : ".", "run");
    pr_free(models);
    return dir;
}

pr_status pr__runfile_write(const char *url, uint16_t port, pr_runfile **out, pr_err *err) {
    char name[32];
    pr_str text = {0};
    char *dir = folder();
    *out = NULL;
    pr_runfile *f = pr_calloc(PR_TAG_MISC, 1, sizeof *f);
    if (!dir || !f) {
        pr_free(dir);
        pr_free(f);
        return pr_fail_nomem(err, "the run file", 0);
    }
    snprintf(name, sizeof name, "serve-%u.json", port);
    pr_status st = pr_path_mkdirs(dir, err);
    f->path = pr__path_join(dir, name);
    f->fd = st || !f->path ? -1 : open(f->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (!st && f->fd < 0) st = pr_fail_errno(err, "%s", f->path ? f->path : dir);
    if (!st && flock(f->fd, LOCK_EX | LOCK_NB) != 0) st = pr_fail_errno(err, "%s", f->path);
    pr_str_printf(&text, "{\"pid\":%ld,\"port\":%u,\"url\":\"%s\"}\n", (long)getpid(), port, url);
    if (!st && (!pr_str_ok(&text) || write(f->fd, text.data, text.len) != (ssize_t)text.len))
        st = pr_fail_errno(err, "%s", f->path);
    pr_str_free(&text);
    pr_free(dir);
    if (st) pr__runfile_remove(f);
    else *out = f;
    return st;
}

void pr__runfile_remove(pr_runfile *f) {
    if (!f) return;
    if (f->fd >= 0) {
        unlink(f->path);
        close(f->fd);
    }
    pr_free(f->path);
    pr_free(f);
}

static bool read_one(const char *path, pr_running *out) {
    enum { BYTES_MAX = 4096 };
    json_t *doc = NULL;
    const char *url = NULL;
    uint32_t pid = 0, port = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool dead = flock(fd, LOCK_SH | LOCK_NB) == 0;
    close(fd);
    if (dead) unlink(path);
    if (dead || pr_json_load(path, BYTES_MAX, &doc, NULL) != PR_OK) return false;
    bool ok = pr_json_u32(doc, "pid", &pid, NULL) == PR_OK && pr_json_u32(doc, "port", &port, NULL) == PR_OK &&
              pr_json_str(doc, "url", &url, NULL) == PR_OK && pid && url;
    *out = (pr_running){.pid = (long)pid, .port = (uint16_t)port};
    snprintf(out->url, sizeof out->url, "%s", url ? url : "");
    json_decref(doc);
    return ok;
}

static size_t list_folder(const char *dir, bool system, pr_running *out, size_t max) {
    size_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && n < max && (e = readdir(d));) {
        if (!pr_str_starts(e->d_name, "serve-") || !pr_str_ends(e->d_name, ".json")) continue;
        char *path = pr__path_join(dir, e->d_name);
        if (path && read_one(path, &out[n])) out[n++].system = system;
        pr_free(path);
    }
    if (d) closedir(d);
    return n;
}

size_t pr__runfile_list(pr_running *out, size_t max) {
    static const char system_dir[] = "/run/precis"; /* of packaging/precis.service */
    char *dir = folder();
    size_t n = dir ? list_folder(dir, false, out, max) : 0;
    if (!dir || strcmp(dir, system_dir) != 0) n += list_folder(system_dir, true, out + n, max - n);
    pr_free(dir);
    return n;
}
