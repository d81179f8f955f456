/*
 * Reading safetensors: a folder as models are published in.
 *
 * A .safetensors file is a 64-bit length, that many bytes of JSON ({name:
 * {dtype, shape, data_offsets}}), and the data. It says nothing about the model;
 * that is in config.json beside it, whose fields become metadata under their own names,
 * nested ones joined by dots. A sharded model has model.safetensors.index.json,
 * of which only the list of files is used: what a shard holds it says itself.
 *
 * The format wants every byte of the data to belong to exactly one tensor. Here
 * the sizes are summed up; together with the check for range and overlap that
 * model_file.c makes for all formats that is the same thing.
 *
 * Values made from JSON are stored in the encoding of GGUF, so there is one set of accessors.
 */
#include <inttypes.h>

#include "base/json.h"
#include "base/str.h"
#include "store/model_file_impl.h"

#define CONFIG_MAX     ((size_t)16 << 20)
#define SHARDS_MAX     1000
#define NAME_MAX_BYTES 512
#define DEPTH_MAX      16

/* ---- config.json to metadata ---- */

static pr_status flatten(pr_model_file *file, const json_t *value, pr_str *path, int depth, pr_err *err);

/* What all elements of an array are; PR__GGUF_ARRAY when they differ or are containers. */
static uint8_t element_type(const json_t *array) {
    uint8_t type = PR__GGUF_I64;
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *item = json_array_get(array, i);
        uint8_t t = json_is_integer(item)   ? PR__GGUF_I64
                    : json_is_real(item)    ? PR__GGUF_F64
                    : json_is_boolean(item) ? PR__GGUF_BOOL
                    : json_is_string(item)  ? PR__GGUF_STR
                                            : PR__GGUF_ARRAY;
        bool numbers = (t == PR__GGUF_I64 || t == PR__GGUF_F64) && (type == PR__GGUF_I64 || type == PR__GGUF_F64);
        if (i == 0 || (numbers && t == PR__GGUF_F64)) type = t;
        else if (!numbers && t != type) return PR__GGUF_ARRAY;
    }
    return type;
}

/* Write a scalar of the type; returns the bytes written. */
static size_t put_scalar(const json_t *value, uint8_t type, unsigned char *out) {
    if (type == PR__GGUF_I64) {
        int64_t v = json_integer_value(value);
        memcpy(out, &v, sizeof v);
    } else if (type == PR__GGUF_F64) {
        double v = json_number_value(value);
        memcpy(out, &v, sizeof v);
    } else {
        *out = json_is_true(value);
    }
    return pr__gguf_width(type);
}

static bool put_strings(pr_model_file *file, const json_t *array, pr_meta *m) {
    size_t bytes = 0, at = 0;
    for (size_t i = 0; i < m->n; i++) bytes += 8 + json_string_length(json_array_get(array, i));
    uint32_t *index = pr_arena_array(&file->arena, (size_t)m->n, sizeof *index);
    unsigned char *data = pr_arena_alloc(&file->arena, bytes); /* under CONFIG_MAX * 9 */
    if (!index || !data) return false;
    for (size_t i = 0; i < m->n; i++) {
        const json_t *item = json_array_get(array, i);
        uint64_t len = json_string_length(item);
        index[i] = (uint32_t)at;
        memcpy(data + at, &len, 8);
        memcpy(data + at + 8, json_string_value(item), (size_t)len);
        at += 8 + (size_t)len;
    }
    m->index = index;
    m->data = data;
    return true;
}

/* An array of scalars of one type, or a scalar. */
static bool put_value(pr_model_file *file, const json_t *value, pr_meta *m) {
    if (json_is_string(value)) {
        m->type = PR__GGUF_STR;
        m->n = json_string_length(value);
        m->data = (unsigned char *)pr_arena_strndup(&file->arena, json_string_value(value), (size_t)m->n);
        return m->data != NULL;
    }
    bool array = json_is_array(value);
    uint8_t scalar = json_is_integer(value) ? PR__GGUF_I64 : json_is_real(value) ? PR__GGUF_F64 : PR__GGUF_BOOL;
    m->type = array ? PR__GGUF_ARRAY : scalar;
    m->elem = array ? element_type(value) : scalar;
    m->n = array ? json_array_size(value) : 1;
    if (m->elem == PR__GGUF_STR) return put_strings(file, value, m);
    unsigned char *data = pr_arena_array(&file->arena, (size_t)m->n, 8);
    m->data = data;
    if (!data) return false;
    if (!array) put_scalar(value, scalar, data);
    for (size_t i = 0; array && i < m->n; i++) data += put_scalar(json_array_get(value, i), m->elem, data);
    return true;
}

/* Descend into one member: path + "." + name while it lasts. */
static pr_status flatten_member(pr_model_file *file, const json_t *value, const char *name, pr_str *path, int depth,
                                pr_err *err) {
    size_t len = path->len;
    if (!*name) return pr_fail(err, PR_ERR_FORMAT, "config.json: an empty key");
    if (len) pr_str_puts(path, ".");
    pr_str_puts(path, name);
    if (!pr_str_ok(path)) return pr_fail_nomem(err, "key", len);
    pr_status status = flatten(file, value, path, depth, err);
    path->len = len;
    path->data[len] = '\0';
    return status;
}

static pr_status flatten(pr_model_file *file, const json_t *value, pr_str *path, int depth, pr_err *err) {
    if (depth > DEPTH_MAX) return pr_fail(err, PR_ERR_LIMIT, "config.json: nested more than %d deep", DEPTH_MAX);
    if (json_is_null(value)) return PR_OK;
    if (json_is_object(value)) {
        const char *name;
        json_t *item;
        json_object_foreach((json_t *)value, name, item) {
            pr_status status = flatten_member(file, item, name, path, depth + 1, err);
            if (status != PR_OK) return status;
        }
        return PR_OK;
    }
    if (json_is_array(value) && element_type(value) == PR__GGUF_ARRAY) {
        for (size_t i = 0; i < json_array_size(value); i++) {
            char name[24];
            snprintf(name, sizeof name, "%zu", i);
            pr_status status = flatten_member(file, json_array_get(value, i), name, path, depth + 1, err);
            if (status != PR_OK) return status;
        }
        return PR_OK;
    }
    if (!pr__printable(path->data, path->len)) {
        return pr_fail(err, PR_ERR_FORMAT, "config.json: unprintable key '%s'", pr__show(path->data, path->len).text);
    }
    pr_meta *m = pr__model_file_add_meta(file);
    if (m) m->key = pr_arena_strndup(&file->arena, path->data, path->len);
    return m && m->key && put_value(file, value, m) ? PR_OK : pr_fail_nomem(err, "config.json", path->len);
}

static pr_status read_config(pr_model_file *file, const char *path, pr_err *err) {
    json_t *root = NULL;
    pr_str key = {0};
    if (!pr_path_exists(path)) {
        return pr_fail(err, PR_ERR_NOTFOUND, "%s is missing; a safetensors model needs it beside the tensors", path);
    }
    pr_status status = pr_json_load(path, CONFIG_MAX, &root, err);
    if (status != PR_OK) return status;
    if (json_is_object(root)) status = flatten(file, root, &key, 0, err);
    else status = pr_fail(err, PR_ERR_FORMAT, "%s: not a JSON object", path);
    pr_str_free(&key);
    json_decref(root);
    return status;
}

/* ---- the tensors of one file ---- */

static bool dtype_named(const char *name, pr_dtype *out) {
    static const struct {
        const char *name;
        pr_dtype dtype;
    } known[] = {{"F32", PR_F32}, {"F16", PR_F16}, {"BF16", PR_BF16}, {"F64", PR_F64},
                 {"I8", PR_I8},   {"I16", PR_I16}, {"I32", PR_I32},   {"I64", PR_I64}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) return *out = known[i].dtype, true;
    }
    return false;
}

/* A whole number from 0 on. */
static bool whole(const json_t *value, uint64_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static pr_status read_shape(pr_tensor_info *t, const json_t *shape, pr_err *err) {
    size_t n = json_array_size(shape);
    if (!json_is_array(shape)) return pr_fail(err, PR_ERR_FORMAT, "tensor '%s' has no shape", t->name);
    if (n > 4)
        return pr_fail(err, PR_ERR_UNSUPPORTED, "tensor '%s' has %zu dimensions; at most 4 are supported", t->name, n);
    t->n_dims = n ? (uint32_t)n : 1;
    for (size_t i = 0; i < 4; i++) {
        t->dims[i] = 1;
        if (i < n && !whole(json_array_get(shape, n - 1 - i), &t->dims[i])) {
            return pr_fail(err, PR_ERR_FORMAT, "tensor '%s': its shape must be whole numbers", t->name);
        }
    }
    return PR_OK;
}

/* t->offset becomes a place in the file; data is where offsets start. */
static pr_status read_tensor(pr_tensor_info *t, const json_t *entry, uint64_t data, pr_err *err) {
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    uint64_t from, to;
    if (!type) return pr_fail(err, PR_ERR_FORMAT, "tensor '%s' has no dtype", t->name);
    if (!dtype_named(type, &t->dtype)) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "tensor '%s' has dtype %s, which precis does not read", t->name,
                       pr__show(type, strlen(type)).text);
    }
    pr_status status = read_shape(t, json_object_get(entry, "shape"), err);
    if (status == PR_OK) status = pr__tensor_size(t, err);
    if (status != PR_OK) return status;
    if (json_array_size(offsets) != 2 || !whole(json_array_get(offsets, 0), &from) ||
        !whole(json_array_get(offsets, 1), &to) || from > to) {
        return pr_fail(err, PR_ERR_FORMAT, "tensor '%s': data_offsets must be two ascending whole numbers", t->name);
    }
    if (to - from != t->bytes) {
        return pr_fail(err, PR_ERR_FORMAT,
                       "tensor '%s': %" PRIu64 " bytes by its offsets, but %" PRIu64 " by its shape", t->name,
                       to - from, t->bytes);
    }
    t->offset = data + from; /* both below 2^63 */
    return PR_OK;
}

static pr_status read_entries(pr_model_file *file, uint32_t shard, const json_t *root, uint64_t data, pr_err *err) {
    uint64_t used = 0, size = file->files[shard].size;
    const char *name;
    json_t *entry;
    if (!json_is_object(root)) return pr_fail(err, PR_ERR_FORMAT, "the header is not a JSON object");
    if (json_object_size(root) > PR__TENSORS_MAX)
        return pr_fail(err, PR_ERR_LIMIT, "more than %u tensors", PR__TENSORS_MAX);
    json_object_foreach((json_t *)root, name, entry) {
        size_t len = strlen(name);
        if (strcmp(name, "__metadata__") == 0) continue;
        if (len == 0 || len > NAME_MAX_BYTES || !pr__printable(name, len)) {
            return pr_fail(err, PR_ERR_FORMAT, "tensor name '%s' is empty, too long or unprintable",
                           pr__show(name, len).text);
        }
        pr_tensor_info *t = pr__model_file_add_tensor(file);
        if (t) t->name = pr_arena_strndup(&file->arena, name, len);
        if (!t || !t->name) return pr_fail_nomem(err, "tensor list", sizeof *t);
        t->shard = shard;
        pr_status status = read_tensor(t, entry, data, err);
        if (status != PR_OK) return status;
        if (t->bytes > size - data - used) {
            return pr_fail(err, PR_ERR_FORMAT,
                           "tensor '%s': the tensors up to this one need more than the %" PRIu64
                           " bytes of data: truncated, perhaps a download that did not finish",
                           t->name, size - data);
        }
        used += t->bytes;
    }
    if (used != size - data) {
        return pr_fail(err, PR_ERR_FORMAT, "%" PRIu64 " bytes of the data belong to no tensor", size - data - used);
    }
    return PR_OK;
}

static pr_status read_file(pr_model_file *file, uint32_t shard, pr_err *err) {
    unsigned char head[8];
    json_t *root = NULL;
    char *text = NULL;
    pr_file *in = &file->files[shard];
    pr_status status = pr_file_open(file->file_names[shard], in, err);
    if (status != PR_OK) return status;
    status = pr_file_read(in, 0, head, sizeof head, err);
    if (status != PR_OK) goto done;
    uint64_t len = pr__le64(head);
    if (len < 2 || len > in->size - 8 || len > PR__ST_HEADER_MAX) {
        status = pr_fail(err, PR_ERR_FORMAT,
                         "not a safetensors file: a header of %" PRIu64 " bytes in a file of %" PRIu64, len, in->size);
        goto done;
    }
    text = pr_alloc(PR_TAG_FILE, (size_t)len);
    status = text ? pr_file_read(in, 8, text, (size_t)len, err) : pr_fail_nomem(err, "file header", (size_t)len);
    if (status == PR_OK) status = pr_json_parse(text, (size_t)len, "header", &root, err);
    if (status == PR_OK) status = read_entries(file, shard, root, 8 + len, err);
done:
    pr_free(text);
    json_decref(root);
    if (status != PR_OK) pr_err_context(err, "%s", file->file_names[shard]);
    return status;
}

/* ---- which files ---- */

/* The distinct file names of weight_map, in the order in which they come. */
static pr_status list_shards(pr_model_file *file, const json_t *index, pr_err *err) {
    json_t *map = json_object_get(index, "weight_map"), *item;
    const char *tensor, *names[SHARDS_MAX];
    uint32_t n = 0;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return pr_fail(err, PR_ERR_FORMAT, "weight_map is missing or empty");
    json_object_foreach(map, tensor, item) {
        const char *name = json_string_value(item);
        if (!name || !*name || strchr(name, '/') || name[0] == '.') {
            return pr_fail(err, PR_ERR_FORMAT, "weight_map: tensor '%s' has no plain file name",
                           pr__show(tensor, strlen(tensor)).text);
        }
        uint32_t i = 0;
        while (i < n && strcmp(names[i], name) != 0) i++;
        if (i == SHARDS_MAX) return pr_fail(err, PR_ERR_LIMIT, "weight_map names more than %d files", SHARDS_MAX);
        names[i] = name;
        if (i == n) n++;
    }
    pr_status status = pr__model_file_shards(file, n, err);
    for (uint32_t i = 0; i < n && status == PR_OK; i++) {
        file->file_names[i] = pr_arena_printf(&file->arena, "%s/%s", file->dir, names[i]);
        if (!file->file_names[i]) status = pr_fail_nomem(err, "file name", 0);
    }
    return status;
}

static pr_status list_one(pr_model_file *file, const char *path, pr_err *err) {
    pr_status status = pr__model_file_shards(file, 1, err);
    if (status == PR_OK) file->file_names[0] = path;
    return status;
}

static pr_status list_files(pr_model_file *file, pr_err *err) {
    bool itself = !pr_path_is_dir(file->path) && !pr_str_ends(file->path, ".json");
    if (itself) return list_one(file, file->path, err);
    bool is_index = pr_str_ends(file->path, ".index.json");
    const char *one = pr_arena_printf(&file->arena, "%s/model.safetensors", file->dir);
    const char *index = is_index ? file->path
                                 : pr_arena_printf(&file->arena, "%s/model.safetensors.index.json", file->dir);
    if (!one || !index) return pr_fail_nomem(err, "file name", 0);
    if (!is_index && pr_path_exists(one)) return list_one(file, one, err);
    if (!pr_path_exists(index)) {
        return pr_fail(err, PR_ERR_NOTFOUND, "neither model.safetensors nor model.safetensors.index.json in %s",
                       file->dir);
    }
    json_t *root = NULL;
    pr_status status = pr_json_load(index, PR__ST_HEADER_MAX, &root, err);
    if (status != PR_OK) return status;
    status = list_shards(file, root, err);
    json_decref(root);
    if (status != PR_OK) pr_err_context(err, "%s", index);
    return status;
}

/* A folder with the same weights and another tokenizer or chat template is another model. */
static pr_status note_beside(pr_model_file *file, pr_err *err) {
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "special_tokens_map.json", "chat_template.jinja"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = pr_arena_printf(&file->arena, "%s/%s", file->dir, names[i]);
        if (!path) return pr_fail_nomem(err, "file name", 0);
        int64_t changed = pr_path_mtime_ns(path);
        if (changed > file->beside_ns) file->beside_ns = changed;
    }
    return PR_OK;
}

pr_status pr__safetensors_read(pr_model_file *file, pr_err *err) {
    file->kind = PR_FILE_SAFETENSORS;
    bool itself = pr_str_ends(file->path, ".json") && !pr_str_ends(file->path, ".index.json");
    const char *config = itself ? file->path : pr_arena_printf(&file->arena, "%s/config.json", file->dir);
    if (!config) return pr_fail_nomem(err, "file name", 0);
    pr_status status = read_config(file, config, err);
    if (status == PR_OK) status = note_beside(file, err);
    if (status == PR_OK) status = list_files(file, err);
    for (uint32_t i = 0; i < file->n_files && status == PR_OK; i++) status = read_file(file, i, err);
    return status;
}
