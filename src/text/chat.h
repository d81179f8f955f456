/*
 * Chat templates: messages to prompt text.
 *
 * Model files carry templates as Jinja programs. precis does not run programs
 * from model files: it recognises the template by its marks and renders the
 * same text with a built-in writer, checked against the real Jinja output.
 * Pure functions; thread-safe.
 */
#ifndef PRECIS_TEXT_CHAT_H
#define PRECIS_TEXT_CHAT_H

#include "base/status.h"

typedef struct pr_chat_template pr_chat_template;

/* By name ("chatml", "smollm2", "llama2", "llama3", "mistral", "zephyr", "tinyllama", ...); NULL when unknown. */
const pr_chat_template *pr_chat_by_name(const char *name);
/* By the Jinja source in the model file (may be NULL); NULL when it is none of ours. */
const pr_chat_template *pr_chat_detect(const char *jinja);
const char *pr_chat_name(const pr_chat_template *t);
/* "chatml, llama2, ...": for error messages and --help. */
const char *pr_chat_names(void);

/* bos and eos are the vocabulary's texts for them ("" if none). *out is pr_free()d by the caller.
 * PR_ERR_UNSUPPORTED when the template has no place for a role, PR_ERR_ARG for an order it cannot express. */
pr_status pr_chat_render(const pr_chat_template *t, const pr_message *messages, size_t n, bool add_generation,
                         const char *bos, const char *eos, char **out, pr_err *err);

#endif
