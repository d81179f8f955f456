/*
 * Texts of models that were made ready once: how the text floor asks for them. Opening, clearing and counting: pr_texts_* in
 * precis.h.
 *
 * Threads: everything from any thread. A text that two ask for at once is compiled once; whoever asks for another meanwhile
 * waits, which is for microseconds.
 */
#ifndef PRECIS_TEXT_TEXTS_H
#define PRECIS_TEXT_TEXTS_H

#include "precis.h"
#include "text/chat.h"
#include "text/pretok.h"

/* The compiled pattern, with a reference for the caller. texts may be NULL: compiled for this caller. Errors are those of
 * pr__pattern_compile(); that it cannot be kept is none. */
pr_status pr__texts_pattern(pr_texts *texts, const char *pattern, pr__pattern **out, pr_err *err);

/* pr_chat_detect(), looked up. texts and jinja may be NULL. */
const pr_chat_template *pr__texts_template(pr_texts *texts, const char *jinja);

#endif
