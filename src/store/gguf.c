/*
 * Reading GGUF, versions 2 and 3.
 *
 * The header (metadata, then descriptions of the tensors) is read into one
 * growing block, from front to back, and every length in it is checked against
 * what the file still holds before a byte is allocated for it: a count of 2^60
 * in a small file fails at once. Large values are arrays, above all the
 * vocabulary; they stay in the block and only strings get an index, so a
 * vocabulary of a quarter of a million tokens costs one allocation. The block may
 * move while it grows, hence places are noted as offsets and become pointers at
 * the end. Keys, names and scalars are few and are copied.
 *
 * The layout is that of the GGUF specification: little-endian
 *   "GGUF" u32 version, u64 n_tensors, u64 n_kv,
 *   n_kv times      string key, u32 type, value
 *   n_tensors times string name, u32 n_dims, u64 dims[n_dims], u32 ggml type, u64 offset
 *   padding to general.alignment, then the data, which offsets count from
 * with string = u64 length, bytes. Version 1 had 32-bit lengths and is refused.
 */
#include <inttypes.h>

#include "store/model_file_impl.h"

#define HEADER_MAX     ((uint64_t)512 << 20)
#define META_MAX       65536u
#define KEY_MAX        65535u
#define NAME_MAX_BYTES 64u
#define ALIGNMENT_MAX  (1u << 20)

typedef struct reader {
    const pr_file *in;
    pr_arena *arena;
    unsigned char *block; /* bytes 0..have of the file */
    size_t have;
    size_t pos;
    size_t *arrays; /* [n_meta] where in the block the elements of each array begin */
} reader;

/* Make n bytes at pos available. what names them in the error. */
static pr_status need(reader *r, uint64_t n, const char *what, pr_err *err) {
    if (n <= r->have - r->pos) return PR_OK;
    uint64_t left = r->in->size - r->pos;
    if (n > left) {
        return pr_fail(err, PR_ERR_FORMAT,
                       "truncated or damaged: %s takes %" PRIu64 " bytes, but only %" PRIu64 " are left in the file",
                       what, n, left);
    }
    uint64_t want = r->pos + n;
    if (want > HEADER_MAX) return pr_fail(err, PR_ERR_LIMIT, "the header is larger than %" PRIu64 " bytes", HEADER_MAX);
    uint64_t ahead = r->have ? 2 * (uint64_t)r->have : 256 << 10;
    if (want < ahead) want = ahead;
    if (want > r->in->size) want = r->in->size;
    if (want > HEADER_MAX) want = HEADER_MAX;
    unsigned char *grown = pr_realloc(PR_TAG_FILE, r->block, (size_t)want);
    if (!grown) return pr_fail_nomem(err, "file header", (size_t)want);
    r->block = grown;
    pr_status status = pr_file_read(r->in, r->have, r->block + r->have, (size_t)want - r->have, err);
    if (status == PR_OK) r->have = (size_t)want;
    return status;
}

static pr_status get_u32(reader *r, uint32_t *out, const char *what, pr_err *err) {
    pr_status status = need(r, 4, what, err);
    if (status != PR_OK) return status;
    *out = pr__le32(r->block + r->pos);
    r->pos += 4;
    return PR_OK;
}

static pr_status get_u64(reader *r, uint64_t *out, const char *what, pr_err *err) {
    pr_status status = need(r, 8, what, err);
    if (status != PR_OK) return status;
    *out = pr__le64(r->block + r->pos);
    r->pos += 8;
    return PR_OK;
}

/* A key or name: copied, terminated, and printable, so that it may stand in messages as it is. */
static pr_status get_name(reader *r, uint64_t len_max, const char *what, const char **out, pr_err *err) {
    uint64_t len;
    pr_status status = get_u64(r, &len, what, err);
    if (status != PR_OK) return status;
    if (len == 0 || len > len_max) {
        return pr_fail(err, PR_ERR_FORMAT, "%s is %" PRIu64 " bytes long; 1 to %" PRIu64 " are allowed", what, len,
                       len_max);
    }
    status = need(r, len, what, err);
    if (status != PR_OK) return status;
    const char *text = (const char *)r->block + r->pos;
    if (!pr__printable(text, (size_t)len)) {
        return pr_fail(err, PR_ERR_FORMAT, "%s holds unprintable bytes: '%s'", what, pr__show(text, (size_t)len).text);
    }
    *out = pr_arena_strndup(r->arena, text, (size_t)len);
    r->pos += (size_t)len;
    return *out ? PR_OK : pr_fail_nomem(err, what, (size_t)len);
}

/* Walk over an array of strings and note where each one starts. */
static pr_status get_strings(reader *r, pr_meta *m, pr_err *err) {
    pr_status status = need(r, 8 * m->n, m->key, err); /* at least: the lengths */
    if (status != PR_OK) return status;
    uint32_t *index = pr_arena_array(r->arena, (size_t)m->n, sizeof *index);
    if (!index) return pr_fail_nomem(err, m->key, (size_t)m->n * sizeof *index);
    size_t start = r->pos;
    for (uint64_t i = 0; i < m->n; i++) {
        uint64_t len;
        index[i] = (uint32_t)(r->pos - start); /* the header is under HEADER_MAX */
        status = get_u64(r, &len, m->key, err);
        if (status == PR_OK) status = need(r, len, m->key, err);
        if (status != PR_OK) {
            pr_err_context(err, "element %" PRIu64, i);
            return status;
        }
        r->pos += (size_t)len;
    }
    m->index = index;
    return PR_OK;
}

/* An array: *at is the offset of its elements in the block, which settle() turns into a pointer. */
static pr_status get_array(reader *r, pr_meta *m, size_t *at, pr_err *err) {
    uint32_t elem;
    pr_status status = get_u32(r, &elem, m->key, err);
    if (status == PR_OK) status = get_u64(r, &m->n, m->key, err);
    if (status != PR_OK) return status;
    if (elem >= PR__GGUF_TYPES) return pr_fail(err, PR_ERR_FORMAT, "%s: unknown element type %u", m->key, elem);
    if (elem == PR__GGUF_ARRAY)
        return pr_fail(err, PR_ERR_UNSUPPORTED, "%s: arrays of arrays are not supported", m->key);
    m->elem = (uint8_t)elem;
    *at = r->pos;
    if (m->n > r->in->size) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: %" PRIu64 " elements cannot fit into a file of %" PRIu64 " bytes",
                       m->key, m->n, r->in->size);
    }
    if (elem == PR__GGUF_STR) return get_strings(r, m, err);
    uint64_t bytes = m->n * pr__gguf_width(elem);
    status = need(r, bytes, m->key, err);
    if (status == PR_OK) r->pos += (size_t)bytes;
    return status;
}

static pr_status get_value(reader *r, pr_meta *m, size_t *at, pr_err *err) {
    if (m->type == PR__GGUF_ARRAY) return get_array(r, m, at, err);
    pr_status status;
    m->n = pr__gguf_width(m->type);
    if (m->type == PR__GGUF_STR) {
        status = get_u64(r, &m->n, m->key, err);
        if (status != PR_OK) return status;
    }
    status = need(r, m->n, m->key, err);
    if (status != PR_OK) return status;
    m->data = (const unsigned char *)pr_arena_strndup(r->arena, (const char *)r->block + r->pos, (size_t)m->n);
    if (!m->data) return pr_fail_nomem(err, m->key, (size_t)m->n);
    r->pos += (size_t)m->n;
    if (m->type == PR__GGUF_BOOL && m->data[0] > 1) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: a boolean with the value %u", m->key, m->data[0]);
    }
    if (m->type != PR__GGUF_STR) m->n = 1;
    return PR_OK;
}

static pr_status get_meta(reader *r, pr_model_file *file, uint64_t n, pr_err *err) {
    for (uint64_t i = 0; i < n; i++) {
        uint32_t type;
        pr_meta *m = pr__model_file_add_meta(file);
        if (!m) return pr_fail_nomem(err, "metadata", sizeof *m);
        pr_status status = get_name(r, KEY_MAX, "a metadata key", &m->key, err);
        if (status == PR_OK) status = get_u32(r, &type, m->key, err);
        if (status != PR_OK) return status;
        if (type >= PR__GGUF_TYPES) {
            return pr_fail(err, PR_ERR_FORMAT, "%s: unknown value type %u", m->key, type);
        }
        m->type = (uint8_t)type;
        status = get_value(r, m, &r->arrays[i], err);
        if (status != PR_OK) return status;
    }
    return PR_OK;
}

/* ggml types that exist but are not read here, for the message. */
static const char *foreign_type(uint32_t id) {
    static const struct {
        uint8_t id;
        const char *name;
    } known[] = {
        {4, "Q4_2, withdrawn"}, {5, "Q4_3, withdrawn"}, {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"},
        {17, "IQ2_XS"},         {18, "IQ3_XXS"},        {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"},
        {29, "IQ1_M"},          {34, "TQ1_0"},          {35, "TQ2_0"}, {39, "MXFP4"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].id == id) return known[i].name;
    }
    return "unknown";
}

/* One tensor description; t->offset counts from the start of the data. */
static pr_status get_tensor(reader *r, pr_tensor_info *t, pr_err *err) {
    uint32_t type;
    pr_status status = get_name(r, NAME_MAX_BYTES, "a tensor name", &t->name, err);
    if (status == PR_OK) status = get_u32(r, &t->n_dims, t->name, err);
    if (status != PR_OK) return status;
    if (t->n_dims < 1 || t->n_dims > 4) {
        return pr_fail(err, PR_ERR_FORMAT, "tensor '%s' has %u dimensions; 1 to 4 are allowed", t->name, t->n_dims);
    }
    for (uint32_t i = 0; i < 4; i++) {
        t->dims[i] = 1;
        if (i < t->n_dims) status = get_u64(r, &t->dims[i], t->name, err);
        if (status != PR_OK) return status;
    }
    status = get_u32(r, &type, t->name, err);
    if (status == PR_OK) status = get_u64(r, &t->offset, t->name, err);
    if (status != PR_OK) return status;
    if (!pr_dtype_by_ggml(type, &t->dtype)) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "tensor '%s' has ggml type %u (%s), which precis does not read",
                       t->name, type, foreign_type(type));
    }
    return pr__tensor_size(t, err);
}

static pr_status get_tensors(reader *r, pr_model_file *file, uint64_t n, pr_err *err) {
    for (uint64_t i = 0; i < n; i++) {
        pr_tensor_info *t = pr__model_file_add_tensor(file);
        if (!t) return pr_fail_nomem(err, "tensor list", sizeof *t);
        pr_status status = get_tensor(r, t, err);
        if (status != PR_OK) return status;
    }
    return PR_OK;
}

/* Version and counts. */
static pr_status get_counts(reader *r, uint64_t *n_meta, uint64_t *n_tensors, pr_err *err) {
    uint32_t magic, version; /* the magic was looked at before */
    pr_status status = get_u32(r, &magic, "the magic", err);
    if (status == PR_OK) status = get_u32(r, &version, "the version", err);
    if (status != PR_OK) return status;
    if (version > 0xffff && __builtin_bswap32(version) <= 0xffff) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "a big-endian GGUF file; only little-endian ones are read");
    }
    if (version < 2 || version > 3) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "GGUF version %u; versions 2 and 3 are read", version);
    }
    status = get_u64(r, n_tensors, "the number of tensors", err);
    if (status == PR_OK) status = get_u64(r, n_meta, "the number of metadata values", err);
    if (status != PR_OK) return status;
    /* The shortest value is 14 bytes, the shortest description 33. */
    uint64_t left = r->in->size - r->pos;
    if (*n_meta > left / 14 || *n_tensors > left / 33) {
        return pr_fail(err, PR_ERR_FORMAT,
                       "%" PRIu64 " metadata values and %" PRIu64 " tensors cannot fit into a file of %" PRIu64
                       " bytes",
                       *n_meta, *n_tensors, r->in->size);
    }
    if (*n_meta > META_MAX || *n_tensors > PR__TENSORS_MAX) {
        return pr_fail(err, PR_ERR_LIMIT,
                       "%" PRIu64 " metadata values and %" PRIu64 " tensors; at most %u and %u are read", *n_meta,
                       *n_tensors, META_MAX, PR__TENSORS_MAX);
    }
    return PR_OK;
}

/* Offsets become places in the file, once the end of the header and the alignment are known. */
static pr_status place_tensors(reader *r, pr_model_file *file, pr_err *err) {
    uint32_t alignment = 32;
    for (size_t i = 0; i < file->n_meta; i++) {
        const pr_meta *m = &file->meta[i];
        if (strcmp(m->key, "general.alignment") != 0) continue;
        if (m->type != PR__GGUF_U32)
            return pr_fail(err, PR_ERR_FORMAT, "general.alignment must be a 32-bit unsigned integer");
        alignment = pr__le32(m->data);
        if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > ALIGNMENT_MAX) {
            return pr_fail(err, PR_ERR_FORMAT, "general.alignment is %u; powers of two up to %u are allowed", alignment,
                           ALIGNMENT_MAX);
        }
    }
    uint64_t start = pr_align_up(r->pos, alignment);
    for (size_t i = 0; i < file->n_tensors; i++) {
        pr_tensor_info *t = &file->tensors[i];
        if (t->offset % alignment != 0) {
            return pr_fail(err, PR_ERR_FORMAT, "tensor '%s': offset %" PRIu64 " is not a multiple of the alignment %u",
                           t->name, t->offset, alignment);
        }
        if (__builtin_add_overflow(t->offset, start, &t->offset))
            t->offset = UINT64_MAX; /* past the end: reported there */
    }
    return PR_OK;
}

/* Give the read-ahead back and turn the places of arrays into pointers. */
static void settle(reader *r, pr_model_file *file) {
    unsigned char *block = pr_realloc(PR_TAG_FILE, r->block, r->pos);
    file->block = block ? block : r->block;
    for (size_t i = 0; i < file->n_meta; i++) {
        if (file->meta[i].type == PR__GGUF_ARRAY) file->meta[i].data = file->block + r->arrays[i];
    }
}

static pr_status refuse_split(const pr_model_file *file, pr_err *err) {
    for (size_t i = 0; i < file->n_meta; i++) {
        const pr_meta *m = &file->meta[i];
        if (strcmp(m->key, "split.count") != 0 || m->type != PR__GGUF_U16) continue;
        unsigned parts = m->data[0] | (unsigned)m->data[1] << 8;
        if (parts > 1)
            return pr_fail(err, PR_ERR_UNSUPPORTED, "one of %u parts of a split GGUF; merge them into one file first",
                           parts);
    }
    return PR_OK;
}

pr_status pr__gguf_read(pr_model_file *file, pr_err *err) {
    uint64_t n_meta = 0, n_tensors = 0;
    file->kind = PR_FILE_GGUF;
    pr_status status = pr__model_file_shards(file, 1, err);
    if (status != PR_OK) return status;
    file->file_names[0] = file->path;
    status = pr_file_open(file->path, &file->files[0], err);
    if (status != PR_OK) return status;

    reader r = {.in = &file->files[0], .arena = &file->arena};
    status = get_counts(&r, &n_meta, &n_tensors, err);
    if (status == PR_OK) {
        r.arrays = pr_calloc(PR_TAG_FILE, (size_t)n_meta, sizeof *r.arrays);
        if (!r.arrays) status = pr_fail_nomem(err, "metadata", (size_t)n_meta * sizeof *r.arrays);
    }
    if (status == PR_OK) status = get_meta(&r, file, n_meta, err);
    if (status == PR_OK) status = refuse_split(file, err);
    if (status == PR_OK) status = get_tensors(&r, file, n_tensors, err);
    if (status == PR_OK) status = place_tensors(&r, file, err);
    if (status == PR_OK) settle(&r, file);
    else pr_free(r.block);
    pr_free(r.arrays);
    return status;
}
