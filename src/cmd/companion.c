/*
 * Companions.
 *
 * A companion belongs to its source by the source's size and time of change, which it has written down: a file of the
 * same name with other contents differs in one of them, and is packed again. One without a time counts while it is
 * newer than its source.
 *
 * The log is the lock as well: the packing process holds it (flock) until it ends, however it ends, so there is no lock
 * file to be left behind. A log that is not held and ends in an error message is an attempt that failed: it is
 * not made again before the source has changed.
 */
#include "cmd/companion.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "cmd/child.h"
#include "cmd/models.h"
#include "cmd/term.h"
#include "store/planes.h"

enum { LOG_TAIL_BYTES = 4096 };

static const uint64_t PACK_MAX_DEFAULT = UINT64_C(2000000000);

/* ---- marks ---- */

/* True when most bytes of the file's tensors have 16 bits a weight or more. */
static bool is_wide(const pr_model_file *file) {
    uint64_t wide = 0, all = 0;
    for (size_t i = 0; i < pr_model_file_n_tensors(file); i++) {
        const pr_tensor_info *t = pr_model_file_tensor(file, i);
        all += t->bytes;
        if (t->dtype == PR_F16 || t->dtype == PR_BF16 || t->dtype == PR_F32) wide += t->bytes;
    }
    return wide > all / 2;
}

static bool has_number(const pr_model_file *file, const char *key, int64_t *out) {
    const char *text = NULL;
    uint64_t n;
    if (pr_meta_str(file, key, &text, NULL) != PR_OK || !text || !pr_parse_u64(text, &n) || n > INT64_MAX) return false;
    *out = (int64_t)n;
    return true;
}

static bool companion_fits(const pr_companion *c) {
    pr_model_file *file = NULL;
    int64_t n_bytes = 0, changed = 0;
    if (pr_model_file_open(c->path, &file, NULL) != PR_OK) return false;
    bool fits = pr_model_file_planes(file) && has_number(file, "precis.source.bytes", &n_bytes) &&
                (uint64_t)n_bytes == c->n_bytes;
    if (has_number(file, "precis.source.changed", &changed)) fits = fits && changed == c->changed_ns;
    else fits = fits && pr_model_file_changed_ns(file) > c->changed_ns;
    pr_model_file_close(file);
    return fits;
}

/* ---- looking ---- */

static char *make_path(const char *dir, const char *source, const char *suffix) {
    pr_str s = {0};
    size_t len = strlen(source);
    while (len > 1 && source[len - 1] == '/') len--;
    size_t start = len;
    while (start > 0 && source[start - 1] != '/') start--;
    int n = (int)(len - start);
    if (n > 5 && !memcmp(source + len - 5, ".gguf", 5)) n -= 5;
    pr_str_printf(&s, "%s%s%.*s%s", dir, pr_str_ends(dir, "/") ? "" : "/", n, source + start, suffix);
    return pr_str_take(&s);
}

bool pr__companion_look(const char *source, pr_companion *out) {
    pr_model_file *file = NULL;
    *out = (pr_companion){0};
    if (pr__models_dir(&out->dir, NULL) != PR_OK) return false;
    out->source = pr_strdup(PR_TAG_MISC, source);
    out->path = make_path(out->dir, source, PR_COMPANION_SUFFIX);
    out->log_path = make_path(out->dir, source, ".planes.log");
    bool ok = out->source && out->path && out->log_path && pr_model_file_open(source, &file, NULL) == PR_OK;
    if (ok) {
        out->elastic = pr_model_file_planes(file) != NULL;
        out->wide = is_wide(file);
        out->n_bytes = pr_model_file_bytes(file);
        out->changed_ns = pr_model_file_changed_ns(file);
    }
    pr_model_file_close(file);
    if (ok && !out->elastic) out->fits = companion_fits(out);
    if (!ok) pr__companion_free(out);
    return ok;
}

bool pr__companion_taken(const pr_companion *c, bool wants_elastic, bool exact) {
    return c->fits && (wants_elastic || (c->wide && !exact));
}

void pr__companion_free(pr_companion *c) {
    pr_free(c->source);
    pr_free(c->dir);
    pr_free(c->path);
    pr_free(c->log_path);
    *c = (pr_companion){0};
}

const char *pr__companion_advice(const char *source, char *buf, size_t len) {
    pr_companion c;
    bool fits = pr__companion_look(source, &c) && c.fits;
    if (fits) snprintf(buf, len, "its elastic copy is %.400s", c.path);
    else snprintf(buf, len, "`precis pack %.200s` makes an elastic model of it", source);
    pr__companion_free(&c);
    return buf;
}

bool pr__companion_busy(const pr_companion *c) {
    int fd = c->log_path ? open(c->log_path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return false;
    bool busy = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return busy;
}

/* ---- packing ---- */

static void say(const pr_companion *c, const char *fmt, ...) PR_PRINTF(2, 3);
static void say(const pr_companion *c, const char *fmt, ...) {
    const char *slash = strrchr(c->path, '/');
    va_list args;
    va_start(args, fmt);
    pr_str text = {0};
    pr_str_vprintf(&text, fmt, args);
    va_end(args);
    pr__cmd_line(stderr, "precis: %s: %s", slash ? slash + 1 : c->path, text.data ? text.data : "out of memory");
    pr_str_free(&text);
}

/* The last attempt ended with a message, and the source is as it was then. */
static bool failed_before(const pr_companion *c, int fd) {
    char tail[LOG_TAIL_BYTES + 1];
    struct stat st;
    if (fstat(fd, &st) != 0 || st.st_size == 0) return false;
    if ((int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec < c->changed_ns) return false;
    off_t from = st.st_size > LOG_TAIL_BYTES ? st.st_size - LOG_TAIL_BYTES : 0;
    ssize_t n = pread(fd, tail, LOG_TAIL_BYTES, from);
    if (n <= 0) return false;
    while (n > 0 && tail[n - 1] == '\n') n--;
    tail[n] = '\0';
    const char *line = strrchr(tail, '\n');
    return pr_str_starts(line ? line + 1 : tail, "precis: ");
}

/* The log, locked; -1 when it cannot be written or another process holds it. */
static int lock_log(const pr_companion *c) {
    if (pr_path_mkdirs(c->dir, NULL) != PR_OK) return -1;
    int fd = open(c->log_path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void start(const pr_companion *c, int fd) {
    const char *argv[] = {"precis", "pack", "--fast", c->source, c->path, NULL};
    pr_err err = {0};
    if (ftruncate(fd, 0) != 0 || pr__child_detach("/proc/self/exe", argv, fd, &err) != PR_OK) {
        say(c, "not packed: %s", err.text[0] ? err.text : strerror(errno));
        return;
    }
    say(c, "being packed in the background, for levels and moving between them (--no-pack: not); %s tells",
        c->log_path);
}

void pr__companion_pack(const pr_companion *c) {
    const char *set = getenv("PRECIS_PACK_MAX");
    uint64_t most = PACK_MAX_DEFAULT;
    char size[32];
    if (c->elastic || c->fits) return;
    if (set && set[0] && !pr_parse_bytes(set, &most)) {
        say(c, "not packed: PRECIS_PACK_MAX \"%.100s\" is not a size", set);
        return;
    }
    if (most == 0 || pr__companion_busy(c)) return;
    if (c->n_bytes > most) {
        say(c, "not packed by itself, being over %s (PRECIS_PACK_MAX): `precis pack %s` does it",
            pr_format_bytes(size, sizeof size, most), c->source);
        return;
    }
    int fd = lock_log(c);
    if (fd < 0) {
        say(c, "not packed: %s cannot be written", c->dir);
        return;
    }
    uint64_t room = pr_disk_free(c->dir);
    if (failed_before(c, fd)) say(c, "could not be packed: %s says why (remove it to try again)", c->log_path);
    else if (room && room < 2 * c->n_bytes) say(c, "not packed: the disk of %s is nearly full", c->dir);
    else start(c, fd);
    close(fd); /* what was started holds the lock by its own copy */
}
