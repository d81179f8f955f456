/*
 * Streams in memory or in a file.
 *
 * The file is made, and its name removed at once: nothing can be left behind, whatever becomes of the process.
 */
#include "compress/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"

static pr_status open_file(pr_streams *s, const char *folder, pr_err *err) {
    pr_str path = {0};
    pr_str_printf(&path, "%s/.precis-streams-XXXXXX", folder);
    pr_status st = pr_str_ok(&path) ? PR_OK : pr_fail_nomem(err, "a path", path.len);
    if (!st) {
        s->fd = mkostemp(path.data, O_CLOEXEC);
        if (s->fd < 0) st = pr_fail_errno(err, "cannot create a temporary file in %s", folder);
        else unlink(path.data);
    }
    pr_str_free(&path);
    return st;
}

pr_status pr_streams_open(pr_streams *s, uint64_t n_rows, uint32_t cols, size_t bytes_max, const char *folder,
                          pr_err *err) {
    size_t bytes;
    *s = (pr_streams){.n_rows = n_rows, .cols = cols, .fd = -1};
    if (!pr_size_mul((size_t)n_rows, cols * sizeof(float), &bytes))
        return pr_fail(err, PR_ERR_LIMIT, "too much text to calibrate with");
    if (bytes > bytes_max) return open_file(s, folder, err);
    s->memory = pr_alloc(PR_TAG_SCRATCH, bytes);
    return s->memory ? PR_OK : pr_fail_nomem(err, "the streams of the calibration text", bytes);
}

void pr_streams_close(pr_streams *s) {
    if (!s->cols) return;
    pr_free(s->memory);
    if (s->fd >= 0) close(s->fd);
    *s = (pr_streams){0};
}

pr_status pr_streams_get(const pr_streams *s, uint64_t row, uint32_t n, float *out, pr_err *err) {
    size_t bytes = (size_t)n * s->cols * sizeof *out;
    if (s->memory) {
        memcpy(out, s->memory + row * s->cols, bytes);
        return PR_OK;
    }
    for (size_t at = 0; at < bytes;) {
        ssize_t got = pread(s->fd, (char *)out + at, bytes - at, (off_t)(row * s->cols * sizeof *out + at));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return pr_fail_errno(err, "cannot read the temporary file of the calibration");
        at += (size_t)got;
    }
    return PR_OK;
}

pr_status pr_streams_put(pr_streams *s, uint64_t row, uint32_t n, const float *in, pr_err *err) {
    size_t bytes = (size_t)n * s->cols * sizeof *in;
    if (s->memory) {
        memcpy(s->memory + row * s->cols, in, bytes);
        return PR_OK;
    }
    for (size_t at = 0; at < bytes;) {
        ssize_t put = pwrite(s->fd, (const char *)in + at, bytes - at, (off_t)(row * s->cols * sizeof *in + at));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return pr_fail_errno(err, "cannot write the temporary file of the calibration");
        at += (size_t)put;
    }
    return PR_OK;
}
