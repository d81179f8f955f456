/*
 * Writing GGUF v3, in one pass, with bounded memory.
 *
 * Metadata and tensor descriptions first, then the data of each tensor in
 * order. The file appears under its name only when pr_gguf_finish() succeeds
 * (written beside it, synced, renamed); a name that is taken by anything but a
 * regular file is refused (PR_ERR_ARG); disk space is checked before the first
 * byte. Not thread-safe.
 */
#ifndef PRECIS_STORE_GGUF_WRITE_H
#define PRECIS_STORE_GGUF_WRITE_H

#include "base/status.h"
#include "tensor/dtype.h"

typedef struct pr_gguf_writer pr_gguf_writer;

pr_status pr_gguf_create(const char *path, uint32_t alignment, pr_gguf_writer **out, pr_err *err);
void pr_gguf_abort(pr_gguf_writer *w); /* closes and deletes what was written; NULL allowed */

/* Description: before the first pr_gguf_data(). Errors are kept and returned by the next call that has err. */
void pr_gguf_meta_u32(pr_gguf_writer *w, const char *key, uint32_t v);
void pr_gguf_meta_f32(pr_gguf_writer *w, const char *key, float v);
void pr_gguf_meta_bool(pr_gguf_writer *w, const char *key, bool v);
void pr_gguf_meta_str(pr_gguf_writer *w, const char *key, const char *v);
void pr_gguf_meta_strs(pr_gguf_writer *w, const char *key, const char *const *v, size_t n);
void pr_gguf_meta_f32s(pr_gguf_writer *w, const char *key, const float *v, size_t n);
void pr_gguf_meta_i32s(pr_gguf_writer *w, const char *key, const int32_t *v, size_t n);
void pr_gguf_tensor(pr_gguf_writer *w, const char *name, pr_dtype dtype, uint32_t n_dims, const uint64_t *dims);

/* Data of the tensors in the order they were described, in any pieces. */
pr_status pr_gguf_data(pr_gguf_writer *w, const void *data, size_t len, pr_err *err);
pr_status pr_gguf_finish(pr_gguf_writer *w, pr_err *err); /* frees w also on failure */

#endif
