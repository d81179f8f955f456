/*
 * Part file.
 *
 * A resume is only right when the bytes on the disk and the bytes still to come
 * are of one version, and only the server can say so: that is what the note's
 * ETag or date is for (If-Range). A part without a note starts again; losing
 * time is better than a file sewn from two.
 *
 * The lock is on the part's inode. Another process may have renamed the part to
 * its final name between our open and our lock, so after locking we look
 * whether the name still means the file we hold.
 */
#include "cmd/part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"

enum { NOTE_BYTES_MAX = 64 * 1024, OPEN_TRIES = 8 };

static char *with_suffix(const char *path, const char *suffix) {
    pr_str s = {0};
    pr_str_puts(&s, path);
    pr_str_puts(&s, suffix);
    return pr_str_take(&s);
}

/* True when path is still the file behind fd. */
static bool same_file(int fd, const char *path) {
    struct stat held, named;
    return fstat(fd, &held) == 0 && stat(path, &named) == 0 && held.st_dev == named.st_dev &&
           held.st_ino == named.st_ino;
}

static pr_status open_locked(pr_part *part, pr_err *err) {
    for (int i = 0; i < OPEN_TRIES; i++) {
        part->fd = open(part->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (part->fd < 0) return pr_fail_errno(err, "cannot write %s", part->path);
        if (flock(part->fd, LOCK_EX | LOCK_NB) != 0) {
            return pr_fail(err, PR_ERR_IO, "%s is being downloaded by another process", part->final_path);
        }
        if (same_file(part->fd, part->path)) return PR_OK;
        close(part->fd);
        part->fd = -1;
    }
    return pr_fail(err, PR_ERR_IO, "%s is being downloaded by another process", part->final_path);
}

/* Fill etag and modified from the note; false when there is no note for this source. */
static bool read_note(pr_part *part, const char *source) {
    json_t *root = NULL;
    const char *from = "", *etag = "", *modified = "";
    bool ok = pr_path_exists(part->note_path) && pr_json_load(part->note_path, NOTE_BYTES_MAX, &root, NULL) == PR_OK;
    ok = ok && pr_json_str(root, "source", &from, NULL) == PR_OK && pr_json_str(root, "etag", &etag, NULL) == PR_OK &&
         pr_json_str(root, "modified", &modified, NULL) == PR_OK && !strcmp(from, source) && (etag[0] || modified[0]) &&
         strlen(etag) < sizeof part->etag && strlen(modified) < sizeof part->modified;
    if (ok) {
        memcpy(part->etag, etag, strlen(etag) + 1);
        memcpy(part->modified, modified, strlen(modified) + 1);
    }
    json_decref(root);
    return ok;
}

pr_status pr__part_open(pr_part *part, const char *final_path, const char *source, pr_err *err) {
    *part = (pr_part){.fd = -1};
    part->final_path = pr_strdup(PR_TAG_MISC, final_path);
    part->path = with_suffix(final_path, ".part");
    part->note_path = with_suffix(final_path, ".part.json");
    pr_status status;
    if (!part->final_path || !part->path || !part->note_path) status = pr_fail_nomem(err, "a path", 0);
    else status = open_locked(part, err);
    if (status != PR_OK) goto fail;

    struct stat st;
    if (fstat(part->fd, &st) != 0) {
        status = pr_fail_errno(err, "%s", part->path);
        goto fail;
    }
    part->size = (uint64_t)st.st_size;
    if (part->size > 0 && !read_note(part, source)) status = pr__part_reset(part, err);
    if (status == PR_OK) return PR_OK;
fail:
    pr__part_close(part, false);
    return status;
}

pr_status pr__part_reset(pr_part *part, pr_err *err) {
    if (ftruncate(part->fd, 0) != 0) return pr_fail_errno(err, "cannot empty %s", part->path);
    part->size = 0;
    part->etag[0] = part->modified[0] = '\0';
    return PR_OK;
}

pr_status pr__part_note(const pr_part *part, const char *source, pr_err *err) {
    pr_str s = {0};
    pr_str_puts(&s, "{\"source\": ");
    pr_str_json(&s, source, strlen(source));
    pr_str_puts(&s, ", \"etag\": ");
    pr_str_json(&s, part->etag, strlen(part->etag));
    pr_str_puts(&s, ", \"modified\": ");
    pr_str_json(&s, part->modified, strlen(part->modified));
    pr_str_puts(&s, "}\n");
    if (!pr_str_ok(&s)) {
        pr_str_free(&s);
        return pr_fail_nomem(err, "the note of a download", 0);
    }
    FILE *f = fopen(part->note_path, "we");
    bool ok = f && fwrite(s.data, 1, s.len, f) == s.len;
    if (f && fclose(f) != 0) ok = false;
    pr_str_free(&s);
    return ok ? PR_OK : pr_fail_errno(err, "cannot write %s", part->note_path);
}

static pr_status write_failed(const pr_part *part, pr_err *err) {
    char kept[32];
    bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
    if (!full) return pr_fail_errno(err, "cannot write %s", part->path);
    return pr_fail(err, PR_ERR_IO, "%s: %s; %s are kept in the part file: make room and run the same command again",
                   part->path, errno == EFBIG ? "over the file size limit" : "the disk is full",
                   pr_format_bytes(kept, sizeof kept, part->size));
}

pr_status pr__part_write(pr_part *part, const void *data, size_t len, pr_err *err) {
    const char *at = data;
    while (len > 0) {
        ssize_t n = pwrite(part->fd, at, len, (off_t)part->size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return write_failed(part, err);
        at += n;
        len -= (size_t)n;
        part->size += (uint64_t)n;
    }
    return PR_OK;
}

void pr__sync_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    char *dir = slash ? pr_strndup(PR_TAG_MISC, path, slash == path ? 1 : (size_t)(slash - path))
                      : pr_strdup(PR_TAG_MISC, ".");
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    pr_free(dir);
}

pr_status pr__part_finish(pr_part *part, pr_err *err) {
    pr_status status = PR_OK;
    if (fsync(part->fd) != 0) status = write_failed(part, err);
    else if (rename(part->path, part->final_path) != 0)
        status = pr_fail_errno(err, "cannot create %s", part->final_path);
    if (status == PR_OK) {
        unlink(part->note_path);
        pr__sync_folder(part->final_path);
    }
    pr__part_close(part, false);
    return status;
}

void pr__part_close(pr_part *part, bool remove) {
    if (remove && part->fd >= 0) {
        unlink(part->path);
        unlink(part->note_path);
    }
    if (part->fd >= 0) close(part->fd);
    pr_free(part->final_path);
    pr_free(part->path);
    pr_free(part->note_path);
    *part = (pr_part){.fd = -1};
}
