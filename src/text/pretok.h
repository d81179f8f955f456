/*
 * Pre-tokenizer: cuts text into the words that byte-level BPE works on.
 *
 * A pre-tokenizer is a list of steps, each a regular expression. A step cuts
 * every piece that the step before it left, into its matches and the gaps
 * between them; each piece is a text of its own, so look-arounds end at its
 * edges. Expressions are written as tokenizer.json has them, in the dialect of
 * Onigmo, and turned into PCRE2's.
 *
 * A built pre-tokenizer is immutable and thread-safe; a pr_pretok_run is the
 * scratch of one thread.
 */
#ifndef PRECIS_TEXT_PRETOK_H
#define PRECIS_TEXT_PRETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "precis.h"

/* What a step does where its pattern matches. */
typedef enum pr__cut {
    PR__MATCH,        /* the match is a piece */
    PR__THREES,       /* the match is digits: pieces of three, counted from the right */
    PR__BEFORE_THREES /* cut only before each three: the digits left over stay with what precedes them */
} pr__cut;

typedef struct pr__pre_step {
    const char *pattern;
    pr__cut cut;
} pr__pre_step;

/* What one name of tokenizer.ggml.pre means. */
typedef struct pr__pre_entry {
    const char *name;
    const pr__pre_step *steps; /* ends with a NULL pattern */
    bool ignore_merges;
    bool add_bos;
} pr__pre_entry;

/* pretok_table.c. name may be NULL ("default"); NULL result: unknown. */
const pr__pre_entry *pr__pre_find(const char *name);
const pr__pre_entry *pr__pre_all(size_t *n);

typedef struct pr_pretok pr_pretok;
typedef struct pr_pretok_run pr_pretok_run;

/* A compiled pattern: counted, immutable, thread-safe. What it allocates is of `tag` (PR_TAG_VOCAB or PR_TAG_CACHE), but for
 * the code that the JIT makes, which PCRE2 maps itself. PR_ERR_UNSUPPORTED names the pattern that PCRE2 (or the translation)
 * refuses. */
typedef struct pr__pattern pr__pattern;
pr_status pr__pattern_compile(const char *pattern, pr_tag tag, pr__pattern **out, pr_err *err);
pr__pattern *pr__pattern_ref(pr__pattern *p);
void pr__pattern_unref(pr__pattern *p);         /* NULL allowed */
size_t pr__pattern_bytes(const pr__pattern *p); /* the JIT's code included */

/* Patterns come from texts, or are compiled for this one (NULL). Errors as above. */
pr_status pr__pretok_build(const pr__pre_step *steps, size_t n_steps, pr_texts *texts, pr_pretok **out, pr_err *err);
void pr__pretok_free(pr_pretok *p);

pr_status pr__pretok_run_open(const pr_pretok *p, pr_pretok_run **out, pr_err *err);
void pr__pretok_run_close(pr_pretok_run *run);

/* Called for every piece in order; they join up to the whole text. A status other than PR_OK ends the split. */
typedef pr_status (*pr__piece_fn)(void *arg, const char *piece, size_t len, pr_err *err);

/* Bytes that are not UTF-8 are pieces of their own, one each, and split the text around them. */
pr_status pr__pretok_split(pr_pretok_run *run, const char *text, size_t len, pr__piece_fn fn, void *arg, pr_err *err);

/* Onigmo's dialect to PCRE2's, into a string that the caller pr_free()s. */
pr_status pr__pattern_translate(const char *pattern, char **out, pr_err *err);

#endif
