/*
 * Interactive chat.
 */
#ifndef PRECIS_CMD_CHAT_H
#define PRECIS_CMD_CHAT_H

#include "cmd/talk.h"

/* Talk with the person at the terminal until they leave; the answer is printed as it comes. Returns the exit code. */
int pr__chat(pr_engine *engine, const pr_talk_opts *opts, bool show_stats);

/* "prompt 31 tokens in 0.12 s (258/s), answer 64 tokens at 35.2/s, first after 0.13 s" into buf. Returns buf. */
char *pr__chat_stats(const pr_generate_stats *stats, char *buf, size_t len);

#endif
