/*
 * The view of a model file: what is common to GGUF and safetensors.
 *
 * A reader fills arrays of values and tensors in whatever order its file has.
 * Then, here and once for both formats, the tensors are put in the order of
 * their data, which makes overlap a question about neighbours and reading
 * sequential, and both arrays get a hash index, which also finds duplicates.
 * After pr_model_file_open() nothing changes any more, so no lock is needed.
 *
 * A file is read with pread, not mapped: a mapped file that is cut short while
 * it is in use kills the process, and page faults cannot report an I/O error.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/str.h"
#include "store/model_file_impl.h"
#include "store/planes.h"

enum { GGUF_HEAD = 64 };

/* ---- small helpers for readers ---- */

/* Step over one character; *plain: it is one that a terminal just shows. */
static size_t step_over(const char *text, size_t len, bool *plain) {
    int32_t cp;
    size_t step = pr_utf8_decode(text, len, &cp);
    *plain = cp >= 0x20 && cp != 0x7f && !(cp >= 0x80 && cp < 0xa0);
    return step;
}

bool pr__printable(const char *text, size_t len) {
    bool plain = true;
    for (size_t i = 0; i < len && plain;) i += step_over(text + i, len - i, &plain);
    return plain;
}

pr__shown pr__show(const char *text, size_t len) {
    pr__shown s;
    size_t n = 0, i = 0;
    while (i < len) {
        bool plain;
        size_t step = step_over(text + i, len - i, &plain);
        if (n + (plain ? step : 1) > 64) break;
        if (plain) memcpy(s.text + n, text + i, step);
        else s.text[n] = '?';
        n += plain ? step : 1;
        i += step;
    }
    memcpy(s.text + n, i < len ? "..." : "", i < len ? 4 : 1);
    return s;
}

/* Room for one more in a growing array of zeroed items. */
static void *add(void **items, size_t *n, size_t *cap, size_t size) {
    if (*n == *cap) {
        size_t more = *cap ? *cap * 2 : 32;
        void *grown = pr_realloc_array(PR_TAG_FILE, *items, more, size);
        if (!grown) return NULL;
        *items = grown;
        *cap = more;
    }
    void *item = (char *)*items + *n * size;
    memset(item, 0, size);
    (*n)++;
    return item;
}

pr_meta *pr__model_file_add_meta(pr_model_file *file) {
    void *items = file->meta;
    pr_meta *item = add(&items, &file->n_meta, &file->meta_cap, sizeof *item);
    file->meta = items;
    return item;
}

pr_tensor_info *pr__model_file_add_tensor(pr_model_file *file) {
    void *items = file->tensors;
    pr_tensor_info *item = add(&items, &file->n_tensors, &file->tensors_cap, sizeof *item);
    file->tensors = items;
    return item;
}

pr_status pr__tensor_size(pr_tensor_info *t, pr_err *err) {
    const char *name = t->name;
    const pr_dtype_info *type = pr_dtype_get(t->dtype);
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->dims[i] == 0) return pr_fail(err, PR_ERR_FORMAT, "tensor '%s' has a dimension of 0", name);
    }
    if (t->dims[0] % type->block_elems != 0) {
        return pr_fail(err, PR_ERR_FORMAT, "tensor '%s': rows of %" PRIu64 " numbers are not whole %s blocks of %u",
                       name, t->dims[0], type->name, type->block_elems);
    }
    bool fits = pr_dtype_row_bytes(t->dtype, t->dims[0], &t->bytes);
    for (uint32_t i = 1; i < 4 && fits; i++) fits = !__builtin_mul_overflow(t->bytes, t->dims[i], &t->bytes);
    if (!fits || t->bytes > INT64_MAX) {
        return pr_fail(err, PR_ERR_FORMAT, "tensor '%s': the product of its dimensions overflows", name);
    }
    return PR_OK;
}

pr_status pr__model_file_shards(pr_model_file *file, uint32_t n_files, pr_err *err) {
    file->files = pr_calloc(PR_TAG_FILE, n_files, sizeof *file->files);
    file->file_names = pr_arena_array(&file->arena, n_files, sizeof *file->file_names);
    if (!file->files || !file->file_names) return pr_fail_nomem(err, "list of files", n_files * sizeof *file->files);
    for (uint32_t i = 0; i < n_files; i++) file->files[i].fd = -1;
    file->n_files = n_files;
    return PR_OK;
}

/* ---- names ---- */

static const char *name_at(const pr__names *names, size_t i) {
    return *(const char *const *)(const void *)((const char *)names->items + i * names->stride);
}

/* FNV-1a with a final mix, since the low bits choose the slot. */
static uint32_t hash(const char *text) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return (uint32_t)((h ^ h >> 32) * 0x9e3779b97f4a7c15u >> 32);
}

/* The slot that holds text, or the free one where it belongs. */
static uint32_t *slot_of(const pr__names *names, const char *text) {
    uint32_t i = hash(text) & (names->n_slots - 1);
    while (names->slot[i] && strcmp(name_at(names, names->slot[i] - 1), text) != 0) i = (i + 1) & (names->n_slots - 1);
    return &names->slot[i];
}

static pr_status index_names(pr__names *names, const void *items, size_t n, size_t stride, const char *what,
                             pr_err *err) {
    uint32_t n_slots = 16;
    while (n_slots < 2 * n) n_slots *= 2;
    *names = (pr__names){.items = items, .stride = stride, .n_slots = n_slots};
    names->slot = pr_calloc(PR_TAG_FILE, n_slots, sizeof *names->slot);
    if (!names->slot) return pr_fail_nomem(err, "name index", n_slots * sizeof *names->slot);
    for (size_t i = 0; i < n; i++) {
        const char *name = name_at(names, i);
        uint32_t *slot = slot_of(names, name);
        if (*slot) return pr_fail(err, PR_ERR_FORMAT, "%s '%s' occurs twice", what, name);
        *slot = (uint32_t)i + 1;
    }
    return PR_OK;
}

static const void *find_name(const pr__names *names, const char *name) {
    uint32_t found = *slot_of(names, name);
    return found ? (const char *)names->items + (found - 1) * names->stride : NULL;
}

/* ---- opening ---- */

static int by_place(const void *a, const void *b) {
    const pr_tensor_info *x = a, *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static pr_status check_places(pr_model_file *file, pr_err *err) {
    if (file->n_tensors > 1) qsort(file->tensors, file->n_tensors, sizeof *file->tensors, by_place);
    for (size_t i = 0; i < file->n_tensors; i++) {
        const pr_tensor_info *t = &file->tensors[i], *before = i ? t - 1 : NULL;
        uint64_t size = file->files[t->shard].size;
        if (t->offset > size || t->bytes > size - t->offset) {
            return pr_fail(err, PR_ERR_FORMAT,
                           "tensor '%s' needs %" PRIu64 " bytes at offset %" PRIu64 ", but the file ends at %" PRIu64
                           ": truncated, perhaps a download that did not finish",
                           t->name, t->bytes, t->offset, size);
        }
        if (before && before->shard == t->shard && before->offset + before->bytes > t->offset) {
            return pr_fail(err, PR_ERR_FORMAT, "the data of tensors '%s' and '%s' overlap", before->name, t->name);
        }
    }
    return PR_OK;
}

/* What a file is that is not a model, from its first bytes; NULL when nothing is recognised. */
static const char *guess(const unsigned char *head, size_t n) {
    static const struct {
        const char *magic;
        uint8_t len;
        const char *what;
    } known[] = {
        {"\xff\xd8\xff", 3, "a JPEG image"},
        {"\x89PNG", 4, "a PNG image"},
        {"GIF8", 4, "a GIF image"},
        {"%PDF", 4, "a PDF document"},
        {"PK\x03\x04", 4, "a zip archive or a PyTorch checkpoint; convert it to safetensors or GGUF"},
        {"\x1f\x8b", 2, "gzip data; unpack it first"},
        {"(\xb5/\xfd", 4, "zstd data; unpack it first"},
        {"\x80\x02", 2, "a Python pickle; convert it to safetensors or GGUF"},
        {"version https://git-lfs", 23, "a git-lfs pointer, not the file itself; fetch it with `git lfs pull`"},
        {"<!DOCTYPE", 9, "an HTML page, perhaps a failed download"},
        {"<!doctype", 9, "an HTML page, perhaps a failed download"},
        {"<html", 5, "an HTML page, perhaps a failed download"},
        {"<HTML", 5, "an HTML page, perhaps a failed download"},
        {"lmgg", 4, "a GGML file from before GGUF; convert it again"},
        {"fmgg", 4, "a GGML file from before GGUF; convert it again"},
        {"tjgg", 4, "a GGML file from before GGUF; convert it again"},
        {"\x7f"
         "ELF",
         4, "an ELF program"},
        {"FUGG", 4, "a byte-swapped GGUF file"},
        {"{", 1, "JSON text; only config.json is opened by name"},
        {"#!", 2, "a script"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (n >= known[i].len && memcmp(head, known[i].magic, known[i].len) == 0) return known[i].what;
    }
    return NULL;
}

static pr_status refuse(const unsigned char *head, size_t n, pr_err *err) {
    if (n == 0) return pr_fail(err, PR_ERR_FORMAT, "not a model file: it is empty");
    char hex[3 * 8 + 1];
    size_t shown = n < 8 ? n : 8;
    for (size_t i = 0; i < shown; i++) snprintf(hex + 3 * i, 4, "%02x ", head[i]);
    hex[3 * shown - 1] = '\0';
    const char *what = guess(head, n);
    return pr_fail(err, PR_ERR_FORMAT, "not a GGUF or safetensors file: it starts with %s%s%s%s", hex, what ? " (" : "",
                   what ? what : "", what ? ")" : "");
}

/* Decide by content which reader takes a plain file. */
static pr_status read_plain(pr_model_file *file, pr_err *err) {
    pr_file plain;
    unsigned char head[GGUF_HEAD] = {0};
    pr_status status = pr_file_open(file->path, &plain, err);
    if (status != PR_OK) return status;
    size_t n = plain.size < sizeof head ? (size_t)plain.size : sizeof head;
    status = pr_file_read(&plain, 0, head, n, err);
    pr_file_close(&plain);
    if (status != PR_OK) return status;
    if (n >= 4 && memcmp(head, "GGUF", 4) == 0) return pr__gguf_read(file, err);
    if (n > 9 && head[8] == '{' && pr__le64(head) <= PR__ST_HEADER_MAX) return pr__safetensors_read(file, err);
    return refuse(head, n, err);
}

static pr_status set_path(pr_model_file *file, const char *path, pr_err *err) {
    bool is_dir = pr_path_is_dir(path);
    size_t len = strlen(path);
    while (is_dir && len > 1 && path[len - 1] == '/') len--;
    file->path = pr_strndup(PR_TAG_FILE, path, len);
    const char *slash = is_dir ? path + len : strrchr(path, '/');
    if (!slash) file->dir = pr_strdup(PR_TAG_FILE, ".");
    else file->dir = pr_strndup(PR_TAG_FILE, path, slash == path ? 1 : (size_t)(slash - path));
    return file->path && file->dir ? PR_OK : pr_fail_nomem(err, "path", len);
}

pr_status pr_model_file_open(const char *path, pr_model_file **out, pr_err *err) {
    *out = NULL;
    pr_model_file *file = pr_calloc(PR_TAG_FILE, 1, sizeof *file);
    if (!file) return pr_fail_nomem(err, "model file", sizeof *file);
    pr_arena_init(&file->arena, PR_TAG_FILE);
    pr_status status = set_path(file, path, err);
    if (status != PR_OK) goto fail;
    bool folder = pr_path_is_dir(file->path) || pr_str_ends(file->path, ".json");
    status = folder ? pr__safetensors_read(file, err) : read_plain(file, err);
    if (status == PR_OK) status = check_places(file, err);
    if (status == PR_OK) {
        status = index_names(&file->meta_names, file->meta, file->n_meta, sizeof *file->meta, "metadata key", err);
    }
    if (status == PR_OK && file->kind == PR_FILE_GGUF) status = pr__planes_read(file, err);
    if (status == PR_OK) {
        status = index_names(&file->tensor_names, file->tensors, file->n_tensors, sizeof *file->tensors, "tensor", err);
    }
    if (status == PR_OK && file->planes) status = pr__planes_bind(file, err);
    if (status != PR_OK) goto fail;
    *out = file;
    return PR_OK;
fail:
    pr_model_file_close(file);
    pr_err_context(err, "%s", path);
    return status;
}

void pr_model_file_close(pr_model_file *file) {
    if (!file) return;
    for (uint32_t i = 0; i < file->n_files; i++) pr_file_close(&file->files[i]);
    pr_free(file->files);
    pr_free(file->path);
    pr_free(file->dir);
    pr_free(file->block);
    pr_free(file->meta);
    pr_free(file->tensors);
    pr_free(file->meta_names.slot);
    pr_free(file->tensor_names.slot);
    pr_arena_free(&file->arena);
    pr_free(file);
}

/* ---- looking ---- */

pr_file_kind pr_model_file_kind(const pr_model_file *file) { return file->kind; }

const char *pr_model_file_path(const pr_model_file *file) { return file->path; }

const char *pr_model_file_dir(const pr_model_file *file) { return file->dir; }

bool pr_model_file_identify(const pr_model_file *file, pr_file_identity *out) {
    return file->kind == PR_FILE_GGUF && file->n_files == 1 && pr_file_identify(&file->files[0], out);
}

uint64_t pr_model_file_bytes(const pr_model_file *file) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < file->n_files; i++) bytes += file->files[i].size;
    return bytes;
}

int64_t pr_model_file_changed_ns(const pr_model_file *file) {
    int64_t latest = file->beside_ns;
    for (uint32_t i = 0; i < file->n_files; i++)
        if (file->files[i].mtime_ns > latest) latest = file->files[i].mtime_ns;
    return latest;
}

size_t pr_model_file_n_tensors(const pr_model_file *file) { return file->n_tensors; }

const pr_tensor_info *pr_model_file_tensor(const pr_model_file *file, size_t i) { return &file->tensors[i]; }

const pr_tensor_info *pr_model_file_find(const pr_model_file *file, const char *name) {
    return find_name(&file->tensor_names, name);
}

pr_status pr_model_file_read(const pr_model_file *file, const pr_tensor_info *t, uint64_t from, void *out, size_t len,
                             pr_err *err) {
    if (from > t->bytes || len > t->bytes - from) {
        return pr_fail(err, PR_ERR_ARG, "tensor '%s': read past its %" PRIu64 " bytes", t->name, t->bytes);
    }
    pr_status status = pr_file_read(&file->files[t->shard], t->offset + from, out, len, err);
    if (status != PR_OK) pr_err_context(err, "%s: tensor '%s'", file->file_names[t->shard], t->name);
    return status;
}

void pr_model_file_done(const pr_model_file *file, const pr_tensor_info *t) {
    if (t->bytes) pr_file_dontneed(&file->files[t->shard], t->offset, t->bytes);
}

void pr_model_file_done_all(const pr_model_file *file) {
    for (uint32_t i = 0; i < file->n_files; i++) pr_file_dontneed(&file->files[i], 0, file->files[i].size);
}

size_t pr_model_file_n_meta(const pr_model_file *file) { return file->n_meta; }

const char *pr_model_file_meta_key(const pr_model_file *file, size_t i) { return file->meta[i].key; }

const pr_meta *pr_model_file_meta(const pr_model_file *file, const char *key) {
    return find_name(&file->meta_names, key);
}
