/*
 * What the readers of model files (gguf.c, safetensors.c) share with the view (model_file.c, meta.c).
 * Internal to store/.
 */
#ifndef PRECIS_STORE_MODEL_FILE_IMPL_H
#define PRECIS_STORE_MODEL_FILE_IMPL_H

#include "base/arena.h"
#include "store/model_file.h"

#define PR__TENSORS_MAX   (1u << 20)
#define PR__ST_HEADER_MAX ((uint64_t)100 << 20) /* JSON before the data of a .safetensors */

/* Value types by their numbers in a GGUF file; values made from JSON use the same encoding. */
enum {
    PR__GGUF_U8,
    PR__GGUF_I8,
    PR__GGUF_U16,
    PR__GGUF_I16,
    PR__GGUF_U32,
    PR__GGUF_I32,
    PR__GGUF_F32,
    PR__GGUF_BOOL,
    PR__GGUF_STR,
    PR__GGUF_ARRAY,
    PR__GGUF_U64,
    PR__GGUF_I64,
    PR__GGUF_F64,
    PR__GGUF_TYPES
};

/*
 * One metadata value. data is little-endian, unaligned: a scalar, the bytes of a string (terminated),
 * or the first element of an array. Strings in arrays keep their 8-byte length before them and are found
 * through index: element i starts at data + index[i].
 */
struct pr_meta {
    const char *key; /* first, for pr__names */
    const unsigned char *data;
    const uint32_t *index; /* arrays of strings only */
    uint64_t n;            /* elements of an array, bytes of a string */
    uint8_t type;          /* PR__GGUF_* */
    uint8_t elem;          /* of an array: PR__GGUF_* of its elements */
};

/* Hash index over items that begin with a `const char *`; not owning. */
typedef struct pr__names {
    uint32_t *slot; /* item number + 1, 0: free */
    uint32_t n_slots;
    const void *items;
    size_t stride;
} pr__names;

struct pr_model_file {
    pr_file_kind kind;
    char *path, *dir;
    int64_t beside_ns; /* safetensors: the latest change of a text that belongs to the model */
    pr_arena arena;    /* keys, names, scalars, indexes */
    pr_file *files;
    const char **file_names; /* [n_files], for messages */
    uint32_t n_files;
    unsigned char *block; /* GGUF: the header as it stands in the file; arrays point into it */
    pr_meta *meta;
    size_t n_meta, meta_cap;
    pr_tensor_info *tensors;
    size_t n_tensors, tensors_cap;
    pr__names meta_names, tensor_names;
    struct pr_plane_set *planes; /* in the arena; NULL: an ordinary model */
};

/* Readers: file has path and dir; they open files[], fill meta and tensors. */
pr_status pr__gguf_read(pr_model_file *file, pr_err *err);
pr_status pr__safetensors_read(pr_model_file *file, pr_err *err);

/* Room for one more value or tensor, zeroed; NULL when out of memory. Pointers into the arrays die with the next add. */
pr_meta *pr__model_file_add_meta(pr_model_file *file);
pr_tensor_info *pr__model_file_add_tensor(pr_model_file *file);
/* Set t->bytes from its type and dims. PR_ERR_FORMAT naming the tensor for dims that are zero, overflow or not whole blocks. */
pr_status pr__tensor_size(pr_tensor_info *t, pr_err *err);
/* Room for n_files; they are closed. */
pr_status pr__model_file_shards(pr_model_file *file, uint32_t n_files, pr_err *err);

/* Bytes of a value of this type, 0 for strings and arrays. */
size_t pr__gguf_width(uint32_t type);

/* text[len] fit for a message: cut after 64 bytes, with '?' for control characters and bytes that are not UTF-8. */
typedef struct pr__shown { /* 64 bytes, "...", the end */
    char text[68];
} pr__shown;
pr__shown pr__show(const char *text, size_t len);
/* UTF-8 without control characters: what keys and names must be. */
bool pr__printable(const char *text, size_t len);

static inline uint64_t pr__le64(const unsigned char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t pr__le32(const unsigned char *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
