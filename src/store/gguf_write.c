/*
 * Writing GGUF.
 *
 * The format puts all descriptions before all data, so descriptions are
 * collected in memory (they are small) and go out at the first byte of data;
 * after that everything streams through. Offsets need no second pass: a tensor's
 * size follows from its description. Bytes pass one buffer, so that callers may hand
 * over data in any pieces; what is larger than the buffer goes straight out.
 * Numbers that are known only after the data was made (checksums, measurements) have their room in the header from the
 * start and are put there later, in the collected text or, when that is out, in the file.
 *
 * Nobody ever sees half a file: it is written as PATH.partNNN, synced, and
 * renamed at the end, or deleted. Its writer holds it locked (flock), so what a killed one left is known by its lock being
 * free, and is deleted by the next that writes the same file. A rename would put that file in the place of a device or
 * a pipe, for all programs of the machine, so only what is missing or a regular file is replaced.
 */
#include "store/gguf_write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"
#include "store/model_file_impl.h"

enum { BUFFER = 256 << 10, NAME_MAX_BYTES = 64, OPEN_TRIES = 8 };

typedef struct planned { /* a tensor that was described */
    char name[NAME_MAX_BYTES + 1];
    uint64_t bytes, offset; /* offset: from the first byte of data */
    uint64_t placed;        /* bytes of it that pr_gguf_data_at() has brought */
} planned;

typedef struct later {   /* an array that is filled in afterwards */
    size_t key, key_len; /* of its name, in meta */
    size_t at, len;      /* of its elements, in meta */
} later;

struct pr_gguf_writer {
    char *path, *part;
    int fd;
    uint32_t alignment;
    pr_str meta, descriptions;
    uint64_t n_meta;
    planned *tensors;
    size_t n_tensors, cap;
    later *laters;
    size_t n_laters;
    uint64_t data_bytes; /* of all tensors described so far, with padding between */
    size_t current;      /* tensor that the next byte of data belongs to */
    uint64_t filled;     /* bytes of it that are there */
    bool described;      /* the header is out */
    bool placing;        /* data comes by place now, no longer in order */
    uint8_t *buffer;
    size_t n_buffer;
    pr_err err; /* the first thing that went wrong */
};

static uint64_t padding(const pr_gguf_writer *w, uint64_t at) {
    return (w->alignment - at % w->alignment) % w->alignment;
}

/* ---- the part ---- */

static bool is_part_of(const char *name, const char *whole) {
    size_t n = strlen(whole);
    if (strncmp(name, whole, n) != 0 || strncmp(name + n, ".part", 5) != 0) return false;
    const char *number = name + n + 5;
    return *number && number[strspn(number, "0123456789")] == '\0';
}

static void delete_unheld(int folder, const char *name) {
    struct stat st;
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0) unlinkat(folder, name, 0);
    close(fd);
}

/* Parts of this file whose writers were killed. */
static pr_status delete_left_parts(const char *path, pr_err *err) {
    const char *slash = strrchr(path, '/'), *whole = slash ? slash + 1 : path;
    pr_str folder = {0};
    pr_str_printf(&folder, "%.*s", slash ? (int)(whole - path) : 1, slash ? path : ".");
    pr_status status = pr_str_ok(&folder) ? PR_OK : pr_fail_nomem(err, "path", folder.len);
    DIR *d = status ? NULL : opendir(folder.data);
    pr_str_free(&folder);
    if (!d) return status;
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (is_part_of(e->d_name, whole)) delete_unheld(dirfd(d), e->d_name);
    closedir(d);
    return PR_OK;
}

/* -1: errno tells. Between opening and locking another writer may have taken it for one that was left. */
static int open_part(const char *part) {
    struct stat held, named;
    for (int i = 0;; i++) {
        int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (fd < 0) return -1;
        bool taken = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        bool there = fstat(fd, &held) == 0 && stat(part, &named) == 0 && held.st_ino == named.st_ino;
        if ((!taken && there) || i == OPEN_TRIES) return fd;
        close(fd);
    }
}

pr_status pr_gguf_create(const char *path, uint32_t alignment, pr_gguf_writer **out, pr_err *err) {
    *out = NULL;
    if (alignment < 8 || (alignment & (alignment - 1)) != 0) {
        return pr_fail(err, PR_ERR_ARG, "GGUF alignment %u is not a power of two from 8 on", alignment);
    }
    struct stat there;
    pr_str part = {0};
    pr_gguf_writer *w = pr_calloc(PR_TAG_FILE, 1, sizeof *w);
    if (!w) return pr_fail_nomem(err, "GGUF writer", sizeof *w);
    w->fd = -1;
    w->alignment = alignment;
    w->path = pr_strdup(PR_TAG_FILE, path);
    w->buffer = pr_alloc(PR_TAG_FILE, BUFFER);
    pr_str_printf(&part, "%s.part%ld", path, (long)getpid());
    w->part = pr_str_take(&part);
    pr_status status = PR_OK;
    if (!w->path || !w->part || !w->buffer) {
        status = pr_fail_nomem(err, "GGUF writer", BUFFER);
        goto fail;
    }
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode)) {
        status = pr_fail(err, PR_ERR_ARG, "%s is there and is no regular file: it will not be replaced", path);
        goto fail;
    }
    status = delete_left_parts(path, err);
    if (status) goto fail;
    w->fd = open_part(w->part);
    if (w->fd < 0) {
        status = pr_fail_errno(err, "cannot create %s", w->part);
        goto fail;
    }
    if (alignment != 32) pr_gguf_meta_u32(w, "general.alignment", alignment);
    *out = w;
    return PR_OK;
fail:
    pr_gguf_abort(w);
    return status;
}

void pr_gguf_abort(pr_gguf_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->part);
    }
    pr_str_free(&w->meta);
    pr_str_free(&w->descriptions);
    pr_free(w->tensors);
    pr_free(w->laters);
    pr_free(w->buffer);
    pr_free(w->part);
    pr_free(w->path);
    pr_free(w);
}

/* ---- description ---- */

static void put(pr_str *s, const void *data, size_t len) { pr_str_append(s, data, len); }

static void put_u32(pr_str *s, uint32_t v) { put(s, &v, sizeof v); }

static void put_u64(pr_str *s, uint64_t v) { put(s, &v, sizeof v); }

static void put_text(pr_str *s, const char *text) {
    put_u64(s, strlen(text));
    put(s, text, strlen(text));
}

/* Key and type of a value; false when it cannot be taken any more. */
static bool begin(pr_gguf_writer *w, const char *key, uint32_t type) {
    if (w->described && w->err.status == PR_OK) pr_fail(&w->err, PR_ERR_ARG, "%s comes after the first data", key);
    if (w->err.status != PR_OK) return false;
    put_text(&w->meta, key);
    put_u32(&w->meta, type);
    w->n_meta++;
    return true;
}

static bool begin_array(pr_gguf_writer *w, const char *key, uint32_t type, size_t n) {
    if (!begin(w, key, PR__GGUF_ARRAY)) return false;
    put_u32(&w->meta, type);
    put_u64(&w->meta, n);
    return true;
}

void pr_gguf_meta_u32(pr_gguf_writer *w, const char *key, uint32_t v) {
    if (begin(w, key, PR__GGUF_U32)) put_u32(&w->meta, v);
}

void pr_gguf_meta_f32(pr_gguf_writer *w, const char *key, float v) {
    if (begin(w, key, PR__GGUF_F32)) put(&w->meta, &v, sizeof v);
}

void pr_gguf_meta_bool(pr_gguf_writer *w, const char *key, bool v) {
    uint8_t byte = v;
    if (begin(w, key, PR__GGUF_BOOL)) put(&w->meta, &byte, 1);
}

void pr_gguf_meta_str(pr_gguf_writer *w, const char *key, const char *v) {
    if (begin(w, key, PR__GGUF_STR)) put_text(&w->meta, v);
}

void pr_gguf_meta_strs(pr_gguf_writer *w, const char *key, const char *const *v, size_t n) {
    if (!begin_array(w, key, PR__GGUF_STR, n)) return;
    for (size_t i = 0; i < n; i++) put_text(&w->meta, v[i]);
}

void pr_gguf_meta_f32s(pr_gguf_writer *w, const char *key, const float *v, size_t n) {
    if (begin_array(w, key, PR__GGUF_F32, n)) put(&w->meta, v, n * sizeof *v);
}

void pr_gguf_meta_i32s(pr_gguf_writer *w, const char *key, const int32_t *v, size_t n) {
    if (begin_array(w, key, PR__GGUF_I32, n)) put(&w->meta, v, n * sizeof *v);
}

void pr_gguf_meta_later(pr_gguf_writer *w, const char *key, pr_dtype dtype, size_t n) {
    static const uint32_t zero;
    if (!begin_array(w, key, dtype == PR_F32 ? PR__GGUF_F32 : PR__GGUF_I32, n)) return;
    later *grown = pr_realloc_array(PR_TAG_FILE, w->laters, w->n_laters + 1, sizeof *grown);
    if (!grown) {
        pr_fail_nomem(&w->err, key, sizeof *grown);
        return;
    }
    const size_t before = 4 + 4 + 8; /* type, element type, length */
    w->laters = grown;
    grown[w->n_laters++] = (later){w->meta.len - before - strlen(key), strlen(key), w->meta.len, n * sizeof zero};
    for (size_t i = 0; i < n; i++) put(&w->meta, &zero, sizeof zero);
}

/* Bytes of a value in the encoding of a file. */
static size_t value_bytes(const pr_meta *m) {
    if (m->type == PR__GGUF_STR) return (size_t)m->n;
    if (m->type != PR__GGUF_ARRAY) return pr__gguf_width(m->type);
    if (m->elem != PR__GGUF_STR) return (size_t)m->n * pr__gguf_width(m->elem);
    size_t last = m->n ? m->index[m->n - 1] : 0;
    return m->n ? last + 8 + (size_t)pr__le64(m->data + last) : 0;
}

void pr_gguf_meta_copy(pr_gguf_writer *w, const pr_model_file *from, const char *key) {
    const pr_meta *m = pr_model_file_meta(from, key);
    if (w->err.status != PR_OK || strcmp(key, "general.alignment") == 0) return;
    if (!m) {
        pr_fail(&w->err, PR_ERR_ARG, "%s has no %s that could be copied", pr_model_file_path(from), key);
        return;
    }
    if (!(m->type == PR__GGUF_ARRAY ? begin_array(w, key, m->elem, (size_t)m->n) : begin(w, key, m->type))) return;
    if (m->type == PR__GGUF_STR) put_u64(&w->meta, m->n);
    size_t len = value_bytes(m);
    if (len) put(&w->meta, m->data, len);
}

void pr_gguf_keep(pr_gguf_writer *w, const pr_err *err) {
    if (w->err.status == PR_OK) w->err = *err;
}

static planned *add_planned(pr_gguf_writer *w) {
    if (w->n_tensors == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 64;
        planned *grown = pr_realloc_array(PR_TAG_FILE, w->tensors, cap, sizeof *grown);
        if (!grown) return NULL;
        w->tensors = grown;
        w->cap = cap;
    }
    return &w->tensors[w->n_tensors++];
}

void pr_gguf_tensor(pr_gguf_writer *w, const char *name, pr_dtype dtype, uint32_t n_dims, const uint64_t *dims) {
    pr_tensor_info t = {.name = name, .dtype = dtype, .n_dims = n_dims, .dims = {1, 1, 1, 1}};
    const pr_dtype_info *type = pr_dtype_get(dtype);
    if (w->described && w->err.status == PR_OK)
        pr_fail(&w->err, PR_ERR_ARG, "tensor '%s' comes after the first data", name);
    if (w->err.status != PR_OK) return;
    if (n_dims < 1 || n_dims > 4 || strlen(name) > NAME_MAX_BYTES || !*name || type->ggml_id < 0) {
        pr_fail(&w->err, PR_ERR_ARG, "tensor '%s' (%s, %u dimensions) has no place in GGUF", name, type->name, n_dims);
        return;
    }
    for (uint32_t i = 0; i < n_dims; i++) t.dims[i] = dims[i];
    if (pr__tensor_size(&t, &w->err) != PR_OK) return;
    planned *p = add_planned(w);
    if (!p) {
        pr_fail_nomem(&w->err, "tensor list", w->cap * sizeof *p);
        return;
    }
    snprintf(p->name, sizeof p->name, "%s", name);
    p->bytes = t.bytes;
    p->offset = w->data_bytes;
    p->placed = 0;
    put_text(&w->descriptions, name);
    put_u32(&w->descriptions, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) put_u64(&w->descriptions, dims[i]);
    put_u32(&w->descriptions, (uint32_t)type->ggml_id);
    put_u64(&w->descriptions, w->data_bytes);
    w->data_bytes += t.bytes + padding(w, t.bytes);
}

/* ---- bytes ---- */

static pr_status write_out(pr_gguf_writer *w, const uint8_t *data, size_t len) {
    while (len > 0) {
        ssize_t n = write(w->fd, data, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return pr_fail_errno(&w->err, "cannot write %s", w->part);
        data += n;
        len -= (size_t)n;
    }
    return PR_OK;
}

static pr_status flush(pr_gguf_writer *w) {
    size_t n = w->n_buffer;
    w->n_buffer = 0;
    return write_out(w, w->buffer, n);
}

static pr_status put_bytes(pr_gguf_writer *w, const void *data, size_t len) {
    if (len > BUFFER - w->n_buffer) {
        pr_status status = flush(w);
        if (status == PR_OK && len >= BUFFER) return write_out(w, data, len);
        if (status != PR_OK) return status;
    }
    memcpy(w->buffer + w->n_buffer, data, len);
    w->n_buffer += len;
    return PR_OK;
}

static pr_status put_zeros(pr_gguf_writer *w, uint64_t n) {
    static const uint8_t zeros[4096];
    pr_status status = PR_OK;
    for (; n > 0 && status == PR_OK; n -= n < sizeof zeros ? n : sizeof zeros) {
        status = put_bytes(w, zeros, n < sizeof zeros ? (size_t)n : sizeof zeros);
    }
    return status;
}

typedef struct header {
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_meta;
} header;
_Static_assert(sizeof(header) == 24, "as in the file");

/* The header, once everything is described. */
static pr_status put_header(pr_gguf_writer *w) {
    char need[32], have[32];
    const header head = {{'G', 'G', 'U', 'F'}, 3, w->n_tensors, w->n_meta};
    w->described = true;
    if (!pr_str_ok(&w->meta) || !pr_str_ok(&w->descriptions)) return pr_fail_nomem(&w->err, "GGUF header", w->meta.len);
    uint64_t bytes = sizeof head + w->meta.len + w->descriptions.len;
    uint64_t total = bytes + padding(w, bytes) + w->data_bytes, room = pr_disk_free(w->part);
    if (room != 0 && total > room) {
        return pr_fail(&w->err, PR_ERR_LIMIT, "%s needs %s, but its disk has only %s left", w->path,
                       pr_format_bytes(need, sizeof need, total), pr_format_bytes(have, sizeof have, room));
    }
    pr_status status = put_bytes(w, &head, sizeof head);
    if (status == PR_OK && w->meta.len) status = put_bytes(w, w->meta.data, w->meta.len);
    if (status == PR_OK && w->descriptions.len) status = put_bytes(w, w->descriptions.data, w->descriptions.len);
    return status == PR_OK ? put_zeros(w, padding(w, bytes)) : status;
}

static pr_status put_data(pr_gguf_writer *w, const uint8_t *data, size_t len) {
    pr_status status = w->err.status;
    if (status == PR_OK && !w->described) status = put_header(w);
    while (len > 0 && status == PR_OK) {
        if (w->current == w->n_tensors || w->placing)
            return pr_fail(&w->err, PR_ERR_ARG, "%zu bytes of data after the last tensor", len);
        uint64_t bytes = w->tensors[w->current].bytes, left = bytes - w->filled;
        size_t n = len < left ? len : (size_t)left;
        status = put_bytes(w, data, n);
        data += n;
        len -= n;
        w->filled += n;
        if (status == PR_OK && w->filled == bytes) {
            status = put_zeros(w, padding(w, bytes));
            w->filled = 0;
            w->current++;
        }
    }
    return status;
}

/* Hand the kept error to the caller. */
static pr_status report(const pr_gguf_writer *w, pr_err *err) {
    if (err) *err = w->err;
    return w->err.status;
}

pr_status pr_gguf_data(pr_gguf_writer *w, const void *data, size_t len, pr_err *err) {
    return put_data(w, data, len) == PR_OK ? PR_OK : report(w, err);
}

static uint64_t data_begins(const pr_gguf_writer *w) {
    uint64_t bytes = sizeof(header) + w->meta.len + w->descriptions.len;
    return bytes + padding(w, bytes);
}

static pr_status write_at(pr_gguf_writer *w, uint64_t at, const uint8_t *data, size_t len) {
    while (len > 0) {
        ssize_t n = pwrite(w->fd, data, len, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return pr_fail_errno(&w->err, "cannot write %s", w->part);
        data += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return PR_OK;
}

/* From here on data comes by place: the file gets its whole length, what lies between tensors reads as zeros. */
static pr_status begin_placing(pr_gguf_writer *w) {
    pr_status status = w->err.status;
    if (status == PR_OK && !w->described) status = put_header(w);
    if (status == PR_OK && w->filled)
        status = pr_fail(&w->err, PR_ERR_ARG, "tensor '%s' is half there", w->tensors[w->current].name);
    if (status == PR_OK) status = flush(w);
    if (status == PR_OK && ftruncate(w->fd, (off_t)(data_begins(w) + w->data_bytes)) != 0)
        status = pr_fail_errno(&w->err, "cannot write %s", w->part);
    w->placing = true;
    return status;
}

pr_status pr_gguf_data_at(pr_gguf_writer *w, size_t tensor, uint64_t offset, const void *data, size_t len,
                          pr_err *err) {
    pr_status status = w->placing ? w->err.status : begin_placing(w);
    planned *p = tensor >= w->current && tensor < w->n_tensors ? &w->tensors[tensor] : NULL;
    if (status == PR_OK && (!p || offset > p->bytes || len > p->bytes - offset))
        status = pr_fail(&w->err, PR_ERR_ARG, "%zu bytes have no place in tensor %zu", len, tensor);
    if (status == PR_OK) status = write_at(w, data_begins(w) + p->offset + offset, data, len);
    if (status == PR_OK) p->placed += len;
    return status == PR_OK ? PR_OK : report(w, err);
}

static const later *find_later(const pr_gguf_writer *w, const char *key) {
    for (size_t i = 0; i < w->n_laters; i++) {
        const later *l = &w->laters[i];
        if (l->key_len == strlen(key) && memcmp(w->meta.data + l->key, key, l->key_len) == 0) return l;
    }
    return NULL;
}

static pr_status patch(pr_gguf_writer *w, const later *l, const uint8_t *data) {
    memcpy(w->meta.data + l->at, data, l->len);
    if (!w->described) return PR_OK;
    pr_status status = flush(w); /* the header may still be in the buffer */
    return status == PR_OK ? write_at(w, sizeof(header) + l->at, data, l->len) : status;
}

pr_status pr_gguf_patch(pr_gguf_writer *w, const char *key, const void *data, size_t len, pr_err *err) {
    pr_status status = w->err.status;
    if (status == PR_OK && !pr_str_ok(&w->meta)) status = pr_fail_nomem(&w->err, "GGUF header", w->meta.len);
    const later *l = status == PR_OK ? find_later(w, key) : NULL;
    if (status == PR_OK && (!l || l->len != len)) {
        status = pr_fail(&w->err, PR_ERR_ARG, "%s was described with %zu bytes, not %zu", key, l ? l->len : 0, len);
    }
    if (status == PR_OK && len) status = patch(w, l, data);
    return status == PR_OK ? PR_OK : report(w, err);
}

/* All data is there and given to the system. */
static pr_status complete(pr_gguf_writer *w) {
    pr_status status = w->err.status;
    if (status == PR_OK && !w->described) status = put_header(w);
    for (size_t i = w->current; i < w->n_tensors && status == PR_OK; i++) {
        const planned *p = &w->tensors[i];
        uint64_t there = w->placing ? p->placed : i == w->current ? w->filled : 0;
        if (there < p->bytes)
            status = pr_fail(&w->err, PR_ERR_ARG, "tensor '%s' lacks %" PRIu64 " bytes of data", p->name,
                             p->bytes - there);
    }
    return status == PR_OK ? flush(w) : status;
}

pr_status pr_gguf_flush(pr_gguf_writer *w, pr_err *err) { return complete(w) == PR_OK ? PR_OK : report(w, err); }

const char *pr_gguf_part_path(const pr_gguf_writer *w) { return w->part; }

/* Everything is on disk, under its name, and the name is on disk. */
static pr_status settle(pr_gguf_writer *w) {
    if (fsync(w->fd) != 0) return pr_fail_errno(&w->err, "cannot sync %s", w->part);
    if (rename(w->part, w->path) != 0) return pr_fail_errno(&w->err, "cannot rename %s to %s", w->part, w->path);
    close(w->fd);
    w->fd = -1;
    char *slash = strrchr(w->path, '/');
    if (slash) slash[slash == w->path] = '\0';
    int folder = open(slash ? w->path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
        fsync(folder); /* some file systems cannot; the file itself is safe by then */
        close(folder);
    }
    return PR_OK;
}

pr_status pr_gguf_finish(pr_gguf_writer *w, pr_err *err) {
    pr_status status = complete(w);
    if (status == PR_OK) status = settle(w);
    if (status != PR_OK) report(w, err);
    pr_gguf_abort(w);
    return status;
}
