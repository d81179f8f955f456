/*
 * Model file: one view of GGUF files and safetensors folders.
 *
 * A model file is metadata (typed values by key) and tensors (name, type,
 * shape, place on disk). Nothing of a tensor's content is read here. Everything
 * is checked when the file is opened: sizes, offsets, overlaps, counts; after
 * that every pr_tensor_info lies inside its file. Immutable once open;
 * thread-safe.
 *
 * GGUF:        keys as in the file ("llama.block_count").
 * safetensors: path is a folder, a config.json, or a model.safetensors (with
 *              config.json beside it; sharded through model.safetensors.index.json);
 *              keys are those of config.json, nested ones joined by dots
 *              ("rope_scaling.factor").
 * Keys and tensor names are kept as they are: what they mean is the
 * architecture file's business (model/).
 */
#ifndef PRECIS_STORE_MODEL_FILE_H
#define PRECIS_STORE_MODEL_FILE_H

#include "base/os.h"
#include "base/status.h"
#include "tensor/dtype.h"

typedef enum pr_file_kind { PR_FILE_GGUF, PR_FILE_SAFETENSORS } pr_file_kind;

typedef struct pr_tensor_info {
    const char *name;
    pr_dtype dtype;
    uint32_t n_dims;  /* 1..4 */
    uint64_t dims[4]; /* dims[0] is the innermost (columns), as GGUF counts; unused ones are 1 */
    uint64_t offset;  /* from the start of its file */
    uint64_t bytes;
    uint32_t shard;                       /* which file of a sharded model */
    const struct pr_plane_tensor *planes; /* of type PR_PLANES: store/planes.h; else NULL */
} pr_tensor_info;

typedef enum pr_meta_type {
    PR_META_U64,
    PR_META_I64,
    PR_META_F64,
    PR_META_BOOL,
    PR_META_STR,
    PR_META_ARRAY
} pr_meta_type;

typedef struct pr_meta pr_meta; /* one value, borrowed from the file */

typedef struct pr_model_file pr_model_file;

pr_status pr_model_file_open(const char *path, pr_model_file **out, pr_err *err);
void pr_model_file_close(pr_model_file *file);

pr_file_kind pr_model_file_kind(const pr_model_file *file);
const char *pr_model_file_path(const pr_model_file *file);
const char *pr_model_file_dir(const pr_model_file *file); /* folder that holds it: tokenizer.json is looked for there */
/* Of a model that is one GGUF file; false for others, which are made of texts beside their tensors, too. */
bool pr_model_file_identify(const pr_model_file *file, pr_file_identity *out);
uint64_t pr_model_file_bytes(const pr_model_file *file); /* all shards */
/* The latest change of any, and of a folder's configuration and tokenizer, in nanoseconds since 1970. */
int64_t pr_model_file_changed_ns(const pr_model_file *file);

size_t pr_model_file_n_tensors(const pr_model_file *file);
const pr_tensor_info *pr_model_file_tensor(const pr_model_file *file, size_t i);       /* file order */
const pr_tensor_info *pr_model_file_find(const pr_model_file *file, const char *name); /* NULL: none; O(1) */
/* Read len bytes at `from` within the tensor's data. */
pr_status pr_model_file_read(const pr_model_file *file, const pr_tensor_info *t, uint64_t from, void *out, size_t len,
                             pr_err *err);
/* Drop the tensor's range from the page cache once it has been packed. */
void pr_model_file_done(const pr_model_file *file, const pr_tensor_info *t);
/* The same for all of the file. */
void pr_model_file_done_all(const pr_model_file *file);

/* Metadata. */
size_t pr_model_file_n_meta(const pr_model_file *file);
const char *pr_model_file_meta_key(const pr_model_file *file, size_t i);
const pr_meta *pr_model_file_meta(const pr_model_file *file, const char *key); /* NULL: none */
pr_meta_type pr_meta_kind(const pr_meta *m);
uint64_t pr_meta_len(const pr_meta *m); /* of an array, or bytes of a string */

/* Typed reads. Absent: *out keeps its value, PR_OK. Present with a wrong type or out of range: PR_ERR_FORMAT naming the key.
 * Numbers convert between integer and float kinds when the value is exact. */
pr_status pr_meta_u32(const pr_model_file *f, const char *key, uint32_t *out, pr_err *err);
pr_status pr_meta_f32(const pr_model_file *f, const char *key, float *out, pr_err *err);
pr_status pr_meta_bool(const pr_model_file *f, const char *key, bool *out, pr_err *err);
pr_status pr_meta_str(const pr_model_file *f, const char *key, const char **out,
                      pr_err *err); /* terminated, borrowed */
/* Elements of arrays; false when i is out of range or the kind does not fit. */
bool pr_meta_at_str(const pr_meta *m, uint64_t i, const char **data, size_t *len);
bool pr_meta_at_f64(const pr_meta *m, uint64_t i, double *out);
bool pr_meta_at_i64(const pr_meta *m, uint64_t i, int64_t *out);
/* One value as text for people, arrays shortened: "[512 strings]". Returns buf. */
char *pr_meta_format(const pr_meta *m, char *buf, size_t len);

#endif
