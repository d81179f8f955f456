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

#include "store/model_file.h"

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
/* n zeros of type PR_I32 or PR_F32 whose values are not known yet: pr_gguf_patch() brings them. */
void pr_gguf_meta_later(pr_gguf_writer *w, const char *key, pr_dtype dtype, size_t n);
/* A value of another model, of any kind, as it stands there. general.alignment is left out: the writer has its own. */
void pr_gguf_meta_copy(pr_gguf_writer *w, const pr_model_file *from, const char *key);
void pr_gguf_tensor(pr_gguf_writer *w, const char *name, pr_dtype dtype, uint32_t n_dims, const uint64_t *dims);

/* Data of the tensors in the order they were described, in any pieces. */
pr_status pr_gguf_data(pr_gguf_writer *w, const void *data, size_t len, pr_err *err);
/* The same for tensors whose data is not ready in order, by number as described, any piece at its place and none twice:
 * for all tensors that pr_gguf_data() has not come to; after the first call there is no going back to that. */
pr_status pr_gguf_data_at(pr_gguf_writer *w, size_t tensor, uint64_t offset, const void *data, size_t len, pr_err *err);
/* Replace all elements of an array described with pr_gguf_meta_later(); at any time before the end, any number of times. */
pr_status pr_gguf_patch(pr_gguf_writer *w, const char *key, const void *data, size_t len, pr_err *err);
/* Once all data is there: from here on the unfinished file can be opened and read, as pr_gguf_part_path(). */
pr_status pr_gguf_flush(pr_gguf_writer *w, pr_err *err);
const char *pr_gguf_part_path(const pr_gguf_writer *w);   /* lives as long as w */
pr_status pr_gguf_finish(pr_gguf_writer *w, pr_err *err); /* frees w also on failure */

/* Keep an error of the caller's, met while describing, as if it were the writer's own. */
void pr_gguf_keep(pr_gguf_writer *w, const pr_err *err);

#endif
