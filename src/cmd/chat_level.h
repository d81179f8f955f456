/*
 * Moving an elastic model within a chat, and telling what became of it.
 */
#ifndef PRECIS_CMD_CHAT_LEVEL_H
#define PRECIS_CMD_CHAT_LEVEL_H

#include "base/status.h"

/* A raise that goes on while the person types. Zero-initialized: none. */
typedef struct pr_chat_move {
    bool under_way;
    size_t from_bytes;
} pr_chat_move;

/* /level TEXT or, by_budget, /budget TEXT: begin the move and say what it changes. */
void pr__chat_move(pr_chat_move *move, pr_engine *engine, const char *text, bool by_budget);

/* Before a prompt: say when the move that was under way has been finished, or has failed. */
void pr__chat_move_report(pr_chat_move *move, pr_engine *engine);

/* The weights in numbers: level, bytes by plane, moves; of an ordinary model a line. */
void pr__chat_weights(const pr_engine *engine, const pr_generate_stats *stats);

#endif
